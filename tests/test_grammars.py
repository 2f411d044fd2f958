"""One list at a time: every form is told by its content, and every mistake in one is shown with its line."""

from __future__ import annotations

import json
from pathlib import Path

import lists
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError
from splits.official.catalog import official
from splits.published.grammars import read_list, stem
from splits.published.imported import Imported, write_imported
from splits.published.recognise import dataset_of, pieces
from splits.published.text import NotAList

HMDB = lists.hmdb(["wave", "draw_sword", "sword"])
KINETICS = lists.kinetics(["ice skating", "hurling (sport)", "massaging person's head"])
SSV2 = lists.ssv2(["Putting something, something and something on the table", "Twisting something"])
CLIPS = {"hmdb51": HMDB, "kinetics": KINETICS, "ssv2": SSV2, "ucf101": lists.ucf(["HandstandPushups", "YoYo"])}
CLIPS["diving48"] = lists.diving(official("diving48").classes[:3])


@pytest.mark.parametrize("dataset", sorted(CLIPS))
@pytest.mark.parametrize("form", lists.FORMS)
def test_every_form_is_told_by_content_and_gives_the_same_clips(tmp_path: Path, form: str, dataset: str) -> None:
    clips = CLIPS[dataset]
    ending = {"ssv2": ".webm", "hmdb51": ".avi"}.get(dataset, ".mp4")
    made = read_list(lists.write(tmp_path / "x", lists.text(clips, form, ending=ending)))
    assert made.grammar == form
    assert not made.bad
    assert not made.tidied
    assert [row.entry for row in made.rows] == [clip for _, clip in clips]
    assert [row.number for row in made.rows] == list(range(1, len(clips) + 1))
    assert {row.word for row in made.rows} == ({"train"} if form in ("B", "C") else {""})
    classes = list(dict.fromkeys(name for name, _ in clips))
    wanted = [name if form == "A" else str(classes.index(name)) for name, _ in clips]
    assert [row.label for row in made.rows] == wanted
    assert dataset_of(made) == dataset


@pytest.mark.parametrize(
    ("change", "noted"),
    [
        (lambda b: b.replace(b"\n", b"\r\n"), "CRLF line ends"),
        (lambda b: b"\xef\xbb\xbf" + b, "byte order mark"),
        (lambda b: b[:-1], ""),
        (lambda b: b.decode().encode("utf-16"), "UTF-16"),
        (lambda b: b"\xfe\xff" + b.decode().encode("utf-16-be"), "UTF-16"),
        (lambda b: b"\n" + b + b" \t\n\n", "3 blank lines"),
        (lambda b: b.replace(b"\n", b" \n"), ""),
    ],
)
@pytest.mark.parametrize("form", "ABCD")
def test_line_ends_marks_and_blanks_change_nothing(tmp_path: Path, change: object, noted: str, form: str) -> None:
    plain = lists.text(HMDB, form).encode()
    made = read_list(lists.write(tmp_path / "x", change(plain)))  # type: ignore[operator]
    assert [row[1:] for row in made.rows] == [row[1:] for row in read_list(lists.write(tmp_path / "y", plain)).rows]
    assert made.tidied == ((noted,) if noted else ())


