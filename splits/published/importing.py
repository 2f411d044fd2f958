"""Import published lists: a file or a folder of them becomes splits in our own form, published ones under their own names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from fsar_cache.errors import UsageError
from splits.official.catalog import official
from splits.published.drafts import Draft, Share, keep
from splits.published.files import collect, group_of, word_of
from splits.published.grammars import WORDS, read_list
from splits.published.imported import ListFile, imported_names
from splits.published.known import known, known_names
from splits.published.labels import by_dataset
from splits.published.names import published_names, require_free
from splits.published.recognise import Closest, Found, Piece, closest, copies, described, grouped, pieces, recognise
from splits.published.report import ImportReport, Left, Seen
from splits.published.text import NotAList

_Read = list[tuple[Piece, list[Found]]]
"""Lists that were read, each with what it is of published splits."""


@dataclass
class _Import:
    """What one import is about: where the lists are, what the user says of them, and what was found."""

    path: Path
    name: str | None
    dataset: str | None
    partition: str | None
    found: _Read = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    drafts: dict[str, Draft] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)

    def shown(self, file: Path) -> str:
        """A file's name, below the folder that is imported."""
        return file.relative_to(self.path).as_posix() if file != self.path else file.name

    def draft(self, name: str, dataset: str, published: bool) -> Draft:
        """The split `name`, as far as it is put together."""
        return self.drafts.setdefault(name, Draft(name, dataset, published))


def import_lists(
    path: Path,
    *,
    name: str | None = None,
    dataset: str | None = None,
    partition: str | None = None,
    replace: bool = False,
) -> ImportReport:
    """Import a list, or the lists in a folder and up to two folders below it, in any of the known forms (`splits.published.grammars`).

    Lists that are partitions of published splits, whatever their form and order, go to those; name: of a split of the user's for others, or
    of the published one that is meant where several share a partition; dataset: whose clips they are, where the names don't tell;
    partition: of lists whose name and lines don't tell; replace: put it in place of another content that was imported before.
    All is checked before anything is written. UsageError, MissingError and IntegrityError say what is wrong, with the line.
    """
    if dataset is not None:
        official(dataset)
    if partition is not None and partition not in WORDS:
        raise UsageError(f"no partition is called {partition!r}", hint="one of train, val, test, all")
    name = known(name).name if name is not None and name in published_names() else name
    if name is not None and name not in known_names():
        require_free(name)
    task = _Import(path, name, dataset, partition and WORDS[partition])
    _read(task)
    _place(task)
    return ImportReport(keep(task.drafts, replace), tuple(task.skipped), tuple(task.left))


def _read(task: _Import) -> None:
    """Read every list; a file that is none is passed over in a folder, and an error where it is the only one."""
    files = collect(task.path)
    for file in files:
        try:
            made = pieces(read_list(file, task.dataset), task.dataset)
        except NotAList as error:
            if file == task.path:
                raise
            task.skipped.append((task.shown(file), error.message.removeprefix(f"{file}").lstrip(" :")))
            continue
        task.found += [(piece, recognise(piece)) for piece in made]
    if not task.found:
        first = "".join(f"\n  {name}: {why}" for name, why in task.skipped[:5])
        raise UsageError(
            f"no list of clips in {task.path} or two folders below it{first}", hint="name the list, or its folder"
        )


def _place(task: _Import) -> None:
    """Put every list into the split it belongs to; one in this project's own form says itself which."""
    told: dict[str, _Read] = defaultdict(list)
    groups: dict[tuple[str, str], _Read] = defaultdict(list)
    for piece, found in task.found:
        own = piece.listing.name
        if own and own not in published_names() and task.name is None:
            told[own].append((piece, found))
        else:
            groups[group_of(piece.listing.path)].append((piece, found))
    for own, pieces_of in told.items():
        require_free(own)
        _place_named(task, own, pieces_of)
    mine: list[_Read] = []
    theirs: list[_Read] = []
    for key in sorted(groups):
        whole = all(found for _, found in groups[key])
        (theirs if whole else mine).append(groups[key])
    if task.name is not None and task.name not in known_names():
        named, theirs = (mine, theirs) if mine else (theirs, [])
        _place_named(task, task.name, [one for group in named for one in group])
    else:
        theirs += [[one for one in group if one[1]] for group in mine]
        _leave(task, [piece for group in mine for piece, found in group if not found])
    _place_published(task, [one for group in theirs for one in group])


