"""What an import of lists found and did, in words: `fsar-cache split import`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from fsar_cache import places
from pipeline.columns import columns
from pipeline.split_check import NAMED
from pipeline.split_states import Size, state_of
from splits.official.catalog import official
from splits.published.known import known
from splits.published.report import ImportReport, PartReport, SplitReport
from splits.words import listed

LINES_LIKE = {
    "A": "<class>/<clip>",
    "B": "<partition><number>/<clip>",
    "B'": "<number>/<clip>",
    "C": "<partition><number>//<path>",
    "D": "<path>, <number>",
    "E": "JSON",
    "own": "fsar-cache's own form",
}
"""Grammar -> what its lines look like."""


def words(report: ImportReport) -> list[str]:
    """Split by split: a table of its partitions, then what to know; then what was not imported."""
    lines: list[str] = []
    for split in report.splits:
        lines += [*_split(split), ""]
    lines += [f"left out: {', '.join(one.files)}: {one.why}" for one in report.left]
    lines += [f"skipped: {name}: {why}" for name, why in report.skipped]
    return lines if lines[-1:] != [""] else lines[:-1]


def _split(split: SplitReport) -> Iterator[str]:
    title = known(split.name).title if split.published else f"a split of yours of {official(split.dataset).title}"
    yield f"{split.name}: {title}"
    rows = [(p.part, str(Size(p.classes, p.clips)), _agrees(p), _told(p)) for p in split.parts]
    yield from (f"  {line}" for line in columns(rows, ("partition", "classes/videos", "published", "list")))
    for part in split.parts:
        yield from (f"  {part.part}: {line}" for line in _to_know(part))
    for one in split.overlaps:
        shared = []
        if one.clips:
            shared.append(f"{one.clips} clips ({', '.join(one.first_clips)})")
        if one.classes:
            shared.append(f"{one.classes} classes ({', '.join(one.first_classes)})")
        yield f"  {one.one} and {one.other} have in common: {' and '.join(shared)}"
    if split.unknown is None:
        yield f"  the dataset isn't there yet, so the clips were not looked up: fsar-cache split show {split.name}"
    elif split.unknown.problem:
        yield f"  the clips could not be looked up: {split.unknown.problem.splitlines()[0]}"
    elif split.unknown.count:
        yield f"  {split.unknown.count} clips are not in {split.unknown.source}: {', '.join(split.unknown.first)}"
    yield from (f"  {note}" for note in split.notes)
    yield from (f"  {_lacks(split, part)}" for part in split.lacking)
    yield f"  {'kept in' if split.changed else 'was there already:'} {split.path}"


def _lacks(split: SplitReport, part: str) -> str:
    """Whose file a partition is that was not imported, and where it is to be had; or that the dataset's own annotation gives it."""
    facts = known(split.name)
    if facts.rule != "list" and facts.base is None:
        return f"not imported: {part}, which is made of the dataset's own annotation"
    copy = next((file.copy for file in facts.files if file.part == part), None)
    if copy is None:
        return f"still missing: {part}, of {facts.origin} ({facts.where})"
    return f"still missing: {part}, of {copy} (https://github.com/{copy.partition(':')[0]})"


def _agrees(part: PartReport) -> str:
    if part.expected is None:
        return "-"
    return f"{Size(*part.expected)}, {'but differs' if part.differing else 'the same'}"


def _told(part: PartReport) -> str:
    """Where the partition is from: an exact copy, the same content in another form, a list of the user's; and what became of it."""
    files = []
    for one in part.files:
        of = f"an exact copy of {one.copy}" if one.copy else f"form {LINES_LIKE.get(one.grammar, one.grammar)}"
        same = "the same content as published, " if part.expected is not None and not one.copy else ""
        files.append(f"{one.file}: {same}{of}")
    state = {"new": "", "same": " (was imported already)"}.get(part.state, f" ({part.state})")
    return "; ".join(files) + state


def _to_know(part: PartReport) -> Iterator[str]:
    if part.differing:
        told = [f"{name} {here} instead of {there}" for name, there, here in part.differing]
        yield f"{len(told)} classes have not as many clips as published: {listed(told, NAMED)}"
    if part.repeats:
        told = [f"{file} line {line} (as line {first})" for file, line, first in part.repeats]
        yield f"{len(told)} lines repeat a clip and count once: {listed(told, NAMED)}"
    yield from (f"{file}: {what} overlooked" for file, what in part.tidied)
    if part.read:
        yield part.read
    if part.closest is not None:
        near = part.closest
        clips = "the very same clips" if near.clips_equal else f"{near.fewer} clips fewer and {near.more} more in these"
        yield (
            f"most like {near.split}/{near.part}: {near.classes} classes in common "
            f"(of {near.here} here, {near.there} there), {clips}"
        )


def next_commands(report: ImportReport, videos: Path) -> list[str]:
    """What to do now: extract the splits that are ready, get the videos of the others."""
    made = []
    for split in report.splits:
        name = shlex.join([split.name, *places.videos_words()])
        if state_of(split.name, videos).word in ("ready", "incomplete"):
            made.append(f"next: fsar-cache split check {name} && fsar-cache extract {name}")
        else:
            made.append(f"next: get the videos (fsar-cache split show {name}), then: fsar-cache extract {name}")
    return made
