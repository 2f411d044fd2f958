"""The inside of a decode process: take a task, do it, leave the arrays in a shared file, say so. Imports no torch, so it starts fast.

`DecodePool` starts it in an interpreter of its own: no fork of a threaded parent, no second run of the user's main module.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from extract.probe import DecodeError
from fsar_cache.errors import FsarError, SpaceError
from fsar_cache.files import space_guard

GRACE = 10.0
"""Seconds after its time limit at which a process that nobody watches any more ends itself."""


def pack(result: Any, slot: int) -> tuple[bytes, list[int]]:
    """Write the arrays of `result` one after the other into the file `slot`; returns the rest of it pickled, and their sizes in bytes."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    sizes, offset = [], 0
    for buffer in buffers:
        view = buffer.raw()
        sizes.append(view.nbytes)
        while view.nbytes:
            written = os.pwrite(slot, view, offset)
            offset, view = offset + written, view[written:]
    return head, sizes


def read_into(slot: int, views: list[memoryview]) -> None:
    """Fill `views`, one after the other, from the beginning of the file `slot`."""
    offset = 0
    for view in views:
        while view.nbytes:
            got = os.preadv(slot, [view], offset)
            if got == 0:
                raise EOFError("a decode process left fewer bytes than it said")
            offset, view = offset + got, view[got:]


def serve(link: Connection, slots: list[int]) -> None:
    """Answer tasks until the other side hangs up. Answers: ("ok", head, sizes), ("failed", reason) or ("refused", error)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        path, packed, limit = link.recv()
        sys.path[:] = path
        work = pickle.loads(packed)
        link.send(("ready",))
        while True:
            slot, task = link.recv()
            signal.setitimer(signal.ITIMER_REAL, limit + GRACE)
            answer = _answer(work, task, slots[slot])
            signal.setitimer(signal.ITIMER_REAL, 0)
            link.send(answer)
    except (EOFError, ConnectionError):
        return


FEWER = "use fewer decode processes: --workers 1"


def _answer(work: Any, task: Any, slot: int) -> tuple[Any, ...]:
    """Only a `DecodeError` is about the clip; every other error of ours is about the request, and want of memory about the machine."""
    try:
        result = work(task)
    except DecodeError as error:
        return ("failed", error.message)
    except FsarError as error:
        return ("refused", error)
    except MemoryError:
        return ("refused", SpaceError("a decode process ran out of memory", hint=FEWER))
    except Exception as error:  # noqa: BLE001 - one bad clip must not end the run; its reason is recorded
        return ("failed", f"unexpected {type(error).__name__}: {error}")
    try:
        with space_guard("the memory shared with a decode process"):
            return ("ok", *pack(result, slot))
    except SpaceError as error:
        return ("refused", error)
    except MemoryError:
        return ("refused", SpaceError("a decode process ran out of memory", hint=FEWER))


def main() -> None:
    """Entry: the arguments are the descriptor of the link and those of the slots."""
    link, *slots = (int(text) for text in sys.argv[1:])
    serve(Connection(link), slots)
