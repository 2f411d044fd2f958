"""The one writer of a store: whole blocks in, journals for blocks that are still open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.journal import Journal
from cache.ledger import Entry, columns_of
from cache.medium import Array
from cache.rows import Outcome
from fsar_cache.canonical import plain
from fsar_cache.errors import UsageError

if TYPE_CHECKING:
    from cache.features import FeatureStore


class Writer:
    """Holds the store's lock from `with` to its end; made by `FeatureStore.writer()`."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._held = ExitStack()
        self._open = False

    def __enter__(self) -> Writer:
        self._held.enter_context(self._store.medium.lock())
        try:
            self._store.medium.tidy()
            self._store.refresh()
        except BaseException:
            self._held.close()
            raise
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._held.close()

    def _require(self, block: int) -> None:
        if not self._open:
            raise UsageError("a writer works only inside its `with` block")
        if not 0 <= block < self._store.blocks:
            raise UsageError(f"the store {self._store.path} has blocks 0..{self._store.blocks - 1}, not {block}")

    def write_block(
        self, block: int, array: Array, outcomes: Sequence[Outcome], provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Write a whole block: array [rows of the block, *shape] of the store's dtype, one outcome per row.

        Durable when this returns; its journal goes. Failed and absent rows are stored as NaN (0 in integer stores) whatever `array` says.
        provenance: plain data on what made the block. Raises UsageError for a misfit or a block that is there already, SpaceError.
        """
        self._require(block)
        store = self._store
        first, last = store.block_range(block)
        if block in store.done:
            raise UsageError(f"block {block} of {store.path} is written already", hint="drop_block it first")
        want = (last - first, *store.spec.shape)
        if strange := {o.status for o in outcomes} - {"ok", "failed", "absent"}:
            raise UsageError(f"outcomes are ok, failed or absent, not {sorted(strange)[0]!r}")
        if array.shape != want or np.dtype(array.dtype) != store.dtype or len(outcomes) != last - first:
            raise UsageError(
                f"block {block} of {store.path} takes {want} {store.dtype} and {last - first} outcomes, "
                f"got {array.shape} {array.dtype} and {len(outcomes)}"
            )
        columns = columns_of(outcomes)
        made = np.ascontiguousarray(array, store.dtype)
        without = [place for place, outcome in enumerate(outcomes) if outcome.status != "ok"]
        if without:
            made = made.copy()
            made[without] = store.header.fill()
        store.add_entry(store.medium.put(block, made, columns, plain(dict(provenance or {}))))

    def adopt(self, entry: Entry, source: FeatureStore) -> None:
        """Take over a block of another store of the same spec, backend and rows per block, byte for byte, under the same number.

        The file is linked, or copied where it lies on another disk, and then compared with its checksum: IntegrityError where it is
        damaged.
        """
        self._require(entry.block)
        store = self._store
        first, last = store.block_range(entry.block)
        here, there = store.header, source.header
        if here != there or last - first != entry.rows or entry.block in store.done:
            raise UsageError(f"block {entry.block} of {source.path} can't become that block of {store.path}")
        store.medium.adopt(entry, source.medium)
        store.add_entry(entry)

    def journal(self, block: int) -> Journal:
        """The journal of an unfinished block: what is saved of it, and `add` to save more."""
        self._require(block)
        if block in self._store.done:
            raise UsageError(f"block {block} of {self._store.path} is written already, it has no journal")
        first, last = self._store.block_range(block)
        return self._store.medium.journal(block, last - first)

    def drop_block(self, block: int) -> None:
        """Forget a block, so that the next extraction makes it again."""
        self._require(block)
        self._store.medium.drop(block)
        self._store.refresh()
