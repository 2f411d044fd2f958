"""What can go wrong, as one family of exceptions: each says what and where, offers a runnable hint and knows its exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any

EXIT_CODES: dict[int, str] = {
    0: "ok",
    1: "a bug in fsar-cache",
    2: "usage or configuration",
    3: "data or weights missing",
    4: "integrity or parity mismatch",
    5: "finished, but too many videos failed",
    6: "out of disk or memory",
    130: "interrupted; the message says how to continue",
}


class FsarError(Exception):
    """A mistake or circumstance that the user can do something about; never shown with a traceback.

    `message` says what is wrong and where; `hint` is a command or an action that mends it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[FsarError], message: str, hint: str | None) -> FsarError:
    return kind(message, hint=hint)


class UsageError(FsarError):
    """A wrong option, setting, name or input shape."""

    exit_code = 2


class MissingError(FsarError):
    """A dataset, video, weight file, store or run that is not there."""

    exit_code = 3


class IntegrityError(FsarError):
    """Bytes that are not what their checksum, fingerprint or golden case says."""

    exit_code = 4


class FailedVideosError(FsarError):
    """An extraction that finished with more failed videos than allowed; `made` is what it ended with, all the same."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str | None = None, made: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.made = made


class SpaceError(FsarError):
    """No disk or memory left."""

    exit_code = 6


class Interrupted(FsarError):  # noqa: N818 - an interruption is not an error
    """SIGINT or SIGTERM after the work in hand was saved; the hint is the command that continues."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `known`, with the nearest suggestion."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f"did you mean {close!r}?" if close else None
    return UsageError(f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}", hint=hint)


def space_error(error: OSError, where: object) -> SpaceError | None:
    """The `SpaceError` for an OSError that means a full disk or quota, else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            f"no space left while writing {where}", hint="free some space and repeat the command; finished work is kept"
        )
    return None
