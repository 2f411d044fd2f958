"""Kinetics: CSV annotation, or the class folders of whoever has none; files with or without time range, flat or nested."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from fsar_cache.errors import UsageError
from splits.official.annotated import Annotated, counted, official_label, read_rows, refuse, spelled
from splits.official.files import stem
from splits.official.names import NAMING, YOUTUBE, youtube_span
from splits.types import Video

if TYPE_CHECKING:
    from splits.official.disk import OnDisk

_ID = re.compile(YOUTUBE)
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_PARTITION = re.compile(r"(train|val|test)(?:ing|idate|idation)?(?:[_-]?\d+)?")
key = NAMING["kinetics"].id_of


def rank(path: str) -> int:
    """Replacements of corrupted clips go before the files that they replace."""
    return 0 if path.startswith("replacement/") or "/replacement_for_corrupted" in path else 1


def expected(entry: str, label: str) -> str:
    """Where the clip's file should be."""
    return f"train/{entry}.mp4"


def resolver(disk: OnDisk, entries: Collection[str]) -> Callable[[str, str], Video | None]:
    """What finds the clip of the first 11 characters; a file of other seconds than the entry names is another clip."""

    def clip(entry: str, label: str) -> Video | None:
        found = key(entry)
        if found is None:
            return None
        path = disk.paths.get(found, "")
        said = youtube_span(entry)
        fits = path and (said is None or is_of(path, said[1]))
        return disk.video(found, label, path if fits else expected(entry, label))

    return clip


def is_of(path: str, start: int) -> bool:
    """Whether a file may be the clip that begins at this second: its name says so to a second, or says nothing."""
    said = youtube_span(stem(path))
    return said is None or abs(said[1] - start) <= 1


def annotated(disk: OnDisk, which: str | None) -> Annotated:
    """The rows of train.csv and val.csv; without either the files that lie in a folder of their class."""
    files = {part: disk.file(part) for part in ("train", "val")}
    if not any(files.values()):
        return _of_folders(disk)
    clips: dict[str, Video] = {}
    partitions: dict[str, str] = {}
    twice: list[str] = []
    unlabelled: list[str] = []
    others: list[str] = []
    spelling: dict[str, str] = {}
    for part, file in files.items():
        for label, video, start, end in _rows(file) if file is not None else ():
            if not label:
                unlabelled.append(video)
            elif video in clips:
                twice.append(video)
            else:
                name = spelling.get(label) or spelling.setdefault(label, official_label(label, disk.labels))
                path, entry = disk.paths.get(video, ""), f"{video}_{start:06d}_{end:06d}"
                if path and entry not in path and not is_of(path, start):
                    others.append(f"{path} ({start} s)")
                    path = ""
                path = path or f"{part}/{entry}.mp4"
                clips[video] = Video(video, name, path, source=video)
                partitions[video] = part
    there = [file.name for file in files.values() if file is not None]
    notes = counted("row", "of the annotation for a clip that has one already, not used", twice)
    notes += counted("file", "of other seconds than the annotation says, not used", others)
    notes += counted("row", "of the annotation without a label, not used", unlabelled)
    unlisted = [path for video, path in disk.paths.items() if video not in clips and "test" not in path.split("/")]
    notes += counted("file", "absent from the annotation, not used", unlisted)
    strange = {name for name in spelling.values() if name not in disk.official.classes}
    notes += counted("label", "unknown to Kinetics-400", sorted(strange))
    notes += tuple(
        f"no {disk.official.annotations[part][0]}: partition {part} is missing"
        for part, f in files.items()
        if f is None
    )
    return Annotated(clips, partitions, " and ".join(there), notes)


def _rows(file: Path) -> Iterator[tuple[str, str, int, int]]:
    """Label, id, start and end of each row; UsageError for a header without the columns, or naming every bad line."""
    rows = read_rows(file)
    _, first = next(rows, (0, []))
    header = [name.lower() for name in first]
    lacking = [name for name in _COLUMNS if name not in header]
    if lacking:
        raise UsageError(
            f"{file}: no column {', '.join(lacking)} in the first line", hint=f"wanted: {','.join(_COLUMNS)},split"
        )
    wanted = itemgetter(*(header.index(name) for name in _COLUMNS))
    bad: list[tuple[int, str]] = []
    for number, cells in rows:
        try:
            label, video, start, end = wanted(cells)
            if not _ID.fullmatch(video):
                raise ValueError
            made = label, video, _seconds(start), _seconds(end)
        except (ValueError, IndexError, OverflowError):
            bad.append((number, f"no label, YouTube id, start and end: {','.join(cells)[:100]!r}"))
            continue
        yield made
    refuse(file, bad)


def _seconds(text: str) -> int:
    """Whole seconds; ValueError or OverflowError for what is no number."""
    return int(text) if text.isdecimal() else int(float(text))


def _of_folders(disk: OnDisk) -> Annotated:
    """Clips by the class folder they lie in, partitions by the folder called so (train, train_256, val, ...)."""
    clips: dict[str, Video] = {}
    partitions: dict[str, str] = {}
    for video, path in disk.paths.items():
        folders = path.split("/")[:-1]
        label = next((disk.labels[spelled(f)] for f in reversed(folders) if spelled(f) in disk.labels), None)
        if label is None:
            continue
        clips[video] = disk.video(video, label, path)
        named = [found[1] for folder in folders if (found := _PARTITION.fullmatch(folder.lower()))]
        partitions[video] = named[0] if named else "train"
    if not clips:
        disk.require_file("train", "val")
    lost = [path for video, path in disk.paths.items() if video not in clips]
    return Annotated(
        clips, partitions, "class folders", counted("file", "in no class folder, so without a label, not used", lost)
    )
