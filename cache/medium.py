"""Where the bytes of a store are: the interface that every backend implements, and the registry of backends.

A medium knows bytes, blocks and durability; rows, outcomes and checks of the user's input are `cache.store`'s matter.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cache.journal import Journal
from cache.ledger import Entry, LedgerText
from cache.spec import FeatureSpec
from cache.table import RowTable
from fsar_cache.errors import UsageError
from fsar_cache.registry import Registry

Array = NDArray[Any]


@dataclass(frozen=True)
class Header:
    """What never changes in a store: its spec, dataset, backend and rows per block."""

    spec: FeatureSpec
    dataset: str
    backend: str
    block_rows: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype, little-endian."""
        return np.dtype(self.spec.dtype).newbyteorder("<")

    def fill(self) -> float:
        """What stands in rows without features: NaN, or 0 in integer stores."""
        return float("nan") if self.dtype.kind == "f" else 0.0


@dataclass(frozen=True)
class Finding:
    """Something odd in a store: damage ("missing", "torn", "flipped") or a note ("extra"); block is None where it is of no block."""

    block: int | None
    kind: str
    detail: str


class Medium(abc.ABC):
    """The bytes of one store. Methods that write may only be called while `lock()` is held."""

    durable: ClassVar[bool]
    """Whether the store outlives the process, in a folder."""
    held_blocks: ClassVar[int | None] = None
    """How many open blocks a reader keeps; None for as many as a process may map."""

    @abc.abstractmethod
    def __init__(self, path: Path, header: Header) -> None: ...

    @abc.abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Be the only writer; UsageError naming the holder where there is one."""

    @abc.abstractmethod
    def busy(self) -> bool:
        """Whether a writer is at work now."""

    @abc.abstractmethod
    def save_table(self, table: RowTable) -> None:
        """Store the row table, whole or not at all."""

    @abc.abstractmethod
    def load_table(self) -> RowTable:
        """The stored row table."""

    @abc.abstractmethod
    def ledger(self) -> LedgerText:
        """The blocks that are there."""

    @abc.abstractmethod
    def tidy(self) -> None:
        """Remove what a killed writer left behind."""

    @abc.abstractmethod
    def put(self, block: int, array: Array, outcomes: Mapping[str, Any], provenance: Mapping[str, Any]) -> Entry:
        """Write a whole block [rows of the block, *shape] and then its ledger line; durable when this returns."""

    @abc.abstractmethod
    def adopt(self, entry: Entry, source: Medium) -> None:
        """Take over a block of another store of this backend, byte for byte, and its ledger line; durable when this returns.

        IntegrityError where its bytes are not those of its checksum.
        """

    @abc.abstractmethod
    def drop(self, block: int) -> None:
        """Take a block out of the ledger, then remove its bytes."""

    @abc.abstractmethod
    def array(self, entry: Entry) -> Array:
        """Open a block: its rows [rows, *shape], read-only, mapped where the medium can; IntegrityError where missing or torn."""

    @abc.abstractmethod
    def load(self, entry: Entry, out: Array) -> None:
        """Copy a whole block into `out` [rows, *shape]; IntegrityError where missing or torn."""

    @abc.abstractmethod
    def journal(self, block: int, rows: int) -> Journal:
        """The journal of an open block of `rows` rows."""

    @abc.abstractmethod
    def journalled(self) -> list[int]:
        """Blocks that have a journal."""

    @abc.abstractmethod
    def check(self, entry: Entry) -> Finding | None:
        """Compare a block with its checksum."""

    @abc.abstractmethod
    def strays(self) -> list[Finding]:
        """What lies among the blocks and is none the ledger knows; nothing of what a writer may be at work on."""

    @abc.abstractmethod
    def size(self) -> int:
        """Bytes used."""


BACKENDS: Registry[type[Medium]] = Registry(
    "store", ("cache.zarr_blocks", "cache.zarr_compressed", "cache.hdf5_blocks", "cache.memory")
)
"""name -> medium of a store at a path (the memory backend takes the path as a name)."""


def require_durable(backend: str) -> None:
    """UsageError unless stores of this backend are there when the command has ended."""
    if not BACKENDS.get(backend).durable:
        raise UsageError(f"the {backend} backend keeps nothing on disk", hint="--backend zarr or hdf5")
