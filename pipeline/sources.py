"""Where activations at the cut come from: one interface over stores and live video."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from cache.spec import FeatureSpec
from cache.store import FeatureStore
from fsar_cache.draws import U64
from fsar_cache.errors import MissingError
from pipeline.model import as_tensor
from splits.types import Ints, Part

RAM_LIMIT = 2 * 2**30
"""Bytes up to which `load = "auto"` keeps a partition's rows in memory; larger ones are read through memory maps."""


class FeatureSource(Protocol):
    """Activations at the cut for the clips of one partition.

    spec: what the activations are (a model fits sources of one spec only). excluded: ids of clips that can't be had. ahead: how many
    episodes are worth fetching ahead of their use (0 where fetching is quick).
    """

    @property
    def part(self) -> Part:
        """The partition that positions refer to."""

    @property
    def spec(self) -> FeatureSpec:
        """What determines the activations."""

    @property
    def excluded(self) -> frozenset[str]:
        """Ids of clips that can't be fetched."""

    @property
    def ahead(self) -> int:
        """Episodes worth fetching ahead."""

    def fetch(self, positions: Ints, *, training: bool, keys: U64) -> Tensor:
        """Activations [n, ...] of the clips at `positions` [n].

        training: draw a fresh view of clip i from keys[i] (uint64 [n]) where the source has views to draw; otherwise the one
        evaluation view, and keys don't matter. Raises an FsarError that names the clip where one can't be had.
        """


class StoreSource:
    """Rows of a store: the evaluation view, in training too.

    load: "ram" reads the partition once, "mmap" reads rows when asked, "auto" chooses by size. Raises MissingError where clips of the
    partition are not in the store or not extracted yet; `extract` is the command that extracts them.
    """

    ahead = 0

    def __init__(
        self,
        store: FeatureStore,
        part: Part,
        load: Literal["auto", "ram", "mmap"] = "auto",
        extract: str = "fsar-cache extract",
    ) -> None:
        self.part = part
        self.spec = store.spec
        self.store = store
        rows = store.rows_of(part.ids)
        planned = rows >= 0
        ok = np.zeros(len(rows), bool)
        ok[planned] = store.ok[rows[planned]]
        failed = {i for i in np.flatnonzero(planned & ~ok) if _failed(store, int(rows[i]))}
        undone = [part.ids[i] for i in np.flatnonzero(~ok) if i not in failed]
        if undone:
            raise MissingError(
                f"{len(undone)} of {len(rows)} clips of {store.dataset}/{part.name} are not in the store {store.path}: "
                f"{', '.join(undone[:3])}{'...' if len(undone) > 3 else ''}",
                hint=f"extract them (finished clips are kept): {extract}",
            )
        self.excluded = frozenset(part.ids[i] for i in failed)
        self._rows = rows
        in_ram = load == "ram" or (load == "auto" and int(ok.sum()) * self.spec.row_bytes <= RAM_LIMIT)
        self._held = store.load(rows[ok]) if in_ram else None
        self._place = np.cumsum(ok) - 1
        self._place[~ok] = -1

    def fetch(self, positions: Ints, *, training: bool, keys: U64) -> Tensor:
        """Stored activations [n, ...]; a failed clip raises MissingError."""
        del training, keys
        place = self._place[positions]
        if (place < 0).any():
            bad = self.part.ids[int(positions[place < 0][0])]
            raise MissingError(
                f"the clip {bad!r} failed extraction; it has no features", hint="leave it out of the episodes"
            )
        rows = self.store.read(self._rows[positions]) if self._held is None else self._held[place]
        return as_tensor(rows)


def _failed(store: FeatureStore, row: int) -> bool:
    """Whether the clip was tried and failed, rather than never tried."""
    outcome = store.outcome(row)
    return outcome is not None and outcome.status == "failed"
