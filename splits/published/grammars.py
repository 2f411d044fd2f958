"""Published lists of clips, one file at a time. The grammar is told from the content:

A   <class>/<clip>                         B   <partition><number>/<clip>        B'  <number>/<clip>
C   <partition><number>//<path>            D   <authors' path>, <number>         E   JSON with image_names and image_labels
own an imported split as this project writes it

A clip is named by the stem of its file. Only a known ending of video files is cut from it: names may have dots of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fsar_cache.errors import MissingError, UsageError
from splits.official.catalog import official
from splits.official.names import NAMING, YOUTUBE
from splits.published.imported import KIND, unseal
from splits.published.text import NotAList, decoded, lines_of
from splits.words import is_text

WORDS = {
    "train": "train",
    "base": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "novel": "test",
    "all": "all",
}
"""How lists call a partition -> its name here."""
ENDINGS = (".mp4", ".avi", ".webm", ".mkv", ".mov")
FORMS = "a line is <class>/<clip>, <partition><number>/<clip>, <number>/<clip>, <partition><number>//<path> or <path>, <number>"
LARGEST = 256 << 20
"""Bytes that a list may have; the longest published one has 20 million."""
_SHOWN = 5
_SAMPLE = 200
HAVE_PATHS = ("C", "D", "E")
"""Grammars whose entries are paths, so that any eleven characters may be a name of Kinetics."""
_WORD = "|".join(WORDS)
_LINES = {
    "D": re.compile(r"(?P<path>.+), (?P<label>[0-9]+)"),
    "C": re.compile(rf"(?P<word>{_WORD})(?P<label>[0-9]+)//(?P<path>.+)"),
    "B": re.compile(rf"(?P<word>{_WORD})(?P<label>[0-9]+)/(?P<path>[^/]+)"),
    "B'": re.compile(r"(?P<label>[0-9]+)/(?P<path>[^/]+)"),
    "A": re.compile(r"(?P<label>[^/]+)/(?P<path>[^/]+)"),
}
_WANTED = {
    "D": "a path, a comma, a blank and a number",
    "C": "<partition><number>//<path>",
    "B": "<partition><number>/<clip>",
    "B'": "<number>/<clip>",
    "A": "<class>/<clip>, with one slash",
}
_BARE = re.compile(YOUTUBE)


class Row(NamedTuple):
    """One entry of a list.

    number: of its line (or its place in the arrays), from 1; label: class name or number, as the list has it; word: the partition that
    the entry itself names, else ""; entry: the stem of the video's file; path: what the list says of where that is.
    """

    number: int
    label: str
    word: str
    entry: str
    path: str


class Bad(NamedTuple):
    """An entry that can't be read: its number, its text, what is wrong."""

    number: int
    text: str
    why: str


@dataclass(frozen=True)
class Listing:
    """One file of entries.

    bad: entries that can't be read; tidied: what was overlooked (line ends, byte order mark); dataset, name: where the list itself says
    them (own form), else "".
    """

    path: Path
    sha256: str
    grammar: str
    rows: tuple[Row, ...]
    bad: tuple[Bad, ...] = ()
    tidied: tuple[str, ...] = ()
    dataset: str = ""
    name: str = ""

    @property
    def unit(self) -> str:
        """What its entries are called."""
        return "entry" if self.grammar in ("E", "own") else "line"

    def refuse(self, bad: Iterable[Bad]) -> None:
        """UsageError that shows the first bad entries, where there are any."""
        told = sorted(bad)
        if not told:
            return
        count = f"1 bad {self.unit}" if len(told) == 1 else f"{len(told)} bad {self.unit.replace('entry', 'entrie')}s"
        shown = "".join(f"\n  {self.unit} {b.number}: {b.why}: {b.text[:140]!r}" for b in told[:_SHOWN])
        more = f"\n  and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise UsageError(f"{self.path}: {count}{shown}{more}", hint=f"mend or remove them; {FORMS}")


def read_list(path: Path, dataset: str | None = None) -> Listing:
    """The entries of one file; dataset: whose clips they are, where the user says so.

    NotAList (a UsageError) for a file in none of the grammars or with no entry; UsageError for one that isn't as its grammar says;
    MissingError for one that can't be read. Entries that can't be read are in `bad`: `refuse` them.
    """
    try:
        if path.exists() and not path.is_file():
            raise NotAList(f"{path} is no file", hint=FORMS)
        if path.stat().st_size > LARGEST:
            raise NotAList(f"{path} has more than {LARGEST >> 20} MB, too much for a list", hint=FORMS)
        data = path.read_bytes()
    except OSError as error:
        raise MissingError(f"can't read the list {path}: {error.strerror}", hint="check the path") from error
    sha256 = hashlib.sha256(data).hexdigest()
    text, tidied = decoded(data, path, lambda text: _grammar(_sampled(text), dataset) is not None)
    if text.lstrip()[:1] in ("{", "["):
        return _from_json(path, sha256, text, tidied)
    lines, more = lines_of(text)
    grammar = _grammar(_sampled(text), dataset)
    if grammar is None:
        _no_list(path, lines, official(dataset).title if dataset else "a known dataset")
    rows, bad = _rows(lines, grammar)
    return Listing(path, sha256, grammar, rows, bad, (*tidied, *more))


