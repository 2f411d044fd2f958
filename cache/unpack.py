"""Packed files become stores again: everything is checked aside, and a store appears only once all of it was found right."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.features import FeatureStore
from cache.folder import HEADER, FolderMedium
from cache.ledger import Entry
from cache.lock import exclusive
from cache.medium import Header
from cache.pack import CARD, FACTS, FORMAT, SUMS, plain_name
from cache.store import DTYPES, open_store
from cache.table import RowTable
from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError
from fsar_cache.files import PIECE, aside_of, require_space, sync_folder, whole_file

_SMALL = 64 << 20
"""No list of files is longer than this."""
_NONSENSE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError, MemoryError)
"""What readers raise at files that somebody made up."""
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class _Package:
    """What a packed file says of itself: dataset, store name -> fingerprint, file name -> SHA-256."""

    dataset: str
    stores: Mapping[str, str]
    sums: Mapping[str, str]


def unpack(file: Path, folder: Path, report: Callable[[int, int], None] | None = None) -> list[tuple[Path, bool]]:
    """Make the stores of the packed file `file` under `folder`, each at DATASET/NAME: (path, whether it is new) of each.

    A store appears whole or not at all, after every byte was compared with its checksum; one that is there with the same blocks is left
    as it is, so an import that was killed is simply repeated. report(done, of) counts bytes. Raises MissingError where there is no file,
    IntegrityError where it is no packed file of this format, was changed or cut, or holds what doesn't belong in a store, UsageError
    where something else is in the way of a store, SpaceError where the disk is too small.
    """
    try:
        packed = zipfile.ZipFile(file)
    except FileNotFoundError as error:
        raise MissingError(f"no file {file}") from error
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise IntegrityError(f"{file} is no packed store, or was cut short: {error}") from error
    with packed:
        package = _read_package(packed, file)
        places = {name: folder / package.dataset / name for name in package.stores}
        there = {name for name, place in places.items() if _is_there(place, name, package)}
        missing = [name for name in places if name not in there]
        total = sum(info.file_size for info in packed.infolist() if info.filename.partition("/")[0] in missing)
        require_space(folder, total, "the stores", "free some space, or import into a folder on another disk")
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            if report is not None:
                report(done, total)

        made = {name for name in missing if _make(packed, file, package, name, places[name], count)}
    return [(place, name in made) for name, place in places.items()]


def _read_package(packed: zipfile.ZipFile, file: Path) -> _Package:
    """Read and judge all that decides what will be written where."""
    infos = packed.infolist()
    names = [info.filename for info in infos]
    if FACTS not in names or SUMS not in names:
        raise IntegrityError(
            f"{file} is no packed store: it has no {FACTS} and {SUMS}", hint="fsar-cache store export makes one"
        )
    try:
        facts = json.loads(_text(packed, FACTS))
        form = facts["format"]
        if form != FORMAT:
            raise IntegrityError(
                f"{file} is a packed store of format {form!r}, this version reads {FORMAT}",
                hint="import it with the version of fsar-cache that wrote it, or a newer one",
            )
        found = [_SUM.fullmatch(line) for line in _text(packed, SUMS).splitlines()]
        sums = {match[2]: match[1] for match in found if match}
        package = _Package(
            str(facts["dataset"]), {str(s["name"]): str(s["fingerprint"]) for s in facts["stores"]}, sums
        )
    except (*_NONSENSE, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{file}: {FACTS} or {SUMS} is damaged: {error}") from error
    strange = next((info for info in infos if not _belongs(info, package)), None)
    if strange is not None:
        raise IntegrityError(
            f"{file} holds {strange.filename!r}, which is no file of a store", hint="it was not made by store export"
        )
    if sorted(names) != sorted([*sums, SUMS]) or len(found) != len(sums):
        odd = sorted(set(names) ^ {*sums, SUMS}) or ["a file named twice"]
        raise IntegrityError(f"{file}: its files are not those of {SUMS}: {odd[0]}")
    if not all(map(plain_name, (package.dataset, *package.stores))):
        raise IntegrityError(f"{file} names a dataset or store that can't be the name of a folder")
    if sum(info.file_size for info in infos) > file.stat().st_size:
        raise IntegrityError(f"{file} claims more bytes than it has")
    return package


def _text(packed: zipfile.ZipFile, name: str) -> str:
    info = packed.getinfo(name)
    if info.file_size > _SMALL or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is too large or compressed")
    return packed.read(info).decode()


def _belongs(info: zipfile.ZipInfo, package: _Package) -> bool:
    """Whether this may be a file of one of the package's stores: plain, stored, and named NAME/FILE or NAME/FOLDER/FILE."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or kind not in (0, stat.S_IFREG):
        return False
    top, *below = info.filename.split("/")
    if not below:
        return top in (CARD, FACTS, SUMS)
    return top in package.stores and len(below) <= 2 and all(map(plain_name, below))


def _is_there(place: Path, name: str, package: _Package) -> bool:
    """Whether this very store is there; UsageError where anything else is."""
    if not place.exists():
        return False
    if (place / HEADER).exists():
        with open_store(place) as store:
            if store.spec.fingerprint == package.stores[name] and _blocks(store) == _packed_blocks(
                store, name, package
            ):
                return True
    raise UsageError(
        f"{place} is there already, and it is not the store of this file",
        hint="import into another folder, and then fsar-cache store merge what belongs together",
    )


