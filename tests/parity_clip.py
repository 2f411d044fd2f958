"""How golden cases of CLIP's towers and of ST-Adapter are run: towers of any size with the case's drawn weights, through our stages."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_models import gradients, norms

from extract.backbone import Backbone
from extract.clip_resnet import blank_rn50, rn50_backbone
from extract.clip_text import TextTower, blank_text
from extract.clip_vit import Block, blank_vit, vit_backbone
from extract.clip_weights import TEXT, config_of, published_names
from extract.scaling import SCALINGS
from extract.weights import load_strictly
from fsar_cache.errors import IntegrityError, unknown
from heads import st_adapter

BACKBONES = {"RN50": "clip_rn50", "ViT-B/16": "clip_vit_b16"}
FC = ("fc.weight", "fc.bias")
PUBLISHED_SIZES = (st_adapter.WIDTH, (3, 1, 1))


def drawn(case: Case, prefix: str = "") -> dict[str, Tensor]:
    own = {k.removeprefix(prefix): v for k, v in case.weights.items() if k.startswith(prefix)}
    return {name: torch.from_numpy(np.asarray(array)) for name, array in own.items()}


def run_clip_visual(case: Case) -> dict[str, Tensor]:
    resnet = BACKBONES[case.config["tower"]] == "clip_rn50"
    net = (blank_rn50 if resnet else blank_vit)()
    load_strictly(net, drawn(case, "visual."), str(case.path), unused=())
    backbone = (rn50_backbone if resnet else vit_backbone)(net, SCALINGS["clip"]).eval()
    count = int(case.config["images"])
    images = np.random.RandomState(case.config["image_seed"]).standard_normal((count, 3, 224, 224)).astype(np.float32)
    if not np.array_equal(images.flat[:16], case.inputs["image_head"]):
        raise IntegrityError("the image drawn here is not the case's")
    x = torch.from_numpy(images)[:, None]
    with torch.inference_mode():
        for stage in backbone.stages[1:-1]:
            x = stage(x)
        values = {"feature": backbone.stages[-1](x)[:, 0]}
    return values | ({"layer4_mean": x.mean((3, 4))[:, 0]} if resnet else {})


def run_clip_text(case: Case) -> dict[str, Tensor]:
    name = BACKBONES[case.config["tower"]]
    net = blank_text(config_of(name))
    load_strictly(net, {k: v for k, v in drawn(case).items() if k in TEXT}, str(case.path), unused=())
    tower = TextTower(name, net)
    tokens = torch.cat([tower.tokens(prompt) for prompt in case.config["prompts"]])
    if not np.array_equal(tokens.numpy(), case.inputs["tokens"]):
        raise IntegrityError("the tokens made here are not the case's")
    return {"feature": tower.encode(tokens)}


def run_st_adapter(case: Case) -> dict[str, Tensor]:
    runners = {"adapter": _adapter, "block": _block, "vit": _vit}
    if case.config["module"] not in runners:
        raise unknown("st_adapter module", case.config["module"], runners)
    return runners[case.config["module"]](case)


def _adapter(case: Case) -> dict[str, Tensor]:
    config = case.config
    made = st_adapter.STAdapter(config["width"], *sizes(config))
    made.load_state_dict(drawn(case), strict=True)
    x = _clips(case).requires_grad_()
    y = made(x)
    loss = (y.flatten(0, 1) * torch.from_numpy(case.inputs["probe"])).sum()
    values = {"y": y.flatten(0, 1), "loss": loss, **_gradients(loss, dict(made.named_parameters()), config["grads"])}
    return values | {"grad_x": torch.autograd.grad(loss, x)[0].flatten(0, 1)}


def _clips(case: Case) -> Tensor:
    return torch.from_numpy(case.inputs["x"]).unflatten(0, (-1, case.config["frames"]))


def _block(case: Case) -> dict[str, Tensor]:
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock

    config = case.config
    block = Block(ResidualAttentionBlock(config["width"], config["heads"], act_layer=QuickGELU), 0)
    for slot in block.slot_names:
        if config[slot]:
            block.adapters[slot] = st_adapter.STAdapter(config["width"], *sizes(config))
    own = {name: name.replace("adapters.", "adapter_") for name in block.state_dict()}
    block.load_state_dict({name: drawn(case)[key] for name, key in own.items()}, strict=True)
    with torch.no_grad():
        return {"y": block.eval()(_clips(case)).flatten(0, 1)}


def sizes(config: dict[str, Any]) -> tuple[int, tuple[int, int, int]]:
    """Width and kernel of a case's adapters."""
    frames, rows, columns = config["adapter_kernel"]
    return config["adapter_width"], (frames, rows, columns)


