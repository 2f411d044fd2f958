"""The datasets `synth-source`, `synth-target` and `synth-far`: what `fsar-cache synth` rendered under <videos>/synth/<domain>."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.files import read_json
from splits.datasets import DATASETS, GROUPS, Dataset, make_parts
from splits.types import Split, Video

_ABOUT = {
    "source": "rendered moving shapes, H.264 in mp4: classes with labels to train on",
    "target": "rendered moving shapes, VP9 in webm: other classes, another look",
    "far": "rendered moving shapes, MPEG-4 in avi: other classes, a look further away",
}


def load_synth(name: str, root: Path) -> Split:
    """The split of one rendered domain; `root` is the folder of videos, `name` is "synth-" and the domain.

    MissingError where the domain isn't rendered to its end, IntegrityError where the list of clips is damaged.
    """
    domain = name.removeprefix("synth-")
    folder = root / "synth" / domain
    if not (folder / "info.json").is_file():
        raise MissingError(
            f"dataset {name}: no rendered videos in {folder}", hint=f"fsar-cache synth --domain {domain}"
        )
    clips = []
    for number, line in enumerate(read_truth(folder), 1):
        values = [line.get(field) for field in ("partition", "id", "class", "path")]
        if not all(isinstance(v, str) and v for v in values):
            raise _damaged(folder, number, "no partition, id, class or path")
        partition, clip, label, path = map(str, values)
        clips.append((partition, Video(clip, label, path)))
    if not clips:
        raise _damaged(folder, 1, "no clips")
    return Split(name, folder, make_parts(clips), {"kind": "synth", "info": read_json(folder / "info.json")})


def read_truth(folder: Path) -> list[dict[str, Any]]:
    """The truth of every rendered clip of a domain's folder: id, class, path, partition, when, where and how the action happens."""
    try:
        text = (folder / "truth.jsonl").read_bytes()
    except OSError as error:
        raise MissingError(
            f"no list of clips {folder / 'truth.jsonl'}", hint=f"fsar-cache synth --domain {folder.name}"
        ) from error
    made: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise _damaged(folder, number, "not JSON") from error
        if not isinstance(value, dict):
            raise _damaged(folder, number, "not a JSON object")
        made.append(value)
    return made


def _damaged(folder: Path, number: int, why: str) -> IntegrityError:
    return IntegrityError(
        f"{folder / 'truth.jsonl'}, line {number}: {why}", hint=f"remove {folder}, then run: fsar-cache synth"
    )


for _name in GROUPS["synth"]:
    DATASETS.add(_name)(Dataset(load_synth, _ABOUT[_name.removeprefix("synth-")]))
