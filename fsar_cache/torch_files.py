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


def read_torch_file(path: Path) -> tuple[Any, set[str]]:
    """What the file holds, and the names of the classes and functions in it that were not made or called.

    Raises pickle.UnpicklingError where it asks for what no file of tensors needs, and whatever damaged bytes bring about.
    """
    if sys.byteorder != "little":
        raise pickle.UnpicklingError("torch files are read on little-endian machines only")
    if zipfile.is_zipfile(path):
        return _read_archive(path)
    with path.open("rb") as file:
        return _read_old(file)


def _read_archive(path: Path) -> tuple[Any, set[str]]:
    """A zip file: `data.pkl` describes the objects, `data/` holds the bytes of each storage."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (described,) = (name for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
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

    def storage(pid: Any) -> Tensor:
        dtype, key, count = _described(pid)
        if count * dtype.itemsize > size:
            raise pickle.UnpicklingError(f"the storage {key} is longer than the file")
        whole = storages.setdefault(key, torch.zeros(count, dtype=dtype))
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
