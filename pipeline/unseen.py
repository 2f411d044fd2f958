"""The clips that are measured on are none of those that are trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import product

from fsar_cache.errors import UsageError
from pipeline.recipe import Domain, Recipe
from splits.datasets import open_split

Clip = tuple[str, float | None, float | None]
"""A file and its time span in seconds."""


def require_unseen(recipe: Recipe) -> None:
    """UsageError where the recipe would train on, or choose a checkpoint by, clips that it evaluates on, or validate on training clips.

    A clip is its file and time span, whatever the names of its dataset and partition. Excluded clips don't count.
    """
    source, target, train = recipe.source, recipe.target, recipe.train
    training = {"source.part": _clips(source, source.part)}
    if train.unlabelled and target.unlabelled is not None:
        training["target.unlabelled"] = _clips(target, target.unlabelled)
    held = {"target.part": _clips(target, target.part)}
    if train.validate_every:
        validation = {"train.validate_part": _clips(source, train.validate_part)}
        _require_disjoint(training, validation, "validation")
        training |= validation
    _require_disjoint(training, held, "evaluation")


def _clips(domain: Domain, part: str) -> dict[Clip, str]:
    """The ids of a partition's clips by file and span, without the excluded ones."""
    split, out = open_split(domain.dataset), frozenset(domain.exclude)
    root = os.path.abspath(split.root)
    return {
        (os.path.normpath(os.path.join(root, video.path)), video.start, video.end): video.id
        for video in split.part(part).videos
        if video.id not in out
    }


def _require_disjoint(
    training: Mapping[str, Mapping[Clip, str]], held: Mapping[str, Mapping[Clip, str]], use: str
) -> None:
    for (setting, seen), (own, kept) in product(training.items(), held.items()):
        both = sorted(kept[clip] for clip in seen.keys() & kept.keys())
        if both:
            raise UsageError(
                f"{len(both)} of {len(kept)} {use} clips ({own}) are also used in training ({setting}), e.g. {both[0]!r}: "
                f"the {use} would say nothing about unseen clips",
                hint=f"name another partition with --set {own}=NAME or --set {setting}=NAME (a list has them in its column partition, "
                "a folder as train/ and test/), or leave single clips out with source.exclude or target.exclude",
            )
