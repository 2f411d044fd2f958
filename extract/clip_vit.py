"""CLIP's ViT-B/16 image tower, cut before every block; its blocks have slots for adapters.

Source: the method cards of CLIP-FSAR ("CLIP towers") and TMAL (Part A, where the adapters sit). Parts and names are open_clip's.
B clips, T frames, N = 1 + (side / 16)^2 tokens with the class token first, C = 768 channels, D = 512 channels of the joint space.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.backbone import BACKBONES, Backbone, Scaling, SlottedBlock
from extract.clip_weights import config_of, filled
from extract.scaling import Scale
from extract.weights import weight_hash
from fsar_cache.canonical import plain
from fsar_cache.errors import UsageError

NAME = "clip_vit_b16"


class Embed(nn.Module):
    """float [B, T, 3, side, side] to tokens [B, T, N, C]: patches, class token first, positions, LayerNorm. UsageError for another size."""

    published = ""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.conv1, self.ln_pre = net.conv1, net.ln_pre
        self.class_embedding, self.positional_embedding = net.class_embedding, net.positional_embedding
        self.side = int(net.image_size[0])

    def forward(self, frames: Tensor) -> Tensor:
        """Every frame on its own."""
        require_side(frames, self.side, NAME)
        patches = self.conv1(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        tokens: Tensor = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        return tokens.reshape(*frames.shape[:2], *tokens.shape[1:])


class Block(SlottedBlock):
    """tokens [B, T, N, C] to the same: x + attention(LN x) inside each frame, then x + MLP(LN x), with QuickGELU.

    Slots: "pre_attn" gets the tokens that enter the block, "pre_mlp" those after the attention; each gives tokens of the same shape.
    """

    slot_names: ClassVar[tuple[str, ...]] = ("pre_attn", "pre_mlp")

    def __init__(self, block: Any, number: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp
        self.published = f"transformer.resblocks.{number}."

    def forward(self, tokens: Tensor) -> Tensor:
        """Frames don't see each other, except through adapters."""
        tokens = self.through("pre_attn", tokens)
        tokens = tokens + self._attention(self.ln_1(tokens))
        tokens = self.through("pre_mlp", tokens)
        made: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return made

    def _attention(self, x: Tensor) -> Tensor:
        """Written out, because the attention module takes another way without gradients, whose last bits differ."""
        joint = F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = joint.reshape(-1, x.shape[2], 3, self.attn.num_heads, self.attn.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        made: Tensor = self.attn.out_proj(mixed)
        return made


class ReadOut(nn.Module):
    """tokens [B, T, N, C] to [B, T, D]: LayerNorm of each frame's class token, times the projection. Not normalised to length 1."""

    published = ""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.ln_post, self.proj = net.ln_post, net.proj

    def forward(self, tokens: Tensor) -> Tensor:
        """The class token is the first."""
        made: Tensor = self.ln_post(tokens[:, :, 0]) @ self.proj
        return made


def require_side(frames: Tensor, side: int, name: str) -> None:
    """Raise UsageError unless frames [..., H, W] are side x side pixels."""
    height, width = frames.shape[-2:]
    if (height, width) != (side, side):
        raise UsageError(
            f"{name} takes frames of {side}x{side} pixels, not {height}x{width}", hint=f"--set features.size={side}"
        )


def blank_vit(side: int = 224) -> nn.Module:
    """open_clip's image tower for frames of side x side pixels, its tensors drawn as open_clip draws them."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    config = config_of(NAME)
    vision = config["vision_cfg"]
    net: nn.Module = VisionTransformer(
        image_size=side,
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // 64,
        mlp_ratio=4.0,
        output_dim=config["embed_dim"],
        act_layer=QuickGELU,
    )
    return net


def vit_backbone(net: Any, scaling: Scaling) -> Backbone:
    """An image tower of open_clip as a chain of stages (the same tensors, not copies)."""
    blocks = [Block(block, number) for number, block in enumerate(net.transformer.resblocks)]
    stages = nn.ModuleList([Scale(scaling), Embed(net), *blocks, ReadOut(net)])
    cuts = {"frames": 0, **{f"block{i}": 2 + i for i in range(len(blocks) + 1)}, "pooled": len(stages)}
    facts = {"name": NAME, "weights": weight_hash(net), "scaling": plain(scaling)}
    return Backbone(NAME, stages, cuts, facts)


@BACKBONES.add(NAME)
def clip_vit_b16(weights: str) -> Backbone:
    """CLIP ViT-B/16: 224x224 pixels, tokens [B, T, 197, 768] between blocks, pooled [B, T, 512]."""
    return vit_backbone(*filled(NAME, weights, "image", blank_vit))
