"""Mistakes that the golden cases of CLIP's towers and of ST-Adapter notice."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor
from torch.nn import functional as F

from extract.clip_resnet import AttentionPool
from extract.clip_text import TextTower
from extract.clip_vit import Block, ReadOut
from heads import st_adapter
from heads.st_adapter import STAdapter

PLAIN_READ, PLAIN_ADAPTER, PLAIN_POOL = ReadOut.forward, STAdapter.forward, AttentionPool.forward


def plain_gelu(self: QuickGELU, x: Tensor) -> Tensor:
    del self
    return F.gelu(x)


def mean_token(self: ReadOut, tokens: Tensor) -> Tensor:
    made: Tensor = PLAIN_READ(self, tokens[:, :, 1:].mean(2, keepdim=True))
    return made


def pool_without_places(self: AttentionPool, maps: Tensor) -> Tensor:
    made: Tensor = PLAIN_POOL(self, maps.mean((-2, -1), keepdim=True).expand_as(maps))
    return made


def last_token(self: TextTower, tokens: Tensor) -> Tensor:
    """The feature at the last place of the context, not at the end token."""
    moved = tokens.clone()
    moved[:, -1] = tokens.max()
    moved[tokens == tokens.max()] = 0
    with torch.inference_mode():
        made: Tensor = self._net(moved)
    return made


def class_token_too(self: STAdapter, tokens: Tensor) -> Tensor:
    made = PLAIN_ADAPTER(self, tokens)
    return torch.cat([made[:, :, :1] + self.fc2(self.fc1(tokens[:, :, :1])), made[:, :, 1:]], 2)


def no_residual(self: STAdapter, tokens: Tensor) -> Tensor:
    made = PLAIN_ADAPTER(self, tokens)
    return torch.cat([made[:, :, :1], made[:, :, 1:] - tokens[:, :, 1:]], 2)


def backwards_in_time(self: STAdapter, tokens: Tensor) -> Tensor:
    return PLAIN_ADAPTER(self, tokens.flip(1)).flip(1)


def one_frame_alone(self: STAdapter, tokens: Tensor) -> Tensor:
    return torch.cat([PLAIN_ADAPTER(self, tokens[:, t : t + 1]) for t in range(tokens.shape[1])], 1)


def slots_exchanged(self: Block, slot: str, tokens: Tensor) -> Tensor:
    other = {"pre_attn": "pre_mlp", "pre_mlp": "pre_attn"}[slot]
    return self.adapters[other](tokens) if other in self.adapters else tokens


MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "GELU for QuickGELU, image": ("clip_visual/vit_b16_224", QuickGELU, "forward", plain_gelu),
    "mean of the patches read": ("clip_visual/vit_b16_224", ReadOut, "forward", mean_token),
    "attention pool of one place": ("clip_visual/rn50_224", AttentionPool, "forward", pool_without_places),
    "GELU for QuickGELU, text": ("clip_text/vit_b16", QuickGELU, "forward", plain_gelu),
    "the last token read": ("clip_text/vit_b16", TextTower, "encode", last_token),
    "an activation": ("st_adapter/adapter_alone_train", st_adapter, "_ACTS", {"none": F.gelu}),
    "class token adapted": ("st_adapter/adapter_alone_train", STAdapter, "forward", class_token_too),
    "no residual": ("st_adapter/adapter_alone_train", STAdapter, "forward", no_residual),
    "backwards in time": ("st_adapter/adapter_alone_train", STAdapter, "forward", backwards_in_time),
    "frames alone": ("st_adapter/adapter_alone_train", STAdapter, "forward", one_frame_alone),
    "slots exchanged": ("st_adapter/block_both_eval", Block, "through", slots_exchanged),
}
SETTINGS: list[tuple[str, dict[str, Any]]] = []
