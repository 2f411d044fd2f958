"""Published checkpoints to runs and back: every method's layout key for key, by command, and nothing half written."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_files import (
    CASES,
    VIDEOMAE,
    VIT,
    Case,
    D,
    clip_vit,
    draw,
    pair,
    resnet18,
    small_backbones,
    tmal,
    under,
    videomae,
)
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
from pipeline.trainer import train


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


SLOW = [name for name in CASES if "several devices" in name or name == "tmal, 12x384"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES])
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
    repeated = 18 if case.method == "clip_mdmf" else 0
    assert sum(read["tensors"].values()) + len(read["unused"]) + repeated == len(tensors)
    assert read["not_loaded"] == (["test_checkpoint_cli.Settings"] if case.wrapper else [])
    code, out, err = fsar("checkpoint", "export", "theirs", here / "back.pt", "--json")
    assert code == 0, err
    whole = torch.load(here / "back.pt", weights_only=True)
    if case.wrapper:
        assert whole.keys() == {case.counter, case.wrapper}
        assert whole[case.counter] == 20000
    assert same(whole[case.wrapper] if case.wrapper else whole, tensors)
    assert json.loads(out)["absent"] == []


def imported(fsar: Fsar, file: Path, case: Case, *more: str) -> tuple[int, str]:
    """The code of an import, and what was said."""
    code, _, err = fsar(
        "checkpoint", "import", "--method", case.method, file, "--run", "theirs", *settings(case), *more
    )
    return code, err


def nothing_made(here: Path) -> bool:
    return not (here / "runs").exists() or not list((here / "runs").iterdir())


BARE = {
    "pretrained VideoMAE": ("tamt", lambda: {"module": draw(videomae() | pair("head", 9, VIDEOMAE))}),
    "self-supervised VideoMAE": (
        "tamt",
        lambda: {"model": draw(under("encoder.", videomae()) | {"mask_token": (1, 1, 8)})},
    ),
    "CLIP": ("clip_fsar", lambda: draw(under("visual.", clip_vit()) | {"token_embedding.weight": (5, D)})),
    "ST-Adapter": ("tmal", lambda: {"model": {k.removeprefix("head.backbone."): v for k, v in adapted().items()}}),
    "ResNet": ("gslta", lambda: draw(resnet18() | pair("fc", 10, D))),
}


def adapted() -> dict[str, Tensor]:
    tower = {key: tensor for key, tensor in tmal(("pre_mlp",)).items() if key.startswith("head.backbone.")}
    del tower["head.backbone.proj"]
    return tower | draw(pair("fc", 9, VIT))


@pytest.mark.parametrize("name", BARE)
def test_a_backbone_alone_is_no_checkpoint_of_a_head_with_tensors(here: Path, fsar: Fsar, name: str) -> None:
    method, whole = BARE[name]
    torch.save(whole(), here / "theirs.pt")
    code, err = imported(fsar, here / "theirs.pt", Case(method, dict, sets=()))
    assert code == 4
    assert "backbone alone" in err
    assert "--weights file:PATH" in err
    assert nothing_made(here)


def test_openais_file_is_a_run_of_a_head_without_parameters(here: Path, fsar: Fsar) -> None:
    tower = {key: tensor.half() for key, tensor in draw(under("visual.", clip_vit())).items()}
    text = {"token_embedding.weight": torch.ones(4, D), "logit_scale": torch.tensor(4.6)}
    torch.save(tower | text, here / "theirs.pt")
    code, err = imported(fsar, here / "theirs.pt", Case("otam", dict, sets=("features.frames=2",)))
    assert code == 0, err
    assert read_config(here / "runs" / "theirs").features.backbone == "clip_vit_b16"
    assert fsar("checkpoint", "export", "theirs", here / "back.safetensors")[0] == 0
    assert same(load_file(here / "back.safetensors"), tower | text)


Spoilt = Callable[[dict[str, Tensor]], object]
SPOILT: dict[str, tuple[str, Spoilt, str]] = {
    "a tensor of the head is missing": (
        "gslta",
        lambda t: t.pop("decoder.layers.0.1.net.0.bias"),
        "missing decoder.layers.0.1.net.0.bias",
    ),
    "a tensor too many": ("gslta", lambda t: t.update({"neck.weight": torch.ones(2)}), "unknown neck.weight"),
    "another size": (
        "gslta",
        lambda t: t.update({"classification_layer.1.bias": torch.ones(9)}),
        "is [9], the head has [64]",
    ),
    "a tensor of the backbone is missing": (
        "otam",
        lambda t: t.pop("backbone.5.0.bn1.weight"),
        "the backbone in",
    ),
    "a backbone of another size": (
        "otam",
        lambda t: t.update({"backbone.1.bias": torch.ones(3)}),
        "bn1.bias is [3] instead of [64]",
    ),
    "no backbone": (
        "gslta",
        lambda t: [t.pop(key) for key in list(t) if key.startswith("backbone.") and "fc." not in key],
        "no tensors of a backbone",
    ),
    "a position code that is another": (
        "trx",
        lambda t: t["transformers.1.pe.pe"].add_(0.01),
        "transformers.1.pe.pe is not what it is computed to be",
    ),
    "an adapter is missing": (
        "tamt",
        lambda t: t.pop("feature.blocks.11.tam.L.0.weight"),
        "missing feature.blocks.11.tam.L.0.weight",
    ),
    "an adapter of another size": (
        "tamt",
        lambda t: t.update({"feature.blocks.11.tam.L2.0.weight": torch.ones(2, 2, 1)}),
        "block11.beside_mlp.scale.weight is [2, 2, 1]",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_fit_is_named_and_nothing_is_made(here: Path, fsar: Fsar, name: str) -> None:
    method, spoil, message = SPOILT[name]
    tensors = CASES[method].tensors()
    spoil(tensors)
    torch.save({CASES[method].wrapper: tensors}, here / "theirs.pt")
    code, err = imported(fsar, here / "theirs.pt", CASES[method])
    assert code == 4, err
    assert message in err
    assert "theirs.pt" in err
    assert ".partial" not in err
    assert nothing_made(here)


def test_other_methods_and_damaged_files_are_refused(here: Path, fsar: Fsar) -> None:
    written(here / "theirs.pt", CASES["otam"])
    whole = (here / "theirs.pt").read_bytes()
    for method in ("trx", "gslta", "ta2n"):
        code, err = imported(fsar, here / "theirs.pt", CASES[method])
        assert (code, "backbone alone" in err) == (4, True), err
    written(here / "gslta.pt", CASES["gslta"])
    code, err = imported(fsar, here / "gslta.pt", CASES["otam"])
    assert (code, "looks like a checkpoint of gslta, not of otam" in err) == (2, True), err
    for part in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30], b"not a checkpoint"):
        (here / "torn.pt").write_bytes(part)
        code, err = imported(fsar, here / "torn.pt", CASES["otam"])
        assert (code, "torn.pt" in err) == (4, True), err
    assert imported(fsar, here / "none.pt", CASES["otam"])[0] == 3
    assert fsar("checkpoint", "import", here / "theirs.pt", "--run", "theirs")[0] == 2
    assert nothing_made(here)


@pytest.mark.parametrize("theirs", ["trx", "trx, the library", "tmal, 24x384 in two blocks", "clip_fsar, ViT"])
def test_another_methods_file_is_named_before_anything_else(here: Path, fsar: Fsar, theirs: str) -> None:
    written(here / "theirs.pt", CASES[theirs])
    whose = CASES[theirs].method
    for method in {"gslta", "otam", "clip_fsar"} - {whose}:
        code, _, err = fsar("checkpoint", "import", "--method", method, here / "theirs.pt", "--run", "theirs")
        assert code == 2, err
        assert f"looks like a checkpoint of {whose}, not of {method}" in err
        assert f"--method {whose}" in err
    code, _, err = fsar("checkpoint", "import", "--recipe", "otam", here / "theirs.pt", "--run", "theirs")
    assert (code, "normalises" in err) == (2, False), "whose it is comes first"
    assert nothing_made(here)


def test_a_run_folder_that_cannot_be_made_is_an_error(here: Path, fsar: Fsar) -> None:
    written(here / "theirs.pt", CASES["otam"])
    (here / "file").write_text("mine")
    for folder in ("/proc/x", here / "file" / "x"):
        code, _, err = fsar("checkpoint", "import", "--method", "otam", here / "theirs.pt", "--run", folder)
        assert (code, "can't be made" in err, "--run NAME" in err) == (2, True, True), err
    code, err = imported(fsar, here / "theirs.pt", CASES["otam"])
    assert (code, "8 frames of 32 pixels, not normalised" in err) == (0, True), err
    code, _, err = fsar("checkpoint", "export", "theirs", "/proc/x/back.pt")
    assert (code, "can't be written" in err) == (2, True), err


@pytest.mark.parametrize("file", ["mine.pt", "mine.safetensors"])
def test_a_run_trained_here_comes_back_as_it_was(
    tmp_path: Path, fsar: Fsar, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Frame size, head settings, normalisation and its deviations: the same answers, though only the method is named."""
    monkeypatch.setenv("FSAR_RUNS", str(tmp_path / "runs"))
    small_backbones(monkeypatch)
    world = make_world(tmp_path / "world")
    recipe = world.recipe("train.iterations=2", "features.normalise=centre-source-std")
    train(recipe, tmp_path / "runs" / "mine", world.places)
    wanted = evaluate_run(tmp_path / "runs" / "mine", world.places)
    code, _, err = fsar("checkpoint", "export", "mine", tmp_path / file)
    assert (code, "normalisation go along" in err) == (0, True), err
    assert str(world.folder) not in (tmp_path / file).read_bytes().decode("latin-1"), "no places of this machine"
    domains = [f"target.dataset={recipe.target.dataset}", "eval.episodes=50", "eval.way=3", "eval.shot=2"]
    words = ("checkpoint", "import", tmp_path / file, *(word for text in domains for word in ("--set", text)))
    code, _, err = fsar(*words, "--method", "gslta", "--run", "theirs")
    assert code == 0, err
    config = read_config(tmp_path / "runs" / "theirs")
    for kept in ("size", "frames", "cut", "normalise"):
        assert getattr(config.features, kept) == getattr(recipe.features, kept)
    assert evaluate_run(tmp_path / "runs" / "theirs", world.places).correct == wanted.correct

    toml = str(world.folder / "gslta-pooled.toml")
    centred = ("--set", "features.normalise=centre-source-std")
    code, _, err = fsar(*words, "--recipe", toml, *centred, "--run", "named", "--set", "features.frames=4")
    assert code == 0, err
    assert "features.frames is 4; the file was trained with 8" in err
    held = [
        load_file(tmp_path / "runs" / run / "checkpoints" / "last.safetensors")["model.normaliser.scale"]
        for run in ("mine", "theirs", "named")
    ]
    assert torch.equal(held[0], held[1])
    assert torch.equal(held[0], held[2])
    code, _, err = fsar(*words, "--method", "otam", "--run", "other")
    assert (code, "--method gslta" in err) == (2, True), err

    assert fsar("checkpoint", "export", "theirs", tmp_path / "again.pt")[0] == 0
    one, again = (read_tensor_file(tmp_path / name) for name in (file, "again.pt"))
    assert again.other["fsar_cache"] == one.other["fsar_cache"]
    assert same(dict(one.tensors), dict(again.tensors))


