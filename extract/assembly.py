"""Blocks underway: which batches are left to do, journals for those that are done, and the write of every block that becomes whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.features import FeatureStore
from cache.journal import Batch as Saved
from cache.journal import Journal
from cache.rows import Outcome
from cache.writer import Writer
from extract.compute import Batch
from extract.progress import Meter
from fsar_cache.canonical import digest


@dataclass
class _Open:
    """A block underway: its journal, where its batches begin, and how many are not done."""

    journal: Journal
    firsts: list[int]
    left: int


class Assembly:
    """Cuts unfinished blocks into batches of `clips` rows and puts the results together again; one thread, inside the writer's lock.

    A journalled batch counts as done if it was made in the same way (`made_by`) from the same clips, unless one of its clips was absent
    and is now among `ids`, or failed and is to be tried again.
    """

    def __init__(
        self,
        store: FeatureStore,
        writer: Writer,
        clips: int,
        made_by: Mapping[str, Any],
        meter: Meter,
        *,
        ids: Collection[str],
        retry_failed: bool = False,
    ) -> None:
        self._store, self._writer, self._clips, self._made_by, self._meter = store, writer, clips, made_by, meter
        self._ids, self._retry_failed = ids, retry_failed
        self._missing = store.missing()
        self._open: dict[int, _Open] = {}
        sizes = [last - first for first, last in map(store.block_range, self._missing)]
        meter.skip(len(store.rows) - sum(sizes))

    @property
    def waiting(self) -> bool:
        """Whether batches were given out that have not come back."""
        return bool(self._open)

    def batches(self) -> Iterator[tuple[int, int, int]]:
        """(block, first row in the block, rows) of every batch that no journal holds, in order; blocks open as they are reached."""
        for block in self._missing:
            first, last = self._store.block_range(block)
            firsts = list(range(0, last - first, self._clips))
            counts = [min(self._clips, last - first - place) for place in firsts]
            journal = self._writer.journal(block)
            left = []
            for place, count in zip(firsts, counts, strict=True):
                if place in journal.batches and self._holds(journal.batches[place], first + place, count):
                    self._meter.skip(count)
                else:
                    left.append((block, place, count))
            self._open[block] = _Open(journal, firsts, len(left))
            if not left:
                self._write(block)
            yield from left

    def _key(self, first: int, count: int) -> str:
        """What rows first..first+count-1 of the store are made from and how."""
        rows = [[row.id, row.view, row.origin] for row in self._store.rows[first : first + count]]
        return digest({"rows": rows, "made_by": dict(self._made_by)})

    def _holds(self, saved: Saved, first: int, count: int) -> bool:
        """Whether a journalled batch is what this run would make of rows first..first+count-1 of the store."""
        if len(saved.outcomes) != count or saved.key != self._key(first, count):
            return False
        rows = self._store.rows[first : first + count]
        return not any(
            (outcome.status == "absent" and row.id in self._ids) or (outcome.status == "failed" and self._retry_failed)
            for row, outcome in zip(rows, saved.outcomes, strict=True)
        )

    def save(self, batch: Batch) -> None:
        """Journal one computed batch; write its block if that was the last one."""
        assert batch.features is not None
        opened = self._open[batch.block]
        outcomes = [outcome for outcome in batch.outcomes if outcome is not None]
        key = self._key(self._store.block_range(batch.block)[0] + batch.first, batch.count)
        opened.journal.add(batch.first, batch.features, outcomes, key)
        opened.left -= 1
        self._meter.count(outcomes)
        if not opened.left:
            self._write(batch.block)

    def _write(self, block: int) -> None:
        opened = self._open.pop(block)
        saved = [opened.journal.batches[place] for place in opened.firsts]
        outcomes: list[Outcome] = [outcome for batch in saved for outcome in batch.outcomes]
        self._writer.write_block(block, np.concatenate([batch.array for batch in saved]), outcomes, self._made_by)
