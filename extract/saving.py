"""Saving in a thread of its own, so that hashing and writing rows doesn't keep the decode processes and the device waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

from extract.compute import Made

AHEAD = 4
"""Slices that may wait to be saved; more of them hold up the work, so memory stays bounded."""


class Saver:
    """Calls `save` with every slice that is `put`, in order, one at a time; the end of the `with` block waits for the last of them.

    What goes wrong in `save` is raised by the next `put`, or at the end; slices behind it are not saved.
    """

    def __init__(self, save: Callable[[Made], None]) -> None:
        self._save = save
        self._waiting: queue.Queue[Made | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Saver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, made: Made) -> None:
        """Have a slice saved soon; waits while too many are waiting."""
        self._raise()
        self._waiting.put(made)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (made := self._waiting.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._save(made)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that put the slice
                self._error = error
