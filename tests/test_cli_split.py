"""`fsar-cache split`: what is there, what is in it, what it lacks and shares, on small datasets in their official layouts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from official_clips import World
from official_lists import write_lists
from official_worlds import MAKERS, make_diving48, make_hmdb51, make_kinetics, make_rareact, make_ssv2, make_ucf101

from pipeline import cli
from splits.official.catalog import official, official_names
from splits.overlap import located
from splits.published.known import known, known_names

Fsar = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fsar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fsar:
    """Run `fsar-cache split ...` in a place of the test's own: (exit code, stdout, stderr)."""
    for name in ("VIDEOS", "STORES", "RUNS", "LISTS"):
        monkeypatch.setenv(f"FSAR_{name}", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = cli.main(["split", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert "a bug in fsar-cache" not in err
        return code, out, err

    return run


def states(fsar: Fsar) -> dict[str, str]:
    code, out, _ = fsar("ls", "--json")
    assert code == 0
    return {row["name"]: row["state"]["word"] for row in json.loads(out)}


def imported(fsar: Fsar, tmp_path: Path, world: World, split: str, name: str) -> None:
    """Import the part of a published split that the world has, as a split called `name`."""
    write_lists(tmp_path / name, world, split, "A")
    assert fsar("import", tmp_path / name, "--name", name)[0] == 0


def table(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out, newline="")))


def test_all_published_splits_are_listed_where_there_is_nothing(tmp_path: Path, fsar: Fsar) -> None:
    code, out, err = fsar("ls")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert lines.keys() == {"split", *known_names()}
    assert "64/6400   12/1200  24/2400" in lines["kinetics100"]
    assert "needs its list" in lines["kinetics100"]
    assert "no videos (no folder ucf101 or ucf-101)" in lines["ucf101"]
    assert (
        len({line.index(word) for line in out.splitlines()[1:] for word in ("needs", "no videos") if word in line[50:]})
        == 1
    )
    assert str(tmp_path / "videos") in err
    assert str(tmp_path / "lists") in err
    assert not (tmp_path / "lists").exists()


def test_states(tmp_path: Path, fsar: Fsar) -> None:
    world = make_kinetics(tmp_path / "videos", ways=2)
    make_ssv2(tmp_path / "videos", clips=1, ways=1)
    make_hmdb51(tmp_path / "videos", clips=1, ways=1)
    make_rareact(tmp_path / "videos", clips=1, ways=1)
    imported(fsar, tmp_path, world, "kinetics100", "mine")
    told = states(fsar)
    assert told["mine"] == told["ssv2-full"] == told["kinetics400"] == told["rareact-tamt-positives"] == "ready"
    assert told["kinetics100"] == told["rareact-gslta-positives"] == "needs its list"
    assert told["ucf101"] == told["diving48-tamt"] == "no videos"
    assert "mine  " in fsar("ls")[1]
    (tmp_path / "videos" / "ssv2" / "labels" / "train.json").write_text("[{")
    (tmp_path / "videos" / "rareact" / "rareact.csv").unlink()
    world.root.rename(tmp_path / "elsewhere")
    told = states(fsar)
    assert told["mine"] == "imported, no videos"
    assert told["ssv2-full"] == told["ssv2-official"] == "damaged annotation"
    assert told["rareact-tamt"] == told["rareact-tamt-positives"] == "needs its annotation"
    assert told["hmdb51"] == "ready"
    (tmp_path / "lists" / "mine.json").write_text("{}")
    told = states(fsar)
    assert told["mine"] == "damaged list"
    assert told["hmdb51"] == "ready"


def test_a_damaged_list_is_an_error_for_whoever_reads_it(tmp_path: Path, fsar: Fsar) -> None:
    imported(fsar, tmp_path, make_kinetics(tmp_path / "videos", ways=2), "kinetics100", "mine")
    file = tmp_path / "lists" / "mine.json"
    file.write_text(file.read_text().replace("air drumming", "ironing"))
    for words in (["show", "mine"], ["check", "mine"], ["missing", "mine"], ["diff", "mine", "kinetics400"]):
        code, out, err = fsar(*words)
        assert (code, out) == (4, "")
        assert "mine.json" in err


@pytest.mark.parametrize("command", ["show", "check", "missing", "diff"])
def test_a_name_that_nothing_has(fsar: Fsar, command: str) -> None:
    code, out, err = fsar(command, "kinetics10", *["ucf101"] * (command == "diff"))
    assert (code, out) == (2, "")
    assert "did you mean 'kinetics100'?" in err
    code, out, err = fsar(command, "csv:nowhere.csv", *["ucf101"] * (command == "diff"))
    assert (code, out) == (3, "")


@pytest.mark.parametrize("name", known_names())
def test_facts_are_shown_where_there_is_nothing(fsar: Fsar, name: str) -> None:
    code, out, _ = fsar("show", name)
    facts = known(name)
    assert code == 0
    for text in (facts.title, facts.origin, facts.where, facts.guess, *facts.also, *facts.differs):
        assert text in out
    told = json.loads(fsar("show", name, "--json")[1])
    assert [part["found"] for part in told["parts"]] == [None] * len(facts.parts)
    assert {p["name"]: p["published"]["videos"] or 0 for p in told["parts"]} == {
        n: p.total for n, p in facts.parts.items()
    }


def test_a_dataset_shows_what_it_stands_for(tmp_path: Path, fsar: Fsar) -> None:
    world = make_ssv2(tmp_path / "videos", clips=2, ways=2, missing=1)
    code, out, err = fsar("show", "ssv2", "--classes")
    assert (code, err) == (0, "")
    assert "ssv2 stands for ssv2-full" in out
    assert "other splits of it: ssv2-full-ta2n, ssv2-official, ssv2-small" in out
    told = {p["name"]: p for p in json.loads(fsar("show", "ssv2", "--json")[1])["parts"]}
    for part, clips in world.parts("ssv2-full").items():
        gone = len(clips.keys() & world.missing)
        assert told[part]["found"] == {"classes": len(set(clips.values())), "videos": len(clips)}
        assert (told[part]["on_disk"], told[part]["missing"]) == (len(clips) - gone, gone)
        found = {one["label"]: one["found"] for one in told[part]["classes"] if one["found"]}
        assert found == {label: list(clips.values()).count(label) for label in clips.values()}
        assert all(f"{part}" in line for line in out.splitlines() for label in found if f" {label} " in line)


def test_lists_of_ones_own_are_shown_checked_and_searched(tmp_path: Path, fsar: Fsar) -> None:
    (tmp_path / "clips.csv").write_text(
        'id,class,path,start,end,partition\n-a,"x, ""y""",a.mp4,1,2.5,test\nb,z,b.mp4,,,train\n'
    )
    (tmp_path / "b.mp4").write_bytes(b"x")
    code, out, _ = fsar("show", "csv:clips.csv", "--json")
    assert code == 0
    assert {p["name"]: (p["found"]["videos"], p["missing"]) for p in json.loads(out)["parts"]} == {
        "train": (1, 0),
        "test": (1, 1),
    }
    code, out, err = fsar("missing", "csv:clips.csv")
    assert (code, out) == (0, "-a\n")
    assert "1 of 2" in err
    (row,) = table(fsar("missing", "csv:clips.csv", "--csv")[1])
    assert row == {
        "id": "-a",
        "class": 'x, "y"',
        "partition": "test",
        "path": str(tmp_path / "a.mp4"),
        "url": "",
        "start": "1",
        "end": "2.5",
    }
    code, out, _ = fsar("check", "csv:clips.csv")
    assert code == 0
    assert "fsar-cache split missing csv:clips.csv --csv" in out
    (tmp_path / "b.mp4").unlink()
    assert fsar("check", "csv:clips.csv")[0] == 3


def test_check_tells_counts_missing_files_and_small_classes(tmp_path: Path, fsar: Fsar) -> None:
    world = make_ucf101(tmp_path / "videos", clips=4, ways=6, missing=2)
    code, out, err = fsar("check", "ucf101", "--shot", "2", "--query", "2")
    assert (code, err) == (4, "")
    facts, made = known("ucf101"), world.parts("ucf101")
    assert f"train: {len(facts.parts['train'].classes)} classes have not as many clips as published" in out
    told = json.loads(fsar("check", "ucf101", "--shot", "2", "--query", "2", "--json")[1])
    things = {
        kind: [t for t in told["things"] if t["kind"] == kind] for kind in ("counts", "missing", "small", "partition")
    }
    assert [len(t["lines"]) for t in things["counts"]] == [len(facts.parts[p].classes) for p in facts.parts]
    assert things["missing"][0]["text"].startswith("2 of 72 clips have no file")
    short = {world.clip(clip).label for clip in world.missing}
    assert {line.split(":")[0] for t in things["small"] for line in t["lines"]} == short
    assert not things["partition"]
    assert out.splitlines()[-1] == f"{len(told['things'])} things to know"
    assert len(made) == 3


def test_check_is_ok_where_all_is_there(tmp_path: Path, fsar: Fsar) -> None:
    folder = tmp_path / "clips"
    for label in "abcde":
        for i in range(2):
            (folder / "test" / label / f"{label}{i}.mp4").parent.mkdir(parents=True, exist_ok=True)
            (folder / "test" / label / f"{label}{i}.mp4").write_bytes(b"x")
    code, out, _ = fsar("check", f"folder:{folder}", "--shot", "1")
    assert (code, out.splitlines()[-1]) == (0, "ok")
    code, out, _ = fsar("check", f"folder:{folder}", "--shot", "1", "--way", "6")
    assert (code, out.splitlines()[-1]) == (0, "1 thing to know")
    assert "test: 5 classes are too few for 6-way episodes" in out
    assert "fewer than" not in out
    code, out, _ = fsar("check", f"folder:{folder}", "--shot", "2", "--way", "6")
    assert (code, out.splitlines()[-1]) == (0, "2 things to know")
    assert "test: 5 of 5 classes have fewer than the 3 clips of 6-way 2-shot with 1 query" in out
    (folder / "test" / "a" / "a2.mp4").write_bytes(b"x")
    out = fsar("check", f"folder:{folder}", "--shot", "2")[1]
    assert (
        "test: 4 of 5 classes have fewer than the 3 clips of 5-way 2-shot with 1 query; 1 left, too few for an" in out
    )
    assert fsar("check", f"folder:{folder}", "--way", "1")[0] == 2


def test_a_missing_partition_is_told_once_with_its_reason(tmp_path: Path, fsar: Fsar) -> None:
    world = make_kinetics(tmp_path / "videos", ways=2)
    (file,) = world.root.rglob("val*.csv")
    file.unlink()
    assert states(fsar)["kinetics400"] == "incomplete"
    told = [
        t["text"] for t in json.loads(fsar("check", "kinetics400", "--json")[1])["things"] if "missing" in t["text"]
    ]
    assert len(told) == 1
    assert told[0].startswith("val is missing: 400/")
    assert told[0].endswith("as published, nothing here (no val.csv)")


def test_a_published_list_without_a_partition(tmp_path: Path, fsar: Fsar, shared_folder: Path) -> None:
    """Where the rule makes the partition all is there; where there is only the list, or no annotation, it is incomplete."""
    make_ssv2(tmp_path / "videos", clips=1, ways=1)
    make_kinetics(tmp_path / "videos", ways=2)
    lists = shared_folder / "splits" / "published"
    code, out, err = fsar("import", lists / "ssv2full-otam" / "test.txt", "--name", "ssv2-full")
    assert code == 0
    assert "not imported: train, which is made of the dataset's own annotation" in out
    assert "still missing" not in out
    code, out, err = fsar("import", lists / "kinetics100-cmn" / "val.txt", "--name", "kinetics100")
    assert code == 0
    assert "fsar-cache split check kinetics100" in err
    told = {row["name"]: row["state"] for row in json.loads(fsar("ls", "--json")[1])}
    assert told["ssv2-full"] == {"word": "ready", "detail": "from its list, without it train, val"}
    assert told["kinetics100"] == {"word": "incomplete", "detail": "its list lacks train, test"}
    (tmp_path / "videos" / "ssv2" / "labels" / "train.json").unlink()
    assert states(fsar)["ssv2-full"] == "incomplete"


def test_whole_competitions_are_no_address_of_a_dive(tmp_path: Path, fsar: Fsar) -> None:
    world = make_diving48(tmp_path / "videos", clips=4, ways=2, missing=3)
    rows = table(fsar("missing", "diving48-tamt", "--csv")[1])
    assert {row["id"] for row in rows} <= world.missing
    assert rows
    assert {row["url"] for row in rows} == {""}


def test_check_tells_what_partitions_share(tmp_path: Path, fsar: Fsar) -> None:
    make_diving48(tmp_path / "videos", clips=4, ways=2, moved=0)
    things = {t["kind"]: t["text"] for t in json.loads(fsar("check", "diving48-cdfslv", "--json")[1])["things"]}
    assert "6 classes in common" in things["classes"]
    rows = tmp_path / "clips.csv"
    rows.write_text(
        "id,class,path,start,end,partition\na,x,a.mp4,1,2,test\nb,bowling ball,a.mp4,1,2,train\nc,BallsBowl,b.mp4,,,test\n"
    )
    (tmp_path / "a.mp4").write_bytes(b"x")
    told = [t["text"] for t in json.loads(fsar("check", f"csv:{rows}", "--json")[1])["things"]]
    assert any("1 clips of one file in common" in text for text in told)
    assert any("1 classes of nearly one name: bowling ball ~ BallsBowl" in text for text in told)


def test_check_compares_an_imported_list_with_the_rule(tmp_path: Path, fsar: Fsar, shared_folder: Path) -> None:
    world = make_ssv2(tmp_path / "videos", clips=1, ways=1)
    assert (
        fsar("import", shared_folder / "splits" / "published" / "ssv2full-otam" / "test.txt", "--name", "ssv2-full")[0]
        == 0
    )
    code, out, _ = fsar("check", "ssv2-full")
    assert code == 4
    assert "test: the imported list and what the annotation gives by rule differ" in out
    assert "only by the list: " in out
    assert "train: the imported list" not in out, "which the list has not"
    found = {
        p["name"]: (p["found"] or {}).get("videos")
        for p in json.loads(fsar("check", "ssv2-full", "--json")[1])["parts"]
    }
    assert found["train"] == len(world.part("ssv2-full", "train"))


def test_check_tells_a_partition_that_neither_list_nor_rule_has(
    tmp_path: Path, fsar: Fsar, shared_folder: Path
) -> None:
    make_kinetics(tmp_path / "videos", ways=1)
    assert (
        fsar("import", shared_folder / "splits" / "published" / "kinetics100-cmn" / "val.txt", "--name", "kinetics100")[
            0
        ]
        == 0
    )
    code, out, _ = fsar("check", "kinetics100")
    assert code == 4
    assert "train is missing: 64/6400 as published, nothing here" in out


def test_words_of_an_import(tmp_path: Path, fsar: Fsar, shared_folder: Path) -> None:
    lists = shared_folder / "splits" / "published"
    code, out, err = fsar("import", lists / "kinetics100-gslta")
    assert code == 0
    assert "train.txt: an exact copy of cofly2014/GSLTA: splits/kinetics_CMN/trainlist03.txt" in out
    assert "still missing: val, of ffmpbgrnn/CMN: kinetics-100/val.list (https://github.com/ffmpbgrnn/CMN)" in out
    assert "fsar-cache extract kinetics100-gslta" in err
    text = (lists / "kinetics100-cmn" / "val.txt").read_text().splitlines()
    (tmp_path / "vallist03.txt").write_text("\n".join([*reversed(text), text[0]]) + "\n")
    code, out, _ = fsar("import", tmp_path / "vallist03.txt", "--name", "kinetics100")
    assert code == 0
    assert "the same content as published, form <class>/<clip>" in out
    assert "1 lines repeat a clip and count once: vallist03.txt line 1201 (as line 1200)" in out
    for part in ("train", "test"):
        assert f"still missing: {part}, of ffmpbgrnn/CMN: kinetics-100/{part}.list (https://github.com/ffmpbgrnn" in out
    assert (
        json.loads(fsar("import", tmp_path / "vallist03.txt", "--name", "kinetics100", "--json")[1])["splits"][0][
            "changed"
        ]
        is False
    )


def test_an_import_of_ones_own(tmp_path: Path, fsar: Fsar) -> None:
    world = make_kinetics(tmp_path / "videos", ways=2)
    write_lists(tmp_path / "own", world, "kinetics100", "A")
    (tmp_path / "own" / "readme.txt").write_text("nothing\n")
    code, out, err = fsar("import", tmp_path / "own")
    assert (code, out) == (2, "")
    assert "--name NAME" in err
    code, out, err = fsar("import", tmp_path / "own", "--name", "mine", "--videos", tmp_path / "videos")
    assert code == 0
    assert "mine: a split of yours of Kinetics-400" in out
    assert "skipped: readme.txt" in out
    assert f"fsar-cache extract mine --videos {tmp_path / 'videos'}" in err
    assert [p["found"]["videos"] for p in json.loads(fsar("show", "mine", "--json")[1])["parts"]] == [8, 8, 8]
    assert fsar("import", tmp_path / "nowhere")[0] == 3


def test_a_folder_of_lists_that_is_none(tmp_path: Path, fsar: Fsar, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lists(tmp_path / "own", make_kinetics(tmp_path / "videos", ways=1), "kinetics100", "A")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path / "file"))
    assert fsar("ls")[0] == 0
    code, out, err = fsar("import", tmp_path / "own", "--name", "mine")
    assert (code, out) == (2, "")
    assert "FSAR_LISTS" in err


