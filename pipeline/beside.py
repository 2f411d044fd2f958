"""What some heads consume beside features of frames, found in stores of their own: class text, and features of optical flow.

Letters: D channels of a text feature, T frames.
"""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.features import FeatureStore
from cache.spec import FeatureSpec
from cache.store import open_store, stores_under
from extract.backbone import Backbone
from extract.clip_text import text_spec, text_tower
from extract.config import ExtractConfig, store_path
from extract.flow_features import flow_features_spec
from extract.flow_settings import FlowSettings
from extract.prepare import rows_of
from fsar_cache import places
from fsar_cache.console import warn
from fsar_cache.errors import IntegrityError, MissingError, UsageError
from pipeline.model import build_head
from pipeline.recipe import Features, Recipe
from pipeline.sources import Beside, StoreSource
from splits.types import Part, Split
from splits.words import listed

EXTRACTION = {"features": "features", "flow": "flow-features", "text": "text"}
"""Kind that a head needs -> kind of extraction that makes it."""
DRAWN = "random:0"


def kinds_beside(recipe: Recipe) -> frozenset[str]:
    """The kinds beside "features" that the recipe's head needs, of "flow" and "text"."""
    return frozenset(build_head(recipe, 1).needs.kinds) - {"features"}


def text_weights(features: Features) -> str:
    """The weights of the text tower; "auto" is those of the features' own backbone where that is the same CLIP, else drawn ones."""
    if features.text_weights != "auto":
        return features.text_weights
    return features.weights if features.backbone == features.text_backbone else DRAWN


def features_for(features: Features, kind: str) -> Features:
    """The settings whose extraction makes `kind` for a recipe with these features."""
    if kind == "text":
        return replace(features, backbone=features.text_backbone, weights=text_weights(features), cut="pooled", views=0)
    if kind == "flow":
        return replace(features, cut="pooled", views=0, dtype="auto", normalise="none")
    return features


def extract_config(features: Features, kind: str = "features") -> ExtractConfig:
    """The extraction that makes `kind` for the recipe; for the cut "video", the one whose pixels live evaluation equals."""
    wanted = features_for(features, kind)
    names = {f.name for f in fields(ExtractConfig)}
    values = {f.name: getattr(wanted, f.name) for f in fields(wanted) if f.name in names}
    cut = "frames" if wanted.cut == "video" else wanted.cut
    return ExtractConfig(**{**values, "cut": cut, "kind": EXTRACTION[kind]})


def extract_command(dataset: str, features: Features, kind: str = "features") -> str:
    """The command line that extracts what these features need, whatever recipe they are from."""
    config, plain = extract_config(features, kind), ExtractConfig()
    words = ["fsar-cache", "extract", dataset, *places.videos_words()]
    if kind != "features":
        words += ["--kind", config.kind]
    for name in ("backbone", "weights", *(["cut"] if kind == "features" else [])):
        words += [f"--{name}", getattr(config, name)]
    named = ["prompt"] if kind == "text" else ["frames", "size", "sampling", "transform", "scaling"]
    if kind == "text" and config.prompt == plain.prompt:
        named = []
    if kind != "text":
        named += [name for name in ("decoder", "dtype", "precision") if getattr(config, name) != getattr(plain, name)]
        named += ["views", "view_seed", "train_sampling", "train_transform", "flip"] if config.views else []
    for name in named:
        words += ["--set", f"features.{name}={getattr(config, name)}"]
    if kind == "flow":
        for each in fields(FlowSettings):
            value = getattr(config.flow, each.name)
            if value != getattr(FlowSettings(), each.name):
                words += ["--set", f"features.flow.{each.name}={value}"]
    return shlex.join(words)


@cache
def _warn_of_drawn(weights: str) -> None:
    """Once per process."""
    warn(
        f"class text is of a tower with drawn weights ({weights}): it shows the mechanics, it means nothing "
        "(--set features.text_weights=openclip:openai)"
    )


