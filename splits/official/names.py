"""What the name of a clip says: its id, its class, the recording it was cut from. Nothing here looks at a disk.

A clip has one id whatever list names it: Kinetics the 11 characters of YouTube (names carry a time range or none), Something-Something the
number, UCF101 and HMDB51 and Diving48 the file's stem, RareAct the number of its row in the official table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

YOUTUBE = r"[A-Za-z0-9_-]{11}"
_KINETICS = re.compile(rf"({YOUTUBE})(?:_(\d{{6}})_(\d{{6}}))?", re.ASCII)
_SSV2 = re.compile(r"[1-9]\d{0,6}", re.ASCII)
_UCF101 = re.compile(r"v_([A-Za-z]+)_g(\d\d)_c(\d\d)", re.ASCII)
_HMDB51 = re.compile(r"([^/\\\s.]+)_([fulh]_(?:cm|nm)_np\d{1,2}_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+)", re.ASCII)
_DIVING48 = re.compile(rf"({YOUTUBE})_\d{{5}}", re.ASCII)
_SEGMENT = re.compile(rf"({YOUTUBE})_(\d{{1,5}})_(\d{{1,5}})", re.ASCII)
_ROW = re.compile(r"\d{1,4}", re.ASCII)


@dataclass(frozen=True)
class Naming:
    """How a dataset names its clips.

    id_of: the clip's id from a file's stem or an entry of a list, None for what is no name of this dataset. source_of: the recording that a
    clip with this id is from, "" where the name doesn't tell; ids of YouTube are the same in every dataset.
    """

    id_of: Callable[[str], str | None]
    source_of: Callable[[str], str]


def youtube_span(name: str) -> tuple[str, int, int] | None:
    """Id, start and end in seconds of a Kinetics name with a time range; None for any other name."""
    found = _KINETICS.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found and found[2] else None


def segment(name: str) -> tuple[str, int, int] | None:
    """YouTube id, start and end in seconds of a RareAct name <video id>_<start>_<end>; None for any other name."""
    found = _SEGMENT.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found else None


def ucf_class(name: str) -> str | None:
    """The class, as files spell it, in a UCF101 name (HandStandPushups where the folder has HandstandPushups)."""
    found = _UCF101.fullmatch(name)
    return found[1] if found else None


def hmdb_before_tail(name: str) -> str | None:
    """An HMDB51 name without what follows the class: "<free text>_<class>"; None for any other name."""
    found = _HMDB51.fullmatch(name)
    return found[1] if found else None


def _kinetics(name: str) -> str | None:
    found = _KINETICS.fullmatch(name)
    return found[1] if found else None


def _ucf101(name: str) -> str | None:
    """File names have HandStandPushups; some copies spell it like the folder."""
    if not _UCF101.fullmatch(name):
        return None
    return name.replace("v_HandstandPushups_", "v_HandStandPushups_")


def _rareact(name: str) -> str | None:
    """A row's number without leading zeros, or <video id>_<start>_<end>, which is a row only together with a class."""
    if _ROW.fullmatch(name):
        return str(int(name))
    return name if _SEGMENT.fullmatch(name) else None


def _group(pattern: re.Pattern[str]) -> Callable[[str], str]:
    """The first group of the pattern, "" where it doesn't match."""

    def source(name: str) -> str:
        found = pattern.fullmatch(name)
        return found[1] if found else ""

    return source


def _ucf_group(name: str) -> str:
    return name.rpartition("_")[0]


NAMING: dict[str, Naming] = {
    "kinetics": Naming(_kinetics, lambda clip: clip[:11]),
    "ssv2": Naming(lambda name: name if _SSV2.fullmatch(name) else None, lambda clip: ""),
    "ucf101": Naming(_ucf101, _ucf_group),
    "hmdb51": Naming(lambda name: name if _HMDB51.fullmatch(name) else None, _group(_HMDB51)),
    "diving48": Naming(lambda name: name if _DIVING48.fullmatch(name) else None, _group(_DIVING48)),
    "rareact": Naming(_rareact, _group(_SEGMENT)),
}
"""Dataset -> how it names its clips."""
