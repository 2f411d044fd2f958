"""The decode pool: results, limits, lost processes and clean ends, with real processes that hang, crash and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pool_work
import pytest

import extract.pool
from extract.pool import DecodePool, Failure
from fsar_cache.errors import MissingError, SpaceError, UsageError


def pool(workers: int = 2, time_limit: float = 20.0) -> DecodePool:
    return DecodePool(workers, time_limit, work=pool_work.work)


def run(many: DecodePool, tasks: Any) -> dict[int, Any]:
    got: dict[int, Any] = {}
    for index, result in many.map(tasks):
        assert index not in got
        got[index] = result
    return got


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], within: float = 10.0) -> bool:
    end = time.monotonic() + within
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


@pytest.fixture(scope="module")
def shared() -> Iterator[DecodePool]:
    with pool() as many:
        yield many


def test_every_task_gives_its_result_once(shared: DecodePool) -> None:
    got = run(shared, (("square", i) for i in range(300)))
    assert got == {i: i * i for i in range(300)}


def test_arrays_come_back_whole_and_writable(shared: DecodePool) -> None:
    got = run(shared, [("array", i) for i in range(40)] + [("large", 30_000_001)])
    for i in range(40):
        assert got[i]["value"] == i
        np.testing.assert_array_equal(got[i]["frames"], np.full((i % 5 + 1, 7, 3), i, np.uint8))
        np.testing.assert_array_equal(got[i]["more"], np.arange(i))
        got[i]["frames"][:] = 0
    np.testing.assert_array_equal(got[40], np.arange(30_000_001, dtype=np.uint8))


def test_no_tasks_no_results(shared: DecodePool) -> None:
    assert run(shared, []) == {}


def test_tasks_are_taken_only_as_they_are_needed(shared: DecodePool) -> None:
    taken = 0

    def tasks() -> Iterator[tuple[str, int]]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield ("square", i)

    results = shared.map(tasks())  # type: ignore[arg-type]
    next(results)
    time.sleep(0.3)
    assert taken <= 2 * 2 + 2
    results.close()  # type: ignore[attr-defined]
    assert run(shared, [("square", 5)]) == {0: 25}, "results of the abandoned map must not show up"


def test_one_slow_task_does_not_hold_up_the_others(shared: DecodePool) -> None:
    order = [index for index, _ in shared.map([("sleep", 1.0), *[("square", i) for i in range(20)]])]  # type: ignore[list-item]
    assert sorted(order) == list(range(21))
    assert order.index(0) > 10


def test_bad_tasks_fail_alone_with_their_reason(shared: DecodePool) -> None:
    got = run(shared, [("square", 2), ("bad clip", "file a"), ("bug", None), ("square", 3)])
    assert got == {
        0: 4,
        1: Failure("no file a"),
        2: Failure("unexpected ZeroDivisionError: one over nought"),
        3: 9,
    }


def test_a_wrong_request_is_raised_as_it_is(shared: DecodePool) -> None:
    with pytest.raises(UsageError, match="never this") as caught:
        run(shared, [("square", 2), ("usage", "this"), ("square", 3)])
    assert caught.value.hint == "not this"
    assert run(shared, [("square", 3)]) == {0: 9}
    with pytest.raises(MissingError, match="no decoder here"):  # not a matter of one clip either
        run(shared, [("missing", "decoder here")])


def test_want_of_memory_is_no_failed_clip() -> None:
    with pool(2) as many, pytest.raises(SpaceError, match="memory") as caught:
        run(many, [("square", 1), ("memory", None), *[("square", i) for i in range(9)]])
    assert caught.value.exit_code == 6
    assert "--workers" in str(caught.value.hint)


def test_a_process_killed_twice_over_one_clip_fails_that_clip() -> None:
    with pool(2) as many:
        got = run(many, [("square", 1), ("killed", None), *[("square", i) for i in range(9)]])
    failure = got.pop(1)
    assert isinstance(failure, Failure)
    assert "killed twice" in failure.reason
    assert "--workers 1" in failure.reason
    assert [got[i] for i in sorted(got)] == [1, *[i * i for i in range(9)]]


def test_ctrl_c_while_processes_start_is_for_their_owner_alone(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, signal, sys, threading, time\n"
        f"sys.path[:] = {sys.path!r}\n"
        "import pool_work\n"
        "from extract.pool import DecodePool\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "def press():\n"
        "    for _ in range(100):\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        time.sleep(0.01)\n"
        "threading.Thread(target=press, daemon=True).start()\n"
        "with DecodePool(2, 60.0, work=pool_work.work) as pool:\n"
        "    print(sorted(pool.map([('square', 2), ('square', 3)])))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, start_new_session=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[(0, 4), (1, 9)]\n"), done.stderr


def test_processes_know_no_torch(shared: DecodePool) -> None:
    modules = run(shared, [("modules", None)])[0]
    assert "extract.worker" in modules
    assert not {"torch", "torchvision", "timm"} & set(modules)


def test_a_crash_costs_one_clip_and_is_tried_twice(tmp_path: Path) -> None:
    with pool(1) as many:
        tasks = [("square", 1), ("die", None), ("square", 2), ("die once", str(tmp_path / "mark")), ("square", 3)]
        got = run(many, tasks)
    assert got.pop(1) == Failure("the decode process died twice over it (SIGSEGV)")
    assert got == {0: 1, 2: 4, 3: "second time", 4: 9}


def test_a_hang_is_killed_at_the_limit_and_the_others_go_on() -> None:
    began = time.monotonic()
    with pool(2, time_limit=1.0) as many:
        got = run(many, [("hold", None), *[("square", i) for i in range(1, 30)]])
        pids = many.pids
    assert got.pop(0) == Failure("took longer than the time limit of 1 s")
    assert got == {i: i * i for i in range(1, 30)}
    assert 2.0 <= time.monotonic() - began < 15.0
    assert gone(pids)


def test_the_limit_is_per_task_not_for_the_consumer() -> None:
    with pool(1, time_limit=1.0) as many:
        got = {}
        for index, result in many.map([("square", i) for i in range(4)]):  # type: ignore[list-item]
            got[index] = result
            time.sleep(1.3)  # a consumer that is slower than the limit
    assert got == {i: i * i for i in range(4)}


def test_killed_processes_lose_nothing(shared: DecodePool) -> None:
    tasks = [("sleep", 0.02)] * 100
    got = {}
    for index, result in shared.map(tasks):  # type: ignore[arg-type]
        got[index] = result
        if index in (10, 60):
            os.kill(shared.pids[0], signal.SIGKILL)
            time.sleep(0.01)
    assert got == dict.fromkeys(range(100), 0.02)


def test_stop_ends_a_map_of_hanging_tasks_at_once() -> None:
    stop = threading.Event()
    with pool(2, time_limit=60.0) as many:
        timer = threading.Timer(1.0, stop.set)
        timer.start()
        began = time.monotonic()
        assert list(many.map([("hold", None)] * 4, stop)) == []  # type: ignore[list-item]
        assert time.monotonic() - began < 5.0


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with pool(1) as many, pytest.raises(MissingError, match="No module named") as caught:
        run(many, [("square", 1)])
    assert "could not start" in str(caught.value)


def test_a_process_that_never_gets_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract.pool, "START_LIMIT", 0.0)
    monkeypatch.setattr(extract.pool, "LOOK", 0.001)
    with pool(1) as many, pytest.raises(MissingError, match="not ready after 0 s"):
        run(many, [("square", 1)])


def test_nothing_stays_behind_a_killed_owner(tmp_path: Path) -> None:
    """Kill -9 of the owner while one process idles and another works: both end, whatever signals they block."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import json, sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "import pool_work\n"
        "from extract.pool import DecodePool\n"
        "pool = DecodePool(2, 60.0, work=pool_work.work)\n"
        "for index, result in pool.map([('square', 1), ('sleep', 1.0)]):\n"
        "    print(json.dumps(pool.pids), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = json.loads(owner.stdout.readline())
        owner.kill()
    assert len(pids) == 2
    assert gone(pids)


def test_descriptors_and_processes_are_freed() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(2):
        with pool(2) as many:
            run(many, [("square", 1), ("die", None), ("large", 1000)])
            pids = many.pids
        assert gone(pids)
    assert count() == before
