"""Mistakes that TA2N's golden cases notice: in the code, and in a setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.ta2n
import heads.ta2n_blocks
import heads.ta2n_network
from heads.ta2n_blocks import ACM, TTM, Parts, time_warp, windows
from heads.ta2n_network import TA2N

support_parts, query_parts, fuse = ACM.support_parts, ACM.query_parts, TA2N.fuse


def pixel_corners(maps: Tensor, theta: Tensor) -> Tensor:
    """-1 and 1 as the outer edges of the first and last frame."""
    frames = maps.shape[1]
    time = (2 * torch.arange(frames) + 1) / frames - 1
    place = ((theta[:, :1] * time + theta[:, 1:] + 1) * frames - 1) / 2
    weights = F.relu(1 - (place.unsqueeze(-1) - torch.arange(frames)).abs())
    return torch.bmm(weights, maps.flatten(2)).view(maps.shape)


def ends_repeated(maps: Tensor, theta: Tensor) -> Tensor:
    frames = maps.shape[1]
    place = (theta[:, :1] * torch.linspace(-1, 1, frames) + theta[:, 1:] + 1) / 2 * (frames - 1)
    weights = F.relu(1 - (place.clamp(0, frames - 1).unsqueeze(-1) - torch.arange(frames)).abs())
    return torch.bmm(weights, maps.flatten(2)).view(maps.shape)


def shift_before_scale(maps: Tensor, theta: Tensor) -> Tensor:
    return time_warp(maps, torch.stack([theta[:, 0], theta[:, 0] * theta[:, 1]], 1))


def without_ramp(offsets: Tensor, side: int, steps: Tensor) -> Tensor:
    place = offsets[..., None, None] + steps[:, None] + torch.linspace(-1, 1, side)
    mask = (place.abs() < 1).float()
    x, y = (mask / mask.sum(-1, keepdim=True)).mean(-2).unbind(-2)
    return (y.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def swapped(offsets: Tensor, side: int, steps: Tensor) -> Tensor:
    return windows(offsets.flip(-1), side, steps)


def same_side(offsets: Tensor, side: int, steps: Tensor) -> Tensor:
    """The query's window where the support's is: both by the absolute offset cancels the sign in either."""
    return windows(offsets.abs(), side, steps)


def not_negated(self: ACM, support: Parts, query: Parts) -> tuple[Tensor, Tensor, Tensor]:
    _, attended = self.attend(support, query)
    offsets = self.offsets(self.attend(support, query)[0], support, query)
    weights = windows(offsets, 7, self.steps(offsets))
    s = torch.einsum("nmtp,ntcp->nmtc", weights, support["map"]) + support["value"].unsqueeze(1)
    return s, torch.einsum("nmtp,mtcp->nmtc", weights, query["map"]) + attended, offsets


def over_support_time(self: ACM, support: Parts, query: Parts) -> tuple[Tensor, Tensor]:
    attention = F.softmax(self.scores(support, query), -2)
    return attention, torch.einsum("nmxy,myc->nmxc", attention, query["value"])


def unscaled(self: ACM, support: Parts, query: Parts) -> Tensor:
    return torch.einsum("nxd,myd->nmxy", support["key"], query["query"])


def no_residual(self: ACM, maps: Tensor) -> Parts:
    """Attended values that replace the query's own frames."""
    return query_parts(self, maps) | {"value": query_parts(self, maps)["value"] - maps.mean((3, 4))}


def support_as_it_is(self: ACM, maps: Tensor) -> Parts:
    parts = support_parts(self, maps)
    return parts | {"value": torch.zeros_like(parts["value"])}


def without_borders(self: ACM, maps: Tensor) -> Parts:
    parts = query_parts(self, maps)
    return parts | {"border": parts["border"][..., 4:5].expand_as(parts["border"])}


def last_shot(self: TA2N, shots: Parts) -> Parts:
    return fuse(self, {name: part.flip(1) for name, part in shots.items()})


def one_softmax_for_all_shots(self: TA2N, shots: Parts) -> Parts:
    key, query = shots["multi_key"], shots["multi_query"][:, 0]
    scores = torch.einsum("njxd,nyd->nyjx", key, query) / key.shape[-1] ** 0.5
    mix = F.softmax(scores.flatten(2), -1)
    return {n: torch.einsum("nyz,nz...->ny...", mix, p.flatten(1, 2)) for n, p in shots.items() if "multi" not in n}


def theta_at_rest(self: TTM, maps: Tensor) -> Tensor:
    """Stage 1's batch norms as in evaluation."""
    self.eval()
    return self.locnet(maps.transpose(1, 2))


def summed_pixels(x: Tensor, y: Tensor) -> Tensor:
    """The cosine of whole clips, and not of frames."""
    return x.shape[-2] * (1 - F.cosine_similarity(x.flatten(-2), y.flatten(-2), dim=-1))


BLOCKS = heads.ta2n_blocks
MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "outer edges as -1 and 1": ("ta2n/ttm_alone", BLOCKS, "time_warp", pixel_corners),
    "end frames repeated": ("ta2n/ttm_alone", BLOCKS, "time_warp", ends_repeated),
    "shift scaled": ("ta2n/ttm_alone", BLOCKS, "time_warp", shift_before_scale),
    "masks without a ramp": ("ta2n/acm_alone", BLOCKS, "windows", without_ramp),
    "columns as rows": ("ta2n/acm_alone", BLOCKS, "windows", swapped),
    "offsets without sign": ("ta2n/acm_alone", BLOCKS, "windows", same_side),
    "query offset not negated": ("ta2n/acm_alone", ACM, "align", not_negated),
    "softmax over support time": ("ta2n/acm_alone", ACM, "attend", over_support_time),
    "scores not scaled": ("ta2n/acm_alone", ACM, "scores", unscaled),
    "no residual of the query": ("ta2n/acm_alone", ACM, "query_parts", no_residual),
    "support without its value": ("ta2n/acm_alone", ACM, "support_parts", support_as_it_is),
    "convolution blind to borders": ("ta2n/acm_alone", ACM, "query_parts", without_borders),
    "offsets up to 1": ("ta2n/acm_alone", BLOCKS, "OFFSET_LIMIT", 1.0),
    "half the perturbation": ("ta2n/acm_alone", BLOCKS, "PERTURBATION", 0.1),
    "last shot as reference": ("ta2n/full_5way_5shot", TA2N, "fuse", last_shot),
    "all shots in one softmax": ("ta2n/full_5way_5shot", TA2N, "fuse", one_softmax_for_all_shots),
    "maps not projected": ("ta2n/full_5way_5shot", TA2N, "projected", lambda self, maps: maps),
    "cosines of whole clips": ("ta2n/full_5way_1shot", heads.ta2n, "frame_cosines", summed_pixels),
    "stage 1's batch norms at rest": ("ta2n/train_3way_1shot", TTM, "theta", theta_at_rest),
}

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("ta2n/full_5way_1shot", {"dist_norm": True}),
    ("ta2n/full_5way_1shot", {"first_stage": False}),
    ("ta2n/full_5way_1shot", {"second_stage": False}),
    ("ta2n/acm_alone", {"perturb_eval": False}),
    ("ta2n/acm_alone", {"decays": 1}),
    ("ta2n/train_3way_1shot", {"batch_norm": "eval"}),
    ("ta2n/train_3way_1shot", {"loss_reduction": "mean"}),
    ("ta2n/train_3way_1shot", {"tasks_per_batch": 1}),
    ("ta2n/train_3way_1shot", {"dropout": 0.1}),
]
