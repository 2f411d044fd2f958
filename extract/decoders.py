"""One way to get frames out of a video, whatever decodes it.

Frame i of a file is the i-th frame of a sequential single-threaded decode, as RGB, turned upright as the file's rotation tag says; frame i
of a folder of extracted frames is its i-th image. Which exact decoder is used changes the time it takes and nothing else: one refuses
files on which it is not known to be exact. Only those that decode on a GPU have pixels of their own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.probe import DecodeError, Ints, Seconds, reason
from fsar_cache.errors import MissingError
from fsar_cache.registry import Registry
from splits.frames import means_folder

PIXELS: dict[str, Any] = {"contract": "sequential-rgb24-rotated", "version": 1, "images": "pillow-rgb"}
"""The decoder's part of a fingerprint: which pixels, whatever exact decoder made them. images: those of folders of frames."""
GPU_PIXELS: dict[str, dict[str, Any]] = {
    "nvdec": {"contract": "nvdec-nv12-rgb24", "version": 1},
    "nvdec-torchcodec": {"contract": "nvdec-torchcodec", "version": 1},
}
"""What decoders on a GPU have in place of the above: their stores mix neither with those of exact decoders nor with each other's."""

Choose = Callable[[int], Ints]
"""Which frames of a clip of n frames: n -> int64 indices in [0, n), any order, repeats allowed.

Must depend on n alone (a random rule makes its generator inside): a decoder may ask again when a file turns out to hold another number of
frames than its packets promised.
"""


@dataclass(frozen=True)
class Span:
    """The frames with start <= t < end, t in seconds since the first frame shown; None: open on that side."""

    start: float | None = None
    end: float | None = None

    def positions(self, times: Seconds, name: str) -> Ints:
        """Which of the sorted `times` lie inside, int64; DecodeError (about the file `name`) where none does."""
        low = -np.inf if self.start is None else self.start
        high = np.inf if self.end is None else self.end
        inside = np.flatnonzero((times >= low) & (times < high))
        if not len(inside):
            last = f"{times[-1]:.3f} s" if len(times) else "nowhere"
            raise DecodeError(f"{name}: no frame in the span [{low:g}, {high:g}) s; the last frame is at {last}")
        return inside.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Decoded:
    """The chosen frames of a clip, and what the file turned out to be.

    frames: uint8 [T, H, W, 3], RGB, upright. decoded: frames in the whole file, counted by decoding where its packets don't tell;
    claimed: frames its container claims (-1: it doesn't say); corrupt: damaged frames and refused packets among what was decoded;
    duration: seconds of the file (-1: unknown).
    """

    frames: NDArray[np.uint8]
    decoded: int
    claimed: int
    corrupt: int
    duration: float


Decoder = Callable[[Path, Choose, Span], Decoded]
DECODERS: Registry[Decoder] = Registry(
    "decoder", ("extract.decode_pyav", "extract.decode_decord", "extract.decode_images", "extract.decode_nvdec")
)
"""name -> decode(path, choose, span)."""
AUTO = "pyav"
"""What "auto" means. PyAV with our index is exact on every kind of file tested, sees damage, and holds against what decodes as
exactly (bench/bench_decode.py)."""
ROOM = 1 << 28
"""Bytes that no single picture takes. Where they are to be had, want of memory is a damaged header's fault and not the machine's."""
PACKAGES = {"pyav": "av", "decord": "decord", "nvdec": "PyNvVideoCodec", "nvdec-torchcodec": "torchcodec"}
"""decoder -> the package that it needs."""


def usable(decoder: str) -> str:
    """The registered name that `decoder` stands for ("auto": `AUTO`); UsageError where there is none, MissingError without its needs."""
    name = AUTO if decoder == "auto" else decoder
    DECODERS.get(name)
    if name in GPU_PIXELS:
        importlib.import_module("extract.decode_nvdec").require_gpu()  # it imports this module
    try:
        importlib.import_module(PACKAGES.get(name, "av"))
    except (ImportError, OSError, RuntimeError) as error:
        package = PACKAGES[name]
        raise MissingError(
            f"{package} can't be imported: {reason(error)}", hint=f"pip install {package}, or use --decoder auto"
        ) from error
    return name


def pixels_of(decoder: str) -> dict[str, Any]:
    """The decoder's part of a fingerprint: `PIXELS` for every exact decoder, others for one that decodes on a GPU."""
    name = AUTO if decoder == "auto" else decoder
    DECODERS.get(name)
    return {**PIXELS, **GPU_PIXELS.get(name, {})}


def decode(
    path: Path,
    choose: Choose,
    *,
    decoder: str = "auto",
    start: float | None = None,
    end: float | None = None,
) -> Decoded:
    """Decode the frames `choose` wants of `path`, or of its span start <= t < end (seconds since the first frame).

    path: a video file, or a folder of extracted frames (on disk or in a zip), which "images" decodes whatever `decoder` says.
    Only wanted frames are converted to RGB, and decoding starts at the nearest key frame where the file's time stamps are sound.
    decoder: "auto" (see `AUTO`), "pyav", "decord", "nvdec", or another registered name.
    Raises DecodeError (exit 3) for anything that prevents frames: a missing, empty or foreign file, no video in it, nothing that decodes,
    frames lost to damage, an empty span, a file on which the named decoder isn't exact. MemoryError where the machine has none left.
    """
    name = AUTO if decoder == "auto" else decoder
    if means_folder(Path(path)):
        name = "images"
    decoder_of = DECODERS.get(name)
    try:
        return decoder_of(Path(path), choose, Span(start, end))
    except MemoryError as error:
        if not has_room():
            raise
        raise DecodeError(f"{Path(path).name}: asks for more memory than any video needs: damaged") from error


def has_room() -> bool:
    """Whether this process may still take `ROOM` bytes."""
    try:
        np.empty(ROOM, np.uint8)
    except MemoryError:
        return False
    return True


def chosen(choose: Choose, inside: Ints) -> Ints:
    """Positions in the file of the frames that `choose` wants of a clip that lies at the positions `inside`; int64 [T]."""
    indices = np.asarray(choose(len(inside)))
    if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
        raise ValueError(f"a choice of frames must be a list of integers, got {indices!r}")
    if indices.min() < 0 or indices.max() >= len(inside):
        raise ValueError(f"a choice among {len(inside)} frames goes from {indices.min()} to {indices.max()}")
    picked: Ints = inside[indices]
    return picked
