"""Merging stores of one dataset and fingerprint: the parts of a divided extraction become the store that one run would have made.

Parts share one row table and hold different blocks of it; those are taken over byte for byte. What other stores hold in other blocks
is put together anew from their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.features import FeatureStore
from cache.folder import HEADER
from cache.ledger import Entry
from cache.medium import Array
from cache.rows import Outcome, Row
from cache.store import create, open_store
from cache.verify import require_sound
from cache.writer import Writer
from fsar_cache.canonical import canonical
from fsar_cache.errors import IntegrityError, UsageError

Key = tuple[str, int]
"""Clip and view."""
Place = tuple[int, int]
"""A block of a source: number of the store, number of the block."""
_OK, _FAILED, _ABSENT = 2, 1, 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What a store (by its number) knows of a row, in which of its blocks, at which place; rank: the greater the better."""

    rank: int
    store: int
    block: int
    place: int


def merge(sources: Sequence[Path], target: Path, report: Callable[[int, int], None] | None = None) -> FeatureStore:
    """Bring the rows of `sources` into the store `target` (made, or grown where it is there) and return it; the sources stay as they are.

    A block that a source holds under the same number with the same rows is linked (copied to another disk) after its checksum was
    compared; other rows are written as new blocks. Where several stores have tried a row, features go before failures and the first
    store before the next. Labels and partitions are those of the first store that has the row. Blocks that no source completes stay
    missing, so a merge that was killed is simply repeated. report(done, of) is called after every block.

    Raises IntegrityError where fingerprints, datasets, the clips' files or the rules of their views differ, a block is damaged, or a clip
    has different features in two stores;
    UsageError where `target` is one of the sources, or has failures for which a source has features (written blocks don't change).
    """
    stores = _opened([Path(source) for source in sources], Path(target))
    _require_origins(stores)
    best, twice = _survey(stores)
    sound: set[Place] = set()
    _require_equal(stores, twice, sound)
    if (Path(target) / HEADER).exists():
        _require_no_better(stores, best)
    store = _planned(stores, Path(target), best)
    todo = [block for block in store.missing() if all(key in best for key in _keys(store, block))]
    with store.writer() as writer:
        for number, block in enumerate(todo, 1):
            if block not in store.done:
                _fill(writer, store, block, stores, best, sound)
            if report is not None:
                report(number, len(todo))
    return store


def left_out(sources: Sequence[Path], store: FeatureStore) -> list[str]:
    """Ids of clips that have features in a source and none in the merged store, because others of their block are unfinished."""
    there = {(store.rows[n].id, store.rows[n].view) for n in np.flatnonzero(store.ok).tolist()}
    found: dict[str, None] = {}
    for path in sources:
        with open_store(path) as source:
            rows = source.rows
            found |= {
                rows[n].id: None for n in np.flatnonzero(source.ok).tolist() if (rows[n].id, rows[n].view) not in there
            }
    return list(found)


def _opened(sources: list[Path], target: Path) -> list[FeatureStore]:
    """The stores to merge, the target first where it is there."""
    if not sources:
        raise UsageError("nothing to merge", hint="fsar-cache store merge PART PART ... MERGED")
    if target.resolve() in {source.resolve() for source in sources}:
        raise UsageError(f"{target} is to be merged into itself", hint="name another folder for the merged store")
    paths = {path.resolve(): path for path in sources}
    stores = [open_store(path) for path in paths.values()]
    if (target / HEADER).exists():
        stores.insert(0, open_store(target))
    first = stores[0]
    for other in stores[1:]:
        first.spec.require_same(other.spec, str(first.path), str(other.path))
        if other.dataset != first.dataset:
            raise IntegrityError(
                f"{first.path} holds the dataset {first.dataset!r}, {other.path} holds {other.dataset!r}",
                hint="merge stores of one dataset",
            )
    return stores


def _require_origins(stores: list[FeatureStore]) -> None:
    """Raise IntegrityError where a clip that has features in one store is cut from another file or span in another, or its view is drawn
    by another rule; failures have no say, their files may have been mended since.
    """
    made: dict[Key, tuple[str, FeatureStore]] = {}
    for store in stores:
        for row in (store.rows[n] for n in np.flatnonzero(store.ok).tolist()):
            if row.origin:
                made.setdefault((row.id, row.view), (row.origin, store))
    for other in stores:
        failed = {(row["id"], row["view"]) for row in other.failures()}
        rows = [row for row in other.rows if row.origin and (row.id, row.view) not in failed]
        for row in rows:
            origin, store = made.get((row.id, row.view), (row.origin, other))
            if origin != row.origin:
                try:
                    store.require_origins(rows)
                except IntegrityError as error:
                    raise IntegrityError(
                        f"{store.path} and {other.path} ('now') were made from different files or by different rules: {error.message}",
                        hint="merge what was made from the same files; leave one of these out, or extract it again",
                    ) from error


def _keys(store: FeatureStore, block: int) -> list[Key]:
    first, last = store.block_range(block)
    return [(row.id, row.view) for row in store.rows[first:last]]


def _outcomes(stores: list[FeatureStore]) -> Iterator[tuple[Key, _Found]]:
    """Every row of every written block."""
    for number, store in enumerate(stores):
        for block in sorted(store.done):
            entry = store.entry(block)
            assert entry is not None
            ranks = dict.fromkeys(entry.failed, _FAILED) | dict.fromkeys(entry.absent, _ABSENT)
            for place, key in enumerate(_keys(store, block)):
                yield key, _Found(ranks.get(place, _OK), number, block, place)


