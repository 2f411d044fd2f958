"""OTAM: temporal alignment of frame sequences by a smooth dynamic program; and plain soft-DTW. No parameters.

Cao, Ji, Cao, Chang, Niebles, "Few-Shot Video Classification via Temporal Alignment", CVPR 2020. Consumes features [T, D] per clip,
any T and D (query and support may differ in T); shots may be unequal: distances to a class's shots are averaged, not features.
Frame distance 1 - q.s / (|q||s| + epsilon), epsilon added. Variant `soft_dtw` is the classical recursion on 1 - cosine (or squared
Euclidean) distances, with a zero row before and after the first sequence as one published module has it, unless `zero_rows` is off.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fsar_cache.errors import UsageError, unknown
from heads.alignment import LAST_COLUMNS, otam_both, soft_dtw, soft_dtw_padded, soft_path
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.distances import cosine, frame_distances, similarity, squared_euclidean
from heads.episodes import averaging, finite, require_pair, train_matching
from heads.published import Layout

VARIANTS = ("otam", "soft_dtw")
COMBINATIONS = ("sum", "mean")
FRAME_METRICS = ("cosine", "squared_euclidean")
SETTINGS_OF = {
    "otam": ("otam_lambda", "single_direction", "last_column", "combination", "cosine_epsilon"),
    "soft_dtw": ("gamma", "frame_metric", "zero_rows"),
}
"""The settings that only one variant reads."""


@dataclass(frozen=True)
class OtamConfig:
    """variant otam: otam_lambda (smoothing), single_direction, last_column, combination of the two directions, cosine_epsilon.

    variant soft_dtw: gamma (smoothing), frame_metric, zero_rows. A setting that would do nothing is refused: one of the other variant, or
    a combination of directions where there is only one.
    """

    variant: str = "otam"
    otam_lambda: float = 0.1
    single_direction: bool = False
    last_column: str = "three_term"
    combination: str = "sum"
    cosine_epsilon: float = 0.01
    gamma: float = 0.1
    frame_metric: str = "cosine"
    zero_rows: bool = True
    tasks_per_batch: int = 1

    def __post_init__(self) -> None:
        for name, known in (
            ("variant", VARIANTS),
            ("last_column", LAST_COLUMNS),
            ("combination", COMBINATIONS),
            ("frame_metric", FRAME_METRICS),
        ):
            if getattr(self, name) not in known:
                raise unknown(f"otam {name}", getattr(self, name), known)
        if self.otam_lambda <= 0 or self.gamma <= 0 or self.cosine_epsilon < 0 or self.tasks_per_batch < 1:
            raise UsageError(
                "otam needs otam_lambda > 0, gamma > 0, cosine_epsilon >= 0 and tasks_per_batch >= 1, got "
                f"{self.otam_lambda}, {self.gamma}, {self.cosine_epsilon}, {self.tasks_per_batch}"
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for variant, names in SETTINGS_OF.items():
            idle = [name for name in names if variant != self.variant and getattr(self, name) != defaults[name]]
            if idle:
                raise UsageError(
                    f"otam {' and '.join(idle)} would do nothing: only variant {variant!r} reads it, this is {self.variant!r}",
                    hint=f"leave it out, or set variant = {variant!r}",
                )
        if self.single_direction and self.combination != "sum":
            raise UsageError(
                f"otam combination = {self.combination!r} would do nothing with single_direction: there is no second direction",
                hint="leave out one of the two",
            )


@HEADS.add("otam")
class Otam(Head):
    """Softly aligned frame sequences, nearest by mean distance to a class's shots."""

    Config = OtamConfig
    role_matters = False
    config: OtamConfig

    @property
    def needs(self) -> Needs:
        """Pooled features [T, D], any T and D."""
        return Needs({"features": (None, None)})

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Features [B, T, D] -> {"frames": [B, T, D]}, unchanged."""
        self.check(clips, role)
        return {"frames": clips["features"]}

    def frame_distances(self, query: Tensor, support: Tensor) -> Tensor:
        """[E, Q, Tq, D], [E, S, Ts, D] -> [E, Q, S, Tq, Ts] by the config's variant and metric."""
        config = self.config
        if config.variant == "otam":
            return frame_distances(query, support, lambda a, b: 1 - similarity(a, b, config.cosine_epsilon))
        if config.frame_metric == "cosine":
            return frame_distances(query, support, lambda a, b: 1 - cosine(a, b, floor=1e-8))
        return frame_distances(query, support, squared_euclidean)

    def align(self, table: Tensor) -> Tensor:
        """Clip distances from frame distances, query frames along rows: [..., Tq, Ts] -> [...]."""
        config = self.config
        if config.variant == "otam":
            total = otam_both(table, config.otam_lambda, single=config.single_direction, last_column=config.last_column)
            return total / 2 if config.combination == "mean" else total
        if not config.zero_rows:
            return soft_dtw(table, config.gamma)
        return (soft_dtw_padded(table, config.gamma) + soft_dtw_padded(table.transpose(-1, -2), config.gamma)) / 2

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] from {"frames": [E, S, Ts, D]} and {"frames": [E, Q, Tq, D]}."""
        s, q = support["frames"], query["frames"]
        require_pair(self, s, q, same_frames=False)
        average = averaging(task, s)
        distances = self.align(self.frame_distances(q, s))
        return HeadOutput(finite(self, -(distances @ average.transpose(1, 2))))

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Loss "meta": mean cross-entropy over the queries / tasks_per_batch."""
        del step
        return train_matching(self, batch, self.config.tasks_per_batch)

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """Each query against the nearest shot of each class, one episode: cost and path [Q, W, Tq, Ts], shot int64 [Q, W]."""
        table = self.frame_distances(query["frames"], support["frames"])[0]
        mine = averaging(task, support["frames"])[0] > 0
        distances = self.align(table)
        shot = distances.unsqueeze(1).masked_fill(~mine, torch.inf).argmin(-1)
        cost = table[torch.arange(len(shot), device=shot.device).unsqueeze(1), shot]
        return {"cost": cost, "path": soft_path(cost, self.align), "shot": shot}

    def published_layout(self) -> Layout:
        """The published checkpoint's keys: a backbone's alone."""
        return Layout({}, ("backbone.", "backbone.module."), (), numbered=True)
