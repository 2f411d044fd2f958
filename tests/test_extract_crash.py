"""An extraction that is killed, interrupted or out of disk goes on where it was, and ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import extract_process
import pytest
import torch
from extract_process import COUNT, config
from toy import split_of, write_clip

from cache.store import FeatureStore, open_store, stores_under
from extract.run import extract
from fsar_cache.errors import UsageError

SCRIPT = extract_process.__file__


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for i in range(COUNT):
        write_clip(folder / f"{i:02d}.mp4", i)
    return folder


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return open_store(
        extract(split_of(clips, list(range(COUNT))), config("zarr"), tmp_path_factory.mktemp("whole")).path
    )


def start(clips: Path, folder: Path, backend: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, str(clips), str(folder), backend],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def wait_for(process: subprocess.Popen[str], done: int) -> int:
    """Read progress until `done` clips are done; the last number read (COUNT where the process ended before)."""
    assert process.stdout is not None
    for line in process.stdout:
        word, number = line.split()
        if word == "done" and int(number) >= done:
            return int(number)
    return COUNT


def finish(clips: Path, folder: Path, backend: str) -> int:
    """Run to the end in this process; clips that this run made."""
    return extract(split_of(clips, list(range(COUNT))), config(backend), folder).made


def check(folder: Path, whole: FeatureStore, backend: str) -> None:
    (path,) = stores_under(folder)
    with open_store(path) as store:
        assert store.backend == backend
        assert store.missing() == []
        assert store.verify() == []
        assert store.load().tobytes() == whole.load().tobytes()
        assert [store.outcome(i) for i in range(COUNT)] == [whole.outcome(i) for i in range(COUNT)]
        assert store.info()["journalled_blocks"] in (0, [])
    assert [p.name for p in folder.rglob("*.partial")] == []


@pytest.mark.parametrize(("backend", "kills"), [("zarr", 3), ("hdf5", 2)])
def test_kill_at_random_instants_then_resume_gives_the_same_bytes(
    clips: Path, whole: FeatureStore, tmp_path: Path, backend: str, kills: int
) -> None:
    rng = random.Random(backend)
    done = 0
    for _ in range(kills):
        process = start(clips, tmp_path, backend)
        reached = wait_for(process, done + rng.randint(1, 6))
        time.sleep(rng.random() * 0.03)
        os.kill(process.pid, signal.SIGKILL)  # its decode processes find nobody to answer and end
        process.communicate()
        assert reached > done, "a kill may not cost what was journalled before it"
        if reached == COUNT:
            break
        done = reached
    made = finish(clips, tmp_path, backend)
    assert made <= COUNT - done
    check(tmp_path, whole, backend)


def test_ctrl_c_in_a_terminal_saves_and_says_how_to_go_on(clips: Path, whole: FeatureStore, tmp_path: Path) -> None:
    process = start(clips, tmp_path, "zarr")
    reached = wait_for(process, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; the decode processes are in groups of their own
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    saved = int(errors.split("stopped with ")[1].split(" ")[0])
    assert saved >= reached
    assert finish(clips, tmp_path, "zarr") == COUNT - saved
    check(tmp_path, whole, "zarr")


def test_a_second_run_beside_a_running_one_is_refused(clips: Path, whole: FeatureStore, tmp_path: Path) -> None:
    first = start(clips, tmp_path, "zarr")
    wait_for(first, 1)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        with pytest.raises(UsageError, match=str(first.pid)):
            finish(clips, tmp_path, "zarr")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.communicate(timeout=60)
    assert first.returncode == 0
    check(tmp_path, whole, "zarr")
