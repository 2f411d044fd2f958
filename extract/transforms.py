"""From decoded frames to the square the backbone sees: named geometric transforms on uint8 tensors, one draw per clip.

Here are the resizes and the evaluation views; the random training views are in extract.augment. A resize runs on the tensor's device: in
integer arithmetic on CPU, in float32, rounded, elsewhere. The two agree, and agree with PIL where it has the same resize, within one grey
level (bicubic: two). Scaling of values is not here but the backbone's first stage.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from extract.geometry import box, resized, with_short_side
from fsar_cache.errors import UsageError
from fsar_cache.registry import Registry


class Transform(Protocol):
    """transform(frames uint8 [T, H, W, 3], size, rng, flip): uint8 [T, size, size, 3], contiguous, on the same device.

    Transforms that draw insist on a generator, the others refuse it; every draw is from it, one for the whole clip. flip=False forbids
    mirroring and changes no other draw; transforms that never mirror ignore it.
    """

    def __call__(self, frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
        """See the class."""
        ...


TRANSFORMS: Registry[Transform] = Registry("transform", (__name__, "extract.augment"))


def resize(
    frames: Tensor,
    height: int,
    width: int,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
    antialias: bool = True,
) -> Tensor:
    """Uint8 [T, H, W, 3] to uint8 [T, height, width, 3], half-pixel centres; unchanged where the size fits.

    With antialiasing it is PIL's resize of that name, without it only the nearest 2 (bicubic: 4) pixels per axis are read.
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    planes = frames.permute(0, 3, 1, 2)
    if frames.device.type == "cpu":
        return interpolate(planes, (height, width), mode=mode, antialias=antialias, align_corners=False).permute(
            0, 2, 3, 1
        )
    targets = [(height, width)]
    if mode == "bicubic":  # columns first, rounded and clipped in between, as on the CPU: overshoots are many levels
        targets.insert(0, (planes.shape[2], width))
    for target in targets:
        planes = interpolate(planes.float(), target, mode=mode, antialias=antialias, align_corners=False)
        planes = planes.round().clamp(0, 255)
    return planes.to(torch.uint8).permute(0, 2, 3, 1)


def short_side(frames: Tensor, size: int, mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Resize uint8 [T, H, W, 3] so that the shorter side is `size` and the other keeps the proportion, cut to an integer."""
    height, width = with_short_side(frames.shape[1], frames.shape[2], size)
    return resize(frames, height, width, mode)


def check(name: str, frames: Tensor, size: int) -> None:
    """UsageError unless these are frames and a size that a transform can work on."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UsageError(f"transform {name!r} wants uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if size < 1:
        raise UsageError(f"transform {name!r} wants a size of at least 1 pixel, got {size}")


def _central(
    name: str,
    frames: Tensor,
    size: int,
    rng: np.random.Generator | None,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
    antialias: bool = True,
) -> Tensor:
    """The evaluation view called `name`: resized and cropped as extract.geometry says."""
    check(name, frames, size)
    if rng is not None:
        raise UsageError(f"transform {name!r} is deterministic and takes no generator")
    height, width = frames.shape[1:3]
    frames = resize(frames, *resized(name, height, width, size), mode, antialias)
    top, left = box(name, height, width, size)
    return frames[:, top : top + size, left : left + size].contiguous()


@TRANSFORMS.add("gslta-eval")
def gslta_eval(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The test view of GSLTA, TRX, TA2N and CLIP-MDMF: shorter side to 256/224 of `size`, then the central square."""
    return _central("gslta-eval", frames, size, rng)


@TRANSFORMS.add("centre-crop")
def centre_crop(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """Shorter side to `size`, then the central square: the view `center` of the TAMT card."""
    return _central("centre-crop", frames, size, rng)


@TRANSFORMS.add("clip-eval")
def clip_eval(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """CLIP's own preprocessing (clip_fsar card): like centre-crop, with a bicubic, antialiased resize."""
    return _central("clip-eval", frames, size, rng, "bicubic")


@TRANSFORMS.add("clip-fsar-eval")
def clip_fsar_eval(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The CLIP-FSAR test view: both sides to 256/224 of `size`, bilinear without antialiasing, then the central square.

    The published code resizes floating-point values; here the resized pixels are rounded to uint8.
    """
    return _central("clip-fsar-eval", frames, size, rng, antialias=False)


@TRANSFORMS.add("squash")
def squash(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """Both sides to `size`, whatever the proportion."""
    return _central("squash", frames, size, rng)
