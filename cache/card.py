"""The card of a packed file: what is inside, how it was made and what is missing, for a person who has nothing but the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cache.features import FeatureStore

_SHOWN = 50
"""Clips without features that a card lists."""


def card(stores: Sequence[FeatureStore]) -> str:
    """The text, Markdown, of a file that holds `stores`, all of one dataset."""
    dataset = stores[0].dataset
    several = f"{len(stores)} stores" if len(stores) > 1 else "one store"
    lines = [
        f"# {dataset}",
        "",
        f"Features of the dataset `{dataset}` in {several}, without the videos they come from."
        + (" Stores of the kind `frames` hold pictures of the clips." if any(_pictures(s) for s in stores) else ""),
        "",
        "Import with `fsar-cache store import FILE`, which compares every file with `SHA256SUMS`. Without that package: unzip,",
        "`sha256sum -c SHA256SUMS`, and open a folder with zarr or its `blocks/*.h5` with h5py; `rows.json` says which clip a row is,",
        "`ledger.jsonl` which blocks of rows there are and what became of every clip.",
        "",
    ]
    for store in stores:
        lines += _section(store)
    return "\n".join(lines)


def _pictures(store: FeatureStore) -> bool:
    return store.spec.kind == "frames"


def _section(store: FeatureStore) -> list[str]:
    facts, rows = store.info(), store.rows
    spec = store.spec
    counts = ", ".join(f"{facts[name]} {name}" for name in ("ok", "failed", "absent", "unfinished") if facts[name])
    parts = Counter(row.partition for row in rows)
    table = {
        "kind, cut": f"{spec.kind}, {spec.cut}",
        "one row": f"{' x '.join(map(str, spec.shape))} {spec.dtype}",
        "rows": f"{facts['rows']} ({counts})",
        "views": f"{len({row.view for row in rows})} of a clip at most",
        "classes": len({row.label for row in rows}),
        "partitions": ", ".join(f"{name} {count}" for name, count in parts.items()),
        "from damaged files": facts["damaged"],
        "format": f"{store.backend}, {facts['blocks_done']} of {facts['blocks']} blocks of {store.block_rows} rows",
        "fingerprint": spec.fingerprint,
    }
    if facts["damaged_ledger_lines"]:
        table["damaged lines of its ledger"] = (
            f"{len(facts['damaged_ledger_lines'])}; the blocks they told of are not in here"
        )
    lines = [f"## {store.path.resolve().name}", "", "| what | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in table.items()]
    lines += ["", "How the rows were made (this decides the fingerprint):", ""]
    for name in ("decoder", "sampling", "transform", "backbone"):
        lines += [f"- {name}: {_cell(_told(getattr(spec, name)))}"]
    if facts["made_by"]:
        lines += ["", "What made the blocks:", ""]
        lines += [f"- {made['blocks']} blocks: `{made['provenance']}`" for made in facts["made_by"]]
    failures = facts["failures"]
    if failures:
        lines += ["", "Clips without features:", ""]
        lines += [f"- {_cell(row['id'])}, view {row['view']}: {_cell(row['reason'])}" for row in failures[:_SHOWN]]
        lines += [f"- and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
    return [*lines, ""]


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(inner)}" for key, inner in value.items()) or "none"
    return str(value)


def _cell(value: Any) -> str:
    """On one line, without what would end a cell of a table."""
    return " ".join(str(value).replace("|", "/").split())
