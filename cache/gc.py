"""What killed processes left in folders of stores, and parts that a merged store holds: found with sizes, removed only under the lock."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cache.features import FeatureStore
from cache.folder import HEADER, FolderMedium
from cache.lock import exclusive, held
from cache.store import OWN, open_store, stores_under
from cache.verify import require_sound
from fsar_cache.errors import FsarError, MissingError, UsageError
from fsar_cache.files import PARTIAL, aside_of, is_aside

_OURS = re.compile(r"c\.[\d.]+|\d+\.h5|\d+\.journal|zarr\.json")
"""Names of what lies in the folders of a store."""
_PART = re.compile(r"\.part-(\d+)-of-(\d+)$")
_QUIET_SECONDS = 3600
"""For so long nobody has written to a partial file outside of stores that counts as left behind."""
Wrong = Callable[[FsarError], None]


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


def leftovers(folder: Path, wrong: Wrong | None = None) -> list[Leftover]:
    """What can go in `folder`, a store or a folder of stores, in order; nothing of what a writer is at work on.

    These are files that killed writers had not finished, journals of blocks that are written, files of blocks that were dropped, stores
    whose making or import was interrupted, and finished part stores whose blocks a merged store beside them holds that has all their rows.
    Journals of unfinished blocks stay: the next extraction goes on from them. Links are not followed. Damaged stores are told to `wrong`
    and left alone (without it their IntegrityError is raised). MissingError where there is no such folder.
    """
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}")
    found: list[Leftover] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if here.name.endswith(PARTIAL):
            found += _unless_held(here, "its making was interrupted") if _interrupted(here) else []
        elif HEADER in files:
            try:
                found += _of_store(open_store(here))
            except MissingError:  # went meanwhile
                pass
            except FsarError as error:
                if wrong is None:
                    raise
                wrong(error)
        elif "lock" in files and _half_made(here):
            found += _unless_held(here, "a half-made store")
        else:
            for name in sorted(files):
                found += _file(here / name, "unfinished", None) if _quiet(here / name) else []
            folders.sort()
            continue
        folders.clear()
    return found


def sweep(found: Sequence[Leftover], wrong: Wrong | None = None) -> list[Leftover]:
    """Remove what `leftovers` found and is still left over, under the lock of its store; returns what was removed.

    Where a writer has come meanwhile (UsageError), the merged store of a part is damaged (IntegrityError) or a file can't be removed
    (UsageError), the error is told to `wrong` and the rest goes on; without it the error is raised.
    """
    gone = []
    for one in found:
        try:
            gone += [one] if _removed(one) else []
        except FsarError as error:
            if wrong is None:
                raise
            wrong(error)
    return gone


def _removed(one: Leftover) -> bool:
    """Remove a leftover; False where it is none any more."""
    try:
        if one.store is None:
            one.path.unlink(missing_ok=True)
            return True
        if not one.store.is_dir():
            return False
        with exclusive(one.store / "lock"):
            if (one.path, one.copy) not in {(again.path, again.copy) for again in _leftovers_in(one.store)}:
                return False
            if one.path == one.store:
                if one.copy is not None:
                    _require_sound(open_store(one.copy), open_store(one.path).done)
                _remove_folder(one.path)
            else:
                one.path.unlink(missing_ok=True)
            return True
    except FileNotFoundError:  # somebody else was faster
        return False
    except OSError as error:
        raise UsageError(f"{one.path} can't be removed: {error}", hint="whose file is it? (ls -l)") from error


def _leftovers_in(path: Path) -> list[Leftover]:
    """What can go in one store or interrupted folder, whoever holds its lock."""
    if path.name.endswith(PARTIAL):
        return [_folder(path, "its making was interrupted")] if _only_ours(path) else []
    if (path / HEADER).exists():
        return _of_store(open_store(path), locked=True)
    return [_folder(path, "a half-made store")] if _half_made(path) else []


def _unless_held(path: Path, why: str) -> list[Leftover]:
    return [] if held(path / "lock") else [_folder(path, why)]


def _interrupted(path: Path) -> bool:
    """Whether this is a folder in which a store was made or removed; one without a lock may be a moment old."""
    if not is_aside(path.name) or not _only_ours(path):
        return False
    return _is_ours(path / "lock") or _is_old(path)


def _only_ours(path: Path) -> bool:
    """Whether in this folder lies nothing but what a store has."""
    for place, folders, files in os.walk(path):
        names = [name for name in (*folders, *files) if not is_aside(name)]
        if Path(place) == path:
            if not OWN.issuperset(names):
                return False
        elif folders or not all(map(_OURS.fullmatch, names)):
            return False
    return True


def _half_made(path: Path) -> bool:
    """Whether nothing lies in this folder but what a store begins with, and no block was written."""
    if not _is_ours(path / "lock"):
        return False
    ledger = path / "ledger.jsonl"
    try:
        named = {file.name for file in path.iterdir() if not is_aside(file.name)}
        return named <= OWN - {HEADER} and not (ledger.exists() and ledger.stat().st_size)
    except FileNotFoundError:
        return False


def _is_ours(lock: Path) -> bool:
    """Whether a lock file is of a store's writer, not of some other program."""
    try:
        return {"pid", "host", "since"} == set(json.loads(lock.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _of_store(store: FeatureStore, locked: bool = False) -> list[Leftover]:
    medium = store.medium
    assert isinstance(medium, FolderMedium)
    if medium.busy() and not locked:
        return []
    merged = _holder(store)
    if merged is not None:
        return [_folder(store.path, f"all its blocks are in {merged.path}", merged.path)]
    return [one for path, why in medium.remains() for one in _file(path, why, store.path)]


def _holder(part: FeatureStore) -> FeatureStore | None:
    """The store beside a finished part store that holds all of its blocks byte for byte and has written all of its rows."""
    if not _is_finished(part) or not _only_ours(part.path):
        return None
    for path in stores_under(part.path.parent):
        if _PART.search(path.name) or path.resolve() == part.path.resolve():
            continue
        with suppress(FsarError):  # a damaged store holds nothing for anybody
            other = open_store(path)
            if other.header == part.header and _holds(other, part):
                return other
    return None


def _is_finished(part: FeatureStore) -> bool:
    """Whether this is a part store that has nothing more to do: all blocks that are its own are written, and none is in doubt."""
    named = _PART.search(part.path.name)
    if not named or part.medium.journalled() or part.medium.ledger().damaged:
        return False
    number, count = int(named[1]), int(named[2])
    return all(block in part.done for block in range(number - 1, part.blocks, max(1, count)))


def _holds(other: FeatureStore, part: FeatureStore) -> bool:
    """Whether `other` has written every row of `part`, and has all blocks of it."""
    known = bool((other.numbers_of(part.rows) >= 0).all())
    written = known and other.done.issuperset(other.blocks_of(part.rows))
    return written and all(_same(part, other, block) for block in part.done)


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
        aside = aside_of(path)
        os.replace(path, aside)
    shutil.rmtree(aside)


def _quiet(file: Path) -> bool:
    return is_aside(file.name) and _is_old(file)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _QUIET_SECONDS
    except FileNotFoundError:
        return False


def _file(path: Path, why: str, store: Path | None) -> list[Leftover]:
    """One leftover; none where the file has gone meanwhile."""
    try:
        return [Leftover(path, path.stat().st_size, why, store)]
    except FileNotFoundError:
        return []


def _folder(path: Path, why: str, copy: Path | None = None) -> Leftover:
    return Leftover(
        path, sum(_freed(Path(place, name)) for place, _, names in os.walk(path) for name in names), why, path, copy
    )


def _freed(file: Path) -> int:
    try:
        facts = file.stat()
    except FileNotFoundError:
        return 0
    return facts.st_size if facts.st_nlink == 1 else 0
