"""Recipes: the shipped ones are whole, settings reach where they should, mistakes are named."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from extract.backbone import BACKBONES
from extract.config import ExtractConfig
from extract.sampling import SAMPLING
from extract.transforms import TRANSFORMS
from fsar_cache.canonical import canonical, plain
from fsar_cache.errors import MissingError, UsageError
from fsar_cache.files import write_json
from fsar_cache.settings import build
from heads.base import HEADS
from pipeline import recipe as recipes
from pipeline.beside import extract_config
from pipeline.choose import settle
from pipeline.cli import app
from pipeline.model import build_head
from pipeline.optim import rate_at
from pipeline.recipe import Features, Published, Recipe, Train, load_recipe
from splits.published.known import known

SHIPPED = {name: load_recipe(name) for name in recipes.names()}
CARDS = {
    "second-hand": {
        "clip-fsar-hmdb51-1shot": 75.8,
        "clip-fsar-hmdb51-1shot-combined": 77.1,
        "clip-fsar-hmdb51-5shot-combined": 87.7,
        "clip-fsar-ucf101-1shot": 96.6,
        "clip-fsar-ucf101-1shot-combined": 97.0,
        "clip-fsar-kinetics100-1shot": 89.7,
        "clip-fsar-kinetics100-1shot-combined": 94.8,
        "clip-fsar-ssv2-small-1shot": 54.5,
        "clip-fsar-ssv2-small-1shot-combined": 54.6,
        "clip-fsar-ssv2-small-5shot-combined": 61.8,
        "clip-fsar-ssv2-full-1shot": 61.9,
        "clip-fsar-ssv2-full-1shot-combined": 62.1,
        "clip-fsar-ssv2-full-5shot-combined": 72.1,
    },
    "second listing": {
        "trx-ssv2-full-5shot": 64.6,
        "trx-ucf101-5shot": 96.1,
        "trx-kinetics100-5shot": 85.9,
        "otam-kinetics100-5shot": 85.8,
        "otam-ssv2-full-5shot": 52.3,
        "ta2n-kinetics100-5shot": 85.8,
        "ta2n-ssv2-full-1shot": 47.6,
        "ta2n-hmdb51-1shot": 59.7,
        "ta2n-hmdb51-5shot": 73.9,
        "ta2n-ucf101-1shot": 81.9,
    },
    "from memory": {
        "trx-ssv2-small-5shot": 59.1,
        "trx-hmdb51-5shot": 75.6,
        "trx-kinetics100-1shot": 63.6,
        "trx-ssv2-full-1shot": 42.0,
        "otam-kinetics100-1shot": 73.0,
        "otam-ssv2-full-1shot": 42.8,
        "ta2n-kinetics100-1shot": 72.8,
        "ta2n-ssv2-full-5shot": 61.0,
        "ta2n-ucf101-5shot": 95.1,
    },
}
"""The numbers of the cards that are no authors' own table, by how sure the cards are of them."""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_build_their_head(name: str) -> None:
    recipe = SHIPPED[name]
    assert recipe.name == name
    assert recipe.about
    assert recipe.head in HEADS.names()
    head = build_head(recipe, 12)
    assert getattr(head.config, "tasks_per_batch", 0) == recipe.train.tasks_per_batch
    assert build(Recipe, plain(recipe)) == recipe
    f = recipe.features
    for rule in (f.sampling, f.train_sampling):
        SAMPLING.get(rule)
    for transform in (f.transform, f.train_transform):
        TRANSFORMS.get(transform)
    assert {f.backbone, f.text_backbone} <= set(BACKBONES.names())
    for dataset in {recipe.source.dataset, recipe.target.dataset} - {"synth-source", "synth-target"}:
        assert known(dataset).name == dataset


