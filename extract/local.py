"""The work of one process and one device: decode processes feed compute threads, and finished slices come out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cache.rows import Outcome
from extract.clip import Task
from extract.compute import Batch, Compute, Made, Slice
from extract.pool import DecodePool, cores
from extract.product import Product
from extract.progress import EVERY
from splits.types import Video


@dataclass(frozen=True)
class Clips:
    """Where clips are: the videos of a dataset by id, and the root their paths are relative to."""

    root: Path
    videos: Mapping[str, Video]


def decode_processes(device: torch.device) -> int:
    """How many decode processes suit the device: one per core, but beside an accelerator a few cores are left to feed it."""
    return cores() if device.type == "cpu" else max(1, cores() - max(1, cores() // 8))


def computed(
    slices: Iterable[Slice],
    product: Product,
    clips: Clips,
    device: torch.device,
    batch_clips: int,
    *,
    workers: int = 0,
    time_limit: float = 60.0,
    stop: threading.Event | None = None,
) -> Iterator[Made]:
    """Decode and compute slices of at most `batch_clips` rows each; yields each as it is finished, in any order.

    Slices are taken as decode processes have room, so memory stays bounded. A row whose clip is not among `clips` comes out "absent", one
    that can't be decoded "failed". Once `stop` is set no more clips are decoded and only what is computed by then comes out.
    """
    stop = stop or threading.Event()
    given = taken = 0
    places: dict[int, tuple[Batch, int]] = {}

    with Compute(product, device, batch_clips) as compute:

        def tasks() -> Iterator[Task]:
            nonlocal given
            number = 0
            for part in slices:
                batch = compute.batch(part)
                given += 1
                for place, row in enumerate(part.rows):
                    video = clips.videos.get(row.id)
                    if video is None:
                        compute.put(batch, place, Outcome("absent", "not in the dataset"))
                        continue
                    places[number] = (batch, place)
                    number += 1
                    yield product.task(clips.root, video, row.view)

        with DecodePool(workers or decode_processes(device), time_limit) as pool:
            for index, clip in pool.parcels(tasks(), stop):
                compute.put(*places.pop(index), clip)
                for made in compute.finished():
                    taken += 1
                    yield made
        while taken < given and not stop.is_set():
            for made in compute.finished(EVERY):
                taken += 1
                yield made
    yield from compute.finished()
