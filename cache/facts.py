"""What `store info` tells of a store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from cache.standing import Standing
from fsar_cache.canonical import canonical

if TYPE_CHECKING:
    from cache.features import FeatureStore

_SHOWN = 10
"""Damaged clips that are listed."""


def facts_of(store: FeatureStore, now: Standing) -> dict[str, Any]:
    """Facts of a store as it stands, as plain data for people and scripts."""
    rows = len(now.table)
    written, damaged = int(now.written.sum()), now.damaged()
    made = Counter(canonical(entry.provenance) for entry in list(now.entries.values()))
    return {
        "path": str(store.path),
        "dataset": store.dataset,
        "backend": store.backend,
        "fingerprint": store.spec.fingerprint,
        "spec": store.spec.plain(),
        "rows": rows,
        "ok": int(now.ok.sum()),
        "failed": int(now.failed.sum()),
        "absent": int(now.absent.sum()),
        "unfinished": rows - written,
        "damaged": len(damaged),
        "blocks": store.blocks,
        "blocks_done": len(now.entries),
        "block_rows": store.block_rows,
        "journalled_blocks": store.medium.journalled(),
        "damaged_ledger_lines": store.medium.ledger().damaged,
        "bytes": store.medium.size(),
        "made_by": [{"blocks": count, "provenance": text} for text, count in made.most_common()],
        "failures": now.failures(),
        "first_damaged": damaged[:_SHOWN],
    }
