"""Where activations at the cut come from: one interface over stores and live video; and what lies beside them for some heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from cache.spec import FeatureSpec
from cache.store import FeatureStore
from fsar_cache.draws import U64
from fsar_cache.errors import MissingError
from heads.base import Role
from pipeline.model import as_tensor
from splits.types import Ints, Part

RAM_LIMIT = 2 * 2**30
"""Bytes up to which `load = "auto"` keeps a partition's rows in memory; larger ones are read through memory maps."""


@dataclass(frozen=True)
class Beside:
    """What some heads consume beside features of frames.

    flow: features of flow pictures [T, D] of the same clips, always of the evaluation view. text: float32 [classes of the partition, D].
    """

    flow: FeatureSource | None = None
    text: Tensor | None = None

    def clips(self, part: Part, positions: Ints, role: Role) -> dict[str, Tensor]:
        """{"flow": [n, T, D]} of the clips at `positions` [n], and of supports {"text": [n, D]}, their own class's; what there is of it."""
        made = {}
        if self.flow is not None:
            made["flow"] = self.flow.fetch(positions, training=False, keys=np.zeros(len(positions), np.uint64))
        if self.text is not None and role == "support":
            made["text"] = self.text[torch.from_numpy(part.labels[positions])]
        return made


class FeatureSource(Protocol):
    """Activations at the cut for the clips of one partition.

    spec: what the activations are (a model fits sources of one spec only). excluded: ids of clips that can't be had. ahead: how many
    episodes are worth fetching ahead of their use (0 where fetching is quick). beside: what else there is of the clips.
    """

    beside: Beside

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
    """Rows of a store: the evaluation view, and in training one of `views` stored training views (with 0 the evaluation view again).

    load: "ram" reads the partition once, "mmap" reads rows when asked, "auto" chooses by size. Raises MissingError where clips or views
    of the partition are not in the store or not extracted yet; `extract` is the command that extracts them, split the name of the
    split whose partition it is (by default that of the store's dataset).
    """

    ahead = 0

    def __init__(
        self,
        store: FeatureStore,
        part: Part,
        load: Literal["auto", "ram", "mmap"] = "auto",
        extract: str = "fsar-cache extract",
        views: int = 0,
        beside: Beside | None = None,
        split: str = "",
    ) -> None:
        self.part = part
        self.beside = beside or Beside()
        self.spec = store.spec
        self.store = store
        rows = np.stack([store.rows_of(part.ids, view) for view in range(views + 1)])
        ok = np.where(rows >= 0, store.ok[rows], False)
        failed = {i for v, i in np.argwhere((rows >= 0) & ~ok).tolist() if _failed(store, int(rows[v, i]))}
        undone = [part.ids[i] for i in np.flatnonzero(~ok.all(axis=0)) if i not in failed]
        if undone:
            what = f" with {views} training views" if views else ""
            raise MissingError(
                f"{len(undone)} of {len(part.ids)} clips of {split or store.dataset}/{part.name} are not in the store {store.path}{what}: "
                f"{', '.join(undone[:3])}{'...' if len(undone) > 3 else ''}",
                hint=f"extract them (finished clips are kept): {extract}",
            )
        self.excluded = frozenset(part.ids[i] for i in failed)
        self._rows, self._views = rows, views
        usable = ok.all(axis=0)
        in_ram = load == "ram" or (
            load == "auto" and int(usable.sum()) * (views + 1) * self.spec.row_bytes <= RAM_LIMIT
        )
        self._held = [store.load(view[usable]) for view in rows] if in_ram else None
        self._place = np.cumsum(usable) - 1
        self._place[~usable] = -1

    def fetch(self, positions: Ints, *, training: bool, keys: U64) -> Tensor:
        """Stored activations [n, ...]; clip i is seen in view 1 + keys[i] mod views in training. A failed clip raises MissingError."""
        place = self._place[positions]
        if (place < 0).any():
            bad = self.part.ids[int(positions[place < 0][0])]
            raise MissingError(
                f"the clip {bad!r} failed extraction; it has no features", hint="leave it out of the episodes"
            )
        view = np.zeros(len(positions), np.int64)
        if training and self._views:
            view = 1 + (keys % np.uint64(self._views)).astype(np.int64)
        if self._held is None:
            return as_tensor(self.store.read(self._rows[view, positions]))
        if not view.any():
            return as_tensor(self._held[0][place])
        return as_tensor(np.stack([self._held[v][p] for v, p in zip(view.tolist(), place.tolist(), strict=True)]))


def _failed(store: FeatureStore, row: int) -> bool:
    """Whether the clip was tried and failed, rather than never tried."""
    outcome = store.outcome(row)
    return outcome is not None and outcome.status == "failed"
