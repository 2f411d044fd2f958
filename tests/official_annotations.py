"""The owners' annotation files of the six datasets, about clips that were made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from official_clips import Clip

from splits.official.catalog import official


def write_kinetics(folder: Path, clips: list[Clip]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for i, clip in enumerate(c for c in clips if c.partition == part):
            label = f'"{clip.label}"' if i % 2 else clip.label
            start, end = (int(text) for text in clip.entry[12:].split("_"))
            lines.append(f"{label},{clip.id},{start},{end},{part}")
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")


def write_ssv2(folder: Path, prefix: str, clips: list[Clip]) -> None:
    """labels.json with all classes, train.json and validation.json about the clips, test.json with other ids only."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Any] = {
        "labels": {name: str(i) for i, name in enumerate(official("ssv2").classes)},
        "train": [_record(c) for c in clips if c.partition == "train"],
        "validation": [_record(c) for c in clips if c.partition == "val"],
        "test": [{"id": str(200000 + i)} for i in range(3)],
    }
    for name, value in tables.items():
        (folder / f"{prefix}{name}.json").write_text(json.dumps(value, indent=1))


def template_of(label: str) -> str:
    """A class's name with its slots in brackets, as the owners' records spell it."""
    return re.sub(r"[Ss]omething soft|[Ss]omething|somewhere|number of|part", lambda found: f"[{found[0]}]", label)


def _record(clip: Clip) -> dict[str, Any]:
    template = template_of(clip.label)
    placeholders = ["a blue pen"] * template.count("[")
    return {
        "id": clip.id,
        "label": re.sub(r"\[.*?\]", "a blue pen", template).lower(),
        "template": template,
        "placeholders": placeholders,
    }


def write_ucf101(folder: Path, clips: list[Clip]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = official("ucf101").classes
    lists = {"classInd.txt": [f"{i} {name}" for i, name in enumerate(names, 1)]}
    for split in (1, 2, 3):
        lists |= {f"trainlist0{split}.txt": [], f"testlist0{split}.txt": []}
        tested = range(7 * split - 6, 7 * split + 1)
        for clip in clips:
            line = f"{clip.label}/{clip.id}.avi"
            if int(clip.id[-6:-4]) in tested:
                lists[f"testlist0{split}.txt"].append(line)
            else:
                lists[f"trainlist0{split}.txt"].append(f"{line} {names.index(clip.label) + 1}")
    for name, lines in lists.items():
        (folder / name).write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def write_hmdb51(folder: Path, clips: list[Clip]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = {"unused": 0, "train": 1, "test": 2}
    for label in official("hmdb51").classes:
        for split in (1, 2, 3):
            mine = [c for c in clips if c.label == label]
            lines = [f"{c.id}.avi {(number[c.partition] + split - 1) % 3} \n" for c in mine]
            (folder / f"{label}_test_split{split}.txt").write_text("".join(lines))


def write_diving48(root: Path, pattern: str, rows: dict[str, tuple[str, str]]) -> None:
    names = official("diving48").classes
    for part in ("train", "test"):
        listed = [
            {"vid_name": id, "label": names.index(label), "start_frame": 0, "end_frame": 20}
            for id, (partition, label) in rows.items()
            if partition == part
        ]
        (root / pattern.format(part)).write_text(json.dumps(listed))


def write_vocabulary(root: Path) -> None:
    """Diving48's classes as arrays of four words."""
    (root / "Diving48_vocab.json").write_text(json.dumps([name.split("+") for name in official("diving48").classes]))


def write_rareact(root: Path, clips: list[Clip], header: bool) -> None:
    names = official("rareact").classes
    lines = []
    for clip in clips:
        verb, _, noun = clip.label.partition(" ")
        values = (
            clip.id,
            clip.entry[:11],
            int(clip.start or 0),
            int(clip.end or 0),
            names.index(clip.label),
            verb,
            noun,
        )
        lines.append(",".join(map(str, (*values, clip.annotation))))
    with_header = "\n".join(["id,video_id,start,end,class_id,verb,noun,annotation", *lines, ""])
    text = with_header if header else "\r\n".join(lines)
    (root / ("rareact.csv" if header else "rareact.txt")).write_bytes(text.encode())
