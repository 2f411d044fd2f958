"""Mistakes that the golden cases of ProtoNet, OTAM and GSLTA notice: in the code, and in a setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.gslta
import heads.otam
import heads.protonet
from heads.transformer import Block


def clamped(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    return a @ b.transpose(-1, -2) / (a.norm(dim=-1)[..., None] * b.norm(dim=-1)[..., None, :]).clamp(min=epsilon)


def with_vertical_step(distances: Tensor, smoothing: float, *, single: bool = False, last_column: str = "") -> Tensor:
    from heads.alignment import soft_dtw_padded

    one = soft_dtw_padded(distances.transpose(-1, -2), smoothing)
    return one + soft_dtw_padded(distances, smoothing)


def only_forward(distances: Tensor, smoothing: float, *, single: bool = False, last_column: str = "") -> Tensor:
    from heads.alignment import otam

    return otam(distances, smoothing)


def normed_feed_forward(self: Block, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
    n = self.norm(x)
    q, k, v = (to(n).unflatten(2, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
    y = x + self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return y + self.narrow(F.gelu(self.widen(F.layer_norm(y, y.shape[-1:]))))


def detached_softmax(x: Tensor, dim: int) -> Tensor:
    return torch.softmax(x, dim).detach()


class DetachedFunctional:
    """torch.nn.functional, but for a softmax without gradient."""

    softmax = staticmethod(detached_softmax)

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)


def median_class(support: Tensor, average: Tensor) -> Tensor:
    member = (average > 0).transpose(1, 2)
    return torch.stack(
        [
            torch.stack([s[m[:, c]].median(0).values for c in range(m.shape[1])])
            for s, m in zip(support, member, strict=True)
        ]
    )


MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "epsilon as a floor, otam": ("otam/eval_5way_5shot_lambda05", heads.otam, "similarity", clamped),
    "epsilon as a floor, gslta": ("gslta/eval_5way_5shot", heads.gslta, "similarity", clamped),
    "vertical steps everywhere": ("otam/eval_5way_1shot_lambda01", heads.otam, "otam_both", with_vertical_step),
    "one direction": ("gslta/eval_5way_5shot", heads.gslta, "otam_both", only_forward),
    "norm before the feed-forward part": ("gslta/eval_5way_1shot", Block, "forward", normed_feed_forward),
    "medians as prototypes": ("gslta/eval_5way_5shot", heads.gslta, "class_means", median_class),
    "P without gradient": ("gslta/train_sfme", heads.gslta, "F", DetachedFunctional()),
    "a teacher that stays": ("gslta/train_sfme", heads.gslta.Gslta, "after_forward", lambda self, step: None),
    "no mixing": ("gslta/train_sfme", heads.gslta.Gslta, "_mixes", lambda self, step: False),
}


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("otam/eval_5way_1shot_lambda01", {"lambda": 0.11}),
    ("otam/eval_5way_1shot_lambda01", {"last_column": "two_term"}),
    ("otam/eval_5way_5shot_lambda05", {"single_direction": True}),
    ("otam/gslta_recursion", {"otam_directions": 1}),
    ("otam/soft_dtw_gamma01", {"gamma": 0.12}),
    ("otam/soft_dtw_gamma01", {"zero_rows": False}),
    ("otam/soft_dtw_gamma01", {"frame_metric": "squared_euclidean"}),
    ("otam/train_5way_2shot_lambda01", {"tasks_per_batch": 1}),
    ("protonet/euclidean_5way_5shot", {"metric": "cosine_prototype"}),
    ("protonet/cosine_timewise_5way_1shot", {"layer_norm": True}),
    ("gslta/train_sfme", {"sfme": False}),
    ("gslta/train_sfme", {"iteration": 3}),
    ("gslta/train_sfme", {"sfme_index": "intended"}),
    ("gslta/train_sfme", {"sfme_mix": 0.3}),
    ("gslta/train_sfme", {"start_cross": 4}),
    ("gslta/train_sfme", {"teacher": "copied"}),
    ("gslta/train_sfme", {"divided_by_tasks_per_batch": ["supervised", "meta", "reconstruction", "self", "cross"]}),
]
