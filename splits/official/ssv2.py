"""Something-Something V2: JSON annotation whose templates are the classes, files named by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsar_cache.errors import UsageError
from splits.official.annotated import Annotated, counted, read_json_text, read_records, refuse, spelled
from splits.official.names import NAMING
from splits.types import Video

if TYPE_CHECKING:
    from splits.official.disk import OnDisk

key = NAMING["ssv2"].id_of


def expected(entry: str, label: str) -> str:
    """Where the clip's file should be."""
    return f"20bn-something-something-v2/{entry}.webm"


def annotated(disk: OnDisk, which: str | None) -> Annotated:
    """The records of train.json and validation.json; a class is a template without its brackets."""
    clips: dict[str, Video] = {}
    partitions: dict[str, str] = {}
    twice: list[str] = []
    for part, file in zip(("train", "val"), disk.require_file("train", "val"), strict=True):
        records = read_records(file)
        named = [(_id(one), _label(one)) for one in records]
        refuse(
            file,
            (
                (i, f"no id and template: {records[i - 1]!r}"[:140])
                for i, (c, t) in enumerate(named, 1)
                if not (c and t)
            ),
            "record",
        )
        for name, template in named:
            if name in clips:
                twice.append(name)
                continue
            label = disk.labels.get(spelled(template), template)
            made = disk.clip(name, label)
            assert made is not None
            clips[name], partitions[name] = made, part
    notes = counted("record", "of the annotation for a clip that has one already, not used", twice)
    unlisted = sorted(disk.paths.keys() - clips.keys() - _tested(disk), key=int)
    notes += counted("file", "absent from the annotation, not used", [disk.paths[name] for name in unlisted])
    notes += _vocabulary(disk)
    strange = sorted({video.label for video in clips.values()} - set(disk.official.classes))
    return Annotated(
        clips,
        partitions,
        "train.json and validation.json",
        notes + counted("template", "unknown to the official classes", strange),
    )


def _vocabulary(disk: OnDisk) -> tuple[str, ...]:
    """A note where the owners' labels.json is there and has other classes than are known."""
    file = disk.file("labels")
    if file is None:
        return ()
    said = read_json_text(file)
    if not isinstance(said, dict):
        raise UsageError(f"{file} holds no JSON object of labels", hint="download it again")
    return counted(
        "label", f"of {file.name} unknown here, or known here alone", sorted(said.keys() ^ set(disk.official.classes))
    )


def _tested(disk: OnDisk) -> set[str]:
    """Ids of the owners' test clips, which have no labels, where their list is there."""
    file = disk.file("test")
    return set() if file is None else {_id(one) for one in read_records(file)}


def _id(record: dict[str, Any]) -> str:
    return key(str(record.get("id", ""))) or ""


def _label(record: dict[str, Any]) -> str:
    template = record.get("template")
    return template.replace("[", "").replace("]", "").strip() if isinstance(template, str) else ""
