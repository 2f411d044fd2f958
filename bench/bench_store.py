"""Stores against numpy.memmap on the same bytes: ratios within one run.

    python bench/bench_store.py          # a line per row size
    python bench/bench_store.py --json

Random clips: batches of 40 random clips, warm page cache. Bulk load: all rows into RAM. Both are measured in interleaved rounds,
the best of each counts. Resume scan: opening a store of 100,000 rows and finding what is missing.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cache.maps import map_limit
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import FeatureStore, create, open_store

CLIPS = 40
LARGE = 300_000
SIZES = {
    "8x512 float16": (6000, (8, 512), "float16"),
    "8x512 float32": (4000, (8, 512), "float32"),
    "392x384 float16": (600, (392, 384), "float16"),
    "8x512x7x7 float32": (240, (8, 512, 7, 7), "float32"),
    "8x2048x7x7 float16": (160, (8, 2048, 7, 7), "float16"),
}


def spec_of(shape: tuple[int, ...], dtype: str) -> FeatureSpec:
    """A spec of nothing but a shape and a dtype."""
    return FeatureSpec("features", {}, {}, {}, {"name": "bench"}, "pooled", shape, dtype)


def filled(path: Path, array: np.ndarray, backend: str, block_rows: int | None = None) -> FeatureStore:
    """A finished store of `array`, one row per clip."""
    rows = [Row(f"class/clip{i:07d}", "class", "all") for i in range(len(array))]
    spec = spec_of(array.shape[1:], array.dtype.name)
    store = create(path, spec, rows, dataset="bench", backend=backend, block_rows=block_rows)
    with store.writer() as writer:
        for block in store.missing():
            first, last = store.block_range(block)
            writer.write_block(block, array[first:last], [Outcome("ok", "", 120, 120, 0, 4.8)] * (last - first), {})
    return open_store(path)


def best(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each action, best of interleaved rounds."""
    times = {name: float("inf") for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def reads(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Random clips and bulk load, per row size: microseconds per clip or MB/s of memmap, and ratios of each backend to it."""
    made = {}
    for name, (count, shape, dtype) in SIZES.items():
        rng = np.random.default_rng(0)
        array = rng.normal(size=(count, *shape)).astype(dtype)
        place = folder / name.replace(" ", "-")
        place.mkdir()
        array.tofile(place / "plain")
        plain = np.memmap(place / "plain", dtype, "r", shape=array.shape)
        stores = {backend: filled(place / backend, array, backend) for backend in ("zarr", "hdf5")}
        draws = [rng.integers(0, count, CLIPS) for _ in range(max(2, (24 << 20) // (array[0].nbytes * CLIPS)))]
        for store in stores.values():
            assert np.array_equal(store.read(draws[0]), array[draws[0]])
            assert np.array_equal(store.load(), array)
        random = best(
            {"memmap": lambda a=plain, d=draws: [a[rows] for rows in d]}
            | {b: lambda s=s, d=draws: [s.read(rows) for rows in d] for b, s in stores.items()},
            rounds,
        )
        bulk = best({"memmap": lambda a=plain: np.array(a)} | {b: s.load for b, s in stores.items()}, rounds)
        made[name] = {
            "row_bytes": array[0].nbytes,
            "memmap_us_per_clip": 1e6 * random["memmap"] / (len(draws) * CLIPS),
            "memmap_bulk_mb_per_s": array.nbytes / bulk["memmap"] / 1e6,
            **{f"random_{b}_time": random[b] / random["memmap"] for b in stores},
            **{f"bulk_{b}_rate": bulk["memmap"] / bulk[b] for b in stores},
        }
        del plain, array
    return made


def many_blocks(folder: Path, rounds: int) -> dict[str, float]:
    """Random clips of 8 KB from twice as many blocks as are kept mapped: every second read opens a file; time as a ratio to memmap."""
    rng = np.random.default_rng(0)
    blocks = 2 * map_limit()
    array = rng.normal(size=(4 * blocks, 8, 512)).astype("float16")
    array.tofile(folder / "many-plain")
    plain = np.memmap(folder / "many-plain", array.dtype, "r", shape=array.shape)
    store = filled(folder / "many", array, "zarr", block_rows=4)
    draws = [rng.integers(0, len(array), CLIPS) for _ in range(50)]
    assert np.array_equal(store.read(draws[0]), array[draws[0]])
    seconds = best(
        {"memmap": lambda: [plain[rows] for rows in draws], "zarr": lambda: [*map(store.read, draws)]}, rounds
    )
    return {
        "blocks": blocks,
        "us_per_clip": 1e6 * seconds["zarr"] / (len(draws) * CLIPS),
        "time": seconds["zarr"] / seconds["memmap"],
    }


def scan(folder: Path, rows: int) -> dict[str, float]:
    """Seconds to open a store of many rows, half of them extracted, and list its missing blocks; for large and for small blocks."""
    made = {}
    for block_rows in (1024, 8):
        path = folder / f"scan-{block_rows}"
        planned = [Row(f"class{i % 100:03d}/clip{i:07d}", f"class{i % 100:03d}", "train") for i in range(rows)]
        store = create(path, spec_of((1,), "uint8"), planned, dataset="bench", block_rows=block_rows)
        outcome = Outcome("ok", "", 120, 120, 0, 4.8)
        with store.writer() as writer:
            for block in store.missing()[: store.blocks // 2]:
                count = int(np.diff(store.block_range(block))[0])
                writer.write_block(block, np.zeros((count, 1), np.uint8), [outcome] * count, {"host": "bench"})
        start = time.perf_counter()
        again = create(path, spec_of((1,), "uint8"), planned, dataset="bench")
        left = len(again.missing())
        made[f"seconds_{block_rows}_rows_per_block"] = time.perf_counter() - start
        assert left == store.blocks - store.blocks // 2
    return {"rows": rows, **made}


def table(found: dict[str, dict[str, float]], scans: dict[str, float]) -> list[dict[str, object]]:
    """What was measured beside its reach; of each kind the worst size counts."""
    rows: list[dict[str, object]] = []
    small = [row for row in found.values() if row["row_bytes"] < LARGE]
    large = [row for row in found.values() if row["row_bytes"] >= LARGE]
    for backend in ("zarr", "hdf5"):
        for what, group, reach in (("8-16 KB", small, 2.0), ("300 KB and more", large, 1.2)):
            value = max(row[f"random_{backend}_time"] for row in group)
            rows.append({"what": f"{backend}: time of random clips of {what} / memmap", "value": value, "reach": reach})
        value = min(row[f"bulk_{backend}_rate"] for row in found.values())
        rows.append(
            {"what": f"{backend}: rate of bulk load / memmap", "value": value, "reach": 0.5, "better": "higher"}
        )
    seconds = max(value for name, value in scans.items() if name.startswith("seconds"))
    rows.append({"what": f"resume scan of {scans['rows']} rows", "value": seconds, "reach": 2.0, "unit": "s"})
    return [{"unit": "x", "better": "lower", **row} for row in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--rounds", type=int, default=25, help="interleaved rounds (default 25)")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the resume scan (default 100000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found, scans = reads(Path(folder), given.rounds), scan(Path(folder), given.rows)
        many = many_blocks(Path(folder), given.rounds)
    rows = table(found, scans)
    if given.json:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            json.dumps(
                {
                    "rows": rows,
                    "detail": {"reads": found, "resume_scan": scans, "many_blocks": many, "peak_rss_mb": peak},
                }
            )
        )
        return
    for name, row in found.items():
        print(f"{name:20}", "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    print(f"{'more blocks than maps':20}", "  ".join(f"{key} {value:.2f}" for key, value in many.items()))
    for row in rows:
        print(f"{row['what']:55} {row['value']:.3f} {row['unit']} (reach {row['reach']}, {row['better']} is better)")


if __name__ == "__main__":
    main()
