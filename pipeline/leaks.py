"""What a number doesn't say by itself: classes, recordings and clips that were trained on and are evaluated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from fsar_cache.console import warn_once
from fsar_cache.draws import U64
from fsar_cache.errors import FsarError
from pipeline.domains import Used, used
from pipeline.recipe import Domain, Recipe
from pipeline.seen import Seen, digests_of, place_text, read_seen, seen_by
from pipeline.unseen import SOURCE, UNLABELLED, VALIDATION, shared_clips, without
from splits.overlap import class_overlap, located
from splits.types import Part
from splits.words import listed

HOW = {
    SOURCE: "trained on with their labels",
    UNLABELLED: "trained on without labels",
    VALIDATION: "by which checkpoints were chosen",
}
MEANS = {
    SOURCE: "they are no new classes",
    UNLABELLED: "the number is of classes whose unlabelled clips were seen (the design of some published protocols)",
    VALIDATION: "the checkpoint was chosen for them",
}
ALL = {
    SOURCE: "the clips of {held} were trained on, with their labels: this accuracy is no test",
    UNLABELLED: "the clips of {held} were trained on, without labels: this accuracy is no test",
    VALIDATION: "checkpoints were chosen by the clips of {held}: this accuracy is no test",
}
"""What is said where every clip that is evaluated is one of the partition that the setting names."""
NAMED = 3
"""Names in a warning."""


def leaks(seen: Sequence[Seen], target: Domain) -> tuple[str, ...]:
    """One line per leak from what a training saw to the part of `target` that is evaluated; () where there is none."""
    held = used(target, target.part)
    return tuple(line for each in seen for line in _between(each, held))


def leaks_of_run(folder: Path, trained: Recipe, target: Domain, *, chosen: bool) -> tuple[str, ...] | None:
    """`leaks` for the run in `folder`, whose config is `trained`; chosen: whether the checkpoint is one that validation chose.

    None, with a warning, where that can't be told: a run without its record of what it saw, whose data can't be opened any more.
    """
    try:
        seen = read_seen(folder)
        if seen is None:
            seen = seen_by(without(trained, shared_clips(trained)) if trained.target.shared == "drop" else trained)
        return leaks([each for each in seen if chosen or each.setting != VALIDATION], target)
    except FsarError as error:
        warn_once(f"leaks not checked: what {folder} was trained on can't be told: {error.message}")
        return None


def tell(found: Iterable[str]) -> None:
    """Warn of leaks, of each once per command."""
    for text in found:
        warn_once(f"leak: {text}")


def _between(seen: Seen, held: Used) -> list[str]:
    """The leaks from one partition that a training saw."""
    total, how = len(held.part.videos), HOW[seen.setting]
    clips = len(_shared_clips(seen, held))
    if clips == total:
        return [ALL[seen.setting].format(held=held)]
    found = [f"{clips} of {total} clips of {held} are clips of {seen.name} too, {how}"] if clips else []
    classes = class_overlap(held.part, Part(seen.name, seen.classes, ()))
    if classes.same:
        names = list(dict.fromkeys(name for name, _ in classes.same))
        found.append(
            f"{len(names)} of {len(held.part.classes)} classes of {held} are classes of {seen.name} too, {how}: "
            f"{listed(names, NAMED)}; {MEANS[seen.setting]}"
        )
    if near := classes.nearly + classes.joined:
        pairs = listed([f"{mine} ~ {theirs}" for mine, theirs in near], NAMED)
        found.append(f"{len(near)} classes of {held} have nearly the name of a class of {seen.name}, {how}: {pairs}")
    sources = Counter(video.source for video in held.part.videos if video.source)
    if shared := sorted(_among(list(sources), seen.sources)):
        cut = sum(sources[name] for name in shared)
        found.append(
            f"{len(shared)} of {len(sources)} source videos of {held} ({cut} of {total} clips) are source videos "
            f"of {seen.name} too, {how}, e.g. {', '.join(shared[:NAMED])}"
        )
    return found


def _shared_clips(seen: Seen, held: Used) -> set[str]:
    """Ids of the held clips that were seen: the same file and time span, or the same id of one dataset."""
    ids = _among(held.part.ids, seen.clips) if seen.home == held.split.home else []
    places = {place_text(place): clips for place, clips in located(held.split.root, held.part.videos).items()}
    return {*ids, *(clip for place in _among(list(places), seen.places) for clip in places[place])}


def _among(texts: Collection[str], known: U64) -> list[str]:
    """Those of the texts whose digest is one of `known`."""
    told = list(texts)
    return [text for text, there in zip(told, np.isin(digests_of(told), known), strict=True) if there]
