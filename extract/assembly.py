"""Blocks underway: which slices are left to do, journals for those that are done, and the write of every block that becomes whole."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.features import FeatureStore
from cache.journal import Batch as Saved
from cache.journal import Journal
from cache.rows import Outcome, Row
from cache.writer import Writer
from extract.compute import Made, Slice
from extract.progress import Meter
from fsar_cache.canonical import digest


@dataclass
class _Open:
    """A block underway: its journal, where its batches begin, and how many are not done."""

    journal: Journal
    firsts: list[int]
    left: int


class Assembly:
    """Cuts unfinished blocks into slices of `clips` rows and puts the results together again, inside the writer's lock.

    One thread may take slices while another saves them.

    A journalled slice counts as done if it was made in the same way (`made_by`, and for training views `drawn`) from the same clips,
    unless one of its clips was absent and is now among `ids`, or failed and is to be tried again.
    """

    def __init__(
        self,
        store: FeatureStore,
        writer: Writer,
        blocks: Sequence[int],
        clips: int,
        made_by: Mapping[str, Any],
        drawn: Mapping[str, Any],
        meter: Meter,
        *,
        ids: Collection[str],
        retry_failed: bool = False,
    ) -> None:
        self._store, self._writer, self._clips, self._meter = store, writer, clips, meter
        self._by, self._drawn = made_by, drawn
        self._ids, self._retry_failed = ids, retry_failed
        self._blocks = blocks
        self._open: dict[int, _Open] = {}
        self._turn = threading.Lock()

    def slices(self) -> Iterator[Slice]:
        """Every slice that no journal holds, in order; blocks open as they are reached."""
        for block in self._blocks:
            with self._turn:
                left = self._opened(block)
            yield from left

    def _opened(self, block: int) -> list[Slice]:
        """Open a block (or write it, where its journal holds everything); the slices left to do."""
        rows = self._store.rows
        first, last = self._store.block_range(block)
        firsts = list(range(0, last - first, self._clips))
        journal = self._writer.journal(block)
        left = []
        for place in firsts:
            part = Slice(block, place, rows[first + place : min(first + place + self._clips, last)])
            if place in journal.batches and self._holds(journal.batches[place], part):
                self._meter.skip(len(part.rows))
            else:
                left.append(part)
        self._open[block] = _Open(journal, firsts, len(left))
        if not left:
            self._write(block)
        return left

    def _made_by(self, rows: Sequence[Row]) -> dict[str, Any]:
        """How these rows are made: what is said of training views is told only where there are any."""
        return {**self._by, "views": dict(self._drawn)} if any(row.view for row in rows) else dict(self._by)

    def _key(self, part: Slice) -> str:
        """What the rows of a slice are made from and how."""
        rows = [[row.id, row.view, row.origin] for row in part.rows]
        return digest({"rows": rows, "made_by": self._made_by(part.rows)})

    def _holds(self, saved: Saved, part: Slice) -> bool:
        """Whether a journalled batch is what this run would make of the slice."""
        if len(saved.outcomes) != len(part.rows) or saved.key != self._key(part):
            return False
        return not any(
            (outcome.status == "absent" and row.id in self._ids) or (outcome.status == "failed" and self._retry_failed)
            for row, outcome in zip(part.rows, saved.outcomes, strict=True)
        )

    def save(self, made: Made) -> None:
        """Journal one computed slice; write its block if that was the last one."""
        with self._turn:
            opened = self._open[made.block]
            first = self._store.block_range(made.block)[0] + made.first
            rows = self._store.rows[first : first + len(made.outcomes)]
            opened.journal.add(made.first, made.features, made.outcomes, self._key(Slice(made.block, made.first, rows)))
            opened.left -= 1
            self._meter.count(made.outcomes)
            if not opened.left:
                self._write(made.block)

    def _write(self, block: int) -> None:
        opened = self._open.pop(block)
        saved = [opened.journal.batches[place] for place in opened.firsts]
        outcomes: list[Outcome] = [outcome for batch in saved for outcome in batch.outcomes]
        by = self._made_by(self._store.rows[slice(*self._store.block_range(block))])
        self._writer.write_block(block, np.concatenate([batch.array for batch in saved]), outcomes, by)