def test_diff_of_published_splits_by_the_names_of_their_classes(fsar: Fsar) -> None:
    code, out, err = fsar("diff", "kinetics100", "ucf101", "--json")
    pairs = {(p["a"], p["b"]): p for p in json.loads(out)["pairs"]}
    assert code == 0
    assert pairs["train", "train"]["classes"]["same"] == [["bowling", "Bowling"]]
    assert pairs["train", "val"]["classes"]["joined"] == [["shot put", "Shotput"]]
    assert "only the names of classes are compared" in err
    told = json.loads(fsar("diff", "ssv2-small", "ssv2-full", "--json")[1])["pairs"]
    same = {(p["a"], p["b"]): len(p["classes"]["same"]) for p in told}
    assert (same["test", "train"], same["train", "test"], same["test", "test"]) == (7, 9, 2)
    code, out, _ = fsar("diff", "ssv2-small", "ssv2-full")
    assert next(line.split()[:3] for line in out.splitlines() if line.startswith("test ")) == ["test", "train", "7"]
    assert (
        fsar("diff", "kinetics100", "kinetics100")[1]
        == "no two partitions of kinetics100 share a class, a recording or a clip\n"
    )


def test_diff_looks_at_the_places_of_a_partition_once(
    tmp_path: Path, fsar: Fsar, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_diving48(tmp_path / "videos", clips=4, ways=2)
    calls: list[int] = []
    for module in ("splits.overlap", "pipeline.split_diff"):
        monkeypatch.setattr(f"{module}.located", lambda *of: [calls.append(1), located(*of)][1], raising=False)
    assert fsar("diff", "diving48-tamt", "diving48-cdfslv")[0] == 0
    assert len(calls) == len(known("diving48-tamt").parts) + len(known("diving48-cdfslv").parts)


def test_diff_of_two_splits_of_one_dataset(tmp_path: Path, fsar: Fsar) -> None:
    world = make_diving48(tmp_path / "videos", clips=4, ways=2, moved=2)
    told = json.loads(fsar("diff", "diving48-tamt", "diving48-v2", "--json")[1])
    one, other = world.parts("diving48-tamt"), world.parts("diving48-v2")
    for content in told["contents"]:
        mine, theirs = one[content["part"]], other[content["part"]]
        assert set(content["only_a"]) == mine.keys() - theirs.keys()
        assert set(content["only_b"]) == theirs.keys() - mine.keys()
        assert {tuple(row) for row in content["other"]} == {
            (i, mine[i], theirs[i]) for i in mine.keys() & theirs.keys() if mine[i] != theirs[i]
        }
    assert sum(len(content["only_a"]) + len(content["other"]) for content in told["contents"]) == 3
    code, out, _ = fsar("diff", "diving48-tamt", "diving48-v2")
    assert code == 0
    assert "only in diving48-tamt" in out


def test_missing_clips_of_kinetics_have_addresses_and_seconds(tmp_path: Path, fsar: Fsar) -> None:
    world = make_kinetics(tmp_path / "videos", clips=4, ways=3, missing=4)
    rows = table(fsar("missing", "kinetics400", "--csv")[1])
    assert {row["id"] for row in rows} == world.missing
    for row in rows:
        clip = world.clip(row["id"])
        span = [int(number) for number in clip.entry[12:].split("_")]
        assert row["url"] == f"https://www.youtube.com/watch?v={clip.id}"
        assert [row["class"], row["partition"], row["path"]] == [
            clip.label,
            clip.partition,
            str(world.root / clip.file),
        ]
        assert [int(row["start"]), int(row["end"])] == span
    code, out, _ = fsar("missing", "kinetics400", "--partition", "val")
    assert code == 0
    assert set(out.split()) == {clip for clip in world.missing if world.clip(clip).partition == "val"}
    assert fsar("missing", "kinetics400", "--partition", "vall")[0] == 2


def test_seconds_come_from_the_annotation_where_a_list_has_none(tmp_path: Path, fsar: Fsar) -> None:
    world = make_kinetics(tmp_path / "videos", clips=2, ways=2, ranges=False, missing=2)
    entries = "".join(f"{c.label}/{c.id}\n" for c in world.clips)
    (tmp_path / "test.txt").write_text(entries)
    assert (
        fsar("import", tmp_path / "test.txt", "--name", "mine", "--dataset", "kinetics", "--partition", "test")[0] == 0
    )
    rows = {row["id"]: row for row in table(fsar("missing", "mine", "--csv")[1])}
    assert rows.keys() == world.missing
    for id, row in rows.items():
        assert f"_{int(row['start']):06d}_{int(row['end']):06d}" == world.clip(id).entry[11:]


def test_missing_recordings_of_rareact_are_one_line_each(tmp_path: Path, fsar: Fsar) -> None:
    world = make_rareact(tmp_path / "videos", clips=3, ways=2, missing=2)
    lost = {world.clip(id).file: world.clip(id) for id in world.missing}
    code, out, err = fsar("missing", "rareact-official")
    assert (code, set(out.split())) == (0, {Path(file).stem for file in lost})
    assert f"{len(world.missing)} of {len(world.clips)} clips of 2 full videos" in err
    rows = table(fsar("missing", "rareact-official", "--csv")[1])
    for row in rows:
        labels = {c.label for c in world.clips if c.file == f"{row['id']}.mp4"}
        assert set(row["class"].split("; ")) == labels
        assert (row["url"], row["start"], row["end"]) == (f"https://www.youtube.com/watch?v={row['id']}", "", "")


def test_names_with_special_characters_survive_the_table(tmp_path: Path, fsar: Fsar) -> None:
    world = make_hmdb51(tmp_path / "videos", clips=5, ways=1, missing=5)
    out = tmp_path / "deep" / "missing.csv"
    code, text, err = fsar("missing", "hmdb51", "--csv", "--out", out)
    assert (code, text) == (0, "")
    assert str(out) in err
    rows = table(out.read_text())
    assert {row["id"] for row in rows} == world.missing
    assert {row["url"] for row in rows} == {""}
    code, _, err = fsar("missing", "hmdb51", "--out", tmp_path)
    assert code == 2
    assert fsar("missing", "hmdb51", "--csv", "--json")[0] == 2


@pytest.mark.parametrize("dataset", MAKERS)
def test_nothing_missing_is_said_on_stderr(dataset: str, tmp_path: Path, fsar: Fsar) -> None:
    MAKERS[dataset](tmp_path / "videos", clips=1, ways=1)
    for words in ([], ["--csv"]):
        code, out, err = fsar("missing", dataset, *words)
        assert (code, out) == (0, "")
        assert "nothing is missing" in err


def test_another_folder_of_videos(tmp_path: Path, fsar: Fsar) -> None:
    make_ucf101(tmp_path / "elsewhere", clips=1, ways=1)
    elsewhere = ["--videos", tmp_path / "elsewhere"]
    told: list[Any] = json.loads(fsar("ls", "--json", *elsewhere)[1])
    assert next(row["state"]["word"] for row in told if row["name"] == "ucf101") == "ready"
    assert fsar("missing", "ucf101", *elsewhere)[0] == 0
    assert "state: ready" in fsar("show", "ucf101", *elsewhere)[1]
    assert fsar("check", "ucf101", *elsewhere)[0] == 4
    assert fsar("diff", "ucf101", "ucf101-cdfslv", *elsewhere)[0] == 0
    assert states(fsar)["ucf101"] == "no videos"
    code, out, err = fsar("ls", "--videos", tmp_path / "nowhere")
    assert (code, out) == (3, "")
    assert "nowhere" in "".join(err.split())


def test_docs_have_every_split_as_it_is_published() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "datasets.md").read_text()
    rows = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")]
        for line in text.splitlines()
        if line[:3] == "| `"
    }
    for name in known_names():
        facts, every = known(name), len(official(known(name).dataset).classes)
        for i, part in enumerate(("train", "val", "test"), 2):
            said = facts.parts.get(part)
            if said is None:
                assert rows[name][i] in ("", f"all: {every} classes")
            elif said.total:
                assert rows[name][i] == f"{len(said.classes)}/{said.total}"
            else:
                assert rows[name][i] == f"{len(said.classes) or every - len(facts.drop)} classes"
        assert any(name in line for line in text.splitlines() if line.startswith("### "))
    for name in official_names():
        assert f"## {official(name).title}\n" in text
