"""A store in a folder: header, row table, ledger, lock, journals, and one file per block in a backend's format."""

# ruff: noqa: D102 - what the methods promise stands in cache.medium

from __future__ import annotations

import abc
import hashlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from cache.journal import FileJournal
from cache.ledger import Entry, LedgerText, append_drop, append_entry, read_ledger, repair_ledger
from cache.lock import exclusive, held
from cache.maps import map_block, read_block
from cache.medium import Array, Finding, Header, Medium
from cache.spec import FeatureSpec
from cache.table import RowTable
from cache.verify import unsound
from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.files import PARTIAL, PIECE, aside_of, is_aside, read_json, sync_folder, whole_file, write_json

HEADER = "store.json"
"""Written last when a store is made: a folder without it is no store."""
_FORMAT = 1


def write_header(path: Path, header: Header) -> None:
    """Finish the making of a store."""
    write_json(
        path / HEADER,
        {
            "format": _FORMAT,
            "backend": header.backend,
            "dataset": header.dataset,
            "block_rows": header.block_rows,
            "fingerprint": header.spec.fingerprint,
            "spec": header.spec.plain(),
        },
    )


def read_header(path: Path) -> Header:
    """The header of the store in `path`; MissingError where there is none or it is half made, IntegrityError where it is damaged."""
    if not (path / HEADER).exists():
        if (path / "rows.json").exists():
            raise MissingError(f"{path} is a half-made store", hint="repeat the extraction that was making it")
        raise MissingError(f"no store at {path}", hint="fsar-cache store ls shows the stores there are")
    value = read_json(path / HEADER)
    try:
        if value["format"] != _FORMAT:
            raise IntegrityError(f"{path} has store format {value['format']!r}, this version reads {_FORMAT}")
        header = Header(FeatureSpec.from_plain(value["spec"]), value["dataset"], value["backend"], value["block_rows"])
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{path / HEADER} lacks a field or has one too many: {error}") from error
    if header.spec.fingerprint != value["fingerprint"]:
        raise IntegrityError(
            f"{path / HEADER}: the spec has fingerprint {header.spec.fingerprint}, the file says {value['fingerprint']}",
            hint="the header was edited or damaged; restore it, or extract again",
        )
    return header


