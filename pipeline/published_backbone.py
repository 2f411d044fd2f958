"""The backbone of a published checkpoint: which one it is, what its tensors are called, where a model has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from extract import clip_weights
from extract.backbone import Backbone
from fsar_cache.errors import IntegrityError, UsageError
from pipeline.model import Model

MARKS = {
    "attnpool.c_proj.weight": "clip_rn50",
    "transformer.resblocks.0.ln_1.weight": "clip_vit_b16",
    "layer1.0.conv3.weight": "resnet50",
    "layer1.2.conv1.weight": "resnet34",
    "layer1.0.conv1.weight": "resnet18",
}
"""A tensor that only this backbone has among those that follow."""
WIDTHS = {384: "videomae_vit_s", 768: "videomae_vit_b"}


def read_as(backbone: str) -> str:
    """What stands before the names of a backbone's tensors in the files that it reads."""
    return "visual." if backbone.startswith("clip_") else "feature." if backbone.startswith("videomae_") else ""


def recognised(tensors: Mapping[str, Tensor]) -> str | None:
    """The backbone whose tensors these are (names without prefix, or CLIP's with `visual.`); None where none fits."""
    embedded = tensors.get("patch_embed.proj.bias")
    if embedded is not None:
        return WIDTHS.get(embedded.numel())
    return next((name for mark, name in MARKS.items() if mark in tensors or f"visual.{mark}" in tensors), None)


def own_names(backbone: Backbone) -> dict[str, str]:
    """Name of each of a backbone's tensors -> what its makers call it; UsageError for one without published checkpoints."""
    if backbone.name.startswith("clip_"):
        return clip_weights.published_names(backbone)
    if not backbone.name.startswith(("resnet", "videomae_")):
        raise UsageError(f"no published checkpoint has the backbone {backbone.name or 'of a store made elsewhere'}")
    made = {}
    for name in backbone.state_dict():
        _, number, inner = name.split(".", 2)
        if backbone.name.startswith("resnet"):
            made[name] = inner.removeprefix("net.")
        else:
            made[name] = f"patch_embed.{inner}" if number == "1" else f"blocks.{int(number) - 2}.{inner}"
    return made


def first_stage(backbone: Backbone, cut: str) -> int:
    """How many stages lie before the model's part of the backbone; live video enters where frames do."""
    return backbone.cuts["frames" if cut == "video" else cut]


def trained_backbone(model: Model, backbone: Backbone, cut: str) -> dict[str, Tensor]:
    """The backbone's tensors under their makers' names: before the cut the backbone's own, after it the model's."""
    state = backbone.state_dict()
    for name, tensor in model.tail.state_dict().items():
        number, _, inner = name.partition(".")
        state[f"stages.{first_stage(backbone, cut) + int(number)}.{inner}"] = tensor
    return {key: state[name] for name, key in own_names(backbone).items()}


def adapter_tensors(model: Model, backbone: Backbone, cut: str) -> dict[str, Tensor]:
    """The tensors of the adapters in the model's part of the backbone, {"block10.beside_mlp.NAME": tensor} (those in use, no copies)."""
    made: dict[str, Tensor] = {}
    stages = list(cast(nn.Sequential, model.tail))
    for slot in backbone.slots:
        block, _, place = slot.partition(".")
        at = backbone.cuts[block] - first_stage(backbone, cut)
        if 0 <= at < len(stages) and place in (inside := cast(nn.ModuleDict, stages[at].adapters)):
            made |= {f"{slot}.{name}": tensor for name, tensor in inside[place].state_dict().items()}
    return made


def fill_adapters(model: Model, backbone: Backbone, cut: str, given: Mapping[str, Tensor], where: str) -> None:
    """Copy these tensors into the model's adapters; IntegrityError naming those that are missing, unknown or of another shape."""
    own = adapter_tensors(model, backbone, cut)
    wrong = [f"missing {name}" for name in own if name not in given]
    wrong += [f"unknown {name}" for name in given if name not in own]
    wrong += [
        f"{name} is {list(given[name].shape)}, the adapter has {list(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if wrong:
        raise IntegrityError(
            f"{where} does not fit the adapters of {type(model.head).__name__}: {'; '.join(wrong[:5])}",
            hint="set the head's adapters (head_config) as the checkpoint has them",
        )
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)
