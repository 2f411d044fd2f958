"""How far an extraction is: counts, rates and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cache.rows import Outcome

EVERY = 0.2
"""Least seconds between two reports."""


@dataclass(frozen=True)
class Progress:
    """total: clips of the store; done: those with a row, ok or failed, `skipped` of them from earlier runs or no more in the dataset.

    failed, frames, bytes, seconds: of this run; bytes are those of the features made.
    """

    total: int
    done: int
    skipped: int
    failed: int
    frames: int
    bytes: int
    seconds: float

    @property
    def videos_per_second(self) -> float:
        """Clips finished per second of this run."""
        return (self.done - self.skipped) / self.seconds if self.seconds > 0 else 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames turned into features per second of this run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds left at this rate; None before the first clip."""
        return (self.total - self.done) / self.videos_per_second if self.done > self.skipped else None


Report = Callable[[Progress], None]


class Meter:
    """Counts what a run does and reports it every now and then."""

    def __init__(self, total: int, frames: int, row_bytes: int, report: Report | None) -> None:
        self._total, self._frames, self._row_bytes, self._report = total, frames, row_bytes, report
        self._began, self._told = time.monotonic(), 0.0
        self._skipped = self._ok = self._failed = 0

    def skip(self, clips: int) -> None:
        """Count clips that an earlier run finished."""
        self._skipped += clips

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Count clips that this run finished."""
        states = [outcome.status for outcome in outcomes]
        self._ok, self._failed = self._ok + states.count("ok"), self._failed + states.count("failed")
        self._skipped += states.count("absent")

    @property
    def now(self) -> Progress:
        """The state at this moment."""
        made = self._ok + self._failed
        seconds = time.monotonic() - self._began
        size = made * self._row_bytes
        return Progress(
            self._total, self._skipped + made, self._skipped, self._failed, self._ok * self._frames, size, seconds
        )

    def tell(self, always: bool = False) -> None:
        """Report, unless the last report was a moment ago."""
        if self._report is not None and (always or time.monotonic() - self._told >= EVERY):
            self._told = time.monotonic()
            self._report(self.now)
