"""The training views of the published methods: named random transforms, beside the evaluation views of extract.transforms.

Each policy's docstring gives its draws in order; all frames of a clip share them. With flip=False the coin of the mirroring is still
tossed, so the view is the same one, unmirrored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from extract.colour import jitter
from extract.geometry import enlarged
from extract.randaugment import rand_augment
from extract.scaling import SCALINGS
from extract.transforms import TRANSFORMS, check, resize, short_side
from fsar_cache.errors import UsageError


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, frames: Tensor) -> Tensor:
        """The part of [T, H, W, 3] inside the box, as a view: writing into it writes into the frames."""
        return frames[:, self.top : self.top + self.height, self.left : self.left + self.width]


def _checked(name: str, frames: Tensor, size: int, rng: np.random.Generator | None) -> np.random.Generator:
    check(name, frames, size)
    if rng is None:
        raise UsageError(f"transform {name!r} is random and needs a generator", hint="evaluate with gslta-eval")
    return rng


class Bounds(NamedTuple):
    """What random boxes may be: area as a fraction of the frame's, width / height, and how often to try."""

    area: tuple[float, float]
    aspect: tuple[float, float]
    tries: int


def random_box(rng: np.random.Generator, height: int, width: int, bounds: Bounds) -> Box | None:
    """A random box inside height x width pixels; None where no try gives one that fits and holds a pixel.

    Draws per try: area, uniform; log of width / height, uniform between the logs of the bounds. For the try that fits, then: top, left,
    uniform over all that leave the box inside.
    """
    for _ in range(bounds.tries):
        pixels = rng.uniform(*bounds.area) * height * width
        ratio = math.exp(rng.uniform(math.log(bounds.aspect[0]), math.log(bounds.aspect[1])))
        high, wide = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < high <= height and 0 < wide <= width:
            top = int(rng.integers(0, height - high, endpoint=True))
            return Box(top, int(rng.integers(0, width - wide, endpoint=True)), high, wide)
    return None


def central_box(height: int, width: int, aspect: tuple[float, float]) -> Box:
    """The largest central box of height x width pixels whose width / height lies in `aspect`, at least one pixel."""
    high = min(height, max(1, round(width / aspect[0])))
    wide = min(width, max(1, round(height * aspect[1])))
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def _mirrored(frames: Tensor, rng: np.random.Generator, flip: bool) -> Tensor:
    """Left and right exchanged with probability 0.5; the coin is tossed whether or not `flip` allows it."""
    heads = rng.random() < 0.5
    return frames.flip(2) if heads and flip else frames


@TRANSFORMS.add("gslta-train")
def gslta_train(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The training view of GSLTA, TRX, TA2N and CLIP-MDMF: resized like gslta-eval, one random square, one flip.

    Draws: top, left, uniform over all squares; flip (p 0.5). The published code mirrors on every dataset but for TA2N, which
    doesn't on SSv2.
    """
    rng = _checked("gslta-train", frames, size, rng)
    frames = short_side(frames, enlarged(size))
    top, left = (int(rng.integers(0, side - size, endpoint=True)) for side in frames.shape[1:3])
    return _mirrored(Box(top, left, size, size).of(frames), rng, flip).contiguous()


def _clip_fsar_square(frames: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A random square of the frames squashed as by clip-fsar-eval; the last row and column are never in it, as published."""
    side = enlarged(size)
    top, left = (int(rng.integers(0, max(side - size, 1))) for _ in range(2))
    return Box(top, left, size, size).of(resize(frames, side, side, antialias=False))


@TRANSFORMS.add("clip-fsar-train")
def clip_fsar_train(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The CLIP-FSAR training view (on Kinetics: of supports): squashed like clip-fsar-eval, one random square, never mirrored.

    Draws: top, left, uniform in 0..31 for 224 pixels (0..room - 1 in general).
    """
    return _clip_fsar_square(frames, size, _checked("clip-fsar-train", frames, size, rng)).contiguous()


@TRANSFORMS.add("clip-fsar-train-query")
def clip_fsar_train_query(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The CLIP-FSAR training view of queries on Kinetics: like clip-fsar-train, then a flip and colour jitter.

    Draws: top, left; flip (p 0.5); those of extract.colour.jitter. The card mirrors before the crop, which shifts mirrored crops by one
    column; and it doesn't say which of crop and jitter comes first: here the contrast is about the mean of the crop.
    """
    rng = _checked("clip-fsar-train-query", frames, size, rng)
    square = _clip_fsar_square(frames, size, rng)
    return jitter(_mirrored(square, rng, flip), rng).contiguous()


TAMT_CROP = Bounds((0.08, 1.0), (0.75, 1.3333), 10)
TAMT_ERASED = Bounds((0.02, 1 / 3), (0.3, 1 / 0.3), 100)


@TRANSFORMS.add("tamt-train")
def tamt_train(frames: Tensor, size: int, rng: np.random.Generator | None, flip: bool = True) -> Tensor:
    """The TAMT view (published for training and testing alike): RandAugment, random resized crop, flip, random erasing.

    Draws: those of extract.randaugment.rand_augment; those of the crop (`random_box`, area 0.08..1, aspect 0.75..1.3333, 10 tries, else
    the central box of the nearest aspect); flip (p 0.5); those of `erased`. The crop is resized bilinearly without antialiasing.
    """
    rng = _checked("tamt-train", frames, size, rng)
    frames = rand_augment(frames, rng)
    height, width = frames.shape[1:3]
    box = random_box(rng, height, width, TAMT_CROP) or central_box(height, width, TAMT_CROP.aspect)
    square = resize(box.of(frames), size, size, antialias=False)
    return erased(_mirrored(square, rng, flip), rng)


def erased(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """With probability 0.25 one box of uint8 [T, H, W, 3], the same in all frames, filled with noise; a contiguous copy.

    The published code fills with standard normal noise after the normalisation with ImageNet's mean and deviation. On pixels that is
    255 (mean + deviation noise), here rounded and clipped to 0..255 (about 3 values in 100 are clipped).
    Draws: coin; `random_box` (area 0.02..1/3, aspect 0.3..1/0.3, 100 tries; none fits: nothing is erased); noise [T, h, w, 3].
    """
    frames = frames.clone(memory_format=torch.contiguous_format)
    height, width = frames.shape[1:3]
    box = random_box(rng, height, width, TAMT_ERASED) if rng.random() < 0.25 else None
    if box is not None:
        scaling, hole = SCALINGS["imagenet"], box.of(frames)
        noise = np.asarray(scaling.mean) + np.asarray(scaling.std) * rng.standard_normal(hole.shape)
        hole.copy_(torch.from_numpy((255 * noise).round().clip(0, 255).astype(np.uint8)))
    return frames
