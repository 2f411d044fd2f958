"""`fsar-cache store verify --sample`: a store's rows made again from the dataset, and what came of it in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cache.features import FeatureStore
from cache.store import open_store
from fsar_cache.console import say, warn
from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError
from pipeline.display import display
from splits.datasets import open_split
from splits.types import Split

if TYPE_CHECKING:
    from extract.recheck import Recheck

SHOWN = 10
"""How many clips a message lists."""


def recheck_store(path: Path, sample: int, seed: int, dataset: str | None) -> tuple[Recheck | None, FsarError | None]:
    """Make the rows of `sample` slices of the store again and say what came of it; and the error where they are not as they should be.

    dataset: what opens the store's dataset, where its name alone doesn't.
    """
    from extract.recheck import recheck

    try:
        with open_store(path) as store, display(f"verify {path}", "slices") as show:
            split = None if store.spec.kind == "text" else _split(store, dataset)
            found = recheck(store, split, sample, seed, report=lambda done, of: show(done, of, ""))
    except FsarError as error:
        return None, error
    _tell(path, found)
    return found, _error(path, found)


def _split(store: FeatureStore, dataset: str | None) -> Split:
    """The store's dataset."""
    hint = f"name it: --dataset csv:PATH#{store.dataset} or folder:PATH#{store.dataset}"
    try:
        split = open_split(dataset or store.dataset)
    except UsageError as error:
        if dataset:
            raise
        raise MissingError(
            f"the dataset {store.dataset} of {store.path} is needed to make its rows again, and its name alone doesn't say where it is",
            hint=hint,
        ) from error
    if split.home != store.dataset:
        raise UsageError(
            f"{store.path} holds the dataset {store.dataset!r}, {dataset} is called {split.home!r}", hint=hint
        )
    return split


def _tell(path: Path, found: Recheck) -> None:
    bad = len(found.wrong)
    if found.exact:
        say(f"{path}: {found.exact} rows made again by the same machine type and packages, where bytes must be equal")
    if found.near:
        say(
            f"{path}: {found.near} rows made again, where they may be off a little ({'; '.join(found.elsewhere)}); "
            f"the farthest is off by {found.largest:.2g} {found.unit}"
        )
    if found.gone:
        shown = "".join(f"\n  {name}: {why}" for name, why in found.gone[:SHOWN])
        warn(f"{path}: {len(found.gone)} rows can't be made again:{shown}{_more(len(found.gone))}")
    if (found.exact or found.near) and not bad:
        say(f"{path}: all of them are what their clips give")


def _error(path: Path, found: Recheck) -> FsarError | None:
    if found.wrong:
        lines = []
        for each in found.wrong[:SHOWN]:
            name = each.id + (f" (view {each.view})" if each.view else "")
            lines.append(
                f"\n  {name}: can't be made any more: {each.why}"
                if each.off is None
                else f"\n  {name}: off by {each.off:.3g} {found.unit}, where {each.allowed:g} is allowed"
            )
        return IntegrityError(
            f"{path}: {len(found.wrong)} rows are not what their clips give:{''.join(lines)}{_more(len(found.wrong))}",
            hint=f"its checksums hold, so it was written so; remove it and extract again: rm -r {path}",
        )
    if found.exact + found.near:
        return None
    if found.gone:
        return MissingError(
            f"{path}: none of the {len(found.gone)} rows drawn could be made again",
            hint="bring the videos back (FSAR_VIDEOS=FOLDER, or --dataset), or try others: --seed 1",
        )
    return MissingError(
        f"{path} has no features that could be made again: all its clips failed, or none are written yet",
        hint="fsar-cache store info tells which; leave out --sample to check what is there",
    )


def _more(count: int) -> str:
    return f"\n  and {count - SHOWN} more" if count > SHOWN else ""
