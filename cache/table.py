"""The row table: which clip and view each row is, and which block holds it.

Rows are numbered 0..n-1 in the order they were planned. Each planning step (an *extent*) starts a new block, so a block's
rows never change once it is planned; the last block of an extent may be short.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.rows import Row
from cache.sealed import seal, unseal
from fsar_cache.errors import IntegrityError, UsageError

Ints = NDArray[np.int64]
COLUMNS = ("id", "label", "partition", "view", "origin")


class RowTable:
    """Columns ids, labels, partitions, views and origins, all of the same length, and the sizes of the extents."""

    def __init__(
        self,
        block_rows: int,
        extents: Sequence[int] = (),
        ids: Iterable[str] = (),
        labels: Iterable[str] = (),
        partitions: Iterable[str] = (),
        views: Iterable[int] = (),
        origins: Iterable[str] = (),
    ) -> None:
        self.block_rows = block_rows
        self.extents = tuple(extents)
        self.ids, self.labels, self.partitions = list(ids), list(labels), list(partitions)
        self.views, self.origins = list(views), list(origins)
        sizes: list[int] = []
        for count in self.extents:
            full, rest = divmod(count, block_rows)
            sizes += [block_rows] * full + ([rest] if rest else [])
        self.sizes: Ints = np.array(sizes, np.int64)
        """Rows of every block."""
        self.first: Ints = np.cumsum(self.sizes) - self.sizes
        """First row of every block."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def rows(self) -> list[Row]:
        """All rows, in order."""
        return list(map(Row, self.ids, self.labels, self.partitions, self.views, self.origins))

    @cached_property
    def _numbers(self) -> dict[tuple[str, int], int]:
        return {key: number for number, key in enumerate(zip(self.ids, self.views, strict=True))}

    def numbers(self, ids: Iterable[str], view: int) -> Ints:
        """Row numbers of clips in one view, int64; -1 for a clip that is no row."""
        find = self._numbers.get
        return np.array([find((i, view), -1) for i in ids], np.int64)

    def numbers_of(self, rows: Iterable[Row]) -> Ints:
        """Row numbers of `rows` by clip and view, int64; -1 for what is no row here."""
        find = self._numbers.get
        return np.array([find((row.id, row.view), -1) for row in rows], np.int64)

    def locate(self, rows: Ints) -> tuple[Ints, Ints]:
        """Block of each row, and its place inside the block."""
        blocks = np.searchsorted(self.first, rows, "right") - 1
        return blocks, rows - self.first[blocks]

    def with_rows(self, rows: Sequence[Row]) -> RowTable:
        """Return the table with labels, partitions and origins as `rows` say and the rows not yet there as a new extent.

        It is this very table if nothing changes. An origin that is known stays known where `rows` don't say one.

        Raises UsageError where `rows` name a clip and view twice.
        """
        keys = [(r.id, r.view) for r in rows]
        if len(set(keys)) != len(keys):
            seen: set[tuple[str, int]] = set()
            twice = next(k for k in keys if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise UsageError(f"clip {twice[0]!r}, view {twice[1]}, stands twice among the rows of one store")
        known = [self._numbers.get(key, -1) for key in keys]
        added = [row for row, number in zip(rows, known, strict=True) if number < 0]
        labels, partitions, origins = self.labels.copy(), self.partitions.copy(), self.origins.copy()
        for row, number in zip(rows, known, strict=True):
            if number >= 0:
                labels[number], partitions[number] = row.label, row.partition
                origins[number] = row.origin or origins[number]
        if not added and (labels, partitions, origins) == (self.labels, self.partitions, self.origins):
            return self
        return RowTable(
            self.block_rows,
            (*self.extents, len(added)) if added else self.extents,
            self.ids + [r.id for r in added],
            labels + [r.label for r in added],
            partitions + [r.partition for r in added],
            self.views + [r.view for r in added],
            origins + [r.origin for r in added],
        )

    def changed(self, rows: Sequence[Row], kept: NDArray[np.bool_]) -> list[tuple[Row, Row]]:
        """(row here, row given) wherever the origin of a row in `kept` (bool [rows]) is known and `rows` say another."""
        pairs = []
        for row in rows:
            number = self._numbers.get((row.id, row.view), -1)
            if number >= 0 and kept[number] and row.origin and self.origins[number] not in ("", row.origin):
                pairs.append((self.rows[number], row))
        return pairs

    def to_bytes(self) -> bytes:
        """The table as one sealed line."""
        columns = (self.ids, self.labels, self.partitions, self.views, self.origins)
        named = dict(zip(COLUMNS, columns, strict=True))
        return seal({"block_rows": self.block_rows, "extents": list(self.extents), **named})

    @classmethod
    def from_bytes(cls, data: bytes, where: object) -> RowTable:
        """The table from its sealed line; IntegrityError naming `where` if it is damaged."""
        value: dict[str, Any] | None = unseal(data)
        if value is None:
            raise IntegrityError(
                f"the row table {where} is damaged",
                hint="restore it from a copy, or remove the store and extract again",
            )
        columns = (value[name] for name in COLUMNS)
        return cls(value["block_rows"], value["extents"], *columns)
