"""The log of a run: one JSON line per iteration, in step with the checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, BinaryIO

from fsar_cache.files import space_guard, whole_file

FLUSH_SECONDS = 2.0


class MetricsLog:
    """Appends rows {"iteration": n, ...} to a JSONL file; opening it drops what lies beyond iteration `done` (or was torn by a kill)."""

    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        kept = [line for line in self._lines(path) if self._iteration(line) <= done]
        with whole_file(path) as file:
            file.writelines(kept)
        self._file: BinaryIO = path.open("ab")
        self._flushed = time.monotonic()

    @staticmethod
    def _lines(path: Path) -> list[bytes]:
        if not path.exists():
            return []
        return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    @staticmethod
    def _iteration(line: bytes) -> float:
        try:
            return float(json.loads(line)["iteration"])
        except (ValueError, KeyError, TypeError):
            return float("inf")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; it is on its way to the disk within seconds."""
        with space_guard(self._path):
            self._file.write(json.dumps(row).encode() + b"\n")
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        with space_guard(self._path):
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()
