"""Progress on stderr: a bar on a terminal, a line every now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fsar_cache.console import progress, say

LINE_SECONDS = 15.0
Show = Callable[[int, int, str], None]


@contextmanager
def display(what: str, unit: str) -> Iterator[Show]:
    """show(done, total, note) inside the block; a log gets its first line after some seconds, so quick work stays silent."""
    with progress(unit) as bar:
        task = bar.add_task(what, total=None, note="")
        began = last = time.monotonic()

        def show(done: int, total: int, note: str = "") -> None:
            nonlocal last
            bar.update(task, completed=done, total=total, note=note)
            now = time.monotonic()
            if not sys.stderr.isatty() and now - last > LINE_SECONDS and done < total:
                last = now
                rate = done / (now - began)
                left = f", about {(total - done) / rate:.0f} s left" if rate else ""
                say(f"{what}: {done} of {total} {unit}{left}{'; ' + note if note else ''}")

        yield show
