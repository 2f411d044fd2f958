"""Optical-flow fields as data: [..., 2, H, W], u (columns, positive to the right) then v (rows, positive downwards), in pixels of the grid.

A point x of the first frame is found at x + flow(x) in the second. Stored fields are int16 in steps of 1/64 pixel.
Source: the conventions and the storage of the optical-flow card (zero stays exactly zero; error at most 1/128 px).
"""

from __future__ import annotations

import torch
from torch import Tensor

from extract.geometry import box, resized

STEPS = 64
"""Steps per pixel in a stored field."""
MOST = 2**15 - 1
"""The largest stored value; the smallest is its negative, so that a mirrored field is stored exactly too."""


def stored(field: Tensor) -> Tensor:
    """Float [..., 2, H, W] in pixels to int16 in 1/64 px: to the nearest step (halves to even), saturating at +-511.98 px.

    ValueError where a value is not finite.
    """
    if not torch.isfinite(field).all():
        raise ValueError("the flow field has values that are infinite or not a number")
    return (field * STEPS).round().clamp(-MOST, MOST).to(torch.int16)


def pixels(stored: Tensor) -> Tensor:
    """int16 [..., 2, H, W] as it is stored to float32 in pixels."""
    return stored.to(torch.float32) / STEPS


def flip(field: Tensor) -> Tensor:
    """The field [..., 2, H, W] (stored or in pixels) of horizontally mirrored frames: columns mirrored and u negated."""
    mirrored = field.flip(-1)
    return torch.stack([-mirrored[..., 0, :, :], mirrored[..., 1, :, :]], dim=-3)


def resize(field: Tensor, height: int, width: int) -> Tensor:
    """Float [..., 2, H, W] on a grid of height x width: u and v scaled with it; a side that shrinks is averaged by area, one that grows is
    interpolated linearly (half-pixel centres). Unchanged where the size fits.
    """
    old_height, old_width = field.shape[-2:]
    if height != old_height:
        field = _weights(old_height, height, field) @ field
    if width != old_width:
        field = field @ _weights(old_width, width, field).T
    if (height, width) == (old_height, old_width):
        return field
    factors = field.new_tensor([width / old_width, height / old_height])
    return field * factors[:, None, None]


def _weights(have: int, want: int, like: Tensor) -> Tensor:
    """What each of `have` samples along a side contributes to each of `want`: [want, have], rows sum to 1, dtype and device of `like`."""
    places = torch.arange(want, dtype=torch.float64)
    samples = torch.arange(have, dtype=torch.float64)
    share = have / want
    if want < have:
        begin, end = places[:, None] * share, (places[:, None] + 1) * share
        weights = (torch.minimum(end, samples + 1) - torch.maximum(begin, samples)).clamp(min=0) / share
    else:
        centres = ((places + 0.5) * share - 0.5).clamp(0, have - 1)
        weights = (1 - (centres[:, None] - samples).abs()).clamp(min=0)
    return weights.to(like)


def square(field: Tensor, height: int, width: int, transform: str, size: int) -> Tensor:
    """The part of a clip's field that the evaluation transform keeps of its frames: float [..., 2, h, w] to [..., 2, size, size].

    The field covers frames of height x width pixels, on a grid of any size.
    """
    made = resize(field, *resized(transform, height, width, size))
    top, left = box(transform, height, width, size)
    return made[..., top : top + size, left : left + size]
