"""HMDB51: class folders of files with special characters in their names, which tools may have cleaned; the owners' lists have them whole.

A name is found again by two rules: every special character turned into an underscore, or deleted; case doesn't count. Where two clips
would have one cleaned name neither is taken for the other: both count as not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fsar_cache.errors import MissingError
from splits.official.annotated import Annotated, counted, read_text, refuse, spelled
from splits.official.names import NAMING, hmdb_before_tail
from splits.types import Video

if TYPE_CHECKING:
    from splits.official.disk import OnDisk

key = NAMING["hmdb51"].id_of
_SPECIAL = re.compile(r"[^A-Za-z0-9_]")
_LIST = re.compile(r"(.+)_test_split1\.txt")
_PARTITION = {"0": "all", "1": "train", "2": "test"}


def expected(entry: str, label: str) -> str:
    """Where the clip's file should be."""
    return f"{label}/{entry}.avi"


def underscored(name: str) -> str:
    """The name as tools clean it that turn every special character into an underscore."""
    return _SPECIAL.sub("_", name).casefold()


def deleted(name: str) -> str:
    """The name as tools clean it that delete special characters."""
    return _SPECIAL.sub("", name).casefold()


class Cleaned:
    """Files by their cleaned names, for lists that have them whole. names: all that the lists have, as far as known."""

    def __init__(self, paths: dict[str, str], names: Collection[str]) -> None:
        self._paths = paths
        free = [name for name in paths if name not in names]
        self._there = {rule: _by(rule, free) for rule in _RULES}
        self._wanted = {rule: _by(rule, [name for name in names if name not in paths]) for rule in _RULES}

    def path(self, name: str) -> str | None:
        """The path of the clip's file under its own name, or under a cleaned one that only this clip and one file have."""
        if name in self._paths:
            return self._paths[name]
        for rule in _RULES:
            files = self._there[rule].get(rule(name), [])
            if len(files) == 1 and len(self._wanted[rule].get(rule(name), [name])) == 1:
                return self._paths[files[0]]
        return None

    def is_unclear(self, name: str) -> bool:
        """Whether there is a file with its cleaned name, but not for it alone."""
        return self.path(name) is None and any(self._there[rule].get(rule(name)) for rule in _RULES)


def _by(rule: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for name in names:
        made.setdefault(rule(name), []).append(name)
    return made


_RULES = (underscored, deleted)


def resolver(disk: OnDisk, entries: Collection[str]) -> Callable[[str, str], Video | None]:
    """What finds the clip of a name; names that the owners' lists have, where they are there, are told from one another."""
    known = disk.annotation().clips if disk.file("lists") is not None else {}
    cleaned = Cleaned(disk.paths, {*known, *entries})

    def clip(entry: str, label: str) -> Video | None:
        return disk.video(entry, label, cleaned.path(entry) or expected(entry, label)) if key(entry) else None

    return clip


def annotated(disk: OnDisk, which: str | None) -> Annotated:
    """The files of the owners' lists (their first split lists every file); without lists the files that are there, by their names."""
    folder = disk.file("lists")
    if folder is None:
        return _of_files(disk)
    listed: dict[str, tuple[str, str]] = {}
    twice: list[str] = []
    for file in sorted(folder.glob("*_test_split1.txt")):
        label = disk.labels.get(spelled(_LIST.sub(r"\1", file.name)))
        if label is None:
            refuse(file, [(0, "its name is no class of HMDB51 and _test_split1.txt")], "file")
        for name, partition in _lines(file):
            if name in listed:
                twice.append(name)
            listed.setdefault(name, (str(label), partition))
    if not listed:
        raise MissingError(f"no <class>_test_split1.txt in {folder}", hint=f"get it: {disk.official.get[0]}")
    cleaned = Cleaned(disk.paths, listed)
    clips = {n: disk.video(n, label, cleaned.path(n) or expected(n, label)) for n, (label, _) in listed.items()}
    used = {video.path for video in clips.values()}
    notes = counted("line", "of the owners' lists for a clip that has one already, not used", twice)
    renamed = [n for n in sorted(listed) if n not in disk.paths and cleaned.path(n)]
    notes += counted("clip", "found under a cleaned name", renamed)
    unclear = [n for n in sorted(listed) if cleaned.is_unclear(n)]
    notes += counted("clip", "sharing a cleaned name with another, so without a file", unclear)
    notes += counted("file", "absent from the owners' lists, not used", sorted(set(disk.paths.values()) - used))
    return Annotated(clips, {n: part for n, (_, part) in listed.items()}, f"{folder.name}, split 1", notes)


def _lines(file: Path) -> list[tuple[str, str]]:
    """Clip and partition of each line; UsageError naming every bad one."""
    made: list[tuple[str, str]] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        name = words[0].rsplit(".", 1)[0]
        if len(words) != 2 or words[1] not in _PARTITION or key(name) is None:
            bad.append((number, f"no <file>.avi <0|1|2>: {line[:120]!r}"))
        else:
            made.append((name, _PARTITION[words[1]]))
    refuse(file, bad)
    return made


def class_of(name: str, disk: OnDisk) -> str | None:
    """The class in a file's name: the longest that its text before the tail ends in ("..._kick_ball" is no "ball")."""
    before = spelled(hmdb_before_tail(name) or "")
    fitting = [label for small, label in disk.labels.items() if before.endswith(f" {small}") or before == small]
    return max(fitting, key=len, default=None)


def _of_files(disk: OnDisk) -> Annotated:
    clips: dict[str, Video] = {}
    strange: list[str] = []
    for name, path in disk.paths.items():
        folder = path.split("/")[-2] if "/" in path else ""
        label = disk.labels.get(spelled(folder)) or class_of(name, disk)
        if label is None:
            strange.append(path)
        else:
            clips[name] = disk.video(name, label, path)
    if not clips:
        raise disk.nothing_there()
    notes = counted("file", "in no class folder and naming no class, not used", strange)
    if not any(map(_SPECIAL.search, clips)):
        notes += (
            "no name has a special character: a tool has cleaned them, so ids differ from the official ones; with the "
            f"owners' lists ({disk.official.annotations['lists'][0]}) they are the official ones",
        )
    return Annotated(clips, dict.fromkeys(clips, "all"), "class folders", notes)