def spoilt_deviations(entry: dict[str, object]) -> None:
    entry["deviations"] = {"features": [1.0, -2.0]}


FOREIGN: dict[str, Callable[[dict[str, object]], object]] = {
    "deviations of another width": spoilt_deviations,
    "an unknown setting": lambda entry: entry.update(features={"colour": "blue"}),
    "no features": lambda entry: entry.pop("features"),
}


@pytest.mark.parametrize("entry", [*FOREIGN, "no text", "no table", "no JSON"])
def test_an_entry_that_says_nothing_sensible_is_refused(here: Path, fsar: Fsar, entry: str) -> None:
    values: dict[str, object] = {
        **{"name": "mine", "head": "otam", "follows": "ours", "head_config": {}, "deviations": {}},
        "features": {"size": 32, "normalise": "centre-source-std"},
    }
    if entry in FOREIGN:
        FOREIGN[entry](values)
    text = {"no text": 5, "no table": "[]", "no JSON": "{"}.get(entry, json.dumps(values))
    torch.save({"fsar_cache": text, "model_state_dict": CASES["otam"].tensors()}, here / "theirs.pt")
    code, err = imported(fsar, here / "theirs.pt", CASES["otam"])
    assert (code, "theirs.pt" in err) == (4, True), err
    assert nothing_made(here)


