"""A copy of a store in another backend, without a changed byte of its features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cache.features import FeatureStore
from cache.store import create, open_store
from cache.verify import require_sound
from fsar_cache.errors import UsageError


def convert(
    source: FeatureStore | Path, target: Path, backend: str, report: Callable[[int, int], None] | None = None
) -> FeatureStore:
    """Copy every finished block of `source` into the store `target` (made, or continued where an earlier copy stopped).

    Rows, blocks, outcomes, provenance and the bytes of the features are those of the source; unfinished blocks stay unfinished.
    Each block is compared with its checksum before it is copied: IntegrityError where it is damaged. report(done, of) is
    called after every block.
    """
    store = source if isinstance(source, FeatureStore) else open_store(source)
    if store.medium.durable and Path(target).resolve() == store.path.resolve():
        raise UsageError(f"source and copy are the same folder {target}", hint="name another folder for the copy")
    extents, rows = store.extents, store.rows
    start = rows[: sum(extents[:1])]
    copy = create(target, store.spec, start, dataset=store.dataset, backend=backend, block_rows=store.block_rows)
    end = 0
    for count in extents:
        end += count
        copy.plan(rows[:end])
    if copy.extents != extents:
        raise UsageError(f"{target} has the same features in other blocks", hint="choose another folder for the copy")
    todo = sorted(store.done - copy.done)
    with copy.writer() as writer:
        for number, block in enumerate(todo, 1):
            entry = require_sound(store, block)
            outcomes = [entry.outcome(place) for place in range(entry.rows)]
            writer.write_block(block, store.medium.array(entry), outcomes, entry.provenance)
            if report is not None:
                report(number, len(todo))
    return copy
