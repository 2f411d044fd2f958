"""`fsar-cache split ls`, `split show` and `split check` in words: aligned lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.columns import columns
from pipeline.split_check import Checked
from pipeline.split_facts import PartFacts, SplitFacts
from pipeline.split_states import Listed, Size

SHOWN = 12
"""Lines of details in one thing to know."""
_PARTS = ("train", "val", "test")


def table_of(rows: Sequence[Listed]) -> list[str]:
    """One line per split: name, dataset, classes/videos of each partition, state."""
    others = any(name not in _PARTS for row in rows for name in row.parts)
    cells = [
        (row.name, row.dataset, *(row.parts.get(name, "") for name in _PARTS), _others(row), row.state) for row in rows
    ]
    table = [("split", "dataset", *_PARTS, "other", "state"), *(tuple(map(str, row)) for row in cells)]
    if not others:
        table = [(*row[:-2], row[-1]) for row in table]
    return columns(table[1:], table[0])


def _others(row: Listed) -> str:
    return " ".join(f"{name} {size}" for name, size in row.parts.items() if name not in _PARTS)


def shown(facts: SplitFacts, with_classes: bool) -> list[str]:
    """What is known of one split, topic by topic."""
    asked = f"{facts.asked} stands for " if facts.asked != facts.name else ""
    lines = [f"{asked}{facts.name}: {facts.title}", f"state: {facts.state}"]
    others = [name for name in facts.splits if name != facts.name]
    topics: list[tuple[str, Iterable[str]]] = [
        ("made", [facts.made]),
        ("whose", [facts.origin]),
        ("list", [facts.where]),
        ("also called", [", ".join(facts.also)]),
        ("inferred", [facts.guess]),
        ("to know", facts.differs),
        ("noted", [note for note in facts.notes if not (facts.guess and note.endswith(facts.guess))]),
        ("dataset", [facts.dataset if facts.dataset != facts.name else ""]),
        ("videos", [facts.videos]),
        ("licence", [facts.licence]),
        ("get it", facts.get),
        ("looked for in", [facts.root]),
        ("other splits of it", [", ".join(others)]),
    ]
    for topic, said in topics:
        lines += topic_lines(topic, [one for one in said if one])
    lines += ["", *parts_table(facts.parts)]
    return lines + (["", *classes_table(facts.parts)] if with_classes else [])


def topic_lines(topic: str, said: Sequence[str]) -> list[str]:
    """`topic: text`, with several texts one line each below the topic."""
    if len(said) < 2:
        return [f"{topic}: {one}" for one in said]
    return [f"{topic}:", *(f"  {one}" for one in said)]


def parts_table(parts: Sequence[PartFacts]) -> list[str]:
    """One line per partition: classes/videos as published and as found, videos on disk and missing; "" and - where not known."""
    rows = [(p.name, _size(p.published), _size(p.found), _count(p.on_disk), _count(p.missing)) for p in parts]
    return columns(rows, ("classes/videos", "published", "found", "on disk", "missing"))


def classes_table(parts: Sequence[PartFacts]) -> list[str]:
    """One line per class of each partition: clips published, found, missing."""
    rows = [
        (part.name, one.label, _count(one.published), _count(one.found), _count(one.missing))
        for part in parts
        for one in part.classes
    ]
    return columns(rows, ("partition", "class", "published", "found", "missing"))


def _size(size: Size | None) -> str:
    return "-" if size is None or (size.classes, size.videos) == (None, None) else str(size)


def _count(count: int | None) -> str | int:
    return "-" if count is None else count


def checked(made: Checked) -> list[str]:
    """The partitions, then one thing to know after the other, then "ok" or how many there are."""
    lines = [f"{made.name}, {made.made}" if made.made else made.name, *parts_table(made.parts), ""]
    for thing in made.things:
        lines += [thing.text, *(f"  {line}" for line in thing.lines[:SHOWN])]
        if len(thing.lines) > SHOWN:
            lines.append(f"  and {len(thing.lines) - SHOWN} more (--json has all)")
    count = len(made.things)
    return [*lines, "ok" if not count else "1 thing to know" if count == 1 else f"{count} things to know"]
