"""What a training saw, kept in its run's folder, so that an evaluation compares with it without opening that data again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsar_cache.draws import U64
from fsar_cache.errors import IntegrityError
from fsar_cache.files import read_json, write_json
from pipeline.domains import Used, used
from pipeline.recipe import Recipe
from pipeline.unseen import VALIDATION, trained_on
from splits.overlap import located

SEEN = "seen.json"
"""The file in the run's folder."""
_FORMAT = 1


@dataclass(frozen=True)
class Seen:
    """A partition that a training read; setting: the one that names it; home: the dataset whose clips they are; classes by name.

    clips, places, sources: their ids, files with time spans, recordings, as `digests`.
    """

    setting: str
    name: str
    home: str
    classes: tuple[str, ...]
    clips: U64
    places: U64
    sources: U64

    def same_clips(self, other: Seen) -> bool:
        """Whether both are the same clips of one dataset, of the same classes."""
        return (self.home, self.classes) == (other.home, other.classes) and np.array_equal(self.clips, other.clips)


def digests(texts: Iterable[str]) -> U64:
    """The first 8 bytes of the SHA-256 of each text, sorted, each once: uint64 [n]."""
    return np.unique(digests_of(list(texts)))


def digests_of(texts: Sequence[str]) -> U64:
    """The digest of each text, in the order given: uint64 [n]."""
    raw = b"".join(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8] for text in texts)
    return np.frombuffer(raw, "<u8").astype(np.uint64)


def place_text(place: tuple[str, float | None, float | None]) -> str:
    """A clip's place (see `splits.overlap.located`) as the text that is digested."""
    path, start, end = place
    return f"{path}\0{start}\0{end}"


def seen_by(recipe: Recipe) -> list[Seen]:
    """What training `recipe` reads, without the clips that it excludes; last what its checkpoints are chosen by, if they are.

    A partition that another setting names too is there once.
    """
    parts = trained_on(recipe)
    if recipe.train.validate_every:
        parts[VALIDATION] = used(recipe.source, recipe.train.validate_part)
    made: list[Seen] = []
    for setting, each in parts.items():
        seen = _seen(setting, each)
        if not any(seen.same_clips(other) for other in made):
            made.append(seen)
    return made


def _seen(setting: str, each: Used) -> Seen:
    return Seen(
        setting,
        str(each),
        each.split.home,
        each.part.classes,
        digests(each.part.ids),
        digests(map(place_text, located(each.split.root, each.part.videos))),
        digests(video.source for video in each.part.videos if video.source),
    )


def write_seen(folder: Path, seen: Sequence[Seen]) -> None:
    """Keep what a training saw, unless the folder has it."""
    if (folder / SEEN).exists():
        return
    write_json(folder / SEEN, {"format": _FORMAT, "seen": [_packed(each) for each in seen]})


def read_seen(folder: Path) -> list[Seen] | None:
    """What `write_seen` kept; None for a run of a version that kept nothing, IntegrityError where it can't be read."""
    path = folder / SEEN
    if not path.exists():
        return None
    held = read_json(path)
    try:
        if held["format"] != _FORMAT:
            raise ValueError(f"format {held['format']!r}")
        return [_unpacked(each) for each in held["seen"]]
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} does not say what a training saw: {error}") from error


def _packed(each: Seen) -> dict[str, Any]:
    return {
        name: base64.b64encode(value.astype("<u8").tobytes()).decode() if isinstance(value, np.ndarray) else value
        for name, value in asdict(each).items()
    }


def _unpacked(held: dict[str, Any]) -> Seen:
    def numbers(name: str) -> U64:
        return np.frombuffer(base64.b64decode(held[name], validate=True), "<u8").astype(np.uint64)

    return Seen(
        held["setting"],
        held["name"],
        held["home"],
        tuple(held["classes"]),
        *(numbers(name) for name in ("clips", "places", "sources")),
    )
