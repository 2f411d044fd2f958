"""Small heads and random episodes for the tests of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.base import HEADS, EpisodeBatch, EpisodeShape, Head, Task
from heads.episodes import encode_clips

SMALL: dict[str, dict[str, Any]] = {
    "gslta": {
        "dim": 16,
        "heads": 2,
        "dim_head": 8,
        "mlp_dim": 32,
        "class_num": 7,
        "seq_len": 5,
        "sub_seq_len": 3,
        "sub_seq_num": 4,
        "out_dropout": 0.0,
        "ff_dropout": 0.0,
    }
}
"""Settings that make a head small and free of dropout, for [5, 16] features."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("protonet", {"metric": "euclidean"}),
    ("protonet", {"metric": "cosine_per_shot", "temperature": 0.1}),
    ("protonet", {"metric": "cosine_prototype"}),
    ("protonet", {"metric": "cosine_timewise"}),
    ("protonet", {"metric": "cosine_timewise", "layer_norm": 3}),
    ("otam", {}),
    ("otam", {"otam_lambda": 0.5, "last_column": "two_term", "combination": "mean"}),
    ("otam", {"single_direction": True}),
    ("otam", {"variant": "soft_dtw"}),
    ("otam", {"variant": "soft_dtw", "frame_metric": "squared_euclidean", "gamma": 1.0, "zero_rows": False}),
    ("gslta", {}),
    (
        "gslta",
        {"depth": 2, "otam_directions": 1, "loss_scaling": "per_task", "sfme_index": "intended", "sfme_every": 1},
    ),
]
IDS = [f"{name} {' '.join(map(str, config.values()))}".strip() for name, config in VARIANTS]
FRAMES, DIM, WAY = 5, 16, 3


def make(name: str, **config: Any) -> Head:
    """A small head with weights that depend on nothing else; gslta's teacher differs from its student."""
    kind = HEADS.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(kind.Config(**SMALL.get(name, {}) | config))


def episodes(count: int = 2, shots: tuple[int, ...] = (2, 2, 2), queries: int = 2, seed: int = 0) -> EpisodeBatch:
    """Random training episodes, 3-way, shuffled, on positive [5, 16] features around a mean per class."""
    rng = np.random.default_rng(seed)

    def clips(labels: np.ndarray) -> dict[str, Tensor]:
        means = np.random.default_rng(seed + 1).gamma(1.0, size=(8, 1, DIM))
        x = np.abs(means[labels] + 0.3 * rng.standard_normal((*labels.shape, FRAMES, DIM)))
        return {"features": torch.from_numpy(x).float()}

    s = np.stack([rng.permutation(np.repeat(np.arange(WAY), shots)) for _ in range(count)])
    q = np.stack([rng.permutation(np.repeat(np.arange(WAY), queries)) for _ in range(count)])
    draws: dict[str, Tensor] = {}
    if queries > 1:
        head = make("gslta")
        each = [head.draw(EpisodeShape(WAY, shots[0], queries, 4, FRAMES, one), rng) for one in q]
        draws = {name: torch.from_numpy(np.stack([d[name] for d in each])) for name in each[0]}
    return EpisodeBatch(
        Task(WAY, torch.from_numpy(s), draws),
        clips(s),
        clips(q),
        torch.from_numpy(q),
        torch.from_numpy(s + 1),
        torch.from_numpy(q + 1),
        clips(rng.integers(0, 8, (count, 4))),
    )


def one(batch: EpisodeBatch, e: int) -> EpisodeBatch:
    """Episode `e` of a batch, as a batch of one."""

    def cut(x: Any) -> Any:
        return {k: v[e : e + 1] for k, v in x.items()} if isinstance(x, dict) else x[e : e + 1]

    task = Task(batch.task.way, cut(batch.task.support_labels), cut(batch.task.draws))
    rest = (batch.support, batch.query, batch.query_labels, batch.support_class, batch.query_class, batch.unlabelled)
    return EpisodeBatch(task, *map(cut, rest))


def logits(head: Head, batch: EpisodeBatch) -> Tensor:
    """Encode and match, as in evaluation."""
    with torch.inference_mode():
        support, query = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
        return head.eval().match(support, query, batch.task).logits
