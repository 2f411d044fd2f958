"""Names to implementations: one registry per kind (head, backbone, decoder, store, dataset), filled by imports and by entry points."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from fsar_cache.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A lazily filled mapping from a name to an implementation.

    `modules` are imported at the first look-up (each registers its members with the decorator `add`); other
    packages join through the entry-point group `fsar_cache.<kind>`.
    """

    def __init__(self, kind: str, modules: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._modules = modules
        self._members: dict[str, T] = {}
        self._filled = self._filling = False
        self._lock = threading.RLock()

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that registers its argument under `name`; a name can be taken once."""

        def register(member: T) -> T:
            if name in self._members and _definition(self._members[name]) != _definition(member):
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._members[name] = member
            return member

        return register

    def _fill(self) -> None:
        """Import the modules once; an import that fails is tried again, and fails again, at the next look-up."""
        if self._filled:
            return
        with self._lock:
            if self._filled or self._filling:
                return
            self._filling = True
            try:
                for module in self._modules:
                    importlib.import_module(module)
                for point in entry_points(group=f"fsar_cache.{self.kind}"):
                    self._members.setdefault(point.name, point.load())
                self._filled = True
            finally:
                self._filling = False

    def get(self, name: str) -> T:
        """The member called `name`; UsageError with the nearest name where there is none."""
        self._fill()
        if name not in self._members:
            raise unknown(self.kind, name, self._members)
        return self._members[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._fill()
        return sorted(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


def _definition(member: object) -> object:
    """What tells one definition from another: module and name (a module that failed to import defines it again), else the object."""
    name = getattr(member, "__qualname__", "<nameless>")
    return member if "<" in name else (getattr(member, "__module__", None), name)
