"""Datasets found on disk: every official layout, and those that users have instead, open to exactly the clips that were put there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from official_annotations import write_kinetics
from official_clips import World, content, noted, put
from official_worlds import MAKERS, make_diving48, make_hmdb51, make_kinetics, make_rareact, make_ssv2, make_ucf101

from fsar_cache.errors import MissingError
from splits.datasets import missing, open_split
from splits.frames import is_there
from splits.official.annotated import Annotated
from splits.official.catalog import official, official_names
from splits.official.disk import OnDisk, find
from splits.published.known import known

LAYOUTS: list[tuple[Callable[..., World], dict[str, Any]]] = [
    (make_kinetics, {}),
    (make_kinetics, {"nested": "blanks"}),
    (make_kinetics, {"nested": "underscores", "suffix": "_256", "ranges": False}),
    (make_kinetics, {"container": "mkv", "folder": "K400"}),
    (make_kinetics, {"container": "webm", "folder": "kinetics400", "ranges": False}),
    (make_kinetics, {"replaced": 2}),
    (make_kinetics, {"nested": "underscores", "frames": True, "ways": 2, "clips": 2}),
    (make_ssv2, {}),
    (make_ssv2, {"inner": "", "prefix": "something-something-v2-", "labels": ""}),
    (make_ssv2, {"container": "mp4", "folder": "Something-Something-V2", "inner": "videos"}),
    (make_ucf101, {}),
    (make_ucf101, {"inner": "", "folder": "UCF-101", "spelt": "HandStandPushups"}),
    (make_ucf101, {"flat": True, "container": "mp4"}),
    (make_hmdb51, {}),
    (make_hmdb51, {"inner": "hmdb51_org", "folder": "HMDB51"}),
    (make_hmdb51, {"flat": True, "container": "mp4", "inner": "videos"}),
    (make_hmdb51, {"cleaned": "underscores"}),
    (make_hmdb51, {"cleaned": "deleted"}),
    (make_hmdb51, {"colliding": True}),
    (make_hmdb51, {"colliding": True, "cleaned": "underscores"}),
    (make_hmdb51, {"colliding": True, "cleaned": "deleted"}),
    (make_diving48, {}),
    (make_diving48, {"v2": False, "inner": "videos"}),
    (make_diving48, {"inner": "", "folder": "Diving-48"}),
    (make_rareact, {}),
    (make_rareact, {"header": False, "inner": "videos"}),
    (make_rareact, {"cut": "rows"}),
    (make_rareact, {"cut": "segments", "inner": "rareact_cut"}),
]
WITHOUT: list[tuple[Callable[..., World], dict[str, Any]]] = [
    (make_kinetics, {"nested": "blanks"}),
    (make_kinetics, {"nested": "underscores", "suffix": "_256", "ranges": False}),
    (make_kinetics, {"nested": "underscores", "folder": "kinetics/compress"}),
    (make_ucf101, {}),
    (make_ucf101, {"flat": True, "inner": ""}),
    (make_hmdb51, {}),
    (make_hmdb51, {"flat": True}),
]
"""Layouts that tell class and partition without any annotation."""


def shown(value: Any) -> str:
    """A layout's name among the tests."""
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value.__name__)


def on_disk(world: World) -> OnDisk:
    """The dataset as the product finds it in the folder of videos."""
    return find(world.name, world.root.parent)


def gone(disk: OnDisk, found: Annotated) -> set[str]:
    """Ids whose file isn't there."""
    return {v.id for v in found.clips.values() if not is_there(disk.root / v.path)}


@pytest.mark.parametrize(("make", "options"), LAYOUTS, ids=shown)
def test_every_layout_opens_to_its_clips(make: Callable[..., World], options: dict[str, Any], tmp_path: Path) -> None:
    frames = options.get("frames", False)
    world = make(tmp_path, missing=1 - frames, damaged=1 - frames, **options)
    disk = on_disk(world)
    found = disk.annotation()
    assert {v.id: v.label for v in found.clips.values()} == {c.id: c.label for c in world.clips}
    wanted = {c.id: "all" if c.partition == "unused" else c.partition for c in world.clips}
    assert found.partitions == wanted
    assert gone(disk, found) == world.missing
    for clip in world.clips:
        video = found.clips[clip.id]
        if clip.id not in world.missing:
            assert (video.start, video.end) == (clip.start, clip.end)
            assert (disk.root / video.path).samefile(world.root / clip.file)
    if options.get("colliding") and options.get("cleaned"):
        assert noted(found.notes, "2 clips", "cleaned name", "Boom!_", "Boom#_")
    if not frames:
        assert noted(disk.notes, "1 video file", "my holiday")


