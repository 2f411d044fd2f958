"""What is settled before an extraction writes anything: the rows, their files, the space, and which finished blocks are made again."""

from __future__ import annotations

import shutil
from pathlib import Path

from cache.features import FeatureStore
from cache.folder import HEADER
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.store import create
from extract.config import ExtractConfig
from fsar_cache.console import warn
from fsar_cache.errors import MissingError, SpaceError
from splits.types import Split, Video

SHOWN = 3
"""How many names a warning lists."""


def rows_of(split: Split) -> list[Row]:
    """One row per video of every partition, in order; a row whose file isn't there has no origin."""
    sizes: dict[str, int] = {}
    rows = []
    for part in split.parts.values():
        for video in part.videos:
            if video.path not in sizes:
                sizes[video.path] = _size(split.root / video.path)
            rows.append(Row(video.id, video.label, part.name, origin=_origin(video, sizes[video.path])))
    return rows


def _size(file: Path) -> int:
    """Bytes of the file; -1 where it isn't there."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _origin(video: Video, size: int) -> str:
    """What tells a clip from another of the same id: name and size of its file, and its span; "" where the file isn't there."""
    span = "" if video.start is None and video.end is None else f", {video.start} s to {video.end} s"
    return "" if size < 0 else f"{Path(video.path).name} ({size} bytes{span})"


def prepare(
    split: Split, config: ExtractConfig, spec: FeatureSpec, path: Path, *, retry_failed: bool = False
) -> FeatureStore:
    """The store at `path`, made or opened, with every clip of `split` planned and the blocks to make again dropped.

    Made again are blocks with failed clips whose files appeared or changed since, and with `retry_failed` all blocks with failed clips.
    Nothing is written before everything is known to fit: raises MissingError where there is something to do and no file of the dataset is
    there, SpaceError where the disk is too small, and what `cache.store.create` raises.
    """
    rows = rows_of(split)

    def made(planned: list[Row]) -> FeatureStore:
        return create(
            path, spec, planned, dataset=split.name, backend=config.backend, block_rows=config.block_rows or None
        )

    again: list[int] = []
    todo, needed = rows, len(rows)
    if (path / HEADER).exists():
        with made([]) as store:
            store.require_origins(rows)
            again = blocks_again(store, rows, retry_failed)
            todo = without_features(store, rows, again)
            needed = _unfinished(store) + int((store.rows_of([row.id for row in rows]) < 0).sum())
    _require_files(split, rows, todo)
    require_space(path, needed * spec.row_bytes)
    if again:
        with made([]) as store, store.writer() as writer:
            for block in again:
                writer.drop_block(block)
    return made(rows)


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
    numbers = store.rows_of([row.id for row in rows]).tolist()
    return [row for row, number in zip(rows, numbers, strict=True) if number not in done]


def _unfinished(store: FeatureStore) -> int:
    """Rows of the blocks that are not written."""
    return sum(last - first for first, last in map(store.block_range, store.missing()))


def _require_files(split: Split, rows: list[Row], todo: list[Row]) -> None:
    """Refuse a dataset without any file where something is to do; warn of the files to do that are not there."""
    absent = [row.id for row in todo if not row.origin]
    if not absent:
        return
    first = next(video for part in split.parts.values() for video in part.videos if video.id == absent[0])
    if not any(row.origin for row in rows):
        raise MissingError(
            f"none of the {len(rows)} clips of {split.name} has its file: there is no {split.root / first.path}",
            hint="check where the videos are; nothing was written",
        )
    more = ", ..." if len(absent) > SHOWN else ""
    warn(
        f"the files of {len(absent)} of {len(rows)} clips of {split.name} are not there: {', '.join(absent[:SHOWN])}{more} "
        f"({split.root / first.path}); they count as failed until their files appear"
    )


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
