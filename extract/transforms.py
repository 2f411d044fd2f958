"""From decoded frames to the square the backbone sees: named geometric transforms on uint8 tensors, one draw per clip.

One pinned resize: bilinear with antialiasing, as PIL's BILINEAR. It runs on the tensor's device: in integer arithmetic on CPU, in float32,
rounded, elsewhere; both are within one grey level of PIL. Scaling of values is not here but the backbone's first stage.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fsar_cache.errors import UsageError
from fsar_cache.registry import Registry


class Transform(Protocol):
    """transform(frames uint8 [T, H, W, 3], size, rng, flip): uint8 [T, size, size, 3], contiguous, on the same device.

    Transforms that draw insist on a generator, the others refuse it. flip=False forbids mirroring and changes no other draw;
    transforms that never mirror ignore it.
    """

    def __call__(self, frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
        """See the class."""
        ...


TRANSFORMS: Registry[Transform] = Registry("transform", (__name__,))


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, antialiased: uint8 [T, H, W, 3] to uint8 [T, height, width, 3]; unchanged where the size fits."""
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    planes = frames.permute(0, 3, 1, 2)
    if frames.device.type != "cpu":
        planes = planes.float()
    made = interpolate(planes, (height, width), mode="bilinear", antialias=True, align_corners=False)
    if made.is_floating_point():
        made = made.round().clamp(0, 255).to(torch.uint8)
    return made.permute(0, 2, 3, 1)


def short_side(frames: Tensor, size: int) -> Tensor:
    """Resize uint8 [T, H, W, 3] so that the shorter side is `size` and the other keeps the proportion, cut to an integer."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    return resize(frames, size * height // short, size * width // short)


def _check(name: str, frames: Tensor, size: int, rng: np.random.Generator | None, draws: bool) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UsageError(f"transform {name!r} wants uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if size < 1:
        raise UsageError(f"transform {name!r} wants a size of at least 1 pixel, got {size}")
    if draws and rng is None:
        raise UsageError(f"transform {name!r} is random and needs a generator", hint="evaluate with gslta-eval")
    if not draws and rng is not None:
        raise UsageError(f"transform {name!r} is deterministic and takes no generator")


@TRANSFORMS.add("gslta-eval")
def gslta_eval(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The GSLTA test view: shorter side to 256/224 of `size`, then the central square (offset rounded, halves to even)."""
    _check("gslta-eval", frames, size, rng, draws=False)
    frames = short_side(frames, size * 256 // 224)
    top, left = (round((side - size) / 2) for side in frames.shape[1:3])
    return frames[:, top : top + size, left : left + size].contiguous()


@TRANSFORMS.add("gslta-train")
def gslta_train(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The GSLTA training view: resized like the test view, then one random square and one flip (p 0.5) for the whole clip."""
    _check("gslta-train", frames, size, rng, draws=True)
    assert rng is not None
    frames = short_side(frames, size * 256 // 224)
    top, left = (int(rng.integers(0, side - size, endpoint=True)) for side in frames.shape[1:3])
    frames = frames[:, top : top + size, left : left + size]
    mirrored = rng.random() < 0.5
    return (frames.flip(2) if mirrored and flip else frames).contiguous()


@TRANSFORMS.add("squash")
def squash(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """Both sides to `size`, whatever the proportion."""
    _check("squash", frames, size, rng, draws=False)
    return resize(frames, size, size).contiguous()
