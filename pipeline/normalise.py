"""Normalisation of pooled features before the head: none, or each clip centred over time and scaled by the source's deviations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fsar_cache.errors import UsageError

ROUNDING = 1e-6
"""A deviation up to this share of a channel's root mean square is rounding of its mean over time, not a change."""
FLOOR = 1e-3
"""A deviation up to this share of the median one counts as none."""


class Normaliser(nn.Module):
    """Maps features [B, T, D], tokens [B, T, N, D] or maps [B, T, D, H, W] (`channels` 2) to features of the same shape.

    "none": unchanged. "centre-source-std" (ours, not from a paper): minus the clip's mean over time, divided by `scale` [D], the
    per-channel deviation of the centred source training clips. Centring removes what a clip looks like and keeps what changes.
    A channel that (almost) never changes in the source gets the median deviation of those that do: dividing by its own would let
    rounding, or a target in which it does change, drown all others.
    """

    def __init__(self, name: str, width: int = 0, channels: int = -1) -> None:
        super().__init__()
        self.name = name
        self._channels = channels
        self.scale: Tensor
        if name != "none":
            self.register_buffer("scale", torch.full((width,), torch.nan))

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        if self.name == "none":
            return features
        centred = features - features.mean(1, keepdim=True)
        return (centred.movedim(self._channels, -1) / self.scale).movedim(-1, self._channels)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set `scale` from the source training clips, given in batches [B, T, ...]; all 1 where no channel changes.

        Sums in float64, batch by batch, so the result depends on the clips and their order alone.
        """
        if self.name == "none":
            return
        changing, whole = torch.zeros(2, len(self.scale), dtype=torch.float64)
        count = 0
        for batch in batches:
            centred = (batch - batch.mean(1, keepdim=True)).double().movedim(self._channels, -1).flatten(0, -2)
            changing += centred.square().sum(0).cpu()
            whole += batch.double().movedim(self._channels, -1).flatten(0, -2).square().sum(0).cpu()
            count += len(centred)
        if count == 0:
            raise UsageError(
                "no source clip to take deviations from", hint="check the source partition and its failed clips"
            )
        deviation = (changing / count).sqrt()
        alive = deviation > ROUNDING * (whole / count).sqrt()
        usual = deviation[alive].median() if alive.any() else torch.ones((), dtype=torch.float64)
        self.scale.copy_(torch.where(alive & (deviation > FLOOR * usual), deviation, usual))