def _blocks(store: FeatureStore) -> dict[str, str]:
    """File name -> SHA-256 of every written block, as the ledger says."""
    medium = store.medium
    assert isinstance(medium, FolderMedium)
    return {f"{medium.folder_name}/{medium.file_of(b).name}": e.sha256 for b, e in medium.ledger().entries.items()}


def _packed_blocks(store: FeatureStore, name: str, package: _Package) -> dict[str, str]:
    """File name -> SHA-256 of all that the package has of the store beside its small files."""
    inside = {path.removeprefix(f"{name}/"): sha for path, sha in package.sums.items() if path.startswith(f"{name}/")}
    return {path: sha for path, sha in inside.items() if path not in _small(store)}


def _small(store: FeatureStore) -> set[str]:
    medium = store.medium
    assert isinstance(medium, FolderMedium)
    return {HEADER, "rows.json", "ledger.jsonl", *medium.describe(medium.load_table())}


def _make(
    packed: zipfile.ZipFile, file: Path, package: _Package, name: str, place: Path, count: Callable[[int], None]
) -> bool:
    """One store, made in a folder aside and renamed; False where another import has made it meanwhile."""
    aside = aside_of(place)
    if aside.exists():  # of a killed process of the same number
        with exclusive(aside / "lock", "import into"):
            shutil.rmtree(aside)
    aside.mkdir(parents=True)
    try:
        with exclusive(aside / "lock"):
            for path in package.sums:
                if path.startswith(f"{name}/"):
                    _copy_out(packed, file, path, package.sums[path], aside / path.removeprefix(f"{name}/"), count)
            _require_store(aside, file, name, package)
            try:
                os.replace(aside, place)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and _is_there(place, name, package):
                    return False
                raise
            sync_folder(place.parent)
            return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy_out(
    packed: zipfile.ZipFile, file: Path, name: str, sha: str, target: Path, count: Callable[[int], None]
) -> None:
    checksum = hashlib.sha256()
    with whole_file(target) as out:
        try:
            with packed.open(name) as inside:
                while piece := inside.read(PIECE):
                    out.write(piece)
                    checksum.update(piece)
                    count(len(piece))
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise IntegrityError(f"{file} is damaged at {name}: {error}", hint="get the file again") from error
        if checksum.hexdigest() != sha:
            raise IntegrityError(f"{file} is damaged: {name} is not what {SUMS} says", hint="get the file again")


def _require_store(path: Path, file: Path, name: str, package: _Package) -> None:
    """Raise IntegrityError unless the unpacked folder is one sound store and nothing else; its checksums were compared already."""

    def wrong(why: Any) -> IntegrityError:
        return IntegrityError(
            f"{file}: {name} is no sound store: {why}", hint="get the file again from whoever made it"
        )

    try:
        with open_store(path) as store:
            medium = store.medium
            if not isinstance(medium, FolderMedium) or store.spec.dtype not in DTYPES:
                raise wrong(f"{store.backend} {store.spec.dtype}")
            if (store.spec.fingerprint, store.dataset) != (package.stores[name], package.dataset):
                raise wrong(f"it holds {store.dataset} {store.spec.fingerprint}")
            if medium.ledger().damaged or _blocks(store) != _packed_blocks(store, name, package):
                raise wrong("its ledger and its blocks differ")
            (path / medium.folder_name).mkdir(exist_ok=True)
            _require_table(medium.load_table(), medium.header)
            for block in sorted(store.done):
                entry = store.entry(block)
                assert entry is not None
                _require_entry(entry, medium)
    except FsarError as error:
        raise (
            error if isinstance(error, IntegrityError) and str(file) in error.message else wrong(error.message)
        ) from error
    except _NONSENSE as error:
        raise wrong(error) from error


def _require_table(table: RowTable, header: Header) -> None:
    """ValueError unless the columns of the row table are of one length and of the right kinds."""
    columns = (table.ids, table.labels, table.partitions, table.origins)
    texts = all(isinstance(value, str) for column in columns for value in column)
    numbers = all(type(n) is int for n in (table.block_rows, header.block_rows, *table.extents, *table.views))
    lengths = {len(table.views), sum(table.extents), *map(len, columns)}
    keys = set(zip(table.ids, table.views, strict=True))
    if not texts or not numbers or len(lengths) > 1 or len(keys) < len(table) or table.block_rows != header.block_rows:
        raise ValueError("its row table makes no sense")


def _require_entry(entry: Entry, medium: FolderMedium) -> None:
    """ValueError unless the rows that a line of the ledger tells of lie inside their file."""
    unpacked = medium.held_blocks is not None  # not mapped at an offset
    inside = entry.offset >= 0 and (unpacked or entry.offset + entry.rows * medium.header.spec.row_bytes <= entry.bytes)
    told = {len(entry.outcomes[name]) for name in ("decoded", "claimed", "corrupt", "duration")}
    places = [place for place in (*entry.failed, *entry.absent) if not 0 <= place < entry.rows]
    if not inside or told != {entry.rows} or places or len(medium.array(entry)) != entry.rows:
        raise ValueError(f"the ledger's line of block {entry.block} makes no sense")
