"""Small datasets in the official layout of each of the six, with invented ids, real class names and the owners' annotation files.

Every maker writes below `videos` and returns the `World` it made. clips: how many of every class (and, for Something-Something, of every
official partition); ways: classes of every partition of the dataset's usual split; missing: files not written; damaged: files broken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from official_annotations import (
    write_diving48,
    write_hmdb51,
    write_kinetics,
    write_rareact,
    write_ssv2,
    write_ucf101,
    write_vocabulary,
)
from official_clips import (
    Clip,
    World,
    chosen,
    content,
    finish,
    numbered,
    put,
    put_frames,
    recording,
    spoil,
    youtube,
)

from splits.official.catalog import official


def make_kinetics(
    videos: Path,
    *,
    clips: int = 4,
    ways: int = 5,
    missing: int = 0,
    damaged: int = 0,
    nested: Literal["", "blanks", "underscores"] = "",
    ranges: bool = True,
    frames: bool = False,
    container: str = "mp4",
    suffix: str = "",
    replaced: int = 0,
    annotated: bool = True,
    folder: str = "kinetics",
) -> World:
    """Classes of kinetics100; even clips are in the official training part, odd ones in the validation part.

    nested: class folders, and how they spell blanks. ranges: whether names have the time range. frames: folders of JPEG frames,
    <class>/<clip>/<8 digits>.jpg, without train and val. suffix: what follows train and val in folder names ("_256"). replaced: clips whose
    file in train is broken and that lie in replacement/ as well.
    """
    root = videos / folder
    made: list[Clip] = []
    for _, label, look, i in numbered("kinetics100", ways, clips):
        id, part, start = youtube("kinetics", label, i), ("train", "val")[i % 2], (7 * i) % 300
        entry = f"{id}_{start:06d}_{start + 10:06d}"
        name = entry if ranges else id
        inner = {"": "", "blanks": f"{label}/", "underscores": f"{label.replace(' ', '_')}/"}[nested]
        file = f"{inner}{name}" if frames else f"{part}{suffix}/{inner}{name}.{container}"
        source = content("mp4" if frames else container, look, i)
        if frames:
            put_frames(source, root / file)
        else:
            put(source, root / file)
        made.append(Clip(id, label, part, entry, file))
    if annotated:
        write_kinetics(root / "annotations", made)
    world = World("kinetics", root, tuple(made))
    if not frames:
        world = finish(world, missing, damaged, f"train{suffix}", container)
    return _replace(world, replaced)


def _replace(world: World, count: int) -> World:
    """Break the first training clips that are whole, and lay whole ones into replacement/."""
    sound = [c for c in world.clips if c.partition == "train" and c.id not in world.missing | world.damaged]
    files = {}
    for clip in sound[:count]:
        file = f"replacement/replacement_for_corrupted_k400/{Path(clip.file).name}"
        put(content("mp4", 5, 0), world.root / file)
        spoil(world.root / clip.file, "garbage")
        files[clip.id] = file
    return replace(world, clips=tuple(replace(c, file=files.get(c.id, c.file)) for c in world.clips))


def make_ssv2(
    videos: Path,
    *,
    clips: int = 3,
    ways: int = 5,
    missing: int = 0,
    damaged: int = 0,
    container: str = "webm",
    inner: str = "20bn-something-something-v2",
    labels: str = "labels",
    prefix: str = "",
    folder: str = "ssv2",
) -> World:
    """Classes of ssv2-full, each with `clips` in train.json and as many in validation.json. prefix: of the annotation's names."""
    root, number = videos / folder, 1
    made: list[Clip] = []
    for _, label, look, i in numbered("ssv2-full", ways, 2 * clips):
        file = f"{inner}/{number}.{container}".lstrip("/")
        made.append(Clip(str(number), label, "train" if i < clips else "val", str(number), file))
        put(content(container, look, i), root / file)
        number += 7 if number < 1000 else 1009
    write_ssv2(root / labels, prefix, made)
    return finish(World("ssv2", root, tuple(made)), missing, damaged, inner, container)


