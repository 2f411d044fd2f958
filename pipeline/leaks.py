"""What a number doesn't say by itself: classes, recordings and clips that were trained on and are evaluated on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from fsar_cache.console import warn_once
from fsar_cache.errors import FsarError
from pipeline.domains import Used, used
from pipeline.recipe import Domain, Recipe
from pipeline.unseen import SOURCE, UNLABELLED, shared_clips, trained_on, without
from splits.overlap import class_overlap, clip_overlap, source_overlap
from splits.words import listed

HOW = {SOURCE: "trained on with their labels", UNLABELLED: "trained on without labels"}
MEANS = {
    SOURCE: "they are no new classes",
    UNLABELLED: "the number is of classes whose unlabelled clips were seen (the design of some published protocols)",
}
NAMED = 3
"""Names in a warning."""


def leaks(trained: Recipe, target: Domain) -> tuple[str, ...]:
    """One line per leak from what `trained` was trained on to the part of `target` that is evaluated; () where there is none.

    trained: as it was trained, with all that its training left out among its excluded clips.
    """
    held, found = used(target, target.part), list[str]()
    parts = trained_on(trained)
    if UNLABELLED in parts and _same(parts[UNLABELLED], parts[SOURCE]):
        del parts[UNLABELLED]  # said of the source
    for setting, seen in parts.items():
        found += _between(setting, seen, held)
    return tuple(found)


def leaks_of_run(trained: Recipe, target: Domain) -> tuple[str, ...]:
    """`leaks` for the run whose config is `trained`; () where its datasets can't be opened any more."""
    with suppress(FsarError):
        if trained.target.shared == "drop":
            trained = without(trained, shared_clips(trained))
        return leaks(trained, target)
    return ()


def tell(found: Iterable[str]) -> None:
    """Warn of leaks, of each once per command."""
    for text in found:
        warn_once(f"leak: {text}")


def _same(a: Used, b: Used) -> bool:
    return a.split.hash == b.split.hash and a.part.ids == b.part.ids


def _between(setting: str, seen: Used, held: Used) -> list[str]:
    """The leaks from one partition that is trained on, the one that `setting` names."""
    total, how = len(held.part.videos), HOW[setting]
    clips = len(clip_overlap(seen.split, seen.part, held.split, held.part).second)
    if clips == total:
        words = "with their labels" if setting == SOURCE else "without labels"
        return [f"the clips of {held} were trained on, {words}: this accuracy is no test"]
    found = [f"{clips} of {total} clips of {held} are clips of {seen} too, {how}"] if clips else []
    classes = class_overlap(held.part, seen.part)
    if classes.same:
        names = list(dict.fromkeys(name for name, _ in classes.same))
        found.append(
            f"{len(names)} of {len(held.part.classes)} classes of {held} are classes of {seen} too, {how}: "
            f"{listed(names, NAMED)}; {MEANS[setting]}"
        )
    if near := classes.nearly + classes.joined:
        pairs = listed([f"{mine} ~ {theirs}" for mine, theirs in near], NAMED)
        found.append(f"{len(near)} classes of {held} have nearly the name of a class of {seen}, {how}: {pairs}")
    sources = source_overlap(held.part, seen.part, NAMED)
    if sources.shared:
        found.append(
            f"{sources.shared} of {sources.sources[0]} source videos of {held} ({sources.clips[0]} of {total} clips) are source videos "
            f"of {seen} too, {how}, e.g. {', '.join(sources.first)}"
        )
    return found
