"""What training shares with the evaluation: warnings, what becomes of shared clips, and where both are kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import World, make_world

import pipeline.domains
from fsar_cache import console
from fsar_cache.errors import UsageError
from pipeline import choose, cli
from pipeline.assemble import workshop
from pipeline.domains import used
from pipeline.leaks import leaks, leaks_of_run, tell
from pipeline.recipe import Domain, Recipe, load_recipe
from pipeline.report import write_page
from pipeline.results import read_evaluation
from pipeline.runs import evaluate_run
from pipeline.seen import SEEN, seen_by
from pipeline.trainer import train
from pipeline.unseen import apart, shared_clips

FEATURES = "[features]\nsize = 32\n[train]\nunlabelled = 1\n[head_config]\nmlp_dim = 32\nheads = 1\ndim_head = 16\n"


@pytest.fixture(autouse=True)
def _a_new_command() -> None:
    console.forget_warnings()


def recipe_of(folder: Path, source: dict[str, str], target: dict[str, str]) -> Recipe:
    """Lists of {"class/clip": partition}; target part "test", unlabelled "train"."""
    for name, clips in (("source", source), ("target", target)):
        lines = ["id,class,path,partition"]
        for clip, part in clips.items():
            label, _, stem = clip.partition("/")
            lines.append(f"{name}-{stem},{label},{stem}.mp4,{part}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "r.toml").write_text(
        f'head = "gslta"\n{FEATURES}[source]\ndataset = "csv:{folder}/source.csv"\npart = "train"\n'
        f'[target]\ndataset = "csv:{folder}/target.csv"\npart = "test"\nunlabelled = "train"\n'
    )
    return load_recipe(str(folder / "r.toml"))


def leaks_by(trained: Recipe, target: Domain) -> tuple[str, ...]:
    return leaks(seen_by(trained), target)


def test_nothing_is_said_where_nothing_is_shared(tmp_path: Path) -> None:
    made = recipe_of(tmp_path, {"run/1": "train"}, {"sit/2": "train", "jump/3": "test"})
    assert leaks_by(made, made.target) == ()


def test_classes_of_the_same_and_nearly_the_same_name(tmp_path: Path) -> None:
    target = {"sit/4": "train", "Sit/5": "test", "Bowling/6": "test", "laugh/7": "test", "Shotput/8": "test"}
    source = {"bowling/1": "train", "laughing/2": "train", "shot put/3": "train"}
    made = recipe_of(tmp_path, source, target)
    same, near, unlabelled = leaks_by(made, made.target)
    assert same.startswith(
        "1 of 4 classes of target/test are classes of source/train too, trained on with their labels: Bowling; "
    )
    assert near.startswith("2 classes of target/test have nearly the name of a class of source/train")
    assert near.endswith("laugh ~ laughing, Shotput ~ shot put")
    assert unlabelled.startswith(
        "1 of 4 classes of target/test are classes of target/train too, trained on without labels: Sit; "
    )
    assert "unlabelled clips were seen" in unlabelled
    less = replace(made.source, drop_classes=("bowling", "laughing", "shot put"))
    assert leaks_by(replace(made, source=less), made.target) == (unlabelled,)
    assert leaks_by(replace(made, train=replace(made.train, unlabelled=0)), made.target) == (same, near)


def test_source_videos_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from splits import csvfile
    from splits.types import Video

    def with_source(*of: object, **named: object) -> Video:
        made = Video(*of, **named)  # type: ignore[arg-type]
        return replace(made, source=made.id.rpartition("-")[2][0])

    monkeypatch.setattr(csvfile, "Video", with_source)
    made = recipe_of(
        tmp_path,
        {"run/a1": "train", "run/b1": "train"},
        {"sit/c1": "train", "jump/a2": "test", "jump/a3": "test", "jump/d1": "test"},
    )
    (found,) = leaks_by(made, made.target)
    assert found.startswith("1 of 2 source videos of target/test (2 of 3 clips) are source videos of source/train too")
    assert found.endswith("e.g. a")


def test_each_leak_is_told_once_per_command(capsys: pytest.CaptureFixture[str]) -> None:
    tell(["a", "b"])
    tell(["a"])
    assert capsys.readouterr().err.split("\n")[:-1] == ["warning: leak: a", "warning: leak: b"]


def shared(folder: Path, how: str) -> Recipe:
    """Of 4 test clips, one is among 3 source clips and one among 3 unlabelled ones."""
    source = {"run/1": "train", "run/2": "train", "run/3": "train"}
    target = {"sit/4": "train", "sit/5": "train", "sit/6": "train", "jump/7": "test", "jump/8": "test"}
    made = recipe_of(folder, source, target)
    with (folder / "target.csv").open("a") as file:
        file.write("again,jump,1.mp4,test\nonce more,jump,./x/../4.mp4,test\n")
    return replace(made, target=replace(made.target, shared=how))


def test_shared_clips_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"1 of 4 evaluation clips \(target.part\) .*\(source.part\), e.g. 'again'"
    ) as caught:
        apart(shared(tmp_path, "refuse"))
    for way in ("target.shared=drop", "target.shared=keep"):
        assert f"--set {way}" in str(caught.value.hint)


def test_shared_clips_are_dropped_from_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = apart(shared(tmp_path, "drop"))
    assert (made.source.exclude, made.target.exclude) == (("source-1",), ("target-4",))
    err = capsys.readouterr().err
    assert err.count("1 of 4 evaluation clips") == 2
    assert "training leaves them out (target.shared = drop)" in err
    assert "warning" not in err
    assert leaks_by(made, made.target) == ()
    assert leaks_of_run(tmp_path, shared(tmp_path, "drop"), made.target, chosen=True) == ()


def test_shared_clips_are_kept_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = shared(tmp_path, "keep")
    assert apart(recipe) == recipe
    assert capsys.readouterr().err.count("warning: 1 of 4 evaluation clips") == 2
    assert [text.partition(",")[0] for text in leaks_by(recipe, recipe.target)] == [
        "1 of 4 clips of target/test are clips of source/train too",
        "1 of 4 clips of target/test are clips of target/train too",
    ]


def test_validation_clips_obey_the_same_setting(tmp_path: Path) -> None:
    made = shared(tmp_path, "drop")
    with (tmp_path / "source.csv").open("a") as file:
        file.write("v1,run,2.mp4,val\nv2,run,7.mp4,val\nv3,run,9.mp4,val\n")
    made = replace(made, train=replace(made.train, validate_every=5))
    assert set(apart(made).source.exclude) == {"source-1", "source-2", "v2"}
    with pytest.raises(UsageError, match="1 of 3 validation clips"):
        apart(replace(made, target=replace(made.target, shared="refuse")))


def test_only_the_target_says_what_becomes_of_shared_clips(tmp_path: Path) -> None:
    recipe_of(tmp_path, {"run/1": "train"}, {"jump/2": "test"})
    with pytest.raises(UsageError, match=r"source\.shared has no use"):
        load_recipe(str(tmp_path / "r.toml"), ["source.shared=keep"])


@pytest.fixture
def doubled(tmp_path: Path) -> World:
    """A test clip that is also the file of a source clip, with features; and classes test0 in the source."""
    world = make_world(tmp_path / "world")
    for name in ("source", "target"):
        path = world.folder / f"{name}.csv"
        text = path.read_text()
        path.write_text(text.replace("target-test-0-0.mp4", "source-train-0-0.mp4").replace("train1", "test1"))
    return world


def test_what_is_left_out_is_not_drawn(doubled: World) -> None:
    def excluded(how: str) -> frozenset[str]:
        with workshop(doubled.recipe(f"target.shared={how}"), doubled.places) as shop:
            data, _ = shop.training()
            assert len(data.sampler.part.videos) == 24
            return frozenset(data.exclude)

    assert excluded("drop") == {"source-train-0-0"}
    assert excluded("keep") == frozenset()


def test_runs_and_evaluations_keep_what_was_said(
    doubled: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train(doubled.recipe("target.shared=keep", "train.iterations=4"), folder, doubled.places, device="cpu")
    kept = json.loads((folder / "provenance.json").read_text())["leaks"]
    assert len(kept) == 3
    assert all(f"leak: {text}" in capsys.readouterr().err.replace("\n", " ") for text in kept[:1])
    found = evaluate_run(folder, doubled.places, device="cpu")
    assert found.leaks is not None
    assert list(found.leaks) == kept
    (path,) = folder.glob("eval-*.json")
    assert read_evaluation(path) == found
    old = json.loads(path.read_text())
    del old["leaks"]
    path.write_text(json.dumps(old))
    assert read_evaluation(path).leaks is None, "of a version that didn't say"
    opened: list[str] = []
    opens = pipeline.domains.open_split
    monkeypatch.setattr(pipeline.domains, "open_split", lambda name: [opened.append(name), opens(name)][1])
    (doubled.folder / "source.csv").unlink()
    assert evaluate_run(folder, doubled.places, device="cpu").leaks == found.leaks, "without the source"
    assert {name.partition("#")[2] for name in opened} == {"target"}


@pytest.mark.parametrize("damage", [None, "{}", "[1", '{"format": 1, "seen": [{"setting": "source.part"}]}'])
def test_a_run_that_does_not_say_what_it_saw(
    damage: str | None, doubled: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of older versions: its data are opened, and where they are gone leaks are not checked, rather than none."""
    folder = tmp_path / "run"
    train(doubled.recipe("target.shared=keep", "train.iterations=4"), folder, doubled.places, device="cpu")
    kept = json.loads((folder / "provenance.json").read_text())["leaks"]
    (folder / SEEN).unlink()
    assert list(evaluate_run(folder, doubled.places, device="cpu").leaks or ()) == kept
    if damage is None:
        (doubled.folder / "source.csv").unlink()
    else:
        (folder / SEEN).write_text(damage)
    capsys.readouterr()
    assert evaluate_run(folder, doubled.places, device="cpu").leaks is None
    assert "warning: leaks not checked: what " in capsys.readouterr().err
    (path,) = folder.glob("eval-*.json")
    assert json.loads(path.read_text())["leaks"] is None
    assert read_evaluation(path).leaks is None
    page, _ = write_page(folder, lambda *_: {"absent": "nothing to see"})
    assert "Leaks: not checked" in page.read_text()


