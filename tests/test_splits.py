"""Datasets: class folders, the rendered world, and the names by which they are opened."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_cache.errors import IntegrityError, MissingError, UsageError
from splits.csvfile import load_csv
from splits.datasets import DATASETS, expand, known_datasets, missing, open_split
from splits.folder import load_folder
from splits.synth import read_truth
from splits.types import Split


def plant(root: Path, *files: str) -> Path:
    """Empty files below `root`."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def ids(split: Split) -> dict[str, list[str]]:
    return {name: [v.id for v in part.videos] for name, part in split.parts.items()}


def said(error: pytest.ExceptionInfo[UsageError] | pytest.ExceptionInfo[MissingError]) -> str:
    return f"{error.value.message} {error.value.hint}"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- folder


def test_folder_of_classes_is_one_part(tmp_path: Path) -> None:
    split = load_folder(
        "mine", plant(tmp_path, "run/b.mp4", "run/a.WEBM", "jump up/c.d.avi", "jump up/notes.txt", "list.csv")
    )
    part = split.part("all")
    assert list(split.parts) == ["all"]
    assert part.classes == ("jump up", "run")
    assert [(v.id, v.label, v.path) for v in part.videos] == [
        ("jump up/c.d", "jump up", "jump up/c.d.avi"),
        ("run/a", "run", "run/a.WEBM"),
        ("run/b", "run", "run/b.mp4"),
    ]
    assert part.labels.tolist() == [0, 1, 1]
    assert missing(split) == []


def test_folder_with_partitions_keeps_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("test/a/1.mp4", "train/a/1.mp4", "train/b/2.mkv", "val/c/1.mov", "validation/d/1.mp4")
    split = load_folder("mine", plant(tmp_path, *files))
    assert ids(split) == {"train": ["train/a/1", "train/b/2"], "val": ["val/c/1"], "test": ["test/a/1"]}
    assert list(split.parts) == ["train", "val", "test"]
    assert split.part("train").classes == ("a", "b")
    assert "left out validation" in capsys.readouterr().err


def test_folder_class_may_be_called_train(tmp_path: Path) -> None:
    split = load_folder("vehicles", plant(tmp_path, "train/1.mp4", "bus/1.mp4"))
    assert ids(split) == {"all": ["bus/1", "train/1"]}


def test_folder_files_that_differ_by_extension_keep_it(tmp_path: Path) -> None:
    names = ("a.mp4", "a.webm", "b.mp4", "a.mp4.avi", "c", "c.mp4")
    split = load_folder("mine", plant(tmp_path, *(f"k/{n}" for n in names), "other/a.mp4"))
    assert ids(split)["all"] == ["k/a.mp4", "k/a.mp4.avi", "k/a.webm", "k/b", "k/c", "other/a"]


@settings(max_examples=50)
@given(st.sets(st.from_regex(r"[ab]{1,2}(\.(mp4|avi|MKV)){1,3}", fullmatch=True), min_size=1))
def test_folder_ids_are_unique(names: set[str]) -> None:
    from splits.folder import _ids

    made = _ids(sorted(names))
    assert len(set(made)) == len(names)
    assert all(file.startswith(made_id) for file, made_id in zip(sorted(names), made, strict=True))


def test_folder_ignores_hidden_and_follows_links(tmp_path: Path) -> None:
    elsewhere = plant(tmp_path / "elsewhere", "x.mp4").joinpath("x.mp4")
    root = plant(tmp_path / "root", "a/.hidden.mp4", "a/._b.mp4", ".git/b.mp4", "a/1.mp4", "a/deeper.mp4/no.mp4")
    (root / "a" / "2.mp4").symlink_to(elsewhere)
    (root / "a" / "3.mp4").symlink_to(tmp_path / "gone.mp4")
    (root / "linked").symlink_to(elsewhere.parent)
    split = load_folder("mine", root)
    assert ids(split) == {"all": ["a/1", "a/2", "a/3", "linked/x"]}
    assert [v.id for v in missing(split)] == ["a/3"]


def test_folder_warns_of_empty_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(tmp_path, "full/1.mp4", "texts/readme.txt", "deep/er/1.mp4")
    (root / "void").mkdir()
    assert load_folder("mine", root).part("all").classes == ("full",)
    err = " ".join(capsys.readouterr().err.split())
    assert "warning" in err
    assert "deep, texts, void" in err


