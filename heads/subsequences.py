"""The local tuples of GSLTA: which frames make the subsequences of an episode, and which query is whose mate."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from fsar_cache.errors import UsageError
from heads.base import EpisodeBatch
from heads.episodes import require_labels


def draw_subsequences(frames: int, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different increasing tuples of `length` out of `frames` indices: int64 [count, length]."""
    if not 1 <= count <= comb(frames, length):
        raise UsageError(
            f"Gslta draws {count} different subsequences of {length} out of {frames} frames, but there are {comb(frames, length)}",
            hint="lower sub_seq_num, or set weight_self and weight_cross to 0",
        )
    tuples = np.array(list(combinations(range(frames), length)), dtype=np.int64)
    return tuples[rng.choice(len(tuples), count, replace=False)]


def draw_mates(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every query another one of the same class, uniformly: int64 [Q]; UsageError where a class has only one."""
    mates = np.empty(len(labels), dtype=np.int64)
    for q, label in enumerate(labels):
        others = np.flatnonzero(labels == label)
        others = others[others != q]
        if not len(others):
            raise UsageError(
                f"Gslta's cross distillation needs at least 2 queries per class, class {int(label)} has 1",
                hint="raise the queries per class to 2 or more (5 in the published runs), or set weight_self and weight_cross to 0",
            )
        mates[q] = others[rng.integers(len(others))]
    return mates


def checked_draws(batch: EpisodeBatch, *, frames: int, length: int, count: int) -> tuple[Tensor, Tensor]:
    """The draws sub_query int64 [E, count, length] and cross_partner int64 [E, Q] of a batch; UsageError if absent or wrong."""
    missing = [name for name in ("sub_query", "cross_partner") if name not in batch.task.draws]
    if missing:
        raise UsageError(
            f"Gslta needs the draws {' and '.join(missing)} of each training episode (Head.draw makes them)"
        )
    sub, mate, labels = batch.task.draws["sub_query"], batch.task.draws["cross_partner"], batch.query_labels
    require_labels(sub, (len(labels), count, length), frames, "draw sub_query")
    require_labels(mate, tuple(labels.shape), labels.shape[1], "draw cross_partner")
    own = torch.arange(labels.shape[1], device=labels.device)
    if bool((mate == own).any()) or bool((labels.gather(1, mate) != labels).any()):
        raise UsageError("draw cross_partner must name another query of the same class for every query")
    return sub, mate


def gather_subsequences(clips: Tensor, sub: Tensor) -> Tensor:
    """Clips [E, Q, T, D] at the frames sub [E, n, L]: [E, Q * n, L, D], each clip's subsequences together."""
    episode = torch.arange(len(clips), device=clips.device).view(-1, 1, 1)
    return clips.transpose(1, 2)[episode, sub].permute(0, 3, 1, 2, 4).flatten(1, 2)
