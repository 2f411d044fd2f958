"""What two partitions share: classes of the same or nearly the same name, recordings, clips."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from splits.types import Part, Split, Video

Pair = tuple[str, str]
ANY_ORDER = 3
"""Up to so many words a name means the same in any order (baby crawling); in longer ones the order says something (from left to right)."""

_BORDERS = re.compile(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+")
_DOUBLED = re.compile(r"([^aeiou\W\d_])\1$")


@dataclass(frozen=True)
class ClassOverlap:
    """Pairs of classes (one of each partition), each in its strongest kind.

    same: the same words, whatever their case and what stands between them. nearly: the same words without their endings (bowling balls and
    BallBowl). joined: that only when the words are written together (shot put and Shotput).
    """

    same: tuple[Pair, ...]
    nearly: tuple[Pair, ...]
    joined: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All of them, the strongest first."""
        return self.same + self.nearly + self.joined


@dataclass(frozen=True)
class SourceOverlap:
    """Recordings that both partitions have clips of: how many, of how many in each, clips of them in each, the names of some."""

    shared: int
    sources: tuple[int, int]
    clips: tuple[int, int]
    first: tuple[str, ...]


@dataclass(frozen=True)
class ClipOverlap:
    """Clips of one partition that stand in the other too: ids of both, sorted. They are as many unless a clip stands twice."""

    first: tuple[str, ...]
    second: tuple[str, ...]


def words_of(name: str) -> tuple[str, ...]:
    """The words of a class name, in lower case: parted by camel case and by all that is no letter or digit."""
    return tuple(word.lower() for word in _BORDERS.split(name) if word)


def stem(word: str) -> str:
    """A word without the endings "ing", "s" and "e", and without one of two consonants at its end: "hugging" and "hugs" give "hug".

    At least three letters are left of it.
    """
    for ending in ("ing", "s", "e"):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            word = word.removesuffix(ending)
    return _DOUBLED.sub(r"\1", word)


def stems_of(name: str) -> Hashable:
    """What is equal for nearly equal names: the set of stems of a short name, those of a longer one in order."""
    stems = tuple(stem(word) for word in words_of(name))
    return frozenset(stems) if len(stems) <= ANY_ORDER else stems


def class_overlap(a: Part, b: Part) -> ClassOverlap:
    """The classes of `a` and `b` that are one class by their names; see `ClassOverlap`."""
    keys: tuple[Callable[[str], Hashable], ...] = (words_of, stems_of, lambda name: stem("".join(words_of(name))))
    found: list[tuple[Pair, ...]] = []
    for key in keys:
        others = _by(key, b.classes)
        known = {pair for kind in found for pair in kind}
        pairs = (pair for name in a.classes for pair in product([name], others.get(key(name), ())))
        found.append(tuple(pair for pair in pairs if pair not in known))
    return ClassOverlap(*found)


def _by(key: Callable[[str], Hashable], names: Iterable[str]) -> dict[Hashable, list[str]]:
    made: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        made[key(name)].append(name)
    return made


def source_overlap(a: Part, b: Part, names: int = 3) -> SourceOverlap:
    """The recordings that clips of both partitions are from, as far as their ids tell; `names` of them are named."""
    one, other = (Counter(video.source for video in part.videos if video.source) for part in (a, b))
    shared = sorted(one.keys() & other.keys())
    clips = sum(one[name] for name in shared), sum(other[name] for name in shared)
    return SourceOverlap(len(shared), (len(one), len(other)), clips, tuple(shared[:names]))


def clip_overlap(one: Split, a: Part, other: Split, b: Part) -> ClipOverlap:
    """The clips of `a`, a partition of `one`, that `b` of `other` has too: the same file and time span, or the same id of one dataset."""
    shared = frozenset(a.ids) & frozenset(b.ids) if one.home == other.home else frozenset[str]()
    mine, theirs = located(one.root, a.videos), located(other.root, b.videos)
    both = mine.keys() & theirs.keys()
    return ClipOverlap(
        tuple(sorted(shared.union(*(mine[place] for place in both)))),
        tuple(sorted(shared.union(*(theirs[place] for place in both)))),
    )


def located(root: Path, videos: Iterable[Video]) -> dict[tuple[str, float | None, float | None], list[str]]:
    """Absolute file and time span, or the segment where the dataset tells it -> the ids of the clips there."""
    made: dict[tuple[str, float | None, float | None], list[str]] = defaultdict(list)
    base = os.path.abspath(root)
    for video in videos:
        place = os.path.normpath(os.path.join(base, video.path)), video.start, video.end
        made[(video.segment, None, None) if video.segment else place].append(video.id)
    return made
