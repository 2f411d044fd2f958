"""What an extraction would do, without doing it: clips, bytes, missing files, and (from a few clips tried out) the time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cache.folder import HEADER
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.store import open_store
from extract.config import ExtractConfig, device_of, store_path
from extract.estimate import Estimate, estimate
from extract.prepare import blocks_again, free_bytes, rows_of, without_features
from extract.product import product_of
from splits.types import Split

__all__ = ["Estimate", "Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """clips: rows wanted (views count); todo: those without features; bytes: to write; free: on the disk.

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
    product = product_of(config, split)
    spec = product.spec
    path = store_path(folder, split.name, spec, config.part)
    rows = rows_of(split, config)
    todo = _todo(path, rows, retry_failed)
    there, absent = [row for row in todo if row.origin], [row.id for row in todo if not row.origin]
    cost = estimate(split, config, product, device_of(config.device), there, tries) if tries and there else None
    return Plan(path, spec, len(rows), len(todo), len(todo) * spec.row_bytes, free_bytes(folder), absent, cost)


def _todo(path: Path, rows: list[Row], retry_failed: bool) -> list[Row]:
    """The rows that a run would make: those without features, and those of blocks that would be made again."""
    if not (path / HEADER).exists():
        return rows
    with open_store(path) as store:
        store.require_origins(rows)
        return without_features(store, rows, blocks_again(store, rows, retry_failed))