def _sampled(text: str) -> list[str]:
    """Some lines from all over a text."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return lines[:: max(1, len(lines) // _SAMPLE)]


def _grammar(lines: list[str], dataset: str | None) -> str | None:
    """The first grammar in which half of the lines or more name clips (every line of B is one of A as well); None where none is."""
    is_clip = _is_clip(dataset)
    for name, form in _LINES.items():
        matches = [match for line in lines if (match := form.fullmatch(line))]
        clips = sum(is_clip(stem(match["path"]), name in HAVE_PATHS) for match in matches)
        if clips and 2 * clips >= len(lines):
            return name
    return None


def _is_clip(dataset: str | None) -> Callable[[str, bool], bool]:
    """Whether an entry could be a clip's name; any eleven characters are one (Kinetics) only in a path, or where the user says so."""
    if dataset is not None:
        only = NAMING[dataset].id_of
        return lambda entry, bare: only(entry) is not None
    every = [naming.id_of for naming in NAMING.values()]
    return lambda entry, bare: (bare or not _BARE.fullmatch(entry)) and any(id_of(entry) is not None for id_of in every)


def _no_list(path: Path, lines: list[tuple[int, str]], whose: str) -> NoReturn:
    """What a file that is no list is told; whose: clips were looked for."""
    first = lines[0][1][:100] if lines else ""
    if not lines:
        raise NotAList(f"{path} is empty: it lists no clips", hint=FORMS)
    if first.startswith("id,video_id,start,end,class_id"):
        raise NotAList(
            f"{path} is RareAct's own table, no split of it",
            hint="put it into the folder rareact under the folder of videos; it is read from there",
        )
    raise NotAList(f"{path} lists no clips of {whose} in a known form; its first line: {first!r}", hint=FORMS)


def _rows(lines: list[tuple[int, str]], grammar: str) -> tuple[tuple[Row, ...], tuple[Bad, ...]]:
    """The entries of numbered lines, and those that can't be read."""
    form, has_word = _LINES[grammar], grammar in ("B", "C")
    rows, bad = [], []
    for number, line in lines:
        match = form.fullmatch(line)
        if match is None:
            bad.append(Bad(number, line, f"not {_WANTED[grammar]}"))
            continue
        path, label = match["path"], match["label"]
        why = _fault(path, label, grammar) if ".." in line or not line.isprintable() else ""
        if why or (grammar == "C" and path.startswith("/")):
            bad.append(Bad(number, line, why or "the path leaves the dataset's folder"))
            continue
        rows.append(Row(number, label, WORDS[match["word"]] if has_word else "", stem(path), path))
    return tuple(rows), tuple(bad)


def _fault(path: str, label: str, grammar: str) -> str:
    """What is wrong with the text of an entry, "" if nothing."""
    if not is_text(path + label):
        return "a control character"
    return "the path leaves the dataset's folder" if ".." in (*re.split(r"[/\\]", path), label) else ""


def stem(path: str) -> str:
    """The name of a clip: its file without folders and without a known ending."""
    name = path.replace("\\", "/").rpartition("/")[2]
    dot = name.rfind(".")
    return name[:dot] if dot > 0 and name[dot:].lower() in ENDINGS else name


def _from_json(path: Path, sha256: str, text: str, tidied: tuple[str, ...]) -> Listing:
    """A list in JSON: two parallel arrays, or the form in which this project keeps lists."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        known = "image_names" in text or KIND in text
        raise (UsageError if known else NotAList)(f"{path} is no JSON: {error}", hint="get the file again") from error
    if isinstance(value, dict) and value.get("kind") == KIND:
        split = unseal(value, path)
        clips = [(label, p, clip) for p, classes in split.parts.items() for label in classes for clip in classes[label]]
        rows = tuple(Row(i, label, part, clip, clip) for i, (label, part, clip) in enumerate(clips, 1))
        return Listing(path, sha256, "own", rows, dataset=split.dataset, name=split.name)
    if not isinstance(value, dict) or not {"image_names", "image_labels"} & value.keys():
        raise NotAList(f"{path} is JSON without image_names and image_labels: no list of clips", hint=FORMS)
    names, labels = value.get("image_names"), value.get("image_labels")
    if not isinstance(names, list) or not isinstance(labels, list) or len(names) != len(labels):
        sizes = [len(one) if isinstance(one, list) else "no" for one in (names, labels)]
        raise UsageError(
            f"{path}: image_names and image_labels must be arrays of one length, they have {sizes[0]} and {sizes[1]} values",
            hint="get the file again",
        )
    if not names:
        raise NotAList(f"{path} is empty: it lists no clips", hint=FORMS)
    rows_and_bad = [_item(i, name, label) for i, (name, label) in enumerate(zip(names, labels, strict=True), 1)]
    rows = tuple(one for one in rows_and_bad if isinstance(one, Row))
    return Listing(path, sha256, "E", rows, tuple(one for one in rows_and_bad if isinstance(one, Bad)), tidied)


def _item(number: int, name: Any, label: Any) -> Row | Bad:
    """One pair of the two arrays."""
    shown = f"{name}, {label}"
    if not isinstance(name, str) or not name:
        return Bad(number, shown, "the name is no text")
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        return Bad(number, shown, "the label is no number from 0 on")
    why = _fault(name, "", "E")
    return Bad(number, shown, why) if why else Row(number, str(label), "", stem(name), name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made
