"""From the name of a published or imported split to the split: from its list where that is imported, else by the rule that makes it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fsar_cache.bulk import many_objects
from fsar_cache.console import warn_once
from fsar_cache.errors import MissingError, UsageError
from splits.datasets import make_parts
from splits.official.annotated import counted
from splits.official.catalog import official, official_names
from splits.official.disk import OnDisk, find
from splits.published.compared import compared
from splits.published.imported import Imported, imported_path, read_imported
from splits.published.known import Known, known, known_names
from splits.types import Part, Split, Video

Clips = list[tuple[str, Video]]
"""(partition, clip)"""
RULES = {
    "classes": "all clips of the classes of each partition",
    "official": "the owners' partitions",
    "otam": "training classes from the owners' training clips, other classes from their validation clips",
}
"""What a rule does, in words."""


_MADE: dict[tuple[str, Path], tuple[OnDisk, int, Split]] = {}


def open_published(name: str, videos: Path) -> Split:
    """The split called `name` over the dataset under the folder of videos; name: of a published split, an imported one, or a dataset's.

    Its classes are sorted by name and its clips by class and id, whatever list or rule made it, so equal splits are equal. What was seen on
    the way is warned of once. MissingError where a list must be imported, or the dataset isn't there.
    """
    with many_objects():
        split, disk = _opened(name, videos)
    for note in split.provenance["notes"]:
        if note not in disk.strays:
            warn_once(f"{split.name}: {note}")
    return split


def _opened(name: str, videos: Path) -> tuple[Split, OnDisk]:
    name = settled(name, videos)
    facts = known(name) if name in known_names() else None
    key, stamp = (name, Path(os.path.abspath(videos))), _written(name) + _written((facts and facts.base) or "")
    dataset = facts.dataset if facts is not None else _read(name).dataset
    disk = find(dataset, videos)
    held = _MADE.get(key)
    if held is None or held[:2] != (disk, stamp):
        held = _MADE[key] = (disk, stamp, _made(name, facts, disk, videos))
    return held[2], disk


def settled(name: str, videos: Path) -> str:
    """The split that a name means: of a dataset, the first of its default splits that can be made (the first, if none can)."""
    if name in official_names():
        defaults = official(name).default
        name = next((each for each in defaults if can_be_made(each, videos)), defaults[0])
    return name if _written(name) else known(name).name


def can_be_made(name: str, videos: Path) -> bool:
    """Whether a published split is imported, or what its rule reads is there."""
    facts = known(name)
    if _written(facts.name):
        return True
    if facts.base is not None and not can_be_made(facts.base, videos):
        return False
    disk = find(facts.dataset, videos)
    try:
        return facts.rule != "list" and disk.exists and bool(disk.annotation(facts.annotation).clips)
    except (MissingError, UsageError):
        return False


def by_rule(facts: Known, disk: OnDisk) -> dict[str, Part]:
    """The partitions that the split's rule makes, its list imported or not; MissingError where that reads something not there."""
    return make_parts(_of_rule(facts, disk)[0])


def _written(name: str) -> int:
    """When the list of this name was imported, in nanoseconds; 0 where none was."""
    try:
        return os.stat(imported_path(name)).st_mtime_ns if name else 0
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise MissingError(f"can't read the imported lists: {error}", hint="FSAR_LISTS moves their folder") from error


def _read(name: str) -> Imported:
    listed = read_imported(name)
    if listed is None:
        raise MissingError(f"no list called {name!r} is imported", hint="fsar-cache split ls shows those that are")
    return listed


def _made(name: str, facts: Known | None, disk: OnDisk, videos: Path) -> Split:
    how: dict[str, Any]
    listed = _read(name) if facts is None or _written(name) else None
    if listed is not None:
        clips, notes = _of_list(listed, disk)
        how = {"made": "the imported list", "files": [f"{f.file} ({f.sha256[:12]})" for f in listed.files]}
        if facts is not None:
            more, told = _lacking(facts, listed, disk, {video.id for _, video in clips})
            clips, notes = clips + more, notes + told
    elif facts is not None and facts.base is not None:
        base = open_published(facts.base, videos)
        positive = disk.annotation().positive
        clips = [(p.name, v) for p in base.parts.values() for v in p.videos if v.id in positive]
        notes, how = (), {"made": f"the clips of {facts.base} that show their class", "base": dict(base.provenance)}
    else:
        assert facts is not None
        clips, notes, how = _of_rule(facts, disk)
    if not clips:
        raise _without_clips(name, disk)
    parts = make_parts(sorted(clips, key=lambda clip: (clip[1].label, clip[1].id)))
    notes = (*disk.notes, *notes)
    if facts is not None:
        how["origin"] = facts.origin
        notes += compared(facts, parts, sure=listed.parts.keys() if listed is not None and listed.published else ())
    provenance = {"kind": "published", "dataset": disk.official.name, **how, "notes": notes}
    return Split(name, disk.root, parts, provenance, disk.official.flips, disk.official.name)


