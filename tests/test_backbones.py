"""Backbones of frames: their weights come from where they should, strictly, without side effects (their cuts: test_cuts.py)."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

import extract.weights
from extract.backbone import BACKBONES, Backbone, Scaling, build_backbone
from extract.resnet import trunk
from extract.scaling import SCALINGS, Scale, rescaled
from extract.weights import load_strictly, network, read_tensors, weight_hash
from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError


@pytest.fixture(scope="module")
def resnet18() -> Backbone:
    return BACKBONES.get("resnet18")("random:3").eval()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(b: int, t: int, size: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (b, t, size, size, 3), np.uint8))


def test_float16_maps_restart_within_the_stated_error(resnet18: Backbone) -> None:
    x = pixels(1, 4)
    with torch.inference_mode():
        whole = resnet18(x)
        half = resnet18.tail_of("map")(resnet18.head_of("map")(x).half().float())
    # a mean of non-negative numbers, each rounded by at most 2^-11 of itself
    assert ((half - whole).abs() <= whole * 2.0**-11 + 1e-7).all()
    assert not torch.equal(half, whole)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)])
def test_agrees_with_torchvision_under_its_names(name: str, width: int) -> None:
    backbone = BACKBONES.get(name)("random:5").eval()
    other = getattr(torchvision.models, name)(weights=None).eval()
    other.fc = torch.nn.Identity()
    other.load_state_dict(trunk(backbone).state_dict(), strict=True)
    x = pixels(1, 2, 64)
    with torch.inference_mode():
        mine = backbone(x)
        theirs = other(x[0].permute(0, 3, 1, 2).float() / 255)
    assert mine.shape == (1, 2, width)
    torch.testing.assert_close(mine[0], theirs, rtol=1e-5, atol=1e-5)


def test_drawn_weights_are_as_the_card_says(resnet18: Backbone) -> None:
    state = trunk(resnet18).state_dict()
    for name, tensor in state.items():
        if "bn" in name or "downsample.1" in name:
            want = 0.0 if name.endswith(("bias", "running_mean", "num_batches_tracked")) else 1.0
            assert (tensor == want).all(), name
        else:
            fan_out = tensor.shape[0] * tensor.shape[2] * tensor.shape[3]
            assert tensor.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


def test_a_seed_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, two, other = (weight_hash(network("resnet18", f"random:{seed}")[0]) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == two != other


def test_the_hash_sees_a_single_bit(resnet18: Backbone) -> None:
    net = network("resnet18", "random:3")[0]
    assert weight_hash(net) == resnet18.facts["weights"]
    with torch.no_grad():
        weight = net.get_parameter("layer4.1.conv2.weight")
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert weight_hash(net) != resnet18.facts["weights"]
    again = network("resnet18", "random:3")[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert weight_hash(again) == resnet18.facts["weights"]


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path: Path, resnet18: Backbone, ending: str) -> None:
    tensors = {**trunk(resnet18).state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"w.{ending}"
    save_file(tensors, path) if ending == "safetensors" else torch.save(tensors, path)
    loaded = BACKBONES.get("resnet18")(f"file:{path}")
    assert loaded.facts == resnet18.facts


def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, resnet18: Backbone) -> None:
    state = trunk(resnet18).state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "layer1.0.conv1.weight"}
    with pytest.raises(IntegrityError, match=r"layer1\.0\.conv1\.weight is missing"):
        load_strictly(trunk(resnet18), lacking, "w")
    with pytest.raises(IntegrityError, match=r"head\.weight is unknown"):
        load_strictly(trunk(resnet18), {**state, "head.weight": torch.zeros(1)}, "w")
    with pytest.raises(IntegrityError, match=r"conv1\.weight is \[64, 3, 3, 3\] instead of \[64, 3, 7, 7\]"):
        load_strictly(trunk(resnet18), {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}, "w")


class Bomb:
    """Makes a folder when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_pickled_code_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"conv1.weight": Bomb(str(trap))}, tmp_path / "w.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(str(trap))))
    for name in ("w.pth", "raw.pth"):
        with pytest.raises(IntegrityError, match=r"holds no tensors|not a table of tensors|no torch file"):
            read_tensors(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 torn archive"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        read_tensors(path)


def test_a_whole_checkpoint_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    torch.save({"iteration": 3, "model_state_dict": {}}, tmp_path / "c.pt")
    with pytest.raises(IntegrityError, match="iteration, model_state_dict"):
        read_tensors(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("weights", "kind", "text"),
    [
        ("imagenet", UsageError, "not random:SEED"),
        ("random:", UsageError, "not random:SEED"),
        ("random:-1", UsageError, "whole number"),
        ("random:one", UsageError, "whole number"),
        ("file:/no/such.pth", MissingError, "no weight file"),
        ("timm:resnet18.a1_in2k", UsageError, "resnet18.a1_in1k"),
        ("timm:resnet50.a1_in1k", UsageError, "unknown timm weights of resnet18"),
    ],
)
def test_wrong_weights_are_named(weights: str, kind: type[FsarError], text: str) -> None:
    with pytest.raises(kind, match=text):
        network("resnet18", weights)


def test_published_weights_come_from_the_local_cache_with_their_scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet18: Backbone
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--timm--resnet18.a1_in1k"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    save_file(trunk(resnet18).state_dict(), repo / "snapshots" / "abc" / "model.safetensors")
    for name in ("resnet18.a1_in1k", "a1_in1k"):
        backbone = BACKBONES.get("resnet18")(f"timm:{name}")
        assert backbone.facts["weights"] == resnet18.facts["weights"]
        assert backbone.facts["scaling"]["name"] == "imagenet"


def test_published_weights_without_a_network_are_missing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match="can't be reached") as caught:
        network("resnet18", "timm:resnet18.a1_in1k")
    assert "file:PATH" in str(caught.value.hint)

    def fails(*_: object) -> str:
        raise RuntimeError("the connection broke")

    monkeypatch.setattr(extract.weights, "_reachable", lambda _: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(MissingError, match="could not be fetched: the connection broke"):
        network("resnet18", "timm:resnet18.a1_in1k")


def test_scalings_are_plain_arithmetic() -> None:
    x = pixels(1, 2, 9)
    plain = x.double().permute(0, 1, 4, 2, 3) / 255
    unit = Scale(SCALINGS["unit"])(x)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.double(), plain, rtol=0, atol=1e-7)
    scaling = Scaling("own", (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (scaling.mean, scaling.std))
    torch.testing.assert_close(Scale(scaling)(x).double(), (plain - mean) / std, rtol=1e-6, atol=1e-6)
    assert torch.equal(x, pixels(1, 2, 9))


def test_rescaling_changes_the_facts_and_the_numbers_only(resnet18: Backbone) -> None:
    assert rescaled(resnet18, "auto") is resnet18
    other = rescaled(resnet18, "imagenet")
    assert other.facts["scaling"]["name"] == "imagenet"
    assert other.facts["weights"] == resnet18.facts["weights"]
    assert trunk(other) is trunk(resnet18)
    x = pixels(1, 1)
    with torch.inference_mode():
        assert not torch.allclose(other(x), resnet18(x))
    with pytest.raises(UsageError, match="imagenet"):
        rescaled(resnet18, "imagenett")


def test_unknown_names_suggest_the_nearest(resnet18: Backbone) -> None:
    with pytest.raises(UsageError) as caught:
        BACKBONES.get("resnet81")
    assert "resnet18" in str(caught.value.hint)
    with pytest.raises(UsageError) as caught:
        resnet18.head_of("pool")
    assert "pooled" in str(caught.value.hint)


def test_a_model_of_timm_gives_its_own_pooled_features(tmp_path: Path) -> None:
    import timm

    backbone = build_backbone("timm:convnext_atto", "random:3").eval()
    other = timm.create_model("convnext_atto", num_classes=10).eval()
    state = {name.removeprefix("net."): tensor for name, tensor in backbone.stages[1].state_dict().items()}
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert (set(missing), unexpected) == ({"head.fc.weight", "head.fc.bias"}, [])
    x = pixels(1, 2)
    scaled = (x[0] / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        want = other.forward_head(other.forward_features(scaled.permute(0, 3, 1, 2)), pre_logits=True)
        torch.testing.assert_close(backbone(x)[0], want, rtol=1e-4, atol=1e-5)
    assert (backbone.name, backbone.facts["scaling"]["name"]) == ("convnext_atto", "imagenet")

    save_file(other.state_dict(), tmp_path / "w.safetensors")  # with its classifier
    assert build_backbone("timm:convnext_atto", f"file:{tmp_path / 'w.safetensors'}").facts == backbone.facts
    save_file({**other.state_dict(), "head.more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(IntegrityError, match=r"head\.more is unknown"):
        build_backbone("timm:convnext_atto", f"file:{tmp_path / 'more.safetensors'}")


def test_a_model_of_timm_draws_from_its_seed_alone() -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, two, other = (build_backbone("timm:test_vit", f"random:{seed}").facts["weights"] for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == two != other


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_registered_network_is_the_same_under_timms_prefix(name: str) -> None:
    """One name in the facts, one network: also what it draws, where it can be cut, and the last bit of what it gives."""
    one, other = (build_backbone(called, "random:4").eval() for called in (name, f"timm:{name}"))
    assert (other.facts, other.cuts, other.name) == (one.facts, one.cuts, name)
    x = pixels(1, 2, 40)
    with torch.inference_mode():
        assert torch.equal(one(x), other(x))


def test_published_weights_of_a_model_of_timm_come_from_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    backbone = build_backbone("timm:test_vit", "random:5")
    repo = tmp_path / "models--timm--test_vit.r160_in1k"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    net = backbone.stages[1].get_submodule("net")
    save_file(net.state_dict() | {"head.weight": torch.zeros(2, 2)}, repo / "snapshots" / "abc" / "model.safetensors")
    for weights in ("timm:r160_in1k", "timm:test_vit.r160_in1k"):
        assert build_backbone("timm:test_vit", weights).facts == backbone.facts
    with pytest.raises(MissingError, match=r"convnext_atto\.d2_in1k are not on this machine"):
        build_backbone("timm:convnext_atto", "timm:d2_in1k")
    with pytest.raises(MissingError, match="not on the model hub") as caught:
        build_backbone("timm:legacy_seresnet18", "timm:in1k")
    assert "file:PATH" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "weights", "text", "hint"),
    [
        ("timm:convnext_atom", "random:0", "no image model 'convnext_atom'", "timm:convnext_atto"),
        ("timm:resnet18.a1_in1k", "random:0", "no image model", "--weights timm:TAG"),
        ("timm:hf-hub:some/model", "random:0", "no image model", "list_models"),
        ("timm:", "random:0", "no image model", "list_models"),
        ("timm:test_vit", "openclip:openai", "random:SEED, timm:NAME or file:PATH", "random:0"),
        ("timm:test_vit", "timm:r160_in2k", "unknown timm weights of test_vit", "r160_in1k"),
    ],
)
def test_wrong_models_of_timm_are_named(name: str, weights: str, text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        build_backbone(name, weights)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("model", "size", "text"), [("test_vit", 96, "its size is fixed"), ("test_convnext", 8, "8 x 8")]
)
def test_sizes_that_a_model_of_timm_cannot_take_are_refused(model: str, size: int, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught, torch.inference_mode():
        build_backbone(f"timm:{model}", "random:0").eval()(pixels(1, 1, size))
    assert caught.value.hint == "it is meant for --set features.size=160"
