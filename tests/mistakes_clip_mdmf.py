"""Mistakes that the golden cases of CLIP-MDMF notice: in the code, and in a setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.clip_mdmf
import heads.tcn
import heads.views
from heads.clip_mdmf import ClipMdmf
from heads.distances import frame_distances, similarity
from heads.episodes import query_losses
from heads.tcn import CausalBlock, CausalConv, Tcn
from heads.transformer import Encoder
from heads.views import divergence, kept_means, teaching_weights


def most_probable(self: ClipMdmf, probability: Tensor, task: Any) -> Tensor:
    return probability.argmax(-1)


def text_last(encoder: Encoder, prompt: Tensor, context: Tensor, frames: Tensor) -> Tensor:
    token = prompt.unsqueeze(-2)
    return encoder(torch.cat([context, token], -2), torch.cat([frames, token], -2))


def keys_from_the_context(encoder: Encoder, prompt: Tensor, context: Tensor, frames: Tensor) -> Tensor:
    return encoder(torch.cat([prompt.unsqueeze(-2), context], -2))


def queries_from_the_frames(encoder: Encoder, prompt: Tensor, context: Tensor, frames: Tensor) -> Tensor:
    token = prompt.unsqueeze(-2)
    return encoder(torch.cat([token, frames], -2), torch.cat([token, context], -2))


def swapped_modules(self: ClipMdmf, clips: Any, prompts: Tensor) -> dict[str, Tensor]:
    fuse = heads.views.fuse
    return {
        "up": fuse(self.fusion_down, prompts, clips["up"], clips["frames"]),
        "down": fuse(self.fusion_up, prompts, clips["down"], clips["frames"]),
    }


def aligned_with_the_text(self: ClipMdmf, query: Tensor, prototypes: Tensor) -> Tensor:
    return frame_distances(query, prototypes, lambda a, b: 1 - similarity(a, b, 0.01))


def without_epsilon(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    return similarity(a, b, 0.0)


def student_first(teacher: Tensor, student: Tensor) -> Tensor:
    return divergence(student, teacher)


def plain_mean(values: Tensor, weights: Tensor) -> Tensor:
    return heads_weighted(values, (weights > 0).to(values))


heads_weighted = heads.views.weighted_mean


def weighed_by_text_alone(conf: Tensor, condition: Any) -> dict[str, Tensor]:
    weights = teaching_weights(conf, condition)
    return {"up": conf[:, 0] * (weights["up"] > 0), "down": conf[:, 1] * (weights["down"] > 0)}


def down_where_not_up(conf: Tensor, condition: Any) -> dict[str, Tensor]:
    weights = teaching_weights(conf, condition)
    return {"up": weights["up"], "down": (conf[:, 1] + conf[:, 3]) * (weights["up"] == 0)}


def whole_means(frames: Tensor, fit: Tensor) -> Tensor:
    return frames.mean(2)


def worst_means(frames: Tensor, fit: Tensor) -> Tensor:
    return kept_means(frames, -fit)


def means(logits: Tensor, labels: Tensor) -> Tensor:
    return query_losses(logits, labels) / labels.shape[1]


def seeing_ahead(self: CausalConv, x: Tensor) -> Tensor:
    weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))
    return F.conv1d(x, weight, self.bias, padding=self.dilation, dilation=self.dilation)


def normed_per_tap(self: CausalConv, x: Tensor) -> Tensor:
    weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))
    return F.conv1d(F.pad(x, (2 * self.dilation, 0)), weight, self.bias, dilation=self.dilation)


def no_relu_at_the_end(self: CausalBlock, x: Tensor) -> Tensor:
    return x + F.relu(self.conv2(F.relu(self.conv1(x))))


def mean_over_time(self: Tcn, x: Tensor) -> Tensor:
    y = x.transpose(1, 2)
    for block in self.blocks:
        y = block(y)
    return y.mean(2, keepdim=True).expand_as(y).transpose(1, 2)


ONE, FIVE, TRAIN = (
    f"clip_mdmf/{name}" for name in ("eval_5way_1shot_d512", "eval_5way_5shot_d512", "train_5way_1shot_d1024")
)
MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "the most probable prompt for the drawn one": (ONE, ClipMdmf, "prompt_class", most_probable),
    "text behind the frames": (ONE, heads.clip_mdmf, "fuse", text_last),
    "keys and values from the context": (ONE, heads.clip_mdmf, "fuse", keys_from_the_context),
    "queries from the frames": (ONE, heads.clip_mdmf, "fuse", queries_from_the_frames),
    "the two fusions swapped": (ONE, ClipMdmf, "fused", swapped_modules),
    "the text aligned like a frame": (ONE, ClipMdmf, "costs", aligned_with_the_text),
    "nothing added to the norms": (FIVE, heads.clip_mdmf, "similarity", without_epsilon),
    "another sharpness of the prompts": (ONE, heads.clip_mdmf, "SHARPNESS", 100.0),
    "student and teacher swapped": (ONE, heads.views, "divergence", student_first),
    "queries that count alike": (ONE, heads.views, "weighted_mean", plain_mean),
    "weights of the text's confidence alone": (ONE, heads.views, "teaching_weights", weighed_by_text_alone),
    "undecided queries taught by the down view": (ONE, heads.views, "teaching_weights", down_where_not_up),
    "all frames kept": (ONE, heads.clip_mdmf, "kept_means", whole_means),
    "the worst frames kept": (ONE, heads.clip_mdmf, "kept_means", worst_means),
    "scores of three frames": (ONE, heads.views, "KEPT", 3),
    "losses averaged over clips": (TRAIN, heads.clip_mdmf, "query_losses", means),
    "convolutions that see ahead": (ONE, CausalConv, "forward", seeing_ahead),
    "a norm per tap of the kernel": (ONE, CausalConv, "forward", normed_per_tap),
    "no ReLU behind the residual": (ONE, CausalBlock, "forward", no_relu_at_the_end),
    "the mean of all time steps": (ONE, Tcn, "forward", mean_over_time),
    "no dilation": (ONE, heads.tcn, "DILATIONS", (1, 1, 1)),
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (ONE, {"otam_lambda": 0.1}),
    (ONE, {"dist_condition": [1, 0]}),
    (ONE, {"dist_condition": [0, 1]}),
    (ONE, {"dist_condition": [0, 0]}),
    (ONE, {"dist_direction": "up2down"}),
    (ONE, {"dist_direction": "down2up"}),
    (ONE, {"is_pps": False}),
    (ONE, {"single_direct": True}),
    (ONE, {"t_compare_token": "text"}),
    (FIVE, {"cosine_epsilon": 0.02}),
    (TRAIN, {"lambdas": [0, 1, 1]}),
    (TRAIN, {"lambdas": [1, 1, 2]}),
    (TRAIN, {"tasks_per_batch": 4}),
    (TRAIN, {"detach_teacher": True}),
    (TRAIN, {"use_classification": False, "lambdas": [0, 1, 1]}),
]
