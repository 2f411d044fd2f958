"""Lists in the grammars of the published ones, about the clips of a made-up dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from official_clips import Clip, World

from splits.published.known import known

Grammar = Literal["A", "B", "B'", "C", "D", "E"]
NAMES = {
    "A": "{part}list03.txt",
    "B": "{part}list07.txt",
    "B'": "{part}list03.txt",
    "C": "{part}_few_shot.txt",
    "D": "K100_{part}.txt",
    "E": "{tamt}.json",
}
TAMT = {"train": "base", "val": "val", "test": "novel"}


def write_lists(folder: Path, world: World, split: str, grammar: Grammar, *, crlf: bool = False) -> list[Path]:
    """One list per partition of the published split `split`, of those clips of the world that have its classes.

    Entries are numbered as in the published lists of that split: positions of the classes in the partition, or the official numbers (B').
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for part, facts in known(split).parts.items():
        clips = [c for c in world.clips if c.label in facts.classes]
        if not clips:
            continue
        scheme = "official" if grammar == "B'" else "index"
        number = dict(zip(facts.classes, facts.numbers.get(scheme, range(len(facts.classes))), strict=True))
        path = folder / NAMES[grammar].format(part=part, tamt=TAMT[part])
        text = (
            _json(clips, number) if grammar == "E" else "".join(f"{_line(c, part, number, grammar)}\n" for c in clips)
        )
        path.write_bytes((text.replace("\n", "\r\n") if crlf else text).encode())
        made.append(path)
    return made


def _line(clip: Clip, part: str, number: dict[str, int], grammar: Grammar) -> str:
    if grammar == "A":
        return f"{clip.label}/{clip.entry}"
    if grammar == "B":
        return f"{part}{number[clip.label]}/{clip.entry}"
    if grammar == "B'":
        return f"{number[clip.label]}/{clip.entry}"
    if grammar == "C":
        return f"{part}{number[clip.label]}//{_below(clip)}"
    return f"/home/somebody/data/{_below(clip)}, {number[clip.label]}"


def _below(clip: Clip) -> str:
    """A path of the authors; clips of RareAct are named by their row there."""
    name = clip.id if clip.id.isdecimal() else clip.entry
    return f"videos/{clip.label.replace(' ', '_')}/{name}{Path(clip.file).suffix or '.mp4'}"


def _json(clips: list[Clip], number: dict[str, int]) -> str:
    names = [f"/home/somebody/filelist/{_below(c)}" for c in clips]
    return json.dumps({"image_names": names, "image_labels": [number[c.label] for c in clips]})
