"""Mistakes that the golden cases of TRX notice: in the code, and in a setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.trx
from heads.trx import Trx, TupleEncoder, position_code

FIVE, ONE, TRAIN = "trx/eval_5way_5shot_2048", "trx/eval_5way_1shot_512", "trx/train_5way_5shot_512"
SHOTS = 5

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def attending(
    scale: Callable[[int], float] = lambda width: width**-0.5,
    weigh: Callable[[Tensor], Tensor] = lambda scores: scores.softmax(-1),
    distance: Callable[[Tensor], Tensor] = lambda gap: gap.square().sum((-1, -2)) / gap.shape[-2],
) -> Attend:
    """A plain form of the attention with one of its steps replaced: scores [E, W, Q, L, M], gaps [E, W, Q, L, d]."""

    def attend(q_k: Tensor, q_v: Tensor, s_k: Tensor, s_v: Tensor, held: Tensor) -> Tensor:
        assert held.all()
        scores = torch.einsum("eqld,ewmd->ewqlm", q_k, s_k) * scale(q_k.shape[-1])
        prototypes = torch.einsum("ewqlm,ewmd->ewqld", weigh(scores), s_v)
        return distance(q_v.unsqueeze(1) - prototypes).transpose(1, 2)

    return attend


def per_shot(scores: Tensor) -> Tensor:
    """A softmax over each shot's own tuples, then the mean over shots."""
    return scores.unflatten(-1, (SHOTS, -1)).softmax(-1).flatten(-2) / SHOTS


def over_classes(scores: Tensor) -> Tensor:
    """One softmax over the tuples of all classes."""
    return scores.transpose(1, -2).flatten(-2).softmax(-1).unflatten(-1, (scores.shape[1], -1)).transpose(1, -2)


def averaged_before(scores: Tensor) -> Tensor:
    """Tuples of averaged shots instead of all shots' tuples."""
    mean = scores.unflatten(-1, (SHOTS, -1)).mean(-2, keepdim=True).softmax(-1)
    return mean.expand(*mean.shape[:-2], SHOTS, -1).flatten(-2) / SHOTS


