"""What a short command trains on where the recipe's own source is not extracted, but a dataset of the user's is."""

from __future__ import annotations

from pathlib import Path

from cache.folder import HEADER
from cache.spec import FeatureSpec
from cache.store import open_store, stores_under
from extract.config import backbone_of, spec_of, store_path
from fsar_cache import places
from fsar_cache.console import say, unwarned
from fsar_cache.errors import FsarError, UsageError
from pipeline.beside import extract_config
from pipeline.recipe import Recipe
from pipeline.split_facts import is_published
from splits.datasets import open_split
from splits.official.catalog import official
from splits.published.imported import imported_names, read_imported
from splits.published.known import known, known_names
from splits.types import Split

ORDER = ("kinetics", "ssv2", "ucf101", "hmdb51", "diving48", "rareact")
"""The datasets that are looked for, the first one first."""


def extracted_domains(recipe: Recipe) -> list[str]:
    """Settings that make the first of ORDER which is extracted with exactly the recipe's features its source and its target; said aloud.

    Of a dataset it is the first split that is extracted in full: the default first, then published ones, then imported ones. [] where the
    recipe's own source is extracted, or no split of them is. A split that has no such partition for the target leaves that to the next
    dataset that is extracted; UsageError where there is none.
    """
    features = recipe.features
    if features.store is not None or features.cut == "video":
        return []
    if not any(stores_under(places.stores() / name) for name in ORDER):
        return []  # known without the backbone
    config = extract_config(features)
    spec = spec_of(config, backbone_of(config))
    if _is_extracted(recipe.source.dataset, spec):
        return []
    splits = [split for name in ORDER if (split := _extracted_split(name, spec)) is not None]
    source = next((split for split in splits if recipe.source.part in split.parts), None)
    if source is None:
        return []
    target = _target(recipe, [source, *(split for split in splits if split is not source)])
    say(
        f"{recipe.source.dataset} is not extracted with these features, {source.home} is: source {source.name}, target "
        f"{target.name} (choose with --source and --target, --protocol or --recipe)"
    )
    name = "-".join(dict.fromkeys((recipe.name, source.name, target.name)))
    return [f'source.dataset="{source.name}"', f'target.dataset="{target.name}"', f'name="{name}"']


def _store(home: str, spec: FeatureSpec) -> Path | None:
    """The dataset's store of these features; None where there is none."""
    path = store_path(places.stores(), home, spec)
    return path if (path / HEADER).exists() else None


def _is_extracted(name: str, spec: FeatureSpec) -> bool:
    """Whether a dataset has a store of these features; of a split that shares its dataset's store, whether its clips are in there."""
    if not is_published(name):
        return _store(name, spec) is not None
    split = _opened(name)
    store = _store(split.home, spec) if split is not None else None
    return split is not None and store is not None and _holds(store, split)


def _extracted_split(home: str, spec: FeatureSpec) -> Split | None:
    """The first split of a dataset whose clips are all in its store of these features."""
    store = _store(home, spec)
    if store is None:
        return None
    for name in _splits_of(home):
        split = _opened(name)
        if split is not None and _holds(store, split):
            return split
    return None


def _splits_of(home: str) -> list[str]:
    """The dataset's splits: those that its bare name stands for, the other published ones, those of the user."""
    own = [name for name in imported_names() if name not in known_names() and _dataset_of(name) == home]
    return list(dict.fromkeys([*official(home).default, *(n for n in known_names() if known(n).dataset == home), *own]))


def _dataset_of(name: str) -> str | None:
    """Whose clips an imported list has; None where it can't be read."""
    try:
        listed = read_imported(name)
    except FsarError:
        return None
    return listed.dataset if listed is not None else None


def _opened(name: str) -> Split | None:
    """The split; None where it can't be made of what is there."""
    try:
        with unwarned():
            return open_split(name)
    except FsarError:
        return None


def _holds(path: Path, split: Split) -> bool:
    """Whether every clip of the split is a row of the store."""
    with open_store(path) as store:
        return all((store.rows_of(part.ids) >= 0).all() for part in split.parts.values())


def _target(recipe: Recipe, splits: list[Split]) -> Split:
    for split in splits:
        if recipe.target.part in split.parts:
            return split
    names = ", ".join(split.name for split in splits)
    raise UsageError(
        f"{names}: extracted, but without a partition {recipe.target.part!r} to evaluate on",
        hint="name what to evaluate on, which may be extracted later: --target DATASET (fsar-cache list datasets)",
    )
