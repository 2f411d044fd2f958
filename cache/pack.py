"""Stores as one file to share: an uncompressed zip with a card, every file's checksum, and nothing that isn't needed to read them."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from cache.card import card
from cache.features import FeatureStore
from cache.folder import HEADER, FolderMedium
from cache.ledger import Entry, line_of
from cache.maps import mend_hint, open_block
from cache.store import open_store, stores_under
from fsar_cache.errors import IntegrityError, UsageError
from fsar_cache.files import PIECE, whole_file

FORMAT = 1
CARD, FACTS, SUMS = "README.md", "package.json", "SHA256SUMS"
"""What lies beside the stores in a packed file."""
_WHEN = (1980, 1, 1, 0, 0, 0)
"""The date of all files inside, so that one store always makes one file."""


def export(source: Path, file: Path, report: Callable[[int, int], None] | None = None) -> list[Path]:
    """Pack the store `source`, or all stores of one dataset in that folder, into the new file `file`; returns the stores' folders.

    Written aside and renamed when it is whole. Blocks are compared with their checksums on the way; unfinished ones are left out and
    the card says so. report(done, of) counts bytes. Raises MissingError where no store is, UsageError where `file` exists or the stores
    are of several datasets, IntegrityError where a block is damaged.
    """
    if file.exists():
        raise UsageError(f"{file} exists", hint="choose another name, or remove it")
    stores = [open_store(path) for path in stores_under(source) or [source]]
    _require_one_dataset(stores)
    parts = [(store, *_parts(store)) for store in stores]
    total = sum(entry.bytes for _, _, entries in parts for entry in entries)
    done = 0
    with whole_file(file) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        sums = [_add(packed, CARD, [card(stores).encode()]), _add(packed, FACTS, [_facts(stores)])]
        for store, texts, entries in parts:
            name = store.path.resolve().name
            sums += [_add(packed, f"{name}/{inside}", [text]) for inside, text in texts.items()]
            for entry in entries:
                sums.append(_add_block(packed, name, store, entry))
                done += entry.bytes
                if report is not None:
                    report(done, total)
        _add(packed, SUMS, ["".join(sums).encode()])
    return [store.path for store in stores]


def plain_name(name: str) -> bool:
    """Whether this is a name of one file or folder, not hidden, that every file system takes."""
    return bool(name) and name[0] not in ". " and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def _require_one_dataset(stores: Sequence[FeatureStore]) -> None:
    datasets = sorted({store.dataset for store in stores})
    if len(datasets) > 1:
        raise UsageError(
            f"one file holds the stores of one dataset, not of {', '.join(datasets)}",
            hint=f"export them one by one, for example {stores[0].path.parent}",
        )
    names = [store.path.resolve().name for store in stores]
    for name in (datasets[0], *names):
        if not plain_name(name):
            raise UsageError(f"{name!r} can't be a name in a packed file", hint="rename that folder")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"several of these stores are called {twice[0]!r}", hint="export them one by one")


def _facts(stores: Sequence[FeatureStore]) -> bytes:
    named = [{"name": s.path.resolve().name, "fingerprint": s.spec.fingerprint} for s in stores]
    return (json.dumps({"format": FORMAT, "dataset": stores[0].dataset, "stores": named}, indent=1) + "\n").encode()


def _parts(store: FeatureStore) -> tuple[dict[str, bytes], list[Entry]]:
    """The small files of a store as they will be in the file, and its written blocks; the ledger is read before the row table."""
    medium = store.medium
    assert isinstance(medium, FolderMedium)
    entries = [entry for _, entry in sorted(medium.ledger().entries.items())]
    table = medium.load_table()
    texts = {
        HEADER: (store.path / HEADER).read_bytes(),
        "rows.json": table.to_bytes(),
        "ledger.jsonl": b"".join(map(line_of, entries)),
        **medium.describe(table),
    }
    return texts, entries


def _add_block(packed: zipfile.ZipFile, name: str, store: FeatureStore, entry: Entry) -> str:
    medium = store.medium
    assert isinstance(medium, FolderMedium)
    file = medium.file_of(entry.block)
    with os.fdopen(open_block(file, entry), "rb") as opened:
        pieces: Iterator[bytes] = iter(lambda: opened.read(PIECE), b"")
        line = _add(packed, f"{name}/{medium.folder_name}/{file.name}", pieces, entry.bytes)
    if not line.startswith(entry.sha256):
        raise IntegrityError(f"block {entry.block} is flipped: {file} is not what was written", hint=mend_hint(file))
    return line


def _add(packed: zipfile.ZipFile, name: str, pieces: Iterable[bytes], size: int = 0) -> str:
    """Write one file into the zip; returns its line of SHA256SUMS."""
    facts = zipfile.ZipInfo(name, _WHEN)
    facts.external_attr = 0o644 << 16
    facts.file_size = size
    checksum = hashlib.sha256()
    with packed.open(facts, "w") as inside:
        for piece in pieces:
            inside.write(piece)
            checksum.update(piece)
    return f"{checksum.hexdigest()}  {name}\n"
