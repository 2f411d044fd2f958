"""Are the bytes of a store what was written?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cache.ledger import Entry
from cache.medium import Finding, Medium
from fsar_cache.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from cache.features import FeatureStore


def verify(
    store: FeatureStore, blocks: Sequence[int] | None = None, report: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Compare every byte of the written blocks (default: all of them) with the ledger's checksums; [] where all is well.

    Kinds: "missing" (no file), "torn" (wrong size, or a damaged ledger line), "flipped" (wrong checksum), "extra" (a file the
    ledger doesn't know). The first three are damage, see `damage` and `mend`; the last is only a note. Beside a writer at work nothing
    is found that it is about to finish. report(done, of) is called after every block.
    """
    store.refresh()
    chosen = sorted(store.done if blocks is None else store.done & set(blocks))
    entries = [entry for entry in map(store.entry, chosen) if entry is not None]
    findings: list[Finding] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, finding in enumerate(pool.map(store.medium.check, entries), 1):
            findings += [finding] if finding else []
            if report is not None:
                report(number, len(entries))
    if findings:
        store.refresh()  # a writer may have dropped or replaced blocks since
        seen = {entry.block: entry for entry in entries}
        findings = [f for f in findings if f.block is not None and store.entry(f.block) == seen[f.block]]
    if blocks is None:
        findings += _ledger_damage(store.medium) + store.medium.strays()
    return findings


def _ledger_damage(medium: Medium) -> list[Finding]:
    busy, text = medium.busy(), medium.ledger()
    lines = text.damaged[:-1] if text.open_end and (busy or medium.busy()) else text.damaged
    return [
        Finding(None, "torn", f"line {line} of the ledger is damaged; its block counts as unfinished") for line in lines
    ]


def require_sound(store: FeatureStore, block: int) -> Entry:
    """The ledger's entry of a written block whose bytes are what it says; IntegrityError where they aren't."""
    entry = store.entry(block)
    if entry is None:
        raise UsageError(f"block {block} of {store.path} is not written")
    finding = store.medium.check(entry)
    if finding is not None:
        raise unsound(store.path, finding)
    return entry


def unsound(path: Path, finding: Finding) -> IntegrityError:
    """The error for a block of the store `path` that is not what its ledger says."""
    return IntegrityError(
        f"block {finding.block} of {path} is {finding.kind}: {finding.detail}",
        hint=f"fsar-cache store verify {path} --mend drops it; then repeat the extraction that made the store, "
        "and this command",
    )


def torn_ledgers(stores: Iterable[FeatureStore]) -> list[str]:
    """What there is to say, in words, of the stores whose ledgers have damaged lines: the blocks of those lines are taken by nobody."""
    torn = [(store.path, len(store.medium.ledger().damaged)) for store in stores]
    return [
        f"{lines} lines of the ledger of {path} are damaged, so their blocks count as unfinished and were left out; "
        f"restore ledger.jsonl from a copy, or: fsar-cache store verify {path} --mend"
        for path, lines in torn
        if lines
    ]


def damage(findings: Iterable[Finding]) -> list[Finding]:
    """Those findings that mean lost bytes: all but the notes on files that don't belong here."""
    return [finding for finding in findings if finding.kind != "extra"]


def mend(store: FeatureStore, findings: Iterable[Finding]) -> list[int]:
    """Drop the damaged blocks, so that the next extraction makes them again, and take damaged lines out of the ledger; what was dropped.

    Does nothing where there is no damage; UsageError where another writer is at work.
    """
    wrong = damage(findings)
    if not wrong:
        return []
    with store.writer() as writer:
        blocks = sorted({f.block for f in wrong if f.block is not None} & store.done)
        for block in blocks:
            writer.drop_block(block)
    return blocks
