"""CLIP's image towers: open_clip's numbers, the cuts and slots they promise, and weights of every published layout, strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.golden import load, mismatch
from parity import answers
from safetensors.torch import save_file
from torch import Tensor, nn

from extract import clip_resnet, clip_vit
from extract.backbone import Backbone, build_backbone
from extract.clip_weights import TEXT, filled, published_names
from extract.scaling import SCALINGS, rescaled
from extract.weights import drawn
from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError

GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(size: int, b: int = 1, t: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (b, t, size, size, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def rn50() -> Backbone:
    return build_backbone("clip_rn50", "random:3").eval()


def tensors_of(backbone: Backbone) -> dict[str, Tensor]:
    """Its tensors under the published names."""
    state = backbone.state_dict()
    return {key: state[name].clone() for name, key in published_names(backbone).items()}


def whole_clip(backbone: Backbone) -> dict[str, Tensor]:
    """A file as OpenAI released it: half precision, both towers (the text tower's tensors are not looked at here), three odd entries."""
    halves = {key: t.half() if t.is_floating_point() else t for key, t in tensors_of(backbone).items()}
    odd = ("logit_scale", "input_resolution", "context_length", "vocab_size")
    return {f"visual.{key}": t for key, t in halves.items()} | {key: torch.zeros(1) for key in (*TEXT, *odd)}


@pytest.mark.parametrize(("module", "side"), [(clip_vit, 48), (clip_resnet, 64)], ids=["vit", "rn50"])
def test_agrees_with_open_clip(module: Any, side: int) -> None:
    blank, chain = (
        (module.blank_vit, module.vit_backbone) if module is clip_vit else (module.blank_rn50, module.rn50_backbone)
    )
    net = drawn(lambda: blank(side), 1).eval().double()
    backbone = chain(net, SCALINGS["clip"]).eval()
    assert sorted(published_names(backbone).values()) == sorted(net.state_dict())
    x = pixels(side, 2)
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (SCALINGS["clip"].mean, SCALINGS["clip"].std))
    images = (x.double().permute(0, 1, 4, 2, 3) / 255 - mean) / std
    after_scaling = backbone.stages[1:]
    with torch.inference_mode():
        torch.testing.assert_close(backbone.stages[0](x).double(), images, rtol=0, atol=1e-6)
        theirs = net(images.flatten(0, 1)).unflatten(0, (2, 2))
        torch.testing.assert_close(nn.Sequential(*after_scaling)(images), theirs, rtol=1e-9, atol=1e-9)


def test_cuts_and_slots(rn50: Backbone) -> None:
    vit = clip_vit.vit_backbone(clip_vit.blank_vit(32), SCALINGS["clip"])
    assert list(vit.cuts) == ["frames", *(f"block{i}" for i in range(13)), "pooled"]
    assert vit.slots == [f"block{i}.{place}" for i in range(12) for place in ("pre_attn", "pre_mlp")]
    assert list(rn50.cuts) == ["frames", *(f"block{i}" for i in range(17)), "map", "pooled"]
    assert rn50.slots == []
    with torch.inference_mode():
        assert vit.head_of("block6")(pixels(32)).shape == (1, 2, 5, 768)
        assert vit(pixels(32)).shape == (1, 2, 512)
        maps = rn50.head_of("map")(pixels(224, t=1))
        assert maps.shape == (1, 1, 2048, 7, 7)
        assert rn50.tail_of("map")(maps).shape == (1, 1, 1024)


def test_gradients_don_t_change_the_bits(rn50: Backbone) -> None:
    """The attention module of the library would take another path without them."""
    vit = clip_vit.vit_backbone(drawn(lambda: clip_vit.blank_vit(32), 1), SCALINGS["clip"])
    for backbone, x in ((vit, pixels(32)), (rn50, pixels(224, t=1))):
        with torch.inference_mode():
            plain = backbone(x)
        assert torch.equal(backbone(x).detach(), plain)


@pytest.mark.parametrize("size", [(112, 112), (224, 256)])
def test_another_size_is_refused_by_name(rn50: Backbone, size: tuple[int, int]) -> None:
    net = clip_vit.blank_vit(32)
    net.image_size = (224, 224)  # type: ignore[assignment]
    for backbone in (rn50, clip_vit.vit_backbone(net, SCALINGS["clip"])):
        with pytest.raises(
            UsageError, match=f"{backbone.name} takes frames of 224x224 pixels, not {size[0]}x{size[1]}"
        ):
            backbone.head_of("block0")(torch.zeros(1, 1, *size, 3, dtype=torch.uint8))


def test_pixels_are_scaled_as_clip_s_unless_told(rn50: Backbone) -> None:
    assert rn50.facts["scaling"]["name"] == "clip"
    plain = rescaled(rn50, "unit")
    assert plain.facts["scaling"]["name"] == "unit"
    assert plain.facts["weights"] == rn50.facts["weights"]


