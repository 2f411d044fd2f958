"""Torch files read as data: what `torch.save` wrote, zip archives and the files before them; see `fsar_cache.inert`."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fsar_cache.inert import read_inert
from fsar_cache.inert_calls import Inert, dtype_named

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What files from before the archives begin with."""


def room_for(path: Path) -> int:
    """Bytes that the contents of the file may take: tensors may share or repeat values, but far more would be a trick to fill memory."""
    return 8 * path.stat().st_size + 2**26


def read_torch_file(path: Path) -> tuple[Any, set[str]]:
    """What the file holds, and the names of the classes and functions in it that were not made or called.

    Raises pickle.UnpicklingError where it asks for what no file of tensors needs, and whatever damaged bytes bring about.
    """
    if sys.byteorder != "little":
        raise pickle.UnpicklingError("torch files are read on little-endian machines only")
    if zipfile.is_zipfile(path):
        return _read_archive(path, room_for(path))
    with path.open("rb") as file:
        return _read_old(file)


def _read_archive(path: Path, room: int) -> tuple[Any, set[str]]:
    """A zip file: `data.pkl` describes the objects, `data/` holds the bytes of each storage; room: what they may unpack to, in bytes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise pickle.UnpicklingError("it holds two entries of one name")
        if (whole := sum(entry.file_size for entry in archive.infolist())) > room:
            raise pickle.UnpicklingError(f"it would unpack to {whole / 1e9:.1f} GB")
        found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise pickle.UnpicklingError("it is an archive without NAME/data.pkl, or with several")
        (described,) = found
        folder = described.removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")
        storages: dict[Any, Tensor] = {}

        def storage(pid: Any) -> Tensor:
            dtype, key, count = _described(pid)
            if key not in storages:
                data = bytearray(archive.read(f"{folder}data/{key}"))
                if count * dtype.itemsize > len(data):
                    raise pickle.UnpicklingError(f"the storage {key} is shorter than it says")
                storages[key] = (
                    torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
                )
            return storages[key].view(dtype)

        return read_inert(io.BytesIO(archive.read(described)), storage)


def _read_old(file: IO[bytes]) -> tuple[Any, set[str]]:
    """Before the archives: pickles one after the other (magic number, version, machine, objects, keys), then the storages in that order."""
    size = os.fstat(file.fileno()).st_size

    def plain() -> Any:
        return read_inert(file, lambda _: None)[0]

    if plain() != _MAGIC or plain() != _VERSION:
        raise pickle.UnpicklingError("it does not begin as a torch file does")
    if plain().get("little_endian") is not True:
        raise pickle.UnpicklingError("its numbers are big-endian")
    storages: dict[str, Tensor] = {}
    taken = 0

    def storage(pid: Any) -> Tensor:
        nonlocal taken
        dtype, key, count = _described(pid)
        if key not in storages:
            taken += count * dtype.itemsize
            if taken > size:
                raise pickle.UnpicklingError("its storages are longer than the file")
            storages[key] = torch.zeros(count, dtype=dtype)
        whole = storages[key]
        if len(pid) > 5 and pid[5] is not None:  # a part of it, in the oldest files
            _, start, length = pid[5]
            return whole[start : start + length]
        return whole

    made, strange = read_inert(file, storage)
    for key in plain():
        target = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(target):
            raise pickle.UnpicklingError(f"the storage {key} has {count} values, not {len(target)}")
        data = bytearray(file.read(count * target.dtype.itemsize))
        if count:
            target.copy_(torch.frombuffer(data, dtype=target.dtype, count=count))
    return made, strange


def _described(pid: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and number of values of the storage that a persistent id names; UnpicklingError where it names none."""
    if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] in ("storage", b"storage") and isinstance(pid[1], Inert):
        dtype, key, count = dtype_named(pid[1].name), pid[2], pid[4]
        if dtype is not None and isinstance(key, str | int) and type(count) is int and count >= 0:
            return dtype, str(key), count
    raise pickle.UnpicklingError("it asks for something that is no storage of plain numbers")
