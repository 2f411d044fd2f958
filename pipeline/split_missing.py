"""The clips of a split whose file isn't there, for whatever downloads them: `fsar-cache split missing` as data and as a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fsar_cache.errors import FsarError, UsageError
from fsar_cache.files import whole_file, write_json
from splits.datasets import missing, open_split
from splits.official.catalog import official, official_names
from splits.official.disk import find
from splits.official.names import YOUTUBE, youtube_span
from splits.types import Split, Video

COLUMNS = ("id", "class", "partition", "path", "url", "start", "end")
ON_YOUTUBE = ("kinetics", "rareact")
"""Datasets of which a clip can be cut from what its address gives: Diving48 tells whole competitions, not where its clips begin."""
_ID = re.compile(YOUTUBE)


@dataclass(frozen=True)
class Lost:
    """One file that isn't there.

    id: of its clip; where clips are spans of full videos that of the recording, with all its classes and partitions ("; " between them).
    path: where it is looked for; url: "" unknown; start, end: seconds of the clip in what the url gives, None unknown or all of it.
    """

    id: str
    label: str
    partition: str
    path: str
    url: str
    start: float | None
    end: float | None
    clips: int = 1


def lost(asked: str, partition: str | None, videos: Path) -> tuple[Split, list[Lost]]:
    """The split and the files of it, or of one partition, that aren't there; by partition, class and id."""
    split = open_split(asked, videos)
    names = (split.part(partition).name,) if partition is not None else tuple(split.parts)
    part_of = {clip: name for name in names for clip in split.parts[name].ids}
    gone = [video for video in missing(split) if video.id in part_of]
    if spans(split):
        return split, _by_recording(split, gone, part_of)
    seconds = _seconds(split, gone, videos)
    made = [
        Lost(
            v.id, v.label, part_of[v.id], str(split.root / v.path), _url(split, v), *seconds.get(v.id, (v.start, v.end))
        )
        for v in gone
    ]
    return split, made


def spans(split: Split) -> bool:
    """Whether its clips are spans of full videos, so that one download serves several clips."""
    return split.dataset in official_names() and official(split.dataset).spans


def _by_recording(split: Split, gone: Sequence[Video], part_of: dict[str, str]) -> list[Lost]:
    """One row per full video that isn't there: it is needed whole, since spans are counted from its start."""
    groups: dict[str, list[Video]] = {}
    for video in gone:
        groups.setdefault(video.path, []).append(video)
    made = []
    for path, group in groups.items():
        labels = "; ".join(dict.fromkeys(v.label for v in group))
        parts = "; ".join(dict.fromkeys(part_of[v.id] for v in group))
        id = group[0].source or PurePosixPath(path).stem
        made.append(Lost(id, labels, parts, str(split.root / path), _url(split, group[0]), None, None, len(group)))
    return made


def _url(split: Split, video: Video) -> str:
    known = split.dataset in ON_YOUTUBE and _ID.fullmatch(video.source)
    return f"https://www.youtube.com/watch?v={video.source}" if known else ""


def _seconds(split: Split, gone: Sequence[Video], videos: Path) -> dict[str, tuple[float | None, float | None]]:
    """Start and end of clips of Kinetics, from the name of the file expected, else from the owners' annotation."""
    if split.dataset != "kinetics":
        return {}
    made: dict[str, tuple[float | None, float | None]] = {}
    for video in gone:
        found = youtube_span(PurePosixPath(video.path).stem)
        if found is not None:
            made[video.id] = float(found[1]), float(found[2])
    unclear = [video.id for video in gone if video.id not in made]
    if unclear:
        try:
            clips = find("kinetics", videos).annotation().clips
        except FsarError:
            return made
        for clip in unclear:
            found = youtube_span(PurePosixPath(clips[clip].path).stem) if clip in clips else None
            if found is not None:
                made[clip] = float(found[1]), float(found[2])
    return made


def as_csv(rows: Sequence[Lost]) -> str:
    """The rows under a header, quoted where they must be; "" for none."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in rows:
        writer.writerow([one.id, one.label, one.partition, one.path, one.url, _number(one.start), _number(one.end)])
    return text.getvalue()


def as_lines(rows: Sequence[Lost]) -> str:
    """The ids, one per line."""
    return "".join(f"{one.id}\n" for one in rows)


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:g}"


def write(path: Path, rows: str | Sequence[Lost]) -> None:
    """Write the text, or the rows as JSON, whole or not at all; UsageError for a place where no file can be."""
    try:
        if not isinstance(rows, str):
            write_json(path, list(rows))
            return
        with whole_file(path) as file:
            file.write(rows.encode())
    except OSError as error:
        raise UsageError(
            f"can't write {path}: {error.strerror}", hint="--out FILE, in a folder that may be written"
        ) from error


def headline(split: Split, rows: Sequence[Lost], partition: str | None, out: Path | None) -> str:
    """What is missing, in one line."""
    of = f"{split.name}/{partition}" if partition else split.name
    if not rows:
        return f"{of}: nothing is missing"
    clips, total = (
        sum(one.clips for one in rows),
        sum(len(p.videos) for n, p in split.parts.items() if partition in (None, n)),
    )
    full = f" of {len(rows)} full videos, one line for each" if spans(split) else ""
    return f"{of}: {clips} of {total} clips{full} have no file below {split.root}" + (
        f"; listed in {out}" if out else ""
    )
