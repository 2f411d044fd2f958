"""A store in RAM, for tests and for features that live as long as the process."""

# ruff: noqa: D102 - what the methods promise stands in cache.medium

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cache.journal import Batch, Batches, Journal
from cache.ledger import Entry, LedgerText
from cache.medium import BACKENDS, Array, Finding, Header, Medium
from cache.rows import Outcome
from cache.table import RowTable
from fsar_cache.errors import UsageError


class MemoryJournal(Journal):
    """A journal that outlives the writer, not the process."""

    def __init__(self, kept: dict[int, Batches], block: int, rows: int, header: Header) -> None:
        super().__init__(rows, header.spec.shape, header.dtype)
        self._kept, self._block = kept, block
        self.batches = dict(kept.get(block, {}))

    def _save(self, first: int, array: Array, outcomes: Sequence[Outcome], key: str) -> None:
        self._kept.setdefault(self._block, {})[first] = Batch(array.copy(), list(outcomes), key)

    def remove(self) -> None:
        self._kept.pop(self._block, None)
        self.batches = {}


@BACKENDS.add("memory")
class MemoryMedium(Medium):
    """Blocks are arrays; nothing touches the disk, `path` is only a name."""

    durable = False

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self._table = RowTable(header.block_rows)
        self._entries: dict[int, Entry] = {}
        self._arrays: dict[int, Array] = {}
        self._journals: dict[int, Batches] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lock(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise UsageError(f"another writer has the memory store {self.path} (in this process)")
        try:
            yield
        finally:
            self._lock.release()

    def busy(self) -> bool:
        return self._lock.locked()

    def save_table(self, table: RowTable) -> None:
        self._table = table

    def load_table(self) -> RowTable:
        return self._table

    def ledger(self) -> LedgerText:
        return LedgerText(dict(self._entries), [])

    def tidy(self) -> None:
        for block in self._entries:
            self._journals.pop(block, None)

    def put(self, block: int, array: Array, outcomes: Mapping[str, Any], provenance: Mapping[str, Any]) -> Entry:
        kept = np.array(array, self.header.dtype)
        checksum = hashlib.sha256(kept.reshape(-1).view(np.uint8).data).hexdigest()
        kept.flags.writeable = False
        self._arrays[block] = kept
        self._entries[block] = Entry(block, len(kept), kept.nbytes, 0, checksum, outcomes, provenance)
        self._journals.pop(block, None)
        return self._entries[block]

    def adopt(self, entry: Entry, source: Medium) -> None:
        assert isinstance(source, MemoryMedium)
        self._arrays[entry.block] = source._arrays[entry.block]  # arrays of blocks never change
        self._entries[entry.block] = entry
        self._journals.pop(entry.block, None)

    def drop(self, block: int) -> None:
        self._entries.pop(block, None)
        self._arrays.pop(block, None)

    def array(self, entry: Entry) -> Array:
        return self._arrays[entry.block]

    def load(self, entry: Entry, out: Array) -> None:
        out[:] = self._arrays[entry.block].reshape(out.shape)

    def journal(self, block: int, rows: int) -> MemoryJournal:
        return MemoryJournal(self._journals, block, rows, self.header)

    def journalled(self) -> list[int]:
        return sorted(self._journals)

    def check(self, entry: Entry) -> Finding | None:
        found = hashlib.sha256(self._arrays[entry.block].reshape(-1).view(np.uint8).data).hexdigest()
        if found == entry.sha256:
            return None
        return Finding(entry.block, "flipped", f"checksum {found[:16]}, {entry.sha256[:16]} was written")

    def strays(self) -> list[Finding]:
        return []

    def size(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())
