"""Protocols by name: data that is trained on and tested on, and the episodes, whatever the head: settings between recipe and `--set`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fsar_cache.errors import UsageError, nearest
from fsar_cache.settings import build, read_toml
from pipeline.recipe import Domain, merged


@dataclass(frozen=True)
class Episode:
    """Classes of an episode, and clips of each. unlabelled: target clips per training episode, for heads that use any."""

    way: int
    shot: int
    query: int
    unlabelled: int = 0
    episodes: int = 0


@dataclass(frozen=True)
class Preset:
    """A published protocol. about: what; whose; where: what it is known from; differs: what to know before numbers are compared.

    train: training episodes; eval: evaluation episodes and their number. validation: the source's partition that checkpoints are chosen
    by, "" where it has none. differs_unlabelled: the same as `differs`, of what its unlabelled clips make of it.
    """

    name: str
    about: str
    whose: str
    where: str
    source: Domain
    target: Domain
    train: Episode
    eval: Episode
    validation: str = ""
    differs: tuple[str, ...] = ()
    differs_unlabelled: tuple[str, ...] = ()

    def settings(self, *, unlabelled: bool) -> list[str]:
        """The protocol as assignments of settings; unlabelled: whether the recipe's training uses unlabelled clips."""
        made = {f"source.{name}": value for name, value in _of(self.source).items() if name != "unlabelled"}
        made |= {f"target.{name}": value for name, value in _of(self.target).items()}
        made |= {f"train.{name}": getattr(self.train, name) for name in ("way", "shot", "query")}
        if unlabelled and self.train.unlabelled:
            made["train.unlabelled"] = self.train.unlabelled
        made |= {"train.validate_part": self.validation} if self.validation else {"train.validate_every": 0}
        made |= {f"eval.{name}": getattr(self.eval, name) for name in ("way", "shot", "query", "episodes")}
        return [f"{name}={json.dumps(value)}" for name, value in made.items()]


def _of(domain: Domain) -> dict[str, Any]:
    """All that a domain says, so that nothing of the recipe's own domain is left beside it."""
    return {each.name: getattr(domain, each.name) for each in fields(domain)}


@cache
def _tables() -> dict[str, dict[str, Any]]:
    """Name -> the protocol's table, with what its family shares."""
    found = {}
    for path in sorted(Path(str(files("pipeline.protocols"))).glob("*.toml")):
        family = read_toml(path)
        for name, own in family["protocols"].items():
            base = merged({"whose": family["whose"], "where": family["where"]}, family["shared"])
            both = {key: [*family.get(key, []), *own.get(key, [])] for key in ("differs", "differs_unlabelled")}
            found[name] = merged(base, {**own, "name": name, **both})
    return found


def protocol_names() -> list[str]:
    """The protocols that come with fsar-cache, family after family."""
    return list(_tables())


def protocol(name: str) -> Preset:
    """The protocol called so; UsageError with the nearest name for another."""
    tables = _tables()
    if name not in tables:
        close, every = nearest(name, tables), "fsar-cache list protocols shows them all"
        raise UsageError(f"unknown protocol {name!r}", hint=f"did you mean {close!r}? {every}" if close else every)
    return build(Preset, tables[name], name)