def adapted(case: Case) -> Backbone:
    """The case's tower with its adapters in and all weights loaded but the classifier's; the projection, which ST-Adapter lacks, is 0."""
    config = case.config
    backbone = vit_backbone(blank_vit(config["resolution"]), SCALINGS["clip"])
    preset = "24x384" if config["pre_attn"] else "12x384"
    made = st_adapter.adapters(preset, backbone.slots, config["width"], config["adapter_layers"])
    if sizes(config) != PUBLISHED_SIZES:
        made = {slot: st_adapter.STAdapter(config["width"], *sizes(config)) for slot in made}
    backbone.insert({slot: adapter for slot, adapter in made.items() if config[slot.partition(".")[2]]})
    tensors = {**drawn(case), "proj": torch.zeros(config["width"], 512)}
    keys = published_names(backbone)
    strange = set(tensors) - set(keys.values()) - set(FC)
    if strange:
        raise IntegrityError(f"the tower knows no {sorted(strange)[0]}")
    backbone.load_state_dict({name: tensors[key] for name, key in keys.items()}, strict=True)
    return backbone.train(case.mode == "train")


def _vit(case: Case) -> dict[str, Tensor]:
    """The tower's tokens, then ST-Adapter's own read-out: LayerNorm of the class token's mean over time, and a linear classifier."""
    backbone = adapted(case)
    fc = nn.Linear(case.config["width"], case.config["num_classes"])
    fc.load_state_dict({key.removeprefix("fc."): drawn(case)[key] for key in FC})
    video = _video(case).transpose(1, 2)
    with torch.set_grad_enabled(case.mode == "train"):
        entered = backbone.stages[1](video)
        tokens = backbone.tail_of("block0")[:-1](entered)
        features = backbone.stages[-1].ln_post(tokens[:, :, 0].mean(1))
        logits = fc(features)
    values = {"cls_per_frame": tokens[:, :, 0], "features": features, "logits": logits}
    values |= {"patch_tokens_slice": tokens[:, :, 1:3, :32], "ln_pre_slice": entered.flatten(0, 1)[:2, :3, :32]}
    if case.mode == "eval":
        return values
    loss = case.config["loss_scale"] * F.cross_entropy(logits, torch.from_numpy(case.inputs["labels"]))
    leaves = {key: backbone.get_parameter(name) for name, key in published_names(backbone).items()}
    leaves |= {f"fc.{name}": parameter for name, parameter in fc.named_parameters()}
    return values | {"loss": loss} | _gradients(loss, leaves, case.config["grads"])


def _video(case: Case) -> Tensor:
    """float32 [B, 3, T, H, W], given or drawn as the case says."""
    if "video" in case.inputs:
        return torch.from_numpy(case.inputs["video"])
    told: dict[str, Any] = case.config["input"]
    video = np.random.RandomState(told["seed"]).standard_normal(told["shape"]).astype("float32")
    if zlib.crc32(video.tobytes()) != told["crc32"]:
        raise IntegrityError("the video drawn here is not the case's")
    return torch.from_numpy(video)


def _gradients(loss: Tensor, leaves: dict[str, Any], keys: list[str]) -> dict[str, Tensor]:
    """Norms, and the gradients themselves: large matrices as [:8, :32]."""
    whole = gradients(loss, {key: leaves[key] for key in keys}, "grad/")
    return norms(whole) | {name: grad[:8, :32] if grad.ndim == 2 else grad for name, grad in whole.items()}


RUNNERS = {"clip_visual": run_clip_visual, "clip_text": run_clip_text, "st_adapter": run_st_adapter}
