"""The owners' annotation files as they shouldn't be: refused with their place, or counted; never a traceback, nothing silently dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from official_clips import noted
from official_worlds import MAKERS, make_kinetics

from fsar_cache.errors import FsarError, MissingError, UsageError
from splits.datasets import open_split
from splits.official.catalog import official
from splits.official.disk import find

Spoil = Callable[[bytes], bytes]


def after(old: bytes, new: bytes) -> Spoil:
    """Replace the first of `old`, which must be there."""

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def added(line: bytes) -> Spoil:
    """A line more at the end."""
    return lambda data: data + line


def emptied(data: bytes) -> bytes:
    return b""


KINETICS, SSV2, UCF = "annotations/train.csv", "labels/train.json", "ucfTrainTestlist/trainlist01.txt"
HMDB, DIVING, RAREACT = "testTrainMulti_7030_splits/clap_test_split1.txt", "Diving48_train.json", "rareact.csv"
REFUSED: list[tuple[str, str, Spoil, str]] = [
    ("kinetics", KINETICS, emptied, "train.csv"),
    ("kinetics", KINETICS, after(b"youtube_id", b"youtube"), "no column youtube_id"),
    ("kinetics", KINETICS, added(b"archery,tooshort,0,10,train\n"), "tooshort"),
    ("kinetics", KINETICS, added(b"archery,../../../etc,0,10,train\n"), "etc"),
    ("kinetics", KINETICS, added(b"archery,AAAAAAAAAAA,zero,10,train\n"), "line 32"),
    ("kinetics", KINETICS, added(b"archery,AAAAAAAAAAA,inf,10,train\n"), "line 32"),
    ("kinetics", KINETICS, added(b"archery\n"), "line 32"),
    ("kinetics", KINETICS, added(b'"archery,AAAAAAAAAAA,0,10,train\n'), "train.csv"),
    ("kinetics", KINETICS, added(b'"arch,AAAAAAAAAAA,0,10,train\n"air drumming",BBBBBBBBBBB,0,9,train\n'), "train.csv"),
    ("kinetics", KINETICS, added(b'"' + b"archery,AAAAAAAAAAA,0,10,train\n" * 9000), "train.csv"),
    ("kinetics", KINETICS, added(b"caf\xe9,AAAAAAAAAAA,0,10,train\n"), "line 32: not UTF-8"),
    ("kinetics", KINETICS, lambda d: d.decode().encode("utf-16"), "not UTF-8"),
    ("ssv2", SSV2, emptied, "no JSON"),
    ("ssv2", SSV2, lambda d: d[: len(d) // 2], "no JSON"),
    ("ssv2", SSV2, lambda d: b'{"a": ' + d + b"}", "no JSON array"),
    ("ssv2", SSV2, lambda d: b"[" * 100_000, "no JSON"),
    ("ssv2", SSV2, after(b'"id": "1"', b'"id": "../1"'), "record 1"),
    ("ssv2", SSV2, after(b'"template"', b'"templat"'), "record 1"),
    ("ssv2", SSV2, after(b"[", b"[7,"), "record 1"),
    ("ucf101", UCF, added(b"Archery/../../v_Archery_g09_c01.avi 3\r\n"), "line"),
    ("ucf101", UCF, added(b"Archery/v_Archery_g9_c01.avi 3\r\n"), "line"),
    ("ucf101", UCF, added(b"Archery/v_Diving_g09_c01.avi 3\r\n"), "line"),
    ("ucf101", UCF, added(b"Juggling/v_Juggling_g09_c01.avi 3\r\n"), "line"),
    ("hmdb51", HMDB, added(b"no_name_of_theirs.avi 1 \n"), "line 5"),
    ("hmdb51", HMDB, added(b"Plain_clap_f_cm_np1_fr_goo_9.avi 3 \n"), "line 5"),
    ("hmdb51", HMDB, added(b"../../x_clap_f_cm_np1_fr_goo_9.avi 1 \n"), "line 5"),
    ("diving48", DIVING, emptied, "no JSON"),
    ("diving48", DIVING, after(b'"label": 0', b'"label": 48'), "record 1"),
    ("diving48", DIVING, after(b'"label": 0', b'"label": true'), "record 1"),
    ("diving48", DIVING, after(b'"vid_name": "', b'"vid_name": "../'), "record 1"),
    ("diving48", "Diving48_vocab.json", after(b"15som", b"16som"), "vocab"),
    ("diving48", "Diving48_vocab.json", emptied, "vocab"),
    ("diving48", "Diving48_vocab.json", lambda d: b"[" * 100_000, "vocab"),
    ("rareact", RAREACT, added(b"0,AAAAAAAAAAA,0,10,10,cut,rock,1\n"), "line"),
    ("rareact", RAREACT, added(b"999,../../../../x,0,10,10,cut,rock,1\n"), "line"),
    ("rareact", RAREACT, added(b"999,AAAAAAAAAAA,10,10,10,cut,rock,1\n"), "line"),
    ("rareact", RAREACT, added(b"999,AAAAAAAAAAA,0,10\n"), "line"),
    ("rareact", RAREACT, added(b'999,"AAAAAAAAAAA,0,10,10,cut,rock,1\n'), "rareact.csv"),
    ("rareact", RAREACT, added(b'"' + b"999,AAAAAAAAAAA,0,10,10,cut,rock,1\n" * 9000), "rareact.csv"),
    ("rareact", RAREACT, added(b"999,AAAAAAAAAAA,0,10,10,cut,rock,7\n"), "line"),
]


@pytest.mark.parametrize(("name", "file", "spoil", "says"), REFUSED, ids=range(len(REFUSED)))
def test_bad_annotation_is_refused_with_its_place(
    name: str, file: str, spoil: Spoil, says: str, tmp_path: Path
) -> None:
    world = MAKERS[name](tmp_path)
    path = world.root / file
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FsarError) as caught:
        open_split(official(name).default[0], tmp_path)
    assert says in str(caught.value)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 2500


def again(data: bytes) -> bytes:
    """The last line once more."""
    return data + data.splitlines(keepends=True)[-1]


NOTED: list[tuple[str, str, Spoil, tuple[str, ...]]] = [
    ("kinetics", KINETICS, added(b",AAAAAAAAAAA,0,10,train\n"), ("1 row", "without a label", "AAAAAAAAAAA")),
    ("kinetics", KINETICS, added(b"juggling torches,AAAAAAAAAAA,0,10,train\n"), ("1 label", "juggling torches")),
    ("kinetics", KINETICS, again, ("1 row", "not used")),
    ("ssv2", SSV2, after(b'"template": "Bending', b'"template": "Rolling'), ("1 template", "Rolling something")),
    ("ssv2", SSV2, after(b'"id": "8"', b'"id": "1"'), ("1 record", "not used: 1")),
    ("ucf101", UCF, again, ("1 line", "not used", "v_Diving_g22_c01")),
    ("hmdb51", HMDB, again, ("1 line", "not used", "_clap_")),
    (
        "diving48",
        DIVING,
        lambda d: d.replace(b"[{", b"[" + d[1 : d.index(b"}")] + b"}, {", 1),
        ("1 record", "not used"),
    ),
]


@pytest.mark.parametrize(("name", "file", "spoil", "says"), NOTED, ids=range(len(NOTED)))
def test_odd_annotation_is_counted(name: str, file: str, spoil: Spoil, says: tuple[str, ...], tmp_path: Path) -> None:
    world = MAKERS[name](tmp_path)
    path = world.root / file
    path.write_bytes(spoil(path.read_bytes()))
    assert noted(find(name, tmp_path).annotation().notes, *says)


@pytest.mark.parametrize("name", MAKERS)
def test_byte_order_marks_and_line_ends_change_nothing(name: str, tmp_path: Path) -> None:
    world = MAKERS[name](tmp_path)
    split = official(name).default[0]
    before = open_split(split, tmp_path).hash
    for path in [p for p in world.root.rglob("*") if p.suffix in (".csv", ".json", ".txt") and p.name != "README.txt"]:
        data = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + data)
    assert open_split(split, tmp_path).hash == before


def test_annotation_that_is_a_broken_link_is_no_traceback(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=1, ways=1)
    (world.root / KINETICS).unlink()
    (world.root / KINETICS).symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(MissingError, match=r"train\.csv"):
        open_split("kinetics", tmp_path)


def test_a_folder_in_the_place_of_an_annotation_is_no_traceback(tmp_path: Path) -> None:
    world = make_kinetics(tmp_path, clips=1, ways=1)
    (world.root / KINETICS).unlink()
    (world.root / KINETICS).mkdir()
    with pytest.raises((MissingError, UsageError), match=r"train\.csv"):
        open_split("kinetics", tmp_path)


def test_files_that_the_annotation_lacks_are_told(tmp_path: Path) -> None:
    """Clips that the owners keep for their test have no labels, and are expected."""
    world = MAKERS["ssv2"](tmp_path)
    folder = (world.root / world.clips[0].file).parent
    for name in ("220001", "220002"):
        (folder / f"{name}.webm").write_bytes(b"")
    (world.root / "labels" / "test.json").write_text('[{"id": "220002"}]')
    notes = find("ssv2", tmp_path).annotation().notes
    assert any("1 file absent from the annotation" in note and "220001" in note for note in notes)
    world = MAKERS["kinetics"](tmp_path)
    (world.root / "train" / "intro_video.mp4").write_bytes(b"")
    (world.root / "test").mkdir(exist_ok=True)
    (world.root / "test" / "testing_vid.mp4").write_bytes(b"")
    notes = find("kinetics", tmp_path).annotation().notes
    assert any(note == "1 file absent from the annotation, not used: train/intro_video.mp4" for note in notes)
