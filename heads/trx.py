"""TRX: Temporal-Relational CrossTransformers, query tuples of frames against the tuples of all shots of a class.

Perrett, Masullo, Burghardt, Mirmehdi, Damen, "Temporal-Relational CrossTransformers for Few-Shot Action Recognition", CVPR 2021
(arXiv 2101.06184). Consumes pooled frame features [T, D] per clip (D = 2048 or 512); supports in any order, shots may be unequal.
Every ordered tuple of w frames of a query attends to all w-tuples of all shots of a class at once; what it attends to is the class's
prototype for this tuple, and the class's logit is minus the mean squared distance of tuples to prototypes. Each w ("cardinality") has
weights of its own; logits are averaged over them.

As published, but for the cost: no tuple of features is ever laid out ([L, w*D]), every frame is projected once per place in a tuple and
the parts are added. The bias of the values cancels (weights of attention sum to 1) and the norm of the values is never applied there
either: both are kept for checkpoints, without gradient, and not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.episodes import averaging, encode_clips, finite, query_losses, require_pair
from heads.published import Layout
from heads.published_resnet import PREFIXES

REDUCTIONS = ("sum", "mean")
CHUNK_BYTES = 64 * 2**20
"""What `match` lays out at a time at most, beside the codes it is given (unless one query of one episode takes more)."""


@dataclass(frozen=True)
class TrxConfig:
    """temp_set: the cardinalities, in the order of a checkpoint's. trans_linear_out_dim: width of keys and values.

    loss_reduction over an episode's queries: "sum" (as published) or "mean" (the authors' later library); both / tasks_per_batch.
    """

    dim: int = 2048
    seq_len: int = 8
    temp_set: tuple[int, ...] = (2, 3)
    trans_linear_out_dim: int = 1152
    trans_dropout: float = 0.1
    loss_reduction: str = "sum"
    tasks_per_batch: int = 16

    def __post_init__(self) -> None:
        if self.loss_reduction not in REDUCTIONS:
            raise unknown("trx loss_reduction", self.loss_reduction, REDUCTIONS)
        for name in ("dim", "seq_len", "trans_linear_out_dim", "tasks_per_batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"trx {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.trans_dropout < 1:
            raise UsageError(f"trx trans_dropout must be at least 0 and below 1, got {self.trans_dropout}")
        sizes = list(self.temp_set)
        if not sizes or len(set(sizes)) < len(sizes) or not all(1 <= size <= self.seq_len for size in sizes):
            raise UsageError(
                f"trx temp_set must hold different sizes of tuples between 1 and seq_len = {self.seq_len}, got {sizes}",
                hint="for example temp_set = [2, 3]",
            )


def position_code(length: int, dim: int) -> Tensor:
    """0.1 sin and cos of the position at geometric wavelengths, in turns: float32 [length, dim]."""
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    return 0.1 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


class TupleEncoder(nn.Module):
    """Keys and values of all tuples of `size` frames: [B, T, D] -> two of [B, L, d], L = T over size, tuples in lexicographic order.

    Position code and dropout come first, here, so that every cardinality has its own dropout. Only keys are normalised.
    """

    pe: Tensor
    tuples: Tensor

    def __init__(self, config: TrxConfig, size: int) -> None:
        super().__init__()
        self.k_linear = nn.Linear(size * config.dim, config.trans_linear_out_dim)
        self.v_linear = nn.Linear(size * config.dim, config.trans_linear_out_dim)
        self.v_linear.bias.requires_grad_(False)
        self.norm_k = nn.LayerNorm(config.trans_linear_out_dim)
        self.norm_v = nn.LayerNorm(config.trans_linear_out_dim).requires_grad_(False)
        self.dropout = nn.Dropout(config.trans_dropout)
        self.register_buffer("pe", position_code(int(1.5 * config.seq_len), config.dim), persistent=False)
        self.register_buffer("tuples", torch.combinations(torch.arange(config.seq_len), size), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        y = self.dropout(x + self.pe[: x.shape[1]])
        keys: Tensor = self.norm_k(self._project(y, self.k_linear.weight, self.k_linear.bias))
        return keys, self._project(y, self.v_linear.weight)

    def _project(self, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """W t + b of all tuples t: the part of W for each place in a tuple, times every frame, added up; [B, T, D] -> [B, L, d]."""
        places = self.tuples.unbind(1)
        parts = weight.chunk(len(places), 1)
        made = F.linear(y, parts[0], bias)[:, places[0]]
        for place, part in zip(places[1:], parts[1:], strict=True):
            made += F.linear(y, part)[:, place]
        return made


def shots_by_class(average: Tensor) -> tuple[Tensor, Tensor]:
    """Places int64 [E, W, K] of each class's shots among the support clips and whether there is one, bool [E, W, K].

    average: the matrix [E, W, S] of `heads.episodes.averaging`; K: the most shots of a class.
    """
    member = average > 0
    count = member.sum(-1, keepdim=True)
    most = int(count.max())
    places = member.to(torch.int8).argsort(stable=True, dim=-1, descending=True)[..., :most]
    return places, torch.arange(most, device=count.device) < count


def attend(q_k: Tensor, q_v: Tensor, s_k: Tensor, s_v: Tensor, held: Tensor) -> Tensor:
    """Squared distances of query tuples to what they attend to in each class, mean over the tuples: [E, Q, W].

    q_k, q_v: [E, Q, L, d]; s_k, s_v: [E, W, M, d], the M tuples of all shots of a class; held: bool [E, W, M], False where there is none.
    """
    queries, length, width = q_k.shape[1:]
    scores = q_k.flatten(1, 2) @ s_k.flatten(1, 2).transpose(1, 2) / width**0.5
    scores = scores.unflatten(2, held.shape[1:]).transpose(1, 2).masked_fill(~held.unsqueeze(2), -torch.inf)
    gap = (scores.softmax(-1) @ s_v).sub_(q_v.flatten(1, 2).unsqueeze(1))
    distance: Tensor = torch.linalg.vector_norm(gap.unflatten(2, (queries, length)), dim=(3, 4)).square() / length
    return distance.transpose(1, 2)


def parts(count: int, size: int) -> Iterator[slice]:
    """0..count-1 in runs of at most `size`."""
    return (slice(start, start + size) for start in range(0, count, size))


def class_distances(
    query: tuple[Tensor, Tensor], support: tuple[Tensor, Tensor], places: Tensor, held: Tensor
) -> Tensor:
    """`attend` for keys and values of all clips, [E, Q, L, d] and [E, S, L, d], by runs of episodes and queries: [E, Q, W].

    What a run lays out (the supports class by class, scores, weights, prototypes) takes CHUNK_BYTES at most, or as much as one query of
    one episode takes if that is more; in training all of it is kept for the gradient.
    """
    queries, length, width = query[0].shape[1:]
    tuples = places[0].numel() * length
    per_query, per_episode = length * (4 * tuples + places.shape[1] * width), 2 * tuples * width
    room = CHUNK_BYTES // query[0].element_size()
    at_once = max(1, room // (per_episode + queries * per_query))
    some = max(1, (room - per_episode) // per_query)

    def run(episodes: slice) -> Tensor:
        index = places[episodes].flatten(1)
        row = torch.arange(len(index), device=index.device).unsqueeze(1)
        s_k, s_v = (code[episodes][row, index].reshape(len(index), places.shape[1], -1, width) for code in support)
        present = held[episodes].repeat_interleave(length, -1)
        q_k, q_v = (code[episodes] for code in query)
        return torch.cat([attend(q_k[:, at], q_v[:, at], s_k, s_v, present) for at in parts(queries, some)], 1)

    return torch.cat([run(episodes) for episodes in parts(len(places), at_once)])


@HEADS.add("trx")
class Trx(Head):
    """Tuples of frames by attention between a query and all shots of a class."""

    Config = TrxConfig
    role_matters = False
    config: TrxConfig

    def __init__(self, config: TrxConfig) -> None:
        super().__init__(config)
        self.transformers = nn.ModuleList(TupleEncoder(config, size) for size in config.temp_set)

    @property
    def needs(self) -> Needs:
        """Pooled features [seq_len, dim]."""
        return Needs({"features": (self.config.seq_len, self.config.dim)})

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Features [B, T, D] -> keys and values of the tuples of cardinality i, {"k<i>", "v<i>": [B, L_i, d]}."""
        self.check(clips, role)
        codes = {}
        for i, encoder in enumerate(self.transformers):
            codes[f"k{i}"], codes[f"v{i}"] = encoder(clips["features"])
        return codes

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W]; shows those of each cardinality w alone, "logits_of_set_<w>"."""
        require_pair(self, support["k0"], query["k0"], same_frames=False)
        places, held = shots_by_class(averaging(task, support["k0"]))
        each = {}
        for i, size in enumerate(self.config.temp_set):
            q, s = (query[f"k{i}"], query[f"v{i}"]), (support[f"k{i}"], support[f"v{i}"])
            each[f"logits_of_set_{size}"] = -class_distances(q, s, places, held)
        return HeadOutput(finite(self, torch.stack(list(each.values())).mean(0)), shows=each)

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Loss "meta": cross-entropy, summed (or averaged) over an episode's queries, / tasks_per_batch."""
        del step
        support = encode_clips(self, batch.support, "support")
        out = self.match(support, encode_clips(self, batch.query, "query"), batch.task)
        losses = query_losses(out.logits, batch.query_labels)
        per_episode = losses.sum(1) if self.config.loss_reduction == "sum" else losses.mean(1)
        return HeadOutput(out.logits, {"meta": (per_episode.sum() / self.config.tasks_per_batch, 1.0)}, out.shows)

    def published_layout(self) -> Layout:
        """The published checkpoint's keys: ours, the computed position codes, and the lists of tuples of the authors' later library."""
        names = {name: name for name in self.state_dict()}
        computed = {
            f"transformers.{i}.pe.pe": encoder.get_buffer("pe")[None] for i, encoder in enumerate(self.transformers)
        }
        return Layout(names, PREFIXES, ("transformers.*.tuples.*",), computed=computed, numbered=True)
