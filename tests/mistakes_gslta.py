"""More mistakes that the golden cases of GSLTA notice: in the code, and in a setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.gslta
from heads.base import EpisodeBatch, Task
from heads.episodes import averaging, class_means, query_losses
from heads.gslta import Gslta
from heads.mixing import mix_frames
from heads.subsequences import checked_draws, gather_subsequences
from heads.transformer import Block

FIVE, TRAIN = "gslta/eval_5way_5shot", "gslta/train_sfme"
FORWARD, MATCH, WEIGHED, SUPERVISED = Gslta.forward, Gslta.match, Gslta._weighed, Gslta._supervised


def block(
    of_values: bool = True, scale: float | None = None, residual: bool = True, gelu: str = "none"
) -> Callable[..., Tensor]:
    """A block in a plain form, with one of its parts replaced; of_values: values are normed as queries and keys are."""

    def forward(self: Block, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        n = self.norm(x)
        made = self.to_q(n), self.to_k(n), self.to_v(n if of_values else x)
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in made)
        a = torch.softmax(q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5), -1)
        y = (x if residual else n) + self.to_out((a @ v).transpose(1, 2).flatten(2))
        return y + self.narrow(F.gelu(self.widen(y), approximate=gelu))

    return forward


def labels_in_order_of_appearance(task: Task, support: Tensor) -> Tensor:
    """Classes numbered by which comes first among the supports."""
    first = [list(dict.fromkeys(labels)) for labels in task.support_labels.tolist()]
    renamed = [
        [order.index(label) for label in labels]
        for order, labels in zip(first, task.support_labels.tolist(), strict=True)
    ]
    return averaging(Task(task.way, torch.tensor(renamed)), support)


def shots_by_distance(self: Gslta, support: Any, query: Any, task: Task) -> Any:
    """Distances to a class's shots averaged, instead of one to its prototype."""
    average = averaging(task, support["frames"])
    out = MATCH(self, support, query, task)
    distances = self.align(query["frames"], support["frames"])
    return type(out)(-(distances @ average.transpose(1, 2)))


def prototypes_of_time(support: Tensor, average: Tensor) -> Tensor:
    """Prototypes averaged over the frames too."""
    means = class_means(support, average)
    return means.mean(2, keepdim=True).expand_as(means)


def without_queries(self: Gslta, batch: EpisodeBatch, class_logits: Tensor) -> Tensor:
    labels = batch.support_class
    return F.cross_entropy(class_logits[:, : labels.shape[1]].flatten(0, 1), labels.flatten().long(), reduction="sum")


def averaged_supervised(self: Gslta, batch: EpisodeBatch, class_logits: Tensor) -> Tensor:
    return SUPERVISED(self, batch, class_logits) / class_logits.shape[1]


def reconstruction(
    reduce: Callable[[Tensor], Tensor], encode: Callable[[Gslta, Tensor], Tensor]
) -> Callable[[Gslta, Tensor, Tensor], Tensor]:
    def loss(self: Gslta, pool: Tensor, logits: Tensor) -> Tensor:
        return reduce((self.decoder(encode(self, pool)) - pool).square())

    return loss


def student(self: Gslta, pool: Tensor) -> Tensor:
    return self.student(pool)


