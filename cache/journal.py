"""The journal of an open block: batches of finished rows, so that a killed run loses seconds of work and not a block.

File: records of [magic, length of the JSON, length of the payload | JSON | payload | CRC-32 of all before]. The JSON holds the
first place, the outcomes and the key of the batch; the payload is the raw little-endian rows.
"""

from __future__ import annotations

import abc
import json
import os
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.ledger import columns_of
from cache.rows import Outcome
from fsar_cache.errors import UsageError
from fsar_cache.files import space_guard, sync_folder

Array = NDArray[Any]


class Batch(NamedTuple):
    """Finished rows: array [n, *shape], their outcomes, and the key they were saved under: what they were made from, as the saver says."""

    array: Array
    outcomes: list[Outcome]
    key: str


Batches = dict[int, Batch]
_HEAD = struct.Struct("<4sIQ")
_MAGIC = b"FSJ1"
_SYNC_SECONDS = 5.0


class Journal(abc.ABC):
    """Finished batches of one open block."""

    batches: Batches
    """First place in the block -> batch: everything added so far, by this process or one before it."""

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._rows, self._shape, self._dtype = rows, shape, dtype
        self.batches = {}

    def add(self, first: int, array: Array, outcomes: Sequence[Outcome], key: str = "") -> None:
        """Save finished rows first..first+n-1 of the block: array [n, *shape] of the store's dtype, n outcomes.

        key: any text that tells what the rows were made from; it comes back with the batch, so that whoever resumes can refuse rows
        made from something else. A batch added again at the same place takes the place of the first. Safe against a kill when this
        returns; against a power cut after at most a few seconds.
        """
        if array.shape[1:] != self._shape or array.dtype != self._dtype or len(array) != len(outcomes):
            raise UsageError(
                f"a batch of {array.shape} {array.dtype} with {len(outcomes)} outcomes doesn't fit rows of {self._shape} {self._dtype}"
            )
        if first < 0 or first + len(array) > self._rows:
            raise UsageError(f"rows {first}..{first + len(array) - 1} are not in a block of {self._rows} rows")
        self._save(first, np.ascontiguousarray(array, self._dtype), outcomes, key)
        self.batches[first] = Batch(array.copy(), list(outcomes), key)

    @abc.abstractmethod
    def _save(self, first: int, array: Array, outcomes: Sequence[Outcome], key: str) -> None: ...

    @abc.abstractmethod
    def remove(self) -> None:
        """Delete it: the block is written."""


class FileJournal(Journal):
    """A journal in a file; what a killed writer left of its last record is cut off at the next `add`."""

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(rows, shape, dtype)
        self._path = path
        self._end = 0
        self._synced = 0.0
        if path.exists():
            data = memoryview(path.read_bytes())
            while (end := self._take(data, self._end)) is not None:
                self._end = end

    def _take(self, data: memoryview, start: int) -> int | None:
        """Read the record at `start` into `batches`; its end, or None where there is no whole record."""
        if len(data) < start + _HEAD.size:
            return None
        magic, text, payload = _HEAD.unpack_from(data, start)
        body: int = start + _HEAD.size
        end: int = body + text + payload
        if (
            magic != _MAGIC
            or len(data) < end + 4
            or int.from_bytes(data[end : end + 4], "little") != zlib.crc32(data[start:end])
        ):
            return None
        facts = json.loads(bytes(data[body : body + text]))
        array = np.frombuffer(data[body + text : end], self._dtype).reshape(-1, *self._shape)
        outcomes = [Outcome(*values) for values in facts["outcomes"]]
        self.batches[facts["first"]] = Batch(array, outcomes, facts.get("key", ""))
        return end + 4

    def _save(self, first: int, array: Array, outcomes: Sequence[Outcome], key: str) -> None:
        columns = columns_of(outcomes)
        plain = [
            [o.status, o.reason, *(columns[name][i] for name in ("decoded", "claimed", "corrupt", "duration"))]
            for i, o in enumerate(outcomes)
        ]
        text = json.dumps({"first": first, "key": key, "outcomes": plain}, allow_nan=False).encode()
        payload = array.reshape(-1).view(np.uint8).data
        record = b"".join((_HEAD.pack(_MAGIC, len(text), len(payload)), text, payload))
        record += zlib.crc32(record).to_bytes(4, "little")
        fresh = not self._path.exists()
        with space_guard(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("r+b" if not fresh else "xb", buffering=0) as file:
                self._append(file.fileno(), record)
            if fresh:
                sync_folder(self._path.parent)

    def _append(self, handle: int, record: bytes) -> None:
        os.ftruncate(handle, self._end)
        rest, place = memoryview(record), self._end
        while rest:
            written = os.pwrite(handle, rest, place)
            rest, place = rest[written:], place + written
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(handle)
            self._synced = time.monotonic()
        self._end = place

    def remove(self) -> None:  # noqa: D102 - as in Journal
        self._path.unlink(missing_ok=True)
        self.batches = {}
        self._end = 0
