"""Small split lists in every published form, of clips that no published list has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

Clip = tuple[str, str]
"""(class, clip)"""
FORMS = ("A", "B", "B'", "C", "D", "E")


def youtube(i: int) -> str:
    """An id of eleven characters, with a dash and an underscore in it."""
    return f"-Zz_{i:07d}"


def kinetics(classes: Sequence[str], each: int = 3, start: int = 0) -> list[Clip]:
    """Clips of Kinetics with a time range, `each` of every class."""
    return [
        (name, f"{youtube(start + each * c + i)}_{i:06d}_{i + 10:06d}")
        for c, name in enumerate(classes)
        for i in range(each)
    ]


def hmdb(classes: Sequence[str], each: int = 3, start: int = 0) -> list[Clip]:
    """Clips of HMDB51 with all that may stand in their names."""
    return [(name, f"a-b_(c)#[{start + i}]&+;~@!_{name}_f_cm_np10_le_med_{i}") for name in classes for i in range(each)]


def ucf(classes: Sequence[str], each: int = 3, start: int = 1) -> list[Clip]:
    """Clips of UCF101."""
    spelled = {"HandstandPushups": "HandStandPushups"}
    return [(name, f"v_{spelled.get(name, name)}_g{start + i:02d}_c01") for name in classes for i in range(each)]


def diving(classes: Sequence[str], each: int = 3, start: int = 0) -> list[Clip]:
    """Clips of Diving48."""
    return [(name, f"{youtube(start + c)}_{i:05d}") for c, name in enumerate(classes) for i in range(each)]


def ssv2(classes: Sequence[str], each: int = 3, start: int = 900001) -> list[Clip]:
    """Clips of Something-Something."""
    return [(name, str(start + each * c + i)) for c, name in enumerate(classes) for i in range(each)]


def text(
    clips: Sequence[Clip], form: str, numbers: Sequence[int] | None = None, *, word: str = "train", ending: str = ".mp4"
) -> str:
    """The clips as a list in one form; numbers: of the classes in the order in which they come first, counted from 0 by default."""
    classes = list(dict.fromkeys(name for name, _ in clips))
    number = dict(zip(classes, numbers or range(len(classes)), strict=True))
    if form == "E":
        names = [f"/hd9/data/{clip}{ending}" for _, clip in clips]
        return json.dumps({"image_names": names, "image_labels": [number[name] for name, _ in clips]})
    line = {
        "A": lambda name, clip: f"{name}/{clip}",
        "B": lambda name, clip: f"{word}{number[name]}/{clip}",
        "B'": lambda name, clip: f"{number[name]}/{clip}",
        "C": lambda name, clip: f"{word}{number[name]}//videos/{name.replace(' ', '_')}/{clip}{ending}",
        "D": lambda name, clip: f"/hd9/some, data/{clip}{ending}, {number[name]}",
    }[form]
    return "".join(f"{line(name, clip)}\n" for name, clip in clips)


def write(path: Path, content: str | bytes) -> Path:
    """A file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
