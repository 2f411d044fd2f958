"""What a short command trains on where the recipe's own source is not extracted, but a dataset of the user's is."""

from __future__ import annotations

from cache.folder import HEADER
from cache.spec import FeatureSpec
from cache.store import stores_under
from extract.config import backbone_of, spec_of, store_path
from fsar_cache import places
from fsar_cache.console import say
from fsar_cache.errors import UsageError
from pipeline.beside import extract_config
from pipeline.recipe import Recipe
from splits.datasets import open_split
from splits.types import Split

ORDER = ("kinetics", "ssv2", "ucf101", "hmdb51", "diving48", "rareact")
"""The datasets that are looked for, the first one first."""


def found_domains(recipe: Recipe) -> list[str]:
    """Settings that make the first of ORDER which is extracted with exactly the recipe's features its source and its target; said aloud.

    [] where the recipe's own source is extracted, or none of them is. A dataset whose default split has no such partition for the target
    leaves that to the next one that is extracted; UsageError where there is none.
    """
    features = recipe.features
    if features.store is not None or features.cut == "video":
        return []
    if not any(stores_under(places.stores() / name) for name in ORDER):
        return []  # known without the backbone
    config = extract_config(features)
    spec = spec_of(config, backbone_of(config))
    names = [name for name in ORDER if _is_extracted(name, spec)]
    if not names or _is_extracted(recipe.source.dataset, spec):
        return []
    source = open_split(names[0])
    target = _target(recipe, [source, *map(open_split, names[1:])])
    say(
        f"{recipe.source.dataset} is not extracted with these features, {names[0]} is: training on {source.name}, evaluating on "
        f"{target.name} (choose with --source and --target, --protocol or --recipe)"
    )
    name = "-".join(dict.fromkeys((recipe.name, source.name, target.name)))
    return [f'source.dataset="{source.name}"', f'target.dataset="{target.name}"', f'name="{name}"']


def _is_extracted(home: str, spec: FeatureSpec) -> bool:
    return (store_path(places.stores(), home, spec) / HEADER).exists()


def _target(recipe: Recipe, splits: list[Split]) -> Split:
    for split in splits:
        if recipe.target.part in split.parts:
            return split
    names = ", ".join(split.name for split in splits)
    raise UsageError(
        f"{names}: extracted, but without a partition {recipe.target.part!r} to evaluate on",
        hint="name what to evaluate on, which may be extracted later: --target DATASET (fsar-cache list datasets)",
    )