def test_json_with_a_mark_and_partition_words_of_others(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + lists.text(HMDB, "E").encode()
    assert [row.entry for row in read_list(lists.write(tmp_path / "x", data)).rows] == [clip for _, clip in HMDB]
    text = "base3/900001\nnovel0/900002\nvalidation1/900003\n"
    assert [row.word for row in read_list(lists.write(tmp_path / "y", text)).rows] == ["train", "test", "val"]


def test_only_known_endings_are_cut_from_a_name() -> None:
    assert stem("/a/b/x.y (z).AVI") == "x.y (z)"
    assert stem("C:\\data\\x.webm") == "x"
    assert stem("a.b_wave_f_cm_np1_le_med_0") == "a.b_wave_f_cm_np1_le_med_0"
    assert stem(".mp4") == ".mp4"


BAD_LINES = [
    ("A", "no slash at all", "not <class>/<clip>"),
    ("A", "wave/more/900009", "with one slash"),
    ("A", "/900009", "not <class>/<clip>"),
    ("A", "wave/", "not <class>/<clip>"),
    ("A", "../900009", "leaves the dataset's folder"),
    ("A", "wave/..", "leaves the dataset's folder"),
    ("A", "wa\x07ve/900009", "control character"),
    ("A", "wa\tve/900009", "control character"),
    ("B", "train/900009", "not <partition><number>/<clip>"),
    ("B", "Train3/900009", "not <partition><number>/<clip>"),
    ("B", "train3/a/900009", "not <partition><number>/<clip>"),
    ("B'", "-1/900009", "not <number>/<clip>"),
    ("B'", "\u0663/900009", "not <number>/<clip>"),
    ("C", "train3/videos/x.avi", "not <partition><number>//<path>"),
    ("C", "train3//../x/900009.mp4", "leaves the dataset's folder"),
    ("C", "train3///etc/900009.mp4", "leaves the dataset's folder"),
    ("C", "train3//a\\..\\900009.mp4", "leaves the dataset's folder"),
    ("D", "/data/900009.mp4,3", "a comma, a blank and a number"),
    ("D", "/data/900009.mp4, -3", "a comma, a blank and a number"),
    ("D", "/data/900009.mp4", "a comma, a blank and a number"),
    ("D", "/data/../900009.mp4, 3", "leaves the dataset's folder"),
]


@pytest.mark.parametrize(("form", "line", "why"), BAD_LINES)
def test_a_bad_line_is_shown_with_its_number(tmp_path: Path, form: str, line: str, why: str) -> None:
    good = lists.text(SSV2, form, ending=".webm").split("\n")
    made = read_list(lists.write(tmp_path / "x", "\n".join([*good[:2], line, *good[2:]])))
    assert made.grammar == form
    assert [bad.number for bad in made.bad] == [3]
    assert len(made.rows) == len(SSV2)
    with pytest.raises(UsageError) as caught:
        pieces(made)
    assert "1 bad line" in caught.value.message
    assert f"line 3: {made.bad[0].why}: {line!r}" in caught.value.message
    assert why in made.bad[0].why


def test_five_bad_lines_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    text = lists.text(lists.ssv2(["Twisting something"], 20), "A") + "oops\n" * 7
    with pytest.raises(UsageError, match="7 bad lines") as caught:
        pieces(read_list(lists.write(tmp_path / "x", text)))
    assert caught.value.message.count("oops") == 5
    assert "line 21:" in caught.value.message
    assert "and 2 more" in caught.value.message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"image_names": ["a.mp4"], "image_labels": []}, "1 and 0 values"),
        ({"image_names": ["a.mp4"]}, "1 and no values"),
        ({"image_names": "a.mp4", "image_labels": [1]}, "no and 1 values"),
        ({"image_names": [], "image_labels": []}, "is empty"),
        ({"900001": 3}, "without image_names"),
        ([1, 2], "without image_names"),
    ],
)
def test_json_that_is_no_list(tmp_path: Path, value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_list(lists.write(tmp_path / "x.json", json.dumps(value)))


def test_bad_entries_of_json_are_shown_with_their_place(tmp_path: Path) -> None:
    names = ["/d/900001.webm", "/d/../900002.webm", 7, "/d/900003.webm", "/d/900004.webm", "/d/x.webm"]
    value = {"image_names": names, "image_labels": [0, 0, 0, "0", True, 0]}
    with pytest.raises(UsageError, match="5 bad entries") as caught:
        pieces(read_list(lists.write(tmp_path / "x.json", json.dumps(value))))
    places = [line.split(":")[0].strip() for line in caught.value.message.splitlines()[1:]]
    assert places == [f"entry {i}" for i in (2, 3, 4, 5, 6)]


@pytest.mark.parametrize("text", ['{"image_names": [', '{"image_names": [], "image_names": [], "image_labels": []}'])
def test_broken_json_is_an_error_not_another_form(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="is no JSON") as caught:
        read_list(lists.write(tmp_path / "x.json", text))
    assert not isinstance(caught.value, NotAList)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\x00\x01\x02", "null bytes"),
        (b"caf\xe9 and some/information", "no UTF-8 text"),
        (b"read me\nsome/information\nand/or either\n", "no clips of a known dataset"),
        (b"id,video_id,start,end,class_id,verb,noun,annotation\n0,a,1,2,3,x,y,0\n", "RareAct's own table"),
        (b"{not json", "is no JSON"),
    ],
)
def test_what_is_no_list_says_so(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(NotAList, match=words):
        read_list(lists.write(tmp_path / "x", content))


def test_a_file_too_large_for_a_list_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(NotAList, match="more than 256 MB"):
        read_list(tmp_path / "x")


def test_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    text = lists.text(HMDB, "A").replace("a-b", "\xe9\xdf", 1).encode("latin-1")
    text = text.split(b"\n", 1)[1] + text.split(b"\n", 1)[0] + b"\n"
    path = lists.write(tmp_path / "x", text)
    with pytest.raises(UsageError, match=f"line {len(HMDB)}: not UTF-8 text") as caught:
        read_list(path)
    assert "\xe9\xdf" in caught.value.message
    assert "iconv -f LATIN1" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="broken UTF-16"):
        read_list(lists.write(path, b"\xff\xfe" + b"a"))
    with pytest.raises(MissingError):
        read_list(tmp_path / "absent")


