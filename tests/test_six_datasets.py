"""From each of the six datasets, as its owners distribute it, to an accuracy: what a user types, without anything prepared by hand."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_clips import World
from official_lists import write_lists
from official_worlds import MAKERS, make_hmdb51, make_kinetics, make_rareact, make_ssv2

from cache.features import FeatureStore
from cache.store import open_store, stores_under
from pipeline import cli
from splits.datasets import open_split
from splits.official.catalog import official, official_names
from splits.published.known import known

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--set", "features.size=32")
BROKEN = ("--max-failures", "0.5")
RECIPE = """
head = "gslta"
[features]
size = 32
normalise = "centre-source-std"
[source]
dataset = "{source}"
part = "train"
min_class = "drop"
[target]
dataset = "{target}"
part = "{test}"
min_class = "drop"
unlabelled = "train"
[head_config]
mlp_dim = 32
heads = 1
dim_head = 16
[train]
way = 3
shot = 1
query = 2
unlabelled = 4
iterations = 4
tasks_per_batch = 2
lr = 1e-4
[eval]
way = 3
shot = 1
query = 1
episodes = 20
"""
TESTED = dict.fromkeys(MAKERS, "test") | {"kinetics": "val"}
"""Dataset -> the partition of its default split that is tested."""


@dataclass
class Place:
    """A folder with all six datasets, and what was typed there."""

    folder: Path
    capture: Any
    worlds: dict[str, World] = field(default_factory=dict)

    def type(self, *words: str, code: int = 0) -> tuple[str, str]:
        """One command in this process; its results and messages."""
        self.capture.readouterr()
        found = cli.main(list(words))
        out, err = self.capture.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    def world(self, name: str) -> World:
        """The dataset, made and extracted the first time it is asked for."""
        if name not in self.worlds:
            clips, damaged = 6 if name == "kinetics" else 4, 1 if name == "rareact" else 2
            self.worlds[name] = MAKERS[name](self.folder / "videos", clips=clips, missing=1, damaged=damaged)
            self.type("extract", name, *SMALL, *BROKEN)
        return self.worlds[name]

    def recipe(self, source: str, target: str, test: str) -> Path:
        path = self.folder / f"{source}-{target}.toml"
        path.write_text(RECIPE.format(source=source, target=target, test=test))
        return path

    def store(self, name: str) -> FeatureStore:
        """The one store of the dataset."""
        (path,) = [path for path in stores_under(self.folder / "stores") if path.parent.name == name]
        return open_store(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("six")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VIDEOS", "STORES", "RUNS", "LISTS"):
            patch.setenv(f"FSAR_{name}", str(made / name.lower()))
        yield made


WORLDS: dict[str, World] = {}


@pytest.fixture
def place(folder: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(folder, capsys, WORLDS)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    """An empty place of a test's own."""
    for name in ("VIDEOS", "STORES", "RUNS", "LISTS"):
        monkeypatch.setenv(f"FSAR_{name}", str(tmp_path / name.lower()))
    return Place(tmp_path, capsys)


def accuracy(line: str) -> float:
    return float(re.search(r"shot: ([\d.]+) %", line)[1])  # type: ignore[index]


@pytest.mark.parametrize("name", official_names())
def test_extract_stores_every_clip_that_is_there(name: str, place: Place) -> None:
    world = place.world(name)
    split = open_split(name)
    ids = [i for part in split.parts.values() for i in part.ids]
    bad = world.missing | world.damaged
    assert split.name == known(official(name).default[0]).name
    with place.store(name) as store:
        assert store.dataset == name
        assert {row.id for row in store.rows} == set(ids)
        assert {row.id for row, ok in zip(store.rows, store.ok, strict=True) if not ok} == bad & set(ids)
        label_of = {c.id: c.label for c in world.clips}
        assert all(label_of[row.id] == row.label for row in store.rows)
        for id in bad & set(ids):
            outcome = store.outcome(int(store.rows_of([id])[0]))
            assert outcome is not None
            assert outcome.reason
    assert bad & set(ids)
    gone = {world.clip(i).file[:11] if name == "rareact" else i for i in world.missing & set(ids)}
    assert set(place.type("split", "missing", name)[0].split()) == gone
    _, err = place.type("extract", name, *SMALL, *BROKEN)
    assert "nothing to do" in err


@pytest.mark.parametrize("name", official_names())
def test_the_first_number_of_a_dataset(name: str, place: Place) -> None:
    """Classes differ in colour, so clips with the labels of others, or cut at other seconds, would not be told apart.

    Of the 15 classes of kinetics always three look the same.
    """
    place.world(name)
    words = () if TESTED[name] == "test" else ("--set", f"target.part={TESTED[name]}")
    out, _ = place.type(
        "eval", "--head", "protonet", "--target", name, "--shot", "1", "--episodes", "50", *SMALL, *words
    )
    assert re.match(rf"{official(name).default[0]}/{TESTED[name]}, 5-way 1-shot: ", out)
    assert accuracy(out) > (90 if len(open_split(name).parts[TESTED[name]].classes) <= 5 else 40)


