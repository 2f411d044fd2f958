"""Stage 0 of every frame network: uint8 pixels to its float input, by a named scaling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from extract.backbone import Backbone, Scaling
from fsar_cache.canonical import plain
from fsar_cache.errors import unknown

SCALINGS: dict[str, Scaling] = {
    "unit": Scaling(),
    "imagenet": Scaling("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": Scaling("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Pixels in [0, 1], and the same less the channel means of ImageNet or of CLIP's training images, over their deviations."""


class Scale(nn.Module):
    """uint8 [B, T, H, W, 3] to float32 [B, T, 3, H, W]: x / 255, then (x - mean) / std where the scaling has them."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.scaling = scaling

    def forward(self, frames: Tensor) -> Tensor:
        """The float view keeps the memory order of the pixels (channels last), which the convolutions like."""
        pixels = frames.to(torch.float32, copy=True).div_(255.0)
        if self.scaling.mean is not None and self.scaling.std is not None:
            pixels = pixels.sub_(pixels.new_tensor(self.scaling.mean)).div_(pixels.new_tensor(self.scaling.std))
        return pixels.permute(0, 1, 4, 2, 3)


def scaling_of(mean: tuple[float, ...], std: tuple[float, ...]) -> Scaling:
    """The scaling with these channel means and deviations, under its known name where it has one."""
    for known in SCALINGS.values():
        if (known.mean, known.std) == (tuple(mean), tuple(std)):
            return known
    return Scaling("own", (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def rescaled(backbone: Backbone, name: str) -> Backbone:
    """The backbone with the scaling called `name` as its first stage (the other stages shared); "auto" keeps its own."""
    if name == "auto":
        return backbone
    if name not in SCALINGS:
        raise unknown("scaling", name, ["auto", *SCALINGS])
    stages = nn.ModuleList([Scale(SCALINGS[name]), *backbone.stages[1:]])
    return Backbone(backbone.name, stages, backbone.cuts, {**backbone.facts, "scaling": plain(SCALINGS[name])})
