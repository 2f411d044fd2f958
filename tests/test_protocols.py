"""Protocol presets: against the recipes and the cards of the methods, as settings of a run, and when runs are evaluated."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from worlds import World, make_world

import pipeline.protocol
from fsar_cache import places
from fsar_cache.errors import UsageError
from pipeline import choose, cli, evaluating
from pipeline.beside import extract_command
from pipeline.protocol import protocol, protocol_names
from pipeline.recipe import load_recipe
from pipeline.runs import evaluate_run
from pipeline.trainer import command_that_continues, train
from splits.official.catalog import official_names
from splits.published.known import known

TARGETS = ("ucf101", "hmdb51", "ssv2", "diving48", "rareact")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def toy(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A protocol on the small world, beside the recipe's: other shots, other queries."""
    table = {
        "name": "toy",
        "about": "toys",
        "whose": "nobody",
        "where": "nowhere",
        "differs": ["all of it"],
        "differs_unlabelled": ["what was seen without labels"],
        "source": {"dataset": f"csv:{world.folder}/source.csv#source", "part": "train"},
        "target": {"dataset": f"csv:{world.folder}/target.csv#target", "part": "test", "unlabelled": "train"},
        "train": {"way": 2, "shot": 2, "query": 2, "unlabelled": 4},
        "eval": {"way": 2, "shot": 1, "query": 2, "episodes": 20},
        "validation": "val",
    }
    other = {**table, "name": "other", "train": {"way": 4, "shot": 1, "query": 1}}
    monkeypatch.setattr(pipeline.protocol, "_tables", lambda: {"toy": table, "other": other})
    monkeypatch.setenv("FSAR_STORES", str(world.places.stores))
    return "toy"


def test_every_protocol_is_of_published_splits_that_have_its_partitions() -> None:
    for name in protocol_names():
        each = protocol(name)
        assert each.about
        assert each.differs, "papers differ everywhere"
        for dataset, parts in (
            (each.source.dataset, {each.source.part, each.validation} - {""}),
            (each.target.dataset, {each.target.part, each.target.unlabelled}),
        ):
            facts = known(dataset)
            assert (facts.name, facts.dataset in official_names()) == (dataset, True)
            assert parts <= set(facts.parts), name


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("head", ["gslta", "tamt"])
def test_a_cross_domain_protocol_is_that_of_the_recipe_with_the_published_number(head: str, target: str) -> None:
    recipe = load_recipe(f"{head}-kinetics-{target}-5shot")
    made = choose.load(recipe.name, None, [], f"{head}-{target}")
    theirs = replace(recipe.target, unlabelled="train")
    assert made == replace(recipe, name=f"{recipe.name}-{head}-{target}", target=theirs)


@pytest.mark.parametrize("dataset", ["kinetics100", "ssv2-full", "ssv2-small", "ucf101", "hmdb51"])
@pytest.mark.parametrize("shot", [1, 5])
def test_protocols_within_a_dataset(dataset: str, shot: int) -> None:
    made = choose.load(None, "trx", [], f"{dataset}-{shot}shot")
    e, t = made.eval, made.train
    assert (made.source.dataset, made.target.dataset) == (dataset, dataset)
    assert (e.way, e.shot, e.query, e.episodes) == (5, shot, 1, 10_000)
    assert (t.way, t.shot, t.query, t.unlabelled, t.validate_part) == (5, shot, 5, 0, "val")


def test_cdfslv_drops_the_small_classes_of_diving48_and_keeps_shared_clips() -> None:
    for source, validation in (("k61", ""), ("k364", "val")):
        for target, shared, small in (("diving48", "refuse", "drop"), ("rareact", "keep", "refuse")):
            each = protocol(f"cdfslv-{source}-{target}")
            assert (each.target.shared, each.target.min_class, each.validation) == (shared, small, validation)
            assert each.target.dataset == f"{target}-cdfslv"
            assert each.source.dataset == f"kinetics{source[1:]}"
    small = [name for name, count in zip(*_test_classes("diving48-cdfslv"), strict=True) if count < 6]
    assert len(small) == 8


