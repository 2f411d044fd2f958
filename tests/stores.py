"""Small stores for the tests: what to write, how to write it, and how to look at it without the package's own reader."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import zarr

from cache.features import FeatureStore
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec

SHAPE = (3, 4)
BLOCK_ROWS = 8


def spec_of(shape: tuple[int, ...] = SHAPE, dtype: str = "float32", **fields: object) -> FeatureSpec:
    values = {
        "kind": "features",
        "decoder": {"contract": "test", "version": 1},
        "sampling": {"rule": "uniform", "frames": 8},
        "transform": {"name": "squash", "size": 64},
        "backbone": {"name": "net", "weights": "abc"},
        "cut": "pooled",
    }
    return FeatureSpec(**{**values, **fields}, shape=shape, dtype=dtype)  # type: ignore[arg-type]


def rows_of(count: int, start: int = 0) -> list[Row]:
    return [Row(f"class {i % 3}/clip-{i:03d} é", f"class {i % 3}", "train") for i in range(start, start + count)]


def values(count: int, spec: FeatureSpec, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, *spec.shape)) * 40
    return np.abs(drawn).astype(spec.dtype) if spec.dtype == "uint8" else drawn.astype(spec.dtype)


def outcome_of(row: int, failed: Iterable[int] = ()) -> Outcome:
    if row in failed:
        return Outcome("failed", f"broken file {row}", -1, 30, 0, -1.0)
    return Outcome("ok", "", 100 + row, 101 + row, row % 2, row / 7)


def write(
    store: FeatureStore, array: np.ndarray, blocks: Iterable[int] | None = None, failed: Iterable[int] = ()
) -> None:
    """Write blocks (default: the missing ones) of a store whose row r holds array[r]."""
    with store.writer() as writer:
        for block in store.missing() if blocks is None else blocks:
            first, last = store.block_range(block)
            outcomes = [outcome_of(row, failed) for row in range(first, last)]
            writer.write_block(block, array[first:last], outcomes, {"host": "here", "versions": {"a": "1"}})


def contents(path: Path) -> dict[str, object]:
    """All that must not depend on how a store came about: files byte for byte, the ledger's lines in any order; no lock."""
    made: dict[str, object] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name, data = str(file.relative_to(path)), file.read_bytes()
        if name != "lock":
            made[name] = sorted(data.splitlines()) if name == "ledger.jsonl" else data
    return made


def other_reader(store: FeatureStore) -> np.ndarray:
    """All rows as zarr-python or h5py read them."""
    parts = []
    for block in range(store.blocks):
        first, last = store.block_range(block)
        if store.backend.startswith("zarr"):
            array = zarr.open_group(store.path, mode="r")["features"]
            assert isinstance(array, zarr.Array)
            start = block * store.block_rows
            parts.append(np.asarray(array[start : start + last - first]))
        else:
            with h5py.File(store.path / "blocks" / f"{block:06d}.h5", "r") as file:
                dataset = file["features"]
                assert dataset.chunks is None
                assert dataset.compression is None
                parts.append(dataset[...])
    return np.concatenate(parts)
