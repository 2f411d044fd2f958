"""Memory maps of block files: a bounded number of them, sizes checked before mapping."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.ledger import Entry
from fsar_cache.errors import IntegrityError

Array = NDArray[Any]
_RE_EXTRACT = "fsar-cache store verify names what is damaged; extracting again mends it"


def map_limit() -> int:
    """How many block files to keep mapped: a quarter of the descriptors this process may have, at most 512."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 512 if soft == resource.RLIM_INFINITY else max(8, min(512, soft // 4))


def open_block(path: Path, entry: Entry) -> int:
    """A read-only descriptor of a block's file; IntegrityError where it is missing or not of the recorded size."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise IntegrityError(f"block {entry.block} is missing: no file {path}", hint=_RE_EXTRACT) from error
    size = os.fstat(handle).st_size
    if size != entry.bytes:
        os.close(handle)
        raise IntegrityError(
            f"block {entry.block} is torn: {path} has {size} bytes, {entry.bytes} were written", hint=_RE_EXTRACT
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
                    f"block {entry.block} is torn: {path} became shorter while it was read", hint=_RE_EXTRACT
                )
            rest, place = rest[got:], place + got
    finally:
        os.close(handle)


class Maps:
    """The most recently used block files as read-only arrays [rows, *shape]; safe to use from several threads.

    A file is mapped once its size was found right, because touching a page beyond the end of a file kills the process. A map that
    is dropped while an array of it is in use stays until that array goes.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int | None = None) -> None:
        self._shape, self._dtype = shape, dtype
        self._limit = limit or map_limit()
        self._arrays: OrderedDict[tuple[int, str], Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, entry: Entry) -> Array:
        """The rows of the block as it was written (a rewritten block is another map)."""
        key = (entry.block, entry.sha256)
        with self._lock:
            array = self._arrays.get(key)
            if array is None:
                array = self._arrays[key] = self._map(path, entry)
                if len(self._arrays) > self._limit:
                    self._arrays.popitem(last=False)
            else:
                self._arrays.move_to_end(key)
        return array

    def _map(self, path: Path, entry: Entry) -> Array:
        handle = open_block(path, entry)
        try:
            mapped = mmap.mmap(handle, entry.bytes, prot=mmap.PROT_READ)
        finally:
            os.close(handle)
        return np.ndarray((entry.rows, *self._shape), self._dtype, buffer=mapped, offset=entry.offset)

    def clear(self) -> None:
        """Drop every map."""
        with self._lock:
            self._arrays.clear()
