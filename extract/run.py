"""The extraction run: decode processes, compute threads and the block writer, overlapping; safe to stop, kill and repeat at any instant."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cache.features import FeatureStore
from cache.medium import BACKENDS
from cache.rows import Outcome
from extract.assembly import Assembly
from extract.clip import Task, task_of
from extract.compute import Batch, Compute
from extract.config import ExtractConfig, backbone_of, batch_clips_of, device_of, spec_of, store_path
from extract.decoders import PACKAGES, usable
from extract.pool import DecodePool
from extract.prepare import prepare, rows_of
from extract.progress import EVERY, Meter, Progress, Report
from fsar_cache.errors import FailedVideosError, Interrupted, UsageError
from splits.types import Split

__all__ = ["Progress", "Report", "Summary", "extract", "rows_of"]


@dataclass(frozen=True)
class Damaged:
    """A clip whose file is damaged: frames decoded, frames its container claims (-1: it doesn't say), corrupt ones."""

    id: str
    decoded: int
    claimed: int
    corrupt: int


@dataclass(frozen=True)
class Summary:
    """What a run ended with. ok, failed (id, reason), damaged: clips of the split given; made: clips of this run; skipped: there before.

    damaged: clips that have features though their files are not whole: fewer frames than claimed, or corrupt ones.
    """

    path: Path
    ok: int
    failed: list[tuple[str, str]]
    damaged: list[Damaged]
    made: int
    skipped: int
    seconds: float
    videos_per_second: float
    frames_per_second: float


def extract(
    split: Split,
    config: ExtractConfig,
    folder: Path,
    *,
    report: Report | None = None,
    stop: threading.Event | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Make the features of every clip of `split` that are not there yet, in the store that the settings name under `folder`.

    Clips that failed are tried again where their files appeared or changed since, and with `retry_failed` all of them. Once `stop` is set
    the batches in hand are finished and saved, then Interrupted is raised. Before anything is written: MissingError where no file of the
    dataset is there, SpaceError where the disk is too small. Raises SpaceError when disk or memory run full, and FailedVideosError at
    the end where more than `max_failures` of the clips failed.
    """
    if not BACKENDS.get(config.backend).durable:
        raise UsageError(f"the {config.backend} backend keeps nothing on disk", hint="--backend zarr or hdf5")
    backbone = backbone_of(config)
    spec, device = spec_of(config, backbone), device_of(config.device)
    path = store_path(folder, split.name, spec)
    with prepare(split, config, spec, path, retry_failed=retry_failed) as store:
        meter = Meter(len(store.rows), config.frames, spec.row_bytes, report)
        if store.missing():
            compute = Compute(config, spec, backbone, device, batch_clips_of(config, device))
            _fill(store, split, config, compute, meter, stop or threading.Event(), retry_failed)
        else:
            meter.skip(len(store.rows))
        return _summary(store, split, config, meter.now)


def _fill(
    store: FeatureStore,
    split: Split,
    config: ExtractConfig,
    compute: Compute,
    meter: Meter,
    stop: threading.Event,
    retry_failed: bool,
) -> None:
    """Work until every block is written or `stop` is set; every batch that was computed is saved either way."""
    ids = {video.id for part in split.parts.values() for video in part.videos}
    with store.writer() as writer:
        made_by = provenance(config, compute.device, compute.clips)
        assembly = Assembly(store, writer, compute.clips, made_by, meter, ids=ids, retry_failed=retry_failed)

        def save(wait: float = 0.0) -> None:
            for batch in compute.finished(wait):
                assembly.save(batch)
            meter.tell()

        with compute:
            places: dict[int, tuple[Batch, int]] = {}
            with DecodePool(config.workers, config.time_limit) as pool:
                for index, clip in pool.map(_tasks(store, split, config, assembly, compute, places), stop):
                    compute.put(*places.pop(index), clip)
                    save()
            while assembly.waiting and not stop.is_set():
                save(wait=EVERY)
        save()
    meter.tell(always=True)
    if store.missing():
        raise Interrupted(
            f"stopped with {meter.now.done} of {len(store.rows)} clips of {split.name} done; they are saved",
            hint="repeat the same command to go on from here",
        )


def _tasks(
    store: FeatureStore,
    split: Split,
    config: ExtractConfig,
    assembly: Assembly,
    compute: Compute,
    places: dict[int, tuple[Batch, int]],
) -> Iterator[Task]:
    """The clips of all unfinished batches, in order; task number i fills the row places[i]."""
    videos = {video.id: video for part in split.parts.values() for video in part.videos}
    rows, number = store.rows, 0
    for block, first, count in assembly.batches():
        batch = compute.batch(block, first, count)
        begin = store.block_range(block)[0] + first
        for place in range(count):
            video = videos.get(rows[begin + place].id)
            if video is None:
                compute.put(batch, place, Outcome("absent", "not in the dataset"))
                continue
            places[number] = (batch, place)
            number += 1
            yield task_of(split.root, video, config.sampling, config.frames, decoder=config.decoder)


def provenance(config: ExtractConfig, device: torch.device, clips: int) -> dict[str, Any]:
    """What made a block, beside what its fingerprint says: decoder, versions, machine, device, size of the device batches."""
    decoder = usable(config.decoder)
    packages = ("fsar-cache", "torch", "timm", "numpy", *([PACKAGES[decoder]] if decoder in PACKAGES else []))
    return {
        "decoder": decoder,
        "packages": {package: version(package) for package in packages},
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}",
        "weights": config.weights,
        "batch_clips": clips,
    }


def _summary(store: FeatureStore, split: Split, config: ExtractConfig, end: Progress) -> Summary:
    ids = [video.id for part in split.parts.values() for video in part.videos]
    known, total = set(ids), len(ids)
    failed = [(row["id"], row["reason"]) for row in store.failures() if row["id"] in known]
    if len(failed) > config.max_failures * total:
        shown = "".join(f"\n  {name}: {reason}" for name, reason in failed[:10])
        more = f"\n  and {len(failed) - 10} more" if len(failed) > 10 else ""
        share = math.ceil(100 * len(failed) / total) / 100
        raise FailedVideosError(
            f"{len(failed)} of {total} clips of {store.dataset} failed ({config.max_failures:.1%} may):{shown}{more}",
            hint=f"the other clips are stored; to go on with them allow more: --max-failures {share:g}. "
            "Failed clips are tried again when their "
            "files appear or change, and at once by fsar-cache extract --retry-failed (with --time-limit SECONDS for slow ones)",
        )
    return Summary(
        path=store.path,
        ok=total - len(failed),
        failed=failed,
        damaged=[
            Damaged(r["id"], r["decoded"], r["claimed"], r["corrupt"]) for r in store.damaged() if r["id"] in known
        ],
        made=end.done - end.skipped,
        skipped=end.skipped,
        seconds=end.seconds,
        videos_per_second=end.videos_per_second,
        frames_per_second=end.frames_per_second,
    )