@pytest.mark.parametrize("files", [(), ("1.mp4",), ("a/readme.txt",), ("data/set/a/1.mp4",), ("train/a/1.txt",)])
def test_folder_without_class_folders_is_missing_data(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(MissingError, match="no class folder with videos") as caught:
        load_folder("mine", plant(tmp_path, *files))
    assert "{train,val,test}/CLASS/VIDEO" in str(caught.value.hint)


def test_folder_refuses_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    try:
        (tmp_path / "a" / os.fsdecode(b"\xff\xfe.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    with pytest.raises(UsageError, match="bytes that are no text"):
        load_folder("mine", tmp_path)


def test_folder_takes_names_of_any_script(tmp_path: Path) -> None:
    split = load_folder("mine", plant(tmp_path, "跑 步/été\u00a01.mp4", "-x/[a]#(b)&.mp4"))
    assert ids(split) == {"all": ["-x/[a]#(b)&", "跑 步/été\u00a01"]}


# --- synth


def rendered(videos: Path, domain: str = "source") -> Path:
    folder = videos / "synth" / domain
    lines = [
        {"id": "f3", "class": "grow", "path": "clips/f3.mp4", "partition": "train", "start": 0.4, "duration": 1.0},
        {"id": "a1", "class": "fall", "path": "clips/a1.mp4", "partition": "test", "start": 0.1, "duration": 1.0},
        {"id": "b2", "class": "bend", "path": "clips/b2.mp4", "partition": "train", "start": 0.0, "duration": 2.0},
    ]
    plant(folder, *(str(line["path"]) for line in lines))
    write(folder / "truth.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(folder / "info.json", json.dumps({"settings": {"seed": 3}}))
    return folder


def test_synth_reads_what_was_rendered(tmp_path: Path) -> None:
    folder = rendered(tmp_path)
    split = open_split("synth-source", tmp_path)
    assert (split.name, split.root) == ("synth-source", folder)
    assert ids(split) == {"train": ["f3", "b2"], "test": ["a1"]}
    assert split.part("train").classes == ("bend", "grow")
    assert split.part("train").videos[0].start is None, "the action's start is truth, not a span to cut"
    assert split.provenance["info"]["settings"] == {"seed": 3}
    assert missing(split) == []
    assert read_truth(folder)[2]["duration"] == 2.0


def test_synth_not_rendered_or_not_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSAR_VIDEOS", str(tmp_path))
    folder = rendered(tmp_path, "far")
    assert open_split("synth-far").part("test").ids == ("a1",)
    for lost in ("info.json", "truth.jsonl"):
        rendered(tmp_path, "far")
        (folder / lost).unlink()
        with pytest.raises(MissingError) as caught:
            open_split("synth-far")
        assert caught.value.hint == "fsar-cache synth --domain far"
    with pytest.raises(MissingError):
        open_split("synth-target")


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"id": "x", "class": "y", "path": "z"}', '{"id": 1, "class": 2, "path": 3, "partition": 4}']
)
def test_synth_damaged_truth_is_named(tmp_path: Path, line: str) -> None:
    folder = rendered(tmp_path)
    with (folder / "truth.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(IntegrityError, match="line 4"):
        open_split("synth-source", tmp_path)
    write(folder / "truth.jsonl", "")
    with pytest.raises(IntegrityError, match="no clips"):
        open_split("synth-source", tmp_path)


# --- names


def test_every_registered_kind_is_listed_and_loads(tmp_path: Path) -> None:
    assert {"synth-source", "synth-target", "synth-far", "folder", "csv"} <= set(DATASETS.names())
    shown = dict(known_datasets())
    assert {"folder:PATH", "csv:PATH", "synth", *expand("synth")} <= set(shown)
    assert all(about and "\n" not in about for about in shown.values())
    plant(tmp_path, "a/1.mp4")
    assert DATASETS.get("folder")("any", tmp_path).name == "any"


def test_names_of_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "my.set/a/1.mp4", "c#/mine/a/1.mp4", "c#2/a/1.mp4")
    write(tmp_path / "spans.v2.csv", "id,class,path\n1,a,my.set/a/1.mp4\n")
    assert open_split(f"folder:{tmp_path}/my.set").name == "my.set"
    assert open_split(f"folder:{tmp_path}/my.set/#other").name == "other"
    assert open_split(f"folder:{tmp_path}/c#/mine").name == "mine"
    assert open_split(f"folder:{tmp_path}/c#2#two").root == tmp_path / "c#2"
    assert open_split(f"csv:{tmp_path}/spans.v2.csv").name == "spans.v2"
    monkeypatch.chdir(tmp_path / "my.set")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_split("folder:.").name == "my.set"
    assert open_split("folder:~/my.set").root == tmp_path / "my.set"
    listed = open_split("csv:../spans.v2.csv#s")
    monkeypatch.chdir(tmp_path)
    assert (listed.name, listed.root, missing(listed)) == ("s", tmp_path, [])


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("synth-sorce", UsageError, "did you mean 'synth-source'"),
        ("fodler:x", UsageError, "did you mean 'folder'"),
        ("synth", UsageError, "synth-source, synth-target, synth-far"),
        ("synth-source:x", UsageError, "takes no path"),
        ("", UsageError, "unknown dataset"),
        ("folder", UsageError, "folder:PATH"),
        ("csv:", UsageError, "csv:PATH"),
        ("folder:#x", UsageError, "folder:PATH#ALIAS"),
        ("folder:ok#", UsageError, "folder:PATH#ALIAS"),
        ("ok", UsageError, "folder:ok"),
        ("ok/a/1.mp4", UsageError, "csv:ok/a/1.mp4"),
        ("folder:gone", MissingError, "there is no"),
        ("folder:c#2", MissingError, "folder:c#2#ALIAS"),
        ("folder:two words", UsageError, "#ALIAS"),
        ("folder:.dot", UsageError, "#ALIAS"),
        ("folder:ok#a b", UsageError, "'a b'"),
        ("folder:ok#" + "x" * 101, UsageError, "at most 100"),
        ("folder:ok#synth-far", UsageError, "taken"),
        ("folder:ok#synth", UsageError, "taken"),
        ("csv:ok", MissingError, "can't read"),
        ("folder:ok/a/1.mp4", MissingError, "csv:"),
    ],
)
def test_names_that_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[UsageError] | type[MissingError], says: str
) -> None:
    monkeypatch.chdir(plant(tmp_path, "ok/a/1.mp4", "two words/a/1.mp4", ".dot/a/1.mp4", "c#2/a/1.mp4"))
    with pytest.raises(kind) as caught:
        open_split(name)
    assert says in said(caught)


