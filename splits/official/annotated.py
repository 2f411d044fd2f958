"""What the owners of a dataset say of its clips, and reading their files: text, CSV, JSON; bad lines are told by number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsar_cache.errors import MissingError, UsageError
from splits.types import Video

SHOWN = 5


@dataclass(frozen=True)
class Annotated:
    """The clips of a dataset by id, each with the path of its file, or the path that is expected where there is none.

    partitions: id -> the owners' partition, "all" where they have none; positive: ids of the clips that show their class (RareAct; empty
    elsewhere); source: which annotation says so; notes: what was seen on the way, counted.
    """

    clips: dict[str, Video]
    partitions: dict[str, str]
    source: str
    notes: tuple[str, ...] = ()
    positive: frozenset[str] = field(default_factory=frozenset)


def read_text(file: Path) -> str:
    """The text of an annotation file: UTF-8, with or without byte order mark. MissingError, or UsageError with the line that is no text."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MissingError(f"can't read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{file}, line {line}: not UTF-8 text", hint="save it as UTF-8, or download it again"
        ) from error


def read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with the numbers of their last lines, cells without blanks around them, blank rows left out.

    UsageError for quotes that don't close where their line ends.
    """
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    while True:
        before = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            refuse(file, [(reader.line_num, f"{error}")])
            return
        if cells is None:
            return
        if reader.line_num > before + 1:
            refuse(file, [(before + 1, f"a quote that doesn't close: {','.join(cells)[:100]!r}")])
        if any(cells):
            yield reader.line_num, list(map(str.strip, cells))


def read_json_text(file: Path) -> Any:
    """What a JSON file holds; UsageError where it is none."""
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no JSON: {error}", hint="download it again") from error


def read_records(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON array; UsageError for anything else."""
    value = read_json_text(file)
    if not isinstance(value, list):
        raise UsageError(f"{file} holds no JSON array of records", hint="download it again")
    refuse(
        file,
        [(i, f"no object: {one!r}"[:100]) for i, one in enumerate(value, 1) if not isinstance(one, dict)],
        "record",
    )
    return value


def refuse(file: Path, bad: Iterable[tuple[int, str]], unit: str = "line") -> None:
    """UsageError naming the first bad lines (number, what is wrong and the text), where there are any."""
    told = list(bad)
    if not told:
        return
    shown = "".join(f"\n  {unit} {number}: {why}" for number, why in told[:SHOWN])
    more = f"\n  and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    count = f"1 bad {unit}" if len(told) == 1 else f"{len(told)} bad {unit}s"
    raise UsageError(f"{file}: {count}{shown}{more}", hint="mend or remove them, or download the file again")


def counted(noun: str, what: str, names: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """One note that says how many of `noun` are `what`, and which first; nothing for none."""
    listed = list(names)
    if not listed:
        return ()
    more = ", ..." if len(listed) > most else ""
    return (f"{len(listed)} {noun}{'s' * (len(listed) > 1)} {what}: {', '.join(listed[:most])}{more}",)


def official_label(text: str, classes: dict[str, str]) -> str:
    """The official spelling of a class whatever its case, blanks or underscores; itself where it is no official class."""
    return classes.get(spelled(text), text)


def spelled(text: str) -> str:
    """A class name without regard to case and to blanks or underscores."""
    return " ".join(text.replace("_", " ").split()).casefold()