def test_a_recipe_says_whose_protocol_it_follows_and_what_was_published() -> None:
    numbered = {name for name, r in SHIPPED.items() if r.published and r.published.value is not None}
    assert numbered == {name for table in CARDS.values() for name in table} | {
        f"{head}-kinetics-{target}-5shot"
        for head in ("gslta", "tamt")
        for target in ("diving48", "rareact", "ssv2", "hmdb51", "ucf101")
    }
    for name in numbered:
        published = SHIPPED[name].published
        assert published is not None
        assert SHIPPED[name].follows == "published"
        assert published.where
        assert published.sure
    for sure, table in CARDS.items():
        for name, value in table.items():
            found = SHIPPED[name].published
            assert found is not None
            assert (found.value, found.sure) == (value, sure), name
    assert not [n for n, r in SHIPPED.items() if r.head in ("tmal", "clip_mdmf") and n in numbered]
    assert {r.follows for n, r in SHIPPED.items() if r.head == "tmal" and n != "tmal"} == {"ours"}
    assert {r.follows for r in SHIPPED.values() if r.default_of_head and r.name != "demo"} == {"frozen"}


def test_names_say_head_target_and_shots_and_no_two_recipes_are_one() -> None:
    for name, recipe in SHIPPED.items():
        if "shot" in name:
            assert name.startswith(recipe.head.replace("_", "-"))
            assert f"-{recipe.eval.shot}shot" in name
            assert recipe.eval.way == recipe.train.way == 5
            target = "ssv2" if "kinetics-ssv2" in name else recipe.target.dataset
            assert (
                target.removesuffix("-gslta").removesuffix("-tamt").removesuffix("-ta2n").removesuffix("-clipfsar")
                in name
            )
    bare = [
        canonical(dataclasses.replace(r, name="", about="", published=None, default_of_head=False))
        for r in SHIPPED.values()
        if r.name != "gslta-published"  # what gslta-kinetics-ucf101-5shot is, with its number
    ]
    assert len(set(bare)) == len(bare)


def seeds(shared_folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((shared_folder / "seeds").glob("*.txt")))


def test_gslta_numbers_are_those_of_the_authors_table(shared_folder: Path) -> None:
    text = seeds(shared_folder)
    rows = re.findall(r"^\|\s*(\w+)\s*\|\s*([\d.]+)%\s*\|\s*(.*?)\s*\|$", text, re.MULTILINE)
    assert [target for target, _, _ in rows] == ["diving48", "rareAct", "SSv2", "HMDB51", "UCF101"]
    for target, value, model in rows:
        recipe = SHIPPED[f"gslta-kinetics-{target.lower()}-5shot"]
        assert recipe.published is not None
        assert (recipe.published.value, recipe.published.sure) == (float(value), "authors' table")
        near = re.search(r"near (\d+) episode (\S+)", model)
        assert recipe.published.checkpoint == (near[2] if near else None)
        if near:  # the checkpoint that the table means is kept
            assert int(near[1]) % recipe.train.keep_every == 0
            assert int(near[1]) < recipe.train.iterations
        assert recipe.source.dataset == "kinetics100-gslta"
        assert recipe.target.unlabelled == "train"
    config = build_head(SHIPPED["gslta-kinetics-hmdb51-5shot"], 64).config
    settings = dict(re.findall(r"^\|\s*((?:sub_)?seq_\w+)\s*\|\s*(\d+)", text, re.MULTILINE))
    assert {name: getattr(config, name) for name in settings} == {n: int(v) for n, v in settings.items()} != {}
    lambdas = re.search(r"lambdas = \[(.*)\]", text)
    assert lambdas is not None
    ours = [getattr(config, f"weight_{name}") for name in ("supervised", "meta", "reconstruction", "self", "cross")]
    assert ours == [float(number) for number in lambdas[1].split(",")]


def test_tamt_numbers_are_those_of_the_authors_table(shared_folder: Path) -> None:
    text = seeds(shared_folder)
    rows = re.findall(r"^\|\s*(\w+)\s*\|\s*([\d.]+)\s*\|\[Download\]\((.*?)\)\|$", text, re.MULTILINE)
    files = {"HMDB": "hmdb51", "SSV2": "ssv2", "Diving": "diving48", "UCF": "ucf101", "RareAct": "rareact"}
    assert [name for name, _, _ in rows] == list(files)
    for name, value, link in rows:
        published = SHIPPED[f"tamt-kinetics-{files[name]}-5shot"].published
        assert published is not None
        assert (published.value, published.checkpoint, published.sure) == (float(value), link, "authors' table")