def _leave(task: _Import, unknown: Sequence[Piece]) -> None:
    """Lists that are no partition of a published split and have no name: left out where others are imported, else an error."""
    files: dict[tuple[str, str], list[Piece]] = defaultdict(list)
    for piece in unknown:
        files[group_of(piece.listing.path)].append(piece)
    for group in files.values():
        names = tuple(dict.fromkeys(task.shown(piece.listing.path) for piece in group))
        why = f"no partition of a published split of {official(group[0].dataset).title}"
        task.left.append(
            Left(names, why, tuple(near for piece in group if (near := _closest(task, piece)) is not None))
        )
    if files and not task.drafts and not any(found for _, found in task.found):
        piece = next(iter(files.values()))[0]
        words = "".join(f"; {described(one)}" for one in task.left[0].closest[:1])
        raise UsageError(
            f"{piece.listing.path}: {len(piece.rows)} clips of {official(piece.dataset).title}, {task.left[0].why}{words}",
            hint=f"as a split of yours: fsar-cache split import {quote(str(task.path))} --name NAME",
        )


def _closest(task: _Import, piece: Piece) -> Closest | None:
    """The known partition most like a list; None where there is none, or the list's classes can't be told."""
    try:
        classes, _ = by_dataset(piece.listing, piece.rows, piece.ids, piece.dataset)
    except UsageError:
        return None
    return closest(piece.dataset, task.partition or piece.word or word_of(piece.listing.path), grouped(piece, classes))


def _place_named(task: _Import, name: str, found: _Read) -> None:
    """Lists as partitions of a split of the user's."""
    datasets = sorted({piece.dataset for piece, _ in found})
    if len(datasets) > 1:
        raise UsageError(
            f"{task.path}: lists of {' and '.join(datasets)} can't be one split",
            hint="import them one by one, each with a name",
        )
    draft = task.draft(name, datasets[0], published=False)
    for piece, parts in found:
        if task.partition and parts:
            together = {label: entries for one in parts for label, entries in one.classes.items()}
            draft.add(task.partition, _share(task, piece, task.partition, Found((), task.partition, together, "")))
            continue
        for one in parts:
            part = one.part if len(parts) > 1 else _part(task, piece, one.part)
            draft.add(part, _share(task, piece, part, one))
        if not parts:
            part = _part(task, piece, "")
            classes, read = by_dataset(piece.listing, piece.rows, piece.ids, piece.dataset)
            draft.add(part, _share(task, piece, part, Found((), part, grouped(piece, classes), ""), read))


def _part(task: _Import, piece: Piece, known_as: str) -> str:
    """The partition that a list is, by the user, its entries, its file's name, or (known_as) what it is elsewhere."""
    part = task.partition or piece.word or word_of(piece.listing.path) or known_as
    if not part:
        raise UsageError(
            f"{piece.listing.path}: neither its name nor its lines say which partition it is",
            hint="say it: --partition train|val|test, one list at a time",
        )
    return part


def _place_published(task: _Import, found: _Read) -> None:
    """Lists into the published splits they belong to. A partition that several share goes to all of them that have another part."""
    shares = [(piece, one) for piece, parts in found for one in parts]
    meant = task.name if task.name in known_names() else None
    if meant is not None:
        for piece, one in shares:
            if meant not in one.splits:
                task.left.append(
                    Left(
                        (task.shown(piece.listing.path),),
                        f"the partition {one.part} of {one.splits[0]}, not of {meant}",
                    )
                )
        shares = [(piece, one) for piece, one in shares if meant in one.splits] or _none_of(task, shares)
    present = {one.splits[0] for _, one in shares if len(one.splits) == 1} | set(imported_names())
    for piece, one in shares:
        if task.partition not in (None, one.part) and task.name == meant:
            raise UsageError(
                f"{piece.listing.path} is the partition {one.part} of {one.splits[0]}, not {task.partition}",
                hint="leave --partition out, or import it under a name of yours: --name NAME",
            )
        at = [meant] if meant else [name for name in one.splits if name in present]
        for name in at or one.splits[:1]:
            draft = task.draft(name, piece.dataset, published=True)
            draft.add(one.part, _share(task, piece, one.part, one))
            if not at and len(one.splits) > 1:
                others = ", ".join(one.splits[1:])
                draft.notes.append(
                    f"{one.part} is also that of {others}: import it once more with --name to have it there"
                )


def _none_of(task: _Import, shares: Sequence[tuple[Piece, Found]]) -> list[tuple[Piece, Found]]:
    """The error for lists none of which is a partition of the published split that the user names."""
    others = sorted({name for _, one in shares for name in one.splits})
    raise UsageError(
        f"{task.path}: no list there is a partition of {task.name}"
        + (f"; they are of {', '.join(others)}" if others else ""),
        hint="leave --name out, or take a name of your own",
    )


def _share(task: _Import, piece: Piece, part: str, found: Found, read: str = "") -> Share:
    """One list's share of a split."""
    listing, file = piece.listing, task.shown(piece.listing.path)
    clips = sum(map(len, found.classes.values()))
    copy = found.copy or copies().get(listing.sha256, "")
    record = ListFile(listing.path.name, listing.sha256, part, clips, listing.grammar, copy)
    repeats = tuple((file, line, first) for line, first in piece.repeats)
    return Share(found.classes, record, Seen(repeats, tuple((file, what) for what in listing.tidied), read))