@pytest.mark.parametrize("name", official_names())
def test_train_and_evaluate_within_one_dataset(name: str, place: Place) -> None:
    place.world(name)
    recipe = place.recipe(name, name, TESTED[name])
    place.type("train", "--recipe", str(recipe), "--run", f"own-{name}")
    out, _ = place.type("eval", "--run", f"own-{name}", "--json")
    found = json.loads(out)
    assert found["identity"]["dataset"] == official(name).default[0]
    assert 0 <= found["accuracy"] <= 100


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("kinetics", "kinetics364"),
        ("ucf101", "ucf101-cdfslv"),
        ("diving48", "diving48-cdfslv"),
        ("rareact", "rareact-tamt-positives"),
    ],
)
def test_splits_of_one_dataset_share_its_store(name: str, other: str, place: Place) -> None:
    place.world(name)
    _, err = place.type("extract", other, *SMALL, *BROKEN)
    assert "nothing to do" in err
    with place.store(name) as store:
        assert store.extents == (len(store.rows),)


def test_a_larger_split_adds_only_what_is_new(fresh: Place) -> None:
    world = make_ssv2(fresh.folder / "videos", clips=1, ways=3)
    fresh.type("extract", "ssv2", *SMALL)
    with fresh.store("ssv2") as store:
        before, rows = store.load(), [row.id for row in store.rows]
    fresh.type("extract", "ssv2-official", *SMALL)
    with fresh.store("ssv2") as store:
        assert store.extents == (9, 9)
        assert store.load()[:9].tobytes() == before.tobytes()
        assert [row.id for row in store.rows][:9] == rows
        assert {row.id for row in store.rows} == {c.id for c in world.clips}


def test_make_extracts_a_dataset_too(place: Place) -> None:
    place.world("ssv2")
    made = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "extract", "DATASET=ssv2"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(made.stdout.strip().splitlines()[-1])[1:]
    assert words == ["extract", "ssv2"]
    _, err = place.type(*words, *SMALL, *BROKEN)
    assert "nothing to do" in err


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (make_kinetics, {"nested": "underscores", "suffix": "_256", "ranges": False, "annotated": False}),
        (make_hmdb51, {"cleaned": "underscores", "inner": "videos"}),
        (make_rareact, {"header": False, "inner": "videos"}),
    ],
)
def test_another_layout_gives_the_same_features(make: Any, options: dict[str, Any], fresh: Place) -> None:
    found: list[dict[str, bytes]] = []
    for number, chosen in enumerate(({}, options)):
        world = make(fresh.folder / f"videos{number}", clips=2, ways=2, **chosen)
        os.environ["FSAR_VIDEOS"] = str(fresh.folder / f"videos{number}")
        os.environ["FSAR_STORES"] = str(fresh.folder / f"stores{number}")
        fresh.type("extract", world.name, *SMALL)
        (path,) = stores_under(fresh.folder / f"stores{number}")
        with open_store(path) as store:
            assert store.ok.all()
            found.append({row.id: features.tobytes() for row, features in zip(store.rows, store.load(), strict=True)})
    assert found[0] == found[1]
    assert len(found[0]) >= 8
    assert len(set(found[0].values())) > 3


@pytest.mark.parametrize(
    ("make", "options"),
    [(make_kinetics, {"frames": True, "nested": "underscores"}), (make_rareact, {"cut": "segments"})],
)
def test_frames_and_clips_that_are_cut_already_are_extracted_too(
    make: Any, options: dict[str, Any], fresh: Place
) -> None:
    world = make(fresh.folder / "videos", clips=2, ways=2, **options)
    fresh.type("extract", world.name, *SMALL)
    with fresh.store(world.name) as store:
        assert store.ok.all()
        assert {row.id for row in store.rows} == {c.id for c in world.clips}


def test_the_span_of_a_recording_is_what_is_stored(place: Place) -> None:
    """Clips of one recording differ, and clips of one class are alike, wherever in their recordings they lie."""
    world = place.world("rareact")
    with place.store("rareact") as store:
        rows = {row.id: f.mean(0) for row, f, ok in zip(store.rows, store.load(), store.ok, strict=True) if ok}
    clips = [c for c in world.clips if c.id in rows and c.label in known("rareact-tamt").parts["train"].classes]
    for clip in clips:
        others = [c for c in clips if c.id != clip.id and c.entry != clip.entry]
        nearest = min(others, key=lambda c: float(np.linalg.norm(rows[c.id] - rows[clip.id])))
        assert nearest.label == clip.label


@pytest.mark.parametrize("target", ["ucf101", "rareact"])
def test_from_kinetics_to_another_dataset(target: str, place: Place) -> None:
    """Labelled clips of an imported list, unlabelled ones of the target, tested on the target's unseen classes, then on another target."""
    world = place.world("kinetics")
    place.world(target)
    lists = write_lists(place.folder / "theirs", world, "kinetics100", "A")
    place.type("split", "import", str(lists[0].parent), "--name", "kinetics-mine", "--replace")
    _, err = place.type("extract", "kinetics-mine", *SMALL, *BROKEN)
    assert "nothing to do" in err
    recipe = place.recipe("kinetics-mine", target, "test")
    place.type("train", "--recipe", str(recipe), "--run", f"to-{target}")
    out, _ = place.type("eval", "--run", f"to-{target}", "--json")
    found = json.loads(out)
    assert found["identity"]["dataset"] == official(target).default[0]
    assert found["accuracy"] >= 0
    place.world("hmdb51")
    out, _ = place.type("eval", "--run", f"to-{target}", "--target", "hmdb51", "--shot", "1")
    assert out.startswith("hmdb51/test, 3-way 1-shot: ")


def test_a_mistyped_split_names_the_nearest(place: Place) -> None:
    place.world("ucf101")
    _, err = place.type("extract", "ucf10", *SMALL, code=2)
    assert "'ucf101'" in err
    _, err = place.type("extract", "kinetics100", *SMALL, code=3)
    assert "fsar-cache split import" in err
