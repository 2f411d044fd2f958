"""The geometry of the evaluation transforms: to what size a frame is resized, and which square of it is kept. Plain integers, no torch."""

from __future__ import annotations

from collections.abc import Callable

from fsar_cache.errors import unknown

Size = tuple[int, int]
"""(height, width) in pixels."""


def enlarged(size: int) -> int:
    """The side before the crop in the published 256-to-224 rule, for other sizes in proportion: 256 for 224."""
    return size * 256 // 224


def with_short_side(height: int, width: int, short: int) -> Size:
    """The size whose shorter side is `short` and whose other side keeps the proportion, cut to an integer."""
    least = min(height, width)
    return short * height // least, short * width // least


RESIZED: dict[str, Callable[[int, int, int], Size]] = {
    "gslta-eval": lambda height, width, size: with_short_side(height, width, enlarged(size)),
    "squash": lambda height, width, size: (size, size),
    "clip-fsar-eval": lambda height, width, size: (enlarged(size), enlarged(size)),
    "centre-crop": lambda height, width, size: with_short_side(height, width, size),
    "clip-eval": lambda height, width, size: with_short_side(height, width, size),
}
"""Evaluation transform -> (height, width, size) -> the size before the crop. All of them keep the central square of side `size`."""


def resized(name: str, height: int, width: int, size: int) -> Size:
    """The size to which the transform `name` brings a frame of height x width pixels before it crops a square of `size`.

    UsageError where `name` is no evaluation transform.
    """
    if name not in RESIZED:
        raise unknown("evaluation transform", name, RESIZED)
    return RESIZED[name](height, width, size)


def box(name: str, height: int, width: int, size: int) -> tuple[int, int]:
    """(top, left) of the square of side `size` that the transform `name` keeps of the resized frame.

    height, width: of the frame before it is resized. Offsets are rounded, halves to even. UsageError as `resized`.
    """
    top, left = (round((side - size) / 2) for side in resized(name, height, width, size))
    return top, left
