"""Workers that go wrong, in place of the engine's own, for test_ray: its processes import this module.

They leave files in the folder above the videos: `calls` holds one per share asked for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from extract.compute import Made, Slice
from extract.local import Clips
from extract.ray_worker import Given, Worker
from fsar_cache.errors import UsageError


class Counting(Worker):
    """Notes the first rows of the slices of every share."""

    def made(self, slices: list[Slice]) -> Iterator[Made]:
        calls = self._given.clips.root.parent / "calls"
        calls.mkdir(exist_ok=True)
        (calls / str(len(list(calls.iterdir())))).write_text(" ".join(f"{s.block}.{s.first}" for s in slices))
        yield from super().made(slices)


class DiesAlways(Counting):
    """Killed after two slices."""

    after = 2

    def made(self, slices: list[Slice]) -> Iterator[Made]:
        for number, made in enumerate(super().made(slices)):
            if number == self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield made


class DiesOnce(DiesAlways):
    """The first of them is killed after two slices."""

    def made(self, slices: list[Slice]) -> Iterator[Made]:
        self.after = -1 if (self._given.clips.root.parent / "calls").exists() else 2
        yield from super().made(slices)


class Refuses(Worker):
    """Meets a mistake of the user's."""

    def made(self, slices: list[Slice]) -> Iterator[Made]:
        raise UsageError("never this", hint="but that")
        yield


class Breaks(Worker):
    """Has a bug."""

    def made(self, slices: list[Slice]) -> Iterator[Made]:
        raise ZeroDivisionError("one over nought")
        yield


class CannotStart(Worker):
    """As on a machine where something is not installed."""

    def __init__(self, given: Given, workers: int) -> None:
        raise ImportError("no module of that name")


class Different(Worker):
    """A machine with another torch, unless it is the second that asks."""

    def ready(self) -> tuple[str, dict[str, Any]]:
        host, facts = super().ready()
        first = self._given.clips.root.parent / "first"
        try:
            first.touch(exist_ok=False)
        except FileExistsError:
            return host, facts
        return "other", {**facts, "packages": {**facts["packages"], "torch": "1.0"}}


class Elsewhere(Worker):
    """A machine where the videos are not mounted."""

    def __init__(self, given: Given, workers: int) -> None:
        super().__init__(replace(given, clips=Clips(Path("/nowhere"), given.clips.videos)), workers)