def test_one_clip_under_two_classes_is_refused_and_a_repeat_is_not(tmp_path: Path) -> None:
    good = lists.text(SSV2, "A")
    first = good.split("\n")[0]
    [piece] = pieces(read_list(lists.write(tmp_path / "x", f"{good}{first}\n{first.replace(' ', '_')}\n")))
    assert piece.repeats == ((7, 1), (8, 1))
    assert len(piece.rows) == len(piece.ids) == 6
    clash = f"Twisting something/{first.split('/')[1]}"
    with pytest.raises(UsageError, match="line 7: the clip stands in line 1 with class 'Putting something,"):
        pieces(read_list(lists.write(tmp_path / "y", f"{good}{clash}\n")))


@pytest.mark.parametrize(
    ("text", "dataset"),
    [
        ("3/900001\n", "ssv2"),
        ("/data/RareActCutAll/12.mp4, 3\n", "rareact"),
        ("train3//rareact_cut/12.mp4\n", "rareact"),
        ("hammer phone/12\n", "rareact"),
        ("/data/12.webm, 3\n", "ssv2"),
        ("3/-Zz_0000001_10_20\n", "rareact"),
        ("3/-Zz_0000001_000010_000020\n", "kinetics"),
        ("3/-Zz_0000001_00010\n", "diving48"),
        ("val3//val_256/knitting/-Zz_0000001.mp4\n", "kinetics"),
    ],
)
def test_the_dataset_is_told_by_the_names_of_clips(tmp_path: Path, text: str, dataset: str) -> None:
    assert dataset_of(read_list(lists.write(tmp_path / "x", text))) == dataset


def test_eleven_characters_are_a_clip_only_in_a_path_or_when_told_so(tmp_path: Path) -> None:
    path = lists.write(tmp_path / "x", "knitting/-Zz_0000001\n")
    with pytest.raises(NotAList):
        read_list(path)
    [piece] = pieces(read_list(path, "kinetics"), "kinetics")
    assert piece.ids == ("-Zz_0000001",)


def test_a_clip_of_another_dataset_is_a_bad_line(tmp_path: Path) -> None:
    text = lists.text(KINETICS, "A") + "wave/" + HMDB[0][1] + "\n"
    with pytest.raises(UsageError, match="line 10: no name of a clip of Kinetics-400"):
        pieces(read_list(lists.write(tmp_path / "x", text)))


def test_the_own_form_is_read_and_an_edit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path))
    path = write_imported(Imported("mine", "ssv2", False, {"test": {"Twisting something": ("900001", "900002")}}, ()))
    made = read_list(path)
    assert (made.grammar, made.dataset, made.name) == ("own", "ssv2", "mine")
    assert [row[1:4] for row in made.rows] == [("Twisting something", "test", str(n)) for n in (900001, 900002)]
    path.write_text(path.read_text().replace("900002", "900003"))
    with pytest.raises(IntegrityError, match="seal"):
        read_list(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(lists.FORMS),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=4),
)
def test_a_damaged_list_is_read_or_refused_but_never_loses_a_line(
    tmp_path: Path, form: str, cuts: list[tuple[float, int, bytes]]
) -> None:
    data = lists.text(HMDB + lists.hmdb(["wave"], 3, 50), form).encode()
    for at, gone, put in cuts:
        i = int(at * len(data))
        data = data[:i] + put + data[i + gone :]
    try:
        made = read_list(lists.write(tmp_path / "x", data))
    except FsarError:
        return
    if made.grammar != "E":
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        lines = [line for line in text.split("\n") if line.strip(" \r\t")]
        assert len(made.rows) + len(made.bad) == len(lines)