class FolderMedium(Medium):
    """What the file backends share; a subclass says how a block's file is named and filled."""

    durable = True
    folder_name: str
    """Of the subfolder that holds the blocks."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header

    @abc.abstractmethod
    def file_name(self, block: int) -> str:
        """Name of a block's file."""

    @abc.abstractmethod
    def contents(self, block: int, array: Array) -> tuple[list[memoryview], int]:
        """The bytes of a block's file, in pieces, and the offset of its first row."""

    @abc.abstractmethod
    def describe(self, table: RowTable) -> dict[str, bytes]:
        """Files (relative name -> content) that other readers need to make sense of the blocks."""

    def file_of(self, block: int) -> Path:
        """The file of a block."""
        return self.path / self.folder_name / self.file_name(block)

    def _journal_file(self, block: int) -> Path:
        return self.path / "journal" / f"{block:06d}.journal"

    @property
    def _ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    def lock(self) -> AbstractContextManager[None]:
        return exclusive(self.path / "lock")

    def busy(self) -> bool:
        return held(self.path / "lock")

    def save_table(self, table: RowTable) -> None:
        (self.path / self.folder_name).mkdir(exist_ok=True)
        for name, content in {**self.describe(table), "rows.json": table.to_bytes()}.items():
            with whole_file(self.path / name) as file:
                file.write(content)

    def load_table(self) -> RowTable:
        place = self.path / "rows.json"
        try:
            return RowTable.from_bytes(place.read_bytes(), place)
        except FileNotFoundError as error:
            raise IntegrityError(f"the row table {place} is missing") from error

    def ledger(self) -> LedgerText:
        return read_ledger(self._ledger)

    def tidy(self) -> None:
        repair_ledger(self._ledger)
        for file in self._partial():
            file.unlink(missing_ok=True)
        there = self.ledger().entries
        for block in self.journalled():
            if block in there:
                self._journal_file(block).unlink(missing_ok=True)

    def _partial(self) -> list[Path]:
        """Files that were being written when their writer was killed."""
        places = (self.path, self.path / self.folder_name)
        return [file for place in places for file in sorted(place.glob(f".*{PARTIAL}")) if is_aside(file.name)]

    def remains(self) -> list[tuple[Path, str]]:
        """Files that no reader and no further extraction needs, and why; only to be trusted while nobody writes.

        Where lines of the ledger are damaged, files without a line stay: the lines may come back from a copy.
        """
        text = self.ledger()
        found = [(file, "unfinished") for file in self._partial()]
        found += [(self._journal_file(b), f"block {b} is written") for b in self.journalled() if b in text.entries]
        if not text.damaged:
            files = [(self.file_of(b), b) for b in range(len(self.load_table().sizes)) if b not in text.entries]
            found += [(file, f"block {b} was dropped or not finished") for file, b in files if file.exists()]
        return found

    def put(self, block: int, array: Array, outcomes: Mapping[str, Any], provenance: Mapping[str, Any]) -> Entry:
        pieces, offset = self.contents(block, array)
        checksum = hashlib.sha256()
        with whole_file(self.file_of(block)) as file:
            for piece in pieces:
                file.write(piece)
                checksum.update(piece)
        size = sum(len(piece) for piece in pieces)
        entry = Entry(block, len(array), size, offset, checksum.hexdigest(), outcomes, provenance)
        append_entry(self._ledger, entry)
        self._journal_file(block).unlink(missing_ok=True)
        return entry

    def adopt(self, entry: Entry, source: Medium) -> None:
        assert isinstance(source, FolderMedium)
        here = self.file_of(entry.block)
        with suppress(FileNotFoundError):  # `check` says what is missing
            _link_or_copy(source.file_of(entry.block), here)
        finding = self.check(entry)
        if finding is not None:
            here.unlink(missing_ok=True)
            raise unsound(source.path, source.check(entry) or finding)
        append_entry(self._ledger, entry)
        self._journal_file(entry.block).unlink(missing_ok=True)

    def drop(self, block: int) -> None:
        append_drop(self._ledger, block)
        self.file_of(block).unlink(missing_ok=True)

    def array(self, entry: Entry) -> Array:
        return map_block(self.file_of(entry.block), entry, self.header.spec.shape, self.header.dtype)

    def load(self, entry: Entry, out: Array) -> None:
        read_block(self.file_of(entry.block), entry, out)

    def journal(self, block: int, rows: int) -> FileJournal:
        return FileJournal(self._journal_file(block), rows, self.header.spec.shape, self.header.dtype)

    def journalled(self) -> list[int]:
        return sorted(int(file.stem) for file in (self.path / "journal").glob("*.journal"))

    def check(self, entry: Entry) -> Finding | None:
        file = self.file_of(entry.block)
        try:
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                if size != entry.bytes:
                    return Finding(entry.block, "torn", f"{file} has {size} bytes, {entry.bytes} were written")
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            return Finding(entry.block, "missing", f"no file {file}")
        if found != entry.sha256:
            return Finding(entry.block, "flipped", f"{file} has checksum {found[:16]}, {entry.sha256[:16]} was written")
        return None

    def strays(self) -> list[Finding]:
        files = sorted((self.path / self.folder_name).glob("*"))  # none where the folder was removed
        busy, known, table = (
            self.busy(),
            self.ledger().entries,
            self.load_table(),
        )  # in this order: what is listed is known by now
        names = {self.file_name(block): block for block in range(len(table.sizes))}
        described = {Path(name).name for name in self.describe(table)}
        found = []
        for file in files:
            block = names.get(file.name)
            if block is None and file.name not in described and not is_aside(file.name):
                found.append(Finding(None, "extra", f"{file} is no file of this store"))
            elif block is not None and block not in known and not busy:
                text = f"{file}: the block is unfinished, the next extraction replaces the file"
                found.append(Finding(block, "extra", text))
        return found

    def size(self) -> int:
        return sum(_size(Path(folder, name)) for folder, _, names in os.walk(self.path) for name in names)


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where that can't be; block files never change, so they may be shared."""
    aside = aside_of(target)
    try:
        os.link(source, aside)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a file of somebody else, a file system without links
        _copy(source, target)
        return
    try:
        os.replace(aside, target)
        sync_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as given, whole_file(target) as file:
        while piece := given.read(PIECE):
            file.write(piece)


def _size(file: Path) -> int:
    """Bytes of a file; 0 where a writer has removed it since it was listed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
