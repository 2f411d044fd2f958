"""TAMT: a frozen VideoMAE with small temporal adapters, first and second moments of its tokens, and the nearest class mean.

Wang, Gao, Wang, Chen, Li, Hu, "TAMT: Temporal-Aware Model Tuning for Cross-Domain Few-Shot Action Recognition", CVPR 2025
(arXiv 2411.19041). Consumes the tokens [8, h*w, 384] that leave the last block of a VideoMAE ViT-S (16 frames); its adapters (heads.taa)
sit in that backbone's last two blocks, everything else there is frozen. A clip's code z is the normalised mean token (first moment) plus
a projection of the roots of grouped temporal covariances (ELSTC). Batch norms see support and query of an episode together in training,
so more than one training episode runs one after the other.

As published where the code differs from the paper: tokens of the global temporal branch come back scrambled (global_temporal_layout), one
shot is matched by inner product and more by squared distance (metric). Ours: with shots that differ between classes "by_shot" takes the
inner product only if every class has one; any width; `second_moment = "bdc"` puts Brownian distance covariance in the root's place (the
published code has that pooling and doesn't use it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from fsar_cache.errors import UsageError, unknown
from heads import taa
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.distances import squared_euclidean
from heads.episodes import averaging, class_means, finite, one_by_one, query_losses, require_pair
from heads.moments import BACKWARDS, BdcPooling, CovariancePooling
from heads.published import Layout

LAYOUTS = ("published", "aligned")
METRICS = ("by_shot", "neg_sq_l2", "inner_product")
SECOND_MOMENTS = ("elstc", "bdc")
IDLE = {
    "elstc": ("bdc_places",),
    "bdc": ("newton_schulz_iterations", "newton_schulz_epsilon", "newton_schulz_backward"),
}
"""Second moment -> the settings that it doesn't read."""
UNUSED = ("feature.blocks.*.norm3.*", "feature.blocks.*.temporal_conv.*", "feature.blocks.*.tam.G.*")
EPSILON = 1e-6
"""Of the layer norms, as in the backbone."""


