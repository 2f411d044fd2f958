"""From a recipe to things that run: the backbone, sources over stores or live video, samplers, the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cache.spec import FeatureSpec
from cache.store import open_store, stores_under
from extract.backbone import Backbone
from extract.config import backbone_of, spec_of, store_path
from extract.pool import DecodePool
from extract.prepare import rows_of
from fsar_cache.canonical import differences
from fsar_cache.console import warn
from fsar_cache.errors import IntegrityError, MissingError, UsageError
from pipeline import leaks
from pipeline.beside import Companions, extract_command, extract_config, kinds_beside
from pipeline.domains import split_of
from pipeline.live import LiveSource
from pipeline.loop import TrainData
from pipeline.model import Model, build_model
from pipeline.recipe import Domain, Recipe
from pipeline.seen import Seen, seen_by
from pipeline.sources import Beside, FeatureSource, StoreSource
from pipeline.unseen import apart
from splits.datasets import open_split
from splits.episodes import EpisodeSampler
from splits.types import Ints, Part, Protocol, Split
from splits.words import listed


@dataclass(frozen=True)
class Places:
    """Where stores are (datasets are found by name), and how many decode processes live video may use (0: one per core)."""

    stores: Path
    workers: int = 0


@dataclass(frozen=True)
class Opened:
    """A source with the split it is from and the ids that episodes must leave out; beside: what decides the other kinds of its clips."""

    source: FeatureSource
    split: Split
    exclude: frozenset[str]
    beside: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """What of the data decides the numbers, as plain data."""
        return {
            "dataset": self.split.name,
            "part": self.source.part.name,
            "split": self.split.hash,
            "features": self.source.spec.fingerprint,
            **self.beside,
        }


class Workshop:
    """Opens what one recipe names; made by `workshop`, which ends the decode processes that live video started."""

    def __init__(self, recipe: Recipe, places: Places, pool: DecodePool) -> None:
        self.recipe = recipe
        self._places = places
        self._pool = pool
        self.backbone: Backbone
        self.spec: FeatureSpec
        if recipe.features.store is not None:
            self.spec = open_store(self._named_store(recipe.target.dataset)).spec
            if self.spec.shape[0] != recipe.features.frames:
                raise UsageError(
                    f"the store {recipe.features.store} has {self.spec.shape[0]} frames per clip, the recipe says {recipe.features.frames}",
                    hint=f"--set features.frames={self.spec.shape[0]}",
                )
            self.backbone = Backbone("", torch.nn.ModuleList(), {recipe.features.cut: 0}, {})
        else:
            config = extract_config(recipe.features)
            self.backbone = backbone_of(config)
            self.spec = spec_of(config, self.backbone)
        self._companions = Companions(recipe.features, kinds_beside(recipe), places.stores, self.backbone)

    def _named_store(self, dataset: str) -> Path:
        """The store that the recipe names, of one dataset."""
        return self._places.stores / open_split(dataset).home / str(self.recipe.features.store)

    def open(self, domain: Domain, part: str, *, training: bool = False) -> Opened:
        """The source of one partition; for training with the stored views that the recipe asks for.

        MissingError with the command that extracts it where there is no store, IntegrityError where the store's clips were cut from
        other files or spans than the dataset says now.
        """
        split = split_of(domain)
        source = self.source(split, split.part(part), domain.dataset, training=training)
        whole = open_split(domain.dataset) if domain.exclude and domain.drop_classes else split
        strange = sorted(set(domain.exclude) - {video.id for p in whole.parts.values() for video in p.videos})
        if strange:
            raise MissingError(f"no clip {strange[0]!r} in {domain.dataset}, yet the recipe excludes it")
        flow = source.beside.flow
        exclude = source.excluded | (flow.excluded if flow else frozenset()) | frozenset(domain.exclude)
        return Opened(source, split, exclude, self._companions.identity)

    def source(self, split: Split, part: Part, dataset: str, *, training: bool = False) -> FeatureSource:
        """The source of clips of `split` that make up `part`, its own or one made up of some of its classes; errors as `open` has them."""
        features = self.recipe.features
        beside = self._companions.open(split, part, dataset)
        if features.cut == "video":
            return LiveSource(split, part, features, self.spec, self._pool, beside)
        return self._stored(split, part, dataset, features.views if training else 0, beside)

    def _stored(self, split: Split, part: Part, dataset: str, views: int, beside: Beside) -> StoreSource:
        """The stored rows of a partition, of the store that the recipe's settings or its `store` name."""
        features = self.recipe.features
        if features.store is not None:
            store = open_store(self._named_store(dataset))
            self.spec.require_same(store.spec, f"the features of {self.recipe.target.dataset}", f"those of {dataset}")
            return StoreSource(
                store,
                part,
                extract="fsar-cache store import-features --help",
                views=views,
                beside=beside,
                split=split.name,
            )
        path = store_path(self._places.stores, split.home, self.spec)
        extract = extract_command(dataset, features)
        self._require_store(path, dataset, extract)
        store = open_store(path)
        config = replace(extract_config(features), views=views)
        store.require_origins(rows_of(replace(split, parts={part.name: part}), config))
        return StoreSource(store, part, extract=extract, views=views, beside=beside, split=split.name)

    def _require_store(self, path: Path, dataset: str, hint: str) -> None:
        """MissingError without it, which says how the nearest store of such features differs."""
        if path in stores_under(path.parent):
            return
        wanted, like = self.spec.plain(), []
        for other in stores_under(path.parent):
            spec = open_store(other).spec
            if (spec.kind, spec.cut) == (self.spec.kind, self.spec.cut):
                like.append((len(differences(wanted, spec.plain())), other, spec))
        if like:
            _, other, spec = min(like, key=lambda each: each[:2])
            try:
                self.spec.require_same(spec, "this recipe", f"the store {other}")
            except IntegrityError as error:
                raise MissingError(f"no store {path}; {error.message}", hint=hint) from error
        raise MissingError(f"{dataset} is not extracted for this recipe: no store {path}", hint=hint)

    def training(self) -> tuple[TrainData, dict[str, Any]]:
        """Source, unlabelled target clips and sampler of training, and their identity; both sources must hold the same features.

        UsageError where a clip of the evaluation is trained on, or a validation clip is, and the recipe doesn't say what to do with such.
        """
        recipe, train = self.apart, self.recipe.train
        source = self.open(recipe.source, recipe.source.part, training=True)
        identity: dict[str, Any] = {"source": source.identity()}
        target = None
        if train.unlabelled and recipe.target.unlabelled is not None:
            target = self.open(recipe.target, recipe.target.unlabelled, training=True)
            target.source.spec.require_same(source.source.spec, target.split.name, source.split.name)
            identity["unlabelled"] = target.identity()
        sampler = EpisodeSampler(
            source.source.part,
            train.protocol,
            train.seed,
            exclude=source.exclude,
            unlabelled=target.source.part if target else None,
            exclude_unlabelled=target.exclude if target else frozenset(),
            unlabelled_sampling=train.unlabelled_sampling,
            split_hash=source.split.hash,
            min_class=recipe.source.min_class,
            role="source",
        )
        identity |= {"excluded": sampler.exclusion_hash, "left_out": list(sampler.left_out)}
        _say_left_out(source.split.name, sampler)
        return TrainData(source.source, sampler, target.source if target else None, source.exclude), identity

    @cached_property
    def apart(self) -> Recipe:
        """The recipe as it is trained: what is held out is left out, as far as it says so."""
        return apart(self.recipe)

    @cached_property
    def seen(self) -> list[Seen]:
        """What the recipe's training reads."""
        return seen_by(self.apart)

    @cached_property
    def leaks(self) -> tuple[str, ...]:
        """What of that it shares with the recipe's evaluation, in words."""
        return leaks.leaks(self.seen, self.recipe.target)

    def evaluation(
        self, domain: Domain, protocol: Protocol, seed: int, role: Literal["source", "target"] = "target"
    ) -> tuple[FeatureSource, EpisodeSampler, dict[str, Any]]:
        """Source and sampler of evaluation episodes on the domain's part, and their identity; role: of the domain in the recipe."""
        if role == "source":
            domain = replace(domain, exclude=self.apart.source.exclude)
        opened = self.open(domain, domain.part)
        sampler = EpisodeSampler(
            opened.source.part,
            protocol,
            seed,
            exclude=opened.exclude,
            split_hash=opened.split.hash,
            min_class=domain.min_class,
            role=role,
        )
        _say_left_out(opened.split.name, sampler)
        identity = {
            **opened.identity(),
            "excluded": sampler.exclusion_hash,
            "left_out": list(sampler.left_out),
            "protocol": dataclasses.asdict(protocol),
            "seed": seed,
        }
        return opened.source, sampler, identity

    def model(self, classes: int) -> Model:
        """The recipe's model for so many training classes; parameters from the training seed, `normaliser` not fitted yet."""
        return build_model(self.recipe, self.backbone, self.spec, classes)

    def training_model(self) -> Model:
        """The model for the classes of the source's partition; no store is needed to find that a head can't use the recipe's features."""
        source = self.recipe.source
        return self.model(len(split_of(source).part(source.part).classes))


