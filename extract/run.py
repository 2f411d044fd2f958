"""The extraction run: what is missing is computed by an engine and written block by block; safe to stop, kill and repeat at any instant."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cache.features import FeatureStore
from cache.medium import require_durable
from cache.rows import Row
from extract.assembly import Assembly
from extract.compute import Made, Slice
from extract.config import ExtractConfig, batch_clips_of, device_for, store_path
from extract.decoders import PACKAGES, usable
from extract.estimate import Estimate, estimate
from extract.local import Clips, computed
from extract.machine import machine_type
from extract.prepare import prepare, rows_of
from extract.product import Product, flips_allowed, product_of
from extract.progress import Meter, Progress, Report
from extract.saving import Saver
from fsar_cache.console import say, warn
from fsar_cache.errors import FailedVideosError, Interrupted
from splits.types import Split

__all__ = ["Progress", "Report", "Summary", "extract", "rows_of"]

WORTH_A_TRY = 1000
"""Clips to do from which a run first tries a few, to say how long it will take."""


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
    the batches that are being computed are saved, then Interrupted is raised. Before anything is decoded: MissingError where no file of the
    dataset is there, or too many are missing (see `extract.missing`), SpaceError where the disk is too small. Raises SpaceError when disk
    or memory run full, and FailedVideosError at the end where more than `max_failures` of the clips failed; with `skip_missing` those
    without files don't count.
    """
    require_durable(config.backend)
    product, device = product_of(config, split), device_for(config)
    path = store_path(folder, split.home, product.spec, config.part)
    with prepare(split, config, product.spec, path, retry_failed=retry_failed) as store:
        rows = rows_of(split, config)
        mine = [b for b in store.blocks_of(rows) if b % config.part[1] == config.part[0] - 1]
        todo = [block for block in mine if block not in store.done]
        sizes = {block: last - first for block in mine for first, last in [store.block_range(block)]}
        meter = Meter(sum(sizes.values()), product.frames, product.spec.row_bytes, report)
        meter.skip(sum(sizes[block] for block in mine if block not in todo))
        if todo:
            run = _Run(store, split, config, product, device, stop or threading.Event())
            inside = {number for block in todo for number in range(*store.block_range(block))}
            numbers = store.numbers_of(rows).tolist()
            there = [row for row, number in zip(rows, numbers, strict=True) if number in inside and row.origin]
            if len(there) >= WORTH_A_TRY and config.engine == "local":  # elsewhere other machines do the work
                _say_estimate(estimate(split, config, product, device, there, tries=4))
            run.fill(todo, meter, retry_failed)
        return _summary(store, mine, rows, config, meter.now)


@dataclass(frozen=True)
class _Run:
    """What one run works with."""

    store: FeatureStore
    split: Split
    config: ExtractConfig
    product: Product
    device: torch.device
    stop: threading.Event

    def fill(self, todo: list[int], meter: Meter, retry_failed: bool) -> None:
        """Work until the blocks `todo` are written or `stop` is set; every slice that was computed is saved either way."""
        videos = {video.id: video for part in self.split.parts.values() for video in part.videos}
        batch = batch_clips_of(self.config, self.device)
        rows = meter.now.total - meter.now.done
        with self.store.writer() as writer:
            made_by = provenance(self.config, self.product, self.device, batch)
            drawn = view_settings(self.config, self.split.flips)
            assembly = Assembly(
                self.store, writer, todo, batch, made_by, drawn, meter, ids=videos.keys(), retry_failed=retry_failed
            )
            with Saver(assembly.save) as saver:
                for made in self._engine(assembly.slices(), Clips(self.split.root, videos), batch, rows):
                    saver.put(made)
                    meter.tell()
        meter.tell(always=True)
        if not self.store.done.issuperset(todo):
            raise Interrupted(
                f"stopped with {meter.now.done} of {meter.now.total} clips of {self.split.name} done; they are saved",
                hint="repeat the same command to go on from here",
            )

    def _engine(self, slices: Iterator[Slice], clips: Clips, batch: int, rows: int) -> Iterator[Made]:
        config = self.config
        if config.engine == "ray":
            from extract.ray_engine import computed_by_ray

            return computed_by_ray(slices, self.product, self.split, config, clips, batch, rows=rows, stop=self.stop)
        return computed(
            slices,
            self.product,
            clips,
            self.device,
            batch,
            workers=config.workers,
            time_limit=config.time_limit,
            stop=self.stop,
        )


