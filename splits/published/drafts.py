"""Imported splits being put together: lists into partitions, with what was imported before, checked as a whole and then written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fsar_cache.errors import UsageError
from splits.official.names import NAMING
from splits.published.imported import (
    Imported,
    ListFile,
    imported_names,
    imported_path,
    ordered,
    read_imported,
    write_imported,
)
from splits.published.known import known
from splits.published.recognise import Classes
from splits.published.report import Seen, SplitReport, State, overlaps, part_report, unknown_to_disk


@dataclass(frozen=True)
class Share:
    """One list's share of a split: its entries by class, its record, what else is to be told of it."""

    classes: Classes
    file: ListFile
    seen: Seen


@dataclass
class Draft:
    """A split as this import has it: the lists of each partition, all of one content."""

    name: str
    dataset: str
    published: bool
    shares: dict[str, list[Share]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, part: str, share: Share) -> None:
        """One more list of a partition; UsageError where another list has other clips for it."""
        lists = self.shares.setdefault(part, [])
        if lists and not same(self.dataset, lists[0].classes, share.classes):
            raise UsageError(
                f"{self.name}: two lists for the partition {part} with different clips: {lists[0].file.file} and {share.file.file}",
                hint="import them one by one, under two names",
            )
        if all(share.file.sha256 != one.file.sha256 for one in lists):
            lists.append(share)

    def seen(self, part: str) -> Seen:
        """What is to be told of a partition's lists."""
        lists = [one.seen for one in self.shares.get(part, ())]
        repeats = tuple(line for one in lists for line in one.repeats)
        return Seen(
            repeats,
            tuple(line for one in lists for line in one.tidied),
            "; ".join({one.read: 0 for one in lists if one.read}),
        )


@dataclass
class _Made:
    """A split as it will be kept: what was there before, what it will be, how each partition came to be."""

    draft: Draft
    before: Imported | None
    split: Imported
    states: dict[str, State]


def same(dataset: str, one: Mapping[str, tuple[str, ...]], other: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether two partitions have the same clips in the same classes, however entries name them."""
    id_of = NAMING[dataset].id_of
    return one.keys() == other.keys() and all(
        one[name] == other[name] or sorted(map(str, map(id_of, one[name]))) == sorted(map(str, map(id_of, other[name])))
        for name in one
    )


def keep(drafts: Mapping[str, Draft], replacing: bool) -> tuple[SplitReport, ...]:
    """Check every split, then write those that changed; the reports, by name."""
    made = {name: _made(drafts[name], replacing) for name in sorted(drafts)}
    for one in made.values():
        _take_over(one, made)
    reports = tuple(_report(one) for one in made.values())
    for one, report in zip(made.values(), reports, strict=True):
        if report.changed:
            write_imported(one.split)
    return reports


def _made(draft: Draft, replacing: bool) -> _Made:
    """A draft with what was imported before; UsageError where that is another dataset's, or has other clips and isn't to be replaced."""
    before = read_imported(draft.name)
    if before is not None and before.dataset != draft.dataset:
        raise UsageError(
            f"{draft.name} is a split of {before.dataset}, these lists are of {draft.dataset}",
            hint="give it another name: --name NAME",
        )
    parts = dict(before.parts) if before else {}
    files = list(before.files) if before else []
    states: dict[str, State] = dict.fromkeys(parts, "kept")
    for part, lists in draft.shares.items():
        if part not in parts:
            states[part] = "new"
        elif same(draft.dataset, parts[part], lists[0].classes):
            states[part] = "same"
        elif replacing:
            states[part] = "replaced"
            files = [one for one in files if one.part != part]
        else:
            here, there = sum(map(len, lists[0].classes.values())), sum(map(len, parts[part].values()))
            raise UsageError(
                f"{draft.name}: the partition {part} was imported before with other clips ({there}; {lists[0].file.file} has {here})",
                hint="--replace puts this list in its place; or give it another name: --name NAME",
            )
        if states[part] != "same":
            parts[part] = lists[0].classes
        listed = {(one.part, one.sha256) for one in files}
        files += [one.file for one in lists if (part, one.file.sha256) not in listed]
    split = ordered(Imported(draft.name, draft.dataset, draft.published, parts, tuple(files)))
    return _Made(draft, before, split, states)


def _take_over(one: _Made, made: Mapping[str, _Made]) -> None:
    """Give a published split partitions that it lacks and another imported split has, since both share them."""
    if not one.draft.published:
        return
    for part, facts in known(one.draft.name).parts.items():
        if part in one.split.parts or not facts.content:
            continue
        for name in [*made, *imported_names()]:
            other = made[name].split if name in made else read_imported(name)
            if other is None or not other.published or part not in other.parts:
                continue
            if other.dataset == one.split.dataset and known(name).parts[part].content == facts.content:
                files = (*one.split.files, *(file for file in other.files if file.part == part))
                parts = {**one.split.parts, part: other.parts[part]}
                one.split = ordered(replace(one.split, parts=parts, files=files))
                one.states[part] = "taken over"
                one.draft.notes.append(f"{part} is taken over from {name}: both have the same")
                break


def _report(one: _Made) -> SplitReport:
    """What is to be told of a split."""
    split = one.split
    parts = tuple(part_report(split, part, one.states[part], one.draft.seen(part)) for part in split.parts)
    lacking = tuple(part for part in known(split.name).parts if part not in split.parts) if split.published else ()
    notes = tuple(dict.fromkeys(one.draft.notes))
    changed = split != one.before
    return SplitReport(
        split.name,
        split.dataset,
        split.published,
        imported_path(split.name),
        changed,
        parts,
        lacking,
        overlaps(split),
        unknown_to_disk(split),
        notes,
    )