def test_a_run_is_never_overwritten_and_a_file_only_if_asked(here: Path, fsar: Fsar) -> None:
    case = CASES["otam"]
    written(here / "theirs.pt", case)
    assert imported(fsar, here / "theirs.pt", case)[0] == 0
    assert imported(fsar, here / "theirs.pt", case)[0] == 0, "the same again changes nothing"
    code, err = imported(fsar, here / "theirs.pt", case, "--set", "eval.shot=1")
    assert (code, "eval.shot" in err) == (2, True)
    written(here / "other.pt", CASES["protonet"])
    torch.save({"model_state_dict": {k: v + 1 for k, v in CASES["otam"].tensors().items()}}, here / "other.pt")
    code, err = imported(fsar, here / "other.pt", case)
    assert (code, "holds another checkpoint: theirs.pt" in err) == (2, True)
    (here / "runs" / "full").mkdir()
    (here / "runs" / "full" / "notes.txt").write_text("mine")
    code, _, err = fsar(
        "checkpoint", "import", "--method", "otam", here / "theirs.pt", "--run", "full", *settings(case)
    )
    assert (code, "holds no run" in err) == (2, True)
    assert sorted(p.name for p in (here / "runs").iterdir()) == ["full", "theirs"]
    (here / "back.pt").write_text("mine")
    code, _, err = fsar("checkpoint", "export", "theirs", here / "back.pt")
    assert (code, "--force" in err) == (2, True)
    assert (here / "back.pt").read_text() == "mine"
    assert fsar("checkpoint", "export", "theirs", here / "back.pt", "--force")[0] == 0
    assert fsar("checkpoint", "export", "nothing", here / "new.pt")[0] == 3
    damaged = here / "runs" / "theirs" / "backbone.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert fsar("checkpoint", "export", "theirs", here / "new.pt")[0] == 4
    assert not (here / "new.pt").exists()


