"""Small heads and random episodes for the tests of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.base import HEADS, EpisodeBatch, EpisodeShape, Head, Task
from heads.episodes import encode_clips

SMALL: dict[str, dict[str, Any]] = {
    "tamt": {"dim": 16, "steps": 5, "covariance_groups": 5, "reduce_dims": (12, 8)},
    "ta2n": {"dim": 16, "hidden": 8, "seq_len": 5, "way": 3, "dropout": 0.0},
    "trx": {"dim": 16, "seq_len": 5, "trans_linear_out_dim": 12, "trans_dropout": 0.0},
    "clip_fsar": {"dim": 16, "heads": 2, "mlp_dim": 32, "out_dropout": 0.0, "ff_dropout": 0.0},
    "clip_mdmf": {"dim": 16, "heads": 2, "mlp_dim": 32, "out_dropout": 0.0, "ff_dropout": 0.0, "tcn_dropout": 0.0},
    "tmal": {
        "dim": 16,
        "seq_len": 5,
        "heads": 2,
        "mlp_dim": 32,
        "fusion_init": "default",
        "out_dropout": 0.0,
        "ff_dropout": 0.0,
    },
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
    },
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
    ("clip_fsar", {}),
    ("clip_fsar", {"merge_before": True, "single_direct": True, "transformer_depth": 2}),
    ("clip_fsar", {"eval_mode": "combine", "text_exponent": 0.5}),
    ("clip_fsar", {"eval_mode": "text", "use_classification": False}),
    ("clip_mdmf", {}),
    ("clip_mdmf", {"lambdas": (1.0, 0.5, 2.0), "dist_condition": (0, 0), "transformer_depth": 2}),
    ("clip_mdmf", {"prompt_selection": "argmax", "t_compare_token": "text", "dist_condition": (1, 0)}),
    ("clip_mdmf", {"dist_condition": (0, 1), "dist_direction": "up2down", "detach_teacher": True}),
    ("clip_mdmf", {"is_pps": False, "single_direct": True, "use_classification": False, "dist_direction": "down2up"}),
    ("tmal", {}),
    (
        "tmal",
        {"fusion_order": "flow_then_text", "query_text": "all", "flow_pos": "sinusoid", "class_text_from": "fused"},
    ),
    ("tmal", {"fusion_order": "parallel", "merge_before": False, "flow_kv": "self+ctx", "aux_flow_weight": 0.5}),
    ("tmal", {"fusion_order": "parallel", "query_text": "none", "fuse_before_merge": False, "eval_mode": "combine"}),
    ("tmal", {"fusion_order": "flow", "prototype_text": False, "transformer_depth": 2, "class_text_from": "fused"}),
    ("tmal", {"fusion_order": "text", "text_kv": "ctx", "flow_encoder": "none", "eval_mode": "text"}),
    ("tmal", {"fusion_order": "none", "flow_encoder": "none"}),
    ("trx", {}),
    ("trx", {"temp_set": (4, 1), "loss_reduction": "mean"}),
    ("ta2n", {}),
    ("ta2n", {"first_stage": False, "dist_norm": True, "loss_reduction": "mean"}),
    ("ta2n", {"second_stage": False}),
    ("tamt", {}),
    ("tamt", {"metric": "inner_product", "global_temporal_layout": "aligned", "newton_schulz_backward": "autograd"}),
    ("tamt", {"second_moment": "bdc", "covariance_groups": 1, "metric": "neg_sq_l2", "tasks_per_batch": 4}),
    ("gslta", {}),
    (
        "gslta",
        {"depth": 2, "otam_directions": 1, "loss_scaling": "per_task", "sfme_index": "intended", "sfme_every": 1},
    ),
]
IDS = [f"{name} {' '.join(map(str, config.values()))}".strip() for name, config in VARIANTS]
EQUAL_SHOTS: set[str] = {"ta2n"}
"""Heads that refuse classes with different numbers of shots."""
SHOT_ORDER: set[str] = {"ta2n"}
"""Heads for which one of a class's shots is another than the rest, so that their order matters."""
FRAMES, DIM, WAY, CLASSES, SIDE = 5, 16, 3, 8, 4


