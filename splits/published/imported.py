"""Imported lists in our own form: one JSON file per split under the folder of lists, sealed so that an edit by hand is noticed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsar_cache import places
from fsar_cache.canonical import plain
from fsar_cache.errors import IntegrityError, UsageError
from fsar_cache.files import read_json, write_json
from fsar_cache.settings import build
from splits.datasets import safe
from splits.official.catalog import official_names

KIND = "fsar-cache imported split"
"""What the key `kind` of such a file says."""
_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class ListFile:
    """One list that was imported: its name, SHA-256 of its bytes, partition, clips, grammar, whose published file it is ("")."""

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

    def entries(self, part: str) -> int:
        """How many clips a partition has."""
        return sum(map(len, self.parts[part].values()))


def imported_path(name: str) -> Path:
    """Where the split called `name` is kept."""
    return places.lists() / f"{name}.json"


def imported_names() -> list[str]:
    """The splits that were imported, sorted."""
    folder = places.lists()
    return sorted(path.stem for path in folder.glob("*.json") if safe(path.stem)) if folder.is_dir() else []


def read_imported(name: str) -> Imported | None:
    """The imported split called `name`, None where there is none. IntegrityError where its file is damaged or was edited."""
    path = imported_path(name)
    if not safe(name) or not path.is_file():
        return None
    split = unseal(read_json(path), path)
    if split.name != name:
        raise IntegrityError(f"{path} holds the split {split.name!r}", hint=_mend(path))
    return split


def write_imported(split: Imported) -> Path:
    """Keep an imported split, whole or not at all: partitions, classes and entries in their one order."""
    path = imported_path(split.name)
    write_json(path, {"kind": KIND, **_fields(ordered(split)), "seal": _seal(split)})
    return path


def ordered(split: Imported) -> Imported:
    """The same split in its one order: train, val, test, others by name; classes by name; entries sorted; files by partition and name."""
    rank = {part: (_ORDER.index(part) if part in _ORDER else len(_ORDER), part) for part in split.parts}
    parts = {
        part: {label: tuple(sorted(split.parts[part][label])) for label in sorted(split.parts[part])}
        for part in sorted(split.parts, key=lambda part: rank[part])
    }
    files = tuple(sorted(split.files, key=lambda one: (rank[one.part], one.file, one.sha256)))
    return Imported(split.name, split.dataset, split.published, parts, files)


def unseal(value: Any, path: Path) -> Imported:
    """The split that a file of ours holds; IntegrityError where it is no such file, or isn't as it was written."""
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise IntegrityError(f"{path} is no imported split", hint=_mend(path))
    fields = {key: one for key, one in value.items() if key not in ("kind", "seal")}
    try:
        split = build(Imported, fields)
    except UsageError as error:
        raise IntegrityError(f"{path}: {error.message}", hint=_mend(path)) from error
    if split.dataset not in official_names():
        raise IntegrityError(f"{path}: there is no dataset {split.dataset!r}", hint=_mend(path))
    if value.get("seal") != _seal(split):
        raise IntegrityError(f"{path} was changed after it was written: its seal doesn't fit", hint=_mend(path))
    return split


def _fields(split: Imported) -> dict[str, Any]:
    """All that the file says, in its order; entries as they are, since there are many."""
    made: dict[str, Any] = plain(replace(split, parts={}))
    return made | {"parts": split.parts}


def _seal(split: Imported) -> str:
    """The digest of all that the file says."""
    text = json.dumps(_fields(ordered(split)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _mend(path: Path) -> str:
    return f"remove it (rm {path}) and import the lists again; edit the lists, not this file"
