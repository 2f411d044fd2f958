"""What fits each backbone where a command names nothing else: how many frames of which size, chosen and prepared how. No torch here."""

from __future__ import annotations

from typing import Any

_FRAMES: dict[str, Any] = {"frames": 8, "size": 224, "sampling": "gslta-test", "transform": "gslta-eval"}
_CLIP: dict[str, Any] = {
    "frames": 8,
    "size": 224,
    "sampling": "clip-fsar-centre",
    "transform": "clip-fsar-eval",
    "train_sampling": "clip-fsar",
    "train_transform": "clip-fsar-train",
}
_VIDEOMAE: dict[str, Any] = {
    "frames": 16,
    "size": 112,
    "sampling": "tamt-centre",
    "transform": "centre-crop",
    "train_sampling": "tamt",
    "train_transform": "tamt-train",
}
BACKBONE: dict[str, dict[str, Any]] = {
    "resnet18": _FRAMES,
    "resnet34": _FRAMES,
    "resnet50": _FRAMES,
    "clip_rn50": _CLIP,
    "clip_vit_b16": _CLIP,
    "videomae_vit_s": _VIDEOMAE,
    "videomae_vit_b": _VIDEOMAE,
}
"""Backbone -> settings of its features (cards: gslta, clip_fsar, tamt)."""
FLOW: dict[str, Any] = {name: _CLIP[name] for name in ("frames", "size", "sampling", "transform")}
"""Settings of optical flow: the frames and the square that CLIP's tower sees, because that is what consumes it (card: tmal). Features of
flow take those of their backbone, as features of pixels do."""
TEXT = "clip_vit_b16"
"""The tower of text features."""
CUTS: dict[str, str] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), "frames, map, pooled"),
    "clip_rn50": "frames, block0 to block16, map (the same as block16), pooled",
    "clip_vit_b16": "frames, block0 to block12, pooled",
    "videomae_vit_s": "frames, block0 to block12, pooled",
    "videomae_vit_b": "frames, block0 to block12, pooled",
    "timm:MODEL": "frames, pooled",
}
"""Backbone -> its cuts, in words; "blockN" is what enters block N."""


def features_of(backbone: str) -> dict[str, Any]:
    """The settings that fit a backbone; any other than the ones listed is taken for a frame network of 224 pixels."""
    return BACKBONE.get(backbone, _FRAMES)
