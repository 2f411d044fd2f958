"""The clips that are measured on are none of those that are trained on, unless the recipe's `target.shared` says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from fsar_cache.console import say, warn_once
from fsar_cache.errors import UsageError
from pipeline.domains import Used, used
from pipeline.recipe import Recipe
from splits.overlap import clip_overlap

SOURCE, UNLABELLED, VALIDATION, TARGET = "source.part", "target.unlabelled", "train.validate_part", "target.part"
"""The settings that name what is trained on, validated on and evaluated on."""


@dataclass(frozen=True)
class Both:
    """Clips that stand on two sides. seen: ids in the partition that `setting` names; kept: ids in the one that `own` names, of `total`."""

    setting: str
    own: str
    seen: tuple[str, ...]
    kept: tuple[str, ...]
    total: int

    @property
    def use(self) -> str:
        """What the held clips are for."""
        return "validation" if self.own == VALIDATION else "evaluation"

    def __str__(self) -> str:
        return (
            f"{len(self.kept)} of {self.total} {self.use} clips ({self.own}) are also used in training ({self.setting}), "
            f"e.g. {self.kept[0]!r}"
        )


def trained_on(recipe: Recipe) -> dict[str, Used]:
    """The partitions that a training reads, by the settings that name them; without excluded clips."""
    source, target = recipe.source, recipe.target
    made = {SOURCE: used(source, source.part)}
    if recipe.train.unlabelled and target.unlabelled is not None:
        made[UNLABELLED] = used(target, target.unlabelled)
    return made


def shared_clips(recipe: Recipe) -> list[Both]:
    """The clips that are trained on, or validated on, and held out all the same. A clip is its file and time span."""
    training, held = trained_on(recipe), {TARGET: used(recipe.target, recipe.target.part)}
    found = []
    if recipe.train.validate_every:
        validation = {VALIDATION: used(recipe.source, recipe.train.validate_part)}
        found = _both(training, validation)
        training |= validation
    return found + _both(training, held)


def _both(training: Mapping[str, Used], held: Mapping[str, Used]) -> list[Both]:
    found = []
    for (setting, seen), (own, kept) in product(training.items(), held.items()):
        shared = clip_overlap(seen.split, seen.part, kept.split, kept.part)
        if shared.second:
            found.append(Both(setting, own, shared.first, shared.second, len(kept.part.videos)))
    return found


def apart(recipe: Recipe) -> Recipe:
    """The recipe as it is trained: where `target.shared` is "drop", what is held out is excluded from training (and validation).

    UsageError where it is "refuse" and there are such clips; "keep" leaves them where they are. Both are said.
    """
    found, how = shared_clips(recipe), recipe.target.shared
    if not found:
        return recipe
    if how == "refuse":
        raise _refusal(found[0])
    for each in found:
        if how == "drop":
            say(f"{each}: training leaves them out (target.shared = drop)")
        else:
            warn_once(f"{each}: they stay there (target.shared = keep), so the number is not of unseen clips alone")
    return without(recipe, found) if how == "drop" else recipe


def without(recipe: Recipe, found: list[Both]) -> Recipe:
    """The recipe whose training and validation exclude the clips that are held out."""
    source, target = recipe.source, recipe.target
    own = [name for each in found if each.setting != UNLABELLED for name in each.seen]
    pool = [name for each in found if each.setting == UNLABELLED for name in each.seen]
    return replace(
        recipe,
        source=replace(source, exclude=tuple(dict.fromkeys((*source.exclude, *own)))),
        target=replace(target, exclude=tuple(dict.fromkeys((*target.exclude, *pool)))),
    )


def _refusal(each: Both) -> UsageError:
    return UsageError(
        f"{each}: the {each.use} would say nothing about unseen clips",
        hint=f"name another partition with --set {each.own}=NAME or --set {each.setting}=NAME (a list has them in its column partition, "
        "a folder as train/ and test/); leave them out of training with --set target.shared=drop, single clips with source.exclude or "
        "target.exclude; or keep them, as some published protocols do: --set target.shared=keep",
    )
