"""From the labels of a list to classes in official spelling: by name, by the numbers of a known partition, by the dataset itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from fsar_cache import places
from fsar_cache.errors import MissingError, UsageError, nearest
from splits.official.catalog import official
from splits.official.disk import find
from splits.official.names import hmdb_before_tail, ucf_class
from splits.published.grammars import Bad, Listing, Row
from splits.published.known import KnownPart

_POSITIONS = {"B'": ("diving48", "rareact", "ssv2"), "D": ("diving48",), "E": ("diving48",)}
"""Grammar -> datasets whose lists in it number classes by their place in the official order."""
_OTHERWISE = {"HandStandPushups": "HandstandPushups"}


def spelled(label: str) -> str:
    """A class name with blanks for underscores; case counts."""
    return " ".join(label.replace("_", " ").split())


@cache
def _official(dataset: str) -> dict[str, str]:
    """Class name with blanks -> its official spelling."""
    made = {spelled(name): name for name in official(dataset).classes}
    return made | {other: name for other, name in _OTHERWISE.items() if name in made}


def by_name(label: str, dataset: str) -> str | None:
    """The official class that a list calls `label`, None for none."""
    return _official(dataset).get(spelled(label))


def is_number(label: str) -> bool:
    """Whether a label is a number."""
    return label.isascii() and label.isdigit()


def by_known(labels: Sequence[str], part: KnownPart, dataset: str) -> dict[str, str] | None:
    """Label -> class where the labels (one per clip) are those of a known partition: the same classes, as many clips of each; else None.

    Numbers are those of a scheme; a name that is no class stands for the one class that is missing and has as many clips.
    """
    counts = Counter(labels)
    expected = dict(zip(part.classes, part.videos, strict=True))
    if all(map(is_number, counts)):
        for numbers in part.numbers.values():
            of = dict(zip(numbers, part.classes, strict=True))
            if {int(label) for label in counts} == set(of):
                made = {label: of[int(label)] for label in counts}
                if _sums(counts, made) == expected:
                    return made
        return None
    named = {label: name for label in counts if (name := by_name(label, dataset)) is not None}
    absent = [name for name in part.classes if name not in named.values()]
    for label in sorted(counts.keys() - named.keys()):
        fits = [name for name in absent if expected[name] == counts[label]]
        if len(fits) != 1:
            return None
        named[label] = fits[0]
        absent.remove(fits[0])
    return named if _sums(counts, named) == expected else None


def _sums(counts: Counter[str], classes: dict[str, str]) -> dict[str, int]:
    """Class -> clips."""
    sums: Counter[str] = Counter()
    for label, count in counts.items():
        sums[classes[label]] += count
    return dict(sums)


def agrees(rows: Sequence[Row], classes: Mapping[str, str], dataset: str) -> bool:
    """Whether no number stands for another class than the path or the name of one of its clips says."""
    numbered = (row for row in rows if is_number(row.label))
    return all(_told(row, dataset) in (None, classes[row.label]) for row in numbered)


def by_dataset(listing: Listing, rows: Sequence[Row], ids: Sequence[str], dataset: str) -> tuple[dict[str, str], str]:
    """Label -> class for a list that isn't known, and how its numbers were read ("" for names).

    UsageError for a name that is no class, and for numbers whose classes neither the list nor the dataset's files tell.
    """
    labels = {row.label for row in rows}
    if not all(map(is_number, labels)):
        return _all_named(listing, rows, dataset), ""
    if dataset in _POSITIONS.get(listing.grammar, ()):
        classes = official(dataset).classes
        too_high = [row for row in rows if int(row.label) >= len(classes)]
        listing.refuse(
            [Bad(r.number, _shown(r), f"no class {r.label}, there are 0 to {len(classes) - 1}") for r in too_high]
        )
        made = {label: classes[int(label)] for label in labels}
        return made, f"numbers are places in the official order of {official(dataset).title}'s classes"
    told = [_told(row, dataset) for row in rows]
    if all(told):
        return _agreed(listing, rows, told), "classes are those that the paths or names of its clips say"
    class_of, source = _annotated(listing, dataset)
    found = [class_of(row, clip) for row, clip in zip(rows, ids, strict=True)]
    listing.refuse(
        [Bad(r.number, _shown(r), f"{source} doesn't have it") for r, c in zip(rows, found, strict=True) if not c]
    )
    return _agreed(listing, rows, found), f"classes of the numbers are those that {source} gives to their clips"


def _shown(row: Row) -> str:
    return row.path if row.path.startswith(row.label) else f"{row.label}/{row.path}"


def _all_named(listing: Listing, rows: Sequence[Row], dataset: str) -> dict[str, str]:
    """Label -> class by name."""
    title, known, bad, made = official(dataset).title, _official(dataset), [], {}
    for label in {row.label: None for row in rows}:
        name = by_name(label, dataset)
        if name is not None:
            made[label] = name
            continue
        close = nearest(spelled(label), known)
        why = f"no class of {title}" + (f", did you mean {known[close]!r}?" if close else "")
        bad += [Bad(row.number, _shown(row), why) for row in rows if row.label == label]
    listing.refuse(bad)
    return made


def _told(row: Row, dataset: str) -> str | None:
    """The class that the path or the name of a clip says, None where it says none."""
    folder = row.path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
    name = by_name(folder, dataset) if folder else None
    if name is None and dataset == "ucf101":
        name = by_name(ucf_class(row.entry) or "", dataset)
    if name is None and dataset == "hmdb51":
        before = hmdb_before_tail(row.entry) or ""
        fits = [one for one in official(dataset).classes if before.endswith(f"_{one}")]
        name = max(fits, key=len, default=None)
    return name


def _annotated(listing: Listing, dataset: str) -> tuple[Callable[[Row, str], str | None], str]:
    """What gives a clip's class in the dataset's own files, and their name; UsageError where they aren't there."""
    try:
        there = find(dataset, places.videos()).annotation()
    except MissingError as error:
        raise UsageError(
            f"{listing.path} numbers its classes, and it is no published list whose numbers are known; their names could be "
            f"read in the files of {official(dataset).title}, but: {error.message.splitlines()[0]}",
            hint="put the dataset's annotation there (FSAR_VIDEOS), or write the list with names: <class>/<clip>",
        ) from error

    def class_of(row: Row, clip: str) -> str | None:
        video = there.clips.get(clip)
        return video.label if video else None

    return class_of, there.source


def _agreed(listing: Listing, rows: Sequence[Row], found: Sequence[str | None]) -> dict[str, str]:
    """Label -> class where all clips of a label have one class; UsageError for a label of several."""
    several: dict[str, Counter[str]] = defaultdict(Counter)
    for row, name in zip(rows, found, strict=True):
        several[row.label][name or ""] += 1
    bad = []
    for label, names in several.items():
        if len(names) > 1:
            first = names.most_common(1)[0][0]
            bad += [
                Bad(row.number, _shown(row), f"label {label} is {first!r}, but this clip is {name!r}")
                for row, name in zip(rows, found, strict=True)
                if row.label == label and name != first
            ]
    listing.refuse(bad)
    return {label: next(iter(names)) for label, names in several.items()}
