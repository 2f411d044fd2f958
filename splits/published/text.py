"""Bytes of a list as text: UTF-8 or, where a byte order mark says so, UTF-16; other encodings are refused by line."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from fsar_cache.errors import UsageError

_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class NotAList(UsageError):  # noqa: N818 - not always an error
    """A file that is no list of clips at all; in a folder it is passed over, and named."""


def decoded(data: bytes, path: Path, is_list: Callable[[str], bool]) -> tuple[str, tuple[str, ...]]:
    """The text of a file, without byte order mark, and what was overlooked in it; is_list: whether a text looks like a list of clips.

    NotAList for bytes that are no text; UsageError, with the line and its text, for a list in another encoding.
    """
    encoding = _UTF16.get(data[:2])
    if encoding:
        try:
            return data[2:].decode(encoding), ("UTF-16",)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: broken UTF-16 text at byte {error.start + 2}", hint="save it as UTF-8"
            ) from error
    if b"\0" in data:
        raise NotAList(f"{path} is no text: it has null bytes", hint="save the list as UTF-8 text")
    marked = data.startswith(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8-sig"), ("byte order mark",) if marked else ()
    except UnicodeDecodeError as error:
        text = data.decode("latin-1")
        if not is_list(text):
            raise NotAList(f"{path} is no UTF-8 text", hint="save the list as UTF-8 text") from error
        number = data[: error.start + 3 * marked].count(b"\n") + 1
        line = data.split(b"\n")[number - 1].strip().decode("latin-1")
        raise UsageError(
            f"{path}, line {number}: not UTF-8 text: {line[:140]!r}",
            hint=f"if it is Latin-1: iconv -f LATIN1 -t UTF-8 {path} > NEW",
        ) from error


def lines_of(text: str) -> tuple[list[tuple[int, str]], tuple[str, ...]]:
    """The lines of a text with their numbers, without blank ones and blanks around them, and what was overlooked."""
    raw = text.split("\n")
    if raw[-1] == "":
        raw.pop()
    stripped = [(number, line.strip(" \r\t")) for number, line in enumerate(raw, 1)]
    lines = [(number, line) for number, line in stripped if line]
    blank = len(raw) - len(lines)
    notes: tuple[str, ...] = ("CRLF line ends",) if "\r\n" in text else ()
    if blank:
        notes += (f"{blank} blank line{'s' * (blank > 1)}",)
    return lines, notes
