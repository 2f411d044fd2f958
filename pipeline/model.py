"""The online part of a method: the backbone's tail after the cut, the normaliser, the head. One code path for stored and live input.

Letters: B clips, E episodes, S support, Q query and U unlabelled clips of an episode, T frames, D channels.
"Features" are what the head reads: pooled [T, D], maps [T, C, H, W] or tokens [T, N, C].
"""

from __future__ import annotations

import copy
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.spec import FeatureSpec
from extract.backbone import Backbone
from extract.weights import read_tensors
from fsar_cache.draws import key_of
from fsar_cache.errors import UsageError
from fsar_cache.settings import build
from heads.base import HEADS, Clips, Head, Role
from pipeline.normalise import Normaliser
from pipeline.recipe import Recipe


class Model(nn.Module):
    """tail, then normaliser, then head; features of flow have a normaliser of their own (None where the head takes none)."""

    def __init__(
        self, tail: nn.Module, normaliser: Normaliser, head: Head, flow_normaliser: Normaliser | None = None
    ) -> None:
        super().__init__()
        self.tail = tail
        self.normaliser = normaliser
        self.head = head
        self.flow_normaliser = flow_normaliser

    @property
    def device(self) -> torch.device:
        """Where parameters and buffers are; the CPU for a model that has none."""
        tensor = next(iter(self.parameters()), next(iter(self.buffers()), None))
        return torch.device("cpu") if tensor is None else tensor.device

    def features(self, activations: Tensor) -> Tensor:
        """Activations at the cut [B, ...] to normalised features [B, T, ...]."""
        features: Tensor = self.normaliser(self.tail(activations))
        return features

    def beside(self, clips: Clips) -> dict[str, Tensor]:
        """The other kinds of the same clips, {kind: [B, ...]}, flow normalised."""
        made = dict(clips)
        if self.flow_normaliser is not None and "flow" in made:
            made["flow"] = self.flow_normaliser(made["flow"])
        return made

    def encode(self, activations: Tensor, role: Role, beside: Clips | None = None) -> dict[str, Tensor]:
        """Activations at the cut [B, ...] to the head's encoding of every clip, {name: [B, ...]}; beside: the other kinds of the clips."""
        clips = {"features": self.features(activations), **self.beside(beside or {})}
        self.head.check(clips, role)
        return self.head.encode(clips, role)

    def episode_features(
        self, roles: dict[Role, Tensor], beside: Mapping[Role, Clips] | None = None
    ) -> dict[Role, Clips]:
        """Activations of one training episode, {role: [B, ...]}, and the other kinds of its clips, to {role: {kind: [1, B, ...]}}.

        A head with `bn_passes = "separate"` sends support, query and unlabelled clips through the tail one after the other, in this
        order, each normalised by its own batch; with "joint" all go together.
        """
        if self.head.bn_passes == "separate":
            parts = [self.features(activations) for activations in roles.values()]
        else:
            joint = self.features(torch.cat(list(roles.values())))
            parts = list(torch.split(joint, [len(a) for a in roles.values()]))
        made: dict[Role, Clips] = {}
        for role, part in zip(roles, parts, strict=True):
            others = self.beside(beside.get(role, {}) if beside else {})
            made[role] = {"features": part[None], **{kind: clip[None] for kind, clip in others.items()}}
        return made


def build_head(recipe: Recipe, classes: int, width: int | None = None) -> Head:
    """The recipe's head; what its Config asks of the data (class_num, seq_len, dim, tasks_per_batch) is filled in unless set.

    classes: number of training classes; width: channels of the features. Parameters are drawn from the training seed in a forked random
    state. UsageError for settings the head doesn't know.
    """
    kind = HEADS.get(recipe.head)
    known = {f.name for f in dataclasses.fields(kind.Config)}
    data: dict[str, Any] = {
        "class_num": classes,
        "seq_len": recipe.features.frames,
        "tasks_per_batch": recipe.train.tasks_per_batch,
    }
    if width is not None:
        data["dim"] = width
    values = {name: value for name, value in data.items() if name in known} | recipe.head_config
    config = build(kind.Config, values, "head_config")
    with torch.random.fork_rng():
        torch.manual_seed(key_of("head", recipe.head, recipe.train.seed) % 2**63)
        return kind(config)


