"""Recipes: the shipped ones are whole, settings reach where they should, mistakes are named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from extract.config import ExtractConfig
from fsar_cache.canonical import plain
from fsar_cache.errors import MissingError, UsageError
from fsar_cache.files import write_json
from fsar_cache.settings import build
from heads.base import HEADS
from pipeline import recipe as recipes
from pipeline.assemble import extract_config
from pipeline.model import build_head
from pipeline.optim import rate_at
from pipeline.recipe import Features, Recipe, Train, load_recipe
from splits.datasets import open_split


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_load_and_build_their_head(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert recipe.head in HEADS.names()
    build_head(recipe, 12)
    assert build(Recipe, plain(recipe)) == recipe


def test_every_head_has_one_default_recipe() -> None:
    shipped = [load_recipe(name) for name in recipes.names()]
    assert sorted(recipe.head for recipe in shipped if recipe.default_of_head) == sorted(HEADS.names())
    for head in HEADS:
        assert load_recipe(recipes.recipe_of_head(head)).head == head
    assert recipes.recipe_of_head("gslta") == "demo"
    with pytest.raises(UsageError, match="no recipe uses the head 'trx'"):
        recipes.recipe_of_head("trx")


def test_the_published_training_of_gslta() -> None:
    """The card's numbers; lists of clips that nobody has yet are said to be missing."""
    made = load_recipe("gslta-published")
    f, t, e = made.features, made.train, made.eval
    assert (f.cut, f.frames, f.size, f.normalise, f.scaling) == ("video", 8, 224, "none", "unit")
    assert (f.backbone, f.train_sampling, f.train_transform) == ("resnet18", "gslta-train", "gslta-train")
    assert (t.way, t.shot, t.query, t.unlabelled, t.unlabelled_sampling) == (5, 5, 5, 25, "uniform")
    assert (t.iterations, t.tasks_per_batch, t.first_step_early, t.optimizer, t.lr) == (22020, 16, True, "adam", 1e-3)
    assert (t.schedule, t.weight_decay, t.seed) == ("constant", 0.0, 1896)
    assert 20000 % t.keep_every == 0, "the published test is at 20000"
    assert (e.way, e.shot, e.query, e.episodes) == (5, 5, 1, 1000)
    assert [i for i in range(1, 40) if t.steps_at(i)] == [15, 31]
    assert build_head(made, 64).config == HEADS.get("gslta").Config(class_num=64, tasks_per_batch=16)
    with pytest.raises(MissingError, match=r"kinetics\.csv"):
        open_split(made.source.dataset)


def test_the_published_training_of_baselines() -> None:
    for name in ("otam", "protonet"):
        t = load_recipe(name).train
        assert (t.optimizer, t.lr, t.momentum, t.tasks_per_batch, t.query, t.iterations) == (
            "sgd",
            1e-3,
            0,
            1,
            5,
            50000,
        )


def test_the_recipe_that_a_run_keeps_is_a_recipe(tmp_path: Path) -> None:
    made = load_recipe("demo", ["train.milestones=[3]", "train.schedule=steps", "source.exclude=['a b']"])
    write_json(tmp_path / "config.json", made)
    assert load_recipe(str(tmp_path / "config.json")) == made


def test_a_recipe_may_be_a_file_and_takes_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'head = "otam"\nsource = {dataset = "a", part = "train"}\ntarget = {dataset = "b", part = "test"}\n'
    )
    made = load_recipe(
        str(path),
        [
            "eval.shot=1",
            "head_config.otam_lambda=0.5",
            "features.cut=map",
            "train.milestones=[3, 4]",
            "train.schedule=steps",
        ],
    )
    assert (made.name, made.eval.shot, made.features.cut, made.train.milestones) == ("mine", 1, "map", (3, 4))
    assert build_head(made, 3).config.otam_lambda == 0.5


@pytest.mark.parametrize(
    ("name", "sets", "says"),
    [
        ("dem", [], "did you mean 'demo'"),
        ("demo", ["train.iteration=3"], "did you mean 'iterations'"),
        ("demo", ["train.optimizer=adma"], "did you mean 'adam'"),
        ("demo", ["train.iterations=0"], "iterations must be at least 1"),
        ("demo", ["train.way=1"], "way must be at least 2"),
        ("demo", ["features.cut=frames"], "needs a frozen backbone"),
        ("demo", ["train.momentum=0.9"], "setting of sgd"),
        ("demo", ["train.schedule=steps"], "'steps' needs them"),
        ("demo", ["train.lr=-1.0"], "lr must be positive"),
        ("demo", ["eval.shot=0"], "shot must be at least 1"),
        ("protonet", ["train.unlabelled=5"], "target.unlabelled names no partition"),
        ("demo", ["source.unlabelled=train"], "source.unlabelled has no use"),
        ("demo", ["target.min_class=dorp"], "did you mean 'drop'"),
        ("demo", ["train.unlabelled_sampling=publish"], "did you mean 'published'"),
        (
            "demo",
            ["head_config.tasks_per_batch=16"],
            "head_config.tasks_per_batch is 16, but train.tasks_per_batch is 4",
        ),
    ],
)
def test_mistakes_are_named(name: str, sets: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(name, sets)
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_a_missing_file_and_a_wrong_head_setting(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="sfme_evry") as caught:
        build_head(load_recipe("demo", ["head_config.sfme_evry=1"]), 3)
    assert "sfme_every" in str(caught.value.hint)


def test_features_and_extraction_settings_stay_in_step() -> None:
    """A setting of both has the same default, and each feature setting that decides bytes reaches the extraction."""
    ours, theirs = Features(), ExtractConfig()
    shared = {f.name for f in dataclasses.fields(Features)} & {f.name for f in dataclasses.fields(ExtractConfig)}
    evaluation = {
        "decoder",
        "backbone",
        "weights",
        "cut",
        "frames",
        "size",
        "sampling",
        "transform",
        "scaling",
        "dtype",
        "precision",
    }
    views = {"views", "view_seed", "train_sampling", "train_transform", "flip"}
    assert shared == evaluation | views | {"flow", "prompt"}
    assert all(getattr(ours, name) == getattr(theirs, name) for name in shared)
    assert extract_config(Features(cut="video", size=64)) == ExtractConfig(cut="frames", size=64)


def test_schedules() -> None:
    steps = Train(schedule="steps", milestones=(10, 20), lr=1.0, gamma=0.1)
    assert [rate_at(steps, i) for i in (1, 10, 11, 20, 21)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = Train(schedule="cosine", iterations=100, lr=2.0)
    assert [rate_at(cosine, i) for i in (1, 51)] == pytest.approx([2.0, 1.0])
    assert 0 < rate_at(cosine, 100) < 0.01
    assert rate_at(Train(lr=0.3), 999) == 0.3
