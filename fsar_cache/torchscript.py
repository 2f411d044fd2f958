"""The tensors of a TorchScript archive, by the names they have as modules' attributes; its code is never loaded, let alone run.

Such an archive is a zip file: `data.pkl` describes the modules as objects whose classes are the archive's own code, `data/` holds the
tensors' bytes. The description is read by an unpickler that knows no class: every object becomes a table of its attributes.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


_VISITS = 300_000
"""Values that are looked at in one archive; a description may hold one object under exponentially many names."""


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Every tensor attribute of the archive's modules, under its dotted name, on the CPU.

    Raises pickle.UnpicklingError where the description asks for anything but modules and tensors, zipfile.BadZipFile for damaged bytes.
    """
    if sys.byteorder != "little":
        raise pickle.UnpicklingError("TorchScript archives are read on little-endian machines only")
    with zipfile.ZipFile(path) as archive:
        (described,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = described.removesuffix("data.pkl")
        unpickler = _Unpickler(archive, folder)
        root = unpickler.load()
    collector = _Collector(unpickler.kind)
    collector.collect(root, "")
    return collector.made


class _Collector:
    """Finds the tensors in objects of one class, by dotted names; UnpicklingError where there are too many names to look at."""

    def __init__(self, kind: type) -> None:
        self.made: dict[str, Tensor] = {}
        self._kind, self._visits = kind, 0

    def collect(self, value: Any, name: str) -> None:
        """Take in what lies at and below `value`."""
        self._visits += 1
        if self._visits > _VISITS:
            raise pickle.UnpicklingError(f"the description names more than {_VISITS} values")
        if isinstance(value, Tensor):
            self.made[name] = value
        elif isinstance(value, self._kind):
            for key, inner in vars(value).items():
                self.collect(inner, f"{name}.{key}" if name else key)


class _Unpickler(pickle.Unpickler):
    """Knows the archive's own classes as `kind`, storages by their bytes, and nothing else.

    All that a description can get hold of and set attributes of is made for it alone, so nothing of it outlives the reading.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}
        self.kind = type("Object", (), {"__doc__": "An object of the archive's own classes: a bag of attributes."})
        self._known = _callables()

    def find_class(self, module: str, name: str) -> Any:
        """The few names that may be called or made; UnpicklingError for any other."""
        if module.split(".")[0] == "__torch__":
            return self.kind
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is none of a TorchScript archive's own")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """The bytes of one storage as a flat tensor."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = (
                torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]


def _callables() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a description may call beside its classes, by the names it has there; made anew each time."""

    def first(value: Any, *_: Any) -> Any:
        return value

    def view(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
        return _view(storage, offset, size, stride)

    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): view,
        ("torch._utils", "_rebuild_parameter"): first,
        **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        ("torch.jit._pickle", "restore_type_tag"): first,
    }


def _view(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """A tensor over a part of a storage; UnpicklingError where it would reach outside."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else offset - 1
    if offset < 0 or min(stride, default=0) < 0 or last >= len(storage):
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    return torch.as_strided(storage, list(size), list(stride), offset)