def adapted(backbone: Backbone, adapters: Mapping[str, nn.Module], cut: str, without: str | None = None) -> Backbone:
    """A frozen copy of the backbone with these modules in its slots; UsageError where one lies before the cut or has no such slot.

    without: the setting that makes a head do without them, for the hint.
    """
    made = copy.deepcopy(backbone).requires_grad_(False)
    made.insert(adapters)
    try:
        made.head_of(cut)
    except UsageError as error:
        instead = f"; or train without adapters: --set {shlex.quote(without)}" if without else ""
        raise UsageError(error.message, hint=f"{error.hint}{instead}") from error
    return made


def end_of(backbone: Backbone, at: str) -> str:
    """The cut of the backbone at which a head reads that needs features `at` "pooled", "map" or "tokens"; UsageError where it has none."""
    cut = backbone.last_block if at == "tokens" else at
    if cut not in backbone.cuts:
        raise UsageError(
            f"this head reads {at} features, and {backbone.name or 'the store'} has none; its cuts: {', '.join(backbone.cuts)}",
            hint="take a backbone that has them: fsar-cache list backbones",
        )
    return str(cut)


def tail_for(head: Head, backbone: Backbone, cut: str, end: str) -> nn.Module:
    """The backbone from `cut` to `end`; UsageError naming the last cut that head and adapters can start at, where `cut` is too late."""
    try:
        return backbone.tail_of(cut, end)
    except UsageError as error:
        with torch.random.fork_rng():
            blocks = {slot.partition(".")[0] for slot in head.adapters(backbone.slots)}
        last = min([end, *blocks], key=lambda name: backbone.cuts[name])
        raise UsageError(error.message, hint=f"--cut {last}, or one before it") from error


def probed(tail: nn.Module, spec: FeatureSpec) -> Tensor:
    """What the tail makes of one blank clip, in evaluation mode."""
    tail.eval()
    with torch.no_grad():
        made: Tensor = tail(as_tensor(np.zeros((1, *spec.shape), spec.dtype)))
    return made


def build_model(recipe: Recipe, backbone: Backbone, spec: FeatureSpec, classes: int) -> Model:
    """Head, normaliser and the tail of `backbone` after the recipe's cut ("video" enters at "frames"); spec: of the activations there.

    The tail ends where the head reads: at pooled features, at the last map, or at the tokens that leave the last block. Raises UsageError,
    with both shapes, where the head can't use what the backbone gives.
    """
    asking = build_head(recipe, classes)
    at = asking.needs.at
    cut = "frames" if recipe.features.cut == "video" else recipe.features.cut
    end, channels = end_of(backbone, at), 2 if at == "map" else -1
    width = probed(tail_for(asking, backbone, cut, end), spec).shape[channels]
    head = build_head(recipe, classes, width)
    source, _, path = recipe.features.weights.partition(":")
    if source == "file" and type(head).start_from is not Head.start_from:
        head.start_from(read_tensors(Path(path)))
    with torch.random.fork_rng():
        torch.manual_seed(key_of("adapters", recipe.head, recipe.train.seed) % 2**63)
        adapters = head.adapters(backbone.slots)
    if adapters:
        backbone = adapted(backbone, adapters, cut, head.without_adapters)
    tail = backbone.tail_of(cut, end)
    kinds = head.needs.kinds
    clip = {"features": probed(tail, spec)}
    others = {kind: torch.zeros(1, *(n or 1 for n in shape)) for kind, shape in kinds.items() if kind != "features"}
    head.check(others | clip, "support")
    name = recipe.features.normalise
    flow = Normaliser(name, width) if "flow" in kinds else None
    return Model(tail, Normaliser(name, width, channels), head, flow)


def as_tensor(rows: NDArray[Any]) -> Tensor:
    """Stored activations as a tensor: pixels stay uint8, numbers become float32."""
    tensor = torch.from_numpy(rows)
    return tensor if tensor.dtype == torch.uint8 else tensor.float()
