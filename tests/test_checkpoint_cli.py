"""Published checkpoints to runs and back: every method's layout key for key, by command, and nothing half written."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_files import CASES, Case, small_backbones
from safetensors.torch import load_file
from torch import Tensor
from worlds import fill, make_world

from extract.config import backbone_of, spec_of
from extract.resnet import trunk
from fsar_cache import errors
from fsar_cache.tensor_files import read_tensor_file
from heads.published import Rest, to_published
from pipeline import cli
from pipeline.assemble import workshop
from pipeline.beside import extract_config
from pipeline.evaluate import evaluate
from pipeline.folder import read_config
from pipeline.importing import import_published
from pipeline.model import build_head
from pipeline.runs import evaluate_run


class Settings(dict[str, object]):
    """A config object of a training script."""


def written(path: Path, case: Case) -> dict[str, Tensor]:
    """The file of a training script in this layout, with all that such files hold beside weights."""
    tensors = case.tensors()
    if not case.wrapper:
        torch.save(OrderedDict(tensors), path)
        return tensors
    whole = {
        case.counter: 20000,
        case.wrapper: OrderedDict(tensors),
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]},
        "cfg": Settings(TRAIN=Settings(LR=1e-3)),
    }
    torch.save(whole, path)
    return tensors


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs, and narrow backbones."""
    monkeypatch.setenv("FSAR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    monkeypatch.setenv("FSAR_VIDEOS", str(tmp_path / "videos"))
    small_backbones(monkeypatch)
    return tmp_path


Fsar = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fsar(capsys: pytest.CaptureFixture[str]) -> Fsar:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def settings(case: Case) -> list[str]:
    return [word for text in case.sets for word in ("--set", text)]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


@pytest.mark.parametrize("name", CASES)
def test_every_layout_is_read_and_written_back(here: Path, fsar: Fsar, name: str) -> None:
    case = CASES[name]
    tensors = written(here / "theirs.pt", case)
    code, out, err = fsar(
        "checkpoint",
        "import",
        "--method",
        case.method,
        here / "theirs.pt",
        "--run",
        "theirs",
        *settings(case),
        "--json",
    )
    assert code == 0, err
    read = json.loads(out)
    assert (read["method"], read["wrapper"]) == (case.method, case.wrapper)
    assert read["iteration"] == (20000 if case.wrapper else None)
    assert len(read["unused"]) == case.unused
    assert read["tensors"]["adapters"] == case.adapters
    again = 12 if case.method == "clip_mdmf" else 0
    computed = 2 if case.method == "trx" else 0
    assert sum(read["tensors"].values()) + len(read["unused"]) + 1.5 * again == len(tensors)
    assert read["not_loaded"] == (["test_checkpoint_cli.Settings"] if case.wrapper else [])
    assert computed <= case.unused
    code, out, err = fsar("checkpoint", "export", "theirs", here / "back.pt", "--json")
    assert code == 0, err
    whole = torch.load(here / "back.pt", weights_only=True)
    if case.wrapper:
        assert whole.keys() == {case.counter, case.wrapper}
        assert whole[case.counter] == 20000
    assert same(whole[case.wrapper] if case.wrapper else whole, tensors)
    assert json.loads(out)["absent"] == []
    assert fsar("checkpoint", "export", "theirs", here / "back.safetensors")[0] == 0
    assert same(load_file(here / "back.safetensors"), tensors)


@pytest.mark.parametrize("prefix", ["backbone.resnet.", "backbone.module.resnet."])
def test_a_published_checkpoint_becomes_a_run(tmp_path: Path, prefix: str) -> None:
    """Written under the published names by hand, imported, extracted with its own backbone: same weights, same answers."""
    world = make_world(tmp_path / "world")
    recipe = world.recipe("train.unlabelled=0")
    torch.manual_seed(3)
    head = build_head(recipe, 5)
    net = trunk(backbone_of(replace(extract_config(recipe.features), weights="random:9")))
    unused = {"scale": torch.ones(1), f"{prefix}fc.bias": torch.zeros(3)}
    tensors = to_published(head, Rest(net.state_dict(), unused, prefix))  # type: ignore[arg-type]
    torch.save({"iteration": 20000, "model_state_dict": OrderedDict(tensors)}, tmp_path / "theirs.pt")

    file = tmp_path / "theirs.pt"
    made = import_published(file, read_tensor_file(file), recipe, tmp_path / "run", classes=5).recipe
    config = extract_config(made.features)
    spec = spec_of(config, backbone_of(config))
    assert (
        spec.backbone["weights"]
        == spec_of(replace(config, weights="random:9"), backbone_of(replace(config, weights="random:9"))).backbone[
            "weights"
        ]
    )
    with pytest.raises(errors.MissingError, match=r"backbone\.weights"):
        evaluate_run(tmp_path / "run", world.places)
    fill(world, recipe.target.dataset, spec)
    found = evaluate_run(tmp_path / "run", world.places)
    with workshop(made, world.places) as shop:
        model = shop.model(5)
        model.head.load_state_dict(head.state_dict())
        source, sampler, _ = shop.evaluation(made.target, made.eval.protocol, made.eval.seed)
        assert evaluate(model, source, sampler).correct == found.correct
    assert found.identity["checkpoint"]["iteration"] == 20000
    del tensors["student_encoder.layers.0.0.norm.weight"]
    torch.save({"model_state_dict": tensors}, tmp_path / "less.pt")
    less = tmp_path / "less.pt"
    with pytest.raises(errors.IntegrityError, match=r"student_encoder\.layers\.0\.0\.norm\.weight"):
        import_published(less, read_tensor_file(less), recipe, tmp_path / "other", classes=5)


@pytest.mark.parametrize("prefix", ["backbone.resnet.", "backbone.module.resnet."])
def test_a_published_checkpoint_by_command(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """import, eval and report, with weights drawn here under the published names."""
    world = make_world(tmp_path / "world")
    for name, folder in (("STORES", world.places.stores), ("RUNS", tmp_path / "runs"), ("VIDEOS", tmp_path / "videos")):
        monkeypatch.setenv(f"FSAR_{name}", str(folder))
    recipe = world.recipe("train.unlabelled=0")
    toml = str(world.folder / "gslta-pooled.toml")

    def drawn(seed: int) -> str:
        torch.manual_seed(seed)
        net = trunk(backbone_of(replace(extract_config(recipe.features), weights=f"random:{seed}")))
        rest = Rest(net.state_dict(), {"scale": torch.ones(1)}, prefix)
        tensors = to_published(build_head(recipe, 5), rest)  # type: ignore[arg-type]
        torch.save({"iteration": 20000, "model_state_dict": OrderedDict(tensors)}, tmp_path / f"theirs{seed}.pt")
        return str(tmp_path / f"theirs{seed}.pt")

    def fsar(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    words = ("checkpoint", "import", drawn(3), "--recipe", toml, "--run", "theirs", "--classes", "5")
    code, _, err = fsar(*words, "--set", "features.normalise=centre-source-std")
    assert (code, "features.normalise=none" in err) == (2, True)
    assert fsar(*words)[0] == 0
    config = extract_config(read_config(tmp_path / "runs" / "theirs").features)
    fill(world, recipe.target.dataset, spec_of(config, backbone_of(config)))
    code, out, err = fsar("eval", "--run", "theirs", "--json")
    assert code == 0, err
    assert "after 20000 of" not in err
    identity = json.loads(out)["identity"]
    assert identity["checkpoint"]["iteration"] == 20000
    assert identity["trained_on"]["published"]["file"] == "theirs3.pt"
    assert fsar("report", "theirs")[0] == 0
    assert "a published checkpoint&#x27;s, theirs3.pt" in (tmp_path / "runs" / "theirs" / "report.html").read_text()
    held = (tmp_path / "runs" / "theirs" / "checkpoints" / "last.safetensors").read_bytes()
    assert fsar(*words)[0] == 0
    code, _, err = fsar("checkpoint", "import", drawn(4), *words[3:])
    assert (code, "holds another checkpoint: theirs3.pt" in err) == (2, True)
    assert (tmp_path / "runs" / "theirs" / "checkpoints" / "last.safetensors").read_bytes() == held
