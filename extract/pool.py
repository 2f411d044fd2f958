"""Decode processes under a time limit: a bounded, restartable `map` from tasks to results, for offline runs and live sources alike.

Each process has its own link and three shared slots: it works on one task, has the next in hand, and the result of the one before waits
to be fetched, by whichever thread wants it. A process that dies or oversteps the limit is killed and replaced; its task is tried once
more, then reported as failed. Results come as they finish.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any

from extract.clip import Decoded, Task, decode_clip
from extract.parcel import Bell, Parcel, Slot
from fsar_cache.errors import MissingError

DEPTH = 2
"""Tasks a process holds: one in hand, one waiting."""
SLOTS = DEPTH + 1
"""Results it has room for: those of its tasks, and one that is being fetched."""
START_LIMIT = 60.0
"""Seconds a new process may take before it is ready for its first task."""
LOOK = 0.2
"""Seconds between two looks at clocks and at the stop event while nothing arrives."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that gave no result, and why (one line)."""

    reason: str


@dataclass(slots=True)
class _Job:
    """A task underway: its position among the tasks of the `map`, and how often a process was lost over it."""

    index: int
    task: Any
    losses: int = 0


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Process:
    """One decode process as its owner sees it."""

    popen: subprocess.Popen[bytes]
    link: Connection
    slots: list[Slot]
    errors: Any
    deadline: float
    ready: bool = False
    hand: deque[tuple[int, _Job]] = field(default_factory=deque)
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))

    @classmethod
    def start(cls, work: bytes, limit: float) -> _Process:
        """Start an interpreter of its own with this one's import path; threads of numerical libraries are held to one."""
        ours, theirs = Pipe()
        slots = [Slot() for _ in range(SLOTS)]
        passed = [theirs.fileno(), *(slot.file for slot in slots)]
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        command = f"import sys; sys.path[:] = {sys.path!r}; from extract.worker import main; main()"
        popen = subprocess.Popen(
            [sys.executable, "-c", command, *map(str, passed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=passed,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            process_group=0,  # a terminal's Ctrl-C is for the owner, who ends this process or hangs up on it
        )
        theirs.close()
        made = cls(popen, ours, slots, errors, time.monotonic() + START_LIMIT)
        try:
            ours.send((sys.path, work, limit))
        except ConnectionError:  # it died at once; by a Ctrl-C that came before it had its own group: not its doing
            if popen.wait() == -signal.SIGINT:
                made.end()
                return cls.start(work, limit)
        return made

    def give(self, job: _Job, limit: float) -> None:
        """Send one more job; the clock starts when the process has nothing else in hand."""
        if not self.hand and self.ready:
            self.deadline = time.monotonic() + limit
        slot = self.free.pop()
        self.hand.append((slot, job))
        with suppress(ConnectionError):  # it died a moment ago: the end of its link tells, with this job in its hand
            self.link.send((slot, job.task))

    def end(self) -> str:
        """Kill the process and free what it held; returns how it had died, or "" if it was alive."""
        code = self.popen.poll()
        self.popen.kill()
        self.popen.wait()
        self.link.close()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        self.errors.close()
        if code is None:
            return ""
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how}: {lines[-1]}" if lines and not self.ready else how


class DecodePool:
    """`workers` processes (0: one per core) that decode clips within `time_limit` seconds each.

    `work` is what they do with a task: a module-level function whose argument and result pickle. Processes start at the first `map` and
    live until `close`; use the pool as a context manager, from one thread, one `map` at a time.
    """

    def __init__(self, workers: int = 0, time_limit: float = 60.0, *, work: Callable[[Any], Any] = decode_clip) -> None:
        self.workers = workers or cores()
        self.time_limit = time_limit
        self._work = pickle.dumps(work)
        self._processes: list[_Process] = []
        self._bell: Bell | None = None

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes; the pool may be used again afterwards."""
        while self._processes:
            self._processes.pop().end()
        self._bell = None

    @property
    def pids(self) -> list[int]:
        """The process ids of the running processes."""
        return [process.popen.pid for process in self._processes]

    def map(
        self, tasks: Iterable[Task], stop: threading.Event | None = None
    ) -> Iterator[tuple[int, Decoded | Failure]]:
        """Yield (position of the task, its result or `Failure`) as they finish; the rest as `parcels`."""
        for index, result in self.parcels(tasks, stop):
            yield index, result.open() if isinstance(result, Parcel) else result

    def parcels(
        self, tasks: Iterable[Task], stop: threading.Event | None = None
    ) -> Iterator[tuple[int, Parcel | Failure]]:
        """Yield (position of the task, its result to be opened or `Failure`) as they finish; at most workers * 2 tasks are taken ahead.

        A process waits while its results are not opened. Ends early once `stop` is set. Raises the FsarError of a task that is wrong in
        itself (an unknown rule), MissingError where processes cannot start, and SpaceError where one says that it has no memory: that is
        the machine's trouble, which says nothing about a clip.
        """
        source = enumerate(tasks)
        again: deque[_Job] = deque()
        try:
            while not (stop is not None and stop.is_set()):
                more = self._hand_out(source, again)
                if not more and not any(process.hand for process in self._processes):
                    return
                for job, result in self._finished(again):
                    yield job.index, result
        finally:
            for process in [p for p in self._processes if p.hand]:
                self._processes.remove(process)
                process.end()

    def _hand_out(self, source: Iterator[tuple[int, Any]], again: deque[_Job]) -> bool:
        """Fill the hands of all processes, those with the least to do first, lost jobs before new ones; whether there may be more."""
        while len(self._processes) < self.workers:
            self._processes.append(_Process.start(self._work, self.time_limit))
        while open_hands := [p for p in self._processes if p.free and len(p.hand) < DEPTH]:
            if again:
                job = again.popleft()
            elif (following := next(source, None)) is not None:
                job = _Job(*following)
            else:
                return False
            min(open_hands, key=lambda p: len(p.hand)).give(job, self.time_limit)
        return True

    def _finished(self, again: deque[_Job]) -> Iterator[tuple[_Job, Parcel | Failure]]:
        """Wait for answers or the next look at the clock; jobs of lost processes go to `again` or come back as failures."""
        links = {process.link: process for process in self._processes}
        bell = self._bell = self._bell or Bell()
        found = wait([*links, bell.heard], timeout=LOOK)
        if bell.heard in found:
            bell.hush()
        answered = [links[link] for link in found if isinstance(link, Connection)]
        for process in answered:
            try:
                answer = process.link.recv()
            except (EOFError, ConnectionError):
                process.popen.wait()
                yield from self._lost(process, "", again)
                continue
            yield from self._take(process, answer, bell)
        now = time.monotonic()
        for process in [p for p in self._processes if p not in answered and (p.hand or not p.ready)]:
            if now > process.deadline and not process.link.poll():
                yield from self._lost(process, f"took longer than the time limit of {self.time_limit:g} s", again)

    def _take(self, process: _Process, answer: tuple[Any, ...], bell: Bell) -> Iterator[tuple[_Job, Parcel | Failure]]:
        process.deadline = time.monotonic() + self.time_limit
        if answer[0] == "ready":
            process.ready = True
            return
        slot, job = process.hand.popleft()
        if answer[0] == "ok":

            def release() -> None:
                process.free.append(slot)
                bell.ring()

            yield job, Parcel(answer[1], answer[2], process.slots[slot], release)
            return
        process.free.append(slot)
        if answer[0] == "refused":
            raise answer[1]
        yield job, Failure(answer[1])

    def _lost(self, process: _Process, slow: str, again: deque[_Job]) -> Iterator[tuple[_Job, Parcel | Failure]]:
        """Replace a dead or slow process: its job in hand is tried once more or failed, those behind it are given out again."""
        self._processes.remove(process)
        jobs = [job for _, job in process.hand]
        how = process.end()
        if not process.ready:
            raise MissingError(
                f"a decode process could not start ({how or f'not ready after {START_LIMIT:g} s'})",
                hint="fsar-cache doctor",
            )
        again.extendleft(reversed(jobs[1:]))
        for job in jobs[:1]:
            job.losses += 1
            if job.losses == 1:
                again.append(job)
            elif how == signal.SIGKILL.name and not slow:
                yield (
                    job,
                    Failure(
                        "the decode process was killed twice over it, perhaps for want of memory (--workers 1 needs less)"
                    ),
                )
            else:
                yield job, Failure(slow or f"the decode process died twice over it ({how})")
