"""Files that exist whole or not at all: written aside, synced, renamed; a full disk becomes a SpaceError."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fsar_cache.canonical import plain
from fsar_cache.errors import IntegrityError, MissingError, space_error


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
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
    except ValueError as error:
        raise IntegrityError(f"{path} is not valid JSON: {error}") from error
