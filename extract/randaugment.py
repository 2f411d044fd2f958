"""RandAugment as TAMT trains with: 4 of 15 operations at magnitude 7 (source: tamt card, "Frames and augmentation").

Operations work on uint8 planes [T, 3, H, W] of any size, every frame by its own statistics where an operation looks at the picture
(auto-contrast, equalise, contrast). What the card leaves open is said at the operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor
from torch.nn.functional import grid_sample

FILL = 128
"""Grey value of the pixels that a geometric operation brings in from outside."""


class Applied(NamedTuple):
    """One operation to do: its name, magnitude in 0..10, and the sign (1 or -1) that operations with a direction take."""

    name: str
    magnitude: float
    sign: int


def affine(planes: Tensor, matrix: tuple[float, float, float, float, float, float]) -> Tensor:
    """uint8 [T, 3, H, W] of which pixel (x, y) is read at (a x + b y + c, d x + e y + f), coordinates of pixel centres being x + 1/2.

    Bicubic (PyTorch's kernel, a = -0.75; PIL's, a = -1, is sharper), borders repeated under the kernel; places outside the frame
    become `FILL`. The matrix is (a, b, c, d, e, f).
    """
    a, b, c, d, e, f = matrix
    count, _, height, width = planes.shape
    x = torch.arange(width, dtype=torch.float64, device=planes.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=planes.device)[:, None] + 0.5
    column, row = a * x + b * y + c, d * x + e * y + f
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    grid = torch.stack([2 * column / width - 1, 2 * row / height - 1], -1).float()[None]
    stacked = planes.reshape(
        1, -1, height, width
    ).float()  # the frames as channels, so that the weights are computed once
    read = grid_sample(stacked, grid, mode="bicubic", padding_mode="border", align_corners=False)
    kept = torch.where(inside, read.round().clamp(0, 255), float(FILL))
    return kept.to(torch.uint8).reshape(count, -1, height, width)


def _rotate(planes: Tensor, degrees: float) -> Tensor:
    """Turned counter-clockwise about the centre of the frame."""
    height, width = planes.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return affine(planes, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def _solarise(planes: Tensor, threshold: int) -> Tensor:
    """Values from `threshold` (0..256) up inverted."""
    return torch.where(planes.to(torch.int16) >= threshold, 255 - planes, planes)


def _solarise_add(planes: Tensor, add: int) -> Tensor:
    """`add` more on the dark half (values below 128; the card gives no threshold), up to 255."""
    lighter = (planes.to(torch.int16) + add).clamp(max=255).to(torch.uint8)
    return torch.where(planes < 128, lighter, planes)


def _enhanced(adjust: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float, int], Tensor]:
    """An adjustment by 1 +- 0.9 m / 10."""
    return lambda planes, m, sign: adjust(planes, 1 + sign * 0.9 * m / 10)


# Shears keep the upper left corner in place (the card doesn't say what stays).
OPS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "auto-contrast": lambda planes, m, sign: tv.autocontrast(planes),
    "equalise": lambda planes, m, sign: tv.equalize(planes),
    "invert": lambda planes, m, sign: tv.invert(planes),
    "rotate": lambda planes, m, sign: _rotate(planes, sign * 30 * m / 10),
    "posterise": lambda planes, m, sign: tv.posterize(planes, 4 - int(4 * m / 10)),
    "solarise": lambda planes, m, sign: _solarise(planes, 256 - int(25.6 * m)),
    "solarise-add": lambda planes, m, sign: _solarise_add(planes, int(11 * m)),
    "colour": _enhanced(tv.adjust_saturation),
    "contrast": _enhanced(tv.adjust_contrast),
    "brightness": _enhanced(tv.adjust_brightness),
    "sharpness": _enhanced(tv.adjust_sharpness),
    "shear-x": lambda planes, m, sign: affine(planes, (1, sign * 0.3 * m / 10, 0, 0, 1, 0)),
    "shear-y": lambda planes, m, sign: affine(planes, (1, 0, 0, sign * 0.3 * m / 10, 1, 0)),
    "translate-x": lambda planes, m, sign: affine(planes, (1, 0, sign * 0.45 * m / 10 * planes.shape[-1], 0, 1, 0)),
    "translate-y": lambda planes, m, sign: affine(planes, (1, 0, 0, 0, 1, sign * 0.45 * m / 10 * planes.shape[-2])),
}
"""name -> operation(planes uint8 [T, 3, H, W], magnitude, sign): uint8 of the same shape."""


def draw(rng: np.random.Generator) -> list[Applied]:
    """Which operations one clip gets, in order: each of 4 out of 15 (with replacement) is applied with probability 0.5.

    Draws: the 4 operations; their 4 coins; their magnitudes, normal(7, 0.5) clipped to 0..10; their signs.
    """
    names = [tuple(OPS)[i] for i in rng.integers(0, len(OPS), 4)]
    applied = rng.random(4) < 0.5
    magnitudes = rng.normal(7, 0.5, 4).clip(0, 10)
    signs = np.where(rng.random(4) < 0.5, 1, -1)
    return [
        Applied(name, float(magnitude), int(sign))
        for name, used, magnitude, sign in zip(names, applied, magnitudes, signs, strict=True)
        if used
    ]


def rand_augment(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """uint8 [T, H, W, 3] after the operations of `draw`, all frames alike; uint8 of the same shape."""
    planes = frames.permute(0, 3, 1, 2)
    for name, magnitude, sign in draw(rng):
        planes = OPS[name](planes, magnitude, sign)
    return planes.permute(0, 2, 3, 1)