def _of_list(listed: Imported, disk: OnDisk) -> tuple[Clips, tuple[str, ...]]:
    """The clips of an imported list; names that are none of the dataset are left out and counted."""
    made: Clips = []
    lost: list[str] = []
    seen: dict[str, str] = {}
    again: list[str] = []
    entries = [(p, label, name) for p, classes in listed.parts.items() for label in classes for name in classes[label]]
    videos = disk.clips([(name, label) for _, label, name in entries])
    for (part, label, name), video in zip(entries, videos, strict=True):
        if video is None:
            lost.append(f"{label}/{name}")
        elif video.id in seen:
            again.append(f"{name} ({seen[video.id]} and {part})")
        else:
            seen[video.id] = part
            made.append((part, video if video.label == label else replace(video, label=label)))
    notes = counted("name", f"of the list unknown to {disk.official.title}, left out", lost)
    notes += counted("name", "of the list for a clip that stands there already, left out", again)
    return made, notes + _labelled_otherwise([video for _, video in made], disk)


def _labelled_otherwise(clips: Sequence[Video], disk: OnDisk) -> tuple[str, ...]:
    """A note of clips whose class in the list is not the owners'; nothing where their annotation isn't there."""
    notes: tuple[str, ...] = ()
    for which in disk.releases if disk.exists else ():
        try:
            owners = disk.annotation(which)
        except MissingError:
            continue
        except UsageError as error:
            notes += (f"the classes of the list were not compared with the owners': {error.message}",)
            continue
        other = [v for v in clips if v.id in owners.clips and owners.clips[v.id].label != v.label]
        shown = [f"{video.id} ({video.label}, there {owners.clips[video.id].label})" for video in other]
        notes += counted("clip", f"of the list with another class in {owners.source}", shown)
    return notes


def _lacking(facts: Known, listed: Imported, disk: OnDisk, taken: Collection[str]) -> tuple[Clips, tuple[str, ...]]:
    """The clips of partitions that the imported list lacks and the split's rule can make."""
    lacking = [part for part in facts.parts if part not in listed.parts]
    if not lacking or facts.rule == "list" or facts.base is not None or not disk.exists:
        return [], ()
    try:
        made, notes, _ = _of_rule(facts, disk)
    except MissingError:
        return [], ()
    clips = [(part, video) for part, video in made if part in lacking and video.id not in taken]
    told = f"the imported list has no {' and no '.join(lacking)}, so {RULES[facts.rule]} make it"
    return clips, (told, *notes) if clips else ()


def _of_rule(facts: Known, disk: OnDisk) -> tuple[Clips, tuple[str, ...], dict[str, Any]]:
    """The clips that the split's rule makes of the owners' annotation."""
    if facts.rule == "list":
        raise MissingError(
            f"the split {facts.name} is made of a list, and it is not imported: {facts.origin}",
            hint=f"get it from {facts.where}, then: fsar-cache split import FILE_OR_FOLDER",
        )
    if not disk.exists:
        raise disk.nothing_there()
    found = disk.annotation(facts.annotation)
    left = [each for each in facts.left_out if each in found.clips]
    kept = [v for v in found.clips.values() if v.id not in facts.left_out and v.label not in facts.drop]
    made = list(_by_rule(facts, kept, found.partitions))
    notes = found.notes
    if left:
        notes += (f"left out, as published: {', '.join(left)}",)
    return made, notes, {"made": RULES[facts.rule], "annotation": found.source}


def _by_rule(facts: Known, clips: Iterable[Video], owners: dict[str, str]) -> Iterable[tuple[str, Video]]:
    part_of = {label: name for name, part in facts.parts.items() for label in part.classes}
    for video in clips:
        if facts.rule == "official":
            part = owners[video.id]
            if part in facts.parts:
                yield part, video
            continue
        part = part_of.get(video.label, "")
        from_validation = owners[video.id] == "val"
        both = facts.rule == "classes" or (part == "train" and facts.also_validation)
        if part and (both or from_validation == (part != "train")):
            yield part, video


def _without_clips(name: str, disk: OnDisk) -> MissingError:
    return MissingError(
        f"the split {name} has no clip: none of its classes or names is among the clips of {disk.official.title} in {disk.root}",
        hint=f"fsar-cache split show {name} says what it holds",
    )
