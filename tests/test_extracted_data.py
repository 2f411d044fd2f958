"""A short command takes the dataset that is extracted: the six of them, end to end and in their order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from official_lists import write_lists
from official_worlds import make_kinetics, make_rareact, make_ssv2, make_ucf101

from cache.store import create
from extract.config import backbone_of, spec_of, store_path
from extract.prepare import rows_of
from fsar_cache.errors import MissingError, UsageError
from pipeline import choose, cli
from pipeline.assemble import Places, workshop
from pipeline.beside import extract_config
from pipeline.domains import split_of
from pipeline.extracted_data import ORDER, extracted_domains
from pipeline.recipe import Domain, load_recipe
from splits.datasets import open_split
from splits.official.catalog import official_names

SMALL = ["--set", "features.size=32"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("videos", "stores", "runs", "lists"):
        monkeypatch.setenv(f"FSAR_{name.upper()}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(here: Path, *splits: str, sets: tuple[str, ...] = ("features.size=32",)) -> None:
    """Stores of the demo's features in which the clips of the splits are planned; of a dataset without videos an empty one."""
    config = extract_config(load_recipe("demo", sets).features)
    spec = spec_of(config, backbone_of(config))
    for name in splits:
        try:
            split = open_split(name)
        except MissingError:
            create(store_path(here / "stores", name, spec), spec, [], dataset=name)
        else:
            create(store_path(here / "stores", split.home, spec), spec, rows_of(split), dataset=split.home)


