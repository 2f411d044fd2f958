"""VideoMAE's ViT-S/16 and ViT-B/16 (Tong et al., NeurIPS 2022), every block a cut; what TAMT builds on (Wang et al., CVPR 2025).

Tubelets of 2 frames x 16 x 16 pixels become tokens, 12 pre-norm blocks attend over all tokens of a clip. Any square size that is a multiple
of 16 and any even number of frames; 16 frames of 112 or 224 pixels are usual. No class token and no norm after the last block: what a head
makes of the tokens (TAMT's and VideoMAE's fc_norm) belongs to the head.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.backbone import BACKBONES, Backbone, SlottedBlock
from extract.scaling import SCALINGS, Scale
from extract.videomae_weights import fill
from extract.weights import weight_hash
from fsar_cache.canonical import plain
from fsar_cache.errors import UsageError

PATCH, TUBELET, DEPTH, HEAD_WIDTH = 16, 2, 12, 64
EPSILON = 1e-6
"""Of every layer norm."""


@lru_cache(maxsize=4)
def positions(count: int, width: int, device: torch.device) -> Tensor:
    """The fixed sinusoids of the first `count` tokens, float32 [count, width]: sine in even channels, cosine in odd ones.

    Token p is the p-th of the clip whatever its size, so one place of the picture has other positions at 112 than at 224 pixels.
    """
    channel = np.arange(width)
    angle = np.arange(count)[:, None] / 10000.0 ** (2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    with torch.inference_mode(False):  # training may use what an extraction has computed
        return torch.from_numpy(table.astype(np.float32)).to(device)


class Embed(nn.Module):
    """float [B, T, 3, H, W] to tokens with positions, [B, T/2, h*w, C]; tokens of one tubelet in rows of the picture, h = H / 16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (TUBELET, PATCH, PATCH), (TUBELET, PATCH, PATCH))

    def forward(self, frames: Tensor) -> Tensor:
        """As patches don't overlap, the convolution is one matrix product. UsageError for a size or length without whole patches."""
        b, t, channels, height, width = frames.shape
        if height != width or height % PATCH:
            raise UsageError(
                f"VideoMAE takes squares whose side is a multiple of {PATCH} pixels, not {height} x {width}",
                hint="for example --set features.size=112 or 224",
            )
        if t % TUBELET:
            raise UsageError(
                f"VideoMAE takes an even number of frames, not {t}", hint="for example --set features.frames=16"
            )
        steps, side = t // TUBELET, height // PATCH
        cut = frames.reshape(b, steps, TUBELET, channels, side, PATCH, side, PATCH)
        patches = cut.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(b, steps, side * side, -1)
        tokens = F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
        table = positions(steps * side * side, tokens.shape[-1], tokens.device)
        return tokens + table.view(steps, side * side, -1)


class Attention(nn.Module):
    """Self-attention over all tokens of a clip, [B, T/2, h*w, C] to the same; the key's bias is zero, so it has none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Softmax of q.k / 8, heads of 64 channels."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        b, steps, places, width = tokens.shape
        made = F.linear(tokens, self.qkv.weight, bias).view(b, steps * places, 3, width // HEAD_WIDTH, HEAD_WIDTH)
        q, k, v = made.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tokens.shape)
        out: Tensor = self.proj(mixed)
        return out


class Mlp(nn.Module):
    """C to 4C, exact GELU, back to C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Every token on its own."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(SlottedBlock):
    """x += attention(norm1 x); n = norm2 x; x += mlp(n) + beside_mlp(n); [B, T/2, h*w, C] throughout.

    The slot "beside_mlp" gets the normalised tokens n and gives a branch of the same shape, which is added (TAMT's adapter). `drop_path` is
    the probability that training drops a branch of a clip whole, drawn for each branch and clip; a kept one is divided by 1 - drop_path.
    An adapter may bring the probability for its block, as `drop_path` of its own.
    """

    slot_names: ClassVar[tuple[str, ...]] = ("beside_mlp",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.attn, self.mlp = Attention(width), Mlp(width)
        self.drop_path = 0.0

    def forward(self, tokens: Tensor) -> Tensor:
        """The branches in the order of the formula."""
        tokens = tokens + self._kept(self.attn(self.norm1(tokens)))
        normed = self.norm2(tokens)
        out = tokens + self._kept(self.mlp(normed))
        if "beside_mlp" in self.adapters:
            out = out + self._kept(self.through("beside_mlp", normed))
        return out

    def _drop_rate(self) -> float:
        brought = [float(getattr(adapter, "drop_path", 0.0)) for adapter in self.adapters.values()]
        return max([self.drop_path, *brought])

    def _kept(self, branch: Tensor) -> Tensor:
        rate = self._drop_rate()
        if not self.training or rate == 0.0:
            return branch
        keep = 1 - rate
        return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)


class Pool(nn.Module):
    """Tokens [B, T/2, h*w, C] to the mean over the places of each tubelet, [B, T/2, C]; the mean over steps is that of all tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean over places."""
        return tokens.mean(dim=2)


def trunk(backbone: Backbone) -> nn.ModuleDict:
    """The learnt parts of a VideoMAE backbone under their published names (patch_embed.proj.weight, blocks.0.attn.qkv.weight, ...)."""
    stages = list(backbone.stages)
    return nn.ModuleDict({"patch_embed": stages[1], "blocks": nn.ModuleList(stages[2 : 2 + DEPTH])})


def _build(name: str, width: int, weights: str) -> Backbone:
    with torch.device("meta"):  # nothing is drawn twice, nor from the global state
        stages: list[nn.Module] = [Embed(width), *(Block(width) for _ in range(DEPTH))]
    stages = [stage.to_empty(device="cpu") for stage in stages]
    scaling = SCALINGS["imagenet"]
    cuts = {"frames": 0} | {f"block{i}": 2 + i for i in range(DEPTH + 1)} | {"pooled": DEPTH + 3}
    backbone = Backbone(name, nn.ModuleList([Scale(scaling), *stages, Pool()]), cuts, {})
    fill(trunk(backbone), weights)
    backbone.facts |= {"name": name, "weights": weight_hash(trunk(backbone)), "scaling": plain(scaling)}
    return backbone


@BACKBONES.add("videomae_vit_s")
def videomae_vit_s(weights: str) -> Backbone:
    """ViT-S/16: tokens of 384 channels, 6 heads."""
    return _build("videomae_vit_s", 384, weights)


@BACKBONES.add("videomae_vit_b")
def videomae_vit_b(weights: str) -> Backbone:
    """ViT-B/16: tokens of 768 channels, 12 heads."""
    return _build("videomae_vit_b", 768, weights)