def test_half_precision_comes_back_as_it_was(here: Path, fsar: Fsar) -> None:
    case = CASES["gslta"]
    tensors = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in case.tensors().items()}
    torch.save({"model_state_dict": tensors}, here / "theirs.pt")
    code, err = imported(fsar, here / "theirs.pt", case)
    assert code == 0, err
    assert fsar("checkpoint", "export", "theirs", here / "back.pt")[0] == 0
    assert same(torch.load(here / "back.pt", weights_only=True)["model_state_dict"], tensors)


def test_a_run_trained_here_is_written_in_the_published_layout(
    tmp_path: Path, fsar: Fsar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head and backbone under published keys, which are those of a published file without what nothing reads."""
    monkeypatch.setenv("FSAR_RUNS", str(tmp_path / "runs"))
    small_backbones(monkeypatch)
    world = make_world(tmp_path / "world", cut="frames")
    recipe = world.recipe(
        "train.iterations=2", "features.normalise=none", "head_config.heads=2", "head_config.dim_head=8", cut="frames"
    )
    train(recipe, tmp_path / "runs" / "mine", world.places)
    code, out, err = fsar("checkpoint", "export", "mine", tmp_path / "mine.pt", "--json")
    assert code == 0, err
    whole = torch.load(tmp_path / "mine.pt", weights_only=True)
    assert whole.keys() == {"iteration", "model_state_dict", "fsar_cache"}
    assert whole["iteration"] == 2
    made, theirs = whole["model_state_dict"], CASES["gslta"].tensors()
    assert json.loads(out)["absent"] == list(build_head(recipe, 4).published_layout().unused)  # type: ignore[operator]
    assert theirs.keys() - made.keys() == {key for key in theirs if ".fc." in key or "mapping" in key or key == "scale"}
    assert made.keys() <= theirs.keys()
    held = load_file(tmp_path / "runs" / "mine" / "checkpoints" / "last.safetensors")
    assert torch.equal(made["backbone.resnet.layer4.1.conv2.weight"], held["model.tail.1.net.layer4.1.conv2.weight"])
    drawn = trunk(backbone_of(extract_config(recipe.features))).state_dict()
    assert not torch.equal(made["backbone.resnet.bn1.running_mean"], drawn["bn1.running_mean"]), "it was trained"
    sets = ("features.size=32", "head_config.heads=2", "head_config.dim_head=8", "head_config.mlp_dim=32")
    again = Case("gslta", dict, sets=sets)
    code, err = imported(fsar, tmp_path / "mine.pt", again, "--classes", "4")
    assert code == 0, err
    back = load_file(tmp_path / "runs" / "theirs" / "checkpoints" / "last.safetensors")
    assert all(torch.equal(back[key], held[key]) for key in back if key.startswith("model.head."))


@pytest.mark.parametrize("prefix", ["backbone.resnet.", "backbone.module.resnet."])
def test_a_published_checkpoint_becomes_a_run(tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written under the published names by hand, imported, extracted with its own backbone: same weights, same answers."""
    small_backbones(monkeypatch)
    world = make_world(tmp_path / "world")
    recipe = world.recipe("train.unlabelled=0")
    torch.manual_seed(3)
    head = build_head(recipe, 5, D)
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
    small_backbones(monkeypatch)
    world = make_world(tmp_path / "world")
    for name, folder in (("STORES", world.places.stores), ("RUNS", tmp_path / "runs"), ("VIDEOS", tmp_path / "videos")):
        monkeypatch.setenv(f"FSAR_{name}", str(folder))
    recipe = world.recipe("train.unlabelled=0")
    toml = str(world.folder / "gslta-pooled.toml")

    def drawn(seed: int) -> str:
        torch.manual_seed(seed)
        net = trunk(backbone_of(replace(extract_config(recipe.features), weights=f"random:{seed}")))
        rest = Rest(net.state_dict(), {"scale": torch.ones(1)}, prefix)
        tensors = to_published(build_head(recipe, 5, D), rest)  # type: ignore[arg-type]
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


def test_tensors_of_one_memory_are_read_and_written_back(here: Path, fsar: Fsar) -> None:
    case, whole = CASES["otam"], torch.randn(60000)
    tensors, at = case.tensors(), 0
    for key, value in tensors.items():
        if value.is_floating_point() and at + value.numel() <= len(whole):
            tensors[key] = whole[at : at + value.numel()].view(value.shape)
            at += value.numel()
    written(here / "theirs.pt", replace(case, tensors=lambda: tensors))
    code, err = imported(fsar, here / "theirs.pt", case)
    assert code == 0, err
    assert fsar("checkpoint", "export", "theirs", here / "back.pt")[0] == 0
    assert same(dict(read_tensor_file(here / "back.pt").tensors), tensors)


def test_a_number_where_a_backbones_bias_should_be_is_an_error(here: Path, fsar: Fsar) -> None:
    case = CASES["tamt"]
    tensors = {**case.tensors(), "feature.patch_embed.proj.bias": torch.tensor(1.0)}
    written(here / "theirs.pt", replace(case, tensors=lambda: tensors))
    code, err = imported(fsar, here / "theirs.pt", case)
    assert code == errors.IntegrityError.exit_code, err
    assert nothing_made(here)
