"""Files that exist whole or not at all: written aside, synced, renamed; a full disk becomes a SpaceError."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fsar_cache.canonical import plain
from fsar_cache.errors import IntegrityError, MissingError, SpaceError, space_error

PARTIAL = ".partial"
"""How the names of files and folders end that are being written."""
PIECE = 1 << 20
"""Bytes that are read and written at a time."""
_ASIDE = re.compile(r"\..+\.\d+" + re.escape(PARTIAL))


def aside_of(path: Path) -> Path:
    """Where this process writes what will be renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")


def is_aside(name: str) -> bool:
    """Whether this is a name that `aside_of` gives."""
    return _ASIDE.fullmatch(name) is not None


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, or will."""
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free


def require_space(folder: Path, needed: int, what: str, hint: str, margin: float = 0.0) -> None:
    """Raise SpaceError where the disk that holds `folder` has fewer than `needed` bytes and that share of them free.

    what: needs the space, for the message.
    """
    free = free_bytes(folder)
    if needed * (1 + margin) > free:
        spare = f" and {margin:.0%} to spare" if margin else ""
        raise SpaceError(
            f"{what} need {needed / 1e9:.2f} GB{spare}, the disk of {folder} has {free / 1e9:.2f} GB free", hint=hint
        )


def sync_folder(folder: Path) -> None:
    """Make renames and removals inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def space_guard(where: object) -> Iterator[None]:
    """Turn "no space left" inside the block into a SpaceError that names `where`."""
    try:
        yield
    except OSError as error:
        full = space_error(error, where)
        if full is None:
            raise
        raise full from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` only if the block ends well; nothing is left behind otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    with space_guard(path):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; MissingError where it isn't, IntegrityError where it isn't JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingError(f"no file {path}") from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not valid JSON: {error}") from error