def _test_classes(split: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    part = known(split).parts["test"]
    return part.classes, part.videos


def test_nothing_of_the_recipe_s_own_data_is_left() -> None:
    sets = ['target.drop_classes=["a"]', 'target.exclude=["1"]', "target.shared=drop", "target.min_class=drop"]
    made = choose.load("demo", None, [], "gslta-hmdb51")
    assert made.train.unlabelled == 25
    assert choose.load("trx", None, [], "gslta-hmdb51").train.unlabelled == 0, "a head that uses none"
    own = choose.load("demo", None, sets, "gslta-hmdb51").target
    assert (own.drop_classes, own.exclude, own.shared, own.min_class) == (("a",), ("1",), "drop", "drop")
    assert choose.load("demo", None, ["train.validate_every=5"], "kinetics100-1shot").train.validate_every == 5


def test_a_published_number_stays_with_its_own_protocol() -> None:
    assert choose.load("gslta-kinetics-ucf101-5shot", None, [], "gslta-ucf101").published is not None
    for other in ("gslta-hmdb51", "ucf101-1shot"):
        assert choose.load("gslta-kinetics-ucf101-5shot", None, [], other).published is None


def test_an_unknown_protocol_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        protocol("tamt-hmdb")
    assert "did you mean 'tamt-hmdb51'?" in str(caught.value.hint)
    assert len(caught.value.message) < 60


def test_protocols_are_listed() -> None:
    def listed(*words: str) -> str:
        made = CliRunner().invoke(cli.app, ["list", "protocols", *words])
        assert made.exit_code == 0, made.output
        return made.stdout

    lines = listed().splitlines()
    assert [line.split()[0] for line in lines] == protocol_names()
    (line,) = (line for line in lines if line.startswith("gslta-rareact "))
    for word in ("kinetics100-gslta -> rareact-gslta", "5-way 5-shot, 1 query", "1000 episodes", "GSLTA"):
        assert word in line
    found = json.loads(listed("--json"))
    assert found["tamt-rareact"]["target"]["shared"] == "keep"
    assert found["tamt-rareact"]["train"]["query"] == 1


def test_a_run_by_a_protocol(
    toy: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FSAR_RUNS", str(tmp_path / "runs"))
    world.recipe()
    base = str(world.folder / "gslta-pooled.toml")
    given = ["--recipe", base, "--protocol", toy]
    assert cli.main(["train", *given, "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert "protocol toy: toys (nobody; nowhere)" in err
    assert "before comparing: all of it" in err
    assert "before comparing: what was seen without labels" in err
    assert "left out" not in err
    folder = tmp_path / "runs" / "gslta-pooled-toy"
    config = json.loads((folder / "config.json").read_text())
    assert (config["name"], config["train"]["unlabelled"], config["eval"]["shot"]) == ("gslta-pooled-toy", 4, 1)
    assert cli.main(["eval", *given, "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["identity"]["protocol"] == {"way": 2, "shot": 1, "query": 2, "episodes": 20, "unlabelled": 0}
    assert [path.name for path in folder.glob("eval-*")] == ["eval-target.json"]
    assert cli.main(["train", *given, "--set", "train.lr=0.1", "--device", "cpu"]) == 0
    assert len(list((tmp_path / "runs").glob("gslta-pooled-toy-??????"))) == 1
    assert cli.main(["eval", "--head", "gslta", "--recipe", base, "--protocol", "other"]) == 3
    hint = capsys.readouterr().err
    assert f"fsar-cache train --recipe {base} --protocol other" in " ".join(hint.split())


def test_a_head_without_unlabelled_clips_is_told_what_it_leaves_out(
    toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = choose.settle(None, "trx", [], toy)
    err = " ".join(capsys.readouterr().err.split())
    assert (made.train.unlabelled, made.name.endswith("-toy")) == (0, True)
    assert "this head uses no unlabelled clips: that part of the protocol is left out" in err
    assert "before comparing: all of it" in err
    assert "seen without labels" not in err


@pytest.mark.parametrize("name", protocol_names())
def test_what_unlabelled_clips_make_of_a_protocol_is_said_apart(name: str) -> None:
    each = protocol(name)
    assert bool(each.differs_unlabelled) == name.startswith(("gslta-", "cdfslv-"))
    assert not [text for text in each.differs if "both sides" in text]


def test_a_run_that_was_trained_otherwise_is_evaluated_by_a_protocol_aloud(
    toy: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.recipe("train.iterations=4"), tmp_path / "run", world.places, device="cpu")
    found = evaluating.evaluate(None, None, str(tmp_path / "run"), [], protocol=toy, device="cpu")
    assert found.identity["protocol"]["shot"] == 1
    assert "was trained otherwise than toy says (train.shot 1, not 2, " in capsys.readouterr().err.replace("\n", " ")
    again = evaluating.evaluate(None, None, str(tmp_path / "run"), ["eval.shot=2"], protocol=toy, device="cpu")
    assert again.identity["protocol"]["shot"] == 2


def test_commands_repeat_the_folder_of_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = load_recipe("demo").features
    folder = tmp_path / "my videos"
    try:
        places.use_videos(folder)
        assert places.videos() == folder
        for command in (
            choose.command("train", "demo", None, None, [], "gslta-ucf101"),
            extract_command("ssv2", features),
            command_that_continues(tmp_path, __import__("torch").device("cpu")),
        ):
            words = shlex.split(command)
            assert words[words.index("--videos") + 1] == str(folder)
        assert "--protocol gslta-ucf101" in choose.command("train", "demo", None, None, [], "gslta-ucf101")
    finally:
        places.use_videos(None)
    assert "--videos" not in extract_command("ssv2", features)


def test_the_folder_of_videos_holds_for_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FSAR_VIDEOS", raising=False)
    (tmp_path / "here").mkdir()
    assert cli.main(["extract", "synth-source", "--dry-run", "--videos", "here"]) == 3
    assert f"{tmp_path}/here/synth" in "".join(capsys.readouterr().err.split("\n"))
    assert cli.main(["extract", "synth-source", "--dry-run"]) == 3
    assert f"{tmp_path}/videos/synth" in "".join(capsys.readouterr().err.split("\n"))


def dropped(world: World, *sets: str) -> dict[str, Any]:
    from pipeline.assemble import workshop

    with workshop(world.recipe(*sets), world.places) as shop:
        data, identity = shop.training()
        _, sampler, held = shop.evaluation(shop.recipe.target, shop.recipe.eval.protocol, 1)
        return {
            "classes": data.sampler.part.classes,
            "clips": len(data.sampler.part.videos),
            "pool": len(data.unlabelled.part.videos) if data.unlabelled else 0,
            "model": shop.training_model().head.config.class_num,
            "held": sampler.part.classes,
            "identity": (identity["source"]["split"], held["split"]),
        }


def test_dropped_classes_are_not_there(world: World, tmp_path: Path) -> None:
    whole = dropped(world)
    less = dropped(world, 'source.drop_classes=["train1"]')
    assert (less["classes"], less["clips"], less["model"]) == (("train0", "train2", "train3"), 18, 3)
    assert (less["pool"], less["held"]) == (whole["pool"], whole["held"])
    assert less["identity"][0] != whole["identity"][0]
    assert less["identity"][1] == whole["identity"][1]
    both = dropped(world, 'target.drop_classes=["test0", "train2"]', 'target.exclude=["target-test-0-1"]')
    assert (both["pool"], both["held"]) == (18, ("test1", "test2", "test3"))
    assert both["identity"][0] == whole["identity"][0]
    with pytest.raises(UsageError, match="source has no class 'trian1' to drop") as caught:
        dropped(world, 'source.drop_classes=["trian1"]')
    assert "did you mean 'train1'?" in str(caught.value.hint)
    with pytest.raises(UsageError, match="3-way"):
        dropped(world, 'source.drop_classes=["train0", "train1"]')


def test_an_evaluation_without_some_classes_is_another_one(world: World, tmp_path: Path) -> None:
    train(world.recipe("train.iterations=4"), tmp_path / "run", world.places, device="cpu")
    evaluate_run(tmp_path / "run", world.places, device="cpu")
    found = evaluate_run(tmp_path / "run", world.places, sets=['target.drop_classes=["test0"]'], device="cpu")
    assert found.classes == ("test1", "test2", "test3")
    assert len(list((tmp_path / "run").glob("eval-*.json"))) == 2


def test_a_protocol_of_which_something_is_changed_is_told(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    choose.settle(None, "gslta", [], toy)
    assert "as it was published" not in capsys.readouterr().err
    made = choose.settle(None, "gslta", ["train.query=3", 'target.dataset="synth-far"'], toy)
    said = " ".join(capsys.readouterr().err.split())
    assert "this is not toy as it was published: target.dataset is 'synth-far'" in said
    assert "train.query is 3, not 2" in said
    assert made.about == f"gslta from {made.source.dataset} to synth-far"
    assert "unlabelled clips of synth-far/train" in said
