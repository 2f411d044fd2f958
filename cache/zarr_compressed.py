"""The compressed Zarr backend, for cold copies: the default backend with every chunk a Blosc frame of byte-shuffled zstd.

Any Zarr reader opens it (codec "blosc"). A block is compared with its checksum and unpacked whole to read a row of it, and only a few
blocks are kept unpacked, so random rows come slowly: convert a copy back to "zarr" before training on it.
"""

# ruff: noqa: D102 - what the methods promise stands in cache.medium and cache.folder

from __future__ import annotations

import hashlib
import math
import os
import threading
from typing import Any

import numpy as np

from cache.ledger import Entry
from cache.maps import mend_hint, open_block
from cache.medium import BACKENDS, Array
from cache.zarr_blocks import ZarrMedium
from fsar_cache.errors import IntegrityError, UsageError

_LEVEL = 5
_HELD = 8
_SIZES = (4, 12)
"""Where a Blosc frame says how many bytes it has unpacked and packed, 32 bits each."""
_ONE_THREAD = threading.Lock()


@BACKENDS.add("zarr-zstd")
class ZarrZstdMedium(ZarrMedium):
    """Chunk files c.BLOCK.0.0..., each the compressed full chunk."""

    held_blocks = _HELD

    def contents(self, block: int, array: Array) -> tuple[list[memoryview], int]:
        pieces, _ = super().contents(block, array)
        return [memoryview(_compressed(b"".join(pieces), self.header.dtype.itemsize))], 0

    def codecs(self) -> list[dict[str, Any]]:
        blosc = {
            "cname": "zstd",
            "clevel": _LEVEL,
            "shuffle": "shuffle",
            "typesize": self.header.dtype.itemsize,
            "blocksize": 0,
        }
        return [*super().codecs(), {"name": "blosc", "configuration": blosc}]

    def array(self, entry: Entry) -> Array:
        from numcodecs import blosc

        file = self.file_of(entry.block)
        handle = open_block(file, entry)
        with os.fdopen(handle, "rb") as opened:
            packed = opened.read()
        if hashlib.sha256(packed).hexdigest() != entry.sha256:
            raise IntegrityError(
                f"block {entry.block} is flipped: {file} is not what was written", hint=mend_hint(file)
            )
        shape = (self.header.block_rows, *self.header.spec.shape)
        claimed, length = (int.from_bytes(packed[at : at + 4], "little") for at in _SIZES)
        try:
            if (claimed, length) != (math.prod(shape) * self.header.dtype.itemsize, len(packed)):
                raise ValueError(f"a frame of {length} bytes for {claimed}")  # the unpacker would believe it
            data = blosc.decompress(packed)
        except (RuntimeError, ValueError) as error:
            raise IntegrityError(f"block {entry.block} can't be unpacked: {file}: {error}") from error
        made: Array = np.frombuffer(data, self.header.dtype).reshape(shape)[: entry.rows]
        made.flags.writeable = False
        return made

    def load(self, entry: Entry, out: Array) -> None:
        out[:] = self.array(entry).reshape(out.shape)


def _compressed(data: bytes, itemsize: int) -> bytes:
    """One Blosc frame; the same bytes for the same data, which several threads don't promise."""
    from numcodecs import blosc

    if len(data) > blosc.MAX_BUFFERSIZE:
        raise UsageError(
            f"a compressed block holds at most {blosc.MAX_BUFFERSIZE} bytes, this one has {len(data)}",
            hint="extract with fewer rows per block, or keep the store as zarr or hdf5",
        )
    with _ONE_THREAD:
        before, blosc.use_threads = blosc.use_threads, False
        try:
            made: bytes = blosc.compress(np.frombuffer(data, f"V{itemsize}"), b"zstd", _LEVEL, blosc.SHUFFLE)
        finally:
            blosc.use_threads = before
    return made