@pytest.mark.parametrize(("make", "options"), WITHOUT, ids=shown)
def test_without_annotation_folders_and_names_tell(
    make: Callable[..., World], options: dict[str, Any], tmp_path: Path
) -> None:
    world = make(tmp_path, missing=1, damaged=1, annotated=False, **options)
    name = world.name
    found = find(name, tmp_path).annotation()
    there = {c.id: c for c in world.clips if c.id not in world.missing}
    assert {v.id: v.label for v in found.clips.values()} == {i: c.label for i, c in there.items()}
    if name == "kinetics":
        assert found.partitions == {i: c.partition for i, c in there.items()}


def test_a_class_that_begins_like_a_partition_is_none(tmp_path: Path) -> None:
    """Class folders without train and val: testifying is no test part."""
    for label in ("testifying", "training dog", "archery"):
        put(content("mp4", 0, 0), tmp_path / "kinetics" / label / f"{label[:6]:_<11}.mp4")
    found = find("kinetics", tmp_path).annotation()
    assert set(found.partitions.values()) == {"train"}
    assert len(found.clips) == 3


@pytest.mark.parametrize("name", official_names())
def test_the_default_split_has_the_clips_of_its_rule(name: str, tmp_path: Path) -> None:
    world = MAKERS[name](tmp_path, missing=1, damaged=1)
    split = open_split(name, tmp_path)
    assert split.name == known(official(name).default[0]).name
    assert split.home == name
    assert split.flips == official(name).flips
    got = {part.name: {v.id: v.label for v in part.videos} for part in split.parts.values()}
    assert got == world.parts(split.name)
    assert {v.id for v in missing(split)} == world.missing & {i for ids in got.values() for i in ids}
    for part in split.parts.values():
        assert list(part.classes) == sorted(part.classes)
        assert [(v.label, v.id) for v in part.videos] == sorted((v.label, v.id) for v in part.videos)


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("kinetics400", "kinetics"),
        ("kinetics364", "kinetics"),
        ("ssv2-official", "ssv2"),
        ("ucf101-cdfslv", "ucf101"),
        ("diving48-cdfslv", "diving48"),
        ("diving48-v2", "diving48"),
        ("rareact-official", "rareact"),
        ("rareact-tamt-positives", "rareact"),
    ],
)
def test_other_splits_have_the_clips_of_their_rules(split: str, name: str, tmp_path: Path) -> None:
    world = MAKERS[name](tmp_path, clips=5, ways=6)
    opened = open_split(split, tmp_path)
    got = {part.name: {v.id: v.label for v in part.videos} for part in opened.parts.values()}
    wanted = world.parts(split)
    if known(split).drop:
        wanted = {p: {i: c for i, c in ids.items() if c not in known(split).drop} for p, ids in wanted.items()}
    assert got == wanted
    assert opened.home == name


def test_ta2n_trains_on_the_validation_clips_too(tmp_path: Path) -> None:
    world = make_ssv2(tmp_path)
    plain, more = open_split("ssv2-full", tmp_path), open_split("ssv2-full-ta2n", tmp_path)
    train = known("ssv2-full").parts["train"].classes
    assert set(more.parts["train"].ids) == {c.id for c in world.clips if c.label in train}
    assert len(more.parts["train"].ids) == 2 * len(plain.parts["train"].ids)
    assert plain.parts["test"] == more.parts["test"]


def test_rareact_only_clips_that_show_their_class(tmp_path: Path) -> None:
    world = make_rareact(tmp_path, clips=6)
    opened = open_split("rareact-tamt-positives", tmp_path)
    ids = {i for part in opened.parts.values() for i in part.ids}
    assert ids == {c.id for c in world.clips if c.annotation == 1}


def test_diving_v2_alone_is_used_and_both_are_compared(tmp_path: Path) -> None:
    world = make_diving48(tmp_path / "both", moved=3)
    notes = find("diving48", tmp_path / "both").annotation().notes
    assert noted(notes, "3 clips", "V2", world.clips[0].id)
    assert noted(notes, "1 clip", "V2", world.clips[-1].id)
    alone = make_diving48(tmp_path / "alone", v1=False, moved=3)
    assert open_split("diving48", tmp_path / "alone").name == "diving48-v2"
    found = find("diving48", tmp_path / "alone").annotation()
    assert {v.id: v.label for v in found.clips.values()} == {c.id: c.v2 for c in alone.clips if c.v2}
    with pytest.raises(MissingError, match=r"Diving48_train\.json"):
        open_split("diving48-tamt", tmp_path / "alone")


def test_two_layouts_give_one_split(tmp_path: Path) -> None:
    """What the split is doesn't depend on how its files lie."""
    pairs: list[tuple[Callable[..., World], dict[str, Any], str]] = [
        (make_kinetics, {"nested": "underscores", "suffix": "_256", "ranges": False, "container": "mkv"}, "kinetics"),
        (make_ssv2, {"inner": "", "container": "mp4"}, "ssv2"),
        (make_hmdb51, {"cleaned": "underscores", "flat": True}, "hmdb51"),
        (make_ucf101, {"flat": True, "annotated": False}, "ucf101"),
        (make_diving48, {"inner": "", "v2": False}, "diving48"),
        (make_rareact, {"header": False, "inner": "videos"}, "rareact"),
        (make_rareact, {"cut": "rows"}, "rareact"),
    ]
    for i, (make, options, name) in enumerate(pairs):
        here, there = tmp_path / f"{i}a", tmp_path / f"{i}b"
        make(here)
        make(there, **options)
        assert open_split(name, here).hash == open_split(name, there).hash, (name, options)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in MAKERS), ("rareact", {"cut": "rows"})])