def make_ucf101(
    videos: Path,
    *,
    clips: int = 4,
    ways: int = 5,
    missing: int = 0,
    damaged: int = 0,
    container: str = "avi",
    inner: str = "UCF-101",
    flat: bool = False,
    spelt: str = "HandstandPushups",
    annotated: bool = True,
    folder: str = "ucf101",
) -> World:
    """Classes of ucf101; clip i is of group 1, 8, 15, 22, 2, 9, ...: groups 1-7 are tested in split 1, 8-14 in 2, 15-21 in 3.

    spelt: the name of the folder of HandstandPushups, whose files say HandStandPushups.
    """
    root = videos / folder
    made: list[Clip] = []
    for _, label, look, i in numbered("ucf101", ways, clips):
        group = i % 4 * 7 + 1 + i // 4
        name = f"v_{label.replace('Handstand', 'HandStand')}_g{group:02d}_c01" if label == "HandstandPushups" else ""
        name = name or f"v_{label}_g{group:02d}_c01"
        below = "" if flat else f"{spelt if label == 'HandstandPushups' else label}/"
        file = f"{inner}/{below}{name}.{container}".lstrip("/")
        put(content(container, look, i), root / file)
        made.append(Clip(name, label, "test" if group <= 7 else "train", name, file))
    if annotated:
        write_ucf101(root / "ucfTrainTestlist", made)
    beside = inner if flat else f"{inner}/{made[0].label}".lstrip("/")
    return finish(World("ucf101", root, tuple(made)), missing, damaged, beside, container)


HMDB_NAMES = ("#1_(best)_take_[HD]", "A&B_+_C;_D~E@F-G!", "Plain_clip", "--(x)--", "np3_goo_1")
"""Free text of file names: with every special character that there is, without any, and like a part of the tail."""


def make_hmdb51(
    videos: Path,
    *,
    clips: int = 4,
    ways: int = 5,
    missing: int = 0,
    damaged: int = 0,
    container: str = "avi",
    inner: str = "",
    flat: bool = False,
    cleaned: Literal["", "underscores", "deleted"] = "",
    colliding: bool = False,
    annotated: bool = True,
    folder: str = "hmdb51",
) -> World:
    """Classes of hmdb51, file names with special characters; `cleaned` says what a tool made of those on disk.

    colliding: the first class has two more clips whose names differ in special characters only. Cleaned, one file is left of the two, and
    nobody knows of which, so both count as missing.
    """
    root = videos / folder
    made: list[Clip] = []
    names = [
        (label, look, i, f"{HMDB_NAMES[i % len(HMDB_NAMES)]}") for _, label, look, i in numbered("hmdb51", ways, clips)
    ]
    if colliding:
        names += [(names[0][0], 0, 100, "Boom!_Clap"), (names[0][0], 0, 100, "Boom#_Clap")]
    for label, look, i, text in names:
        id = f"{text}_{label}_{'fulh'[i % 4]}_{('cm', 'nm')[i % 2]}_np{(1, 2, 10)[i % 3]}_fr_{('goo', 'med', 'bad')[i % 3]}_{i}"
        stem = re.sub(r"[^A-Za-z0-9_]", {"": r"\g<0>", "underscores": "_", "deleted": ""}[cleaned], id)
        file = f"{inner}/{'' if flat else label + '/'}{stem}.{container}".lstrip("/")
        if not (root / file).exists():
            put(content(container, look, i), root / file)
        part = ("train", "train", "test", "unused")[i % 4]
        made.append(Clip(id, label, part, id, file))
    if annotated:
        write_hmdb51(root / "testTrainMulti_7030_splits", made)
    beside = inner if flat else f"{inner}/{made[0].label}".lstrip("/")
    world = finish(World("hmdb51", root, tuple(made)), missing, damaged, beside, container)
    unclear = frozenset(c.id for c in made[-2:]) if colliding and cleaned else frozenset()
    return replace(world, missing=world.missing | unclear)


