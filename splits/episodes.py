"""Episodes as integers: episode i is a pure function of (split hash, excluded clips, protocol, seed, i), drawn thousands at a time.

Every class is as likely as any other, whatever its size; classes of an episode, and clips of a class, are drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

import numpy as np

from fsar_cache.canonical import digest
from fsar_cache.draws import bits, integers, key_of
from fsar_cache.errors import UsageError
from splits.types import Episodes, Ints, Part, Protocol
from splits.words import listed

MinClass = Literal["refuse", "drop"]
UnlabelledSampling = Literal["uniform", "published"]


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


def published_walk(number: Ints, sizes: Ints) -> Ints:
    """The clips that GSLTA's published code takes for drawn numbers s in [1, n): int64 of the same shape, counting clips class by class.

    sizes [classes]: clips of each class, n in all. The walk stops at the first class j with s < C_j + size_j, where C_j counts the clips
    of the classes up to and including j, and takes clip s - C_j of it, from the end where that is negative. So of classes of one size
    the first is drawn twice as often as any other, and the last never; two numbers may mean one clip.
    """
    through = np.cumsum(sizes)
    # the first bound above s is the first running maximum of the bounds above s
    found = np.searchsorted(np.maximum.accumulate(through + sizes), number, side="right")
    within = number - through[found]
    place: Ints = through[found] - np.where(within < 0, 0, sizes[found]) + within
    return place


class EpisodeSampler:
    """Draws episodes of one partition.

    exclude: ids of `part` that are never drawn (failed clips). unlabelled: the partition the protocol's unlabelled clips come from, but
    those in exclude_unlabelled: uniformly over its clips, or as `published_walk` has it. split_hash: of the split `part` is from.
    min_class: whether classes with fewer usable clips than shot + query are refused or dropped; a class all of whose clips are excluded
    is left out either way. UsageError up front for a protocol that can't be met: why, and what would work (`role`: whose setting that is).

    Support and query clips depend on nothing about unlabelled clips, nor on the number of episodes, nor on ids of other partitions.
    """

    def __init__(
        self,
        part: Part,
        protocol: Protocol,
        seed: int,
        *,
        exclude: Collection[str] = frozenset(),
        unlabelled: Part | None = None,
        exclude_unlabelled: Collection[str] = frozenset(),
        unlabelled_sampling: UnlabelledSampling = "uniform",
        split_hash: str = "",
        min_class: MinClass = "refuse",
        role: Literal["source", "target"] = "target",
    ) -> None:
        for name, value, allowed in (
            ("min_class", min_class, get_args(MinClass)),
            ("unlabelled_sampling", unlabelled_sampling, get_args(UnlabelledSampling)),
        ):
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        self.part = part
        self.protocol = protocol
        self.seed = seed
        self._role = role
        self._sampling = unlabelled_sampling
        self._positions, out = _usable(part, exclude)
        self._sizes = np.bincount(part.labels[self._positions], minlength=len(part.classes))
        self._classes = self._playable(min_class)
        self._positions = self._positions[np.argsort(part.labels[self._positions], kind="stable")]
        self._first = np.cumsum(self._sizes) - self._sizes
        self._pool, pool_out = _usable(unlabelled, exclude_unlabelled) if unlabelled else (np.zeros(0, np.int64), [])
        self._pool_sizes = np.zeros(0, np.int64)
        if unlabelled and unlabelled_sampling == "published":
            labels = unlabelled.labels[self._pool]
            self._pool = self._pool[np.argsort(labels, kind="stable")]
            self._pool_sizes = np.bincount(labels, minlength=len(unlabelled.classes))
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

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the partition's classes that are never drawn: no usable clip, or too few where small classes are dropped."""
        drawn = set(self._classes.tolist())
        return tuple(name for c, name in enumerate(self.part.classes) if c not in drawn)

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
        return Episodes(index, classes, support, support_labels, query, query_labels, self._unlabelled(index))

    def _unlabelled(self, index: Ints) -> Ints:
        """Positions of the unlabelled clips [E, U] of the episodes `index` [E]."""
        key, count = self._key["unlabelled"], self.protocol.unlabelled
        if self._sampling == "published" and count:
            number = 1 + without_replacement(key, (index,), len(self._pool) - 1, count)
            return self._pool[published_walk(number, self._pool_sizes)]
        return self._pool[without_replacement(key, (index,), len(self._pool), count)]

    def _shuffle(self, what: str, index: Ints, clips: Ints) -> tuple[Ints, Ints]:
        """Clips [E, W, n] as [E, W*n] in random order, and the label of each."""
        episodes, way, each = clips.shape
        order = np.argsort(bits(self._key[what], index[:, None], np.arange(way * each)[None]), axis=1, kind="stable")
        labels = np.broadcast_to(np.repeat(np.arange(way, dtype=np.int64), each), (episodes, way * each))
        flat = clips.reshape(episodes, way * each)
        return np.take_along_axis(flat, order, 1), np.take_along_axis(labels, order, 1)

    @property
    def _settings(self) -> str:
        """The settings that say shot and query."""
        table = "train" if self._role == "source" else "eval"
        return f"--set {table}.shot=1 --set {table}.query=1"

    def _playable(self, min_class: MinClass) -> Ints:
        """The classes (rows of part.classes) with enough usable clips; UsageError where that can't work."""
        p, sizes = self.protocol, self._sizes
        need = p.shot + p.query
        what = f"{p.way}-way episodes with {p.shot} shot and {p.query} query clips per class"
        where = f"partition {self.part.name!r}"
        lost = len(self.part.videos) - len(self._positions)
        gone = f" ({lost} clips are excluded)" if lost else ""
        there = np.flatnonzero((sizes > 0) | (np.bincount(self.part.labels, minlength=len(sizes)) == 0))
        small, enough = there[sizes[there] < need], there[sizes[there] >= need]
        names = [self.part.classes[c] for c in there]
        few = listed([f"{self.part.classes[c]} ({sizes[c]})" for c in small])
        if len(there) < p.way:
            raise UsageError(
                f"{what} need {p.way} classes, but {where} has {len(there)}{gone}: {listed(names)}",
                hint=f"at most {len(there)}-way is possible there" if len(there) > 1 else "take another partition",
            )
        if len(small) and min_class == "refuse":
            least = int(sizes[there].min())
            fits = [f"shot + query of at most {least} ({self._settings})"] if least > 1 else []
            fits += [f"--set {self._role}.min_class=drop leaves {len(enough)} classes"] if len(enough) >= p.way else []
            raise UsageError(
                f"{what} need {need} usable clips of every class, but {len(small)} of {len(there)} classes of {where} "
                f"have fewer{gone}: {few}",
                hint=f"what would work: {'; or '.join(fits)}" if fits else "take another partition, or add clips",
            )
        if len(enough) < p.way:
            most = int(np.sort(sizes)[-p.way])
            fits = [f"what would work: shot + query of at most {most} ({self._settings})"] if most > 1 else []
            raise UsageError(
                f"{what} need {p.way} classes of {need} usable clips, but {where} has {len(enough)}{gone}; too small: {few}",
                hint=fits[0] if fits else "take another partition, or add clips",
            )
        return enough

    def _check_pool(self, unlabelled: Part | None) -> None:
        want = self.protocol.unlabelled
        if want and unlabelled is None:
            raise UsageError(
                f"the protocol wants {want} unlabelled clips per episode, but no partition to draw them from is named",
                hint="name the target's unlabelled partition, or ask for 0",
            )
        most = max(0, len(self._pool) - (self._sampling == "published"))
        if unlabelled is not None and want > most:
            raise UsageError(
                f"the protocol wants {want} unlabelled clips per episode, but partition {unlabelled.name!r} "
                f"has {len(self._pool)} usable of {len(unlabelled.videos)}",
                hint=f"ask for at most {most}",
            )


def _usable(part: Part, exclude: Collection[str]) -> tuple[Ints, list[str]]:
    """Positions of the clips that may be drawn, and the sorted ids of those that may not."""
    if not exclude:
        return np.arange(len(part.videos), dtype=np.int64), []
    banned = frozenset(exclude)
    kept = np.array([i not in banned for i in part.ids], bool)
    return np.flatnonzero(kept), sorted(i for i in part.ids if i in banned)
