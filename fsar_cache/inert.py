"""A pickle read as data: nothing that it names is imported, made or called.

Torch files, old and new, and TorchScript archives describe what they hold by pickles, which are programs for a small stack machine. This
is that machine with nothing to run: the opcodes are those that Python's `pickletools` decodes, a name of a class or function is only a
name, and calling it gives an `Inert` object that keeps what it was given and does nothing. What tensors need (a storage, a view of it, a
table) is done here, by functions that a file can neither reach nor change.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

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
_EXPANDED = 1 << 24
"""Values that a tensor may have beyond those of its storage (a tensor may repeat them); far more would be a trick to fill memory."""


class Inert:
    """What stands for a class, a function or an object of a file: its name, the items and the state it was given; never more.

    name: "module.name" as the file has it; arguments: what it was made with; items: what was set by key; state: what was set as attributes.
    """

    def __init__(self, name: str, arguments: Any = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.items: dict[Any, Any] = {}
        self.state: Any = None


def dtype_named(name: str) -> torch.dtype | None:
    """The type of the values in a storage of that class ("torch.FloatStorage"), None for a name that is none."""
    module, _, kind = name.rpartition(".")
    return DTYPES.get(kind) if module.startswith("torch") else None


def read_inert(file: IO[bytes], storage: Callable[[Any], Any]) -> tuple[Any, set[str]]:
    """The next pickle of `file`, and the names of the classes and functions it wanted and did not get.

    Tables are dicts, lists lists, and so on; tensors are made of the storages (flat tensors) that `storage` gives for a persistent id;
    everything else is `Inert`. Raises pickle.UnpicklingError, or whatever bytes that are no pickle bring about.
    """
    machine = _Machine(storage)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.pop(), machine.strange
        machine.do(opcode.name, argument)
    raise pickle.UnpicklingError("it ends too early")


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Opcodes whose argument is the value."""
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Inert("builtins.set"),
}
_IGNORED = ("PROTO", "FRAME")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack, the marks on it and the memo; one method per kind of opcode. An opcode without one is refused."""

    def __init__(self, storage: Callable[[Any], Any]) -> None:
        self.strange: set[str] = set()
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """One step."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self._top(_TUPLES[name])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _IGNORED:
            raise pickle.UnpicklingError(f"opcode {name} is none that a file of tensors needs")

    def pop(self) -> Any:
        """The last value; UnpicklingError where there is none."""
        return self._top(1)[0]

    def _top(self, count: int) -> list[Any]:
        """Take the last `count` values, down to the last mark at most."""
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - count < floor:
            raise pickle.UnpicklingError("it takes from an empty stack")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        """Take what came since the last mark, and the mark."""
        if not self._marks:
            raise pickle.UnpicklingError("it looks for a mark that was not set")
        taken = self._top(len(self._stack) - self._marks[-1])
        self._marks.pop()
        return taken

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def drop(self, _: Any) -> None:
        self.pop()

    def drop_marked(self, _: Any) -> None:
        self._since_mark()

    def twice(self, _: Any) -> None:
        self._stack += [self._stack[-1]]

    def sequence(self, kind: Callable[[list[Any]], Any]) -> None:
        self._stack.append(kind(self._since_mark()))

    def table(self, _: Any) -> None:
        made: dict[Any, Any] = {}
        _fill(made, self._since_mark())
        self._stack.append(made)

    def keep(self, at: Any) -> None:
        self._memo[len(self._memo) if at is None else at] = self._stack[-1]

    def recall(self, at: Any) -> None:
        self._stack.append(self._memo[at])

    def named(self, argument: Any) -> None:
        """A class or function: only its name."""
        module, _, name = argument.partition(" ")
        self._stack.append(self._inert(f"{module}.{name}"))

    def named_by_stack(self, _: Any) -> None:
        module, name = self._top(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise pickle.UnpicklingError("a name is no text")
        self._stack.append(self._inert(f"{module}.{name}"))

    def extension(self, code: Any) -> None:
        self._stack.append(self._inert(f"copyreg extension {int(code)}"))

    def _inert(self, name: str) -> Inert:
        if name not in _CALLS and dtype_named(name) is None:
            self.strange.add(name)
        return Inert(name)

    def call(self, _: Any) -> None:
        """REDUCE and NEWOBJ: a callable and a tuple."""
        callee, arguments = self._top(2)
        self._made(callee, arguments)

    def call_with_names(self, _: Any) -> None:
        callee, arguments, _names = self._top(3)
        self._made(callee, arguments)

    def call_marked(self, _: Any) -> None:
        callee, *arguments = self._since_mark()
        self._made(callee, tuple(arguments))

    def call_named(self, argument: Any) -> None:
        arguments = tuple(self._since_mark())
        self.named(argument)
        self._made(self.pop(), arguments)

    def _made(self, callee: Any, arguments: Any) -> None:
        """Append what a call gives: one of the few things that tensors need, else an inert object of that name."""
        if not isinstance(callee, Inert) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no name")
        call = _CALLS.get(callee.name)
        self._stack.append(call(arguments) if call is not None else Inert(callee.name, arguments))

    def build(self, _: Any) -> None:
        """An object's attributes: kept by inert objects; a table's (nn.Module's versions) are dropped."""
        (state,) = self._top(1)
        into = self._stack[-1]
        if isinstance(into, Inert):
            into.state = state
        elif not isinstance(into, dict):
            raise pickle.UnpicklingError(f"it sets attributes of a {type(into).__name__}")

    def append(self, _: Any) -> None:
        self._extend(self._top(1))

    def extend(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        into = self._stack[-1]
        if isinstance(into, list):
            into += values
        elif not isinstance(into, Inert):
            raise pickle.UnpicklingError(f"it appends to a {type(into).__name__}")

    def set_item(self, _: Any) -> None:
        self._set(self._top(2))

    def set_items(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, pairs: list[Any]) -> None:
        into = self._stack[-1]
        if not isinstance(into, dict | Inert):
            raise pickle.UnpicklingError(f"it sets items of a {type(into).__name__}")
        _fill(into if isinstance(into, dict) else into.items, pairs)

    def stored(self, _: Any) -> None:
        self._stack.append(self._storage(self.pop()))

    def stored_by_text(self, argument: Any) -> None:
        self._stack.append(self._storage(argument))


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_marked,
    "DUP": _Machine.twice,
    "TUPLE": lambda machine, _: machine.sequence(tuple),
    "LIST": lambda machine, _: machine.sequence(list),
    "FROZENSET": lambda machine, _: machine.sequence(lambda _: Inert("builtins.frozenset")),
    "DICT": _Machine.table,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.keep),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_by_stack,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "NEWOBJ_EX": _Machine.call_with_names,
    "OBJ": _Machine.call_marked,
    "INST": _Machine.call_named,
    "BUILD": _Machine.build,
    "APPEND": _Machine.append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.extend),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPERSID": _Machine.stored,
    "PERSID": _Machine.stored_by_text,
}


def _fill(table: dict[Any, Any], pairs: Sequence[Any]) -> None:
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
        or not all(type(n) is int and n >= 0 for n in numbers)
        or len(size) != len(stride)
    ):
        raise pickle.UnpicklingError("a tensor is described by what is no size")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
    if last >= len(storage) or count > len(storage) + _EXPANDED:
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    return torch.as_strided(storage, list(size), list(stride), offset)


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """The table that an OrderedDict or a Counter is made with: of nothing, another table or pairs; a defaultdict's factory is dropped."""
    made: dict[Any, Any] = {}
    given = arguments[-1] if arguments else ()
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list | tuple) else ()
    for key, value in pairs:
        _fill(made, [key, value])
    return made


def _subclass(arguments: tuple[Any, ...]) -> Any:
    """A tensor of another class, or one with attributes of its own: the plain tensor."""
    inner, _, described = arguments[:3]
    if not isinstance(inner, Inert) or inner.name not in (
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    ):
        return Inert("torch._tensor._rebuild_from_type_v2", arguments)
    return _CALLS[inner.name](described)


_CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    **dict.fromkeys(
        ("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict"), _dictionary
    ),
    "torch.Size": lambda arguments: tuple(arguments[0]),
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
