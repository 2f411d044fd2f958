"""The nouns of a dataset: a video, a partition of videos with ordered classes, a split with its hash, a protocol, episodes as integers.

Letters: E episodes, W way, S support clips of an episode (way x shot), Q query clips (way x query), U unlabelled clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar_cache.canonical import digest_plain
from fsar_cache.errors import UsageError, unknown

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Video:
    """One labelled clip: a file, or the span [start, end) in seconds of one. `path` is relative to the split's root.

    source: the recording it was cut from, where the dataset tells: clips of one recording share it, also across datasets ("" unknown).
    segment: which stretch of it, where a file alone doesn't tell: clips of one segment are the same pictures, whatever files hold them.
    """

    id: str
    label: str
    path: str
    start: float | None = None
    end: float | None = None
    source: str = ""
    segment: str = ""


@dataclass(frozen=True)
class Part:
    """One partition: class names in order, videos in order."""

    name: str
    classes: tuple[str, ...]
    videos: tuple[Video, ...]

    @cached_property
    def labels(self) -> Ints:
        """Class index of every video, int64 [len(videos)]."""
        rank = {name: i for i, name in enumerate(self.classes)}
        return np.array([rank[v.label] for v in self.videos], np.int64)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the videos, in order."""
        return tuple(v.id for v in self.videos)


@dataclass(frozen=True)
class Split:
    """A dataset cut into partitions ("train", "val", "test", or "all"); ids are unique over all of them.

    flips: whether a mirrored clip keeps its class, as the dataset says; False where nobody knows. dataset: the dataset whose clips these
    are, where several splits cut up the same one and share what is extracted of it ("": this split is a dataset of its own).
    """

    name: str
    root: Path
    parts: Mapping[str, Part]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    flips: bool = False
    dataset: str = ""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for part in self.parts.values():
            for video in part.videos:
                if video.id in seen:
                    raise UsageError(
                        f"dataset {self.name}: the id {video.id!r} stands twice",
                        hint="give every clip an id of its own",
                    )
                seen.add(video.id)

    @cached_property
    def hash(self) -> str:
        """Content hash over classes, ids, labels and spans of every partition; paths and provenance don't count.

        Clips of a `dataset` have ids that mean the same span wherever they lie, so that a clip cut to a file of its own is the same clip.
        """
        told = {n: [p.classes, [(v.id, v.label, v.start, v.end) for v in p.videos]] for n, p in self.parts.items()}
        if self.dataset:
            told = {n: [p.classes, [(v.id, v.label) for v in p.videos]] for n, p in self.parts.items()}
        return digest_plain(told, 16)

    @property
    def home(self) -> str:
        """The name under which its clips are stored: the dataset's, else its own."""
        return self.dataset or self.name

    def part(self, name: str) -> Part:
        """The partition called `name`; UsageError with the nearest name where there is none."""
        if name not in self.parts:
            error = unknown(f"partition of {self.name}", name, self.parts)
            other = f"name one that is there: --set target.part={next(iter(self.parts))}, or source.part"
            raise UsageError(error.message, hint=f"{error.hint} Or {other}" if error.hint else other)
        return self.parts[name]


@dataclass(frozen=True)
class Protocol:
    """How episodes are drawn: way, shots and queries per class, unlabelled target clips per episode, number of episodes."""

    way: int = 5
    shot: int = 1
    query: int = 1
    episodes: int = 1000
    unlabelled: int = 0

    def __post_init__(self) -> None:
        for name in ("way", "shot", "query", "episodes"):
            if getattr(self, name) < (2 if name == "way" else 1):
                raise ValueError(f"{name} must be at least {2 if name == 'way' else 1}, got {getattr(self, name)}")
        if self.unlabelled < 0:
            raise ValueError(f"unlabelled must not be negative, got {self.unlabelled}")


@dataclass(frozen=True)
class Episodes:
    """E episodes as integers: positions in the partition's videos, and labels in 0..W-1.

    index [E]; classes [E, W] (rows of part.classes; label w means classes[:, w]); support and support_labels [E, S];
    query and query_labels [E, Q]; unlabelled [E, U], positions in the unlabelled partition. All int64.
    """

    index: Ints
    classes: Ints
    support: Ints
    support_labels: Ints
    query: Ints
    query_labels: Ints
    unlabelled: Ints

    def __len__(self) -> int:
        return len(self.index)
