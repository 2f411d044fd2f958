"""What CLIP-MDMF does with the two views of a clip: fuse them with text, keep the frames that fit a text, distil one into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.transformer import Encoder

VIEWS = ("up", "down")
"""By the published names: up is the local view, down the global one."""
DIRECTIONS = ("bid", "up2down", "down2up")
KEPT = 4
"""Frames of a clip that count for its text."""


def fuse(encoder: Encoder, prompt: Tensor, context: Tensor, frames: Tensor) -> Tensor:
    """The prompt [..., D] and a view's context [..., T, D] attend to the prompt and the frames [..., T, D]: [..., 1 + T, D], text first.

    No gradient goes to the text.
    """
    token = prompt.detach().unsqueeze(-2)
    fused: Tensor = encoder(torch.cat([token, context], -2), torch.cat([token, frames], -2))
    return fused


def prompt_scores(fit: Tensor) -> Tensor:
    """Each class's score [..., W]: the mean fit of the KEPT frames that fit its text best, from the fit of frames [..., W, T]."""
    return fit.topk(KEPT, -1).values.mean(-1)


def kept_means(frames: Tensor, fit: Tensor) -> Tensor:
    """Means [E, N, D] over the KEPT frames of clips [E, N, T, D] that fit a text best, by the fit [E, N, T]."""
    best = fit.topk(KEPT, -1).indices
    return frames.take_along_dim(best.unsqueeze(-1), 2).mean(2)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) over the last axis, of log-probabilities [..., W]: [...]."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Over the last axis; 0 where all weights are."""
    total = weights.sum(-1)
    return (weights * values).sum(-1) / torch.where(total > 0, total, torch.ones_like(total))


def teaching_weights(conf: Tensor, condition: Sequence[int]) -> dict[str, Tensor]:
    """How much each query counts where a view teaches, {view: [E, Q]}: both its confidences, 0 where it is not the reliable one.

    conf [E, 4, Q]: the text's confidence in up and in down, the alignment's in up and in down. condition: whether the text's judgement
    counts, whether the alignment's does. Up is reliable where every judgement that counts prefers it (or is even), down where none does.
    """
    text_up, text_down, visual_up, visual_down = conf.unbind(1)
    judged = (text_up >= text_down, visual_up >= visual_down)
    used = torch.stack([one for one, use in zip(judged, condition, strict=True) if use])
    return {"up": (visual_up + text_up) * used.all(0), "down": (visual_down + text_down) * ~used.any(0)}


def distillation(shown: Mapping[str, Tensor], condition: Sequence[int], direction: str, detach: bool) -> Tensor:
    """The distillation loss of each episode [E], from dist_up and dist_down [E, Q, W] and conf [E, 4, Q].

    With no judgement in `condition` the sum over queries, else the mean over those a view may teach, weighted by confidence; of both
    views ("bid"), of the down view as teacher ("up2down") or of the up view ("down2up"). detach: no gradient to teacher and weights.
    """
    up, down = (F.log_softmax(-shown[f"dist_{view}"], -1) for view in VIEWS)
    up_teacher, down_teacher, conf = (each.detach() if detach else each for each in (up, down, shown["conf"]))
    taught = {"up": divergence(up_teacher, down), "down": divergence(down_teacher, up)}
    if any(condition):
        weights = teaching_weights(conf, condition)
        each = {view: weighted_mean(taught[view], weights[view]) for view in VIEWS}
    else:
        each = {view: taught[view].sum(-1) for view in VIEWS}
    return {"bid": each["up"] + each["down"], "up2down": each["down"], "down2up": each["up"]}[direction]