@dataclass(frozen=True)
class TamtConfig:
    """steps: tubelet steps T of a clip (frames / 2). adapter_blocks: blocks of the backbone that get an adapter, [] for none.

    adapter_drop_path: probability, in training, to drop a branch of the last block; less in the blocks before it, of which only those with
    an adapter drop anything. global_temporal_layout: published (scrambled) or aligned. reduce_dims: widths of the two convolutions before
    the covariance. covariance_groups: divides steps. second_moment: elstc, with newton_schulz_iterations, newton_schulz_epsilon (added to
    a trace before it divides) and newton_schulz_backward (published or autograd), or bdc, with bdc_places (h*w, for the start of its
    temperature). metric: by_shot (inner product at one shot, else negative squared distance), neg_sq_l2, inner_product. Settings that
    the second moment doesn't read are refused.
    """

    dim: int = 384
    steps: int = 8
    adapter_blocks: tuple[int, ...] = (10, 11)
    adapter_drop_path: float = 0.1
    global_temporal_layout: str = "published"
    reduce_dims: tuple[int, int] = (128, 64)
    covariance_groups: int = 4
    second_moment: str = "elstc"
    newton_schulz_iterations: int = 3
    newton_schulz_epsilon: float = 1e-5
    newton_schulz_backward: str = "published"
    bdc_places: int = 49
    metric: str = "by_shot"
    tasks_per_batch: int = 1

    def __post_init__(self) -> None:
        for name, known in (
            ("global_temporal_layout", LAYOUTS),
            ("second_moment", SECOND_MOMENTS),
            ("newton_schulz_backward", BACKWARDS),
            ("metric", METRICS),
        ):
            if getattr(self, name) not in known:
                raise unknown(f"tamt {name}", getattr(self, name), known)
        for name in ("steps", "covariance_groups", "newton_schulz_iterations", "bdc_places", "tasks_per_batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"tamt {name} must be at least 1, got {getattr(self, name)}")
        if (
            self.dim < 4
            or min(self.reduce_dims) < 1
            or not 0 <= self.adapter_drop_path < 1
            or self.newton_schulz_epsilon <= 0
        ):
            raise UsageError(
                "tamt needs dim >= 4, reduce_dims >= 1, 0 <= adapter_drop_path < 1 and newton_schulz_epsilon > 0, got "
                f"{self.dim}, {list(self.reduce_dims)}, {self.adapter_drop_path} and {self.newton_schulz_epsilon}"
            )
        if self.steps % self.covariance_groups:
            raise UsageError(
                f"tamt covariance_groups = {self.covariance_groups} must divide the {self.steps} tubelet steps of a clip"
            )
        defaults = {field.name: field.default for field in fields(self)}
        if idle := [name for name in IDLE[self.second_moment] if getattr(self, name) != defaults[name]]:
            raise UsageError(f"tamt {' and '.join(idle)} would do nothing with second_moment = {self.second_moment!r}")


class GlobalTemporal(nn.Module):
    """A convolution over the steps of each place and channel; tokens [B, T, N, C] to what is added to them.

    aligned: its values go back to their step, place and channel; else, as published, the numbers in their order [N, C, T] are read as
    [T, N, C], so that each lands at another place.
    """

    def __init__(self, channels: int, *, aligned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)
        self.aligned = aligned

    def forward(self, tokens: Tensor) -> Tensor:
        """Every clip on its own."""
        series = tokens.permute(0, 2, 3, 1)
        made: Tensor = self.conv(series.flatten(0, 1))
        if self.aligned:
            return made.view(series.shape).permute(0, 3, 1, 2)
        return made.view(tokens.shape)


def temporal_groups(x: Tensor, groups: int) -> Tensor:
    """[B, c, T, N] to [B*groups, c*(T/groups), N]: group k has steps k, k + groups, ..., all steps of one channel side by side."""
    b, channels, steps, places = x.shape
    apart = x.reshape(b, channels, steps // groups, groups, places).permute(0, 3, 1, 2, 4)
    return apart.reshape(b * groups, -1, places)


class Elstc(nn.Module):
    """Second moments of tokens [B, T, N, C] as codes [B, C]: channels reduced, a matrix for each group of steps, projected."""

    def __init__(self, config: TamtConfig) -> None:
        super().__init__()
        wide, narrow = config.reduce_dims
        self.groups = config.covariance_groups
        size = narrow * config.steps // self.groups
        self.pool: BdcPooling | CovariancePooling
        if config.second_moment == "bdc":
            self.pool = BdcPooling(size, places=config.bdc_places)
        else:
            self.pool = CovariancePooling(
                config.newton_schulz_iterations, config.newton_schulz_backward, config.newton_schulz_epsilon
            )
        self.reduce1 = nn.Conv2d(config.dim, wide, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.reduce2 = nn.Conv2d(wide, narrow, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.reduce3 = nn.Conv2d(self.groups, 2, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(2)
        self.reduce4 = nn.Conv2d(2, 1, 3, stride=2, padding=1, bias=False)
        self.norm4 = nn.BatchNorm2d(1)
        self.project = nn.Linear(((size + 1) // 2) ** 2, config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """The second moment."""
        maps = tokens.permute(0, 3, 1, 2)
        maps = torch.relu(self.norm1(self.reduce1(maps)))
        maps = torch.relu(self.norm2(self.reduce2(maps)))
        matrices = self.pool.matrix(temporal_groups(maps, self.groups))
        matrices = matrices.view(-1, self.groups, *matrices.shape[1:])
        matrices = torch.relu(self.norm3(self.reduce3(matrices)))
        matrices = torch.relu(self.norm4(self.reduce4(matrices)))
        code: Tensor = self.project(matrices.flatten(1))
        return code


@HEADS.add("tamt")
class Tamt(Head):
    """Clips as sums of a first and a second moment of their tokens, compared with class means."""

    Config = TamtConfig
    role_matters = False
    without_adapters = "head_config.adapter_blocks=[]"
    config: TamtConfig

    def __init__(self, config: TamtConfig) -> None:
        super().__init__(config)
        self.first_norm = nn.LayerNorm(config.dim, EPSILON)
        self.temporal = GlobalTemporal(config.dim, aligned=config.global_temporal_layout == "aligned")
        self.second_norm = nn.LayerNorm(config.dim, EPSILON)
        self.elstc = Elstc(config)

    @property
    def needs(self) -> Needs:
        """Tokens [steps, N, dim], any number N of places."""
        return Needs({"features": (self.config.steps, None, self.config.dim)}, at="tokens")

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """The first moment's layer norm starts as the fc_norm of a supervised VideoMAE file, as published; other files hold none."""
        own = {
            leaf: weights.get(f"fc_norm.{leaf}", weights.get(f"encoder.fc_norm.{leaf}")) for leaf in ("weight", "bias")
        }
        for leaf, tensor in own.items():
            if tensor is not None and tensor.shape == (self.config.dim,):
                getattr(self.first_norm, leaf).data.copy_(tensor)

    def adapters(self, slots: Sequence[str]) -> dict[str, nn.Module]:
        """A Taa beside the MLP of each of the config's adapter_blocks; UsageError for a backbone without such a slot."""
        c = self.config
        return {**taa.adapters(c.adapter_blocks, slots, c.dim, c.adapter_drop_path)}

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Tokens [B, T, N, C] -> {"moments": z [B, C]}."""
        self.check(clips, role)
        return {"moments": self._moments(clips["features"])}

    def _moments(self, tokens: Tensor) -> Tensor:
        first: Tensor = self.first_norm(tokens.mean((1, 2)))
        second: Tensor = self.elstc(self.second_norm(tokens + self.temporal(tokens)))
        return first + second

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] from {"moments": [E, S, C]} and {"moments": [E, Q, C]}."""
        s, q = support["moments"], query["moments"]
        require_pair(self, s, q, same_frames=False)
        prototypes = class_means(s, averaging(task, s))
        metric = self.config.metric
        if metric == "inner_product" or (metric == "by_shot" and s.shape[1] == task.way):
            return HeadOutput(finite(self, q @ prototypes.transpose(1, 2)))
        return HeadOutput(finite(self, -squared_euclidean(q, prototypes)))

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Loss "meta": mean cross-entropy over the queries / tasks_per_batch.

        In training the E episodes run one after the other, each with its support and query in the same batch norms.
        """
        if self.training and len(batch.query_labels) > 1:
            return one_by_one(self, batch, step)
        self.check(batch.support, "support")
        self.check(batch.query, "query")
        s, q = batch.support["features"], batch.query["features"]
        require_pair(self, s, q, same_frames=True)
        if s.shape[3] != q.shape[3]:
            raise UsageError(
                f"Tamt trains on clips of one size, got {s.shape[3]} support and {q.shape[3]} query tokens per step"
            )
        both = torch.cat([s, q], 1)
        codes = self._moments(both.flatten(0, 1)).view(*both.shape[:2], -1)
        out = self.match({"moments": codes[:, : s.shape[1]]}, {"moments": codes[:, s.shape[1] :]}, batch.task)
        loss = query_losses(out.logits, batch.query_labels).mean(1).sum() / self.config.tasks_per_batch
        return HeadOutput(out.logits, {"meta": (loss, 1.0)})

    def published_layout(self) -> Layout:
        """The published checkpoint's keys, those of its adapters among the backbone's.

        UsageError with bdc, which no published checkpoint has.
        """
        if self.config.second_moment != "elstc":
            raise UsageError(
                f"published TAMT checkpoints hold no head with second_moment = {self.config.second_moment!r}",
                hint="set second_moment = 'elstc'",
            )
        names = {}
        for name in self.state_dict():
            part, _, leaf = name.rpartition(".")
            names[name] = f"{PUBLISHED_PARTS[part]}.{leaf}"
        adapters = self.published_adapters()
        return Layout(names, ("feature.",), UNUSED, wrapper="state", counter="epoch", adapters=adapters)

    def published_adapters(self) -> dict[str, str]:
        """Name of each tensor of the adapters, "block10.beside_mlp.reduce.weight" -> its published key."""
        with torch.device("meta"):
            made = {f"block{number}.{taa.PLACE}": taa.Taa(self.config.dim) for number in self.config.adapter_blocks}
        return taa.published_names(made)


PUBLISHED_PARTS = {
    "first_norm": "feature.fc_norm",
    "second_norm": "feature.fc_norm2",
    "temporal.conv": "feature.temporal_conv",
    "elstc.project": "head2",
} | {
    f"elstc.{ours}{i}": f"{theirs}{i}"
    for i in range(1, 5)
    for ours, theirs in (("reduce", "layer_reduce"), ("norm", "layer_reduce_bn"))
}
"""Part of the head -> what published checkpoints call it."""
