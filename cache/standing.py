"""Where a store stands: its rows, its written blocks, and which rows have features; seen at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.ledger import Entry
from cache.medium import Medium
from cache.rows import Outcome, Row
from cache.table import RowTable
from fsar_cache.errors import IntegrityError

Bools = NDArray[np.bool_]
_SLACK_FRAMES, _SLACK = 2, 0.02
"""Frames that a container may claim too many, and their share: some headers (AVI's above all) are off by one or two."""


@dataclass(frozen=True)
class Standing:
    """table: all rows; entries: block -> what the ledger says; written, ok, failed: bool [rows], of blocks that are written.

    A row is ok only once its entry is there, so other threads may read while `take` runs.
    """

    table: RowTable
    entries: dict[int, Entry]
    written: Bools
    ok: Bools
    failed: Bools

    def take(self, entry: Entry) -> None:
        """Take in a block that was written."""
        first = int(self.table.first[entry.block])
        fine = np.ones(entry.rows, np.bool_)
        fine[entry.failed + entry.absent] = False
        self.entries[entry.block] = entry
        self.written[first : first + entry.rows] = True
        self.failed[[first + place for place in entry.failed]] = True
        self.ok[first : first + entry.rows] = fine

    @property
    def absent(self) -> Bools:
        """Rows of written blocks whose clips were not in the dataset then, bool [rows]."""
        return self.written & ~self.ok & ~self.failed

    def outcome(self, row: int) -> Outcome | None:
        """What became of a row; None while its block is unfinished."""
        blocks, places = self.table.locate(np.array([row]))
        entry = self.entries.get(int(blocks[0]))
        return entry.outcome(int(places[0])) if entry else None

    def require_origins(self, rows: Sequence[Row], where: object) -> None:
        """Raise IntegrityError where rows that have features would now be cut from another file or time span."""
        changed = self.table.changed(rows, self.ok)
        if changed:
            shown = "".join(f"\n  {old.id}: {old.origin} then, {new.origin} now" for old, new in changed[:5])
            more = f"\n  and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise IntegrityError(
                f"{where} has features of {len(changed)} clips that have changed since:{shown}{more}",
                hint="if these clips lie there twice, move the newer files away; if this is another dataset of the same name, give it its "
                "own: csv:PATH#ALIAS or folder:PATH#ALIAS; else give the changed clips new ids, or remove the store and extract again: "
                f"rm -r {where}",
            )

    def retry_blocks(self, rows: Sequence[Row], failed: bool) -> list[int]:
        """See `FeatureStore.retry_blocks`."""
        if self.ok[self.written].all():
            return []
        absent = self.absent
        again, kept = set(), set()
        for row, number in zip(rows, self.table.numbers_of(rows).tolist(), strict=True):
            if number < 0 or not self.written[number]:
                continue
            block = int(np.searchsorted(self.table.first, number, "right") - 1)
            known = self.table.origins[number]
            if self.ok[number]:
                if known and not row.origin:
                    kept.add(block)
            elif absent[number] or failed or row.origin not in ("", known):
                again.add(block)
        return sorted(again - kept)

    def failures(self) -> list[dict[str, Any]]:
        """Failed rows: id, view and reason."""
        outcomes = ((row, self.outcome(row)) for row in np.flatnonzero(self.failed).tolist())
        return [{"id": self.table.ids[r], "view": self.table.views[r], "reason": o.reason} for r, o in outcomes if o]

    def damaged(self) -> list[dict[str, Any]]:
        """See `FeatureStore.damaged`."""
        made = []
        for block, entry in sorted(self.entries.items()):
            first = int(self.table.first[block])
            decoded, claimed, corrupt = (np.array(entry.outcomes[n]) for n in ("decoded", "claimed", "corrupt"))
            short = (decoded >= 0) & (claimed - decoded > np.maximum(_SLACK_FRAMES, _SLACK * claimed))
            for place in np.flatnonzero(((corrupt > 0) | short) & self.ok[first : first + entry.rows]).tolist():
                counts = {name: entry.outcomes[name][place] for name in ("decoded", "claimed", "corrupt")}
                row = first + place
                made.append({"id": self.table.ids[row], "view": self.table.views[row], **counts})
        return made


def standing_of(medium: Medium, where: object) -> Standing:
    """Read where the store `where` stands; IntegrityError where ledger and row table contradict each other.

    The ledger is read first: a writer plans rows before it writes them, so the table that is read after it knows every block.
    """
    entries = medium.ledger().entries
    table = medium.load_table()
    written, ok, failed = (np.zeros(len(table), np.bool_) for _ in range(3))
    made = Standing(table, {}, written, ok, failed)
    for entry in entries.values():
        planned = int(table.sizes[entry.block]) if 0 <= entry.block < len(table.sizes) else 0
        if entry.rows != planned:
            raise IntegrityError(
                f"{where}: the ledger has {entry.rows} rows of block {entry.block}, the row table has {planned}",
                hint="restore its rows.json and ledger.jsonl from one copy, or remove the store and extract again",
            )
        made.take(entry)
    return made