def test_tamt_is_trained_on_each_target_as_its_card_says() -> None:
    """Target: rate, epochs, training and validation episodes per epoch, queries, test episodes."""
    table = {
        "hmdb51": (1e-3, 30, 600, 300, 12, 5 * 2000),
        "ssv2": (5e-4, 30, 600, 300, 12, 5 * 1000),
        "diving48": (1e-3, 25, 300, 150, 12, 3 * 2000),
        "ucf101": (1e-3, 25, 300, 150, 12, 2000),
        "rareact": (1e-6, 40, 600, 500, 1, 5 * 500),
    }
    for target, (lr, epochs, episodes, validation, query, tests) in table.items():
        recipe = SHIPPED[f"tamt-kinetics-{target}-5shot"]
        t, e = recipe.train, recipe.eval
        assert (t.lr, t.epochs, t.steps_iter, t.validate_every, t.validate_episodes) == (
            lr,
            epochs,
            episodes,
            episodes,
            validation,
        )
        assert (t.query, e.query, e.episodes, t.tasks_per_batch, t.weight_decay) == (query, query, tests, 1, 5e-4)
        assert (t.schedule, t.t_max, t.eta_min, t.optimizer, t.seed) == ("cosine", 80, 1e-7, "adam", 1)
        assert recipe.source.dataset == recipe.target.dataset, "tuned on the target's own training classes"
        assert (recipe.features.frames, recipe.features.size, recipe.features.backbone) == (16, 112, "videomae_vit_s")


def config_of(recipe: Recipe) -> Any:
    """What the recipe says of its head, with the head's defaults; nothing is built."""
    return build(HEADS.get(recipe.head).Config, recipe.head_config)


def test_clip_heads_are_trained_as_their_cards_say() -> None:
    weights = {"hmdb51": 1.2, "kinetics100": 1.5, "ucf101": 1.5, "ssv2-full": 3.0, "ssv2-small": 3.0}
    for target, weight in weights.items():
        recipe = SHIPPED[f"clip-fsar-{target}-1shot"]
        t = recipe.train
        config = config_of(recipe)
        assert (config.class_text_weight, config.merge_before, config.eval_mode) == (weight, True, "visual")
        assert (t.weight_decay, t.shot, t.query, t.seed) == (1e-3, 1, 5, 18 if target == "kinetics100" else 0)
        ours = SHIPPED[f"tmal-{target}-1shot"]
        assert config_of(ours).class_text_weight == weight
        assert config_of(ours).adapter == ("24x384" if "ssv2" in target else "12x384")
        assert (ours.train.tasks_per_batch, ours.train.no_decay, ours.train.optimizer) == (4, ("*bias",), "adamw")
        assert ours.train.warmup == t.steps_iter
        assert ours.train.iterations == t.iterations // t.processes
    assert SHIPPED["clip-fsar-hmdb51-5shot-combined"].train.shot == 1, "published 5-shot files train with one shot"
    for name, recipe in SHIPPED.items():
        if name.startswith("clip-mdmf-"):
            t, config = recipe.train, config_of(recipe)
            assert (config.dist_condition, config.dist_direction, config.lambdas) == ((1, 0), "up2down", (0, 1, 1))
            assert (t.lr, t.iterations, t.tasks_per_batch, t.first_step_early, t.weight_decay) == (
                1e-6,
                20020,
                16,
                True,
                0,
            )
            assert config.single_direct == (name == "clip-mdmf-kinetics100-1shot")
            assert all(at % t.keep_every == 0 for at in (14000, 16000, 18000, 20000))


def test_trx_and_ta2n_are_trained_as_their_cards_say() -> None:
    for name, recipe in SHIPPED.items():
        if recipe.head in ("trx", "ta2n") and not recipe.default_of_head:
            t, f = recipe.train, recipe.features
            assert (t.optimizer, t.lr, t.momentum, t.weight_decay, t.schedule) == ("sgd", 1e-3, 0, 0, "constant")
            assert (t.iterations, t.tasks_per_batch, t.first_step_early, t.query) == (100020, 16, True, 5)
            assert (f.cut, f.backbone, f.scaling, f.frames, f.size) == ("video", "resnet50", "unit", 8, 224)
            assert t.shot == recipe.eval.shot
            assert (f.flip == "off") == name.startswith("ta2n-ssv2")
            assert recipe.eval.episodes == (10000 if recipe.head == "trx" else 3000)
            assert config_of(recipe).loss_reduction == "sum"


