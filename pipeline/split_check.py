"""Whether a split is what was published, and what to know before its numbers are believed: `fsar-cache split check` as data."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from fsar_cache.console import unwarned
from fsar_cache.errors import MissingError, UsageError
from pipeline.split_facts import ClassFacts, PartFacts, how_made, notes_of, part_facts
from pipeline.split_states import published
from splits.datasets import missing, open_split
from splits.official.disk import find
from splits.overlap import class_overlap, clip_overlap, source_overlap
from splits.published.imported import read_imported
from splits.published.known import Known, known, known_names
from splits.published.make import by_rule
from splits.types import Protocol, Split, Video
from splits.words import listed

Kind = Literal["partition", "counts", "missing", "small", "classes", "recordings", "clips", "rule", "note"]
NAMED = 5
"""Names in one line."""


@dataclass(frozen=True)
class Thing:
    """One thing to know: of what kind, in words, and its details line by line."""

    kind: Kind
    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What was found. parts: of their classes only those that have not as many clips as published; code: the exit code."""

    name: str
    made: str
    parts: tuple[PartFacts, ...]
    things: tuple[Thing, ...]
    code: int


def check(asked: str, protocol: Protocol, videos: Path) -> Checked:
    """Look at the split called `asked`; what can't be opened at all is the error of `open_split`."""
    with unwarned():
        split = open_split(asked, videos)
    facts = known(split.name) if split.name in known_names() else None
    own = read_imported(split.name) if split.dataset else None
    gone = missing(split)
    parts = tuple(_differing(part, facts) for part in part_facts(facts, published(facts), split, gone))
    things = [
        *_counts(parts, split),
        *_missing(asked, split, gone),
        *_too_small(split, protocol, gone),
        *_shared(split),
        *_of_rule(facts, split, videos, imported=own is not None),
        *_notes(facts, split),
    ]
    return Checked(split.name, how_made(facts, own), parts, tuple(things), _code(things, parts))


def _code(things: list[Thing], parts: tuple[PartFacts, ...]) -> int:
    """4 where counts differ from the published ones, 3 where no file is there, else 0."""
    if any(thing.kind in ("counts", "partition") for thing in things):
        return 4
    return 0 if any(part.on_disk for part in parts) else MissingError.exit_code


def _differing(part: PartFacts, facts: Known | None) -> PartFacts:
    """A partition with those of its classes that have not as many clips as published; 0 published: a class that shouldn't be there."""
    if facts is None or part.name not in facts.parts or not facts.parts[part.name].videos:
        return replace(part, classes=())
    told = (replace(one, published=one.published or 0) for one in part.classes)
    return replace(part, classes=tuple(one for one in told if one.published != one.found))


def _counts(parts: tuple[PartFacts, ...], split: Split) -> Iterator[Thing]:
    for part in parts:
        if part.name not in split.parts:
            reasons = [note.removesuffix(f": {_absent(part.name)}") for note in notes_of(split)]
            why = "; ".join(reason for reason, note in zip(reasons, notes_of(split), strict=True) if reason != note)
            text = f"{part.name} is missing: {part.published} as published, nothing here"
            yield Thing("partition", f"{text} ({why})" if why else text)
        elif part.classes:
            more = f"{part.found} instead of {part.published}" if part.found != part.published else "the same total"
            lines = tuple(map(_class_line, part.classes))
            yield Thing(
                "counts", f"{part.name}: {len(lines)} classes have not as many clips as published ({more})", lines
            )


def _class_line(one: ClassFacts) -> str:
    return f"{one.label}: {one.found} instead of {one.published}"


def _missing(asked: str, split: Split, gone: list[Video]) -> Iterator[Thing]:
    if not gone:
        return
    files = list(dict.fromkeys(video.path for video in gone))
    total = sum(len(part.videos) for part in split.parts.values())
    of = "" if len(files) == len(gone) else f" (in {len(files)} files)"
    what = (
        f"none of {total} clips has its file"
        if len(gone) == total
        else f"{len(gone)} of {total} clips{of} have no file"
    )
    yield Thing(
        "missing",
        f"{what} below {split.root}: {listed(files, NAMED)}",
        (f"fsar-cache split missing {shlex.quote(asked)} --csv",),
    )


