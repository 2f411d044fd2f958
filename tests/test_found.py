"""A short command takes the dataset that is extracted: the six of them, end to end and in their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from official_worlds import make_kinetics, make_rareact, make_ssv2

from extract.config import backbone_of, spec_of, store_path
from fsar_cache.errors import UsageError
from pipeline import choose, cli
from pipeline.beside import extract_config
from pipeline.found import ORDER, found_domains
from pipeline.recipe import load_recipe
from splits.official.catalog import official_names

SMALL = ["--set", "features.size=32"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("videos", "stores", "runs", "lists"):
        monkeypatch.setenv(f"FSAR_{name.upper()}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(here: Path, *datasets: str, sets: tuple[str, ...] = ("features.size=32",)) -> None:
    """Something that looks like stores of the demo's features."""
    config = extract_config(load_recipe("demo", sets).features)
    for name in datasets:
        path = store_path(here / "stores", name, spec_of(config, backbone_of(config)))
        path.mkdir(parents=True)
        (path / "store.json").write_text("{}")


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
    assert "synth-source is not extracted with these features, ssv2 is: training on ssv2-full, evaluating on" in err
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
    assert found_domains(recipe) == []
    stored(here, "kinetics")
    with pytest.raises(UsageError, match="kinetics400: extracted, but without a partition 'test'") as caught:
        found_domains(recipe)
    assert "--target" in str(caught.value.hint)
    stored(here, "ssv2")
    assert found_domains(recipe) == [
        'source.dataset="kinetics400"',
        'target.dataset="ssv2-full"',
        'name="demo-kinetics400-ssv2-full"',
    ]


def test_the_recipe_s_own_data_go_first(here: Path) -> None:
    make_ssv2(here / "videos")
    recipe = load_recipe("demo", ["features.size=32"])
    stored(here, "ssv2")
    assert found_domains(load_recipe("demo")) == [], "other features"
    assert found_domains(load_recipe("demo", ["features.cut=video", "features.normalise=none"])) == []
    assert found_domains(recipe)
    for recipe_name, sets, protocol in (
        ("demo", [], None),
        (None, ["source.dataset=synth-far"], None),
        (None, ["target.part=train"], None),
        (None, [], "ssv2-full-1shot"),
    ):
        assert choose.found(recipe_name, None, ["features.size=32", *sets], protocol) == []
    assert choose.found(None, "gslta", ["features.size=32"])
    stored(here, "synth-source")
    assert found_domains(recipe) == []
