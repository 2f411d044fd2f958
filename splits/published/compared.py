"""A split as it was made against what is known of it as published: class by class, and by the digest of its ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from splits.official.catalog import official
from splits.published.known import Known
from splits.published.recognise import content
from splits.types import Part


@dataclass(frozen=True)
class Difference:
    """A class of a partition that has not as many clips as published."""

    part: str
    label: str
    clips: int
    published: int


def differences(facts: Known, parts: Mapping[str, Part]) -> list[Difference]:
    """Where the clips of these partitions are not as many as published, class by class."""
    made: list[Difference] = []
    for name, part in parts.items():
        published = facts.parts.get(name)
        if published is None or not published.videos:
            continue
        there: dict[str, int] = dict.fromkeys(published.classes, 0)
        for video in part.videos:
            there[video.label] = there.get(video.label, 0) + 1
        for label, count in zip(published.classes, published.videos, strict=True):
            if there[label] != count:
                made.append(Difference(name, label, there[label], count))
    return made


def is_published(facts: Known, part: Part) -> bool:
    """Whether a partition has exactly the published clips, as far as the digest of their ids is known."""
    published = facts.parts.get(part.name)
    if published is None or not published.content:
        return False
    return content(facts.dataset, part.ids) == published.content


def compared(facts: Known, parts: Mapping[str, Part], sure: Collection[str] = ()) -> tuple[str, ...]:
    """What a user should know: missing partitions, other counts, other clips; that the rule is inferred, unless it gives the very clips.

    sure: partitions known to be the published ones, since their list is.
    """
    notes = tuple(f"partition {part} is missing" for part in facts.parts if part not in parts)
    off = differences(facts, parts)
    if off:
        fewer, more = sum(max(0, d.published - d.clips) for d in off), sum(max(0, d.clips - d.published) for d in off)
        counts = " and ".join(f"{count} {word}" for count, word in ((fewer, "fewer"), (more, "more")) if count)
        notes += (
            f"{counts} clips than published, in {len({d.label for d in off})} classes (fsar-cache split check {facts.name})",
        )
    exact = [name for name, part in parts.items() if name in sure or is_published(facts, part)]
    uneven = {each.part for each in off}
    for name in parts:
        if name not in exact and name not in uneven and facts.parts[name].content:
            notes += (f"{name} has as many clips of each class as published, but not the same ones",)
        if not facts.parts[name].classes:  # all that the dataset has
            wanted = len(official(facts.dataset).classes) - len(facts.drop)
            if len(parts[name].classes) < wanted:
                notes += (f"{name} has {len(parts[name].classes)} of {wanted} classes",)
    if facts.guess and len(exact) < len(facts.parts):
        notes += (f"how it is made is inferred (fsar-cache split show {facts.name})",)
    return notes
