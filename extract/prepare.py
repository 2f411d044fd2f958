"""What is settled before an extraction writes anything: the rows, their files, the space, and which finished blocks are made again."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

from cache.features import FeatureStore
from cache.folder import HEADER
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.store import create, default_block_rows
from extract.config import ExtractConfig
from extract.missing import absent_rows, require_files
from extract.probe import file_size
from extract.product import flips_allowed
from fsar_cache import files
from fsar_cache.bulk import many_objects
from fsar_cache.console import warn
from fsar_cache.errors import UsageError, unknown
from splits.types import Split, Video

VIEWLESS = ("val", "test")
"""Partitions that are never trained on, so their clips have the evaluation view only."""


def rows_of(split: Split, config: ExtractConfig | None = None) -> list[Row]:
    """The rows that `config` asks for (without one: the evaluation view of every clip), partition after partition, view after view.

    A row whose file isn't there has no origin. The origin of a training view also says how it is drawn. UsageError for a partition or
    class that the dataset doesn't have.
    """
    if config is not None:
        _require_names(split, config)
    with many_objects():
        rows = _plain_rows(split)
    if config is None:
        return rows
    wanted = [row for row in rows if is_wanted(config, row)]
    if not wanted:
        chosen = ", ".join([*config.partitions, *config.classes]) or "all of it"
        raise UsageError(f"{split.name} has no clip of {chosen}", hint="a class may stand in another partition")
    trained = [row for row in wanted if row.partition not in VIEWLESS]
    drawn = view_rule(config, split.flips)
    views = range(1, config.views + 1)
    return wanted + [
        replace(row, view=v, origin=row.origin and f"{row.origin}; {drawn}") for v in views for row in trained
    ]


def _plain_rows(split: Split) -> list[Row]:
    """The evaluation view of every clip."""
    sizes: dict[str, int] = {}
    root = os.fspath(split.root)
    rows = []
    for part in split.parts.values():
        for video in part.videos:
            if video.path not in sizes:
                sizes[video.path] = file_size(_below(root, video.path))
            rows.append(Row(video.id, video.label, part.name, origin=origin_of(video, sizes[video.path])))
    return rows


def _below(root: str, path: str) -> str:
    """As os.path.join has it, for a million paths."""
    return path if path.startswith("/") else f"{root}/{path}"


def view_rule(config: ExtractConfig, flips: bool) -> str:
    """How the training views of clips are drawn, in words; flips: what the dataset says of mirrored clips."""
    mirrored = "mirrored or not" if flips_allowed(config, flips) else "not mirrored"
    return f"view by {config.train_sampling} and {config.train_transform}, {mirrored}, seed {config.view_seed}"


def is_wanted(config: ExtractConfig, row: Row) -> bool:
    """Whether the row is of the partitions and classes that the settings name."""
    return (not config.partitions or row.partition in config.partitions) and (
        not config.classes or row.label in config.classes
    )


def _require_names(split: Split, config: ExtractConfig) -> None:
    """Raise UsageError for a partition or class that the dataset doesn't have."""
    classes = {name for part in split.parts.values() for name in part.classes}
    for kind, names, known in (("partition", config.partitions, split.parts), ("class", config.classes, classes)):
        for name in names:
            if name not in known:
                raise unknown(f"{kind} of {split.name}", name, list(known))


def origin_of(video: Video, size: int) -> str:
    """What tells a clip from another of the same id: name and size of its file, and its span; "" where the file isn't there."""
    span = "" if video.start is None and video.end is None else f", {video.start} s to {video.end} s"
    return "" if size < 0 else f"{video.path.rpartition('/')[2]} ({size} bytes{span})"


