"""Clips decoded when they are needed, through the same processes, rules and transforms as an extraction: the source without a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extract.clip import task_of
from extract.pool import DecodePool, Failure
from extract.transforms import TRANSFORMS
from fsar_cache.draws import generator
from fsar_cache.errors import MissingError
from splits.types import Video


def live_clips(
    pool: DecodePool,
    root: Path,
    videos: Sequence[Video],
    *,
    sampling: str,
    frames: int,
    transform: str,
    size: int,
    keys: Sequence[tuple[Any, ...]] | None = None,
    device: torch.device | str = "cpu",
    decoder: str = "auto",
    flip: bool = True,
) -> Tensor:
    """Decode and transform `videos`, in their order: uint8 [n, frames, size, size, 3] on `device`.

    keys: one tuple of plain data per clip that its random frames, crop and flip depend on, and nothing else; None for the
    deterministic rules. The transform of a key draws from generator("transform", *key), and mirrors nothing without `flip`. Raises
    MissingError naming a clip that can't be decoded: an episode has no room for it, so bad clips are to be excluded beforehand.
    """
    apply = TRANSFORMS.get(transform)
    made = torch.empty(len(videos), frames, size, size, 3, dtype=torch.uint8, device=device)
    tasks = (
        task_of(root, video, sampling, frames, decoder=decoder, key=None if keys is None else keys[i])
        for i, video in enumerate(videos)
    )
    for i, clip in pool.map(tasks):
        if isinstance(clip, Failure):
            raise MissingError(
                f"clip {videos[i].id!r} can't be decoded: {clip.reason}",
                hint="an extraction of the dataset finds all such clips; leave them out of the dataset",
            )
        rng = None if keys is None else generator("transform", *keys[i])
        made[i] = apply(torch.from_numpy(clip.frames).to(device), size, rng, flip=flip)
    return made
