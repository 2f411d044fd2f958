"""CLIP's RN50 image tower, cut before every bottleneck and before its attention pool.

Source: the method card of CLIP-FSAR ("CLIP towers"). Parts and names are open_clip's.
B clips, T frames, C channels of a map of h x w, D = 1024 channels of the joint space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.backbone import BACKBONES, Backbone, Scaling
from extract.clip_vit import require_side
from extract.clip_weights import config_of, filled
from extract.scaling import Scale
from extract.weights import weight_hash
from fsar_cache.canonical import plain

NAME = "clip_rn50"


def images(x: Tensor) -> Tensor:
    """[B, T, C, H, W] as B*T images, always channels last in memory: the last bits of what convolutions give depend on that order.

    They also depend on the stride of a single image, which `contiguous` leaves as it is: hence the way over one axis.
    """
    last = x.flatten(0, 1).permute(0, 2, 3, 1)
    return last.reshape(-1).view(last.shape).permute(0, 3, 1, 2)


def clips(x: Tensor, like: Tensor) -> Tensor:
    """[B*T, ...] as [B, T, ...], B and T being those of `like`."""
    return x.reshape(*like.shape[:2], *x.shape[1:])


class Stem(nn.Module):
    """float [B, T, 3, side, side] to maps [B, T, 64, side / 4, side / 4]: three convolutions, a pool. UsageError for another size."""

    published = ""

    def __init__(self, net: Any, side: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.conv2, self.bn2 = net.conv2, net.bn2
        self.conv3, self.bn3 = net.conv3, net.bn3
        self.side = side

    def forward(self, frames: Tensor) -> Tensor:
        """Every frame on its own; in training mode batch norm sees all B*T frames as one batch."""
        require_side(frames, self.side, NAME)
        x = images(frames)
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)), inplace=True)
        return clips(F.avg_pool2d(x, 2), frames)


class Bottleneck(nn.Module):
    """maps [B, T, C, h, w] through one residual block; the first of a stage changes C, and halves h and w from the second stage on."""

    def __init__(self, block: Any, published: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2, self.bn2, self.avgpool = block.conv2, block.bn2, block.avgpool
        self.conv3, self.bn3, self.downsample = block.conv3, block.bn3, block.downsample
        self.published = published

    def forward(self, maps: Tensor) -> Tensor:
        """As the stem: frames on their own, one batch."""
        x = images(maps)
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = F.relu(self.bn3(self.conv3(self.avgpool(y))) + shortcut, inplace=True)
        return clips(y, maps)


class AttentionPool(nn.Module):
    """maps [B, T, C, h, w] to [B, T, D]: attention of their mean over the mean and all places, with learned positions."""

    published = "attnpool."

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj
        self.heads = int(pool.num_heads)

    def forward(self, maps: Tensor) -> Tensor:
        """The mean is the only query."""
        places = images(maps).flatten(2).transpose(1, 2)
        tokens = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        q, k, v = (
            to(x).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for to, x in ((self.q_proj, tokens[:, :1]), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        made: Tensor = self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))
        return clips(made, maps)


def blank_rn50(side: int = 224) -> nn.Module:
    """open_clip's image tower for frames of side x side pixels, drawn anew.

    Convolutions are Kaiming normal (fan-out) and every batch norm is 1 and 0, so that no residual branch begins as zero; the attention
    pool is as open_clip draws it.
    """
    from open_clip.modified_resnet import ModifiedResNet

    config = config_of(NAME)
    vision = config["vision_cfg"]
    heads = vision["width"] * 32 // 64
    net: nn.Module = ModifiedResNet(
        layers=vision["layers"], output_dim=config["embed_dim"], heads=heads, image_size=side, width=vision["width"]
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return net


def rn50_backbone(net: Any, scaling: Scaling) -> Backbone:
    """An image tower of open_clip as a chain of stages (the same tensors, not copies)."""
    blocks = [
        Bottleneck(block, f"layer{stage}.{i}.")
        for stage in (1, 2, 3, 4)
        for i, block in enumerate(net.get_submodule(f"layer{stage}"))
    ]
    stages = nn.ModuleList([Scale(scaling), Stem(net, net.image_size), *blocks, AttentionPool(net.attnpool)])
    cuts = {f"block{i}": 2 + i for i in range(len(blocks) + 1)}
    facts = {"name": NAME, "weights": weight_hash(net), "scaling": plain(scaling)}
    return Backbone(NAME, stages, {"frames": 0, **cuts, "map": 2 + len(blocks), "pooled": len(stages)}, facts)


@BACKBONES.add(NAME)
def clip_rn50(weights: str) -> Backbone:
    """CLIP RN50: 224x224 pixels, a last map [B, T, 2048, 7, 7], pooled [B, T, 1024]."""
    return rn50_backbone(*filled(NAME, weights, "image", blank_rn50))