def test_expand() -> None:
    assert expand("synth") == ["synth-source", "synth-target", "synth-far"]
    assert expand("synth-far") == ["synth-far"]
    assert expand("csv:a.csv#synth") == ["csv:a.csv#synth"]


def test_missing_lists_every_clip_of_a_lost_file(tmp_path: Path) -> None:
    plant(tmp_path, "there.mp4")
    (tmp_path / "folder.mp4").mkdir()
    rows = "1,a,there.mp4,test\n2,a,gone.mp4,test\n3,b,gone.mp4,train\n4,a,folder.mp4,train\n"
    split = load_csv("mine", write(tmp_path / "l.csv", "id,class,path,partition\n" + rows))
    assert [v.id for v in missing(split)] == ["3", "4", "2"]


def test_split_hash_sees_content_and_not_places(tmp_path: Path) -> None:
    base = "id,class,path,partition\n1,a,x.mp4,train\n2,b,y.mp4,train\n"
    one = load_csv("one", write(tmp_path / "l.csv", base))
    assert load_csv("two", write(tmp_path / "m.csv", base.replace("x.mp4", "moved/x.mp4"))).hash == one.hash
    for change in (("1,a", "3,a"), ("1,a", "1,b"), (".mp4,train\n2", ".mp4,test\n2")):
        assert load_csv("two", write(tmp_path / "m.csv", base.replace(*change))).hash != one.hash


def test_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.mp4", "b/1.mp4")
    scan = os.scandir

    def refused(folder: Path) -> object:
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(MissingError, match=r"can't read the folder .*b: Permission denied"):
        load_folder("mine", tmp_path)
