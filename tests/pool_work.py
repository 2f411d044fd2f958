"""What the decode processes of test_pool do instead of decoding: tasks are (what, argument)."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from extract.probe import DecodeError
from fsar_cache.errors import MissingError, UsageError


def work(task: tuple[str, Any]) -> Any:
    what, value = task
    if what == "square":
        return value * value
    if what == "array":
        return {"value": value, "frames": np.full((value % 5 + 1, 7, 3), value, np.uint8), "more": np.arange(value)}
    if what == "large":
        return np.arange(value, dtype=np.uint8)
    if what == "sleep":
        time.sleep(value)
        return value
    if what == "hold":  # a hang that no Python code can end
        signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 64)) - {signal.SIGKILL})
        time.sleep(600)
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "die once":
        if not Path(value).exists():
            Path(value).touch()
            os._exit(3)
        return "second time"
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "memory":
        return bytearray(1 << 60)
    if what == "bad clip":
        raise DecodeError(f"no {value}")
    if what == "missing":
        raise MissingError(f"no {value}")
    if what == "usage":
        raise UsageError(f"never {value}", hint="not this")
    if what == "bug":
        raise ZeroDivisionError("one over nought")
    if what == "modules":
        return sorted(sys.modules)
    raise AssertionError(what)
