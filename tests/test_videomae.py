"""VideoMAE backbones: against other libraries' parts, at their cuts and slots, and with weights from files of every published layout."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.golden import load
from safetensors.torch import save_file
from timm.layers import Attention as TimmAttention
from timm.layers import Mlp as TimmMlp
from torch import Tensor, nn

from extract.backbone import Backbone, build_backbone
from extract.videomae import Block, positions, trunk
from extract.videomae_weights import published
from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError

GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="module")
def small() -> Backbone:
    """With lively weights: the drawn ones leave tokens nearly as they are."""
    backbone = build_backbone("videomae_vit_s", "random:3").eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in trunk(backbone).named_parameters():
            scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1
            tensor.normal_(1.0 if name.endswith(("norm1.weight", "norm2.weight")) else 0.0, scale, generator=rng)
    return backbone


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(b: int, t: int, size: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (b, t, size, size, 3), np.uint8))


def plain_block(block: Block, x: Tensor) -> Tensor:
    """A block on [B, N, C] made of another library's attention and MLP, in float64."""
    width = x.shape[-1]
    attention, mlp = TimmAttention(width, width // 64, qkv_bias=True), TimmMlp(width, 4 * width)
    state = {name.removeprefix("attn."): v for name, v in block.state_dict().items() if name.startswith("attn.")}
    q, v = state.pop("q_bias"), state.pop("v_bias")
    attention.load_state_dict(state | {"qkv.bias": torch.cat((q, torch.zeros_like(q), v))}, strict=True)
    mlp.load_state_dict(block.mlp.state_dict(), strict=True)
    norms = []
    for own in (block.norm1, block.norm2):
        norm = nn.LayerNorm(width, eps=1e-6)
        norm.load_state_dict(own.state_dict())
        norms.append(norm.double())
    x = x + attention.double()(norms[0](x))
    return x + mlp.double()(norms[1](x))


def test_agrees_with_another_librarys_parts(small: Backbone) -> None:
    x = pixels(2, 4, 48)
    conv = nn.Conv3d(3, 384, (2, 16, 16), (2, 16, 16))
    conv.load_state_dict(small.stages[1].proj.state_dict())
    scaled = (x.double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        want = conv.double()(scaled.permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
        for p in range(18):
            for j in (0, 1, 2, 101, 383):
                angle = p / 10000 ** (2 * (j // 2) / 384)
                want[:, p, j] += np.sin(angle) if j % 2 == 0 else np.cos(angle)
        got = small.head_of("block0")(x)
        assert got.shape == (2, 2, 9, 384)
        chosen = [0, 1, 2, 101, 383]
        torch.testing.assert_close(got.flatten(1, 2)[..., chosen].double(), want[..., chosen], rtol=1e-5, atol=1e-5)
        tokens = got.flatten(1, 2).double()
        for i in range(12):
            tokens = plain_block(small.stages[2 + i], tokens)
            mine = small.head_of(f"block{i + 1}")(x).flatten(1, 2)
            torch.testing.assert_close(mine.double(), tokens, rtol=1e-4, atol=1e-4)
        pooled = tokens.unflatten(1, (2, 9)).mean(2)
        torch.testing.assert_close(small(x).double(), pooled, rtol=1e-4, atol=1e-4)


def test_widths_and_positions() -> None:
    big = build_backbone("videomae_vit_b", "random:0").eval()
    with torch.inference_mode():
        assert big(pixels(1, 2, 16)).shape == (1, 1, 768)
    attention = big.stages[2].attn
    assert attention.qkv.weight.shape == (2304, 768)
    tables = positions(1568, 384, torch.device("cpu")), positions(392, 384, torch.device("cpu"))
    assert torch.equal(tables[0][:392], tables[1])  # a position is a number, whatever the size
    assert tables[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("frames", "size", "text", "setting"),
    [
        (3, 32, "even number", "features.frames"),
        (2, 40, "multiple of 16", "features.size"),
        (2, 8, "16", "features.size"),
    ],
)
def test_clips_without_whole_patches_are_refused(
    small: Backbone, frames: int, size: int, text: str, setting: str
) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        small(pixels(1, frames, size))
    assert f"--set {setting}=" in str(caught.value.hint)


def test_pictures_that_are_not_square_are_refused(small: Backbone) -> None:
    with pytest.raises(UsageError, match="16 x 32"):
        small(torch.zeros(1, 2, 16, 32, 3, dtype=torch.uint8))


class Beside(nn.Module):
    """A branch that shows what it is given."""

    def forward(self, tokens: Tensor) -> Tensor:
        self.given = tokens
        return 2 * tokens


def test_an_adapter_beside_the_mlp_gets_its_tokens_and_is_added(small: Backbone) -> None:
    backbone = build_backbone("videomae_vit_s", "random:3").eval()
    trunk(backbone).load_state_dict(trunk(small).state_dict())
    assert backbone.slots == [f"block{i}.beside_mlp" for i in range(12)]
    beside = Beside()
    backbone.insert({"block10.beside_mlp": beside})
    x = pixels(2, 4, 32)
    with torch.inference_mode():
        entering = backbone.head_of("block10")(x)
        block = small.stages[12]
        attended = entering + block.attn(block.norm1(entering))
        normed = block.norm2(attended)
        torch.testing.assert_close(backbone.stages[12](entering), block(entering) + 2 * normed)
        assert torch.equal(beside.given, normed)
    with pytest.raises(UsageError, match="adapter in block10"):
        backbone.head_of("block11")


def test_branches_are_dropped_per_clip_and_only_in_training() -> None:
    block = Block(64)
    nn.init.zeros_(block.attn.proj.weight)
    nn.init.zeros_(block.attn.proj.bias)  # leaves the MLP's branch alone
    block.drop_path = 0.25
    x = torch.randn(4000, 1, 1, 64, generator=torch.Generator().manual_seed(1))
    whole = block.eval()(x) - x
    with torch.random.fork_rng():
        torch.manual_seed(5)
        branch = block.train()(x) - x
    dropped = (branch == 0).all(-1).flatten()
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(branch[~dropped] * 0.75, whole[~dropped], rtol=1e-4, atol=1e-5)
    block.drop_path = 0.0
    assert torch.equal(block.train()(x) - x, whole)


def test_training_runs_from_a_cut_after_extraction(small: Backbone) -> None:
    x = pixels(1, 2, 32)
    with torch.inference_mode():
        at = small.head_of("block10")(x)
    tail = small.tail_of("block10").train()
    tail(at.clone()).sum().backward()
    small(x).sum().backward()  # through positions that inference has computed
    assert small.stages[1].proj.weight.grad is not None
    small.zero_grad(set_to_none=True)
    small.eval()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_arithmetic_is_near(small: Backbone, kind: torch.dtype) -> None:
    x = pixels(1, 2, 32)
    with torch.inference_mode(), torch.autocast("cpu", kind):
        half = small(x).float()
    with torch.inference_mode():
        whole = small(x)
    error = (half - whole).square().mean().sqrt() / whole.square().mean().sqrt()
    assert 0 < error < 4 * torch.finfo(kind).eps


def test_drawn_weights_are_as_the_card_says() -> None:
    before = torch.get_rng_state()
    one, other = (build_backbone("videomae_vit_s", f"random:{seed}") for seed in (7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.facts["weights"] != other.facts["weights"]
    assert one.facts == build_backbone("videomae_vit_s", "random:7").facts
    for name, tensor in trunk(one).state_dict().items():
        if name.startswith("patch_embed"):
            bound = (3 * 2 * 16 * 16) ** -0.5
            assert tensor.abs().max() <= bound, name
            assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
        elif tensor.ndim == 2:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.02), name
        else:
            assert (tensor == (1.0 if name.endswith("weight") else 0.0)).all(), name


def state_of(backbone: Backbone, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in trunk(backbone).state_dict().items()}


def tamt_file(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a fine-tuned TAMT checkpoint; shapes of what is not read don't matter."""
    beside = [
        "fc_norm.weight",
        "fc_norm2.bias",
        "temporal_conv.weight",
        "temporal_conv.bias",
        "blocks.11.tam.G.0.weight",
    ]
    beside += [f"blocks.{i}.{leaf}" for i in range(12) for leaf in ("norm3.weight", "temporal_conv.bias")]
    beside += [f"blocks.{i}.tam.{leaf}" for i in (10, 11) for leaf in ("L.0.weight", "L.1.running_var", "L2.0.weight")]
    outside = ["head2.weight", "layer_reduce1.weight", "layer_reduce_bn4.running_mean"]
    names = [f"feature.{name}" for name in beside] + outside
    return state_of(backbone, "feature.") | {name: torch.zeros(2) for name in names}


def supervised_file(backbone: Backbone) -> dict[str, Tensor]:
    beside = ("head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias")
    return state_of(backbone) | {name: torch.zeros(2) for name in beside}


def masked_file(backbone: Backbone, prefix: str = "encoder.") -> dict[str, Tensor]:
    beside = [f"{prefix}norm.weight", "mask_token", "encoder_to_decoder.weight", "decoder.blocks.0.norm1.weight"]
    return state_of(backbone, prefix) | {name: torch.zeros(2) for name in beside}


LAYOUTS = {
    "tamt": tamt_file,
    "supervised": supervised_file,
    "masked": masked_file,
    "masked, without prefix": lambda b: masked_file(b, ""),
    "backbone alone": state_of,
}


@pytest.mark.parametrize(("layout", "key"), [("tamt", "state"), ("supervised", "module"), ("masked", "model")])
def test_files_as_their_authors_saved_them_load(layout: str, key: str, small: Backbone, tmp_path: Path) -> None:
    beside = {"epoch": 29, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "args": argparse.Namespace(lr=1.0)}
    torch.save({key: LAYOUTS[layout](small)} | beside, tmp_path / "best_model.tar")
    loaded = build_backbone("videomae_vit_s", f"file:{tmp_path / 'best_model.tar'}")
    assert all(
        torch.equal(one, other) for one, other in zip(state_of(loaded).values(), state_of(small).values(), strict=True)
    )
    assert loaded.facts["scaling"]["name"] == "imagenet"


def test_every_key_of_a_published_tamt_file_is_known(tmp_path: Path) -> None:
    weights = {key: torch.from_numpy(array) for key, array in load(GOLDEN / "tamt/eval_112_2w1s1q").weights.items()}
    assert len(weights) == 268
    torch.save({"epoch": 29, "state": weights}, tmp_path / "best_model.tar")
    loaded = state_of(build_backbone("videomae_vit_s", f"file:{tmp_path / 'best_model.tar'}"), "feature.")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in loaded.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_load_and_name_what_does_not_fit(layout: str, small: Backbone, tmp_path: Path) -> None:
    tensors = LAYOUTS[layout](small)
    save_file(tensors, tmp_path / "whole.safetensors")
    loaded = build_backbone("videomae_vit_s", f"file:{tmp_path / 'whole.safetensors'}").eval()
    x = pixels(1, 2, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(x), small(x))
    lacking = next(name for name in tensors if name.endswith("blocks.7.attn.v_bias"))
    wrong = {name: tensor for name, tensor in tensors.items() if name != lacking}
    stray = (
        "mlp.weight" if layout in ("supervised", "masked, without prefix", "backbone alone") else "blocks.3.norm1.bias"
    )
    wrong[stray] = torch.zeros(384)  # in a file with a prefix even a name of the backbone is a stranger without it
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(IntegrityError) as caught:
        build_backbone("videomae_vit_s", f"file:{tmp_path / 'wrong.safetensors'}")
    assert "blocks.7.attn.v_bias is missing" in str(caught.value)
    assert re.search(rf"{re.escape(stray)}( \(without [a-z]+\.\))? is unknown", str(caught.value))


def test_adapters_in_a_file_that_is_not_tamts_are_unknown(small: Backbone) -> None:
    assert "blocks.10.tam.L2.0.weight" in published(state_of(small) | {"blocks.10.tam.L2.0.weight": torch.zeros(1)})
    assert "head2.weight" not in published(tamt_file(small))


def test_half_precision_files_load_as_float32(small: Backbone, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in state_of(small).items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = trunk(build_backbone("videomae_vit_s", f"file:{tmp_path / 'half.safetensors'}")).state_dict()
    assert all(torch.equal(tensor, half[name].float()) for name, tensor in loaded.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("weights", "kind", "text"),
    [
        ("timm:videomae", UsageError, "random:SEED or file:PATH"),
        ("random:x", UsageError, "whole number"),
        ("file:", UsageError, "random:SEED or file:PATH"),
        ("file:/no/such.pth", MissingError, "no weight file"),
    ],
)
def test_wrong_weights_are_named(weights: str, kind: type[FsarError], text: str) -> None:
    with pytest.raises(kind, match=text):
        build_backbone("videomae_vit_s", weights)


def test_the_width_of_another_size_is_named(small: Backbone, tmp_path: Path) -> None:
    save_file(state_of(small), tmp_path / "s.safetensors")
    with pytest.raises(IntegrityError, match=r"instead of \[768"):
        build_backbone("videomae_vit_b", f"file:{tmp_path / 's.safetensors'}")
