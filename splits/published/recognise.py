"""Which dataset a list is of, and which partitions of published splits it is: by the ids of its clips, whatever its form and order."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from fsar_cache.errors import UsageError
from splits.official.catalog import official
from splits.official.names import NAMING, segment, youtube_span
from splits.published.grammars import HAVE_PATHS, Bad, Listing, Row
from splits.published.known import Known, KnownPart, known, known_names
from splits.published.labels import agrees, by_known, by_name, is_number, spelled
from splits.published.text import NotAList

Classes = dict[str, tuple[str, ...]]
"""Class in official spelling -> entries, sorted."""


@dataclass(frozen=True)
class Piece:
    """The entries of one list that name one partition, or none; each clip once.

    ids: of the rows, in their order; word: the partition that the entries name, ""; repeats: (line, line where the clip stands first).
    """

    listing: Listing
    dataset: str
    word: str
    rows: tuple[Row, ...]
    ids: tuple[str, ...]
    repeats: tuple[tuple[int, int], ...] = ()

    @cached_property
    def content(self) -> str:
        """The digest by which a partition is known."""
        return content(self.dataset, self.ids)


@dataclass(frozen=True)
class Found:
    """What of a list is a partition of published splits: their names, the partition, entries by class, whose file it is byte for byte."""

    splits: tuple[str, ...]
    part: str
    classes: Classes
    copy: str


@dataclass(frozen=True)
class Closest:
    """The known partition most like one that isn't known.

    classes: how many classes they share, of `here` and `there`; fewer, more: clips of the shared classes that it has less and more;
    clips_equal: whether the clips are the very same, so that only the classes differ.
    """

    split: str
    part: str
    classes: int
    here: int
    there: int
    fewer: int
    more: int
    clips_equal: bool = False


def content(dataset: str, ids: Iterable[str]) -> str:
    """The digest of a partition's ids: of the sorted ids as a set, for RareAct with repeats (a span can have several classes)."""
    listed = sorted(ids if dataset == "rareact" else set(ids))
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:32]


def pieces(listing: Listing, dataset: str | None = None) -> list[Piece]:
    """The list's entries as clips of one dataset, by the partition that they name; dataset: the one that the user says it is of.

    UsageError for entries that can't be read, are no clips of that dataset, or name a clip twice with two classes.
    """
    dataset = dataset or listing.dataset or dataset_of(listing)
    id_of = NAMING[dataset].id_of
    by_word: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    bad = list(listing.bad)
    title = official(dataset).title
    for row in listing.rows:
        clip = id_of(row.entry)
        if clip is None:
            bad.append(Bad(row.number, row.path, f"no name of a clip of {title}"))
        else:
            by_word[row.word].append((row, clip))
    made = [_once(listing, dataset, word, rows, bad) for word, rows in by_word.items()]
    listing.refuse(bad)
    return made


def _once(listing: Listing, dataset: str, word: str, rows: list[tuple[Row, str]], bad: list[Bad]) -> Piece:
    """A piece with each clip once; a clip with two classes is bad, save for spans of RareAct, whose class belongs to their name."""
    first: dict[tuple[str, str], Row] = {}
    kept, ids, repeats = [], [], []
    for row, clip in rows:
        key = (clip, row.label if dataset == "rareact" and "_" in clip else "")
        before = first.setdefault(key, row)
        if before is row:
            kept.append(row)
            ids.append(clip)
        elif before.label == row.label or spelled(before.label) == spelled(row.label):
            repeats.append((row.number, before.number))
        else:
            bad.append(
                Bad(
                    row.number,
                    row.path,
                    f"the clip stands in {listing.unit} {before.number} with class {before.label!r}",
                )
            )
    return Piece(listing, dataset, word, tuple(kept), tuple(ids), tuple(repeats))


