"""ResNet-18, -34 and -50 through timm, cut at the frames, at the last map, or at the pooled vector."""

from __future__ import annotations

from torch import Tensor, nn

from extract.backbone import BACKBONES, Backbone
from extract.scaling import Scale
from extract.weights import network, weight_hash
from fsar_cache.canonical import plain


class Trunk(nn.Module):
    """float [B, T, 3, H, W] to the map after the last residual stage, [B, T, C, h, w]; C is 512, 512 and 2048, h = ceil(H / 32).

    `net` is timm's network; its tensors bear torchvision's names (conv1.weight, layer1.0.conv1.weight, ...).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> Tensor:
        """Every frame on its own; in training mode batch norm sees all B*T frames as one batch."""
        maps: Tensor = self.net.forward_features(frames.flatten(0, 1))  # type: ignore[operator]
        return maps.reshape(*frames.shape[:2], *maps.shape[1:])


class Pool(nn.Module):
    """[B, T, C, h, w] to the mean over space, [B, T, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        """Mean over h and w, always in plain memory order: the last bits of a sum depend on it, and a store gives maps back in it."""
        return maps.contiguous().mean(dim=(3, 4))


def trunk(backbone: Backbone) -> nn.Module:
    """The timm network inside a ResNet backbone, for reading and loading its tensors under torchvision's names."""
    found = backbone.stages[1]
    assert isinstance(found, Trunk)
    return found.net


def _build(name: str, weights: str) -> Backbone:
    net, scaling = network(name, weights)
    facts = {"name": name, "weights": weight_hash(net), "scaling": plain(scaling)}
    stages = nn.ModuleList([Scale(scaling), Trunk(net), Pool()])
    return Backbone(name, stages, {"frames": 0, "map": 2, "pooled": 3}, facts)


@BACKBONES.add("resnet18")
def resnet18(weights: str) -> Backbone:
    """ResNet-18: maps of 512 channels."""
    return _build("resnet18", weights)


@BACKBONES.add("resnet34")
def resnet34(weights: str) -> Backbone:
    """ResNet-34: maps of 512 channels."""
    return _build("resnet34", weights)


@BACKBONES.add("resnet50")
def resnet50(weights: str) -> Backbone:
    """ResNet-50: maps of 2048 channels."""
    return _build("resnet50", weights)
