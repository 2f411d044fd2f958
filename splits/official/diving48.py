"""Diving48: JSON annotation in two releases (V1: what published few-shot numbers use; V2: corrected), classes by number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fsar_cache.errors import UsageError
from splits.official.annotated import Annotated, counted, read_json_text, read_records, refuse
from splits.official.names import NAMING
from splits.types import Video

if TYPE_CHECKING:
    from splits.official.disk import OnDisk

key = NAMING["diving48"].id_of
RELEASES = ("v1", "v2")
"""The annotations there are; published splits use the first."""


def expected(entry: str, label: str) -> str:
    """Where the clip's file should be."""
    return f"rgb/{entry}.mp4"


def annotated(disk: OnDisk, which: str | None) -> Annotated:
    """The records of one release, "v1" or "v2"; None is V1 where it is there. Where both are there, what V2 has otherwise is noted."""
    if which is None:
        which = "v2" if disk.file("v1train") is None and disk.file("v2train") is not None else "v1"
    classes = _classes(disk)
    made = _release(disk, which, classes)
    if which == "v1" and disk.file("v2train") is not None and disk.file("v2test") is not None:
        other = _release(disk, "v2", classes).clips
        moved = [c for c, video in made.clips.items() if c in other and other[c].label != video.label]
        gone = [c for c in made.clips if c not in other]
        notes = counted("clip", "labelled otherwise in V2, which is there too; V1 is used, as published", moved)
        notes += counted("clip", "of V1 absent from V2", gone)
        made = Annotated(made.clips, made.partitions, made.source, made.notes + notes)
    return made


def _release(disk: OnDisk, which: str, classes: tuple[str, ...]) -> Annotated:
    clips: dict[str, Video] = {}
    partitions: dict[str, str] = {}
    twice: list[str] = []
    files = disk.require_file(f"{which}train", f"{which}test")
    for part, file in zip(("train", "test"), files, strict=True):
        for name, number in _records(file, len(classes)):
            made = disk.clip(name, classes[number])
            if name in clips or made is None:
                twice.append(name)
            else:
                clips[name], partitions[name] = made, part
    notes = counted("record", "of the annotation for a clip that has one already, not used", twice)
    return Annotated(clips, partitions, " and ".join(file.name for file in files), notes)


def _records(file: Path, classes: int) -> list[tuple[str, int]]:
    """Clip and class number of each record; UsageError naming every bad one."""
    made: list[tuple[str, int]] = []
    bad: list[tuple[int, str]] = []
    for number, record in enumerate(read_records(file), 1):
        name, label = record.get("vid_name"), record.get("label")
        if isinstance(name, str) and key(name) and type(label) is int and 0 <= label < classes:
            made.append((name, label))
        else:
            bad.append((number, f"no vid_name and label below {classes}: {record!r}"[:140]))
    refuse(file, bad, "record")
    return made


def _classes(disk: OnDisk) -> tuple[str, ...]:
    """The official classes; UsageError where the owners' vocabulary is there and says otherwise."""
    file = disk.file("vocabulary")
    if file is not None:
        try:
            said = tuple("+".join(map(str, words)) for words in read_json_text(file))
        except TypeError as error:
            raise UsageError(f"{file} is no array of arrays of words", hint="download it again") from error
        if said != disk.official.classes:
            first = next(
                (i for i, (a, b) in enumerate(zip(said, disk.official.classes, strict=False)) if a != b), len(said)
            )
            raise UsageError(
                f"{file} differs from the vocabulary of Diving48 at class {first}: {len(said)} classes instead of 48, or other words",
                hint="download it again, or remove it: the 48 classes are known",
            )
    return disk.official.classes
