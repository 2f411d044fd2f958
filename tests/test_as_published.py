"""What a split says of itself when it isn't what was published, and what must not depend on how clips lie on disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from official_lists import write_lists
from official_worlds import make_diving48, make_hmdb51, make_kinetics, make_rareact, make_ssv2, make_ucf101

from fsar_cache.errors import MissingError, UsageError
from pipeline.cli import main
from splits.datasets import known_datasets, open_split
from splits.official.disk import find
from splits.overlap import clip_overlap
from splits.published import compared as comparing
from splits.published.compared import compared
from splits.published.importing import import_lists
from splits.published.known import Known, KnownPart
from splits.published.recognise import content
from splits.types import Part, Video


@pytest.fixture(autouse=True)
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path / "lists"))
    return tmp_path / "lists"


def notes(name: str, videos: Path) -> str:
    return "\n".join(open_split(name, videos).provenance["notes"])


def facts(ids: tuple[str, ...]) -> Known:
    """A split of one partition with these clips."""
    part = KnownPart(("Archery",), (len(ids),), len(ids), content("ucf101", ids))
    return Known("toy", "ucf101", "Toy", "classes", "nobody", "nowhere", {"test": part}, guess="by guess")


def of(*ids: str) -> dict[str, Part]:
    return {"test": Part("test", ("Archery",), tuple(Video(i, "Archery", f"{i}.avi") for i in ids))}


def test_as_many_clips_are_not_the_same_clips() -> None:
    published = facts(("v_Archery_g01_c01", "v_Archery_g01_c02"))
    assert compared(published, of("v_Archery_g01_c01", "v_Archery_g01_c02")) == ()
    told = compared(published, of("v_Archery_g01_c01", "v_Archery_g01_c03"))
    assert "not the same ones" in told[0]
    assert told[1].startswith("how it is made is inferred (fsar-cache split show toy)")
    assert "1 fewer clips than published, in 1 classes" in compared(published, of("v_Archery_g01_c01"))[0]
    assert "not the same" not in " ".join(
        compared(published, of("v_Archery_g01_c01", "v_Archery_g01_c03"), sure=("test",))
    )


def test_a_rule_that_gives_the_very_clips_is_no_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ssv2(tmp_path)
    assert "inferred" in notes("ssv2-full", tmp_path)
    monkeypatch.setattr(comparing, "is_published", lambda *_: True)
    split = open_split("ssv2-full", tmp_path)
    from splits.published.known import known

    assert "inferred" not in " ".join(compared(known("ssv2-full"), dict(split.parts)))


def test_classes_that_are_not_there_are_told(tmp_path: Path) -> None:
    make_kinetics(tmp_path, ways=2)
    assert "train has 6 of 400 classes" in notes("kinetics400", tmp_path)
    assert "of 363 classes" in notes("kinetics364", tmp_path)


def test_stray_files_are_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ucf101(tmp_path, missing=1)
    assert "my holiday" in notes("ucf101", tmp_path)
    said = capsys.readouterr().err
    assert "fewer clips than published, in 101 classes" in said
    assert "my holiday" not in said


def test_a_missing_file_is_expected_once_below_a_folder_of_the_same_name(tmp_path: Path) -> None:
    world = make_ucf101(tmp_path, inner="", folder="UCF-101", missing=1)
    (gone,) = world.missing
    path = find("ucf101", tmp_path).annotation().clips[gone].path
    assert path == world.clip(gone).file


@pytest.mark.parametrize("cut", ["", "rows"])
def test_a_segment_is_one_clip_however_it_lies_there(cut: str, tmp_path: Path) -> None:
    """A row more of the same segment under another class is the same pictures, in a full video as in files of its own."""
    world = make_rareact(tmp_path, cut=cut, repeated=0)  # type: ignore[arg-type]
    table = world.root / "rareact.csv"
    first, other = world.clips[0], next(c for c in world.clips if c.label != world.clips[0].label)
    rows = table.read_text().splitlines()
    verb, noun = other.label.split(" ", 1)
    number = rows[1 + int(other.id)].split(",")[4]
    video, start, end = first.entry.rsplit("_", 2)
    table.write_text("\n".join([*rows, f"7000,{video},{start},{end},{number},{verb},{noun},3"]) + "\n")
    if cut:
        (world.root / "7000.mp4").write_bytes((world.root / first.file).read_bytes())
    split = open_split("rareact-official", tmp_path)
    whole = split.part("all")
    one = replace(whole, videos=tuple(v for v in whole.videos if v.id == first.id))
    rest = replace(whole, videos=tuple(v for v in whole.videos if v.id != first.id))
    assert clip_overlap(split, one, split, rest).second == ("7000",)


def test_partitions_that_a_list_lacks_are_made_by_the_rule(tmp_path: Path) -> None:
    world = make_diving48(tmp_path)
    whole = open_split("diving48-tamt", tmp_path)
    paths = {path.name: path for path in write_lists(tmp_path / "theirs", world, "diving48-tamt", "E")}
    from splits.published.imported import Imported, write_imported

    report = import_lists(paths["val.json"], name="mine", partition="val")
    listed = report.splits[0]
    assert [part.part for part in listed.parts] == ["val"]
    parts = {
        "val": {
            label: tuple(v.id for v in whole.part("val").videos if v.label == label)
            for label in whole.part("val").classes
        }
    }
    write_imported(Imported("diving48-tamt", "diving48", True, parts, ()))
    split = open_split("diving48-tamt", tmp_path)
    assert split.hash == whole.hash
    assert "the imported list has no train and no test" in notes("diving48-tamt", tmp_path)
    assert list(open_split("mine", tmp_path).parts) == ["val"]


def test_classes_of_a_list_are_compared_with_the_owners(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=2)
    one, other = world.clips[0].label, next(c.label for c in world.clips if c.label != world.clips[0].label)
    swapped = {one: other, other: one}
    lines = [f"{swapped.get(c.label, c.label)}/{c.entry}" for c in world.clips]
    (tmp_path / "trainlist.txt").write_text("\n".join(lines) + "\n")
    import_lists(tmp_path / "trainlist.txt", name="wrong")
    said = notes("wrong", tmp_path)
    assert "4 clips of the list with another class in train.csv and val.csv" in said
    assert f"there {one}" in said
    diving = make_diving48(tmp_path)
    import_lists(write_lists(tmp_path / "d", diving, "diving48-tamt", "A")[0], name="dive", partition="train")
    assert "2 clips of the list with another class in Diving48_V2_train.json" in notes("dive", tmp_path)


def test_a_file_of_other_seconds_is_another_clip(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=2)
    clip = world.clips[0]
    file = world.root / clip.file
    file.rename(file.with_name(f"{clip.id}_000777_000787.mp4"))
    found = find("kinetics", tmp_path)
    assert not (found.root / found.annotation().clips[clip.id].path).exists()
    assert any("1 file of other seconds" in note and "000777" in note for note in found.annotation().notes)
    (listed,) = found.clips([(clip.entry, clip.label)])
    assert listed is not None
    assert not (found.root / listed.path).exists()
    (bare,) = found.clips([(clip.id, clip.label)])
    assert bare is not None
    assert (found.root / bare.path).exists()


def test_cleaned_names_without_the_owners_lists_are_told(tmp_path: Path) -> None:
    make_hmdb51(tmp_path / "a", cleaned="underscores", annotated=False)
    assert "a tool has cleaned them" in notes("hmdb51", tmp_path / "a")
    make_hmdb51(tmp_path / "b", annotated=False)
    assert "cleaned" not in notes("hmdb51", tmp_path / "b")


def test_a_second_annotation_file_is_told(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=2)
    (world.root / "k600").mkdir()
    (world.root / "k600" / "train.csv").write_bytes((world.root / "annotations" / "train.csv").read_bytes())
    assert any("1 file for train beside annotations/train.csv" in note for note in find("kinetics", tmp_path).notes)


def test_another_vocabulary_is_told(tmp_path: Path) -> None:
    world = make_ssv2(tmp_path)
    file = world.root / "labels" / "labels.json"
    file.write_text(file.read_text().replace("Closing something", "Closing nothing", 1))
    assert any("Closing nothing" in note for note in find("ssv2", tmp_path).annotation().notes)
    file.write_text("[1]")
    with pytest.raises(UsageError, match=r"labels\.json"):
        open_split("ssv2", tmp_path)


def test_a_link_to_itself_is_walked_once(tmp_path: Path) -> None:
    world = make_ucf101(tmp_path, clips=1)
    (world.root / "loop").symlink_to(world.root, target_is_directory=True)
    assert not any("beside another" in note for note in find("ucf101", tmp_path).notes)


def test_frames_beside_a_stray_file_are_frames(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=2, frames=True)
    for clip in world.clips:
        (world.root / clip.file / "000.txt").write_text("")
    assert set(find("kinetics", tmp_path).paths) == {c.id for c in world.clips}


def test_what_is_in_the_place_of_a_dataset_is_told(tmp_path: Path) -> None:
    (tmp_path / "ssv2").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingError, match="is a link to nowhere"):
        open_split("ssv2", tmp_path)
    (tmp_path / "ssv2").unlink()
    (tmp_path / "ssv2").write_text("")
    with pytest.raises(MissingError, match="is no folder"):
        open_split("ssv2", tmp_path)
    with pytest.raises(MissingError, match="can't read"):
        open_split("ssv2", tmp_path / "ssv2")


def test_lists_that_cannot_be_there_end_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path / "file"))
    monkeypatch.setenv("FSAR_VIDEOS", str(tmp_path))
    assert main(["split", "show", "kinetics100"]) == 0
    assert main(["extract", "ssv2", "--dry-run"]) == 3
    assert "bug" not in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no file"):
        import_lists(tmp_path / "pipe")


def test_imported_splits_are_listed_and_suggested(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=2)
    import_lists(write_lists(tmp_path / "theirs", world, "kinetics100", "A")[0], name="our-kinetics", partition="train")
    assert "our-kinetics" in dict(known_datasets())
    with pytest.raises(UsageError) as caught:
        open_split("our-kinetcs", tmp_path)
    assert "'our-kinetics'" in str(caught.value.hint)
