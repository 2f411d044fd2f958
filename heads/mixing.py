"""Spatial feature mixing (SFME) of GSLTA: a clip's frames are replaced by the most similar frames of a pool, and blended in."""

from __future__ import annotations

import torch
from torch import Tensor

from heads.distances import similarity

INDICES = ("published", "intended")


def mix_frames(x: Tensor, pool: Tensor, *, share: float, index: str, epsilon: float) -> Tensor:
    """Blend clips [E, N, T, D] with frames of a pool [E, M, D]: (1 - share) x + share y; gradients reach both.

    y is x with two frames replaced, each by the pool frame of the best remaining pair (row, column) of the similarities [T, M].
    index "intended": frame `row` by pool frame `column`, then row `row` is out. "published": both indices are one too low and wrap, and the
    similarities of the row that was replaced (not of the one that won) become 0, so that usually the same pair wins twice.
    """
    episodes, clips, frames, _ = x.shape
    with torch.no_grad():
        sim = similarity(x.flatten(1, 2), pool, epsilon).view(episodes, clips, frames, -1)
    width = sim.shape[-1]
    every = torch.arange(episodes, device=x.device).unsqueeze(1)
    clip = torch.arange(clips, device=x.device).unsqueeze(0)
    shift, gone = (1, 0.0) if index == "published" else (0, -torch.inf)
    y = x.clone()
    for _ in range(2):
        best = sim.flatten(2).argmax(-1)
        row = (best.div(width, rounding_mode="floor") - shift) % frames
        column = (best % width - shift) % width
        y = y.index_put((every.expand_as(row), clip.expand_as(row), row), pool[every, column])
        sim[every, clip, row] = gone
    return (1 - share) * x + share * y