class Companions:
    """Opens what lies beside the features of a recipe; kinds: those that its head needs, of "flow" and "text"."""

    def __init__(self, features: Features, kinds: frozenset[str], stores: Path, backbone: Backbone) -> None:
        self.kinds = kinds
        self._features, self._stores, self._backbone = features, stores, backbone
        self._opened: dict[str, FeatureSpec] = {}
        if kinds and features.store is not None:
            own = {"flow": features.flow_store, "text": features.text_store}
            for kind in sorted(kinds - {"text"}):
                if own[kind] is None:
                    raise UsageError(
                        f"the head needs {kind} too, and the recipe takes its features from the store {features.store!r}",
                        hint=f"name the store of {kind} features made in the same way: --set features.{kind}_store=NAME",
                    )

    def open(self, split: Split, part: Part, dataset: str) -> Beside:
        """What there is of the clips and classes of `part`; MissingError with the command that extracts what is not there."""
        flow = self._flow(split, part, dataset) if "flow" in self.kinds else None
        return Beside(flow, self._text(split, part, dataset) if "text" in self.kinds else None)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the other kinds that were opened, as plain data: the fingerprints of their stores."""
        return {kind: spec.fingerprint for kind, spec in sorted(self._opened.items())}

    def _spec(self, kind: str) -> FeatureSpec:
        return self._text_spec if kind == "text" else self._flow_spec

    @cached_property
    def _text_spec(self) -> FeatureSpec:
        f, weights = self._features, text_weights(self._features)
        if weights.startswith("random:"):
            _warn_of_drawn(weights)
        return text_spec(text_tower(f.text_backbone, weights), f.prompt)

    @cached_property
    def _flow_spec(self) -> FeatureSpec:
        return flow_features_spec(extract_config(self._features, "flow"), self._backbone)

    def _store(self, split: Split, dataset: str, kind: str, named: str | None) -> FeatureStore:
        """The store of `kind` of one dataset: the one named by the recipe, or the one that its settings make."""
        if named is not None:
            store = open_store(self._stores / split.home / named)
            self._opened.setdefault(kind, store.spec).require_same(
                store.spec, f"the {kind} opened first", f"that of {dataset}"
            )
            return store
        path = store_path(self._stores, split.home, self._spec(kind))
        if path not in stores_under(path.parent):
            raise MissingError(
                f"the head needs {kind} of {dataset}, and it is not extracted: no store {path}",
                hint=extract_command(dataset, self._features, kind),
            )
        self._opened[kind] = self._spec(kind)
        return open_store(path)

    def _flow(self, split: Split, part: Part, dataset: str) -> StoreSource:
        named = self._features.flow_store
        store = self._store(split, dataset, "flow", named)
        if named is None:
            store.require_origins(
                rows_of(replace(split, parts={part.name: part}), extract_config(self._features, "flow"))
            )
        elif len(store.spec.shape) != 2 or store.spec.cut == "pooled":
            raise IntegrityError(
                f"the store {store.path} holds {store.spec.cut} {list(store.spec.shape)} per clip, not features [T, D] of flow"
            )
        return StoreSource(store, part, extract=extract_command(dataset, self._features, "flow"), split=split.name)

    def _text(self, split: Split, part: Part, dataset: str) -> Tensor:
        """float32 [classes of the part, D]."""
        store = self._store(split, dataset, "text", self._features.text_store)
        if len(store.spec.shape) != 1:
            raise IntegrityError(
                f"the store {store.path} holds {list(store.spec.shape)} per row, not one text feature [D]"
            )
        rows = store.rows_of(part.classes)
        absent = [
            name for name, row in zip(part.classes, rows.tolist(), strict=True) if row < 0 or not bool(store.ok[row])
        ]
        if absent:
            raise MissingError(
                f"the store {store.path} has no text of {len(absent)} of {len(part.classes)} classes of "
                f"{dataset}/{part.name}: {listed(absent)}",
                hint=extract_command(dataset, self._features, "text"),
            )
        return torch.from_numpy(np.asarray(store.read(rows), np.float32))
