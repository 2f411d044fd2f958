"""What an extraction would do, without doing it: clips, bytes, missing files, and (from a few clips tried out) the time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache.folder import HEADER
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.store import open_store
from extract.backbone import Backbone
from extract.clip import Decoded, task_of
from extract.compute import Compute
from extract.config import ExtractConfig, backbone_of, batch_clips_of, device_of, spec_of, store_path
from extract.pool import DecodePool, Failure, cores
from extract.prepare import blocks_again, free_bytes, rows_of, without_features
from splits.types import Split, Video


@dataclass(frozen=True)
class Estimate:
    """What a few clips cost: seconds of one core for decoding a clip, seconds of one device thread for its features.

    tried, failed: clips tried and those among them that could not be decoded; seconds: expected for all clips to do.
    """

    tried: int
    failed: int
    decode: float
    compute: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """clips: of the dataset; todo: those without a row; blocks: to write, None before the store exists; bytes: to write; free: on the disk.

    absent: ids of clips to do whose files are not there; estimate: None unless clips were tried.
    """

    path: Path
    spec: FeatureSpec
    clips: int
    todo: int
    bytes: int
    free: int
    absent: list[str]
    estimate: Estimate | None = None


def plan(split: Split, config: ExtractConfig, folder: Path, *, tries: int = 0, retry_failed: bool = False) -> Plan:
    """Look what `extract` with the same arguments would do; nothing is written. `tries` clips are decoded and run through the backbone."""
    backbone = backbone_of(config)
    spec = spec_of(config, backbone)
    path = store_path(folder, split.name, spec)
    rows = rows_of(split)
    todo = _todo(path, rows, retry_failed)
    there, absent = {row.id for row in todo if row.origin}, [row.id for row in todo if not row.origin]
    estimate = None
    if tries and there:
        videos = [video for part in split.parts.values() for video in part.videos if video.id in there]
        estimate = _try_out(split, config, spec, backbone, videos, tries)
    return Plan(path, spec, len(rows), len(todo), len(todo) * spec.row_bytes, free_bytes(folder), absent, estimate)


def _todo(path: Path, rows: list[Row], retry_failed: bool) -> list[Row]:
    """The rows that a run would make: those without features, and those of blocks that would be made again."""
    if not (path / HEADER).exists():
        return rows
    with open_store(path) as store:
        store.require_origins(rows)
        return without_features(store, rows, blocks_again(store, rows, retry_failed))


def _try_out(
    split: Split, config: ExtractConfig, spec: FeatureSpec, backbone: Backbone, videos: Sequence[Video], tries: int
) -> Estimate:
    """Decode clips spread over the dataset one by one, compute one batch of them twice and time the second."""
    chosen = [videos[i] for i in sorted(set(np.linspace(0, len(videos) - 1, tries).astype(int).tolist()))]
    device = device_of(config.device)
    tasks = [task_of(split.root, v, config.sampling, config.frames, decoder=config.decoder) for v in chosen]
    clips: list[Decoded] = []
    with DecodePool(1, config.time_limit) as pool:
        list(pool.map(tasks[:1]))  # the process has to start first
        begin = time.perf_counter()
        for task in tasks:
            clips += [clip for _, clip in pool.map([task]) if not isinstance(clip, Failure)][:1]
        decode = (time.perf_counter() - begin) / len(tasks)
    compute = _compute_seconds(config, spec, backbone, device, clips[-1]) if clips else 0.0
    workers = config.workers or cores()
    shared = (decode + compute) / cores() if device.type == "cpu" else compute
    each = max(decode / workers, shared)
    return Estimate(len(chosen), len(chosen) - len(clips), decode, compute, each * len(videos))


def _compute_seconds(
    config: ExtractConfig, spec: FeatureSpec, backbone: Backbone, device: torch.device, clip: Decoded
) -> float:
    """Seconds per clip of one full batch on one compute thread, after a first one that warms up."""
    count = batch_clips_of(config, device)
    begin = 0.0
    with Compute(config, spec, backbone, device, count, threads=1) as compute:
        for _ in range(2):
            begin = time.perf_counter()
            batch = compute.batch(0, 0, count)
            for place in range(count):
                compute.put(batch, place, clip)
            while not list(compute.finished(wait=1.0)):
                pass
    return (time.perf_counter() - begin) / count