def test_drawn_weights(rn50: Backbone) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, other = (build_backbone("clip_rn50", f"random:{seed}") for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert again.facts == rn50.facts
    assert other.facts["weights"] != rn50.facts["weights"]
    tensors = tensors_of(rn50)
    assert all((t == 1).all() for key, t in tensors.items() if ".bn" in key and key.endswith("weight"))
    conv = tensors["layer2.0.conv2.weight"]
    assert conv.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return f"file:{path}"


def test_published_layouts_give_one_network(tmp_path: Path, rn50: Backbone) -> None:
    """OpenAI's, open_clip's and CLIP-FSAR's files of the same half-precision values: one hash, float32, the values rounded once."""
    whole = whole_clip(rn50)
    visual = {key.removeprefix("visual."): t for key, t in whole.items() if key.startswith("visual.")}
    save_file(whole, tmp_path / "clip.safetensors")
    fine_tuned = {f"head.backbone.{key}": t for key, t in visual.items()} | {"head.scale": torch.ones(1)}
    sources = [
        saved(tmp_path / "clip.pt", whole),
        f"file:{tmp_path / 'clip.safetensors'}",
        saved(tmp_path / "visual.pt", {"state_dict": {k: t for k, t in whole.items() if k.startswith("visual.")}}),
        saved(tmp_path / "fsar.pyth", {"epoch": 4, "model_state": fine_tuned, "cfg": "TRAIN: {}"}),
    ]
    made = [build_backbone("clip_rn50", source) for source in sources]
    assert len({backbone.facts["weights"] for backbone in made}) == 1
    got = tensors_of(made[0])
    assert all(t.dtype == torch.float32 for t in got.values() if t.is_floating_point())
    assert all(torch.equal(got[key], t.float() if t.is_floating_point() else t) for key, t in visual.items())


def test_a_released_archive_is_read_without_its_code(tmp_path: Path, rn50: Backbone) -> None:
    net = filled("clip_rn50", "random:3", "image", clip_resnet.blank_rn50)[0].half()
    clip = nn.Module()
    clip.visual = net
    for key in ("input_resolution", "context_length", "vocab_size"):
        clip.register_buffer(key, torch.tensor(1))
    clip.logit_scale = nn.Parameter(torch.zeros(()))
    path = tmp_path / "RN50.pt"
    torch.jit.trace_module(Forwarding(clip), {"forward": torch.zeros(1)}, check_trace=False).save(str(path))
    loaded = build_backbone("clip_rn50", f"file:{path}")
    halves = {key: t.half().float() if t.is_floating_point() else t for key, t in tensors_of(rn50).items()}
    got = tensors_of(loaded)
    assert all(torch.equal(got[key], t) for key, t in halves.items())


class Forwarding(nn.Module):
    """The parts of a module, with a forward pass that a tracer can follow."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        for name, child in parts.named_children():
            setattr(self, name, child)
        for name, tensor in parts.named_buffers(recurse=False):
            self.register_buffer(name, tensor)
        for name, parameter in parts.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_what_does_not_fit_is_named(tmp_path: Path, rn50: Backbone) -> None:
    whole = whole_clip(rn50)
    lacking = {key: t for key, t in whole.items() if key != "visual.attnpool.c_proj.bias"}
    cases = {
        "attnpool.c_proj.bias is missing": lacking,
        "fc.weight is unknown": whole | {"visual.fc.weight": torch.ones(1)},
        "none of CLIP's: extra, transformer.resblocks.12.ln_1.bias": whole
        | {"extra": torch.ones(1), "transformer.resblocks.12.ln_1.bias": torch.ones(1)},
        r"conv1.weight is \[1\] instead of \[32, 3, 3, 3\]": whole | {"visual.conv1.weight": torch.ones(1)},
        "none of CLIP's: conv1.weight": {"conv1.weight": torch.ones(1)},
    }
    for message, tensors in cases.items():
        with pytest.raises(IntegrityError, match=message) as caught:
            build_backbone("clip_rn50", saved(tmp_path / "w.pt", tensors))
        assert "w.pt" in caught.value.message
        assert "CLIP" in str(caught.value.hint) or "OpenAI" in str(caught.value.hint)
    fine_tuned = saved(tmp_path / "f.pt", {"model_state": {"head.backbone.conv1.weight": torch.ones(1)}})
    with pytest.raises(IntegrityError, match="no text tower"):
        filled("clip_rn50", fine_tuned, "text", nn.Module)


@pytest.mark.parametrize(
    ("weights", "kind", "text"),
    [
        ("openai", UsageError, "random:SEED, openclip:NAME or file:PATH"),
        ("timm:resnet50.a1_in1k", UsageError, "random:SEED, openclip:NAME or file:PATH"),
        ("random:x", UsageError, "whole number"),
        ("openclip:openia", UsageError, "openai"),
        ("file:/no/such.pt", MissingError, "no weight file"),
    ],
)
def test_wrong_weights_are_named(weights: str, kind: type[FsarError], text: str) -> None:
    with pytest.raises(kind, match=text):
        build_backbone("clip_rn50", weights)


def test_released_weights_come_from_the_hub_s_cache_or_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rn50: Backbone
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match="openclip:openai of RN50-quickgelu are not on this machine") as caught:
        build_backbone("clip_rn50", "openclip:openai")
    assert "file:PATH" in str(caught.value.hint)
    repository = tmp_path / "models--timm--resnet50_clip.openai"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    whole = {f"visual.{key}": t for key, t in tensors_of(rn50).items()}
    save_file(whole, repository / "snapshots" / "abc" / "open_clip_model.safetensors")
    assert build_backbone("clip_rn50", "openclip:openai").facts == rn50.facts


def test_the_text_tower_s_names_are_the_released_ones() -> None:
    keys = set(json.loads((GOLDEN / "clip_text/vit_b16/case.json").read_text())["weights"])
    assert keys == TEXT | {"logit_scale"}


def test_cases_notice_another_gelu_and_unscaled_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import transformer

    case = load(GOLDEN / "st_adapter/block_both_eval")
    monkeypatch.setattr(transformer.QuickGELU, "forward", lambda self, x: nn.functional.gelu(x))
    assert max(mismatch(case, answers(case)).values()) > 1
    monkeypatch.undo()
    attend = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(clip_vit.F, "scaled_dot_product_attention", lambda q, k, v: attend(q, k, v, scale=1.0))
    assert max(mismatch(case, answers(case)).values()) > 1
