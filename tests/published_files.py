"""Drawn checkpoints in every published layout: keys and shapes as the method cards list them, small where sizes are free.

Written without the heads' own code: it is what they are tested against. Networks are narrow (`small_backbones` narrows the real ones).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

CHANNELS, VIT, RN50, VIDEOMAE = (64, 8, 16, 16), 64, 8, 64
"""Channels of ResNet-18's stages, and the widths of CLIP's ViT, CLIP's ResNet and VideoMAE."""
D = 16
"""Channels of pooled features: those of the last stage, and of CLIP's joint space."""
Shapes = dict[str, tuple[int, ...]]


def small_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the backbones' networks narrow: the same names and depths."""
    import timm

    import extract.videomae
    from heads import st_adapter

    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *words, **more: create(*words, channels=CHANNELS, **more))
    vit = {"embed_dim": D, "vision_cfg": {"width": VIT, "layers": 12, "patch_size": 16}}
    monkeypatch.setattr("extract.clip_vit.config_of", lambda name: vit)
    rn50 = {"embed_dim": D, "vision_cfg": {"width": RN50, "layers": [3, 4, 6, 3]}}
    monkeypatch.setattr("extract.clip_resnet.config_of", lambda name: rn50)
    build = extract.videomae._build
    monkeypatch.setattr("extract.videomae._build", lambda name, width, weights: build(name, VIDEOMAE, weights))
    monkeypatch.setattr(st_adapter.adapters, "__defaults__", (VIT, None, "none"))


def draw(shapes: Shapes) -> dict[str, Tensor]:
    """A tensor for every key, from the key; variances are positive, counts whole."""
    made = {}
    for key, shape in shapes.items():
        rng = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        made[key] = 0.2 * torch.randn(shape, generator=rng)
        if key.endswith("running_var"):
            made[key] = made[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(42)
    return made


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def pair(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name: str, size: int) -> Shapes:
    """A batch norm."""
    return {
        **pair(name, size),
        **{f"{name}.{k}": (size,) for k in ("running_mean", "running_var")},
        f"{name}.num_batches_tracked": (),
    }


def join(parts: Iterable[Shapes]) -> Shapes:
    return {key: shape for part in parts for key, shape in part.items()}


def resnet18() -> Shapes:
    made = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    before = 64
    for stage, out in enumerate(CHANNELS, 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            made |= {f"{name}.conv1.weight": (out, before, 3, 3), f"{name}.conv2.weight": (out, out, 3, 3)}
            made |= {**norm(f"{name}.bn1", out), **norm(f"{name}.bn2", out)}
            if block == 0 and stage > 1:
                made |= {f"{name}.downsample.0.weight": (out, before, 1, 1), **norm(f"{name}.downsample.1", out)}
            before = out
    return made


def numbered(shapes: Shapes) -> Shapes:
    """A ResNet as a numbered sequence: 0 conv1, 1 bn1, 4-7 the stages."""
    numbers = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 3) for i in range(1, 5)}}
    return {numbers[key.split(".")[0]] + key[key.index(".") :]: shape for key, shape in shapes.items()}


def clip_vit(w: int = VIT) -> Shapes:
    made: Shapes = {
        "class_embedding": (w,),
        "positional_embedding": (197, w),
        "proj": (w, D),
        "conv1.weight": (w, 3, 16, 16),
    }
    made |= {**pair("ln_pre", w), **pair("ln_post", w)}
    for i in range(12):
        block = {"attn.in_proj_weight": (3 * w, w), "attn.in_proj_bias": (3 * w,), **pair("attn.out_proj", w, w)}
        block |= {**pair("ln_1", w), **pair("ln_2", w), **pair("mlp.c_fc", 4 * w, w), **pair("mlp.c_proj", w, 4 * w)}
        made |= under(f"transformer.resblocks.{i}.", block)
    return made


