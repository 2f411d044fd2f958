"""How a command ends: errors as lines on stderr with their exit codes, and a reader of the results who went away."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer

from fsar_cache.errors import FsarError, SpaceError, UsageError
from pipeline.memory import is_out_of_memory

CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
"""What the system says of a place that can't be written, or is no folder."""


class Results:
    """stdout whose reader may go away: that, and no other broken pipe of a command, is a `ReaderGoneError`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As a stream's."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError as error:
            raise self._closed(error) from error

    def flush(self) -> None:
        """As a stream's."""
        try:
            self._stream.flush()
        except BrokenPipeError as error:
            raise self._closed(error) from error

    def _closed(self, error: BrokenPipeError) -> ReaderGoneError:
        """What is still held back goes nowhere, else the interpreter's last flush would fail too."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return ReaderGoneError(*error.args)


class ReaderGoneError(BrokenPipeError):
    """Nobody reads the results on: no mistake."""


def answer(error: BaseException) -> int:
    """Say what went wrong; returns the exit code. What nobody foresaw is shown whole and called a bug."""
    if isinstance(error, FsarError):
        _complain(error.message, error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if error.format_message():  # none where a group without a command has printed its help
            _complain(error.format_message(), _help_of(error))
        return 2
    if isinstance(error, ReaderGoneError):
        return 0
    if is_out_of_memory(error):
        reason = (str(error).splitlines() or [""])[0][:200]
        _complain(
            f"out of memory{f': {reason}' if reason else ''}",
            "use fewer workers (--workers 1) or pooled features (--cut pooled)",
        )
        return SpaceError.exit_code
    if isinstance(error, OSError) and error.errno in CLOSED and error.filename:
        _complain(
            f"{error.filename}: {error.strerror}",
            "stores, runs and lists go to folders that can be written: FSAR_STORES, FSAR_RUNS and FSAR_LISTS move them",
        )
        return UsageError.exit_code
    print("This is a bug in fsar-cache; please report it with the command and the lines below.", file=sys.stderr)  # noqa: T201
    sys.excepthook(type(error), error, error.__traceback__)
    return 1


def code_of(left: SystemExit) -> int:
    """The exit code that a SystemExit carries, as Python itself reads it."""
    if left.code is None or isinstance(left.code, int):
        return left.code or 0
    print(left.code, file=sys.stderr)  # noqa: T201
    return 1


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'fsar-cache'} --help"


def _complain(message: str, hint: str | None) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201 - works even where rich does not
    if hint:
        print(f"hint: {hint}", file=sys.stderr)  # noqa: T201
