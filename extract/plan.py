"""What an extraction would do, without doing it: clips, bytes, missing files, and (from a few clips tried out) the time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cache.folder import HEADER
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.store import default_block_rows, open_store
from cache.table import RowTable
from extract.config import ExtractConfig, device_for, store_path
from extract.estimate import Estimate, estimate
from extract.missing import absent_rows, too_many
from extract.prepare import blocks_again, rows_of, without_features
from extract.product import product_of
from fsar_cache.files import free_bytes
from splits.types import Split

__all__ = ["Estimate", "Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """clips: rows wanted of this part (views count); todo: those without features; bytes: to write; free: on the disk.

    absent: ids of clips to do whose files are not there; refused: whether a run would stop for them before it decodes anything;
    estimate: None unless clips were tried, which are not where Ray does the work.
    """

    path: Path
    spec: FeatureSpec
    clips: int
    todo: int
    bytes: int
    free: int
    absent: list[str]
    estimate: Estimate | None = None
    refused: bool = False


def plan(split: Split, config: ExtractConfig, folder: Path, *, tries: int = 0, retry_failed: bool = False) -> Plan:
    """Look what `extract` with the same arguments would do; nothing is written. `tries` clips are decoded and run through the backbone."""
    product = product_of(config, split)
    spec = product.spec
    path = store_path(folder, split.home, spec, config.part)
    rows = rows_of(split, config)
    rows = _of_part(path, rows, config, spec) if config.part != (1, 1) else rows
    todo = _todo(path, rows, retry_failed)
    there, absent = [row for row in todo if row.origin], absent_rows(todo)
    refused = too_many(len(absent), len({row.id for row in rows}), config)
    tried = tries and there and config.engine == "local"  # elsewhere other machines do the work
    cost = estimate(split, config, product, device_for(config), there, tries) if tried else None
    return Plan(path, spec, len(rows), len(todo), len(todo) * spec.row_bytes, free_bytes(folder), absent, cost, refused)


def _of_part(path: Path, rows: list[Row], config: ExtractConfig, spec: FeatureSpec) -> list[Row]:
    """The rows in the blocks that are this part's."""
    table = RowTable(config.block_rows or default_block_rows(spec.row_bytes, len(rows)))
    if (path / HEADER).exists():
        with open_store(path) as store:
            table = store.medium.load_table()
    table = table.with_rows(rows)
    blocks, _ = table.locate(table.numbers_of(rows))
    part, of = config.part
    return [row for row, block in zip(rows, blocks.tolist(), strict=True) if block % of == part - 1]


def _todo(path: Path, rows: list[Row], retry_failed: bool) -> list[Row]:
    """The rows that a run would make: those without features, and those of blocks that would be made again."""
    if not (path / HEADER).exists():
        return rows
    with open_store(path) as store:
        store.require_origins(rows)
        return without_features(store, rows, blocks_again(store, rows, retry_failed))
