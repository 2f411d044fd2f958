"""ResNets in published checkpoints of TRX and its library: a numbered sequence of the network's children, without the classifier."""

from __future__ import annotations

CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Number of a child -> torchvision's name; 2 and 3 (activation, pooling) have no tensors."""
PREFIXES = ("resnet.", "resnet.module.", "backbone.", "backbone.module.")
"""TRX's own files, those of several devices, and the later library's."""


def numbered_resnet(key: str) -> str:
    """A backbone key (prefix removed) under torchvision's name: "4.0.conv1.weight" -> "layer1.0.conv1.weight"; others as they are."""
    child, dot, rest = key.partition(".")
    return CHILDREN.get(child, child) + dot + rest


def to_numbered_resnet(key: str) -> str:
    """The inverse: "layer1.0.conv1.weight" -> "4.0.conv1.weight"; others as they are."""
    child, dot, rest = key.partition(".")
    return {name: number for number, name in CHILDREN.items()}.get(child, child) + dot + rest
