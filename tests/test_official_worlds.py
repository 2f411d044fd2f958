"""The made-up datasets: real files in real containers, with the annotation that the owners would have written about them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import pytest
from official_annotations import template_of
from official_clips import FRAMES, World, content, painted, youtube
from official_lists import write_lists
from official_worlds import MAKERS, make_kinetics, make_rareact

from splits.official.catalog import official

SUFFIXES = {
    "kinetics": ".mp4",
    "ssv2": ".webm",
    "ucf101": ".avi",
    "hmdb51": ".avi",
    "diving48": ".mp4",
    "rareact": ".mp4",
}
"""What files of each dataset end in, as its owners distribute them."""


def frames_of(path: Path) -> int:
    """Frames that decode, none of a file that can't be read."""
    try:
        with av.open(path) as file:
            return sum(1 for _ in file.decode(video=0))
    except av.FFmpegError:
        return 0


@pytest.mark.parametrize("name", MAKERS)
def test_files_decode_but_those_that_are_damaged_or_missing(name: str, tmp_path: Path) -> None:
    world = MAKERS[name](tmp_path, clips=2, missing=1, damaged=3)
    assert len({c.id for c in world.clips}) == len(world.clips)
    assert world.damaged
    assert world.missing
    assert {c.label for c in world.clips} <= set(official(name).classes)
    for clip in world.clips:
        path = world.root / clip.file
        assert path.exists() == (clip.id not in world.missing)
        if clip.id in world.damaged:
            assert frames_of(path) < FRAMES / 2
        elif clip.id not in world.missing:
            assert frames_of(path) == (FRAMES if clip.start is None else 100)
            assert path.suffix == SUFFIXES[name]
    assert all((world.root / extra).is_file() for extra in world.extras)


def test_damage_does_not_reach_other_datasets(tmp_path: Path) -> None:
    make_kinetics(tmp_path / "a", clips=2, damaged=4)
    world = make_kinetics(tmp_path / "b", clips=2)
    assert {frames_of(world.root / c.file) for c in world.clips} == {FRAMES}


@pytest.mark.parametrize(
    ("container", "codec", "rate"), [("mp4", "h264", 25), ("webm", "vp9", 12), ("avi", "mpeg4", 25)]
)
def test_clips_are_encoded_as_the_owners_do(container: str, codec: str, rate: int) -> None:
    with av.open(content(container, 0, 0)) as file:
        assert file.streams.video[0].codec_context.name.startswith(codec[:3])
        assert file.streams.video[0].average_rate == rate


def test_looks_are_told_apart_by_their_colour() -> None:
    for look in range(6):
        mean = painted(look, 0, 0, 64, 64).mean((0, 1))
        others = [
            painted(other, take, 9, 64, 64).mean((0, 1)) for other in range(6) for take in (0, 1) if other != look
        ]
        assert min(abs(mean - other).max() for other in others) > 15


def test_ids_of_youtube_begin_with_every_character() -> None:
    ids = [youtube("x", i) for i in range(40)]
    assert {len(i) for i in ids} == {11}
    assert {"-", "_"} <= {i[0] for i in ids}


def test_templates_say_the_class_in_brackets() -> None:
    assert (
        template_of("Putting number of something onto something") == "Putting [number of] [something] onto [something]"
    )
    for label in official("ssv2").classes:
        assert template_of(label).replace("[", "").replace("]", "") == label


def test_annotation_of_rareact_is_the_owners(tmp_path: Path) -> None:
    world = make_rareact(tmp_path, clips=6)
    with (world.root / "rareact.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(i) for i in range(len(world.clips))]
    assert {row["annotation"] for row in rows} == set("01234")
    assert {int(row["end"]) - int(row["start"]) for row in rows} == {10}
    names = official("rareact").classes
    assert all(names[int(row["class_id"])] == f"{row['verb']} {row['noun']}" for row in rows)


def test_lists_are_written_in_every_grammar(tmp_path: Path) -> None:
    world: World = make_kinetics(tmp_path, clips=1, ways=2)
    first = world.clips[0]
    lines = {g: write_lists(tmp_path / g, world, "kinetics100", g)[0].read_text().splitlines()[0] for g in "ABCD"}  # type: ignore[arg-type]
    assert lines["A"] == f"air drumming/{first.entry}"
    assert lines["B"] == f"train0/{first.entry}"
    assert lines["C"] == f"train0//videos/air_drumming/{first.entry}.mp4"
    assert lines["D"] == f"/home/somebody/data/videos/air_drumming/{first.entry}.mp4, 0"
    said = json.loads(write_lists(tmp_path / "E", world, "kinetics100", "E")[0].read_text())
    assert said["image_labels"] == [0, 1]
