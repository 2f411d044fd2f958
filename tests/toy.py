"""Tiny clips and a split over them, for the tests of extraction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from splits.types import Part, Split, Video


def write_clip(path: Path, seed: int, frames: int = 20) -> None:
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 256, (48, 64, 3), np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            picture = background.copy()
            picture[8:24, 2 * i : 2 * i + 16] = rng.integers(0, 256, 3)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))


def write_clips(folder: Path, count: int) -> Path:
    """Clips 00.mp4, 01.mp4, ... in the folder."""
    for i in range(count):
        write_clip(folder / f"{i:02d}.mp4", i)
    return folder


def split_of(folder: Path, numbers: Sequence[int], name: str = "toy") -> Split:
    parts = {}
    for part, chosen in (("train", numbers[: len(numbers) // 2]), ("test", numbers[len(numbers) // 2 :])):
        videos = tuple(Video(f"{part}/{i:02d}", f"c{i % 3}", f"{i:02d}.mp4") for i in chosen)
        parts[part] = Part(part, tuple(sorted({v.label for v in videos})), videos)
    return Split(name, folder, parts)
