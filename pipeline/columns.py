"""Tables of plain text: columns as wide as their widest cell, the first line a header where one is given."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> list[str]:
    """One line per row, cells aligned (numbers to the right), no blanks at the end; no line where there are no rows."""
    if not rows:
        return []
    lines = [[str(cell) for cell in row] for row in rows]
    if header:
        lines.insert(0, list(header))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(isinstance(row[i], int) or row[i] in ("", "-") for row in rows) for i in range(len(widths))]
    return ["  ".join(_fill(*cell) for cell in zip(line, widths, right, strict=True)).rstrip() for line in lines]


def _fill(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