def dataset_of(listing: Listing) -> str:
    """The dataset that most entries name clips of; NotAList where none does."""
    sample = listing.rows[:: max(1, len(listing.rows) // 500)]
    votes = Counter(guess for row in sample if (guess := _guess(row, listing.grammar)) is not None)
    if not votes:
        first = listing.rows[0].path if listing.rows else listing.bad[0].text
        raise NotAList(
            f"{listing.path}: no entry is the name of a clip of a known dataset; the first: {first!r}",
            hint="say whose clips they are: --dataset kinetics|ssv2|ucf101|hmdb51|diving48|rareact",
        )
    return votes.most_common(1)[0][0]


def _guess(row: Row, grammar: str) -> str | None:
    """The dataset that one entry's name is of, None for none."""
    entry = row.entry
    if is_number(entry):
        rare = "rareact" in row.path.lower() or by_name(row.label, "rareact") is not None
        return "rareact" if rare else "ssv2" if NAMING["ssv2"].id_of(entry) else None
    if youtube_span(entry):
        return "kinetics"
    if segment(entry):
        return "rareact"
    for dataset in ("diving48", "ucf101", "hmdb51"):
        if NAMING[dataset].id_of(entry) is not None:
            return dataset
    bare = grammar in HAVE_PATHS and NAMING["kinetics"].id_of(entry) is not None
    return "kinetics" if bare else None


@cache
def _known(dataset: str) -> tuple[Known, ...]:
    return tuple(split for name in known_names() if (split := known(name)).dataset == dataset)


@cache
def copies() -> dict[str, str]:
    """SHA-256 of every known file -> whose it is."""
    return {file.sha256: file.copy for name in known_names() for file in known(name).files}


@cache
def homes(digest: str, dataset: str) -> tuple[tuple[str, str], ...]:
    """Every (split, partition) with this content."""
    return tuple(
        (split.name, part)
        for split in _known(dataset)
        for part, facts in split.parts.items()
        if facts.content == digest
    )


def recognise(piece: Piece) -> list[Found]:
    """The partitions of published splits that a piece is: one, several where the list holds a split's partitions together, none."""
    whole = _whole(piece, homes(piece.content, piece.dataset))
    return [whole] if whole else _divided(piece)


def _whole(piece: Piece, at: Sequence[tuple[str, str]]) -> Found | None:
    """The piece as one partition; None where its classes are others, or have other numbers of clips."""
    for split, part in at:
        classes = by_known([row.label for row in piece.rows], known(split).parts[part], piece.dataset)
        if classes is not None and agrees(piece.rows, classes, piece.dataset):
            names = tuple(name for name, other in at if other == part)
            return Found(names, part, grouped(piece, classes), copies().get(piece.listing.sha256, ""))
    return None


def _divided(piece: Piece) -> list[Found]:
    """A list of several partitions of one split, told apart by their classes (TAMT's pool lists): all of them, or nothing."""
    for split in _known(piece.dataset):
        parts = {part: facts for part, facts in split.parts.items() if facts.content}
        if len(parts) < 2:
            continue
        for of in _part_of(piece, parts):
            part_of = {label: of.get(_key(label, piece.dataset), "") for label in {row.label for row in piece.rows}}
            rows: dict[str, list[int]] = defaultdict(list)
            for i, row in enumerate(piece.rows):
                rows[part_of[row.label]].append(i)
            subs = {part: _only(piece, at) for part, at in rows.items()}
            found = [_whole(sub, homes(sub.content, piece.dataset)) for sub in subs.values()]
            if all(one is not None and one.part == part for part, one in zip(subs, found, strict=True)):
                return [one for one in found if one is not None]
    return []


def _key(label: str, dataset: str) -> str:
    """A label as `_part_of` has it."""
    return str(int(label)) if is_number(label) else by_name(label, dataset) or ""


def _part_of(piece: Piece, parts: Mapping[str, KnownPart]) -> list[dict[str, str]]:
    """Label -> partition by every way of naming classes that the partitions share without sharing a class."""
    if not all(is_number(row.label) for row in piece.rows):
        ways = [{name: part for part, facts in parts.items() for name in facts.classes}]
        return [way for way in ways if len(way) == sum(len(facts.classes) for facts in parts.values())]
    schemes = set.intersection(*(set(facts.numbers) for facts in parts.values()))
    ways = [{str(n): part for part, facts in parts.items() for n in facts.numbers[one]} for one in sorted(schemes)]
    return [way for way in ways if len(way) == sum(len(facts.classes) for facts in parts.values())]


def _only(piece: Piece, at: Sequence[int]) -> Piece:
    """Some rows of a piece."""
    rows, ids = tuple(piece.rows[i] for i in at), tuple(piece.ids[i] for i in at)
    return Piece(piece.listing, piece.dataset, piece.word, rows, ids)


def grouped(piece: Piece, classes: Mapping[str, str]) -> Classes:
    """The entries of a piece by class: an id, or for Kinetics the name as the list has it, time range and all."""
    made: dict[str, list[str]] = defaultdict(list)
    for row, clip in zip(piece.rows, piece.ids, strict=True):
        made[classes[row.label]].append(row.entry if piece.dataset == "kinetics" else clip)
    return {name: tuple(sorted(made[name])) for name in sorted(made)}


def ids_of(dataset: str, classes: Mapping[str, Collection[str]]) -> list[str]:
    """The ids of all entries; UsageError for an entry that is no clip's name."""
    id_of = NAMING[dataset].id_of
    ids = [(entry, id_of(entry)) for entries in classes.values() for entry in entries]
    for entry, clip in ids:
        if clip is None:
            raise UsageError(f"{entry!r} is no name of a clip of {official(dataset).title}")
    return [clip for _, clip in ids if clip is not None]


def closest(dataset: str, part: str, classes: Mapping[str, Collection[str]]) -> Closest | None:
    """The known partition of the dataset with most classes in common, of those the one with the most similar numbers of clips.

    None where none shares half of the classes.
    """
    here = {name: len(entries) for name, entries in classes.items()}
    digest = content(dataset, ids_of(dataset, classes))
    ranked = []
    for split in _known(dataset):
        for other, facts in split.parts.items():
            there = dict(zip(facts.classes, facts.videos, strict=False))
            shared = here.keys() & there.keys()
            if not shared:
                continue
            fewer = sum(max(0, there[name] - here[name]) for name in shared)
            more = sum(max(0, here[name] - there[name]) for name in shared)
            made = Closest(
                split.name,
                other,
                len(shared),
                len(here),
                len(there),
                fewer,
                more,
                bool(digest) and digest == facts.content,
            )
            union = len(here.keys() | there.keys())
            ranked.append(((-len(shared) / union, fewer + more, other != part, split.name), made))
    best = min(ranked, key=lambda one: one[0], default=None)
    return best[1] if best and -best[0][0] >= 0.5 else None


def described(near: Closest) -> str:
    """How a partition compares with the known one most like it."""
    at = f"{near.split} {near.part}"
    if near.clips_equal:
        return f"the same clips as {at}, in other classes"
    shared = (
        f"the same {near.here} classes"
        if near.classes == near.here == near.there
        else f"{near.classes} of its {near.there} classes"
    )
    counts = [f"{n} clips {word}" for n, word in ((near.fewer, "fewer"), (near.more, "more")) if n]
    return f"closest to {at}: {shared}, {' and '.join(counts) or 'as many clips of each'}"
