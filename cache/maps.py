"""Memory maps of block files: a bounded number of them, sizes checked before mapping."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.ledger import Entry
from fsar_cache.errors import IntegrityError

Array = NDArray[Any]


def mend_hint(path: Path) -> str:
    """What to do about the damaged block file `path` (it lies in a subfolder of its store)."""
    return (
        f"fsar-cache store verify {path.parent.parent} --mend drops it; then repeat the extraction that made the store"
    )


def map_limit() -> int:
    """How many block files to keep mapped: a quarter of the descriptors this process may have, at most 512."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 512 if soft == resource.RLIM_INFINITY else max(8, min(512, soft // 4))


def open_block(path: Path, entry: Entry) -> int:
    """A read-only descriptor of a block's file; IntegrityError where it is missing or not of the recorded size."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise IntegrityError(f"block {entry.block} is missing: no file {path}", hint=mend_hint(path)) from error
    size = os.fstat(handle).st_size
    if size != entry.bytes:
        os.close(handle)
        raise IntegrityError(
            f"block {entry.block} is torn: {path} has {size} bytes, {entry.bytes} were written", hint=mend_hint(path)
        )
    return handle


def read_block(path: Path, entry: Entry, out: Array) -> None:
    """Read all rows of a block into `out`, C-contiguous [rows, *shape]."""
    handle = open_block(path, entry)
    try:
        rest, place = out.reshape(-1).view(np.uint8).data, entry.offset
        while rest:
            got = os.preadv(handle, [rest], place)
            if not got:
                raise IntegrityError(
                    f"block {entry.block} is torn: {path} became shorter while it was read", hint=mend_hint(path)
                )
            rest, place = rest[got:], place + got
    finally:
        os.close(handle)


def map_block(path: Path, entry: Entry, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The rows of a block as a read-only mapped array [rows, *shape].

    The file is mapped only once its size was found right, because touching a page beyond the end of a file kills the process.
    """
    handle = open_block(path, entry)
    try:
        mapped = mmap.mmap(handle, entry.bytes, prot=mmap.PROT_READ)
    finally:
        os.close(handle)
    return np.ndarray((entry.rows, *shape), dtype, buffer=mapped, offset=entry.offset)


class Maps:
    """Blocks that are open as arrays [rows, elements], a bounded number of them; safe to use from several threads.

    Every map holds a descriptor, so the oldest goes when there are too many; while an array of it is in use it stays mapped.
    """

    def __init__(self, open_array: Callable[[Entry], Array], limit: int | None = None) -> None:
        self._open_array = open_array
        self._limit = limit or map_limit()
        self._arrays: dict[int, Array] = {}
        self._entries: dict[int, Entry] = {}
        self._lock = threading.Lock()

    def flat(self, entry: Entry) -> Array:
        """The rows of a block, [rows, elements]."""
        with self._lock:
            array = self._arrays.get(entry.block)
            if array is None:
                opened = self._open_array(entry)
                array = self._arrays[entry.block] = opened.reshape(len(opened), -1)
                self._entries[entry.block] = entry
                if len(self._arrays) > self._limit:
                    self._forget(next(iter(self._arrays)))
            return array

    def gather(self, entries: Mapping[int, Entry], blocks: list[int], places: list[int], out: Array) -> None:
        """Copy row places[i] of block blocks[i] to out[i], out being [n, elements]: one plain copy per row."""
        arrays = self._arrays
        for target, (block, place) in enumerate(zip(blocks, places, strict=True)):
            array = arrays.get(block)
            if array is None:
                array = self.flat(entries[block])
            out[target] = array[place]

    def keep(self, entries: Mapping[int, Entry]) -> None:
        """Drop the maps of blocks that are gone or were written again."""
        with self._lock:
            for block, entry in list(self._entries.items()):
                if entries.get(block) != entry:
                    self._forget(block)

    def _forget(self, block: int) -> None:
        del self._arrays[block], self._entries[block]
