"""The published splits as facts: what `splits/published/NAME.toml` says of each. Names of classes and counts, never a list of videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from fsar_cache.errors import unknown
from fsar_cache.settings import build, read_toml

Rule = Literal["list", "classes", "official", "otam"]
"""How a split can be made without its list, from what the dataset's owners distribute.

list: not at all, it must be imported. classes: all clips of the classes of each partition. official: the owners' own partitions. otam:
training classes from the owners' training part (with `also_validation` from their validation part too), the others from that alone.
"""


@dataclass(frozen=True)
class KnownPart:
    """One partition. classes: in official spelling, empty for all of the dataset; videos: clips of each, in that order; total: of all.

    content: digest of the partition's sorted ids (see `splits.published.recognise`), "" where it isn't known. numbers: a scheme of label
    numbers -> the number of each class in it, in the order of `classes`.
    """

    classes: tuple[str, ...] = ()
    videos: tuple[int, ...] = ()
    total: int = 0
    content: str = ""
    numbers: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownFile:
    """One published file of the split: its bytes' SHA-256, the partition it lists, entries it has, whose copy it is."""

    sha256: str
    part: str
    entries: int
    copy: str


@dataclass(frozen=True)
class Known:
    """One published split.

    also: other names for it. origin: whose it is (repository, commit, files); where: an address where the list is to be had. annotation:
    the one of the dataset's annotations that the rule reads, None for the usual one; left_out: ids, and drop: classes, that the rule
    leaves out. base: another split, whose clips that show their class are
    this one (RareAct). differs: what to know before comparing
    numbers. guess: what of it is inferred, "" if nothing.
    """

    name: str
    dataset: str
    title: str
    rule: Rule
    origin: str
    where: str
    parts: dict[str, KnownPart]
    also: tuple[str, ...] = ()
    base: str | None = None
    drop: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    annotation: str | None = None
    also_validation: bool = False
    differs: tuple[str, ...] = ()
    guess: str = ""
    files: tuple[KnownFile, ...] = ()


def _folder() -> Path:
    return Path(str(files("splits.published")))


@cache
def known_names() -> tuple[str, ...]:
    """The published splits there are, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


@cache
def known(name: str) -> Known:
    """The facts of one split, by its name or another it goes by; UsageError with the nearest name for one that isn't known."""
    name = other_names().get(name, name)
    if name not in known_names():
        raise unknown("published split", name, [*known_names(), *other_names()])
    return _read(name)


@cache
def _read(name: str) -> Known:
    values: dict[str, Any] = read_toml(_folder() / f"{name}.toml")
    return build(Known, {"name": name, **values}, name)


@cache
def other_names() -> dict[str, str]:
    """What published splits go by beside their own names: other name -> name."""
    return {other: name for name in known_names() for other in _read(name).also}
