"""What a decode process hands over: its result lies in a shared file, a slot, until any thread opens it."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from extract.decoders import Decoded
from extract.worker import read_into

Room = Callable[[int], memoryview]
"""Gives writable memory of so many bytes."""


def fresh(size: int) -> memoryview:
    """Memory of its own for every result."""
    return memoryview(bytearray(size))


def _unnamed() -> int:
    """A descriptor of an unnamed file, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fsar-cache")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Slot:
    """A shared file for one result; closed when nobody refers to it any more."""

    def __init__(self) -> None:
        self.file = _unnamed()

    def __del__(self) -> None:
        os.close(self.file)


class Bell:
    """Wakes the pool from another thread: a slot is free again."""

    def __init__(self) -> None:
        self.heard, self._rung = os.pipe()
        os.set_blocking(self.heard, False)
        os.set_blocking(self._rung, False)

    def ring(self) -> None:
        """Wake the pool."""
        with suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._rung, b"\0")

    def hush(self) -> None:
        """Forget what was rung so far."""
        with suppress(BlockingIOError):
            os.read(self.heard, 1 << 16)

    def __del__(self) -> None:
        os.close(self.heard)
        os.close(self._rung)


@dataclass
class Parcel:
    """A result that lies in a slot until it is opened, once, from any thread; unopened ones go with the pool's `map`."""

    _head: bytes
    _sizes: list[int]
    _slot: Slot
    _release: Callable[[], None]

    def open(self, room: Room = fresh) -> Decoded:
        """The result, its arrays in memory from `room`; the slot is free again."""
        memory = room(sum(self._sizes))
        views, at = [], 0
        for size in self._sizes:
            views.append(memory[at : at + size])
            at += size
        read_into(self._slot.file, views)
        self._release()
        made: Decoded = pickle.loads(self._head, buffers=views)
        return made
