"""The extraction run: decode processes, compute threads and the block writer, overlapping; safe to stop, kill and repeat at any instant."""

from __future__ import annotations

import platform
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cache.features import FeatureStore
from cache.medium import BACKENDS
from cache.rows import Row
from cache.store import create
from extract.assembly import Assembly
from extract.backbone import Backbone
from extract.clip import Task, task_of
from extract.compute import Batch, Compute
from extract.config import ExtractConfig, backbone_of, batch_clips_of, device_of, spec_of, store_path
from extract.pool import DecodePool, Failure
from extract.progress import EVERY, Meter, Progress, Report
from fsar_cache.errors import FailedVideosError, Interrupted, SpaceError, UsageError
from splits.types import Split, Video

__all__ = ["Progress", "Report", "Summary", "extract", "rows_of"]


@dataclass(frozen=True)
class Summary:
    """What a run ended with. ok, failed (id, reason): of the whole store; made: clips of this run; skipped: there before."""

    path: Path
    ok: int
    failed: list[tuple[str, str]]
    made: int
    skipped: int
    seconds: float
    videos_per_second: float
    frames_per_second: float


def rows_of(split: Split) -> list[Row]:
    """One row per video of every partition, in order."""
    return [
        Row(video.id, video.label, part.name, origin=_origin(split.root / video.path, video))
        for part in split.parts.values()
        for video in part.videos
    ]


def _origin(file: Path, video: Video) -> str:
    """What tells a clip from another of the same id: name and size of its file, and its span; "" where the file isn't there."""
    try:
        size = file.stat().st_size
    except OSError:
        return ""
    span = "" if video.start is None and video.end is None else f", {video.start} s to {video.end} s"
    return f"{file.name} ({size} bytes{span})"


def extract(
    split: Split,
    config: ExtractConfig,
    folder: Path,
    *,
    report: Report | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Make the features of every clip of `split` that are not there yet, in the store that the settings name under `folder`.

    Once `stop` is set the batches in hand are finished and saved, then Interrupted is raised. Raises FailedVideosError at the end where
    more than `max_failures` of the clips failed, SpaceError before the start where the disk is too small and when it runs full.
    """
    if not BACKENDS.get(config.backend).durable:
        raise UsageError(f"the {config.backend} backend keeps nothing on disk", hint="--backend zarr or hdf5")
    backbone = backbone_of(config)
    spec = spec_of(config, backbone)
    path = store_path(folder, split.name, spec)
    store = create(
        path, spec, rows_of(split), dataset=split.name, backend=config.backend, block_rows=config.block_rows or None
    )
    with store:
        meter = Meter(len(store.rows), config.frames, spec.row_bytes, report)
        if store.missing():
            _fill(store, split, config, backbone, meter, stop or threading.Event())
        else:
            meter.skip(len(store.rows))
        return _summary(store, config, meter.now)


def _fill(
    store: FeatureStore, split: Split, config: ExtractConfig, backbone: Backbone, meter: Meter, stop: threading.Event
) -> None:
    """Work until every block is written or `stop` is set; every batch that was computed is saved either way."""
    require_space(store.path, unfinished(store) * store.spec.row_bytes)
    device = device_of(config.device)
    clips = batch_clips_of(config, device)
    compute = Compute(config, store.spec, backbone, device, clips)
    with store.writer() as writer:
        assembly = Assembly(store, writer, clips, provenance(config, device, clips), meter)

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
                compute.put(batch, place, Failure("no longer in the dataset"))
                continue
            places[number] = (batch, place)
            number += 1
            yield task_of(split.root, video, config.sampling, config.frames, decoder=config.decoder)


def unfinished(store: FeatureStore) -> int:
    """Rows of the blocks that are not written."""
    return sum(last - first for first, last in map(store.block_range, store.missing()))


def require_space(folder: Path, needed: int) -> None:
    """Raise SpaceError where the disk that holds `folder` has fewer than `needed` bytes free."""
    free = free_bytes(folder)
    if needed > free:
        raise SpaceError(
            f"the features need {needed / 1e9:.2f} GB, the disk of {folder} has {free / 1e9:.2f} GB free",
            hint="free some space, or keep the stores elsewhere: FSAR_STORES=FOLDER",
        )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, or will."""
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free


def provenance(config: ExtractConfig, device: torch.device, clips: int) -> dict[str, Any]:
    """What made a block, beside what its fingerprint says: versions, machine, device, size of the device batches."""
    return {
        "packages": {package: version(package) for package in ("fsar-cache", "torch", "timm", "av", "numpy")},
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}",
        "weights": config.weights,
        "batch_clips": clips,
    }


def _summary(store: FeatureStore, config: ExtractConfig, end: Progress) -> Summary:
    failed = [(row["id"], row["reason"]) for row in store.failures()]
    total = len(store.rows)
    if len(failed) > config.max_failures * total:
        shown = "".join(f"\n  {name}: {reason}" for name, reason in failed[:10])
        more = f"\n  and {len(failed) - 10} more" if len(failed) > 10 else ""
        raise FailedVideosError(
            f"{len(failed)} of {total} clips of {store.dataset} failed ({config.max_failures:.1%} may):{shown}{more}",
            hint="the other clips are stored; to go on with them allow more: --max-failures 1",
        )
    return Summary(
        path=store.path,
        ok=total - len(failed),
        failed=failed,
        made=end.done - end.skipped,
        skipped=end.skipped,
        seconds=end.seconds,
        videos_per_second=end.videos_per_second,
        frames_per_second=end.frames_per_second,
    )
