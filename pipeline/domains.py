"""The datasets of a recipe as it uses them: without the classes that it drops, and without the clips that it excludes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from fsar_cache.errors import UsageError, nearest
from pipeline.recipe import Domain
from splits.datasets import open_split
from splits.types import Part, Split


@dataclass(frozen=True)
class Used:
    """A partition with the clips that are used of it, and the split it is from."""

    split: Split
    part: Part

    def __str__(self) -> str:
        return f"{self.split.name}/{self.part.name}"


_LESS: dict[tuple[str, tuple[str, ...]], tuple[Split, Split]] = {}
"""(dataset, classes dropped) -> the split, and the same without the classes: a split's hash and labels are made once."""


def split_of(domain: Domain) -> Split:
    """The domain's split without its `drop_classes`, so that its hash tells; UsageError, with the nearest, for a class that it hasn't.

    While the dataset's split is the same object, so is the one without the classes.
    """
    split = open_split(domain.dataset)
    if not domain.drop_classes:
        return split
    key = domain.dataset, domain.drop_classes
    held = _LESS.get(key)
    if held is None or held[0] is not split:
        held = _LESS[key] = split, _less(split, domain)
    return held[1]


def _less(split: Split, domain: Domain) -> Split:
    classes = {name for part in split.parts.values() for name in part.classes}
    for name in domain.drop_classes:
        if name not in classes:
            close = nearest(name, classes)
            raise UsageError(
                f"{split.name} has no class {name!r} to drop (drop_classes)",
                hint=f"did you mean {close!r}?" if close else f"it has, for example, {min(classes)!r}",
            )
    return replace(split, parts={name: _without(part, domain.drop_classes) for name, part in split.parts.items()})


def _without(part: Part, classes: Collection[str]) -> Part:
    kept = frozenset(part.classes).difference(classes)
    return Part(
        part.name,
        tuple(name for name in part.classes if name in kept),
        tuple(video for video in part.videos if video.label in kept),
    )


def used(domain: Domain, part: str) -> Used:
    """The clips of a partition that the domain doesn't exclude."""
    split, out = split_of(domain), frozenset(domain.exclude)
    whole = split.part(part)
    kept = tuple(video for video in whole.videos if video.id not in out) if out else whole.videos
    return Used(split, replace(whole, videos=kept))