def _too_small(split: Split, protocol: Protocol, gone: list[Video]) -> Iterator[Thing]:
    """Partitions of too few classes, and classes of too few clips for an episode; only clips whose file is there count, unless none is."""
    out = {video.id for video in gone}
    none = len(out) == sum(len(part.videos) for part in split.parts.values())
    needed = protocol.shot + protocol.query
    what = (
        f"{protocol.way}-way {protocol.shot}-shot with {protocol.query} {'query' if protocol.query == 1 else 'queries'}"
    )
    for part in split.parts.values():
        there = Counter(v.label for v in part.videos if none or v.id not in out)
        small = sorted((there[name], name) for name in part.classes if there[name] < needed)
        left = len(part.classes) - len(small)
        if (classes := len(part.classes)) < protocol.way:
            yield Thing("small", f"{part.name}: {classes} classes are too few for {protocol.way}-way episodes")
        if small:
            text = f"{part.name}: {len(small)} of {classes} classes have fewer than the {needed} clips of {what}"
            if left < protocol.way <= classes:
                text += f"; {left} left, too few for an episode"
            yield Thing("small", text, tuple(f"{name}: {count}" for count, name in small))


def _shared(split: Split) -> Iterator[Thing]:
    """What two partitions of the split have in common."""
    for a, b in combinations(split.parts.values(), 2):
        where = f"{a.name} and {b.name}"
        classes = class_overlap(a, b)
        if classes.same:
            names = listed([one for one, _ in classes.same], NAMED)
            yield Thing("classes", f"{where} have {len(classes.same)} classes in common: {names}")
        near = [f"{one} ~ {other}" for one, other in classes.nearly + classes.joined]
        if near:
            yield Thing("classes", f"{where} have {len(near)} classes of nearly one name: {listed(near, NAMED)}")
        sources = source_overlap(a, b)
        if sources.shared:
            counts = f"{sources.clips[0]} and {sources.clips[1]} clips"
            first = ", ".join(sources.first)
            yield Thing(
                "recordings", f"{where} have clips of {sources.shared} recordings in common ({counts}): {first}"
            )
        clips = clip_overlap(split, a, split, b)
        if clips.first:
            yield Thing(
                "clips", f"{where} have {len(clips.first)} clips of one file in common: {listed(clips.first, NAMED)}"
            )


def _of_rule(facts: Known | None, split: Split, videos: Path, imported: bool) -> Iterator[Thing]:
    """Whether an imported list and the rule of the same split have the same clips; nothing where the rule can't be applied."""
    if facts is None or not imported or facts.rule == "list" or facts.base is not None:
        return
    try:
        made = by_rule(facts, find(facts.dataset, videos))
    except (MissingError, UsageError):
        return
    for name in dict.fromkeys([*split.parts, *made]):
        listed_clips = {v.id: v.label for v in split.parts[name].videos} if name in split.parts else {}
        ruled = {v.id: v.label for v in made[name].videos} if name in made else {}
        sides = {
            "the list": listed_clips.keys() - ruled.keys(),
            "the dataset's annotation": ruled.keys() - listed_clips.keys(),
        }
        lines = [f"only by {side}: {len(ids)}: {listed(sorted(ids), NAMED)}" for side, ids in sides.items() if ids]
        other = sorted(one for one in listed_clips.keys() & ruled.keys() if listed_clips[one] != ruled[one])
        lines += [f"of another class: {len(other)}: {listed(other, NAMED)}"] if other else []
        if lines:
            yield Thing("rule", f"{name}: the imported list and what the annotation gives by rule differ", tuple(lines))


def _notes(facts: Known | None, split: Split) -> Iterator[Thing]:
    """What was noted while the split was opened, without missing partitions and counts, which are told above in full."""
    gone = tuple(_absent(part) for part in facts.parts if part not in split.parts) if facts else ()
    told = (*gone, f"(fsar-cache split check {split.name})")
    yield from (Thing("note", note) for note in notes_of(split) if not note.endswith(told))


def _absent(part: str) -> str:
    """How a note ends that says that a partition is missing."""
    return f"partition {part} is missing"
