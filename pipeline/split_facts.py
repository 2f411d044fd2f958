"""What is known of one split, and what is found of it: `fsar-cache split show` as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsar_cache.console import unwarned
from fsar_cache.errors import MissingError, UsageError
from pipeline.split_states import Size, State, first_line, published, state_of
from splits.datasets import DATASETS, missing, open_split, require_known
from splits.official.catalog import official, official_names
from splits.official.disk import find
from splits.published.imported import Imported, imported_names, read_imported
from splits.published.known import Known, KnownPart, known, known_names, other_names
from splits.published.make import settled
from splits.types import Split, Video


@dataclass(frozen=True)
class ClassFacts:
    """Clips of one class in a partition: as published, in the split as it is found, of these without their file; None: not known."""

    label: str
    published: int | None
    found: int | None
    missing: int | None


@dataclass(frozen=True)
class PartFacts:
    """One partition: its size as published and as found, clips whose file is there and is not, and the same by class."""

    name: str
    published: Size
    found: Size | None
    on_disk: int | None
    missing: int | None
    classes: tuple[ClassFacts, ...]


@dataclass(frozen=True)
class SplitFacts:
    """What is known of one split.

    asked: the name it was asked for by; made: how it is made; root: where its videos are looked for; notes: what was seen while opening
    it; licence, get, videos: of its dataset, and splits: all of that; the others as in `Known`. What is empty is not known, or nothing.
    """

    asked: str
    name: str
    title: str
    dataset: str
    state: State
    made: str
    parts: tuple[PartFacts, ...]
    root: str = ""
    notes: tuple[str, ...] = ()
    licence: str = ""
    get: tuple[str, ...] = ()
    videos: str = ""
    splits: tuple[str, ...] = ()
    origin: str = ""
    where: str = ""
    also: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    guess: str = ""


HOW_MADE = {
    "list": "by its list, which is imported (fsar-cache split import)",
    "classes": "without its list: all clips of the classes of each partition",
    "official": "without its list: the partitions of the dataset's owners",
    "otam": "without its list: training classes from the owners' training clips{also}, other classes from their validation clips",
}
"""How a split can be made."""


def described(asked: str, videos: Path) -> SplitFacts:
    """All that is known of one split, also where nothing of it is on disk.

    UsageError for a name that means no dataset, IntegrityError where the imported list is damaged, MissingError where the path in it
    isn't there.
    """
    require_known(asked)
    if not is_published(asked):
        own_split = open_split(asked, videos)
        parts = part_facts(None, {}, own_split, missing(own_split))
        about = DATASETS.get(asked.partition(":")[0]).about
        return SplitFacts(
            asked, own_split.name, about, own_split.home, State("ready"), "", parts, root=str(own_split.root)
        )
    name = settled(asked, videos)
    facts, own = known(name) if name in known_names() else None, read_imported(name)
    split, state = _opened(name, videos)
    dataset = facts.dataset if facts else own.dataset if own else ""
    of = official(dataset)
    made = SplitFacts(
        asked,
        name,
        f"imported, {of.title}",
        dataset,
        state,
        how_made(facts, own),
        part_facts(facts, published(facts), split, missing(split) if split else ()),
        root=str(find(dataset, videos).root),
        notes=notes_of(split),
        licence=of.licence,
        get=of.get,
        videos=of.videos,
        splits=tuple(each for each in known_names() if known(each).dataset == dataset),
    )
    return made if facts is None else _with(made, facts)


def _with(made: SplitFacts, facts: Known) -> SplitFacts:
    """The same, with what is published."""
    return replace(
        made,
        title=facts.title,
        origin=facts.origin,
        where=facts.where,
        also=facts.also,
        differs=facts.differs,
        guess=facts.guess,
    )


def is_published(name: str) -> bool:
    """Whether a name is that of a dataset, of a published split or of an imported one."""
    return name in (*known_names(), *official_names(), *other_names(), *imported_names())


def _opened(name: str, videos: Path) -> tuple[Split | None, State]:
    """The split, None where it can't be made of what is there, and its state."""
    state = state_of(name, videos)
    try:
        with unwarned():
            return open_split(name, videos), state
    except (MissingError, UsageError) as error:
        return None, state if state.word != "ready" else State("unreadable", first_line(error))


def notes_of(split: Split | None) -> tuple[str, ...]:
    """What was seen while the split was opened."""
    notes: Iterable[Any] = split.provenance.get("notes", ()) if split else ()
    return tuple(map(str, notes))


def how_made(facts: Known | None, own: Imported | None) -> str:
    """How the split is made, in words."""
    if own is not None:
        word = "list" if len(own.files) == 1 else "lists"
        return f"from the imported {word} {', '.join(one.file for one in own.files)}"
    if facts is None:
        return ""
    if facts.base is not None:
        return f"the clips of {facts.base} that show their class"
    also = " and from their validation clips too" if facts.also_validation else ""
    left = f", without {len(facts.left_out)} clips" if facts.left_out else ""
    return HOW_MADE[facts.rule].format(also=also) + left


def part_facts(
    facts: Known | None, said: dict[str, Size], split: Split | None, missing: Sequence[Video]
) -> tuple[PartFacts, ...]:
    """Every partition that is published (said: their sizes) or found, the published ones first; missing: the clips without their file."""
    gone = {video.id for video in missing}
    names = dict.fromkeys([*said, *(split.parts if split else ())])
    return tuple(_part(name, facts.parts.get(name) if facts else None, said.get(name), split, gone) for name in names)


def _part(name: str, known_as: KnownPart | None, size: Size | None, split: Split | None, gone: set[str]) -> PartFacts:
    part = split.parts.get(name) if split else None
    clips = part.videos if part else ()
    found, absent = Counter(v.label for v in clips), Counter(v.label for v in clips if v.id in gone)
    said = dict(zip(known_as.classes, known_as.videos, strict=False)) if known_as else {}
    names = sorted({*(known_as.classes if known_as else ()), *found})
    classes = tuple(
        ClassFacts(n, said.get(n), found[n] if split else None, absent[n] if split else None) for n in names
    )
    lost = sum(absent.values())
    return PartFacts(
        name,
        size or Size(None, None),
        Size(len(found), len(clips)) if split else None,
        len(clips) - lost if split else None,
        lost if split else None,
        classes,
    )
