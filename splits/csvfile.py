"""The dataset kind `csv`: a list of clips with the columns id, class, path and, if wanted, start, end (seconds) and partition.

Commas, UTF-8 (with or without byte order mark), any line ends. Paths are relative to the list's folder, or absolute; they name video files
or folders of extracted frames, on disk or in a zip (FRAMES.zip/some/folder), of which no spans can be taken. Blanks around a value
don't count. Without the column partition all clips are in the part "all". Clips stay in the order of the list.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fsar_cache.errors import MissingError, UsageError, nearest
from splits.datasets import DATASETS, Dataset, make_parts, safe
from splits.types import Split, Video
from splits.words import is_text

COLUMNS = ("id", "class", "path", "start", "end", "partition")
_REQUIRED = COLUMNS[:3]
_FORMAT = "the first line names the columns: id,class,path[,start,end][,partition]"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the list (or several, where a quoted value spans them): its number from 1, its text, its values.

    flaw: what is wrong with its quotes; there are no values then.
    """

    number: int
    text: str
    cells: tuple[str, ...]
    flaw: str = ""


def load_csv(name: str, root: Path) -> Split:
    """The split that the list `root` (a file) describes; its own root is the folder of the list.

    UsageError names every bad line (the first five in full) by number, reason and text; MissingError for a list without clips.
    """
    records = _records(_lines(root))
    columns = _header(next(records, Record(1, "", ())), root)
    clips: list[tuple[str, Video]] = []
    bad: list[str] = []
    line_of: dict[str, int] = {}
    for record in records:
        try:
            partition, video = _clip(record, columns)
            if video.id in line_of:
                raise ValueError(f"the id {video.id!r} stands already in line {line_of[video.id]}")
        except ValueError as error:
            bad.append(f"line {record.number}: {error}: {record.text[:100]!r}")
            continue
        line_of[video.id] = record.number
        clips.append((partition, video))
    if bad:
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        count = "1 bad line" if len(bad) == 1 else f"{len(bad)} bad lines"
        raise UsageError(f"{root}: {count}" + "".join(f"\n  {b}" for b in bad[:_SHOWN]) + more, hint=_FORMAT)
    if not clips:
        raise MissingError(f"{root} lists no clips", hint=_FORMAT)
    return Split(name, root.parent, make_parts(clips), {"kind": "csv", "file": root.name})


def _lines(file: Path) -> list[str]:
    """The lines of the list with their ends."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MissingError(f"can't read the list {file}: {error.strerror}", hint="csv:PATH wants a file") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{file}, line {line}: not UTF-8 text", hint="save the list as CSV UTF-8") from error
    return list(io.StringIO(text, newline=""))


def _records(lines: list[str]) -> Iterator[Record]:
    """The records of the list, the header first; blank lines don't count."""
    reader = csv.reader(lines, strict=True)
    while reader.line_num < len(lines):
        first = reader.line_num
        cells: tuple[str, ...] = ()
        flaw = ""
        try:
            cells = tuple(c.strip() for c in next(reader))
        except csv.Error as error:
            flaw = str(error)
        if flaw or any(cells):
            yield Record(first + 1, "".join(lines[first : reader.line_num]).strip(), cells, flaw)


def _header(record: Record, file: Path) -> list[str]:
    """The column names of the first line, checked."""
    columns = [c.lower() for c in record.cells]
    for column in columns:
        if column not in COLUMNS:
            close = nearest(column, set(COLUMNS) - set(columns)) if column.isalpha() else None
            hint = f"did you mean {close!r}?" if close else f"separate the columns by commas; {_FORMAT}"
            raise UsageError(f"{file}: unknown column {column!r}", hint=hint)
    lacking = [c for c in _REQUIRED if c not in columns]
    if lacking:
        raise UsageError(f"{file}: no column {', '.join(lacking)}", hint=_FORMAT)
    if len(set(columns)) < len(columns):
        raise UsageError(f"{file}: a column stands twice: {', '.join(columns)}", hint=_FORMAT)
    return columns


def _clip(record: Record, columns: list[str]) -> tuple[str, Video]:
    """Partition and clip of one line; ValueError says what is wrong with it."""
    if record.flaw:
        raise ValueError(record.flaw)
    if len(record.cells) != len(columns):
        raise ValueError(f"{len(record.cells)} values for {len(columns)} columns")
    row = {"partition": "all", "start": "", "end": "", **dict(zip(columns, record.cells, strict=True))}
    for column in ("id", "class", "path", "partition"):
        if not row[column]:
            raise ValueError(f"no {column}")
        if not is_text(row[column]):
            raise ValueError(f"a control character in {column}")
    path, partition = row["path"], row["partition"]
    if not os.path.isabs(path) and os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise ValueError("the path leaves the folder of the list (an absolute path may)")
    if not safe(partition):
        raise ValueError(f"a partition can't be called {partition!r} (letters, digits and . _ - only)")
    start, end = _seconds(row["start"], "start"), _seconds(row["end"], "end")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"the end, {end:g} s, is not after the start, {start or 0.0:g} s")
    return partition, Video(row["id"], row["class"], path, start, end)


def _seconds(text: str, what: str) -> float | None:
    """The seconds in `text`, None where it is empty."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise ValueError(f"the {what} is no number of seconds: {text!r}")
    return value


DATASETS.add("csv")(
    Dataset(load_csv, "a list of clips: " + ", ".join(COLUMNS) + " (start, end, partition optional)", takes_path=True)
)
