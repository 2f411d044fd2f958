"""What two splits share, partition by partition: `fsar-cache split diff` as data and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from fsar_cache.console import warn
from fsar_cache.errors import MissingError
from pipeline.columns import columns
from pipeline.split_check import NAMED
from splits.datasets import open_split
from splits.official.catalog import official, official_names
from splits.overlap import ClassOverlap, ClipOverlap, SourceOverlap, class_overlap, located, source_overlap
from splits.published.known import Known, known, known_names, other_names
from splits.published.make import settled
from splits.types import Part, Split
from splits.words import listed

Places = Mapping[tuple[str, float | None, float | None], list[str]]
"""Where clips lie -> their ids; see `splits.overlap.located`."""


@dataclass(frozen=True)
class Pair:
    """What a partition of the first split shares with one of the second."""

    a: str
    b: str
    classes: ClassOverlap
    sources: SourceOverlap
    clips: ClipOverlap

    @property
    def shares(self) -> bool:
        """Whether that is anything."""
        return bool(self.classes.pairs or self.sources.shared or self.clips.first)


@dataclass(frozen=True)
class Content:
    """Clips of the partition of one name in two splits of one dataset: ids; other: (id, class in the first, class in the second)."""

    part: str
    both: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Diff:
    """pairs: of partitions that share something; contents: of each partition, for two splits of one dataset."""

    a: str
    b: str
    pairs: tuple[Pair, ...]
    contents: tuple[Content, ...]


def diff(one: str, other: str, videos: Path) -> Diff:
    """Compare two splits, or the partitions of one and the same with each other."""
    a, b = _opened(one, videos), _opened(other, videos)
    same = a is b or (a.name, a.hash) == (b.name, b.hash)
    both = combinations(a.parts.values(), 2) if same else product(a.parts.values(), b.parts.values())
    places = {id(part): located(split.root, part.videos) for split in (a, b) for part in split.parts.values()}
    pairs = (
        Pair(p.name, q.name, class_overlap(p, q), source_overlap(p, q), _clips(p, q, places, one_home=a.home == b.home))
        for p, q in both
    )
    whole = all(part.videos for split in (a, b) for part in split.parts.values())
    contents = _contents(a, b) if a.home == b.home and whole and not same else ()
    return Diff(a.name, b.name, tuple(pair for pair in pairs if pair.shares), tuple(contents))


def _clips(p: Part, q: Part, places: Mapping[int, Places], one_home: bool) -> ClipOverlap:
    """As `splits.overlap.clip_overlap` has it, with the places of each partition's clips, by `id`, which are told once."""
    shared = frozenset(p.ids) & frozenset(q.ids) if one_home else frozenset[str]()
    mine, theirs = places[id(p)], places[id(q)]
    both = mine.keys() & theirs.keys()
    return ClipOverlap(
        tuple(sorted(shared.union(*(mine[place] for place in both)))),
        tuple(sorted(shared.union(*(theirs[place] for place in both)))),
    )


def _opened(name: str, videos: Path) -> Split:
    """The split; of a published one that isn't there, the names of its classes."""
    try:
        return open_split(name, videos)
    except MissingError as error:
        facts = _facts(name, videos)
        if facts is None:
            raise
        warn(f"{error.message.splitlines()[0]}; of {facts.name} only the names of classes are compared")
        every = tuple(c for c in official(facts.dataset).classes if c not in facts.drop)
        parts = {part: Part(part, tuple(sorted(said.classes or every)), ()) for part, said in facts.parts.items()}
        return Split(facts.name, videos, parts, dataset=facts.dataset)


def _facts(name: str, videos: Path) -> Known | None:
    if name in official_names():
        name = settled(name, videos)
    return known(name) if name in (*known_names(), *other_names()) else None


def _contents(a: Split, b: Split) -> Iterator[Content]:
    for name in dict.fromkeys([*a.parts, *b.parts]):
        mine, theirs = ({v.id: v.label for v in s.parts[name].videos} if name in s.parts else {} for s in (a, b))
        both = sorted(mine.keys() & theirs.keys())
        other = tuple((one, mine[one], theirs[one]) for one in both if mine[one] != theirs[one])
        mine_only, theirs_only = tuple(sorted(mine.keys() - theirs.keys())), tuple(sorted(theirs.keys() - mine.keys()))
        yield Content(name, tuple(both), mine_only, theirs_only, other)


def words(made: Diff) -> list[str]:
    """Two tables, each with what it counts by name below it; zeros are blank."""
    lines: list[str] = []
    if made.contents:
        rows = [(c.part, *_counts(c.both, c.only_a, c.only_b, c.other)) for c in made.contents]
        names = ("clips of partition", "in both", f"only in {made.a}", f"only in {made.b}", "of another class")
        lines += [*columns(rows, names), *(line for c in made.contents for line in _content_lines(made, c)), ""]
    if not made.pairs:
        who = f"no two partitions of {made.a}" if made.a == made.b else f"no partition of {made.a} and of {made.b}"
        return [*lines, f"{who} share a class, a recording or a clip"]
    pairs = [
        (
            p.a,
            p.b,
            *_counts(p.classes.same, p.classes.nearly + p.classes.joined),
            p.sources.shared or "",
            len(p.clips.first) or "",
        )
        for p in made.pairs
    ]
    header = (made.a, made.b, "classes", "nearly", "recordings", "clips")
    return [*lines, *columns(pairs, header), *(line for p in made.pairs for line in _pair_lines(p))]


def _counts(*found: tuple[object, ...]) -> list[int | str]:
    return [len(one) or "" for one in found]


def _content_lines(made: Diff, c: Content) -> Iterator[str]:
    for which, ids in ((made.a, c.only_a), (made.b, c.only_b)):
        if ids:
            yield f"{c.part}, only in {which}: {listed(ids, NAMED)}"
    if c.other:
        told = [f"{clip} ({mine} / {theirs})" for clip, mine, theirs in c.other]
        yield f"{c.part}, of another class: {listed(told, NAMED)}"


def _pair_lines(p: Pair) -> Iterator[str]:
    where = f"{p.a} / {p.b}"
    if p.classes.same:
        yield f"{where}, classes: {listed([x if x == y else f'{x} = {y}' for x, y in p.classes.same], NAMED)}"
    near = [f"{x} ~ {y}" for x, y in p.classes.nearly + p.classes.joined]
    if near:
        yield f"{where}, nearly: {listed(near, NAMED)}"
    if p.sources.shared:
        first, (mine, theirs) = ", ".join(p.sources.first), p.sources.clips
        yield f"{where}, recordings ({mine} / {theirs} clips): {first}{', ...' * (p.sources.shared > len(p.sources.first))}"
    if p.clips.first:
        yield f"{where}, clips: {listed(p.clips.first, NAMED)}"