def make_diving48(
    videos: Path,
    *,
    clips: int = 4,
    ways: int = 5,
    missing: int = 0,
    damaged: int = 0,
    container: str = "mp4",
    inner: str = "rgb",
    v1: bool = True,
    v2: bool = True,
    moved: int = 2,
    folder: str = "diving48",
) -> World:
    """Classes of diving48-tamt; the first half of each class is in the training file.

    V2 gives the first `moved` clips the label of the class after theirs and lacks the last clip.
    """
    root = videos / folder
    made: list[Clip] = []
    names = official("diving48").classes
    for _, label, look, i in numbered("diving48-tamt", ways, clips):
        part = "train" if i < (clips + 1) // 2 else "test"
        id = f"{youtube('diving48', part, look % 2)}_{len(made):05d}"
        put(content(container, look, i), root / inner / f"{id}.{container}")
        other = names[names.index(label) + 1] if len(made) < moved else label
        made.append(Clip(id, label, part, id, f"{inner}/{id}.{container}".lstrip("/"), v2=other))
    made[-1] = replace(made[-1], v2="")
    if v1:
        write_diving48(root, "Diving48_{}.json", {c.id: (c.partition, c.label) for c in made})
    if v2:
        write_diving48(root, "Diving48_V2_{}.json", {c.id: (c.partition, c.v2) for c in made if c.v2})
    write_vocabulary(root)
    return finish(World("diving48", root, tuple(made)), missing, damaged, inner, container)


ANNOTATIONS = (1, 1, 3, 0, 4, 2)
"""Annotation of a class's clips in turn."""


def make_rareact(
    videos: Path,
    *,
    clips: int = 4,
    ways: int = 5,
    missing: int = 0,
    damaged: int = 0,
    cut: Literal["", "rows", "segments"] = "",
    header: bool = True,
    repeated: int = 1,
    inner: str = "",
    folder: str = "rareact",
) -> World:
    """Classes of rareact-tamt. Recording i of a partition shows its classes one after another, 10 s each, from second 0 on.

    missing, damaged: recordings (with `cut`, clips). cut: clips cut already, named by row or by segment, and no recordings. header: False
    is the headerless rareact.txt with CRLF and no last line end. repeated: rows that name the first segments once more under their class.
    """
    root = videos / folder
    made: list[Clip] = []
    for part, classes in chosen("rareact-tamt", ways).items():
        for i in range(clips):
            video = youtube("rareact", part, i)
            for look, label in enumerate(classes):
                made.append(_segment(str(len(made)), label, video, 10 * look, ANNOTATIONS[i % 6], cut, inner))
                if cut:
                    put(content("mp4", look, i), root / made[-1].file)
            if not cut:
                put(recording(tuple(range(len(classes))), i), root / made[-1].file)
    for i in range(repeated):
        again = _segment(str(len(made)), made[i].label, made[i].entry[:11], int(made[i].start or 0), 3, cut, inner)
        if cut == "rows":
            put(root / made[i].file, root / again.file)
        made.append(again)
    root.mkdir(parents=True, exist_ok=True)
    write_rareact(root, made, header)
    clips_made = tuple(replace(c, start=None, end=None) for c in made) if cut else tuple(made)
    return finish(World("rareact", root, clips_made), missing, damaged, inner, "mp4")


def _segment(row: str, label: str, video: str, start: int, annotation: int, cut: str, inner: str) -> Clip:
    entry = f"{video}_{start}_{start + 10}"
    stem = {"": video, "rows": row, "segments": entry}[cut]
    file = f"{inner}/{stem}.mp4".lstrip("/")
    return Clip(row, label, "all", entry, file, float(start), float(start + 10), annotation)


MAKERS: dict[str, Callable[..., World]] = {
    "kinetics": make_kinetics,
    "ssv2": make_ssv2,
    "ucf101": make_ucf101,
    "hmdb51": make_hmdb51,
    "diving48": make_diving48,
    "rareact": make_rareact,
}
"""Dataset -> its maker; all take clips, ways, missing and damaged."""
