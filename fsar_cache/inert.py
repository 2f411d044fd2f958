"""A pickle read as data: nothing that it names is imported, made or called.

Torch files, old and new, and TorchScript archives describe what they hold by pickles, which are programs for a small stack machine. This
is that machine with nothing to run: the opcodes are those that Python's `pickletools` decodes, a name of a class or function is only a
name, and calling it gives an `Inert` object that keeps what it was given and does nothing. What tensors need (a storage, a view of it, a
table) is done by functions that a file can neither reach nor change (`fsar_cache.inert_calls`).
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

from fsar_cache.inert_calls import CALLS, Inert, dtype_named, fill_table, printable


def read_inert(file: IO[bytes], storage: Callable[[Any], Any]) -> tuple[Any, set[str]]:
    """The next pickle of `file`, and the names of the classes and functions it wanted and did not get.

    Tables are dicts, lists lists, and so on; tensors are made of the storages (flat tensors) that `storage` gives for a persistent id;
    everything else is `Inert`. Raises pickle.UnpicklingError, or whatever bytes that are no pickle bring about.
    """
    machine = _Machine(storage)
    for opcode, argument, _ in pickletools.genops(file):
        machine.effort(1)
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
_EFFORT = 5_000_000
"""Steps of a pickle, and items that its calls copy; one that describes tensors needs some thousands."""
_BITS = 1024
"""Length of its longest number; the states of random generators have 128 bits."""
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack, the marks on it and the memo; one method per kind of opcode. An opcode without one is refused."""

    def __init__(self, storage: Callable[[Any], Any]) -> None:
        self.strange: set[str] = set()
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = _EFFORT

    def effort(self, count: int) -> None:
        """Count steps; UnpicklingError where they are too many, as a small file can ask for work without end."""
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError(f"it takes more than {_EFFORT} steps")

    def do(self, name: str, argument: Any) -> None:
        """One step."""
        if name in _VALUES:
            if isinstance(argument, int) and argument.bit_length() > _BITS:
                raise pickle.UnpicklingError(f"a number has {argument.bit_length()} bits")
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
        fill_table(made, self._since_mark())
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
        name = printable(name)
        if name not in CALLS and dtype_named(name) is None:
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
        call = CALLS.get(callee.name)
        if call is not None:
            self.effort(sum(len(given) for given in arguments if isinstance(given, dict | list | tuple)))
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
        fill_table(into if isinstance(into, dict) else into.items, pairs)

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
