"""Reading a feature store: rows by number or by clip, from mapped blocks or into RAM; and what is there and what isn't."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.ledger import Entry
from cache.maps import Maps
from cache.medium import Array, Finding, Header, Medium
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.standing import Standing, standing_of
from cache.table import RowTable
from cache.writer import Writer
from fsar_cache.errors import IntegrityError, UsageError

Ints = NDArray[np.int64]


class FeatureStore:
    """A store, open for reading; `writer()` for writing. Reads are safe from several threads; a pickled store opens itself again."""

    def __init__(self, path: Path, medium: Medium, header: Header) -> None:
        self.path, self.medium, self.header = path, medium, header
        self.dtype = header.dtype
        """Of the features, little-endian."""
        self._elements = header.spec.row_bytes // header.dtype.itemsize
        self._lock = threading.Lock()
        self._maps = Maps(medium.array, medium.held_blocks)
        self._standing: Standing
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        from cache.store import open_store

        if not self.medium.durable:
            raise UsageError(f"the memory store {self.path} can't go to another process", hint="use zarr or hdf5")
        return (open_store, (self.path,))

    def __repr__(self) -> str:
        return (
            f"FeatureStore({str(self.path)!r}, {self.backend}, {len(self._table)} rows of "
            f"{'x'.join(map(str, self.spec.shape))} {self.spec.dtype}, {len(self.done)}/{self.blocks} blocks)"
        )

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of maps; the store may be used again."""
        self._maps.keep({})

    def refresh(self) -> None:
        """See what other processes added since this store was opened; reads that are under way in other threads stay right."""
        with self._lock:
            standing = standing_of(self.medium, self.path)
            self._maps.keep(standing.entries)
            self._standing = standing

    def add_entry(self, entry: Entry) -> None:
        """Take in one block that the writer has just written."""
        with self._lock:
            self._standing.take(entry)

    @property
    def _table(self) -> RowTable:
        return self._standing.table

    @property
    def spec(self) -> FeatureSpec:
        """What determines the bytes."""
        return self.header.spec

    @property
    def backend(self) -> str:
        """Name of the backend: "zarr", "zarr-zstd", "hdf5", "memory"."""
        return self.header.backend

    @property
    def dataset(self) -> str:
        """Name of the dataset the rows come from."""
        return self.header.dataset

    @property
    def rows(self) -> list[Row]:
        """All planned rows, in order."""
        return self._table.rows

    @property
    def extents(self) -> tuple[int, ...]:
        """How many rows each planning step added."""
        return self._table.extents

    @property
    def block_rows(self) -> int:
        """Rows of a full block."""
        return self.header.block_rows

    @property
    def blocks(self) -> int:
        """Number of planned blocks."""
        return len(self._table.sizes)

    def block_range(self, block: int) -> tuple[int, int]:
        """(first, last): the block holds rows first..last-1."""
        if not 0 <= block < self.blocks:
            raise UsageError(f"the store {self.path} has {self.blocks} blocks, there is no block {block}")
        first = int(self._table.first[block])
        return first, first + int(self._table.sizes[block])

    @property
    def done(self) -> set[int]:
        """Blocks that are written."""
        return set(self._standing.entries)

    def missing(self) -> list[int]:
        """Blocks that are not written, in order."""
        now = self._standing
        return [block for block in range(len(now.table.sizes)) if block not in now.entries]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Whether each row has features, bool [rows]: neither failed, absent nor unfinished."""
        return self._standing.ok.copy()

    def outcome(self, row: int) -> Outcome | None:
        """What became of a row; None while its block is unfinished."""
        now = self._standing
        return now.outcome(int(self._checked([row], now)[0]))

    def rows_of(self, ids: Iterable[str], view: int = 0) -> Ints:
        """Row number of each clip in one view, int64; -1 for a clip that is no row of this store."""
        return self._table.numbers(ids, view)

    def numbers_of(self, rows: Iterable[Row]) -> Ints:
        """Row number of each of `rows` by clip and view, int64; -1 for what is no row of this store."""
        return self._table.numbers_of(rows)

    def blocks_of(self, rows: Iterable[Row]) -> list[int]:
        """The blocks that hold any of `rows`, in order."""
        numbers = self._table.numbers_of(rows)
        blocks, _ = self._table.locate(numbers[numbers >= 0])
        return sorted(set(blocks.tolist()))

    def _checked(self, rows: Any, now: Standing) -> Ints:
        index = np.asarray(rows)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
            raise UsageError(f"rows must be a list of row numbers, got {index.dtype} of shape {index.shape}")
        index = index.astype(np.int64, copy=False)
        if index.size and (index.min() < 0 or index.max() >= len(now.table)):
            wrong = index[(index < 0) | (index >= len(now.table))]
            raise UsageError(f"the store {self.path} has rows 0..{len(now.table) - 1}, not {wrong[0]}")
        return index

    def _require(self, index: Ints, there: NDArray[np.bool_], now: Standing) -> None:
        """Raise IntegrityError that names the clips of rows `index` that are not `there` (bool [rows])."""
        if there[index].all():
            return
        bad = index[~there[index]]
        shown = []
        for row in bad[:5].tolist():
            outcome = now.outcome(row)
            why = "unfinished" if outcome is None else outcome.reason or outcome.status
            shown.append(f"{now.table.ids[row]!r} ({why})")
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise IntegrityError(
            f"the store {self.path} has no features of {', '.join(shown)}{more}",
            hint="finish the extraction; leave failed clips out (store.ok says which)",
        )

    def read(self, rows: Any) -> Array:
        """Features of any rows, in any order and with repeats: a new array [n, *shape], copied from mapped blocks.

        Raises IntegrityError naming the clips where a row failed or is unfinished, and where a block is missing or torn.
        """
        now = self._standing
        index = self._checked(rows, now)
        self._require(index, now.ok, now)
        out = np.empty((len(index), self._elements), self.dtype)
        blocks, places = now.table.locate(index)
        self._maps.gather(now.entries, blocks.tolist(), places.tolist(), out)
        return out.reshape(-1, *self.spec.shape)

    def load(self, rows: Any = None) -> Array:
        """Many rows at once, block by block: a new array [n, *shape].

        rows None: every row of the store, with NaN (0 in integer stores) in failed and absent ones; else as `read`.
        """
        if rows is None:
            return self._load_all()
        now = self._standing
        index = self._checked(rows, now)
        self._require(index, now.ok, now)
        out = np.empty((len(index), self._elements), self.dtype)
        blocks, places = now.table.locate(index)
        order = np.argsort(blocks, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1) if len(order) else ():
            entry, inside = now.entries[int(blocks[group[0]])], places[group]
            start, end = int(group[0]), int(group[-1]) + 1
            straight = end - start == len(group) and (np.diff(inside) == 1).all()
            if straight and len(group) == entry.rows:
                self.medium.load(entry, out[start:end])
            elif straight:
                out[start:end] = self._maps.flat(entry)[inside[0] : inside[-1] + 1]
            else:
                out[group] = self._maps.flat(entry)[inside]
        return out.reshape(-1, *self.spec.shape)

    def _load_all(self) -> Array:
        now = self._standing
        self._require(np.arange(len(now.table)), now.written, now)
        out = np.empty((len(now.table), *self.spec.shape), self.dtype)
        for block, first in enumerate(now.table.first.tolist()):
            entry = now.entries[block]
            self.medium.load(entry, out[first : first + entry.rows])
        return out

    def writer(self) -> Writer:
        """The writer, to be used in a `with` block; UsageError naming the holder where another one is at work."""
        return Writer(self)

    def require_origins(self, rows: Sequence[Row]) -> None:
        """Raise IntegrityError where a clip that has features would now be cut from another file or time span; nothing is written."""
        self._standing.require_origins(rows, self.path)

    def retry_blocks(self, rows: Sequence[Row], *, failed: bool = False) -> list[int]:
        """Written blocks to drop and make again, in order, given the rows planned now; to be asked before `plan`, which takes over origins.

        Those with an absent row that is in `rows`, and those with a failed row whose file is there now and is not the one that failed;
        with `failed` all that have a failed row among `rows`. A block stays where one of `rows` has features and no file any more:
        those couldn't be made again.
        """
        return self._standing.retry_blocks(rows, failed)

    def plan(self, rows: Sequence[Row]) -> None:
        """Add the rows that the store doesn't have yet as new blocks, taking over labels, partitions and origins.

        Raises UsageError where a clip and view stands twice in `rows` or another writer is at work, else as `require_origins`.
        """
        self.require_origins(rows)
        table = self.medium.load_table()
        if table.with_rows(rows) is table:
            return
        with self.medium.lock():
            self.medium.save_table(self.medium.load_table().with_rows(rows))
        self.refresh()

    def drop_block(self, block: int) -> None:
        """Forget a block (a damaged one, or one with clips to try again), so that extracting again makes it anew."""
        with self.writer() as writer:
            writer.drop_block(block)

    def entry(self, block: int) -> Entry | None:
        """What the ledger says of a block."""
        return self._standing.entries.get(block)

    def verify(
        self, blocks: Sequence[int] | None = None, report: Callable[[int, int], None] | None = None
    ) -> list[Finding]:
        """Compare blocks (default: all) with their checksums; see `cache.verify`."""
        from cache.verify import verify

        return verify(self, blocks, report)

    def info(self) -> dict[str, Any]:
        """Facts for people and scripts, as plain data."""
        from cache.facts import facts_of

        return facts_of(self, self._standing)

    def failures(self) -> list[dict[str, Any]]:
        """Failed rows: id, view and reason."""
        return self._standing.failures()

    def damaged(self) -> list[dict[str, Any]]:
        """Rows whose features come from a damaged file: id, view, decoded, claimed and corrupt frames.

        Those with corrupt frames, and those with fewer frames than their container claims (by more than 2 frames and 2 %).
        """
        return self._standing.damaged()
