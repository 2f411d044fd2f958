"""The six datasets as facts: what `splits/official/NAME.toml` says of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fsar_cache.errors import unknown
from fsar_cache.settings import build, read_toml


@dataclass(frozen=True)
class Official:
    """One dataset as its owners distribute it.

    folders: names of its folder under the folder of videos, without regard to case. annotations: what an annotation is for -> names that
    its file (or folder) is known by; it lies in the dataset's folder, some folders down, or beside it. classes: in official order, the
    position is the label number. videos: how many there are, in words. spans: whether a clip is a time span of a longer file. flips:
    whether a mirrored clip keeps its class. default: the splits that the bare name stands for, the first that can be made. layout: what
    is expected where; get: how to get it, step by step.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    annotations: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]
    videos: str
    flips: bool
    spans: bool
    default: tuple[str, ...]
    licence: str
    layout: tuple[str, ...]
    get: tuple[str, ...]


def _folder() -> Path:
    return Path(str(files("splits.official")))


@cache
def official_names() -> tuple[str, ...]:
    """The datasets there are, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


@cache
def official(name: str) -> Official:
    """The facts of one dataset; UsageError with the nearest name for another."""
    if name not in official_names():
        raise unknown("dataset", name, official_names())
    values: dict[str, Any] = read_toml(_folder() / f"{name}.toml")
    return build(Official, {"name": name, **values}, name)