def test_every_head_has_one_default_recipe() -> None:
    assert sorted(recipe.head for recipe in SHIPPED.values() if recipe.default_of_head) == sorted(HEADS.names())
    for head in HEADS:
        made = SHIPPED[recipes.recipe_of_head(head)]
        assert made.head == head
        assert (made.source.dataset, made.target.dataset) == ("synth-source", "synth-target")
    assert recipes.recipe_of_head("gslta") == "demo"


def test_a_head_is_known_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, close in (("clipfsar", "clip_fsar"), ("CLIP-FSAR", "clip_fsar"), ("gsltaa", "gslta"), ("OTAM", "otam")):
        with pytest.raises(UsageError, match=f"unknown head '{wrong}'") as caught:
            recipes.recipe_of_head(wrong)
        assert caught.value.hint == f"did you mean {close!r}?"
    with pytest.raises(UsageError, match=r"unknown head '1234'; known: .*gslta") as caught:
        recipes.recipe_of_head("1234")
    assert caught.value.hint == "fsar-cache list heads"
    monkeypatch.setattr(recipes, "default_recipes", dict)
    with pytest.raises(UsageError, match="no recipe that comes with fsar-cache uses the head 'otam'"):
        recipes.recipe_of_head("otam")


def test_an_unknown_recipe_is_not_answered_with_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_recipe("dem")
    assert caught.value.message == "unknown recipe 'dem'"
    assert str(caught.value.hint).startswith("did you mean 'demo'? fsar-cache list recipes")
    recipe_file(tmp_path, "dem", 'extends = "demo"\n')
    with pytest.raises(UsageError) as caught:
        load_recipe("dem")
    assert str(caught.value.hint).startswith("did you mean './dem.toml'?")
    assert load_recipe("./dem.toml").head == "gslta"


def test_what_a_cut_forbids_names_the_settings_and_the_way_out() -> None:
    for name, sets, setting, way in (
        ("tmal-hmdb51-1shot", ["follows=frozen"], "features.cut is 'frames'", "--set follows=ours"),
        ("demo", ["features.cut=frames"], "features.normalise = ", "--set features.normalise=none"),
    ):
        with pytest.raises(UsageError) as caught:
            load_recipe(name, sets)
        assert setting in caught.value.message
        assert str(caught.value.hint).startswith(way)


def test_a_dataset_that_is_not_there_is_named_before_any_work(empty_place: Path) -> None:
    (empty_place / "clips.csv").write_text("id,path,class,partition\n1,a/1.mp4,a,train\n2,b/2.mp4,b,test\n")
    for name in ("trx-hmdb51-5shot", "tamt-kinetics-rareact-5shot", "gslta-kinetics-ucf101-5shot"):
        with pytest.raises(UsageError, match="unknown dataset 'nowhere'") as caught:
            settle(name, None, ["target.dataset=nowhere"])
        assert "--set source.dataset=csv:" in str(caught.value.hint)
        with pytest.raises(UsageError, match="unknown dataset 'nowhere'"):
            settle(name, None, ["source.dataset=nowhere", "target.dataset=csv:clips.csv"])
        own = settle(name, None, ["source.dataset=csv:clips.csv", "target.dataset=csv:clips.csv"])
        assert own.source.dataset == own.target.dataset == "csv:clips.csv"
    untrained = ["features.normalise=none", "source.dataset=nowhere"]
    assert settle("otam", None, untrained).source.dataset == "nowhere"  # nothing reads it
    with pytest.raises(UsageError, match="unknown dataset 'nowhere'"):
        settle("otam", None, untrained[1:])


