"""Feature stores: one row of features per clip and view, kept in blocks that exist whole or not at all.

store = create(path, spec, rows, dataset="synth-source")       # or open_store(path)
with store.writer() as writer:
    for block in store.missing():
        first, last = store.block_range(block)                  # rows first..last-1
        writer.write_block(block, features, outcomes, provenance)
clips = store.read(store.rows_of(ids))                          # [n, *spec.shape]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cache.features import FeatureStore
from cache.folder import HEADER, read_header, write_header
from cache.medium import BACKENDS, Header, Medium
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.table import RowTable
from fsar_cache.errors import IntegrityError, UsageError
from fsar_cache.files import PARTIAL, is_aside, space_guard

__all__ = ["FeatureStore", "create", "default_block_rows", "open_store", "stores_under"]

DTYPES = ("float16", "float32", "float64", "int16", "int32", "int64", "uint8")
_BLOCK_BYTES = 16 << 20
_LEAST_ROWS = 256
OWN = {HEADER, "lock", "rows.json", "ledger.jsonl", "zarr.json", "features", "blocks", "journal"}
"""What lies in a store's folder."""


def default_block_rows(row_bytes: int, rows: int) -> int:
    """Rows per block: a power of two from 8 to 4096 that makes blocks of about 16 MB, no larger than `rows` need.

    A need below 256 rows counts as 256, because rows per block are fixed for ever: a store that begins with a few clips may grow.
    """
    fit = max(8, min(4096, _BLOCK_BYTES // max(1, row_bytes)))
    need = max(_LEAST_ROWS, 1 << (rows - 1).bit_length())
    return min(1 << (fit.bit_length() - 1), need)


def create(
    path: Path,
    spec: FeatureSpec,
    rows: Sequence[Row],
    *,
    dataset: str,
    backend: str = "zarr",
    block_rows: int | None = None,
) -> FeatureStore:
    """Make the store `path`, or open it if it is there and plan the rows it doesn't have yet (they start a new block).

    block_rows: rows per block, by default some 16 MB of them; fixed once the store exists. Rows that are there already take the
    label and partition given now. Raises IntegrityError naming fields and both values where the store has another fingerprint,
    UsageError where backend, dataset or block_rows differ, the folder is something else, or a clip and view stands twice.
    """
    if spec.dtype not in DTYPES or not spec.row_bytes:
        raise UsageError(f"no store for rows of {spec.shape} {spec.dtype}; dtypes: {', '.join(DTYPES)}")
    if block_rows is not None and block_rows < 1:
        raise UsageError(f"block_rows must be at least 1, got {block_rows}")
    kind, path = BACKENDS.get(backend), Path(path)
    header = Header(spec, dataset, backend, block_rows or default_block_rows(spec.row_bytes, len(rows)))
    if not kind.durable:
        medium = kind(path, header)
        memory = FeatureStore(path, medium, header)
        memory.plan(rows)
        return memory
    with space_guard(path):
        if not (path / HEADER).exists():
            _make(path, kind, header, rows)
        store = open_store(path)
        _require_fit(store, header, block_rows)
        store.plan(rows)
    return store


def _make(path: Path, kind: type[Medium], header: Header, rows: Sequence[Row]) -> None:
    """Everything a new store needs, its header last."""
    table = RowTable(header.block_rows).with_rows(rows)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder for a store")
    strange = [p.name for p in path.iterdir() if p.name not in OWN and not is_aside(p.name)] if path.exists() else []
    if strange:
        raise UsageError(
            f"{path} holds other things ({sorted(strange)[0]!r}) and no store", hint="choose another folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    medium = kind(path, header)
    with medium.lock():
        if (path / HEADER).exists():
            return
        if medium.ledger().entries:
            raise IntegrityError(
                f"{path} has written blocks but no {HEADER}", hint="restore that file, or choose another folder"
            )
        medium.tidy()
        medium.save_table(table)
        write_header(path, header)


def _require_fit(store: FeatureStore, header: Header, block_rows: int | None) -> None:
    store.spec.require_same(header.spec, f"the store {store.path}", "the settings given")
    if store.dataset != header.dataset:
        raise UsageError(f"the store {store.path} holds dataset {store.dataset!r}, not {header.dataset!r}")
    if store.backend != header.backend:
        raise UsageError(
            f"the store {store.path} is {store.backend}, {header.backend} was asked for",
            hint=f"ask for {store.backend}, or fsar-cache store convert {store.path} COPY --backend {header.backend}",
        )
    if block_rows not in (None, store.block_rows):
        raise UsageError(f"the store {store.path} has {store.block_rows} rows per block, {block_rows} were asked for")


def open_store(path: Path) -> FeatureStore:
    """Open the store in the folder `path`; MissingError where there is none or it is half made, IntegrityError where it is damaged."""
    path = Path(path)
    header = read_header(path)
    return FeatureStore(path, BACKENDS.get(header.backend)(path, header), header)


def stores_under(folder: Path) -> list[Path]:
    """The folders below (or at) `folder` that hold a store, sorted, without unfinished ones; [] where the folder doesn't exist.

    Links to folders are followed; a folder that several lead to counts once.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real, below = os.path.realpath(place), [name for name in folders if not name.endswith(PARTIAL)]
        folders.clear()
        if real in seen:
            continue
        seen.add(real)
        if HEADER in files:
            found.append(Path(place))
        else:  # links last: a folder goes by its own path where that is below too
            folders += sorted(below, key=lambda name: (os.path.islink(os.path.join(place, name)), name))
    return sorted(found)