@cache
def _warn_once(text: str) -> None:
    warn(text)


def _say_left_out(dataset: str, sampler: EpisodeSampler) -> None:
    """Warn of classes that are not drawn, once per process however often the same episodes are set up."""
    if sampler.left_out:
        classes, p = sampler.part.classes, sampler.protocol
        _warn_once(
            f"{len(sampler.left_out)} of {len(classes)} classes of {dataset}/{sampler.part.name} are left out, "
            f"having fewer than {p.shot + p.query} usable clips: {listed(list(sampler.left_out))}"
        )


@contextmanager
def workshop(recipe: Recipe, places: Places) -> Iterator[Workshop]:
    """A `Workshop` for the block's duration."""
    with DecodePool(places.workers) as pool:
        yield Workshop(recipe, places, pool)


def fit_normaliser(model: Model, source: FeatureSource, exclude: Collection[str], batch: int = 64) -> None:
    """Take the model's deviations of features, and of flow, from all source clips that may be drawn; nothing to do for "none"."""
    if model.normaliser.name == "none":
        return
    usable = np.array([i for i, clip in enumerate(source.part.ids) if clip not in exclude], np.int64)
    parts = [usable[i : i + batch] for i in range(0, len(usable), batch)]

    def rows(of: FeatureSource, at: Ints) -> torch.Tensor:
        return of.fetch(at, training=False, keys=np.zeros(len(at), np.uint64)).to(model.device)

    flow = source.beside.flow
    if flow is not None and flow.spec.shape[-1] != len(model.normaliser.scale):
        raise UsageError(
            f"{type(model.head).__name__} needs flow of {len(model.normaliser.scale)} channels like its features, "
            f"got {flow.spec.shape[-1]}",
            hint="name another store, --set features.flow_store=NAME, or none: fsar-cache extract makes one that fits",
        )
    model.eval()
    with torch.no_grad():
        model.normaliser.fit(model.tail(rows(source, at)) for at in parts)
        if model.flow_normaliser is not None and flow is not None:
            model.flow_normaliser.fit(rows(flow, at) for at in parts)
