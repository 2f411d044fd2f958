"""The row table of a store: which clip and view each row is, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A planned row: a clip (id, class, partition) and its view (0 is the evaluation view).

    origin: what the clip is cut from, as text (file name, size, time span; "" where that isn't known). A row that has features keeps
    its origin: the same id from another file or span is refused, because the stored features would be the old clip's.
    """

    id: str
    label: str
    partition: str
    view: int = 0
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row. status: "ok", "failed", or "absent": its clip was not in the dataset when its block was written.

    reason: why there are no features, "" when ok.

    decoded: frames a sequential decode gave (or the number known without decoding all); claimed: frames the container claims
    (-1 where it doesn't say); corrupt: frames the decoder flagged; duration: seconds.
    """

    status: str
    reason: str = ""
    decoded: int = -1
    claimed: int = -1
    corrupt: int = 0
    duration: float = -1.0