def recipe_file(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_a_recipe_inherits_all_but_what_another_says_of_itself(tmp_path: Path) -> None:
    base = SHIPPED["tamt-kinetics-hmdb51-5shot"]
    first = recipe_file(tmp_path, "first", 'extends = "tamt-kinetics-hmdb51-5shot"\n[train]\nlr = 2e-4\n')
    made = load_recipe(first)
    assert (made.name, made.about, made.follows, made.published, made.default_of_head) == (
        "first",
        "",
        "ours",
        None,
        False,
    )
    assert made.train == dataclasses.replace(base.train, lr=2e-4)
    assert (made.features, made.eval, made.source, made.head) == (base.features, base.eval, base.source, base.head)
    recipe_file(tmp_path, "second", 'extends = "./first.toml"\nabout = "mine"\n[eval]\nshot = 1\n')
    second = load_recipe(str(tmp_path / "second.toml"), ["train.seed=7"])
    assert second.train == dataclasses.replace(made.train, seed=7)
    assert (second.about, second.eval) == ("mine", dataclasses.replace(base.eval, shot=1))
    assert load_recipe(
        recipe_file(tmp_path, "tables", 'extends = "demo"\nhead_config = {depth = 2}\n')
    ).head_config == {"depth": 2}


@pytest.mark.parametrize(
    ("extends", "says"),
    [
        ('"dem"', "did you mean 'demo'"),
        ('"./mine.toml"', "leads back to mine.toml"),
        ('"./other.toml"', "leads back to mine.toml"),
        ('["demo", "otam"]', "the name or path of one recipe"),
    ],
)
def test_extending_nothing_or_in_a_circle_is_refused(tmp_path: Path, extends: str, says: str) -> None:
    recipe_file(tmp_path, "other", 'extends = "mine.toml"\n')
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe_file(tmp_path, "mine", f"extends = {extends}\n"))
    assert says in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(MissingError, match=r"none\.toml"):
        load_recipe(recipe_file(tmp_path, "mine", 'extends = "./none.toml"\n'))


def test_the_documents_table_is_that_of_the_recipes() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "recipes.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row[1:] for row in rows if len(row) == 6}
    assert list(table) == list(SHIPPED)
    for name, (domains, episode, follows, number, sure) in table.items():
        recipe, published = SHIPPED[name], SHIPPED[name].published or Published()
        assert domains == " -> ".join(dict.fromkeys((recipe.source.dataset, recipe.target.dataset)))
        assert (episode, follows) == (f"{recipe.eval.way}, {recipe.eval.shot}", recipe.follows)
        value, _, interval = number.partition(" ± ")
        assert (value, sure) == (f"{published.value:g}" if published.value is not None else "", published.sure)
        assert interval == (f"{published.interval:g}" if published.interval else "")


def test_recipes_are_listed_with_their_numbers() -> None:
    def listed(*words: str) -> str:
        made = CliRunner().invoke(app, ["list", "recipes", *words])
        assert made.exit_code == 0, made.output
        return made.stdout

    lines = listed().splitlines()
    assert [line.split()[0] for line in lines] == list(SHIPPED)
    row = re.compile(r"trx-hmdb51-5shot +trx +hmdb51 +5-way 5-shot +published +75\.60, from memory +TRX as published")
    assert len([line for line in lines if row.match(line)]) == 1
    assert any(re.search(r"kinetics100-gslta -> rareact-gslta .*53\.40, authors' table", line) for line in lines)
    assert len({line.index(" 5-way ") for line in lines}) == 1, "columns are aligned"
    assert {line.split()[1] for line in listed("--head", "tamt").splitlines()} == {"tamt"}
    assert len(listed("--head", "tamt", "--published").splitlines()) == 5
    assert listed("--head", "tmal", "--published") == ""
    whole = json.loads(listed("--json", "--head", "trx"))
    assert {name: build(Recipe, values) for name, values in whole.items()} == {
        n: r for n, r in SHIPPED.items() if r.head == "trx"
    }
    wrong = CliRunner().invoke(app, ["list", "recipes", "--head", "tmat"])
    assert wrong.exit_code != 0


def test_the_published_training_of_gslta() -> None:
    """The card's numbers."""
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
    assert (made.source.dataset, made.target.dataset) == ("kinetics100-gslta", "ucf101")


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


def test_a_published_number_is_whole() -> None:
    assert Published().value is None
    for wrong in ({"sure": "from memory"}, {"interval": 1.0}, {"value": 50.0}, {"value": 150.0, "where": "a table"}):
        with pytest.raises(ValueError, match="value"):
            Published(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="stored features of a frozen backbone"):
        load_recipe("tmal-hmdb51-1shot", ["follows=frozen"])


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
