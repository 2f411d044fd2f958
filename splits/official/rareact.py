"""RareAct: a table of time spans in full videos; spans are cut while they are decoded, clips that are cut already do as well.

A clip's id is the number of its row. Of one class and span that stands in several rows, lists without row numbers mean the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from splits.official.annotated import Annotated, counted, read_rows, refuse
from splits.official.names import NAMING, YOUTUBE, segment
from splits.types import Video

if TYPE_CHECKING:
    from splits.official.disk import OnDisk

_ID = re.compile(YOUTUBE)
_COLUMNS = ("id", "video_id", "start", "end", "class_id", "verb", "noun", "annotation")


class Segment(NamedTuple):
    """One row of the table."""

    row: str
    video: str
    start: int
    end: int
    label: str
    annotation: int


def key(name: str) -> str | None:
    """What a file's name is found by: a full video's YouTube id, a row, or <video id>_<start>_<end>."""
    return name if _ID.fullmatch(name) else NAMING["rareact"].id_of(name)


def expected(entry: str, label: str) -> str:
    """Where a full video should be."""
    return f"{entry}.mp4"


def resolver(disk: OnDisk, entries: Collection[str]) -> Callable[[str, str], Video | None]:
    """What finds the clip of a row's number, or of a class and span: the first such row; None for what is no row of the table."""
    clips = disk.annotation().clips
    spans: dict[tuple[str, str], Video] = {}
    for video in clips.values():
        spans.setdefault((video.label, video.segment), video)

    def clip(entry: str, label: str) -> Video | None:
        if segment(entry) is None:
            return clips.get(NAMING["rareact"].id_of(entry) or "")
        return spans.get((label, entry))

    return clip


def annotated(disk: OnDisk, which: str | None) -> Annotated:
    """Every row of the table, whatever its annotation says; `positive` are the rows that show their class."""
    rows = _table(disk)
    clips = {one.row: _video(disk, one) for one in rows}
    positive = frozenset(one.row for one in rows if one.annotation == 1)
    cut = [c for c, v in clips.items() if v.start is None]
    notes = counted("clip", "cut already, without the full video", cut)
    return Annotated(clips, dict.fromkeys(clips, "all"), str(disk.require_file("table")[0].name), notes, positive)


def _video(disk: OnDisk, one: Segment) -> Video:
    """The span of the full video where that is there, else the clip that is cut already, else the span of what is expected."""
    whole, span = disk.paths.get(one.video), f"{one.video}_{one.start}_{one.end}"
    cut = disk.paths.get(one.row) or disk.paths.get(span)
    if cut and not whole:
        return Video(one.row, one.label, cut, source=one.video, segment=span)
    path = whole or expected(one.video, one.label)
    return Video(one.row, one.label, path, float(one.start), float(one.end), one.video, span)


def _table(disk: OnDisk) -> list[Segment]:
    """The rows of the table, with or without its header; UsageError naming every bad line."""
    file = disk.require_file("table")[0]
    made: list[Segment] = []
    bad: list[tuple[int, str]] = []
    seen: set[str] = set()
    for number, words in read_rows(file):
        if number == 1 and [word.lower() for word in words] == list(_COLUMNS):
            continue
        try:
            one = _segment(words)
            if one.row in seen:
                raise ValueError
        except ValueError:
            bad.append((number, f"no new row of {','.join(_COLUMNS)}: {','.join(words)[:100]!r}"))
            continue
        seen.add(one.row)
        made.append(one)
    refuse(file, bad)
    return made


def _segment(words: list[str]) -> Segment:
    """One row; ValueError where it is none."""
    row, video, start, end, _, verb, noun, annotation = words
    one = Segment(str(int(row)), video, int(start), int(end), f"{verb} {noun}", int(annotation))
    if not (_ID.fullmatch(video) and row.isdecimal() and verb and noun):
        raise ValueError
    if not (0 <= one.start < one.end and 0 <= one.annotation <= 4):
        raise ValueError
    return one
