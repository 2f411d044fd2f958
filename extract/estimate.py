"""What an extraction will cost, from a few clips tried out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cache.rows import Row
from extract.clip import Decoded
from extract.compute import Compute, Slice
from extract.config import ExtractConfig, batch_clips_of
from extract.pool import DecodePool, Failure, cores
from extract.product import Product
from splits.types import Split


@dataclass(frozen=True)
class Estimate:
    """What a few clips cost: seconds of one core for decoding a clip, seconds of one device thread for its features.

    tried, failed: clips tried and those among them that could not be decoded; seconds: expected for all rows to do.
    """

    tried: int
    failed: int
    decode: float
    compute: float
    seconds: float


def estimate(
    split: Split, config: ExtractConfig, product: Product, device: torch.device, rows: Sequence[Row], tries: int
) -> Estimate:
    """Decode clips spread over `rows` one by one, compute a batch of one of them a few times, and take the least."""
    chosen = [rows[i] for i in sorted(set(np.linspace(0, len(rows) - 1, tries).astype(int).tolist()))]
    videos = {video.id: video for part in split.parts.values() for video in part.videos}
    tasks = [product.task(split.root, videos[row.id], row.view) for row in chosen]
    clips: list[Decoded] = []
    with DecodePool(1, config.time_limit) as pool:
        list(pool.map(tasks[:1]))  # the process has to start first
        begin = time.perf_counter()
        for task in tasks:
            clips += [clip for _, clip in pool.map([task]) if not isinstance(clip, Failure)][:1]
        decode = (time.perf_counter() - begin) / len(tasks)
    compute = _compute_seconds(config, product, device, clips[-1]) if clips else 0.0
    workers = config.workers or cores()
    shared = (decode + compute) / cores() if device.type == "cpu" else compute
    each = max(decode / workers, shared)
    return Estimate(len(chosen), len(chosen) - len(clips), decode, compute, each * len(rows))


def _compute_seconds(config: ExtractConfig, product: Product, device: torch.device, clip: Decoded) -> float:
    """Seconds per clip of one full batch on one compute thread: the least of a few, the first of which warms up."""
    count = batch_clips_of(config, device)
    rows = [Row(f"clip {i}", "", "") for i in range(count)]
    least = float("inf")
    with Compute(product, device, count, threads=1) as compute:
        for _ in range(4):
            begin = time.perf_counter()
            batch = compute.batch(Slice(0, 0, rows))
            for place in range(count):
                compute.put(batch, place, clip)
            while not list(compute.finished(wait=1.0)):
                pass
            least = min(least, (time.perf_counter() - begin) / count)
    return least
