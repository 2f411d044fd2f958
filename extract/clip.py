"""One clip to decode, as a task for a decode process, for offline extraction and live training alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.decoders import Decoded, decode
from extract.sampling import SAMPLING
from fsar_cache.draws import generator
from splits.types import Ints, Video

__all__ = ["Decoded", "Task", "decode_clip", "task_of"]


@dataclass(frozen=True, slots=True)
class Task:
    """Which frames of which file: `frames` of them by the rule `sampling`, from the span [start, end) in seconds where given.

    key: plain data that the rule's random draws depend on; None for the deterministic rules.
    """

    path: Path
    sampling: str
    frames: int
    start: float | None = None
    end: float | None = None
    decoder: str = "auto"
    key: tuple[Any, ...] | None = None


def task_of(
    root: Path, video: Video, sampling: str, frames: int, *, decoder: str = "auto", key: tuple[Any, ...] | None = None
) -> Task:
    """The task for a video of a split with this root."""
    return Task(root / video.path, sampling, frames, video.start, video.end, decoder, key)


def decode_clip(task: Task) -> Decoded:
    """Decode the frames that the task's rule chooses: uint8 [frames, H, W, 3]. Raises DecodeError for a bad file."""
    rule = SAMPLING.get(task.sampling)

    def choose(n: int) -> Ints:
        rng = None if task.key is None else generator("frames", *task.key)  # anew: a decoder may ask twice
        return rule(n, task.frames, rng)

    return decode(task.path, choose, decoder=task.decoder, start=task.start, end=task.end)
