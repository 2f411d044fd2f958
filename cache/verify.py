"""Are the bytes of a store what was written?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cache.medium import Finding

if TYPE_CHECKING:
    from cache.features import FeatureStore


def verify(
    store: FeatureStore, blocks: Sequence[int] | None = None, report: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Compare every byte of the written blocks (default: all of them) with the ledger's checksums; [] where all is well.

    Kinds: "missing" (no file), "torn" (wrong size, or a damaged ledger line), "flipped" (wrong checksum), "extra" (a file the
    ledger doesn't know). `drop_block` and extracting again mends the first three. report(done, of) is called after every block.
    """
    store.refresh()
    chosen = sorted(store.done if blocks is None else store.done & set(blocks))
    entries = [entry for entry in map(store.entry, chosen) if entry is not None]
    findings = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, finding in enumerate(pool.map(store.medium.check, entries), 1):
            if finding is not None:
                findings.append(finding)
            if report is not None:
                report(number, len(entries))
    if blocks is None:
        for line in store.medium.ledger().damaged:
            findings.append(
                Finding(None, "torn", f"line {line} of the ledger is damaged; its block counts as unfinished")
            )
        findings += store.medium.strays(store.done, store.blocks)
    return findings
