"""What an import found, as data: the words for people are the command's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from fsar_cache import places
from fsar_cache.errors import MissingError, UsageError
from splits.official.disk import find
from splits.official.names import NAMING
from splits.published.imported import Imported, ListFile
from splits.published.known import known
from splits.published.recognise import Closest, closest

State = Literal["new", "same", "replaced", "kept", "taken over"]
"""new; same: was there with this content; replaced; kept: not in this import; taken over: from another split that shares the partition."""
_FIRST = 5


@dataclass(frozen=True)
class PartReport:
    """One partition of an imported split.

    expected: classes and clips that the published split has, None for a split of the user's; differing: (class, expected clips, clips
    here) where they aren't the same; files: the lists it was made of; repeats: (list, line, line where the clip stands first), each kept
    once; tidied: (list, what was overlooked in it); read: how numbers of classes were read ("" where known); closest: for a user's split.
    """

    part: str
    state: State
    classes: int
    clips: int
    expected: tuple[int, int] | None
    differing: tuple[tuple[str, int, int], ...]
    files: tuple[ListFile, ...]
    repeats: tuple[tuple[str, int, int], ...] = ()
    tidied: tuple[tuple[str, str], ...] = ()
    read: str = ""
    closest: Closest | None = None


@dataclass(frozen=True)
class Overlap:
    """What two partitions share: number of clips and of classes, and the first of each."""

    one: str
    other: str
    clips: int
    first_clips: tuple[str, ...]
    classes: int
    first_classes: tuple[str, ...]


@dataclass(frozen=True)
class Unknown:
    """Entries that the dataset on disk doesn't have, by `source`: how many and the first; problem: why that couldn't be told, ""."""

    source: str
    count: int
    first: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class SplitReport:
    """One split that was imported.

    path: where it is kept; changed: whether that file was written; lacking: partitions of the published split that weren't imported;
    unknown: None where the dataset isn't on disk; notes: what to say besides.
    """

    name: str
    dataset: str
    published: bool
    path: Path
    changed: bool
    parts: tuple[PartReport, ...]
    lacking: tuple[str, ...]
    overlaps: tuple[Overlap, ...]
    unknown: Unknown | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Left:
    """Lists that weren't imported, and why; closest: what they are like, where that could be told."""

    files: tuple[str, ...]
    why: str
    closest: tuple[Closest, ...] = ()


@dataclass(frozen=True)
class ImportReport:
    """What an import did: splits by name, files that are no lists (name, why), lists that were left out."""

    splits: tuple[SplitReport, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    left: tuple[Left, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What is to be told of one partition besides its content."""

    repeats: tuple[tuple[str, int, int], ...] = ()
    tidied: tuple[tuple[str, str], ...] = ()
    read: str = ""


def part_report(split: Imported, part: str, state: State, seen: Seen) -> PartReport:
    """The report on one partition of a split."""
    classes = split.parts[part]
    files = tuple(one for one in split.files if one.part == part)
    near = expected = None
    differing: tuple[tuple[str, int, int], ...] = ()
    if split.published:
        facts = known(split.name).parts[part]
        expected = (len(facts.classes), facts.total)
        there = dict(zip(facts.classes, facts.videos, strict=True))
        here = {name: len(entries) for name, entries in classes.items()}
        names = sorted(there.keys() | here.keys())
        rows = ((name, there.get(name, 0), here.get(name, 0)) for name in names)
        differing = tuple(row for row in rows if row[1] != row[2])
    else:
        near = closest(split.dataset, part, classes)
    return PartReport(
        part,
        state,
        len(classes),
        split.entries(part),
        expected,
        differing,
        files,
        seen.repeats,
        seen.tidied,
        seen.read,
        near,
    )


def overlaps(split: Imported) -> tuple[Overlap, ...]:
    """What partitions share, for every two that share something."""
    clips = {part: _clips(split.dataset, split.parts[part].items()) for part in split.parts}
    made = []
    for one, other in combinations(split.parts, 2):
        both = sorted(clips[one] & clips[other])
        classes = sorted(split.parts[one].keys() & split.parts[other].keys())
        if both or classes:
            made.append(Overlap(one, other, len(both), tuple(both[:_FIRST]), len(classes), tuple(classes[:_FIRST])))
    return tuple(made)


def _clips(dataset: str, classes: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """The ids of all entries of some classes."""
    id_of = NAMING[dataset].id_of
    return {id_of(entry) or entry for _, entries in classes for entry in entries}


def unknown_to_disk(split: Imported) -> Unknown | None:
    """Entries that the dataset's own files don't have; None where these aren't on disk."""
    entries = [(e, label) for classes in split.parts.values() for label, listed in classes.items() for e in listed]
    try:
        there = find(split.dataset, places.videos())
        source = there.annotation().source
        clips = there.annotation().clips
        found = there.clips(entries) if split.dataset == "rareact" else []
    except MissingError:
        return None
    except UsageError as error:
        return Unknown("", 0, (), error.message)
    if split.dataset == "rareact":
        absent = [entry for (entry, _), clip in zip(entries, found, strict=True) if clip is None]
    else:
        id_of = NAMING[split.dataset].id_of
        absent = [entry for entry, _ in entries if id_of(entry) not in clips]
    return Unknown(source, len(absent), tuple(absent[:_FIRST]))
