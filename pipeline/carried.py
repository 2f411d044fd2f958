"""What an exported file of a run trained here says beside its tensors, so that it comes back as it was: features, head, deviations.

One entry, `fsar_cache`, a JSON text: in a torch file beside the table of tensors, in a safetensors file among its metadata. Published code
doesn't look at it. Datasets and places on the machine (weights, stores) are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fsar_cache.canonical import canonical, differences, plain
from fsar_cache.errors import FsarError, IntegrityError, UsageError
from fsar_cache.settings import build, override
from pipeline.model import Model
from pipeline.normalise import Normaliser
from pipeline.recipe import Features, Recipe

ENTRY = "fsar_cache"
"""The entry's key."""
PLACES = ("weights", "text_weights", "store", "flow_store", "text_store")
"""Settings of features that name something on a machine; the weights come with the file."""


@dataclass(frozen=True)
class Carried:
    """A run's recipe, as far as a file carries it. deviations: {"features": [D], "flow": [D]} of the normalisers that it has."""

    name: str
    head: str
    follows: str
    features: dict[str, Any]
    head_config: dict[str, Any]
    deviations: dict[str, tuple[float, ...]]


def carried_by(recipe: Recipe, model: Model) -> Carried:
    """What a file of this model has to carry."""
    features = {name: value for name, value in plain(recipe.features).items() if name not in PLACES}
    # losses are divided by it in training alone, where it has to be the recipe's
    config = {name: value for name, value in asdict(model.head.config).items() if name != "tasks_per_batch"}
    deviations = {kind: tuple(each.scale.tolist()) for kind, each in _normalisers(model).items()}
    return Carried(recipe.name, recipe.head, recipe.follows, features, config, deviations)


def left_behind(features: Features) -> list[str]:
    """The settings of places that a file doesn't carry though they are not the usual ones."""
    usual = Features()
    return [n for n in PLACES if n != "weights" and getattr(features, n) != getattr(usual, n)]


def written(carried: Carried) -> dict[str, str]:
    """The entry as a file holds it."""
    return {ENTRY: canonical(carried)}


def read_carried(other: Mapping[str, Any], where: str) -> Carried | None:
    """The entry of a file whose plain values these are, None where it has none; IntegrityError for one that can't be understood."""
    if ENTRY not in other:
        return None
    try:
        values = json.loads(other[ENTRY])
        made = build(Carried, values, ENTRY)
        build(Features, made.features, "features")
    except (TypeError, ValueError, RecursionError, AttributeError, FsarError) as error:
        said = error.message if isinstance(error, FsarError) else f"{type(error).__name__}: {error}"
        raise IntegrityError(f"{where}: its entry {ENTRY!r} is none that this version writes: {said[:200]}") from error
    return made


def recipe_of(carried: Carried, base: Recipe, sets: Sequence[str]) -> Recipe:
    """The carried recipe with the datasets, training and evaluation of `base`, its head's; `sets` have the last word."""
    features = {name: value for name, value in carried.features.items() if name not in PLACES}
    values = plain(base) | {
        "name": carried.name,
        "follows": carried.follows,
        "features": features,
        "head_config": carried.head_config,
        "about": "",
        "default_of_head": False,
        "published": None,
    }
    return build(Recipe, override(values, sets))


def changes(carried: Carried, recipe: Recipe) -> list[str]:
    """Where the recipe's features differ from those that the file was trained with, in words."""
    own = {name: value for name, value in plain(recipe.features).items() if name not in PLACES}
    found = differences(plain(build(Features, carried.features)) | dict.fromkeys(PLACES), own | dict.fromkeys(PLACES))
    return [f"features.{field} is {now!r}; the file was trained with {was!r}" for field, was, now in found]


def require_deviations(recipe: Recipe, carried: Carried | None, where: str) -> None:
    """UsageError where the recipe normalises by deviations that the file doesn't hold."""
    name = recipe.features.normalise
    if name != "none" and (carried is None or carried.features.get("normalise", "none") != name):
        raise UsageError(
            f"recipe {recipe.name} normalises features ({name}) by deviations of the training clips, and {where} does not hold them: "
            "published checkpoints were trained without, and those exported here hold what their run had",
            hint="--set features.normalise=none",
        )


def fill_normalisers(model: Model, carried: Carried | None, where: str) -> None:
    """Copy the carried deviations into the model; IntegrityError where they are not as many numbers above 0 as it has channels."""
    for kind, normaliser in _normalisers(model).items():
        given = torch.tensor(carried.deviations.get(kind, ()) if carried else ())
        if given.shape != normaliser.scale.shape or not bool((given.isfinite() & (given > 0)).all()):
            raise IntegrityError(
                f"{where} holds {len(given)} deviations of {kind}, the model needs {len(normaliser.scale)}, all above 0"
            )
        normaliser.scale.copy_(given)


def _normalisers(model: Model) -> dict[str, Normaliser]:
    """The model's normalisers that have deviations, by kind."""
    both = {"features": model.normaliser, "flow": model.flow_normaliser}
    return {kind: each for kind, each in both.items() if each is not None and each.name != "none"}
