"""TA2N: two-stage action alignment. Warp every clip's maps in time; re-read the query in the support's time and pool both in space.

Li and others, "TA2N: Two-Stage Action Alignment Network for Few-Shot Action Recognition", AAAI 2022 (arXiv 2107.04782). Consumes the
maps of a backbone's last stage, [T, C, H, H] per clip (T, H >= 4; published: 8, 2048, 7). All classes of an episode have the same
number of shots. With more than one, the shots of a class are fused in time, relative to the first one given, and queries are projected.
One and several are two functions, of other weights: a head that was trained on one of them alone refuses to be evaluated by the other.

`TA2N` (heads.ta2n_network) is the module of its authors, for use alone on grouped support and query maps; `Ta2n` is the head of this
package around it. Differs from the published code where that can't work as its authors show it: stages are given as True, False, None
or a class, offsets are returned, supports come in any order, the state of the decay is kept in our checkpoints. What is computed is as
published. Batch norms in training see all pairs of one episode, so `Ta2n.forward` runs E > 1 episodes one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.episodes import averaging, finite, one_by_one, query_losses, require_pair
from heads.published import Layout
from heads.ta2n_blocks import Parts, frame_cosines, in_time
from heads.ta2n_network import LEAST, TA2N

READ: dict[Role, tuple[str, ...]] = {
    "support": ("map", "key", "value", "taps", "support_half", "multi_key", "multi_query"),
    "query": ("map", "query", "value", "query_half", "border"),
}
"""The parts that `match` reads, of those that `encode` makes for either role."""


@dataclass(frozen=True)
class Ta2nConfig:
    """Sizes and switches; the defaults are the published ones.

    dim: channels of the maps. hidden: width of attention (0: as dim). seq_len: frames. shot: 0 serves episodes of any number of shots;
    1 encodes clips for one-shot episodes alone, more for episodes with several shots alone (half the memory in evaluation), and the
    others are refused. dropout: of the maps, in training. perturb_eval: nine windows in evaluation too. perturb_decay_every: halve their
    spread at iterations divisible by it (0 never). dist_norm: a layer norm over the `way` logits of a query. loss_reduction: sum or mean
    over the queries of an episode; either is divided by tasks_per_batch.
    """

    dim: int = 2048
    hidden: int = 0
    seq_len: int = 8
    shot: int = 0
    first_stage: bool = True
    second_stage: bool = True
    dropout: float = 0.5
    perturb_eval: bool = True
    perturb_decay_every: int = 0
    dist_norm: bool = False
    way: int = 5
    loss_reduction: str = "sum"
    tasks_per_batch: int = 16

    def __post_init__(self) -> None:
        if self.loss_reduction not in ("sum", "mean"):
            raise unknown("ta2n loss_reduction", self.loss_reduction, ("sum", "mean"))
        least = {"dim": 1, "hidden": 0, "seq_len": LEAST, "shot": 0, "perturb_decay_every": 0, "tasks_per_batch": 1}
        for name, low in (least | {"way": 2}).items():
            if getattr(self, name) < low:
                raise UsageError(f"ta2n {name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"ta2n dropout must be at least 0 and below 1, got {self.dropout}")
        if not self.second_stage and (self.perturb_decay_every or not self.perturb_eval):
            raise UsageError("ta2n perturb_decay_every and perturb_eval would do nothing without second_stage")


@HEADS.add("ta2n")
class Ta2n(Head):
    """TA2N over stored maps: per clip all that a clip allows, per pair only attention, offsets and windows."""

    Config = Ta2nConfig
    any_shot = False
    bn_passes = "separate"
    role_matters = False
    config: Ta2nConfig

    def __init__(self, config: Ta2nConfig) -> None:
        super().__init__(config)
        dim = (config.dim, config.hidden or config.dim)
        self.align = TA2N(config.seq_len, max(1, config.shot), dim, config.first_stage, config.second_stage)
        self.norm_layer = nn.LayerNorm(config.way)
        self.trained: Tensor
        """Whether training has seen episodes of one shot, and of several: bool [2]. A published file records neither."""
        self.register_buffer("trained", torch.zeros(2, dtype=torch.bool))
        if self.align.secondstage is not None:
            acm = self.align.secondstage
            acm.perturb_eval = config.perturb_eval
            acm.register_buffer("decays", acm.decays, persistent=True)

    @property
    def needs(self) -> Needs:
        """Maps [seq_len, dim, H, H] of any side H >= 4."""
        return Needs({"features": (self.config.seq_len, self.config.dim, None, None)}, at="map")

    def check(self, clips: Clips, role: Role) -> None:
        """As Head.check; maps must be square, and large enough to be halved twice."""
        super().check(clips, role)
        high, wide = clips["features"].shape[-2:]
        if high != wide or high < LEAST:
            raise UsageError(
                f"Ta2n needs square maps with sides of at least {LEAST}, got {high}x{wide} per frame",
                hint="take a square crop of at least 128 pixels (a map of a ResNet has a 32nd of its side)",
            )

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Maps [B, T, C, H, H] -> theta [B, 2], and parts for either role (`TA2N.support_parts`, `query_parts`).

        Names with "fused_" are for episodes with several shots.
        """
        self.check(clips, role)
        paths = (False, True) if not self.config.shot else (self.config.shot > 1,)
        maps, codes = self._warped(clips["features"])
        for fused in paths:
            codes |= self._parts(maps, ("support", "query"), fused, early=True)
        return codes

    def _warped(self, features: Tensor) -> tuple[Tensor, Parts]:
        maps, theta = self.align.warp(F.dropout(features, self.config.dropout, self.training))
        return maps, {} if theta is None else {"theta": theta}

    def _parts(self, maps: Tensor, roles: Iterable[Role], fused: bool, *, early: bool) -> Parts:
        """Parts of warped maps; early: what can be fused later than made is made here, per shot, and not per class in `match`."""
        align, prefix = self.align, "fused_" if fused else ""
        made: Parts = {}
        if fused and "support" in roles:
            made |= align.shot_parts(maps)
        maps = align.projected(maps) if fused else maps
        if "query" in roles:
            made |= align.query_parts(maps)
        if "support" in roles:
            made |= align.support_parts(maps) if early or not fused else {"map": maps.flatten(3)}
        if "taps" in made and not fused:
            made["support_half"] = in_time(made.pop("taps"))
        return {prefix + name: part for name, part in made.items()}

    def _shots(self, task: Task, support: Tensor) -> Tensor:
        """Places int64 [E, W, K] of each class's clips, in the order given; UsageError where their numbers differ, or `shot` excludes."""
        counts = (averaging(task, support) > 0).sum(-1)
        if int(counts.min()) != int(counts.max()):
            raise UsageError(
                f"Ta2n needs the same number of shots of every class, got {counts.tolist()}",
                hint="sample episodes with a fixed number of shots",
            )
        shots, limit = int(counts.min()), self.config.shot
        if limit and (shots > 1) != (limit > 1):
            raise UsageError(
                f"Ta2n with shot = {limit} is not for episodes of {shots} shots: one and several are two functions, of other weights",
                hint="set shot = 0 to allow both",
            )
        order: Tensor = torch.argsort(task.support_labels, dim=1, stable=True)
        return order.view(-1, task.way, shots)

    def _episodes(self, support: Clips, query: Clips, task: Task) -> Iterable[tuple[Parts, Parts]]:
        """Parts of the prototypes [W, ...] and of the queries [Q, ...], episode by episode."""
        order = self._shots(task, next(iter(support.values())))
        fused = order.shape[-1] > 1
        s, q = self._path(support, fused, "support"), self._path(query, fused, "query")
        require_pair(self, s["map"][..., 0], q["map"][..., 0], same_frames=True)
        if s["map"].shape[-1] != q["map"].shape[-1]:
            raise UsageError(
                f"Ta2n needs support and query maps of the same side, got {s['map'].shape[-1]} and {q['map'].shape[-1]} pixels"
            )
        for e, places in enumerate(order):
            shots = {name: part[e][places] for name, part in s.items()}
            yield self.align.prototypes(shots), {name: part[e] for name, part in q.items()}

    def _require_trained(self, shots: int) -> None:
        """UsageError where training is known to have seen the function of the other shots alone."""
        one, several = self.trained.tolist()
        if (several and not one) if shots == 1 else (one and not several):
            raise UsageError(
                f"Ta2n was trained with {'one shot' if one else 'several shots'} per class, this episode has {shots}: "
                "one and several are two functions, of other weights",
                hint=f"train with --set train.shot={shots}, or evaluate with --shot {'1' if one else 'N, N at least 2'}",
            )

    @staticmethod
    def _path(codes: Clips, fused: bool, role: Role) -> Parts:
        """The codes that a role reads in episodes of several shots (fused) or one, under the names that `TA2N` has for them."""
        prefix = "fused_" if fused else ""
        return {name: codes[prefix + name] for name in READ[role] if prefix + name in codes}

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] of encoded clips; shows theta_support [E, S, 2] and theta_query [E, Q, 2] (scale and shift of time).

        In evaluation, UsageError for one shot where training has seen several alone, and the reverse; a fresh or published head takes both.
        Episodes go one by one. In evaluation, what their pairs need at once stays within heads.ta2n_network.BLOCK_BYTES beside the codes.
        """
        if not self.training:
            self._require_trained(self._shots(task, next(iter(support.values()))).shape[-1])
        distances = torch.stack([self._distances(s, q) for s, q in self._episodes(support, query, task)])
        logits = -distances.transpose(1, 2)
        if self.config.dist_norm:
            if task.way != self.config.way:
                raise UsageError(f"Ta2n's dist_norm fixes the way at {self.config.way}, got {task.way} classes")
            logits = self.norm_layer(logits)
        shows = {f"theta_{n}": c["theta"] for n, c in (("support", support), ("query", query)) if "theta" in c}
        return HeadOutput(finite(self, logits), {}, shows)

    def _distances(self, support: Parts, query: Parts) -> Tensor:
        """Distances [W, Q] of the pairs of one episode."""
        if self.align.secondstage is not None:
            return self.align.paired(support, query, lambda s, q, _: frame_cosines(s, q))
        s, q = (F.normalize(parts["map"].flatten(2), dim=-1) for parts in (support, query))
        return (1 - torch.einsum("ntf,mtf->nmt", s, q)).sum(-1)

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Loss "meta": summed cross-entropy of queries / tasks_per_batch; supports and queries are two batches to stage 1's batch norms."""
        self.check(batch.support, "support")
        self.check(batch.query, "query")
        if len(batch.query_labels) > 1:
            return one_by_one(self, batch, step)
        support, query = batch.support["features"], batch.query["features"]
        require_pair(self, support.flatten(3)[..., 0], query.flatten(3)[..., 0], same_frames=True)
        fused = self._shots(batch.task, support).shape[-1] > 1
        if self.training:
            self.trained[int(fused)] = True
        codes = []
        roles: tuple[Role, ...] = ("support", "query")
        for role, features in zip(roles, (support, query), strict=True):
            maps, made = self._warped(features[0])
            made |= self._parts(maps, (role,), fused, early=False)
            codes.append({name: part.unsqueeze(0) for name, part in made.items()})
        out = self.match(codes[0], codes[1], batch.task)
        losses = query_losses(out.logits, batch.query_labels)
        loss = losses.sum() if self.config.loss_reduction == "sum" else losses.mean(1).sum()
        return HeadOutput(out.logits, {"meta": (loss / self.config.tasks_per_batch, 1.0)}, out.shows)

    def after_forward(self, step: int) -> None:
        """Halve the spread of the windows where perturb_decay_every says so."""
        if self.config.perturb_decay_every and step % self.config.perturb_decay_every == 0:
            self.align.decay()

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """Stage 2's attention of one episode, as path [Q, W, Tq, Ts], and minus its scores, as cost; {} without stage 2."""
        acm = self.align.secondstage
        if acm is None:
            return {}
        ((s, q),) = self._episodes(support, query, task)
        scores = acm.scores(s, q).permute(1, 0, 3, 2)
        return {"cost": -scores, "path": F.softmax(scores, 2)}

    def published_layout(self) -> Layout:
        """The published checkpoint's keys: the decay's count and `trained` are ours alone, a loaded file starts at the full spread."""
        names = {name: name for name in self.align.state_dict(prefix="align.") if not name.endswith(".decays")}
        names |= {f"norm_layer.{leaf}": f"protypicalNet.norm_layer.{leaf}" for leaf in ("weight", "bias")}
        return Layout(names, ("resnet.", "resnet.module."), ("resnet.*fc.*",))
