"""What happens in the synthetic world: motions as classes, which domain shows which, and the truth of every clip.

An actor has six properties, each between 0 and 1. A motion changes two of them one after the other, so its name is two verbs:
"grow-split" grows, then splits. Played backwards it is another class, "merge-shrink", that visits the same poses equally long; only
the order tells the two apart. When, how fast and where it happens is drawn alike for all classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar_cache.canonical import digest
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError, unknown

WORLD = 1
"""Version of the rendered pixels; it goes into every draw and every file name, so raise it when anything visible changes."""

VERBS: tuple[tuple[str, str], ...] = (
    ("grow", "shrink"),
    ("split", "merge"),
    ("stretch", "squeeze"),
    ("topple", "rise"),
    ("bloom", "wilt"),
    ("open", "close"),
)
"""Per property the verb that takes it from 0 to 1 and the verb that takes it back."""
SIZE, SPLIT, STRETCH, TURN, BLOOM, OPEN = range(len(VERBS))

SHORTEST, LONGEST = 2.0, 2.8
"""Seconds of a clip."""
NOMINAL = 1.4
"""Seconds of an action at speed 1."""
SLOWEST, FASTEST = 0.8, 1.5
REST = 0.05
"""Seconds, at least, before and after the action."""


@dataclass(frozen=True)
class Motion:
    """Two changes in a row: of property `first` to the value `first_to` (0 or 1), then of `second` to `second_to`."""

    first: int
    first_to: int
    second: int
    second_to: int

    @property
    def name(self) -> str:
        """The two verbs, e.g. "grow-split"."""
        return f"{VERBS[self.first][1 - self.first_to]}-{VERBS[self.second][1 - self.second_to]}"

    @property
    def reverse(self) -> Motion:
        """The same motion played backwards."""
        return Motion(self.second, 1 - self.second_to, self.first, 1 - self.first_to)

    def poses(self, progress: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
        """Poses [n, 6] at `progress` [n] (0 before the action, 1 after it); `rest` [6] gives the properties that stay as they are."""
        made = np.tile(rest, (len(progress), 1))
        for half, (which, to) in enumerate(((self.first, self.first_to), (self.second, self.second_to))):
            part = np.clip(2 * progress - half, 0.0, 1.0)
            eased = part * part * (3 - 2 * part)
            made[:, which] = eased if to else 1 - eased
        return made


def motion(name: str) -> Motion:
    """The motion with this name; UsageError where the verbs are unknown or change the same property twice."""
    known = {verb: (which, 1 - down) for which, pair in enumerate(VERBS) for down, verb in enumerate(pair)}
    verbs = name.split("-")
    for verb in verbs:
        if verb not in known:
            raise unknown("verb", verb, known)
    if len(verbs) != 2 or known[verbs[0]][0] == known[verbs[1]][0]:
        raise UsageError(f"{name!r} is no motion: it takes two verbs of different properties", hint="e.g. grow-split")
    return Motion(*known[verbs[0]], *known[verbs[1]])


def _both(*names: str) -> tuple[str, ...]:
    """The named motions, each followed by its reversal."""
    return tuple(each.name for name in names for each in (motion(name), motion(name).reverse))


_ELSEWHERE = {
    "train": _both("grow-stretch", "split-rise", "open-bloom", "merge-close"),
    "test": _both("shrink-split", "bloom-topple", "stretch-merge", "open-topple", "grow-open", "wilt-squeeze"),
}
CLASSES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "source": {
        "train": _both(
            *("grow-split", "merge-stretch", "squeeze-topple", "topple-bloom", "bloom-close", "open-shrink"),
            *("stretch-shrink", "split-topple", "wilt-stretch", "rise-open", "bloom-grow", "close-split"),
        ),
        "test": _both("grow-topple", "stretch-open", "split-bloom"),
    },
    "target": _ELSEWHERE,
    "far": _ELSEWHERE,
}
"""Domain -> partition -> classes.

No class of "source" occurs elsewhere and none is in two partitions; "train" of the other domains is for use without labels.
"""


@dataclass(frozen=True)
class Clip:
    """The truth of one clip.

    start, duration: the action, in seconds; speed: NOMINAL / duration; x, y: the actor's place halfway through the action, as
    fractions of width and height; `frames` at `fps`; `path` is relative to the domain's folder.
    """

    id: str
    label: str
    path: str
    partition: str
    start: float
    duration: float
    speed: float
    x: float
    y: float
    fps: int
    frames: int
    reversed_of: str

    def line(self) -> dict[str, Any]:
        """The clip as a line of truth.jsonl."""
        return {"class" if key == "label" else key: getattr(self, key) for key in self.__dataclass_fields__}

    def progress(self) -> NDArray[np.float64]:
        """How far the action is at each frame, float64 [frames] in 0..1."""
        times = np.arange(self.frames) / self.fps
        return np.clip((times - self.start) / self.duration, 0.0, 1.0)


def clips(seed: int, domain: str, clips_per_class: int, *, fps: int, suffix: str) -> Iterator[Clip]:
    """The truth of all clips of a domain, partition by partition and class by class; a pure function of its arguments."""
    for partition, names in CLASSES[domain].items():
        for name in names:
            for number in range(clips_per_class):
                yield _clip((WORLD, seed, domain, name, number), partition, fps, suffix)


def _clip(key: tuple[int, int, str, str, int], partition: str, fps: int, suffix: str) -> Clip:
    rng = generator("synth-truth", *key)
    name = digest(key, 12)  # says nothing about the class
    frames = int(rng.integers(round(SHORTEST * fps), round(LONGEST * fps), endpoint=True))
    speed = float(np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST))))
    duration = NOMINAL / speed
    start = float(rng.uniform(REST, (frames - 1) / fps - duration - REST))
    x, y = rng.uniform(0.4, 0.6, 2)
    return Clip(
        id=name,
        label=key[3],
        path=f"clips/{name}{suffix}",
        partition=partition,
        start=round(start, 4),
        duration=round(duration, 4),
        speed=round(speed, 4),
        x=round(float(x), 4),
        y=round(float(y), 4),
        fps=fps,
        frames=frames,
        reversed_of=motion(key[3]).reverse.name,
    )
