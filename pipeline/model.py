"""The online part of a method: the backbone's tail after the cut, the normaliser, the head. One code path for stored and live input.

Letters: B clips, E episodes, S support, Q query and U unlabelled clips of an episode, T frames, D channels.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.spec import FeatureSpec
from extract.backbone import Backbone
from fsar_cache.draws import key_of
from fsar_cache.settings import build
from heads.base import HEADS, Clips, Head, Role
from pipeline.normalise import Normaliser
from pipeline.recipe import Recipe


class Model(nn.Module):
    """tail, then normaliser, then head."""

    def __init__(self, tail: nn.Module, normaliser: Normaliser, head: Head) -> None:
        super().__init__()
        self.tail = tail
        self.normaliser = normaliser
        self.head = head

    @property
    def device(self) -> torch.device:
        """Where parameters and buffers are; the CPU for a model that has none."""
        tensor = next(iter(self.parameters()), next(iter(self.buffers()), None))
        return torch.device("cpu") if tensor is None else tensor.device

    def features(self, activations: Tensor) -> Tensor:
        """Activations at the cut [B, ...] to normalised features [B, T, D]."""
        features: Tensor = self.normaliser(self.tail(activations))
        return features

    def encode(self, activations: Tensor, role: Role) -> dict[str, Tensor]:
        """Activations at the cut [B, ...] to the head's encoding of every clip, {name: [B, ...]}."""
        clips = {"features": self.features(activations)}
        self.head.check(clips, role)
        return self.head.encode(clips, role)

    def episode_features(self, roles: dict[Role, Tensor]) -> dict[Role, Clips]:
        """Activations of one training episode, {role: [B, ...]}, to features {role: {"features": [1, B, T, D]}}.

        A head with `bn_passes = "separate"` sends support, query and unlabelled clips through the tail one after the other, in this
        order, each normalised by its own batch; with "joint" all go together.
        """
        if self.head.bn_passes == "separate":
            parts = [self.features(activations) for activations in roles.values()]
        else:
            joint = self.features(torch.cat(list(roles.values())))
            parts = list(torch.split(joint, [len(a) for a in roles.values()]))
        return {role: {"features": part[None]} for role, part in zip(roles, parts, strict=True)}


def build_head(recipe: Recipe, classes: int) -> Head:
    """The recipe's head; what its Config asks of the data (class_num, seq_len, tasks_per_batch) is filled in unless the recipe says it.

    classes: number of training classes. Parameters are drawn from the training seed in a forked random state. UsageError for
    settings the head doesn't know.
    """
    kind = HEADS.get(recipe.head)
    known = {f.name for f in dataclasses.fields(kind.Config)}
    data: dict[str, Any] = {
        "class_num": classes,
        "seq_len": recipe.features.frames,
        "tasks_per_batch": recipe.train.tasks_per_batch,
    }
    values = {name: value for name, value in data.items() if name in known} | recipe.head_config
    config = build(kind.Config, values, "head_config")
    with torch.random.fork_rng():
        torch.manual_seed(key_of("head", recipe.head, recipe.train.seed) % 2**63)
        return kind(config)


def adapted(backbone: Backbone, adapters: Mapping[str, nn.Module], cut: str) -> Backbone:
    """A frozen copy of the backbone with these modules in its slots; UsageError where one lies before the cut or has no such slot."""
    made = copy.deepcopy(backbone).requires_grad_(False)
    made.insert(adapters)
    made.head_of(cut)
    return made


def build_model(recipe: Recipe, backbone: Backbone, spec: FeatureSpec, classes: int) -> Model:
    """Head, normaliser and the tail of `backbone` after the recipe's cut ("video" enters at "frames"); spec: of the activations there.

    Raises UsageError, with both shapes, where the head can't use what the backbone gives.
    """
    head = build_head(recipe, classes)
    cut = "frames" if recipe.features.cut == "video" else recipe.features.cut
    with torch.random.fork_rng():
        torch.manual_seed(key_of("adapters", recipe.head, recipe.train.seed) % 2**63)
        adapters = head.adapters(backbone.slots)
    if adapters:
        backbone = adapted(backbone, adapters, cut)
    tail = backbone.tail_of(cut)
    tail.eval()
    with torch.no_grad():
        probe = tail(as_tensor(np.zeros((1, *spec.shape), spec.dtype)))
    head.check({"features": probe}, "support")
    return Model(tail, Normaliser(recipe.features.normalise, probe.shape[-1]), head)


def as_tensor(rows: NDArray[Any]) -> Tensor:
    """Stored activations as a tensor: pixels stay uint8, numbers become float32."""
    tensor = torch.from_numpy(rows)
    return tensor if tensor.dtype == torch.uint8 else tensor.float()