def _survey(
    stores: list[FeatureStore],
) -> tuple[dict[Key, _Found], dict[tuple[int, int, int, int], list[tuple[int, int]]]]:
    """The best outcome of every row that was tried; and (store, block, store, block) -> places of the rows that have features in both."""
    best: dict[Key, _Found] = {}
    twice: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
    for key, found in _outcomes(stores):
        known = best.get(key)
        if known is None or found.rank > known.rank:
            best[key] = found
        elif found.rank == _OK:
            pair = (known.store, known.block, found.store, found.block)
            twice.setdefault(pair, []).append((known.place, found.place))
    return best, twice


def _require_equal(
    stores: list[FeatureStore], twice: dict[tuple[int, int, int, int], list[tuple[int, int]]], sound: set[Place]
) -> None:
    """Raise IntegrityError naming clips whose features differ between two stores; blocks with one checksum are not read."""
    for (one, block, other, other_block), places in twice.items():
        a, b = stores[one].entry(block), stores[other].entry(other_block)
        assert a is not None
        assert b is not None
        if (a.sha256, a.rows) == (b.sha256, b.rows) and all(here == there for here, there in places):
            continue
        left, right = (_flat(stores[at[0]], at, sound) for at in ((one, block), (other, other_block)))
        here, there = (np.array(column) for column in zip(*places, strict=True))
        differs = (left[here] != right[there]).any(axis=1)
        if differs.any():
            keys = _keys(stores[one], block)
            named = [repr(keys[place][0]) for place in here[differs].tolist()]
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            raise IntegrityError(
                f"{stores[one].path} and {stores[other].path} have different features of {', '.join(named[:5])}{more}",
                hint="leave one of them out; stores made on machines of different types differ in the last bits",
            )


def _flat(store: FeatureStore, at: Place, sound: set[Place]) -> Array:
    """The rows of a sound block as bytes, uint8 [rows, bytes of a row]."""
    entry = _sound(store, at, sound)
    return np.ascontiguousarray(store.medium.array(entry)).reshape(entry.rows, -1).view(np.uint8)


def _require_no_better(stores: list[FeatureStore], best: dict[Key, _Found]) -> None:
    """Refuse to leave failures in the target (store 0) for which a source has features."""
    target = stores[0]
    tried = (key for block in sorted(target.done) for key in _keys(target, block))
    better = [key[0] for key in tried if best[key].store and best[key].rank == _OK]
    if better:
        raise UsageError(
            f"{target.path} has failures of {len(better)} clips that the sources have features of ({better[0]!r}, ...); "
            "its written blocks stay as they are",
            hint=f"merge into a new folder, with {target.path} among the sources",
        )


def _planned(stores: list[FeatureStore], target: Path, best: dict[Key, _Found]) -> FeatureStore:
    """The target with the rows of all stores planned; their extents are kept where that is possible."""
    first = stores[0]
    store = create(target, first.spec, [], dataset=first.dataset, backend=first.backend, block_rows=first.block_rows)

    def from_its_store(row: Row) -> Row:
        found = best.get((row.id, row.view))
        if found is None:
            return row
        source = stores[found.store]
        return replace(row, origin=source.rows[source.block_range(found.block)[0] + found.place].origin or row.origin)

    for source in stores:
        known = {(row.id, row.view) for row in store.rows}
        end = 0
        for count in source.extents:
            rows, end = source.rows[end : end + count], end + count
            new = [from_its_store(row) for row in rows if (row.id, row.view) not in known]
            whole = len(new) == count and source.block_rows == store.block_rows
            done = new if whole else [row for row in new if (row.id, row.view) in best]
            for step in (done, [] if whole else [row for row in new if (row.id, row.view) not in best]):
                if step:
                    store.plan(step)
    store.plan([from_its_store(row) for row in store.rows])
    return store


def _fill(
    writer: Writer,
    store: FeatureStore,
    block: int,
    stores: list[FeatureStore],
    best: dict[Key, _Found],
    sound: set[Place],
) -> None:
    """Write a block of the target: the block of a source where it is the same, else one put together from rows.

    sound: blocks that were compared with their checksums already.
    """
    founds = [best[key] for key in _keys(store, block)]
    origin = founds[0]
    source = stores[origin.store]
    same = source.backend == store.backend and source.block_rows == store.block_rows and origin.block == block
    if same and founds == [_Found(f.rank, origin.store, block, place) for place, f in enumerate(founds)]:
        entry = source.entry(block)
        if entry is not None and entry.rows == len(founds):
            writer.adopt(entry, source)
            return
    array = np.empty((len(founds), *store.spec.shape), store.dtype)
    outcomes = [Outcome("absent")] * len(founds)
    made_by = {}
    for at, places in _by_block(
        founds
    ).items():  # one at a time: an open block takes a descriptor, or is unpacked in memory
        entry = _sound(stores[at[0]], at, sound)
        array[places] = stores[at[0]].medium.array(entry)[[founds[place].place for place in places]]
        made_by[canonical(entry.provenance)] = dict(entry.provenance)
        for place in places:
            outcomes[place] = entry.outcome(founds[place].place)
    provenance = next(iter(made_by.values())) if len(made_by) == 1 else {"merged": list(made_by.values())}
    writer.write_block(block, array, outcomes, provenance)


def _by_block(founds: list[_Found]) -> dict[Place, list[int]]:
    """Source block -> places in the target block whose rows come from it."""
    made: dict[Place, list[int]] = {}
    for place, found in enumerate(founds):
        made.setdefault((found.store, found.block), []).append(place)
    return made


def _sound(store: FeatureStore, at: Place, sound: set[Place]) -> Entry:
    """What the ledger says of a block, once its bytes were compared with it; `sound` remembers the blocks that were."""
    entry = None if at not in sound else store.entry(at[1])
    if entry is None:
        entry = require_sound(store, at[1])
        sound.add(at)
    return entry
