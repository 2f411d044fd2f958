"""One clip to decode, as a task for a decode process, for offline extraction and live training alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.decoders import Decoded, decode
from extract.sampling import SAMPLING
from fsar_cache.draws import generator
from splits.types import Ints, Video

__all__ = ["Decoded", "Task", "decode_clip", "task_of"]


@dataclass(frozen=True, slots=True)
class Task:
    """Which frames of which file: `frames` of them by the rule `sampling`, from the span [start, end) in seconds where given.

    key: plain data that the rule's random draws depend on; None for the deterministic rules. follow: 0, or how many frames later the
    partner of each chosen frame lies: the clip then has 2 * frames frames, each followed by its partner (see `pairs`).
    """

    path: Path
    sampling: str
    frames: int
    start: float | None = None
    end: float | None = None
    decoder: str = "auto"
    key: tuple[Any, ...] | None = None
    follow: int = 0


def task_of(
    root: Path,
    video: Video,
    sampling: str,
    frames: int,
    *,
    decoder: str = "auto",
    key: tuple[Any, ...] | None = None,
    follow: int = 0,
) -> Task:
    """The task for a video of a split with this root."""
    return Task(root / video.path, sampling, frames, video.start, video.end, decoder, key, follow)


def pairs(chosen: Ints, n: int, follow: int) -> Ints:
    """Each of the chosen frames [T] of a clip of n, followed by the one `follow` later, int64 [2 T].

    A frame too near the end stands back until its partner is the last frame; a clip of one frame is its own partner.
    """
    first = np.minimum(chosen, max(n - 1 - follow, 0))
    return np.stack([first, np.minimum(first + follow, n - 1)], axis=1).reshape(-1)


def decode_clip(task: Task) -> Decoded:
    """Decode the frames that the task's rule chooses: uint8 [frames, H, W, 3]. Raises DecodeError for a bad file."""
    rule = SAMPLING.get(task.sampling)

    def choose(n: int) -> Ints:
        rng = None if task.key is None else generator("frames", *task.key)  # anew: a decoder may ask twice
        chosen = rule(n, task.frames, rng)
        return pairs(chosen, n, task.follow) if task.follow else chosen

    return decode(task.path, choose, decoder=task.decoder, start=task.start, end=task.end)
