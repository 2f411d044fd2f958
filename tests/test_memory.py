"""An extraction's memory doesn't grow with the number of clips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import memory_process
import pytest
from toy import write_clip

CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
pytestmark = pytest.mark.skipif(not CHILDREN.exists(), reason="reads the memory of processes from /proc")
ALLOWED = 1.03
"""The last quarter's peak over the first's. What is known of 5,000 rows (ids, origins, outcomes) takes less than one percent."""
ROW = 4 * 64 * 64 * 3
"""Bytes of a row here; a run that kept every clip would grow by so many per clip."""


def quarters(folder: Path, count: int, leak: int = 0) -> list[int]:
    """Peak bytes in RAM in each quarter of an extraction of `count` clips, with its decode processes, in a process of its own."""
    (folder / "clips").mkdir()
    for i in range(5):
        write_clip(folder / "clips" / f"{i}.mp4", i, frames=8)
    command = [
        sys.executable,
        memory_process.__file__,
        str(folder / "clips"),
        str(folder / "stores"),
        str(count),
        str(leak),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    samples = [tuple(map(int, line.split())) for line in said.splitlines()]
    peaks = [0, 0, 0, 0]
    for done, resident in samples:
        if done:
            quarter = min(4 * (done - 1) // count, 3)
            peaks[quarter] = max(peaks[quarter], resident)
    assert min(peaks) > 0, "every quarter was seen"
    return peaks


def test_memory_is_flat_over_some_clips(tmp_path: Path) -> None:
    first, *_, last = quarters(tmp_path, 1200)
    assert last <= ALLOWED * first


def test_a_leak_of_every_clip_would_be_seen(tmp_path: Path) -> None:
    first, *_, last = quarters(tmp_path, 1200, leak=ROW)
    assert last > ALLOWED * first


@pytest.mark.slow
def test_memory_is_flat_over_five_thousand_clips(tmp_path: Path) -> None:
    first, *_, last = quarters(tmp_path, 5000)
    assert last <= ALLOWED * first
