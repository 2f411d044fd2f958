"""One writer per store: an advisory lock that ends with its process, however that dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsar_cache.errors import UsageError
from fsar_cache.files import space_guard


@contextmanager
def exclusive(path: Path, what: str = "store") -> Iterator[None]:
    """Hold the lock file `path`; UsageError naming the holder where another writer has it.

    The kernel releases the lock when its process ends, so a dead writer never blocks the next one.
    """
    with space_guard(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _take(handle):
            raise UsageError(
                f"another writer has the {what} {path.parent} ({_holder(handle)})",
                hint="wait until it ends, or stop it; then repeat the command",
            )
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()
        with space_guard(path):
            os.pwrite(handle, text + b"\n", 0)
            os.ftruncate(handle, len(text) + 1)
        yield
    finally:
        os.close(handle)


def held(path: Path) -> bool:
    """Whether somebody holds the lock file `path`, this process included."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    """Lock an open file; tried twice, because `held` has it for an instant."""
    for wait in (0.05, 0.0):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(wait)
    return False


def _holder(handle: int) -> str:
    try:
        facts = json.loads(os.pread(handle, 4096, 0))
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "process unknown"