def prepare(
    split: Split, config: ExtractConfig, spec: FeatureSpec, path: Path, *, retry_failed: bool = False
) -> FeatureStore:
    """The store at `path`, made or opened, with every clip of `split` planned and the blocks to make again dropped.

    Made again are blocks with failed clips whose files appeared or changed since, and with `retry_failed` all blocks with failed clips.
    Nothing but the list of missing clips is written before everything is known to fit: raises MissingError where there is something to do
    and no file of the dataset is there, or more clips have none than may fail and `skip_missing` is not set, SpaceError where the disk is
    too small, and what `cache.store.create` raises; UsageError where blocks underway hold training views that were begun in another way.
    """
    rows = rows_of(split, config)
    if config.views and not any(row.view for row in rows):
        warn(f"no training views: {', '.join(sorted({row.partition for row in rows}))} are never trained on")

    def made(planned: list[Row]) -> FeatureStore:
        return create(
            path, spec, planned, dataset=split.home, backend=config.backend, block_rows=config.block_rows or None
        )

    again: list[int] = []
    todo, begun, fresh = rows, 0, len(rows)
    absent = absent_rows(rows)
    if (path / HEADER).exists():
        with made([]) as store:
            store.require_origins(rows)
            again = blocks_again(store, rows, retry_failed)
            _require_rule(store, rows, again, view_rule(config, split.flips))
            todo = without_features(store, rows, again)
            begun = _unfinished(store, rows, config.part)
            fresh = int((store.numbers_of(rows) < 0).sum())
            absent = absent_rows(rows, store)
    require_files(split, config, path, rows, absent, working=bool(todo))
    if not config.force:
        block_rows = config.block_rows or default_block_rows(spec.row_bytes, len(rows))
        mine = math.ceil(math.ceil(fresh / block_rows) / config.part[1]) * block_rows
        require_space(path, (begun + min(fresh, mine)) * spec.row_bytes)
    if again:
        with made([]) as store, store.writer() as writer:
            for block in again:
                writer.drop_block(block)
    return made(rows)


def _require_rule(store: FeatureStore, rows: list[Row], again: list[int], drawn: str) -> None:
    """UsageError where blocks to do also hold training views that are not among `rows` and were planned to be drawn in another way."""
    asked = {(row.id, row.view) for row in rows}
    for block in {*store.blocks_of(rows)} - store.done | {*again}:
        for row in store.rows[slice(*store.block_range(block))]:
            if row.view and row.origin and (row.id, row.view) not in asked and not row.origin.endswith(f"; {drawn}"):
                begun = row.origin.rpartition("; ")[2]
                raise UsageError(
                    f"{store.path} has blocks underway with training views that are not asked for now, but would be made: "
                    f"{begun} then, {drawn} now",
                    hint="finish what was begun first, or draw views by the same settings here",
                )


def blocks_again(store: FeatureStore, rows: list[Row], retry_failed: bool) -> list[int]:
    """Finished blocks to make again; never at the cost of features of clips that are not in this dataset, or not in their place."""
    there, ok = {row.id for row in rows if row.origin}, store.ok
    again: list[int] = []
    left: list[int] = []
    for block in store.retry_blocks(rows, failed=retry_failed):
        inside = range(*store.block_range(block))
        lost = [store.rows[i].id for i in inside if ok[i] and store.rows[i].id not in there]
        (left if lost else again).append(block)
    if left:
        warn(
            f"{len(left)} blocks of {store.path} with failed clips are not tried again: "
            "they also hold features of clips that can't be made again from this dataset"
        )
    return again


def without_features(store: FeatureStore, rows: list[Row], again: list[int]) -> list[Row]:
    """The rows that are in no finished block, or in one that is made again."""
    done = {i for block in store.done - set(again) for i in range(*store.block_range(block))}
    numbers = store.numbers_of(rows).tolist()
    return [row for row, number in zip(rows, numbers, strict=True) if number not in done]


def _unfinished(store: FeatureStore, rows: list[Row], part: tuple[int, int]) -> int:
    """Rows of the blocks that hold any of `rows`, belong to the part and are not written."""
    blocks = [b for b in store.blocks_of(rows) if b % part[1] == part[0] - 1 and b not in store.done]
    return sum(last - first for first, last in map(store.block_range, blocks))


MARGIN = 0.05
"""Share of the features' bytes that must be free beside them: for journals, tables and whatever else fills the disk meanwhile."""


def require_space(folder: Path, needed: int) -> None:
    """Raise SpaceError where the disk that holds `folder` has fewer than `needed` bytes and a margin free."""
    files.require_space(
        folder,
        needed,
        "the features",
        "free some space, keep the stores elsewhere (FSAR_STORES=FOLDER), store fewer clips (--partition, --views), "
        "or go on anyway: --force",
        MARGIN,
    )
