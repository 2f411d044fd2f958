"""Mistakes that the golden cases of TAMT notice, in its backbone, adapters and head, and in a setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.tamt
from extract import videomae
from extract.videomae import Mlp, positions
from heads import moments, taa
from heads.base import EpisodeBatch, HeadOutput
from heads.episodes import query_losses
from heads.taa import Taa
from heads.tamt import Elstc, GlobalTemporal, Tamt, temporal_groups

EVAL, CACHED, TRAIN = "tamt/eval_112_2w1s1q", "tamt/tokens_eval_112_2w2s1q", "tamt/train_112_2w2s1q"


def same_at_every_step(count: int, width: int, device: torch.device) -> Tensor:
    return positions(count, width, device)[torch.arange(count) % (count // 8)]


def tanh_mlp(self: Mlp, tokens: Tensor) -> Tensor:
    narrowed: Tensor = self.fc2(F.gelu(self.fc1(tokens), approximate="tanh"))
    return narrowed


def adapter_given_what_the_mlp_made(self: videomae.Block, tokens: Tensor) -> Tensor:
    tokens = tokens + self.attn(self.norm1(tokens))
    made = self.mlp(self.norm2(tokens))
    return tokens + (made + self.through("beside_mlp", made) if self.adapters else made)


def adapter_before_the_mlp(self: videomae.Block, tokens: Tensor) -> Tensor:
    tokens = tokens + self.attn(self.norm1(tokens))
    return tokens + self.mlp(self.through("beside_mlp", self.norm2(tokens)))


def adapter_of_one_mean(self: Taa, tokens: Tensor) -> Tensor:
    """From the mean over all tokens, instead of over those of each step."""
    mean = tokens.mean((1, 2), keepdim=True).expand(-1, tokens.shape[1], 1, -1)
    reduced = torch.relu(self.norm(self.reduce(mean.mean(2).transpose(1, 2))))
    scale, shift = (made.transpose(1, 2).unsqueeze(2) for made in (self.scale(reduced), self.shift(reduced)))
    return tokens * torch.sigmoid(scale) + 0.1 * shift


def swapped_in_adapter(self: Taa, tokens: Tensor) -> Tensor:
    """Scale and shift swapped."""
    reduced = torch.relu(self.norm(self.reduce(tokens.mean(2).transpose(1, 2))))
    scale, shift = (made.transpose(1, 2).unsqueeze(2) for made in (self.shift(reduced), self.scale(reduced)))
    return tokens * torch.sigmoid(scale) + 0.1 * shift


def back_in_place(self: GlobalTemporal, tokens: Tensor) -> Tensor:
    series = tokens.permute(0, 2, 3, 1)
    return self.conv(series.flatten(0, 1)).view(series.shape).permute(0, 3, 1, 2)


def read_as_space_and_channel(self: GlobalTemporal, tokens: Tensor) -> Tensor:
    """Time moved to its axis, places and channels not: another scrambling."""
    series = tokens.permute(0, 2, 3, 1)
    return self.conv(series.flatten(0, 1)).transpose(1, 2).reshape(tokens.shape)


def neighbouring_steps(x: Tensor, groups: int) -> Tensor:
    """Group k has the steps 2k and 2k + 1 instead of k and k + 4."""
    return x.unflatten(2, (groups, -1)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)


def steps_before_channels(x: Tensor, groups: int) -> Tensor:
    """Channel index a*64 + c instead of c*2 + a."""
    return x.unflatten(2, (-1, groups)).permute(0, 3, 2, 1, 4).flatten(2, 3).flatten(0, 1)


def groups_before_clips(x: Tensor, groups: int) -> Tensor:
    """Batch index k*B + b instead of b*4 + k."""
    return temporal_groups(x, groups).unflatten(0, (-1, groups)).transpose(0, 1).flatten(0, 1)


def first_moment_alone(self: Tamt, tokens: Tensor) -> Tensor:
    code: Tensor = self.first_norm(tokens.mean((1, 2)))
    self.elstc(self.second_norm(tokens + self.temporal(tokens)))
    return code


def without_residual(self: Tamt, tokens: Tensor) -> Tensor:
    first: Tensor = self.first_norm(tokens.mean((1, 2)))
    return first + self.elstc(self.second_norm(self.temporal(tokens)))


def moment_of_norms(self: Tamt, tokens: Tensor) -> Tensor:
    """The mean of normalised tokens instead of the normalised mean."""
    first = self.first_norm(tokens).mean((1, 2))
    return first + self.elstc(self.second_norm(tokens + self.temporal(tokens)))


def plain_euclidean(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b)


def stride_in_the_first(self: Elstc, tokens: Tensor) -> Tensor:
    maps = torch.relu(self.norm1(self.reduce1(tokens.permute(0, 3, 1, 2))))
    maps = torch.relu(self.norm2(self.reduce2(maps)))
    matrices = self.pool.matrix(temporal_groups(maps, self.groups)).unflatten(0, (-1, self.groups))
    matrices = F.conv2d(matrices, self.reduce3.weight, padding=1, stride=2)
    matrices = F.conv2d(torch.relu(self.norm3(matrices)), self.reduce4.weight, padding=1)
    code: Tensor = self.project(torch.relu(self.norm4(matrices)).flatten(1))
    return code


def in_two_passes(self: Tamt, batch: EpisodeBatch, step: int) -> HeadOutput:
    """Support and query each in batch norms of its own."""
    codes = [{"moments": self._moments(clips["features"][0])[None]} for clips in (batch.support, batch.query)]
    out = self.match(codes[0], codes[1], batch.task)
    return HeadOutput(out.logits, {"meta": (query_losses(out.logits, batch.query_labels).mean(), 1.0)})


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return query_losses(logits, labels) * labels.shape[1]


MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "positions of a picture, not of a clip": (EVAL, videomae, "positions", same_at_every_step),
    "another GELU": (CACHED, Mlp, "forward", tanh_mlp),
    "an adapter behind the MLP": (CACHED, videomae.Block, "forward", adapter_given_what_the_mlp_made),
    "an adapter before the MLP": (CACHED, videomae.Block, "forward", adapter_before_the_mlp),
    "a shift of full size": (CACHED, taa, "SHIFT", 1.0),
    "scale and shift swapped": (CACHED, Taa, "forward", swapped_in_adapter),
    "an adapter of one mean": (CACHED, Taa, "forward", adapter_of_one_mean),
    "the temporal branch permuted back": (CACHED, GlobalTemporal, "forward", back_in_place),
    "the temporal branch scrambled otherwise": (CACHED, GlobalTemporal, "forward", read_as_space_and_channel),
    "groups of neighbouring steps": (CACHED, heads.tamt, "temporal_groups", neighbouring_steps),
    "steps before channels": (CACHED, heads.tamt, "temporal_groups", steps_before_channels),
    "groups before clips": (CACHED, heads.tamt, "temporal_groups", groups_before_clips),
    "the stride in the first convolution": (CACHED, Elstc, "forward", stride_in_the_first),
    "no second moment": (CACHED, Tamt, "_moments", first_moment_alone),
    "a temporal branch without residual": (CACHED, Tamt, "_moments", without_residual),
    "the mean of normalised tokens": (CACHED, Tamt, "_moments", moment_of_norms),
    "distances not squared": (CACHED, heads.tamt, "squared_euclidean", plain_euclidean),
    "an unbiased covariance": (CACHED, moments, "covariance", lambda x: torch.stack([torch.cov(each) for each in x])),
    "two passes of batch norm": (TRAIN, Tamt, "forward", in_two_passes),
    "a loss that is summed": (CACHED, heads.tamt, "query_losses", summed_loss),
}


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (CACHED, {"metric": "inner_product"}),
    (CACHED, {"global_temporal_layout": "aligned"}),
    (CACHED, {"newton_schulz_iterations": 4}),
    (CACHED, {"batch_norm": "batch"}),
]
