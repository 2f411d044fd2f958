"""Which published and imported splits there are, and whether each can be opened: `fsar-cache split ls` as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError
from splits.official.catalog import official
from splits.official.disk import OnDisk, find
from splits.published.imported import Imported, imported_names, read_imported
from splits.published.known import Known, known, known_names
from splits.published.make import by_rule

Word = Literal[
    "ready",
    "incomplete",
    "needs its list",
    "no videos",
    "imported, no videos",
    "needs its annotation",
    "damaged annotation",
    "damaged list",
    "unreadable",
]
"""ready: its list is imported, or its rule can be made from what is on disk, and there are videos of its dataset; incomplete: the same,
without some of the published partitions."""


@dataclass(frozen=True)
class State:
    """Whether a split can be opened, in a word, and what is meant by it in words, "" where nothing is to be added."""

    word: Word
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.detail})" if self.detail else self.word


@dataclass(frozen=True)
class Size:
    """Classes and clips of a partition; None where that isn't known."""

    classes: int | None
    videos: int | None

    def __str__(self) -> str:
        return "/".join("?" if one is None else str(one) for one in (self.classes, self.videos))


@dataclass(frozen=True)
class Listed:
    """One line of `split ls`. parts: partition -> its size as published, of a split of the user's as imported."""

    name: str
    dataset: str
    title: str
    parts: dict[str, Size]
    state: State


def listed(videos: Path) -> list[Listed]:
    """Every published and imported split, by dataset and name; nothing that is damaged or absent is an error."""
    names = {*known_names(), *imported_names()}
    rows = [_listed(name, videos) for name in names]
    return sorted(rows, key=lambda row: (row.dataset, row.name))


def _listed(name: str, videos: Path) -> Listed:
    facts = known(name) if name in known_names() else None
    try:
        own = read_imported(name)
    except IntegrityError as error:
        state = State("damaged list", first_line(error))
        return Listed(name, facts.dataset if facts else "", facts.title if facts else "", published(facts), state)
    dataset = facts.dataset if facts else own.dataset if own else ""
    title = facts.title if facts else f"imported, {official(dataset).title}"
    parts = {part: Size(len(own.parts[part]), own.entries(part)) for part in own.parts} if own and not facts else {}
    return Listed(name, dataset, title, published(facts) or parts, _state(facts, own, dataset, videos))


def published(facts: Known | None) -> dict[str, Size]:
    """Partition -> its size as published; nothing for a split of the user's."""
    if facts is None:
        return {}
    every = len(official(facts.dataset).classes) - len(facts.drop)
    return {name: Size(len(p.classes) or every, p.total or None) for name, p in facts.parts.items()}


def state_of(name: str, videos: Path) -> State:
    """Whether the split of this name can be opened; IntegrityError where its imported list is damaged."""
    facts = known(name) if name in known_names() else None
    own = read_imported(name)
    return _state(facts, own, facts.dataset if facts else own.dataset if own else "", videos)


def _state(facts: Known | None, own: Imported | None, dataset: str, videos: Path) -> State:
    try:
        disk = find(dataset, videos)
        if own is not None:
            return _of_list(facts, own, disk)
        assert facts is not None
        return _of_rule(facts, disk, videos)
    except IntegrityError as error:
        return State("damaged list", first_line(error))
    except MissingError as error:
        return State("unreadable", first_line(error))


def _of_list(facts: Known | None, own: Imported, disk: OnDisk) -> State:
    lacking = [part for part in facts.parts if part not in own.parts] if facts else []
    lacks = f"its list lacks {', '.join(lacking)}" if lacking else ""
    if not disk.paths:
        return State("imported, no videos", "; ".join(filter(None, (lacks, _looked_for(disk)))))
    if disk.official.spans and (problem := _annotation(disk, None)):
        return problem
    ruled = facts is not None and facts.rule != "list" and facts.base is None
    if facts is None or not lacking:
        return State("ready", "from its list" if ruled else "")
    if not ruled or _annotation(disk, facts.annotation) or _not_made(facts, disk, lacking):
        return State("incomplete", lacks)
    return State("ready", f"from its list, without it {', '.join(lacking)}")


def _of_rule(facts: Known, disk: OnDisk, videos: Path) -> State:
    if facts.base is not None:
        base = state_of(facts.base, videos)
        what = f"{facts.base}: {base.detail}" if base.detail else facts.base
        return base if base.word == "ready" else State(base.word, what)
    if facts.rule == "list":
        return State("needs its list", "" if disk.paths else f"and videos: {_looked_for(disk)}")
    if not disk.paths:
        return State("no videos", _looked_for(disk))
    if problem := _annotation(disk, facts.annotation):
        return problem
    lacking = _not_made(facts, disk, list(facts.parts))
    return State("incomplete", f"the annotation gives no {', no '.join(lacking)}") if lacking else State("ready")


def _not_made(facts: Known, disk: OnDisk, parts: list[str]) -> list[str]:
    """Those of the partitions that the rule of the split, whose annotation is there, makes no clip of."""
    made = by_rule(facts, disk)
    return [part for part in parts if part not in made]


def _annotation(disk: OnDisk, which: str | None) -> State | None:
    """What is wrong with the owners' annotation; None where nothing is."""
    try:
        disk.annotation(which)
    except MissingError as error:
        return State("needs its annotation", first_line(error))
    except UsageError as error:
        return State("damaged annotation", first_line(error))
    return None


def _looked_for(disk: OnDisk) -> str:
    if disk.exists:
        return f"no video of it in {disk.root}"
    return f"no folder {' or '.join(disk.official.folders[:3])}"


def first_line(error: FsarError) -> str:
    """What is wrong, without what is expected and how to get it."""
    return error.message.splitlines()[0]
