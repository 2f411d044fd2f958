"""Features that were made elsewhere, as arrays in files, brought into a store with what is known of their making."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.arrays import Arrays, open_arrays
from cache.features import FeatureStore
from cache.medium import Array
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import DTYPES, create
from fsar_cache.errors import FailedVideosError, IntegrityError, MissingError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Imported:
    """What came of an import: the store, how many clips of the dataset have features, ids of those without, ids that are no clips of it.

    waiting: those of the failed that have an array now and were not taken, because another clip of their block, which has features, has
    no array now: blocks are written whole, from the arrays.
    """

    path: Path
    ok: int
    failed: list[str]
    strange: list[str]
    waiting: list[str]


def import_features(
    source: Path,
    rows: Sequence[Row],
    place: Callable[[FeatureSpec], Path],
    *,
    dataset: str,
    name: str,
    about: str = "",
    backend: str = "zarr",
    max_failures: float = 0.02,
    report: Callable[[int, int], None] | None = None,
) -> Imported:
    """Bring one array per clip (see `cache.arrays`) into the store at `place(spec)`, made or gone on with; returns what came of it.

    rows: the clips of `dataset`. name, about: what made the features, for the spec; all else about their making counts as unknown. Shape
    and dtype are those of the arrays. Clips without an array become failed rows, and are filled in when the import is repeated with all
    arrays, old and new. report(done, of) is called after every block.

    Raises, before anything is written: MissingError where `source` is not there or has no clip of the dataset, FailedVideosError where
    more than `max_failures` of the clips have no array, IntegrityError where arrays differ in shape or dtype; later: IntegrityError
    where an array is damaged or not finite, or not what the store has of its clip.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the name {name!r} can't be part of a folder's", hint="letters, digits, and . _ - between them"
        )
    with open_arrays(source) as arrays:
        wanted = {row.id for row in rows}
        known = [row.id for row in rows if row.id in arrays.ids]
        strange = sorted(arrays.ids - wanted)
        _require_enough(source, dataset, rows, known, strange, max_failures)
        shape, dtype = _common(arrays, known)
        unknown = {"contract": "unknown"}
        made = {"name": name, "weights": "unknown", "about": about}
        spec = FeatureSpec("features", unknown, unknown, unknown, made, "imported", shape, dtype)
        with create(place(spec), spec, rows, dataset=dataset, backend=backend) as store:
            _require_same(store, arrays, source)
            _write(store, arrays, wanted, source, report)
            failed = [row["id"] for row in store.failures() if row["id"] in wanted]
            waiting = [name for name in failed if name in arrays.ids]
            return Imported(store.path, len(rows) - len(failed), failed, strange, waiting)


def _require_enough(
    source: Path, dataset: str, rows: Sequence[Row], known: list[str], strange: list[str], max_failures: float
) -> None:
    if not known:
        example = f"; it has {strange[0]!r}" if strange else ""
        raise MissingError(
            f"{source} has features of no clip of {dataset}, whose first is {rows[0].id!r}{example}",
            hint="name the arrays by the ids of the clips: ID.npy in subfolders as the id has slashes, or HDF5 datasets of these names",
        )
    there = set(known)
    missing = [row.id for row in rows if row.id not in there]
    if len(missing) > max_failures * len(rows):
        more = ", ..." if len(missing) > 3 else ""
        raise FailedVideosError(
            f"{source} has no features of {len(missing)} of {len(rows)} clips of {dataset} ({max_failures:.1%} may lack them): "
            f"{', '.join(missing[:3])}{more}",
            hint="nothing was written; all arrays must be there, also those imported before; to go on without these: "
            f"--max-failures {len(missing) / len(rows) + 0.005:.2f}",
        )


def _common(arrays: Arrays, ids: list[str]) -> tuple[tuple[int, ...], str]:
    """The shape and the name of the dtype that the arrays of all clips have."""
    first = arrays.facts(ids[0])
    for name in ids[1:]:
        facts = arrays.facts(name)
        if facts != first:
            told = ["x".join(map(str, shape)) + f" {dtype}" for shape, dtype in (first, facts)]
            raise IntegrityError(
                f"{ids[0]!r} is {told[0]}, {name!r} is {told[1]}: the arrays of all clips must be alike"
            )
    shape, dtype = first
    if dtype not in DTYPES or not shape or 0 in shape:
        raise UsageError(
            f"the array of {ids[0]!r} has shape {shape} and dtype {dtype}", hint=f"dtypes: {', '.join(DTYPES)}"
        )
    return first


def _read(arrays: Arrays, name: str, store: FeatureStore) -> Array:
    array = arrays.read(name)
    if array.shape != store.spec.shape or array.dtype.newbyteorder("<") != store.dtype:
        raise IntegrityError(f"the array of {name!r} changed while it was read")
    made = array.astype(store.dtype)
    if made.dtype.kind == "f" and not np.isfinite(made).all():
        raise IntegrityError(
            f"the array of {name!r} holds NaN or infinity",
            hint="mend it, or take it away so that the clip counts as failed",
        )
    return made


def _require_same(store: FeatureStore, arrays: Arrays, source: Path) -> None:
    """Compare what is stored with the arrays, and drop the blocks with failed clips that have an array now."""
    ok, again = store.ok, []
    for block in sorted(store.done):
        first, last = store.block_range(block)
        there = [n for n in range(first, last) if ok[n] and store.rows[n].id in arrays.ids]
        stored = store.read(there)
        for number, row in zip(there, stored, strict=True):
            name = store.rows[number].id
            if _read(arrays, name, store).tobytes() != row.tobytes():
                raise IntegrityError(
                    f"{store.path} has other features of {name!r} than {source}",
                    hint="give these features a --name or an --about of their own",
                )
        whole = len(there) == int(ok[first:last].sum())
        if whole and any(not ok[n] and store.rows[n].id in arrays.ids for n in range(first, last)):
            again.append(block)
    for block in again:
        store.drop_block(block)


def _write(
    store: FeatureStore, arrays: Arrays, wanted: set[str], source: Path, report: Callable[[int, int], None] | None
) -> None:
    provenance: dict[str, Any] = {"imported": source.name}
    with store.writer() as writer:
        todo = store.missing()
        for number, block in enumerate(todo, 1):
            first, last = store.block_range(block)
            array = np.zeros((last - first, *store.spec.shape), store.dtype)
            outcomes = []
            for place, row in enumerate(store.rows[first:last]):
                if row.id in arrays.ids:
                    array[place] = _read(arrays, row.id, store)
                    outcomes.append(Outcome("ok"))
                elif row.id in wanted:
                    outcomes.append(Outcome("failed", f"no features in {source.name}"))
                else:
                    outcomes.append(Outcome("absent", "not in the dataset"))
            writer.write_block(block, array, outcomes, provenance)
            if report is not None:
                report(number, len(todo))
