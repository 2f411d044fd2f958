"""GSLTA: global sequences and local tuples alignment, for cross-domain few-shot action recognition.

"Global Sequences and Local Tuples Alignment for Cross-Domain Few-Shot Action Recognition", Knowledge-Based Systems, 2025
(doi 10.1016/j.knosys.2025.113041). Consumes pooled frame features [T, 512] per clip (T = 8). A temporal transformer (the student)
encodes each clip; class prototypes are frame-wise means over the shots; a query is scored by its OTAM distance to each prototype.
Training adds a class loss, a reconstruction of unlabelled target clips, two distillation losses from local subsequences seen by a
momentum copy of the student (the inner teacher), and at every second iteration mixes source with target frames (heads.mixing).

Differs from the published code where that is unused (the global-to-local terms and their draw of support subsequences are left
out), can't work (one query per class is an error) or belongs to the process rather than to the method: `teacher_on_resume` is
"keep" by default, so that an interrupted run continues as if it had not been; "copy" is as published. The rest is as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown
from heads.alignment import otam_both, soft_path
from heads.base import HEADS, Clips, EpisodeBatch, EpisodeShape, Head, HeadOutput, Needs, Role, Task
from heads.distances import frame_distances, similarity
from heads.episodes import averaging, class_means, finite, query_losses, require_labels, require_pair
from heads.mixing import INDICES, mix_frames
from heads.published import Layout
from heads.subsequences import checked_draws, draw_mates, draw_subsequences, gather_subsequences
from heads.transformer import Encoder, published_names

UNUSED = ("scale", "mappingNet.*", "mappingLinear_seq_len.*", "mappingLinear_seq_num.*", "backbone.*resnet.fc.*")


@dataclass(frozen=True)
class GsltaConfig:
    """Sizes, losses and switches; the defaults are the published ones, but for teacher_on_resume (see the module).

    otam_directions: 2, or 1 (query frames along rows only). class_num: source training classes. sfme_every: mix at iterations
    divisible by it (1 always, 0 never). sfme_index: published or intended. loss_scaling: "published" divides supervised and meta losses
    by tasks_per_batch, "per_task" all five. Up to iteration start_cross only the supervised loss counts and the teacher rests.
    """

    dim: int = 512
    heads: int = 8
    dim_head: int = 64
    mlp_dim: int = 2048
    depth: int = 1
    seq_len: int = 8
    class_num: int = 64
    otam_lambda: float = 0.5
    otam_directions: int = 2
    cos_eps: float = 0.01
    out_dropout: float = 0.2
    ff_dropout: float = 0.05
    weight_supervised: float = 1.0
    weight_meta: float = 1.0
    weight_reconstruction: float = 0.1
    weight_self: float = 0.05
    weight_cross: float = 0.05
    tasks_per_batch: int = 16
    loss_scaling: str = "published"
    sub_seq_len: int = 4
    sub_seq_num: int = 10
    start_cross: int = 0
    ema_momentum: float = 0.9998
    teacher_on_resume: str = "keep"
    sfme_every: int = 2
    sfme_index: str = "published"
    sfme_mix: float = 0.2

    def __post_init__(self) -> None:
        for name, known in (
            ("loss_scaling", ("published", "per_task")),
            ("teacher_on_resume", ("copy", "keep")),
            ("sfme_index", INDICES),
        ):
            if getattr(self, name) not in known:
                raise unknown(f"gslta {name}", getattr(self, name), known)
        for name in ("dim", "heads", "dim_head", "mlp_dim", "depth", "seq_len", "class_num", "tasks_per_batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"gslta {name} must be at least 1, got {getattr(self, name)}")
        if self.otam_directions not in (1, 2):
            raise UsageError(f"gslta otam_directions must be 1 or 2, got {self.otam_directions}")
        if (
            self.otam_lambda <= 0
            or not 0 <= self.ema_momentum <= 1
            or self.sfme_every < 0
            or not 0 <= self.sfme_mix <= 1
        ):
            raise UsageError("gslta needs otam_lambda > 0, ema_momentum and sfme_mix in 0..1, sfme_every >= 0")

    @property
    def distils(self) -> bool:
        """Whether one of the two distillation losses has a weight."""
        return self.weight_self != 0 or self.weight_cross != 0


@HEADS.add("gslta")
class Gslta(Head):
    """Student encoder, inner teacher, decoder and class head over pooled frame features."""

    Config = GsltaConfig
    bn_passes = "separate"
    role_matters = False
    config: GsltaConfig

    def __init__(self, config: GsltaConfig) -> None:
        super().__init__(config)
        self.student = self._encoder()
        self.teacher = self._encoder().requires_grad_(False)
        self.decoder = self._encoder()
        self.class_norm = nn.LayerNorm(config.dim)
        self.class_layer = nn.Linear(config.dim, config.class_num)
        self.teacher_started = False
        """Whether this process has already decided how the teacher starts (see `_start_teacher`)."""

    def _encoder(self) -> Encoder:
        c = self.config
        return Encoder(
            depth=c.depth,
            dim=c.dim,
            heads=c.heads,
            dim_head=c.dim_head,
            mlp_dim=c.mlp_dim,
            out_dropout=c.out_dropout,
            ff_dropout=c.ff_dropout,
        )

    @property
    def needs(self) -> Needs:
        """Pooled features [seq_len, dim]."""
        return Needs({"features": (self.config.seq_len, self.config.dim)})

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Features [B, T, D] -> {"frames": [B, T, D]}, by the student."""
        self.check(clips, role)
        return {"frames": self.student(clips["features"])}

    def align(self, query: Tensor, reference: Tensor) -> Tensor:
        """Soft alignment distances of clips: [E, Q, Tq, D], [E, R, Ts, D] -> [E, Q, R]."""
        return self._otam(self._costs(query, reference))

    def _costs(self, query: Tensor, reference: Tensor) -> Tensor:
        return frame_distances(query, reference, lambda a, b: 1 - similarity(a, b, self.config.cos_eps))

    def _otam(self, table: Tensor) -> Tensor:
        return otam_both(table, self.config.otam_lambda, single=self.config.otam_directions == 1)

    def _prototypes(self, support: Tensor, task: Task) -> Tensor:
        return class_means(support, averaging(task, support))

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] from {"frames": [E, S, T, D]} and {"frames": [E, Q, T, D]}."""
        s, q = support["frames"], query["frames"]
        require_pair(self, s, q, same_frames=False)
        return HeadOutput(finite(self, -self.align(q, self._prototypes(s, task))))

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """Each query against each class prototype, one episode: cost and path [Q, W, Tq, Ts]."""
        cost = self._costs(query["frames"], self._prototypes(support["frames"], task))[0]
        return {"cost": cost, "path": soft_path(cost, self._otam)}

    def draw(self, shape: EpisodeShape, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """sub_query int64 [sub_seq_num, sub_seq_len], increasing frames; cross_partner int64 [Q], another query of the same class."""
        c = self.config
        if not c.distils:
            return {}
        return {
            "sub_query": draw_subsequences(c.seq_len, c.sub_seq_len, c.sub_seq_num, rng),
            "cross_partner": draw_mates(np.asarray(shape.query_labels), rng),
        }

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """The five losses of training iteration `step` (from 1), summed over the E episodes; shows class_logits and the mixed features."""
        pool = self._check_batch(batch, step)
        support, query = (self._mix(clips["features"], pool, step) for clips in (batch.support, batch.query))
        s, q = self.student(support), self.student(query)
        prototypes = self._prototypes(s, batch.task)
        logits = finite(self, -self.align(q, prototypes))
        class_logits = self.class_layer(self.class_norm(torch.cat([s, q], 1).mean(2)))
        meta = query_losses(logits, batch.query_labels).sum()
        itself, cross = self._distillation(batch, logits, prototypes, step)
        values = {
            "supervised": self._supervised(batch, class_logits),
            "meta": meta,
            "reconstruction": self._reconstruction(pool, logits),
            "self": itself,
            "cross": cross,
        }
        shows = {"class_logits": class_logits, "mixed_support": support, "mixed_query": query}
        return HeadOutput(logits, self._weighed(values, step), shows)

    def after_forward(self, step: int) -> None:
        """Move the teacher towards the student: R <- m R + (1 - m) S.

        Called before backward, as published: through `.data`, so that a graph that still holds the teacher's weights uses the moved ones.
        """
        if step <= self.config.start_cross:
            return
        m = self.config.ema_momentum
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            teacher.data.mul_(m).add_((1 - m) * student.data)

    def _start_teacher(self, step: int) -> None:
        """Copy the student at the first iteration past start_cross; when this process began later, only if teacher_on_resume says so."""
        c = self.config
        if not self.teacher_started and (step == c.start_cross + 1 or c.teacher_on_resume == "copy"):
            self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_started = True

    def _check_batch(self, batch: EpisodeBatch, step: int) -> Tensor | None:
        """Refuse wrong shapes, NaN and labels; returns the unlabelled features [E, U, T, D]."""
        self.check(batch.support, "support")
        self.check(batch.query, "query")
        s, q = batch.support["features"], batch.query["features"]
        require_pair(self, s, q, same_frames=True)
        require_labels(
            batch.support_class, tuple(s.shape[:2]), self.config.class_num, "source classes of support clips"
        )
        require_labels(batch.query_class, tuple(q.shape[:2]), self.config.class_num, "source classes of query clips")
        if batch.unlabelled is not None:
            self.check(batch.unlabelled, "unlabelled")
            return batch.unlabelled["features"]
        if self._mixes(step) or self.config.weight_reconstruction:
            raise UsageError(
                "Gslta trains with unlabelled target clips (frame mixing and reconstruction), and this episode has none",
                hint="name an unlabelled part in the recipe, or set sfme_every = 0 and weight_reconstruction = 0",
            )
        return None

    def _mixes(self, step: int) -> bool:
        return self.config.sfme_every > 0 and step % self.config.sfme_every == 0

    def _mix(self, x: Tensor, pool: Tensor | None, step: int) -> Tensor:
        if pool is None or not self._mixes(step):
            return x
        c = self.config
        return mix_frames(x, pool.flatten(1, 2), share=c.sfme_mix, index=c.sfme_index, epsilon=c.cos_eps)

    def _supervised(self, batch: EpisodeBatch, class_logits: Tensor) -> Tensor:
        labels = torch.cat([batch.support_class, batch.query_class], 1).long()
        return F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), reduction="sum")

    def _reconstruction(self, pool: Tensor | None, logits: Tensor) -> Tensor:
        """Mean over an episode's unlabelled clips of ||G(S(x)) - x||^2 / D, summed over frames (and over episodes)."""
        if pool is None:
            return logits.new_zeros(())
        gap: Tensor = self.decoder(self.student(pool)) - pool
        return gap.square().sum((2, 3)).mean(1).sum() / self.config.dim

    def _distillation(
        self, batch: EpisodeBatch, logits: Tensor, prototypes: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropies of a query's own local subsequences, and of its mate's, under the query's global class probabilities."""
        zero = logits.new_zeros(())
        if step <= self.config.start_cross:
            return zero, zero
        self._start_teacher(step)
        if not self.config.distils and not batch.task.draws:
            return zero, zero
        c, raw = self.config, batch.query["features"]
        sub, mate = checked_draws(batch, frames=c.seq_len, length=c.sub_seq_len, count=c.sub_seq_num)
        codes = self.teacher(gather_subsequences(raw, sub))
        log_local = F.log_softmax(-self.align(codes, prototypes), -1).view(*raw.shape[:2], -1, logits.shape[-1]).sum(2)
        whole = F.softmax(logits, -1)
        itself = -(whole * log_local).sum(-1).mean(1).sum()
        cross = -(whole * log_local.take_along_dim(mate.unsqueeze(-1), 1)).sum(-1).mean(1).sum()
        return itself, cross

    def _weighed(self, values: dict[str, Tensor], step: int) -> dict[str, tuple[Tensor, float]]:
        """The losses divided by tasks per batch where `loss_scaling` says so, with their weights."""
        c = self.config
        divided = values if c.loss_scaling == "per_task" else ("supervised", "meta")
        scaled = {name: value / c.tasks_per_batch if name in divided else value for name, value in values.items()}
        if step <= c.start_cross:
            return {name: (value, 1.0 if name == "supervised" else 0.0) for name, value in scaled.items()}
        return {name: (value, float(getattr(c, f"weight_{name}"))) for name, value in scaled.items()}

    def published_layout(self) -> Layout:
        """The published checkpoint's keys."""
        names: dict[str, str] = {}
        for ours, theirs in (("student", "student_encoder"), ("teacher", "inner_teacher"), ("decoder", "decoder")):
            names |= published_names(getattr(self, ours), ours, theirs)
        for leaf in ("weight", "bias"):
            names[f"class_norm.{leaf}"] = f"classification_layer.0.{leaf}"
            names[f"class_layer.{leaf}"] = f"classification_layer.1.{leaf}"
        return Layout(names, ("backbone.resnet.", "backbone.module.resnet."), UNUSED)
