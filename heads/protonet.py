"""ProtoNet on pooled frame features: mean pooling over time, class prototypes, one of four metrics. No parameters.

Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017; the metrics are those of published few-shot video code.
Consumes features [T, D] per clip, any T and D; shots may be unequal. The metrics differ in where shots are averaged, on purpose:

    euclidean         prototype = mean of the shots;       logit = -||q - p||^2
    cosine_per_shot   logit = mean over the shots of q.s / (|q||s| + epsilon)       (no temperature: logits lie in [-1, 1])
    cosine_prototype  prototype = mean of the shots;       logit = -(1 - cos(q, p))
    cosine_timewise   a prototype per frame;               logit = -sum_t (1 - cos(q_t, p_t)), LayerNorm over the classes if asked
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fsar_cache.errors import UsageError, unknown
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.distances import cosine, similarity, squared_euclidean
from heads.episodes import averaging, class_means, finite, require_pair, train_matching
from heads.published import Layout

METRICS = ("euclidean", "cosine_per_shot", "cosine_prototype", "cosine_timewise")


@dataclass(frozen=True)
class ProtoNetConfig:
    """metric: see the module. temperature divides the logits.

    layer_norm: the way, for a LayerNorm with affine parameters over the logits of cosine_timewise; 0 is off.
    """

    metric: str = "cosine_per_shot"
    cosine_epsilon: float = 0.01
    temperature: float = 1.0
    layer_norm: int = 0
    tasks_per_batch: int = 1

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise unknown("protonet metric", self.metric, METRICS)
        if self.temperature <= 0 or self.cosine_epsilon < 0 or self.tasks_per_batch < 1 or self.layer_norm < 0:
            raise UsageError(
                "protonet needs temperature > 0, cosine_epsilon >= 0, tasks_per_batch >= 1 and layer_norm >= 0, got "
                f"{self.temperature}, {self.cosine_epsilon}, {self.tasks_per_batch}, {self.layer_norm}"
            )
        if self.layer_norm and self.metric != "cosine_timewise":
            raise UsageError(f"layer_norm belongs to metric 'cosine_timewise', not {self.metric!r}")


@HEADS.add("protonet")
class ProtoNet(Head):
    """Nearest class mean over mean-pooled (or frame by frame compared) features."""

    Config = ProtoNetConfig
    role_matters = False
    config: ProtoNetConfig

    def __init__(self, config: ProtoNetConfig) -> None:
        super().__init__(config)
        self.norm_layer = nn.LayerNorm(config.layer_norm, eps=1e-5) if config.layer_norm else None

    @property
    def needs(self) -> Needs:
        """Pooled features [T, D], any T and D."""
        return Needs({"features": (None, None)})

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Features [B, T, D] -> {"frames": [B, T, D]}, or {"frames": [B, 1, D]}, their mean, for all metrics but cosine_timewise."""
        self.check(clips, role)
        frames = clips["features"]
        return {"frames": frames if self.config.metric == "cosine_timewise" else frames.mean(1, keepdim=True)}

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] from {"frames": [E, S, T', D]} and {"frames": [E, Q, T', D]}; T' as `encode` gives."""
        s, q = support["frames"], query["frames"]
        require_pair(self, s, q, same_frames=True)
        average = averaging(task, s)
        return HeadOutput(finite(self, self._logits(s, q, average) / self.config.temperature))

    def _logits(self, s: Tensor, q: Tensor, average: Tensor) -> Tensor:
        if self.config.metric == "cosine_per_shot":
            return similarity(q[:, :, 0], s[:, :, 0], self.config.cosine_epsilon) @ average.transpose(1, 2)
        prototypes = class_means(s, average)
        if self.config.metric == "euclidean":
            return -squared_euclidean(q[:, :, 0], prototypes[:, :, 0])
        if self.config.metric == "cosine_prototype":
            return cosine(q[:, :, 0], prototypes[:, :, 0]) - 1
        per_frame = cosine(q.transpose(1, 2), prototypes.transpose(1, 2))
        logits = (per_frame - 1).sum(1)
        if self.norm_layer is None:
            return logits
        if logits.shape[-1] != self.config.layer_norm:
            raise UsageError(f"layer_norm fixes the way at {self.config.layer_norm}, got {logits.shape[-1]} classes")
        normed: Tensor = self.norm_layer(logits)
        return normed

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Loss "meta": mean cross-entropy over the queries / tasks_per_batch."""
        del step
        return train_matching(self, batch, self.config.tasks_per_batch)

    def published_layout(self) -> Layout:
        """The published checkpoint's keys: a backbone's, and the norm over the classes if there is one."""
        names = {name: f"protypicalNet.{name}" for name in self.state_dict()}
        return Layout(names, ("backbone.", "backbone.module."), (), numbered=True)
