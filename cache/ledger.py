"""The ledger: one sealed line per block written or dropped. It alone decides which blocks are there; the last line of a block counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.rows import Outcome
from cache.sealed import seal, unseal
from fsar_cache.files import space_guard, whole_file

_WITHOUT = ("failed", "absent")
"""States of a row without features."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One block as written: bytes is the size of its file, offset where its first row starts in it, sha256 of the whole file.

    outcomes: columns over its rows: "decoded", "claimed", "corrupt", "duration" lists, and "failed" and
    "absent" {place: reason}.
    """

    block: int
    rows: int
    bytes: int
    offset: int
    sha256: str
    outcomes: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[int]:
        """Places (0..rows-1) of the rows that failed."""
        return [int(place) for place in self.outcomes["failed"]]

    @property
    def absent(self) -> list[int]:
        """Places (0..rows-1) of the rows whose clips were not in the dataset then."""
        return [int(place) for place in self.outcomes.get("absent", ())]

    def outcome(self, place: int) -> Outcome:
        """What became of the row at `place`."""
        columns = (self.outcomes[name][place] for name in ("decoded", "claimed", "corrupt", "duration"))
        for status in _WITHOUT:
            reason = self.outcomes.get(status, {}).get(str(place))
            if reason is not None:
                return Outcome(status, reason, *columns)
        return Outcome("ok", "", *columns)


def columns_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Outcomes as the columns an Entry keeps."""
    return {
        **{status: {str(i): o.reason for i, o in enumerate(outcomes) if o.status == status} for status in _WITHOUT},
        "decoded": [int(o.decoded) for o in outcomes],
        "claimed": [int(o.claimed) for o in outcomes],
        "corrupt": [int(o.corrupt) for o in outcomes],
        "duration": [float(o.duration) for o in outcomes],
    }


@dataclass(frozen=True, slots=True)
class LedgerText:
    """What a ledger file says: the blocks that are there, and its damaged lines by number (from 1; a torn last line included).

    open_end: whether the last line has no end, so that it is torn, or still being written.
    """

    entries: dict[int, Entry]
    damaged: list[int]
    open_end: bool = False


def read_ledger(path: Path) -> LedgerText:
    """Read a ledger; damaged lines are left out and counted, a file that isn't there has no lines."""
    entries: dict[int, Entry] = {}
    damaged: list[int] = []
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        value = unseal(line) if line.endswith(b"\n") else None
        if value is None:
            damaged.append(number)
        elif "dropped" in value:
            entries.pop(value["block"], None)
        else:
            entries[value["block"]] = Entry(**value)
    return LedgerText(entries, damaged, bool(lines) and not lines[-1].endswith(b"\n"))


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def repair_ledger(path: Path) -> None:
    """Remove damaged lines, so that the next line starts on its own. Only the holder of the lock may call this."""
    lines = _lines(path)
    good = [line for line in lines if line.endswith(b"\n") and unseal(line) is not None]
    if len(good) < len(lines):
        with whole_file(path) as file:
            file.write(b"".join(good))


def append_entry(path: Path, entry: Entry) -> None:
    """Record a block; durable when this returns."""
    _append(path, line_of(entry))


def line_of(entry: Entry) -> bytes:
    """The line of a block."""
    return seal({name: getattr(entry, name) for name in Entry.__dataclass_fields__})


def append_drop(path: Path, block: int) -> None:
    """Record that a block is there no more; durable when this returns."""
    _append(path, seal({"block": block, "dropped": True}))


def _append(path: Path, line: bytes) -> None:
    """Add one line whole; after a failure (a full disk) the file is as it was."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(handle).st_size
        try:
            with space_guard(path):
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
