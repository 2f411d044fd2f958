"""What killed processes left in folders of stores, and parts that a merged store holds: found with sizes, removed only under the lock."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.features import FeatureStore
from cache.folder import HEADER, FolderMedium
from cache.lock import exclusive, held
from cache.store import OWN, open_store, stores_under
from cache.verify import require_sound
from fsar_cache.errors import MissingError

PARTIAL = ".partial"
"""How the names of files and folders end that are being written."""
_PART = re.compile(r"\.part-\d+-of-\d+")
_QUIET_SECONDS = 3600
"""For so long nobody has written to a partial file outside of stores that counts as left behind."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody needs; bytes: what its removal frees (blocks shared with another store free nothing).

    store: the folder whose lock a writer of it would hold; None where there is no such folder. copy: the merged store that holds this
    part.
    """

    path: Path
    bytes: int
    why: str
    store: Path | None
    copy: Path | None = None


def leftovers(folder: Path) -> list[Leftover]:
    """What can go in `folder`, a store or a folder of stores, in order; nothing of what a writer is at work on.

    These are files that killed writers had not finished, journals of blocks that are written, files of blocks that were dropped, stores
    whose making or import was interrupted, and part stores all of whose blocks a merged store beside them holds. Journals of unfinished
    blocks stay: the next extraction goes on from them. MissingError where there is no such folder.
    """
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}")
    found: list[Leftover] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if here.name.endswith(PARTIAL):
            found += _unless_held(here, "its making was interrupted")
        elif HEADER in files:
            found += _of_store(open_store(here))
        elif "lock" in files and _half_made(here):
            found += _unless_held(here, "a half-made store")
        else:
            found += [_file(here / name, "unfinished", None) for name in sorted(files) if _quiet(here / name)]
            folders.sort()
            continue
        folders.clear()
    return found


def sweep(found: Sequence[Leftover]) -> list[Leftover]:
    """Remove what `leftovers` found and is still left over, under the lock of its store; returns what was removed.

    Raises UsageError naming the holder where a writer has come meanwhile, IntegrityError where the merged store of a part is damaged.
    """
    gone = []
    for one in found:
        if one.store is None:
            one.path.unlink(missing_ok=True)
            gone.append(one)
            continue
        if not one.store.is_dir():
            continue
        with exclusive(one.store / "lock"):
            if (one.path, one.copy) not in {(again.path, again.copy) for again in _leftovers_in(one.store)}:
                continue
            if one.path == one.store:
                if one.copy is not None:
                    _require_sound(open_store(one.copy), open_store(one.path).done)
                _remove_folder(one.path)
            else:
                one.path.unlink(missing_ok=True)
            gone.append(one)
    return gone


def _leftovers_in(path: Path) -> list[Leftover]:
    """What can go in one store or interrupted folder, whoever holds its lock."""
    if path.name.endswith(PARTIAL):
        return [_folder(path, "its making was interrupted")]
    if (path / HEADER).exists():
        return _of_store(open_store(path), locked=True)
    return [_folder(path, "a half-made store")] if _half_made(path) else []


def _unless_held(path: Path, why: str) -> list[Leftover]:
    return [] if held(path / "lock") else [_folder(path, why)]


def _half_made(path: Path) -> bool:
    """Whether nothing lies in this folder but what a store begins with, and no block was written."""
    if not _is_ours(path / "lock"):
        return False
    ledger = path / "ledger.jsonl"
    named = {file.name for file in path.iterdir() if not file.name.endswith(PARTIAL)}
    return named <= OWN - {HEADER} and not (ledger.exists() and ledger.stat().st_size)


def _is_ours(lock: Path) -> bool:
    """Whether a lock file is of a store's writer, not of some other program."""
    try:
        return {"pid", "host", "since"} == set(json.loads(lock.read_bytes()))
    except (ValueError, TypeError):
        return False


def _of_store(store: FeatureStore, locked: bool = False) -> list[Leftover]:
    medium = store.medium
    assert isinstance(medium, FolderMedium)
    if medium.busy() and not locked:
        return []
    merged = _holder(store)
    if merged is not None:
        return [_folder(store.path, f"all its blocks are in {merged.path}", merged.path)]
    return [_file(path, why, store.path) for path, why in medium.remains()]


def _holder(part: FeatureStore) -> FeatureStore | None:
    """The store beside a part store that holds all of its blocks (of an empty one: none), byte for byte."""
    if not _PART.search(part.path.name) or part.medium.journalled():
        return None
    for path in stores_under(part.path.parent):
        if not _PART.search(path.name):
            other = open_store(path)
            if other.header == part.header and all(_same(part, other, block) for block in part.done):
                return other
    return None


def _same(part: FeatureStore, other: FeatureStore, block: int) -> bool:
    here, there = part.entry(block), other.entry(block)
    if here is None or there is None or here.sha256 != there.sha256:
        return False
    ranges = part.block_range(block), other.block_range(block)
    clips = [[(row.id, row.view) for row in s.rows[slice(*r)]] for s, r in zip((part, other), ranges, strict=True)]
    return clips[0] == clips[1]


def _require_sound(store: FeatureStore, blocks: set[int]) -> None:
    for block in sorted(blocks):
        require_sound(store, block)


def _remove_folder(path: Path) -> None:
    """First renamed, so that a kill on the way leaves an interrupted folder and no damaged store."""
    aside = path
    if not path.name.endswith(PARTIAL):
        aside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
        os.replace(path, aside)
    shutil.rmtree(aside)


def _quiet(file: Path) -> bool:
    if not (file.name.startswith(".") and file.name.endswith(PARTIAL)):
        return False
    return time.time() - file.stat().st_mtime > _QUIET_SECONDS


def _file(path: Path, why: str, store: Path | None) -> Leftover:
    return Leftover(path, path.stat().st_size, why, store)


def _folder(path: Path, why: str, copy: Path | None = None) -> Leftover:
    return Leftover(path, sum(_freed(path)), why, path, copy)


def _freed(path: Path) -> Iterator[int]:
    for place, _, names in os.walk(path):
        for name in names:
            facts = Path(place, name).stat()
            yield facts.st_size if facts.st_nlink == 1 else 0