def plain_distillation(
    seen: Callable[[Gslta, Tensor], Tensor] = lambda self, x: self.teacher(x),
    reduce: Callable[[Tensor], Tensor] = lambda each: each.sum(2),
    smoothed: Callable[[Tensor], Tensor] = lambda prototypes: prototypes,
    swapped: bool = False,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The two distillation losses in a plain form, with one of their parts replaced."""

    def distillation(
        self: Gslta, batch: EpisodeBatch, logits: Tensor, prototypes: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        self._start_teacher(step)
        c, raw = self.config, batch.query["features"]
        sub, mate = checked_draws(batch, frames=c.seq_len, length=c.sub_seq_len, count=c.sub_seq_num)
        local = -self.align(seen(self, gather_subsequences(raw, sub)), smoothed(prototypes))
        each = reduce(F.log_softmax(local, -1).unflatten(1, (raw.shape[1], -1)))
        whole = F.softmax(logits, -1)
        itself, cross = (
            -(whole * given).sum(-1).mean(1).sum() for given in (each, each.take_along_dim(mate.unsqueeze(-1), 1))
        )
        return (cross, itself) if swapped else (itself, cross)

    return distillation


def whole_clips(clips: Tensor, sub: Tensor) -> Tensor:
    """The first frames of a clip in place of the drawn ones."""
    return gather_subsequences(clips, torch.arange(sub.shape[-1]).expand_as(sub))


def pool_without_gradient(x: Tensor, pool: Tensor, **how: Any) -> Tensor:
    return mix_frames(x, pool.detach(), **how)


def pool_of_first_half(x: Tensor, pool: Tensor, **how: Any) -> Tensor:
    return mix_frames(x, pool[:, : pool.shape[1] // 2], **how)


def quick_teacher(self: Gslta, step: int) -> None:
    """The momentum at the wrong one of the two."""
    m = self.config.ema_momentum
    for teacher, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
        teacher.data.mul_(1 - m).add_(m * own.data)


def averaged_meta(logits: Tensor, labels: Tensor) -> Tensor:
    return query_losses(logits, labels) / labels.shape[1]


def unnormed_classes(self: Gslta, batch: EpisodeBatch, step: int) -> Any:
    """A class head without its norm."""
    normed = self.class_norm
    self.class_norm = torch.nn.Identity()
    try:
        return FORWARD(self, batch, step)
    finally:
        self.class_norm = normed


MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "values not normed": (FIVE, Block, "forward", block(of_values=False)),
    "scores of attention not scaled": (FIVE, Block, "forward", block(scale=1.0)),
    "scores scaled by the whole width": (FIVE, Block, "forward", block(scale=512**-0.5)),
    "a residual onto the normed input": (FIVE, Block, "forward", block(residual=False)),
    "another GELU": (FIVE, Block, "forward", block(gelu="tanh")),
    "classes in order of appearance": (FIVE, heads.gslta, "averaging", labels_in_order_of_appearance),
    "distances to shots averaged": (FIVE, Gslta, "match", shots_by_distance),
    "prototypes without time": (FIVE, heads.gslta, "class_means", prototypes_of_time),
    "a class loss of supports only": (TRAIN, Gslta, "_supervised", without_queries),
    "a class loss averaged": (TRAIN, Gslta, "_supervised", averaged_supervised),
    "a class head without its norm": (TRAIN, Gslta, "forward", unnormed_classes),
    "a meta loss averaged": (TRAIN, heads.gslta, "query_losses", averaged_meta),
    "a reconstruction averaged over frames": (
        *(TRAIN, Gslta, "_reconstruction"),
        reconstruction(lambda gap: gap.mean(), student),
    ),
    "a reconstruction summed over clips": (
        *(TRAIN, Gslta, "_reconstruction"),
        reconstruction(lambda gap: gap.mean(-1).sum(), student),
    ),
    "a reconstruction from the teacher": (
        *(TRAIN, Gslta, "_reconstruction"),
        reconstruction(lambda gap: gap.mean(-1).sum(-1).mean(), lambda self, pool: self.teacher(pool)),
    ),
    "a reconstruction from what the student may not learn by": (
        *(TRAIN, Gslta, "_reconstruction"),
        reconstruction(lambda gap: gap.mean(-1).sum(-1).mean(), lambda self, pool: self.student(pool).detach()),
    ),
    "subsequences averaged": (TRAIN, Gslta, "_distillation", plain_distillation(reduce=lambda each: each.mean(2))),
    "subsequences seen by the student": (
        *(TRAIN, Gslta, "_distillation"),
        plain_distillation(lambda self, x: self.student(x)),
    ),
    "prototypes without gradient": (
        *(TRAIN, Gslta, "_distillation"),
        plain_distillation(smoothed=lambda prototypes: prototypes.detach()),
    ),
    "a query taken for its mate": (TRAIN, Gslta, "_distillation", plain_distillation(swapped=True)),
    "other frames than the drawn ones": (TRAIN, heads.gslta, "gather_subsequences", whole_clips),
    "a pool without gradient": (TRAIN, heads.gslta, "mix_frames", pool_without_gradient),
    "half the pool": (TRAIN, heads.gslta, "mix_frames", pool_of_first_half),
    "a teacher at the student's pace": (TRAIN, Gslta, "after_forward", quick_teacher),
}
WEIGHTS = {"supervised": 1, "meta": 1, "reconstruction": 0.1, "self": 0.05, "cross": 0.05}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (FIVE, {"otam_lambda": 0.1}),
    (FIVE, {"cos_eps": 0.0}),
    (FIVE, {"otam_directions": 1}),
    (TRAIN, {"tasks_per_batch": 1}),
    *((TRAIN, {"loss_weights": WEIGHTS | {name: 0}}) for name in WEIGHTS),
]