def test_extract_train_and_evaluate_by_names_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ssv2(here / "elsewhere")
    make_rareact(here / "elsewhere")
    videos = ["--videos", str(here / "elsewhere")]
    device = ["--device", "cpu", *videos]
    assert cli.main(["extract", "ssv2", "--workers", "1", *SMALL, *device]) == 0
    assert "ssv2 stands for ssv2-full: 5 / 5 / 5 classes in train / val / test" in capsys.readouterr().err
    few = [*SMALL, "--set", "train.shot=1", "--set", "train.query=2", "--set", "train.unlabelled=5"]
    trained = ["train", "--head", "gslta", "--iterations", "2", *few, *device]
    assert cli.main(trained) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "synth-source is not extracted with these features, ssv2 is: source ssv2-full, target" in err
    assert "source ssv2-full/train, target ssv2-full/test" in err
    (run,) = (here / "runs").iterdir()
    assert run.name.startswith("demo-ssv2-full-")
    assert f"next: fsar-cache eval --run {run.name} --videos {here / 'elsewhere'}" in err
    assert cli.main(trained) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert cli.main(["extract", "rareact", "--workers", "1", *SMALL, *device]) == 0
    assert cli.main(["eval", "--target", "rareact", "--shot", "1", "--episodes", "20", "--json", *device]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["identity"]["dataset"], found["identity"]["part"]) == ("rareact-tamt", "test")
    named = ["eval", "--head", "gslta", "--set", "train.iterations=2", *few, "--target", "rareact", "--shot", "1"]
    assert cli.main([*named, "--episodes", "20", "--json", *device]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == found["correct"]


def test_the_order_and_the_target(here: Path) -> None:
    """Kinetics has no test partition by default, so the next dataset is evaluated on."""
    assert sorted(ORDER) == sorted(official_names())
    make_ssv2(here / "videos")
    make_kinetics(here / "videos")
    recipe = load_recipe("demo", ["features.size=32"])
    assert extracted_domains(recipe) == []
    stored(here, "kinetics")
    with pytest.raises(UsageError, match="kinetics400: extracted, but without a partition 'test'") as caught:
        extracted_domains(recipe)
    assert "--target" in str(caught.value.hint)
    stored(here, "ssv2")
    assert extracted_domains(recipe) == [
        'source.dataset="kinetics400"',
        'target.dataset="ssv2-full"',
        'name="demo-kinetics400-ssv2-full"',
    ]


def test_of_a_dataset_the_split_that_was_extracted_is_taken(here: Path) -> None:
    """The default where all its clips are in the store, else the first other one, an imported one last; else the next dataset."""
    world = make_ssv2(here / "videos")
    recipe = load_recipe("demo", ["features.size=32"])
    for name, split in (("mine", "ssv2-small"), ("less", "ssv2-full")):
        write_lists(here / name, world, split, "A")
        assert cli.main(["split", "import", str(here / name), "--name", name]) == 0
    make_ucf101(here / "videos")
    stored(here, "ucf101")
    ucf101 = ['source.dataset="ucf101"', 'target.dataset="ucf101"', 'name="demo-ucf101"']
    assert extracted_domains(recipe) == ucf101
    stored(here, "mine")
    mine = open_split("mine")
    assert not {v.id for p in open_split("ssv2-full").parts.values() for v in p.videos} <= {
        v.id for p in mine.parts.values() for v in p.videos
    }
    assert extracted_domains(recipe)[:1] == ['source.dataset="mine"']
    stored(here, "ssv2-official")
    assert extracted_domains(recipe)[:1] == ['source.dataset="ssv2-full"'], "all its clips are there now"


def test_a_dataset_of_which_no_split_is_extracted_in_full_is_passed_over(here: Path) -> None:
    make_ssv2(here / "videos")
    recipe = load_recipe("demo", ["features.size=32"])
    config = extract_config(recipe.features)
    spec = spec_of(config, backbone_of(config))
    split = open_split("ssv2-full")
    rows = [row for row in rows_of(split) if row.partition == "train"]
    create(store_path(here / "stores", "ssv2", spec), spec, rows, dataset="ssv2")
    assert extracted_domains(recipe) == []


def test_a_recipe_of_a_published_split_keeps_it(here: Path) -> None:
    make_ssv2(here / "videos")
    make_ucf101(here / "videos")
    stored(here, "ssv2", "ucf101")
    sets = ["features.size=32", "source.dataset=ucf101", "target.dataset=ucf101"]
    assert extracted_domains(load_recipe("demo", sets)) == []
    sets = [text.replace("ucf101", "ssv2-full") for text in sets]
    assert extracted_domains(load_recipe("demo", sets)) == []


def test_the_recipe_s_own_data_go_first(here: Path) -> None:
    make_ssv2(here / "videos")
    recipe = load_recipe("demo", ["features.size=32"])
    stored(here, "ssv2")
    assert extracted_domains(load_recipe("demo")) == [], "other features"
    assert extracted_domains(load_recipe("demo", ["features.cut=video", "features.normalise=none"])) == []
    assert extracted_domains(recipe)
    for recipe_name, sets, protocol in (
        ("demo", [], None),
        (None, ["source.dataset=synth-far"], None),
        (None, ["target.part=train"], None),
        (None, [], "ssv2-full-1shot"),
    ):
        assert choose.found(recipe_name, None, ["features.size=32", *sets], protocol) == []
    assert choose.found(None, "gslta", ["features.size=32"])
    stored(here, "synth-source")
    assert extracted_domains(recipe) == []


def test_what_lacks_features_is_named_by_its_split(here: Path) -> None:
    """Not by the dataset, whose store it shares: ssv2 has no partition of that name of its own."""
    make_ssv2(here / "videos")
    config = extract_config(load_recipe("demo", ["features.size=32"]).features)
    spec = spec_of(config, backbone_of(config))
    held = [row for row in rows_of(open_split("ssv2-full")) if row.partition == "test"]
    create(store_path(here / "stores", "ssv2", spec), spec, held, dataset="ssv2")
    sets = ["features.size=32", "source.dataset=ssv2-full", "target.dataset=ssv2-full", "features.normalise=none"]
    told = r"\d+ of \d+ clips of ssv2-full/train are not in the store"
    with workshop(load_recipe("demo", sets), Places(here / "stores")) as shop, pytest.raises(MissingError, match=told):
        shop.training()


def test_a_split_without_some_classes_is_made_once(here: Path) -> None:
    world = make_ssv2(here / "videos")
    label = next(iter(world.part("ssv2-full", "train").values()))
    domain = Domain("ssv2-full", "train", drop_classes=(label,))
    assert split_of(domain) is split_of(domain)
    assert label not in split_of(domain).parts["train"].classes
    (here / "videos" / "ssv2" / "labels" / "train.json").touch()
    other = replace(domain, drop_classes=())
    assert label in split_of(other).parts["train"].classes
