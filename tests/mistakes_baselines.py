"""Mistakes that the golden cases of ProtoNet, OTAM and GSLTA notice: in the code, and in a setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.episodes
import heads.gslta
import heads.otam
import heads.protonet
from heads.alignment import otam, soft_dtw, soft_dtw_padded
from heads.base import Clips, HeadOutput, Task
from heads.distances import cosine, similarity, squared_euclidean
from heads.episodes import averaging, class_means, query_losses
from heads.otam import Otam
from heads.protonet import ProtoNet
from heads.transformer import Block

ONE, FIVE, TRAIN = "otam/eval_5way_1shot_lambda01", "otam/eval_5way_5shot_lambda05", "otam/train_5way_2shot_lambda01"
SOFT_DTW = "otam/soft_dtw_gamma01"
EUCLIDEAN, TRAIN_EUCLIDEAN = "protonet/euclidean_5way_5shot", "protonet/train_euclidean_5way_2shot"
PER_SHOT, TIMEWISE = "protonet/cosine_per_shot_5way_5shot", "protonet/cosine_timewise_5way_1shot"


def clamped(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    return a @ b.transpose(-1, -2) / (a.norm(dim=-1)[..., None] * b.norm(dim=-1)[..., None, :]).clamp(min=epsilon)


def with_vertical_step(distances: Tensor, smoothing: float, *, single: bool = False, last_column: str = "") -> Tensor:
    one = soft_dtw_padded(distances.transpose(-1, -2), smoothing)
    return one + soft_dtw_padded(distances, smoothing)


def only_forward(distances: Tensor, smoothing: float, *, single: bool = False, last_column: str = "") -> Tensor:
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


def smooth(values: Tensor, s: float) -> Tensor:
    return -s * torch.logsumexp(values / -s, 0)


def cells(
    minimum: Callable[[Tensor, float], Tensor] = smooth,
    *,
    start: float = 0.0,
    vertical: bool = True,
    summed: bool = True,
    end: int = -1,
) -> Callable[..., Tensor]:
    """OTAM in both directions, cell by cell, with one of its rules replaced.

    start: the cost of starting later than at the first row; vertical: steps in the first column; summed: row 0 is a running sum; end: the
    column of the result.
    """

    def one(d: Tensor, s: float) -> Tensor:
        rows, columns = d.shape[-2:]
        d = F.pad(d, (1, 1))
        c = [[torch.zeros_like(d[..., 0, 0])]]
        for m in range(1, columns + 2):
            c[0].append(d[..., 0, m] + (c[0][m - 1] if summed else 0))
        for r in range(1, rows):
            c.append([torch.full_like(d[..., 0, 0], start)])
            for m in range(1, columns + 2):
                before = [c[r - 1][m - 1], c[r][m - 1]]
                if (m == 1 and vertical) or m == columns + 1:
                    before.append(c[r - 1][m])
                c[r].append(d[..., r, m] + minimum(torch.stack(before), s))
        return c[-1][end]

    def both(d: Tensor, s: float, *, single: bool = False, last_column: str = "") -> Tensor:
        return one(d, s) + one(d.transpose(-1, -2), s)

    return both


def undivided(values: Tensor, s: float) -> Tensor:
    return -s * torch.logsumexp(-values, 0)


def of_means(values: Tensor, s: float) -> Tensor:
    return -s * (torch.logsumexp(values / -s, 0) - torch.tensor(float(len(values))).log())


def hard(values: Tensor, s: float) -> Tensor:
    return values.min(0).values


def forward_twice(distances: Tensor, smoothing: float, *, single: bool = False, last_column: str = "") -> Tensor:
    return 2 * otam(distances, smoothing, last_column)


def as_if_sorted(task: Task, support: Tensor) -> Tensor:
    labels = torch.arange(task.way).repeat_interleave(support.shape[1] // task.way)
    return averaging(Task(task.way, labels.expand(len(support), -1)), support)


def summed_shots(task: Task, support: Tensor) -> Tensor:
    return (averaging(task, support) > 0).to(support)


def nearest_shot(self: Otam, support: Clips, query: Clips, task: Task) -> HeadOutput:
    distances = self.align(self.frame_distances(query["frames"], support["frames"]))
    mine = averaging(task, support["frames"]).unsqueeze(1) > 0
    return HeadOutput(-distances.unsqueeze(2).masked_fill(~mine, torch.inf).amin(-1))


def prototypes_aligned(self: Otam, support: Clips, query: Clips, task: Task) -> HeadOutput:
    prototypes = class_means(support["frames"], averaging(task, support["frames"]))
    return HeadOutput(-self.align(self.frame_distances(query["frames"], prototypes)))


def summed_losses(logits: Tensor, labels: Tensor) -> Tensor:
    return query_losses(logits, labels) * labels.shape[1]


def zero_row_before_only(distances: Tensor, gamma: float) -> Tensor:
    return soft_dtw(F.pad(distances, (0, 0, 1, 0)), gamma)


def pooled_by(pool: Callable[[Tensor], Tensor]) -> Callable[..., dict[str, Tensor]]:
    return lambda self, clips, role: {"frames": pool(clips["features"])}


def shots_averaged_by_distance(self: ProtoNet, s: Tensor, q: Tensor, average: Tensor) -> Tensor:
    return -squared_euclidean(q[:, :, 0], s[:, :, 0]) @ average.transpose(1, 2)


def similarity_to_prototypes(self: ProtoNet, s: Tensor, q: Tensor, average: Tensor) -> Tensor:
    return similarity(q[:, :, 0], class_means(s, average)[:, :, 0], 0.01)


def one_minus_the_sum(self: ProtoNet, s: Tensor, q: Tensor, average: Tensor) -> Tensor:
    per_frame = cosine(q.transpose(1, 2), class_means(s, average).transpose(1, 2))
    return per_frame.sum(1) - 1


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
    "the same direction twice": (ONE, heads.otam, "otam_both", forward_twice),
    "a smooth minimum without its division": (ONE, heads.otam, "otam_both", cells(undivided)),
    "a smooth minimum of means": (ONE, heads.otam, "otam_both", cells(of_means)),
    "a hard minimum": (ONE, heads.otam, "otam_both", cells(hard)),
    "a start at the first row only": (FIVE, heads.otam, "otam_both", cells(start=1e4)),
    "no vertical steps": (FIVE, heads.otam, "otam_both", cells(vertical=False)),
    "a first row without its sum": (FIVE, heads.otam, "otam_both", cells(summed=False)),
    "an end at the last row only": (FIVE, heads.otam, "otam_both", cells(end=-2)),
    "supports taken as sorted, otam": (FIVE, heads.otam, "averaging", as_if_sorted),
    "distances summed over shots": (FIVE, heads.otam, "averaging", summed_shots),
    "the nearest shot alone": (FIVE, Otam, "match", nearest_shot),
    "prototypes aligned": (FIVE, Otam, "match", prototypes_aligned),
    "a loss summed over queries, otam": (TRAIN, heads.episodes, "query_losses", summed_losses),
    "a zero row before only": (SOFT_DTW, heads.otam, "soft_dtw_padded", zero_row_before_only),
    "OTAM for soft-DTW": (SOFT_DTW, heads.otam, "soft_dtw_padded", otam),
    "directions of soft-DTW summed": (SOFT_DTW, heads.otam, "soft_dtw_padded", lambda d, s: 2 * soft_dtw_padded(d, s)),
    "a distance that is not squared": (EUCLIDEAN, heads.protonet, "squared_euclidean", torch.cdist),
    "a mean over channels": (
        *(EUCLIDEAN, heads.protonet, "squared_euclidean"),
        lambda a, b: squared_euclidean(a, b) / a.shape[-1],
    ),
    "the strongest frame": (EUCLIDEAN, ProtoNet, "encode", pooled_by(lambda x: x.amax(1, keepdim=True))),
    "a sum over time": (EUCLIDEAN, ProtoNet, "encode", pooled_by(lambda x: x.sum(1, keepdim=True))),
    "squared distances to shots averaged": (EUCLIDEAN, ProtoNet, "_logits", shots_averaged_by_distance),
    "supports taken as sorted, protonet": (EUCLIDEAN, heads.protonet, "averaging", as_if_sorted),
    "medians as prototypes, protonet": (EUCLIDEAN, heads.protonet, "class_means", median_class),
    "a loss summed over queries, protonet": (TRAIN_EUCLIDEAN, heads.episodes, "query_losses", summed_losses),
    "similarity to prototypes": (PER_SHOT, ProtoNet, "_logits", similarity_to_prototypes),
    "epsilon as a floor, protonet": (PER_SHOT, heads.protonet, "similarity", clamped),
    "supports taken as sorted, cosine": (PER_SHOT, heads.protonet, "averaging", as_if_sorted),
    "one minus the sum of cosines": (TIMEWISE, ProtoNet, "_logits", one_minus_the_sum),
    "frames averaged before the cosine": (TIMEWISE, ProtoNet, "encode", pooled_by(lambda x: x.mean(1, keepdim=True))),
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
    (ONE, {"combination": "mean"}),
    (FIVE, {"cosine_epsilon": 0.0}),
    ("otam/eval_two_term_last_column", {"last_column": "three_term"}),
    (PER_SHOT, {"cosine_epsilon": 0.0}),
    (PER_SHOT, {"temperature": 0.5}),
    (PER_SHOT, {"metric": "cosine_prototype"}),
    (TIMEWISE, {"metric": "cosine_prototype"}),
    (TRAIN_EUCLIDEAN, {"tasks_per_batch": 1}),
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
