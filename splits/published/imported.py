"""Imported lists in our own form: one JSON file per split under the folder of lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListFile:
    """One list that was imported: its name, the SHA-256 of its bytes, its partition, entries, grammar, and whose published file it is ("")."""

    file: str
    sha256: str
    part: str
    entries: int
    grammar: str
    copy: str = ""


@dataclass(frozen=True)
class Imported:
    """An imported split.

    parts: partition -> class in official spelling -> entries, as the list names clips (stems without folder and extension), sorted.
    published: whether name is that of a published split whose content these partitions have.
    """

    name: str
    dataset: str
    published: bool
    parts: dict[str, dict[str, tuple[str, ...]]]
    files: tuple[ListFile, ...]


def imported_path(name: str) -> Path:
    """Where the split called `name` is kept."""
    raise NotImplementedError


def imported_names() -> list[str]:
    """The splits that were imported, sorted."""
    raise NotImplementedError


def read_imported(name: str) -> Imported | None:
    """The imported split called `name`, None where there is none. IntegrityError where its file is damaged or was edited."""
    raise NotImplementedError


def write_imported(split: Imported) -> Path:
    """Keep an imported split, whole or not at all."""
    raise NotImplementedError
