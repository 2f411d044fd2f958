"""Published checkpoints to runs and back: every method's layout key for key, by command, and nothing half written."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import fill, make_world

from extract.config import backbone_of, spec_of
from extract.resnet import trunk
from fsar_cache import errors
from heads.published import Rest, to_published
from pipeline import cli
from pipeline.assemble import workshop
from pipeline.beside import extract_config
from pipeline.evaluate import evaluate
from pipeline.folder import read_config
from pipeline.importing import import_published
from pipeline.model import build_head
from pipeline.runs import evaluate_run


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

    made = import_published(tmp_path / "theirs.pt", recipe, tmp_path / "run", classes=5).recipe
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
    with pytest.raises(errors.IntegrityError, match=r"student_encoder\.layers\.0\.0\.norm\.weight"):
        import_published(tmp_path / "less.pt", recipe, tmp_path / "other", classes=5)


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
