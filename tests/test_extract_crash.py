"""An extraction that is killed, interrupted or out of disk goes on where it was, and ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import extract_process
import pytest
from extract_process import COUNT, config
from processes import command, descendants, gone
from toy import split_of, write_clips

from cache.merge import merge
from cache.store import FeatureStore, open_store, stores_under
from extract.run import extract
from fsar_cache.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = extract_process.__file__


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), COUNT)


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return open_store(
        extract(split_of(clips, list(range(COUNT))), config("zarr"), tmp_path_factory.mktemp("whole")).path
    )


def start(
    clips: Path, folder: Path, backend: str, engine: str = "local", part: tuple[int, int] = (1, 1)
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, str(clips), str(folder), backend, engine, *map(str, part)],
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


def finish(clips: Path, folder: Path, backend: str, part: tuple[int, int] = (1, 1)) -> int:
    """Run to the end in this process; clips that this run made."""
    return extract(split_of(clips, list(range(COUNT))), config(backend, part=part), folder).made


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


def kill_and_resume(
    clips: Path, folder: Path, backend: str, kills: int, rng: random.Random, engine: str = "local"
) -> int:
    """Start and kill runs one after the other; how many clips the last one had done at least."""
    done = 0
    for _ in range(kills):
        process = start(clips, folder, backend, engine)
        reached = wait_for(process, done + rng.randint(1, 6))
        time.sleep(rng.random() * 0.03)
        # Ray's two idle agents notice the end of the others only after a minute, and end then
        family = [pid for pid in (process.pid, *descendants(process.pid)) if "Agent" not in command(pid)]
        os.kill(process.pid, signal.SIGKILL)  # its decode processes find nobody to answer and end
        process.communicate()
        assert reached > done, "a kill may not cost what was journalled before it"
        assert gone(family, 30), "processes of a killed run go on without it"
        if reached == COUNT:
            break
        done = reached
    return done


@pytest.mark.parametrize(("backend", "kills"), [("zarr", 3), ("hdf5", 2)])
def test_kill_at_random_instants_then_resume_gives_the_same_bytes(
    clips: Path, whole: FeatureStore, tmp_path: Path, backend: str, kills: int
) -> None:
    done = kill_and_resume(clips, tmp_path, backend, kills, random.Random(backend))
    made = finish(clips, tmp_path, backend)
    assert made <= COUNT - done
    check(tmp_path, whole, backend)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(2))
@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_five_more_kills_at_any_instant(
    clips: Path, whole: FeatureStore, tmp_path: Path, backend: str, round_: int
) -> None:
    """With the two backends and two rounds 20 kills: while it starts, decodes, journals, writes blocks or ends."""
    rng = random.Random(f"{backend} {round_}")
    kills = runs = 0
    while kills < 5:
        process = start(clips, tmp_path / str(runs), backend)
        if rng.random() < 0.8:
            wait_for(process, rng.randint(1, 5))
            time.sleep(rng.random() * 0.2)
        else:
            time.sleep(rng.random() * 4)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:  # it was done before the kill: another begins
            check(tmp_path / str(runs), whole, backend)
            runs += 1
    finish(clips, tmp_path / str(runs), backend)
    check(tmp_path / str(runs), whole, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_parts_that_are_killed_and_resumed_merge_into_the_same_bytes(
    clips: Path, whole: FeatureStore, tmp_path: Path, backend: str
) -> None:
    rng = random.Random(f"parts {backend}")
    processes = [start(clips, tmp_path / "parts", backend, part=(i, 3)) for i in (1, 2, 3)]  # side by side
    for process in processes:
        wait_for(process, rng.randint(1, 4))
        time.sleep(rng.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    for i in (1, 2, 3):
        finish(clips, tmp_path / "parts", backend, (i, 3))
    merge(stores_under(tmp_path / "parts"), tmp_path / "one" / "toy" / "merged")
    check(tmp_path / "one", whole, backend)


@pytest.mark.slow
def test_a_run_on_ray_that_is_killed_leaves_no_process_and_resumes(
    clips: Path, whole: FeatureStore, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    done = kill_and_resume(clips, tmp_path, "zarr", 2, random.Random(5), engine="ray")
    process = start(clips, tmp_path, "zarr", "ray")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == "", "Ray's own messages are no matter of the user's"
    assert all(line.split()[0] in ("done", "made") for line in out.splitlines())
    assert int(out.split()[-1]) <= COUNT - done
    check(tmp_path, whole, "zarr")


@pytest.mark.slow
def test_a_run_on_ray_that_is_asked_to_end_saves_first(clips: Path, whole: FeatureStore, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = start(clips, tmp_path, "zarr", "ray")
    reached = wait_for(process, 3)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGTERM)  # Ray would have put its own handler there
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert gone(family, 30)
    saved = int(errors.split("stopped with ")[1].split(" ")[0])
    assert saved >= reached
    out, errors = start(clips, tmp_path, "zarr", "ray").communicate(timeout=120)
    assert int(out.split()[-1]) == COUNT - saved, errors
    check(tmp_path, whole, "zarr")


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