def _say_estimate(each: Estimate) -> None:
    if each.failed:
        warn(f"{each.failed} of {each.tried} clips tried can't be decoded")
    if each.failed == each.tried:
        return
    say(
        f"tried {each.tried} clips: {1000 * each.decode:.0f} ms of a core to decode, {1000 * each.compute:.0f} ms to compute; "
        f"about {each.seconds / 60:.1f} min in all"
    )


def provenance(config: ExtractConfig, product: Product, device: torch.device, clips: int) -> dict[str, Any]:
    """What made a block, beside what its fingerprint says: decoder, versions, host, machine type, size of the device batches.

    The host is "ray" where workers of that engine made it: any of them may have.
    A block that holds training views also has "views": the settings they were drawn by.
    """
    decoder = usable(config.decoder)
    packages = (
        "fsar-cache",
        "torch",
        *product.packages,
        "numpy",
        "pillow",
        *([PACKAGES[decoder]] if decoder in PACKAGES else []),
    )
    return {
        "decoder": decoder,
        "packages": {package: _version(package) for package in packages},
        "host": "ray" if config.engine == "ray" else platform.node(),
        "device": machine_type(device),
        "weights": product.weights,
        **({"flow_weights": product.flow_weights} if product.flow_weights else {}),
        "batch_clips": clips,
    }


def _version(package: str) -> str:
    """Of an installed package; what stands in its place under another name (another build of OpenCV) has none that is known."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def view_settings(config: ExtractConfig, flips: bool) -> dict[str, Any]:
    """The settings that decide training views and nothing else, as plain data; flips: what the dataset says of mirrored clips."""
    flip = "on" if flips_allowed(config, flips) else "off"
    names = ("view_seed", "train_sampling", "train_transform")
    return {**{name: getattr(config, name) for name in names}, "flip": flip}


def _summary(store: FeatureStore, mine: list[int], rows: list[Row], config: ExtractConfig, end: Progress) -> Summary:
    inside = {number for block in mine for number in range(*store.block_range(block))}
    numbers = store.numbers_of(rows).tolist()
    known = {row.id for row, number in zip(rows, numbers, strict=True) if number in inside}
    total = len(known)
    reasons = {row["id"]: row["reason"] for row in store.failures() if row["id"] in known}
    failed = list(reasons.items())
    damaged = {r["id"]: Damaged(r["id"], r["decoded"], r["claimed"], r["corrupt"]) for r in store.damaged()}
    made = Summary(
        path=store.path,
        ok=total - len(failed),
        failed=failed,
        damaged=[each for name, each in damaged.items() if name in known],
        made=end.done - end.skipped,
        skipped=end.skipped,
        seconds=end.seconds,
        videos_per_second=end.videos_per_second,
        frames_per_second=end.frames_per_second,
    )
    missing = {row.id for row in rows if not row.origin} if config.skip_missing else set()
    counted = [each for each in failed if each[0] not in missing]
    if len(counted) > config.max_failures * (total - len(failed) + len(counted)):
        raise _too_many(made, counted, store.dataset, config.max_failures)
    return made


def _too_many(made: Summary, failed: list[tuple[str, str]], dataset: str, allowed: float) -> FailedVideosError:
    """failed: those that count."""
    total = made.ok + len(failed)
    shown = "".join(f"\n  {name}: {reason}" for name, reason in failed[:10])
    more = f"\n  and {len(failed) - 10} more" if len(failed) > 10 else ""
    share = math.ceil(100 * len(failed) / total) / 100
    return FailedVideosError(
        f"{len(failed)} of {total} clips of {dataset} failed ({allowed:.1%} may):{shown}{more}",
        hint=f"the other clips are in {made.path}; to go on with them allow more: --max-failures {share:g}. Failed clips are "
        "tried again when their files appear or change, and at once by this command with --retry-failed "
        "(and --time-limit SECONDS for slow ones)",
        made=made,
    )
