"""What people see: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def err() -> Console:
    """The console for everything that is not a result (stderr; plain text when it is not a terminal)."""
    from rich.console import Console

    return Console(stderr=True, emoji=False, highlight=False, soft_wrap=not sys.stderr.isatty())


def out() -> Console:
    """The console for results (stdout)."""
    from rich.console import Console

    return Console(emoji=False, highlight=False, soft_wrap=not sys.stdout.isatty())


def say(text: str) -> None:
    """One line for a person, on stderr; square brackets are printed as they are."""
    err().print(text, markup=False)


def warn(text: str) -> None:
    """One warning line on stderr."""
    err().print(f"warning: {text}", style="yellow", markup=False)


_WARNED: set[str] = set()
_SILENT: list[bool] = []


def warn_once(text: str) -> None:
    """A warning that is not repeated by the same command."""
    if text not in _WARNED and not _SILENT:
        _WARNED.add(text)
        warn(text)


@contextmanager
def unwarned() -> Iterator[None]:
    """Nothing is warned of once within the block: for a command whose result says the same."""
    _SILENT.append(True)
    try:
        yield
    finally:
        _SILENT.pop()


def forget_warnings() -> None:
    """A new command begins: whatever was warned of may be warned of again."""
    _WARNED.clear()


def progress(unit: str) -> Progress:
    """A progress display on stderr: bar, count, rate in `unit`/s, elapsed and remaining time, and a free text field `note`.

    Where stderr is not a terminal nothing is drawn (a log gets summary lines from the caller instead).
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from fsar_cache._rate import RateColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err(),
        disable=not sys.stderr.isatty(),
    )