def test_missing_files_change_no_split(name: str, options: dict[str, str], tmp_path: Path) -> None:
    """Episodes hang on the split's hash, so it must not tell who lacks which files."""
    MAKERS[name](tmp_path / "whole", **options)
    MAKERS[name](tmp_path / "lacking", missing=2, damaged=1, **options)
    assert open_split(name, tmp_path / "whole").hash == open_split(name, tmp_path / "lacking").hash


def test_several_copies_are_reported_and_one_is_used(tmp_path: Path) -> None:
    make_ucf101(tmp_path, clips=1, ways=1)
    make_ucf101(tmp_path, clips=1, ways=1, folder="UCF-101", inner="")
    disk = find("ucf101", tmp_path)
    assert disk.root == tmp_path / "ucf101"
    assert noted(disk.notes, "several folders", str(tmp_path / "ucf101"), "UCF-101")
    clip = next(iter(disk.annotation().clips.values()))
    put(disk.root / clip.path, tmp_path / "ucf101" / "copy" / Path(clip.path).name)
    assert noted(find("ucf101", tmp_path).notes, "1 file", f"copy/{Path(clip.path).name}")


def test_a_file_that_comes_or_goes_is_seen(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=2, missing=1)
    lost = world.clip(next(iter(world.missing)))
    assert {v.id for v in missing(open_split("kinetics", tmp_path))} == {lost.id}
    put(content("mp4", 0, 0), world.root / lost.file)
    assert missing(open_split("kinetics", tmp_path)) == []
    (world.root / "annotations" / "val.csv").unlink()
    assert set(open_split("kinetics", tmp_path).parts) == {"train"}
    write_kinetics(world.root / "annotations", list(world.clips))
    assert set(open_split("kinetics", tmp_path).parts) == {"train", "val"}
    write_kinetics(world.root / "annotations", [c for c in world.clips if c.label == "busking"])
    os.utime(world.root / "annotations" / "train.csv", ns=(1, 1))
    assert open_split("kinetics", tmp_path).parts["train"].classes == ("busking",)


def test_annotation_may_lie_beside_the_folder(tmp_path: Path) -> None:
    world = make_ucf101(tmp_path)
    before = open_split("ucf101-cdfslv", tmp_path).hash
    shutil.move(world.root / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    assert open_split("ucf101-cdfslv", tmp_path).hash == before


def test_links_are_followed_and_broken_ones_are_missing(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path / "disk", clips=2)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "kinetics").symlink_to(world.root, target_is_directory=True)
    first = world.root / world.clips[0].file
    first.unlink()
    first.symlink_to(tmp_path / "nowhere.mp4")
    split = open_split("kinetics", tmp_path / "videos")
    assert {v.id for v in missing(split)} == {world.clips[0].id}


@pytest.mark.parametrize("name", official_names())
def test_nothing_there_says_what_is_expected_and_how_to_get_it(name: str, tmp_path: Path) -> None:
    for prepare in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(MissingError) as caught:
            open_split(name, prepare)
        said = str(caught.value)
        assert official(name).layout[0].split()[0] in said
        assert official(name).get[0] in said
    (tmp_path / official(name).folders[0]).mkdir()
    with pytest.raises(MissingError):
        open_split(name, tmp_path)


def test_annotation_without_any_video_opens_with_all_missing(tmp_path: Path) -> None:
    world = make_ssv2(tmp_path, clips=1)
    shutil.rmtree(world.root / "20bn-something-something-v2")
    split = open_split("ssv2", tmp_path)
    assert len(missing(split)) == sum(len(p.videos) for p in split.parts.values()) == 15


def test_files_outside_the_annotation_are_not_silently_dropped(tmp_path: Path) -> None:
    """Of UCF101 and HMDB51, whose lists name every file there is."""
    ucf, hmdb = make_ucf101(tmp_path), make_hmdb51(tmp_path)
    put(content("avi", 0, 0), ucf.root / "UCF-101/Archery/v_Archery_g25_c09.avi")
    put(content("avi", 0, 0), hmdb.root / "clap/another_clap_f_cm_np1_fr_goo_77.avi")
    assert noted(find("ucf101", tmp_path).annotation().notes, "1 file", "v_Archery_g25_c09")
    assert noted(find("hmdb51", tmp_path).annotation().notes, "1 file", "another_clap")


def test_an_unreadable_folder_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_ucf101(tmp_path, clips=1, ways=1)
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "UCF-101":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MissingError, match="UCF-101: Permission denied"):
        open_split(world.name, tmp_path)