def clip_rn50(w: int = RN50) -> Shapes:
    made: Shapes = {
        "conv1.weight": (w // 2, 3, 3, 3),
        "conv2.weight": (w // 2, w // 2, 3, 3),
        "conv3.weight": (w, w // 2, 3, 3),
    }
    made |= {**norm("bn1", w // 2), **norm("bn2", w // 2), **norm("bn3", w)}
    before = w
    for stage, count in enumerate((3, 4, 6, 3)):
        inner = w * 2**stage
        for block in range(count):
            here = {"conv1.weight": (inner, before, 1, 1), "conv2.weight": (inner, inner, 3, 3)}
            here |= {"conv3.weight": (4 * inner, inner, 1, 1)}
            here |= {**norm("bn1", inner), **norm("bn2", inner), **norm("bn3", 4 * inner)}
            if block == 0:
                here |= {"downsample.0.weight": (4 * inner, before, 1, 1), **norm("downsample.1", 4 * inner)}
            before = 4 * inner
            made |= under(f"layer{stage + 1}.{block}.", here)
    made["attnpool.positional_embedding"] = (50, before)
    for name in ("q_proj", "k_proj", "v_proj"):
        made |= pair(f"attnpool.{name}", before, before)
    return made | pair("attnpool.c_proj", D, before)


def videomae(w: int = VIDEOMAE) -> Shapes:
    made: Shapes = pair("patch_embed.proj", w, 3, 2, 16, 16)
    for i in range(12):
        block = {
            **pair("norm1", w),
            **pair("norm2", w),
            "attn.qkv.weight": (3 * w, w),
            "attn.q_bias": (w,),
            "attn.v_bias": (w,),
        }
        block |= {**pair("attn.proj", w, w), **pair("mlp.fc1", 4 * w, w), **pair("mlp.fc2", w, 4 * w)}
        made |= under(f"blocks.{i}.", block)
    return made


def transformer(name: str, mlp: int) -> Shapes:
    """One layer of the transformer that GSLTA, CLIP-FSAR and CLIP-MDMF share."""
    made: Shapes = pair("0.norm", D)
    made |= {f"0.fn.to_{x}.weight": (D, D) for x in "qkv"}
    made |= {**pair("0.fn.to_out.0", D, D), **pair("1.net.0", mlp, D), **pair("1.net.3", D, mlp)}
    return under(f"{name}.layers.0.", made)


def gslta(prefix: str) -> dict[str, Tensor]:
    names = ("student_encoder", "inner_teacher", "decoder")
    return draw(
        {
            **join(transformer(name, 32) for name in names),
            **pair("classification_layer.0", D),
            **pair("classification_layer.1", 64, D),
            **under(prefix, resnet18() | pair("fc", 10, D)),
            **{"scale": (1,), "mappingLinear_seq_len.weight": (8, 4), "mappingLinear_seq_num.bias": (1,)},
            **{**pair("mappingNet.0", D, D, 3), **pair("mappingNet.2", D, D, 3)},
        }
    )


def backbone_only(prefix: str, by_number: bool = True) -> dict[str, Tensor]:
    return draw(under(prefix, numbered(resnet18()) if by_number else resnet18()))


def protonet_normed(prefix: str) -> dict[str, Tensor]:
    return backbone_only(prefix) | draw(pair("protypicalNet.norm_layer", 5))


def trx(prefix: str, tuples: bool = False) -> dict[str, Tensor]:
    made = under(prefix, numbered(resnet18()))
    for i, w in enumerate((2, 3)):
        made |= {**pair(f"transformers.{i}.k_linear", 12, w * D), **pair(f"transformers.{i}.v_linear", 12, w * D)}
        made |= {**pair(f"transformers.{i}.norm_k", 12), **pair(f"transformers.{i}.norm_v", 12)}
    tensors = draw(made)
    p, i = torch.arange(12.0)[:, None], torch.arange(D // 2)
    angle = p * 10000.0 ** (-2 * i / D)
    table = 0.1 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    for head, w in enumerate((2, 3)):
        tensors[f"transformers.{head}.pe.pe"] = table[None].clone()
        if tuples:
            tensors |= {f"transformers.{head}.tuples.{j}": torch.arange(w) + j for j in range(3)}
    return tensors


def ta2n(prefix: str) -> dict[str, Tensor]:
    h = 8
    first = {**pair("locnet.0", 64, D, 3, 3, 3), **pair("locnet.4", 128, 64, 3, 3, 3), **norm("locnet.1", 64)}
    first |= {**norm("locnet.5", 128), **pair("locnet.10", 32, 128), **pair("locnet.12", 2, 32)}
    second = {"keynet.weight": (h, D, 1), "querynet.weight": (h, D, 1), "valuenet.weight": (D, D, 1)}
    second |= {**pair("mvnet.0", 128, 2 * D, 3, 3, 3), **pair("mvnet.4", 128, 128, 3, 3, 3), **norm("mvnet.1", 128)}
    second |= {**norm("mvnet.5", 128), **pair("mvnet.10", 64, 128, 1), **pair("mvnet.12", 2, 64, 1)}
    align = {**under("firststage.", first), **under("secondstage.", second)}
    align |= {"keynet_multi.weight": (h, D, 1), "querynet_multi.weight": (h, D, 1), "valuenet_multi.weight": (D, D, 1)}
    assert len(align) == 42
    return draw({**under("align.", align), **pair("protypicalNet.norm_layer", 5), **under(prefix, resnet18())})


def clip_fsar(tower: Callable[[], Shapes]) -> dict[str, Tensor]:
    return draw({"head.scale": (1,), **under("head.backbone.", tower()), **transformer("head.context2", 2048)})


def clip_mdmf(prefix: str) -> dict[str, Tensor]:
    made: Shapes = {"scale": (1,), **under(prefix, clip_rn50())}
    made |= {**transformer("context2", 2048), **transformer("context_local", 2048)}
    for name in ("conv1", "conv2", "conv11", "conv22"):
        made |= pair(f"context_{name}", D, D, 3)
    for i in range(3):
        for conv in ("conv1", "conv2"):
            parts = {"weight_g": (D, 1, 1), "weight_v": (D, D, 3), "bias": (D,)}
            made |= under(f"tcn.network.{i}.{conv}.", parts)
    tensors = draw(made)
    again = {"conv1": "net.0", "conv2": "net.4"}
    for key in [key for key in tensors if key.startswith("tcn.")]:
        _, _, i, conv, leaf = key.split(".")
        tensors[f"tcn.network.{i}.{again[conv]}.{leaf}"] = tensors[key]
    return tensors


def tamt() -> dict[str, Tensor]:
    w, a = VIDEOMAE, VIDEOMAE // 4
    made = under("feature.", videomae())
    for i in range(12):
        made |= {**pair(f"feature.blocks.{i}.norm3", w), **pair(f"feature.blocks.{i}.temporal_conv", w, 1, 3)}
    for i in (10, 11):
        taa: Shapes = {"L.0.weight": (a, w, 3), **norm("L.1", a), "L2.0.weight": (w, a, 1), "L3.0.weight": (w, a, 1)}
        taa |= {"G.0.weight": (16, 8), **norm("G.1", 16), "G.3.weight": (3, 16)}
        made |= under(f"feature.blocks.{i}.tam.", taa)
    made |= {**pair("feature.fc_norm", w), **pair("feature.fc_norm2", w), **pair("feature.temporal_conv", w, 1, 3)}
    reduce = {1: (128, w, 1, 1), 2: (64, 128, 1, 1), 3: (2, 4, 3, 3), 4: (1, 2, 3, 3)}
    for i, shape in reduce.items():
        made |= {f"layer_reduce{i}.weight": shape, **norm(f"layer_reduce_bn{i}", shape[0])}
    return draw({**made, **pair("head2", w, 4096)})


def tmal(places: tuple[str, ...], blocks: Sequence[int] = range(12)) -> dict[str, Tensor]:
    made: Shapes = {"head.scale": (1,), **under("head.backbone.", clip_vit()), **transformer("head.context2", 2048)}
    for i in blocks:
        for place in places:
            adapter = {**pair("fc1", 384, VIT), **pair("conv", 384, 1, 3, 1, 1), **pair("fc2", VIT, 384)}
            made |= under(f"head.backbone.transformer.resblocks.{i}.adapter_{place}.", adapter)
    for stream in ("text", "flow"):
        block: Shapes = {**pair("norm_x", D), **pair("norm_m", D), **{f"attn.to_{x}.weight": (D, D) for x in "qkv"}}
        block |= {**pair("attn.to_out.0", D, D), **pair("ff.net.0", 2048, D), **pair("ff.net.3", D, 2048)}
        made |= under(f"head.{stream}_fusion.", block)
    return draw(made)


@dataclass(frozen=True)
class Case:
    """A file: whose, its tensors, where they stand, and the settings that sizes of this test need."""

    method: str
    tensors: Callable[[], dict[str, Tensor]]
    wrapper: str = "model_state_dict"
    counter: str = "iteration"
    sets: tuple[str, ...] = ("features.size=32",)
    unused: int = 0
    adapters: int = 0


_GSLTA = ("features.size=32", "head_config.heads=2", "head_config.dim_head=8", "head_config.mlp_dim=32")
_PROTO = ("features.size=32", "head_config.metric=cosine_timewise", "head_config.layer_norm=5")
_TRX = ("features.size=32", "head_config.trans_linear_out_dim=12")
CASES = {
    "gslta": Case("gslta", partial(gslta, "backbone.resnet."), sets=_GSLTA, unused=9),
    "gslta, several devices": Case("gslta", partial(gslta, "backbone.module.resnet."), sets=_GSLTA, unused=9),
    "gslta, the final file": Case("gslta", partial(gslta, "backbone.resnet."), "", sets=_GSLTA, unused=9),
    "otam": Case("otam", partial(backbone_only, "backbone.")),
    "otam, several devices": Case("otam", partial(backbone_only, "backbone.module.")),
    "otam, a bare torchvision file": Case("otam", partial(backbone_only, "", by_number=False), ""),
    "protonet": Case("protonet", partial(backbone_only, "backbone.")),
    "protonet, normed": Case("protonet", partial(protonet_normed, "backbone."), sets=_PROTO),
    "trx": Case("trx", partial(trx, "resnet."), sets=_TRX, unused=2),
    "trx, several devices": Case("trx", partial(trx, "resnet.module."), sets=_TRX, unused=2),
    "trx, the library": Case("trx", partial(trx, "backbone.", tuples=True), sets=_TRX, unused=8),
    "ta2n": Case("ta2n", partial(ta2n, "resnet."), sets=("features.size=128", "head_config.hidden=8")),
    "ta2n, several devices": Case(
        "ta2n", partial(ta2n, "resnet.module."), sets=("features.size=128", "head_config.hidden=8")
    ),
    "clip_fsar, ViT": Case("clip_fsar", partial(clip_fsar, clip_vit), "model_state", "epoch", ("features.frames=2",)),
    "clip_fsar, RN50": Case("clip_fsar", partial(clip_fsar, clip_rn50), "model_state", "epoch", ("features.frames=2",)),
    "clip_mdmf": Case("clip_mdmf", partial(clip_mdmf, "backbone."), sets=(), unused=4),
    "clip_mdmf, several devices": Case("clip_mdmf", partial(clip_mdmf, "backbone.module."), sets=(), unused=4),
    "tamt": Case(
        "tamt", tamt, "state", "epoch", ("features.backbone=videomae_vit_s", "features.size=32"), unused=62, adapters=16
    ),
    "tmal, 12x384": Case(
        "tmal",
        partial(tmal, ("pre_mlp",)),
        "model_state",
        "epoch",
        ("head_config.adapter=12x384", "features.cut=block0", "features.frames=2"),
        adapters=72,
    ),
    "tmal, 24x384 in two blocks": Case(
        "tmal",
        partial(tmal, ("pre_attn", "pre_mlp"), (10, 11)),
        "model_state",
        "epoch",
        ("head_config.adapter=24x384", "features.cut=block10", "features.frames=2", "head_config.adapter_layers=2"),
        adapters=24,
    ),
}
"""Every published layout, and the spellings of it that are in circulation."""