def test_what_checkpoints_were_chosen_by_is_a_side_too(tmp_path: Path) -> None:
    source = {"run/1": "train", "Jump/2": "val", "sit/3": "val", "hop/5": "other"}
    made = recipe_of(tmp_path, source, {"jump/4": "test", "jump/6": "train"})
    made = replace(made, train=replace(made.train, unlabelled=0, validate_every=5))
    (said,) = leaks_by(made, made.target)
    assert said.startswith(
        "1 of 1 classes of target/test are classes of source/val too, by which checkpoints were chosen"
    )
    assert said.endswith("jump; the checkpoint was chosen for them")
    assert leaks_of_run(tmp_path, made, made.target, chosen=True) == (said,)
    assert leaks_of_run(tmp_path, made, made.target, chosen=False) == (), "a checkpoint that wasn't chosen"
    assert leaks_by(replace(made, train=replace(made.train, validate_every=0)), made.target) == ()
    (said,) = leaks_by(made, replace(made.source, part="val"))
    assert said == "checkpoints were chosen by the clips of source/val: this accuracy is no test"


@pytest.mark.parametrize(
    ("protocol", "held", "clips", "sources"),
    [
        ("gslta-rareact", 2493, (19, 19), (437, 466)),
        ("cdfslv-k61-rareact", 2521, (48, 46), (439, 467)),
    ],
)
def test_the_published_lists_of_rareact_share_what_their_card_says(
    protocol: str,
    held: int,
    clips: tuple[int, int],
    sources: tuple[int, int],
    shared_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shared clips and segments, and source videos, counted from the lists' own lines where the card has them."""
    lists = shared_folder / "splits" / "published"
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path / "lists"))
    monkeypatch.setenv("FSAR_VIDEOS", str(tmp_path / "videos"))
    (tmp_path / "videos" / "kinetics").mkdir(parents=True)
    (tmp_path / "videos" / "rareact").mkdir()
    shutil.copy(lists / "rareact-official" / "rareact.csv", tmp_path / "videos" / "rareact")
    for name in ("kinetics100-gslta", "kinetics61-cdfslv", "rareact-gslta", "rareact-cdfslv"):
        assert cli.main(["split", "import", str(lists / name)]) == 0
    recipe = choose.load("demo", None, [], protocol)
    (both,) = shared_clips(recipe)
    assert (len(both.kept), both.total, both.own, both.setting) == (clips[0], held, "target.part", "target.unlabelled")
    where = {
        (video.path, video.start, video.end)
        for video in used(recipe.target, "test").part.videos
        if video.id in both.kept
    }
    assert len(where) == clips[1]
    said = leaks_by(recipe, recipe.target)
    assert said[1].startswith(f"64 of 64 classes of {recipe.target.dataset}/test are classes of ")
    assert said[2].startswith(f"{sources[0]} of {sources[1]} source videos of ")