def make(name: str, **config: Any) -> Head:
    """A small head with weights that depend on nothing else; gslta's teacher differs from its student."""
    kind = HEADS.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(kind.Config(**SMALL.get(name, {}) | config))


def clips_of(shape: tuple[int | None, ...], at: str, labels: np.ndarray, rng: np.random.Generator, seed: int) -> Tensor:
    """Positive random clips [*labels, *shape] around a mean per class; axes that the head leaves open are FRAMES, DIM and SIDE long."""
    usual = {"pooled": (FRAMES, DIM), "map": (FRAMES, DIM, SIDE, SIDE), "tokens": (FRAMES, SIDE * SIDE, DIM)}[at]
    sizes = tuple(u if n is None else n for n, u in zip(shape, usual, strict=True))
    channels = sizes[1] if at == "map" else sizes[-1]
    means = np.random.default_rng(seed + 1).gamma(1.0, size=(CLASSES, 1, channels))
    each = {"pooled": means, "map": means[..., None, None], "tokens": means[:, :, None]}[at]
    return torch.from_numpy(np.abs(each[labels] + 0.3 * rng.standard_normal((*labels.shape, *sizes)))).float()


def drawn(head: Head, labels: np.ndarray, shot: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """The head's random choices for episodes with query labels [E, Q]: those of training, and those of matching where they are others."""
    found: list[dict[str, np.ndarray]] = []
    for one in labels:
        shape = EpisodeShape(WAY, shot, len(one), 4, FRAMES, one)
        found.append(head.match_draw(shape, rng) | head.draw(shape, rng))
    return {name: torch.from_numpy(np.stack([each[name] for each in found])) for name in found[0]}


def episodes(
    count: int = 2, shots: tuple[int, ...] = (2, 2, 2), queries: int = 2, seed: int = 0, head: Head | None = None
) -> EpisodeBatch:
    """Random training episodes, 3-way, shuffled, of the kinds and shapes that the head needs (by default gslta's: [5, 16] features)."""
    head = head or make("gslta")
    rng = np.random.default_rng(seed)
    s = np.stack([rng.permutation(np.repeat(np.arange(WAY), shots)) for _ in range(count)])
    q = np.stack([rng.permutation(np.repeat(np.arange(WAY), queries)) for _ in range(count)])
    needs = head.needs
    text = None
    if "text" in needs.kinds:
        text = torch.from_numpy(
            np.random.default_rng(seed + 2).standard_normal((CLASSES, *needs.kinds["text"]))
        ).float()

    def clips(labels: np.ndarray, role: str) -> dict[str, Tensor]:
        made = {"features": clips_of(needs.kinds["features"], needs.at, labels, rng, seed)}
        if "flow" in needs.kinds:
            made["flow"] = clips_of(needs.kinds["flow"], "pooled", labels, rng, seed + 5)
        if text is not None and role == "support":
            made["text"] = text[torch.from_numpy(labels) + 1]
        return made

    draws = drawn(head, q, shots[0], rng) if queries > 1 else {}
    class_text = None if text is None else text[1 : WAY + 1].expand(count, -1, -1)
    return EpisodeBatch(
        Task(WAY, torch.from_numpy(s), draws, class_text),
        clips(s, "support"),
        clips(q, "query"),
        torch.from_numpy(q),
        torch.from_numpy(s + 1),
        torch.from_numpy(q + 1),
        clips(rng.integers(0, CLASSES - 1, (count, 4)), "unlabelled"),
        text,
    )


def one(batch: EpisodeBatch, e: int) -> EpisodeBatch:
    """Episode `e` of a batch, as a batch of one."""
    return batch.episodes()[e]


def logits(head: Head, batch: EpisodeBatch) -> Tensor:
    """Encode and match, as in evaluation."""
    with torch.inference_mode():
        head.eval()
        support, query = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
        return head.match(support, query, batch.task).logits
