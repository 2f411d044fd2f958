"""What the calls in a torch file give: storages' types, views of them, tables; and `Inert` objects for all else."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

DTYPES = {
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
"""Names of the storages whose bytes are read."""
_AXES = 64
"""More axes than any tensor has."""


class Inert:
    """What stands for a class, a function or an object of a file: its name, the items and the state it was given; never more.

    name: "module.name" as the file has it; arguments: what it was made with; items: what was set by key; state: what was set as attributes.
    """

    def __init__(self, name: str, arguments: Any = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.items: dict[Any, Any] = {}
        self.state: Any = None


def printable(name: str) -> str:
    """The name, or where characters in it would do something to a terminal or can't be written, those escaped."""
    return name if name.isprintable() else ascii(name)[1:-1]


def dtype_named(name: str) -> torch.dtype | None:
    """The type of the values in a storage of that class ("torch.FloatStorage"), None for a name that is none."""
    module, _, kind = name.rpartition(".")
    return DTYPES.get(kind) if module.startswith("torch") else None


def fill_table(table: dict[Any, Any], pairs: Sequence[Any]) -> None:
    """Set items given as key, value, key, value; those whose key is no plain one are dropped (hashing it could take for ever)."""
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if key is None or isinstance(key, str | bytes | int | float):
            table[key] = value


def _view(arguments: tuple[Any, ...]) -> Any:
    """A tensor over a part of a storage; UnpicklingError where it would reach outside."""
    storage, offset, size, stride = arguments[:4]
    numbers = [offset, *size, *stride]
    if (
        not isinstance(storage, Tensor)
        or not all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        or len(size) != len(stride)
        or len(size) > _AXES
    ):
        raise pickle.UnpicklingError("a tensor is described by what is no size")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
    if last >= len(storage):
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    return torch.as_strided(storage, list(size), list(stride), offset)


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(arguments[0], list | tuple):
        raise pickle.UnpicklingError("a size is no list")
    return tuple(arguments[0])


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """The table that an OrderedDict or a Counter is made with: of nothing, another table or pairs; a defaultdict's factory is dropped."""
    made: dict[Any, Any] = {}
    given = arguments[-1] if arguments else ()
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list | tuple) else ()
    for key, value in pairs:
        fill_table(made, [key, value])
    return made


def _subclass(arguments: tuple[Any, ...]) -> Any:
    """A tensor of another class, or one with attributes of its own: the plain tensor."""
    inner, _, described = arguments[:3]
    if not isinstance(inner, Inert) or inner.name not in (
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    ):
        return Inert("torch._tensor._rebuild_from_type_v2", arguments)
    return CALLS[inner.name](described)


CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    **dict.fromkeys(
        ("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict"), _dictionary
    ),
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.jit._pickle.restore_type_tag": _first,
    **dict.fromkeys((f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")), _first),
}
"""All that a call can do: what it is called in files -> what it gives for its arguments."""
