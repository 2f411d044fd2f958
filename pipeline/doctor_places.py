"""The doctor's look at folders: where things are kept, and which of the six datasets are there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fsar_cache import places

Status = Literal["ok", "note", "warning", "broken"]
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, how it is, what was seen, and how to mend it ("" where all is well)."""

    name: str
    status: Status
    seen: str
    mend: str = ""


def check_places() -> Iterator[Finding]:
    """The four folders: where they are, whether they can be used, how much room there is. Videos that are there need only be readable."""
    for variable, folder in (
        ("FSAR_VIDEOS", places.videos()),
        ("FSAR_STORES", places.stores()),
        ("FSAR_RUNS", places.runs()),
        ("FSAR_LISTS", places.lists()),
    ):
        base = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(base).free / GB
        source = "set" if os.environ.get(variable) else "default"
        seen = f"{folder.absolute()} ({source}{'' if folder.exists() else ', not there yet'}), {free:.1f} GB free"
        only_read = variable == "FSAR_VIDEOS" and folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
        if not base.is_dir() or not (os.access(base, os.W_OK) or only_read):
            yield Finding(
                variable, "broken", f"{seen}; {base} can't be written", f"export {variable}=<a folder of yours>"
            )
        elif not os.access(base, os.W_OK):
            yield Finding(variable, "ok", f"{seen}; read only, which is enough for datasets")
        elif free < 1:
            yield Finding(
                variable, "warning", seen, f"free some space, or export {variable}=<a folder on another disk>"
            )
        else:
            yield Finding(variable, "ok", seen)


def check_datasets() -> Iterator[Finding]:
    """Which of the six datasets have a folder among the videos; what is in it is told by `split ls` and `split check`."""
    from splits.official.catalog import official, official_names
    from splits.official.disk import candidates

    for name in official_names():
        facts = official(name)
        there = candidates(facts, places.videos().absolute())
        if there:
            yield Finding(name, "ok", f"{facts.title} in {there[0]}: fsar-cache split ls")
        else:
            yield Finding(
                name, "note", f"{facts.title} is not there: fsar-cache split show {name} says what is expected"
            )
