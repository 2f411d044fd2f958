"""Golden cases of TAMT as far as the backbone goes: tokens entering block 10 and leaving block 11.

TAMT's adapter stands here, in its plain form, because a backbone has only the slot for it; everything behind block 11 is the head's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case

from extract.backbone import Backbone, build_backbone
from extract.videomae import trunk
from extract.videomae_weights import published
from extract.weights import load_strictly

OURS = ("tokens10_slice", "tokens10_norm", "tokens12_slice")
"""Outputs that a backbone and its adapters give."""
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Taa(nn.Module):
    """TAMT's adapter: from the mean over places of each step a scale and a shift per step and channel; [B, 8, h*w, C] to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        reduce = nn.Conv1d(width, width // 4, 3, padding=1, bias=False)
        self.L = nn.Sequential(reduce, nn.BatchNorm1d(width // 4), nn.ReLU())
        self.L2 = nn.Sequential(nn.Conv1d(width // 4, width, 1, bias=False), nn.Sigmoid())
        self.L3 = nn.Sequential(nn.Conv1d(width // 4, width, 1, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        reduced = self.L(tokens.mean(2).transpose(1, 2))
        scale, shift = (made.transpose(1, 2)[:, :, None] for made in (self.L2(reduced), self.L3(reduced)))
        return tokens * scale + 0.1 * shift


def backbone_of(case: Case) -> Backbone:
    """The case's backbone with its adapters and drawn weights; cases from tokens have weights from block 10 on only."""
    backbone = build_backbone("videomae_vit_s", "random:0")
    weights = {key: torch.from_numpy(array) for key, array in case.weights.items()}
    net = trunk(backbone)
    start = {} if case.config["kind"] == "full" else net.state_dict()
    load_strictly(net, start | published(weights), str(case.path))
    adapters = {}
    for i in case.config["adapter_blocks"]:
        prefix = f"feature.blocks.{i}.tam."
        own = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
        adapters[f"block{i}.beside_mlp"] = Taa(384)
        used = {key: tensor for key, tensor in own.items() if not key.startswith("G.")}  # a part that nothing reads
        adapters[f"block{i}.beside_mlp"].load_state_dict(used, strict=True)
    backbone.insert(adapters)
    return backbone.train(case.mode == "train")


def frames(case: Case) -> Tensor:
    """The case's clips as the stage after scaling gets them, float32 [B, T, 3, S, S]."""
    small = case.inputs["clips_u8"].reshape(-1, *case.inputs["clips_u8"].shape[2:])
    times = case.config["image_size"] // small.shape[-1]
    big = small.repeat(times, axis=-1).repeat(times, axis=-2).astype(np.float64)
    scaled = (big / 255 - MEAN[:, None, None, None]) / STD[:, None, None, None]
    return torch.from_numpy(scaled.astype(np.float32)).transpose(1, 2)


def drawn_tokens(case: Case) -> Tensor:
    """The tokens that a case without pixels starts from, float32 [B, 8, h*w, C], as its config describes them."""
    config, rng = case.config, np.random.RandomState(case.config["token_seed"])
    each = config["shots"] + config["queries"]
    noise = rng.standard_normal((config["ways"] * each, config["tokens"], config["embed_dim"]))
    proto = rng.standard_normal((config["ways"], 8, config["embed_dim"]))
    steps = np.arange(config["tokens"]) // (config["tokens"] // 8)
    shared = proto.repeat(each, axis=0)[:, steps]
    tokens = config["token_scale"] * (1.5 * noise + config["token_class_scale"] * shared)
    return torch.from_numpy(tokens.astype(np.float16).astype(np.float32)).unflatten(1, (8, -1))


def run_tamt(case: Case) -> dict[str, Tensor]:
    """What the backbone gives of the case's outputs."""
    backbone = backbone_of(case)
    first = backbone.cuts["block10"]
    with torch.no_grad():
        if case.config["kind"] == "full":
            at10 = frames(case)
            for stage in backbone.stages[1:first]:
                at10 = stage(at10)
        else:
            at10 = drawn_tokens(case)
        at12 = at10
        for stage in backbone.stages[first : backbone.cuts["block12"]]:
            at12 = stage(at12)
    every = at10[0, ..., 0].numel() // 14
    return {
        "tokens10_slice": at10.flatten(1, 2)[:, ::every, ::32],
        "tokens10_norm": at10.flatten(2).norm(dim=-1),
        "tokens12_slice": at12.flatten(1, 2)[:, ::every, ::32],
    }


RUNNERS = {"tamt": run_tamt}
PARTIAL = {"tamt": OURS}
