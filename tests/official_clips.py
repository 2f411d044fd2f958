"""What the made-up datasets are made of: tiny encoded clips whose colour tells their class, and files laid out, damaged or left out."""

from __future__ import annotations

import atexit
import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
from videos import Pixels, write

from splits.published.known import known

SIZE = (64, 64)
FRAMES = 20
CODECS = {"mp4": ("libx264", 25), "mkv": ("libx264", 25), "webm": ("libvpx-vp9", 12), "avi": ("mpeg4", 25)}
"""Container -> codec and frames per second."""

TAKES = 3
"""How many different clips there are of one look; further ones are the same again."""


@dataclass(frozen=True)
class Clip:
    """One clip that a maker invented.

    partition: the owners'. entry: its name in a published list, without folder and extension. file: where its file lies, or would lie, in
    the dataset's folder. annotation: RareAct's. v2: its class in Diving48's second annotation, "" where that has it not.
    """

    id: str
    label: str
    partition: str
    entry: str
    file: str
    start: float | None = None
    end: float | None = None
    annotation: int = 1
    v2: str = ""


@dataclass(frozen=True)
class World:
    """A dataset in its official layout. damaged, missing: ids; extras: files planted that are no clips, relative to the root."""

    name: str
    root: Path
    clips: tuple[Clip, ...]
    damaged: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    extras: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def clip(self, id: str) -> Clip:
        return next(c for c in self.clips if c.id == id)

    def part(self, split: str, part: str) -> dict[str, str]:
        """Id -> class of the clips that the partition of a published split should hold."""
        facts = known(split)
        v2 = facts.annotation == "v2"
        clips = [replace(c, label=c.v2) for c in self.clips if c.v2] if v2 else list(self.clips)
        if facts.rule == "official":
            return {c.id: c.label for c in clips if c.partition == part}
        classes = known(facts.base or split).parts[part].classes
        clips = [c for c in clips if c.label in classes and (facts.base is None or c.annotation == 1)]
        if facts.rule == "otam":
            clips = [c for c in clips if c.partition == ("train" if part == "train" else "val")]
        return {c.id: c.label for c in clips}

    def parts(self, split: str) -> dict[str, dict[str, str]]:
        """Partition -> id -> class, partitions without a clip left out."""
        made = {part: self.part(split, part) for part in known(split).parts}
        return {part: ids for part, ids in made.items() if ids}


def chosen(split: str, ways: int) -> dict[str, tuple[str, ...]]:
    """The first `ways` classes of every partition of a published split."""
    return {name: part.classes[:ways] for name, part in known(split).parts.items()}


@cache
def _pool() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fsar-official-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def painted(look: int, take: int, number: int, width: int, height: int) -> Pixels:
    """Frame `number` of a clip [height, width, 3]: its look is a colour and a grating, its take where the grating starts."""
    y, x = np.mgrid[:height, :width]
    colour = np.array([[220, 60, 60], [60, 200, 70], [70, 80, 230], [210, 200, 60], [190, 70, 200], [70, 200, 200]])
    wave = 0.6 + 0.4 * np.sin((x * (look % 3 + 1) + y * (look % 2) * 2) / 5 + number / 3 + 2.1 * take)
    picture: Pixels = np.clip(colour[look % len(colour)] * wave[..., None], 0, 255).astype(np.uint8)
    return picture


@cache
def content(container: str, look: int, take: int) -> Path:
    """A clip of FRAMES frames, made once per process."""
    codec, rate = CODECS[container]
    path = _pool() / f"{look}-{take % TAKES}.{container}"
    return write(path, codec, FRAMES, rate=rate, size=SIZE, paint=lambda i, w, h: painted(look, take % TAKES, i, w, h))


@cache
def recording(looks: tuple[int, ...], take: int, seconds: int = 10, rate: int = 2) -> Path:
    """A long mp4 that changes its look every `seconds`, made once per process."""
    span = seconds * rate
    path = _pool() / f"recording-{'-'.join(map(str, looks))}-{take % TAKES}.mp4"
    return write(
        path,
        frames=span * len(looks),
        rate=rate,
        size=SIZE,
        paint=lambda i, w, h: painted(looks[i // span], take % TAKES, i, w, h),
    )


def put(source: Path, target: Path) -> None:
    """The same content at another place, without copying it where that can be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def put_frames(source: Path, folder: Path) -> None:
    """The frames of a clip as <8 digits>.jpg."""
    folder.mkdir(parents=True)
    with av.open(source) as file:
        for number, frame in enumerate(file.decode(video=0), 1):
            frame.to_image().save(folder / f"{number:08d}.jpg", quality=95)


Damage = Literal["cut", "garbage", "empty"]


def spoil(path: Path, how: Damage) -> None:
    """Put a broken file in the place of a good one (which may be linked elsewhere): its first tenth, noise, or nothing."""
    data = path.read_bytes()
    path.unlink()
    noise = np.random.default_rng(len(data)).integers(0, 256, len(data), np.uint8).tobytes()
    path.write_bytes({"cut": data[: len(data) // 10], "garbage": noise, "empty": b""}[how])


def spread(names: Iterable[str], missing: int, damaged: int) -> tuple[list[str], list[str]]:
    """Names to leave out and names to damage, from all over the list, none twice."""
    rest = list(dict.fromkeys(names))
    picked: list[str] = []
    for i in range(missing + damaged):
        picked.append(rest.pop((5 * i + 2) % len(rest)))
    return picked[:missing], picked[missing:]


def spoil_all(root: Path, files: Iterable[str]) -> None:
    kinds: tuple[Damage, ...] = ("cut", "garbage", "empty")
    for i, name in enumerate(files):
        spoil(root / name, kinds[i % len(kinds)])


def noted(notes: tuple[str, ...], *words: str) -> bool:
    """Whether one note has all these words."""
    return any(all(word in note for word in words) for note in notes)


def plant(root: Path, beside: str, container: str) -> tuple[str, ...]:
    """Files that are no clips of any dataset, in the root and in the folder of videos `beside`."""
    inner = f"{beside}/" if beside else ""
    names = (
        "README.txt",
        ".DS_Store",
        f"{inner}thumbnail.jpg",
        f"{inner}._hidden.{container}",
        f"{inner}my holiday.{container}",
    )
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no clip\n")
    (root / names[-1]).unlink()
    put(content(container, 0, 0), root / names[-1])
    return names


def youtube(*words: object) -> str:
    """An invented id of 11 characters; some begin with - or _."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return ("-", "_", "", "")[digest[-1] % 4] + base64.urlsafe_b64encode(digest).decode()[: 11 - (digest[-1] % 4 < 2)]


def finish(world: World, missing: int, damaged: int, beside: str, container: str) -> World:
    """Take files away, break others, plant what is no clip."""
    gone, broken = spread((c.file for c in world.clips), missing, damaged)
    for name in gone:
        (world.root / name).unlink()
    spoil_all(world.root, broken)
    return replace(
        world,
        missing=frozenset(c.id for c in world.clips if c.file in gone),
        damaged=frozenset(c.id for c in world.clips if c.file in broken),
        extras=plant(world.root, beside, container),
    )


def numbered(split: str, ways: int, clips: int) -> Iterator[tuple[str, str, int, int]]:
    """Partition, class, the class's number in the partition, number of the clip: for every clip wanted."""
    for part, classes in chosen(split, ways).items():
        for look, label in enumerate(classes):
            yield from ((part, label, look, i) for i in range(clips))
