"""Episodes as integers: episode i is a pure function of (split hash, excluded clips, protocol, seed, i), drawn thousands at a time.

Every class is as likely as any other, whatever its size; classes of an episode, and clips of a class, are drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fsar_cache.canonical import digest
from fsar_cache.draws import bits, integers, key_of
from fsar_cache.errors import UsageError
from splits.types import Episodes, Ints, Part, Protocol
from splits.words import listed


def without_replacement(key: int, index: tuple[Ints, ...], high: Ints | int, count: int) -> Ints:
    """`count` different integers of [0, high) in random order for every element of the broadcast of `index` and `high`.

    int64 [*broadcast, count]; a function of (key, the element's index, high) alone. The i-th draw is the r-th number not drawn
    yet, r uniform: among sorted earlier draws p_0 < p_1 < ..., p_j lies below it exactly if p_j - j <= r. Costs nothing per `high`.
    """
    shape = np.broadcast_shapes(*(a.shape for a in index), np.shape(high))
    drawn = np.empty((*shape, count), np.int64)
    for i in range(count):
        rank = np.broadcast_to(integers(bits(key, *index, i), np.asarray(high) - i), shape)
        below = np.sort(drawn[..., :i], axis=-1) - np.arange(i)
        drawn[..., i] = rank + (below <= rank[..., None]).sum(-1)
    return drawn


class EpisodeSampler:
    """Draws episodes of one partition.

    exclude: ids that are never drawn (failed clips), as support, query or unlabelled. unlabelled: the partition the protocol's unlabelled
    clips come from, uniformly over its clips. split_hash: of the split `part` is from. min_class: whether classes with fewer usable
    clips than shot + query are refused or dropped. UsageError up front for a protocol that can't be met: why, and what would work.

    Support and query clips don't depend on the number of episodes or of unlabelled clips, nor on excluded ids of other partitions.
    """

    def __init__(
        self,
        part: Part,
        protocol: Protocol,
        seed: int,
        *,
        exclude: Collection[str] = frozenset(),
        unlabelled: Part | None = None,
        split_hash: str = "",
        min_class: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        if min_class not in ("refuse", "drop"):
            raise UsageError(f"min_class is {min_class!r}; allowed: refuse, drop")
        self.part = part
        self.protocol = protocol
        self.seed = seed
        self._positions, out = _usable(part, exclude)
        self._sizes = np.bincount(part.labels[self._positions], minlength=len(part.classes))
        self._classes = self._playable(min_class)
        self._positions = self._positions[np.argsort(part.labels[self._positions], kind="stable")]
        self._first = np.cumsum(self._sizes) - self._sizes
        self._pool, pool_out = _usable(unlabelled, exclude) if unlabelled else (np.zeros(0, np.int64), [])
        self._check_pool(unlabelled)
        self._hash = digest([out, pool_out], 16)
        task = (protocol.way, protocol.shot, protocol.query)
        self._key = {
            what: key_of("episodes", what, split_hash, digest(out, 16), part.name, *task, seed)
            for what in ("classes", "clips", "support", "query")
        }
        pool = (unlabelled.name, digest(pool_out, 16)) if unlabelled else ()
        self._key["unlabelled"] = key_of("episodes", "unlabelled", split_hash, *pool, protocol.unlabelled, seed)

    @property
    def exclusion_hash(self) -> str:
        """Hash of the excluded ids of the two partitions: runs are comparable episode by episode only where it agrees."""
        return self._hash

    def episodes(self, start: int, count: int) -> Episodes:
        """Episodes start .. start + count - 1: `episodes(a, n)` are the rows a .. a+n-1 of `episodes(0, a+n)`, bit for bit."""
        if start < 0 or count < 0:
            raise UsageError(f"episodes are numbered from 0, got start {start} and count {count}")
        p = self.protocol
        index = np.arange(start, start + count, dtype=np.int64)
        classes = self._classes[without_replacement(self._key["classes"], (index,), len(self._classes), p.way)]
        slot = (index[:, None], np.arange(p.way)[None])
        clips = without_replacement(self._key["clips"], slot, self._sizes[classes], p.shot + p.query)
        clips = self._positions[self._first[classes][..., None] + clips]
        support, support_labels = self._shuffle("support", index, clips[..., : p.shot])
        query, query_labels = self._shuffle("query", index, clips[..., p.shot :])
        free = without_replacement(self._key["unlabelled"], (index,), len(self._pool), p.unlabelled)
        return Episodes(index, classes, support, support_labels, query, query_labels, self._pool[free])

    def _shuffle(self, what: str, index: Ints, clips: Ints) -> tuple[Ints, Ints]:
        """Clips [E, W, n] as [E, W*n] in random order, and the label of each."""
        episodes, way, each = clips.shape
        order = np.argsort(bits(self._key[what], index[:, None], np.arange(way * each)[None]), axis=1, kind="stable")
        labels = np.broadcast_to(np.repeat(np.arange(way, dtype=np.int64), each), (episodes, way * each))
        flat = clips.reshape(episodes, way * each)
        return np.take_along_axis(flat, order, 1), np.take_along_axis(labels, order, 1)

    def _playable(self, min_class: str) -> Ints:
        """The classes (rows of part.classes) with enough usable clips; UsageError where that can't work."""
        p, names = self.protocol, self.part.classes
        need = p.shot + p.query
        what = f"{p.way}-way episodes with {p.shot} shot and {p.query} query clips per class"
        where = f"partition {self.part.name!r}"
        lost = len(self.part.videos) - len(self._positions)
        gone = f" ({lost} clips are excluded)" if lost else ""
        small: NDArray[np.int64] = np.flatnonzero(self._sizes < need)
        enough = np.flatnonzero(self._sizes >= need)
        few = listed([f"{names[c]} ({self._sizes[c]})" for c in small])
        if len(names) < p.way:
            raise UsageError(
                f"{what} need {p.way} classes, but {where} has {len(names)}: {listed(names)}",
                hint=f"at most {len(names)}-way is possible there" if len(names) > 1 else "take another partition",
            )
        if len(small) and min_class == "refuse":
            least = int(self._sizes.min())
            fits = [f"shot + query of at most {least}"] if least > 1 else []
            fits += [f'min_class="drop" leaves {len(enough)} classes'] if len(enough) >= p.way else []
            raise UsageError(
                f"{what} need {need} usable clips of every class, but {len(small)} of {len(names)} classes of {where} "
                f"have fewer{gone}: {few}",
                hint=f"what would work: {'; or '.join(fits)}" if fits else "take another partition, or add clips",
            )
        if len(enough) < p.way:
            most = int(np.sort(self._sizes)[-p.way])
            raise UsageError(
                f"{what} need {p.way} classes of {need} usable clips, but {where} has {len(enough)}{gone}; too small: {few}",
                hint=f"what would work: shot + query of at most {most}"
                if most > 1
                else "take another partition, or add clips",
            )
        return enough

    def _check_pool(self, unlabelled: Part | None) -> None:
        want = self.protocol.unlabelled
        if want and unlabelled is None:
            raise UsageError(
                f"the protocol wants {want} unlabelled clips per episode, but no partition to draw them from is named",
                hint="name the target's unlabelled partition, or ask for 0",
            )
        if unlabelled is not None and want > len(self._pool):
            raise UsageError(
                f"the protocol wants {want} unlabelled clips per episode, but partition {unlabelled.name!r} "
                f"has {len(self._pool)} usable of {len(unlabelled.videos)}",
                hint=f"ask for at most {len(self._pool)}",
            )


def _usable(part: Part, exclude: Collection[str]) -> tuple[Ints, list[str]]:
    """Positions of the clips that may be drawn, and the sorted ids of those that may not."""
    if not exclude:
        return np.arange(len(part.videos), dtype=np.int64), []
    banned = frozenset(exclude)
    kept = np.array([i not in banned for i in part.ids], bool)
    return np.flatnonzero(kept), sorted(i for i in part.ids if i in banned)