def norm_of(value: bool, key: bool) -> Callable[[TupleEncoder, Tensor], tuple[Tensor, Tensor]]:
    def forward(self: TupleEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.pe[: x.shape[1]]
        k = self._project(y, self.k_linear.weight, self.k_linear.bias)
        v = self._project(y, self.v_linear.weight, self.v_linear.bias)
        return self.norm_k(k) if key else k, self.norm_v(v) if value else v

    return forward


def without_bias(self: TupleEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + self.pe[: x.shape[1]]
    return self.norm_k(self._project(y, self.k_linear.weight)), self._project(y, self.v_linear.weight)


def without_position(self: TupleEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    keys = self.norm_k(self._project(x, self.k_linear.weight, self.k_linear.bias))
    return keys, self._project(x, self.v_linear.weight)


def backwards(self: TupleEncoder, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Tuples with their last frame first."""
    return F.linear(y[:, self.tuples.flip(1)].flatten(2), weight, bias)


def bag(self: TupleEncoder, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Tuples without order: every frame of a tuple at every place in it."""
    size = self.tuples.shape[1]
    return F.linear(y[:, self.tuples].mean(2).repeat(1, 1, size), weight, bias)


def neighbours(elements: Tensor, r: int) -> Tensor:
    """Only tuples of frames next to each other."""
    return elements.unfold(0, r, 1)


def with_repetition(elements: Tensor, r: int) -> Tensor:
    return torch.combinations(elements, r, with_replacement=True)


class Torch:
    """The torch module, but for its list of tuples."""

    def __init__(self, combinations: Callable[[Tensor, int], Tensor]) -> None:
        self.combinations = combinations

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def halves(length: int, dim: int) -> Tensor:
    """Sines first, then cosines, instead of in turns."""
    code = position_code(length, dim)
    return torch.cat([code[:, ::2], code[:, 1::2]], 1)


def sorted_shots(average: Tensor) -> tuple[Tensor, Tensor]:
    """As if the supports came class by class."""
    ways, clips = average.shape[1:]
    places = torch.arange(clips).view(1, ways, -1).expand(len(average), -1, -1)
    return places, torch.ones_like(places, dtype=torch.bool)


def mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return losses / labels.shape[1]


def last_alone(self: Trx, *given: Any) -> Any:
    """The logits of one cardinality, and not the mean."""
    out = MATCH(self, *given)
    return type(out)(list(out.shows.values())[-1], out.losses, out.shows)


MATCH = Trx.match
summed = attending(distance=lambda gap: gap.square().sum((-1, -2)))
rooted = attending(distance=lambda gap: gap.square().sum((-1, -2)).sqrt() / gap.shape[-2])
averaged = attending(distance=lambda gap: gap.square().mean((-1, -2)))
of_norms = attending(distance=lambda gap: gap.square().sum(-1).sqrt().mean(-1))
mean_query = attending(distance=lambda gap: gap.mean(-2).square().sum(-1))
all_queries = attending(
    distance=lambda gap: gap.square().sum(-1).mean((-1, -2), keepdim=True)[..., 0].expand(gap.shape[:3])
)

MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "a softmax of each shot": (FIVE, heads.trx, "attend", attending(weigh=per_shot)),
    "one softmax over all classes": (ONE, heads.trx, "attend", attending(weigh=over_classes)),
    "shots averaged before attention": (FIVE, heads.trx, "attend", attending(weigh=averaged_before)),
    "no attention": (ONE, heads.trx, "attend", attending(weigh=lambda s: torch.full_like(s, 1 / s.shape[-1]))),
    "scores not scaled": (FIVE, heads.trx, "attend", attending(scale=lambda width: 1.0)),
    "scores scaled by the width": (FIVE, heads.trx, "attend", attending(scale=lambda width: 1 / width)),
    "a sum over tuples": (ONE, heads.trx, "attend", summed),
    "a distance that is not squared": (ONE, heads.trx, "attend", rooted),
    "a mean over channels": (ONE, heads.trx, "attend", averaged),
    "a mean of norms": (ONE, heads.trx, "attend", of_norms),
    "the distance of mean tuples": (ONE, heads.trx, "attend", mean_query),
    "a mean over queries": (ONE, heads.trx, "attend", all_queries),
    "values normed": (FIVE, TupleEncoder, "forward", norm_of(value=True, key=True)),
    "keys not normed": (FIVE, TupleEncoder, "forward", norm_of(value=False, key=False)),
    "no bias of keys": (FIVE, TupleEncoder, "forward", without_bias),
    "no position code": (ONE, TupleEncoder, "forward", without_position),
    "sines and cosines in halves": (ONE, heads.trx, "position_code", halves),
    "a position code of full size": (ONE, heads.trx, "position_code", lambda *size: 10 * position_code(*size)),
    "positions from 1": (ONE, heads.trx, "position_code", lambda n, dim: position_code(n + 1, dim)[1:]),
    "tuples last frame first": (FIVE, TupleEncoder, "_project", backwards),
    "tuples without order": (FIVE, TupleEncoder, "_project", bag),
    "only neighbouring frames": (ONE, heads.trx, "torch", Torch(neighbours)),
    "frames twice in a tuple": (ONE, heads.trx, "torch", Torch(with_repetition)),
    "supports taken as sorted": (FIVE, heads.trx, "shots_by_class", sorted_shots),
    "the logits of one cardinality": (FIVE, Trx, "match", last_alone),
    "a mean loss": (TRAIN, heads.trx, "query_losses", mean_losses),
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (TRAIN, {"loss_reduction": "mean"}),
    (TRAIN, {"tasks_per_batch": 15}),
    (TRAIN, {"dropout": 0.1}),
]
