"""Normalisation of pooled features before the head: none, or each clip centred over time and scaled by the source's deviations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fsar_cache.errors import UsageError


class Normaliser(nn.Module):
    """Maps features [..., T, D] to features of the same shape.

    "none": unchanged. "centre-source-std" (ours, not from a paper): minus the clip's mean over time, divided by `scale` [D], the
    per-channel deviation of the centred source training clips. Centring removes what a clip looks like and keeps what changes.
    """

    def __init__(self, name: str, width: int = 0) -> None:
        super().__init__()
        self.name = name
        self.scale: Tensor
        if name != "none":
            self.register_buffer("scale", torch.full((width,), torch.nan))

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        if self.name == "none":
            return features
        return (features - features.mean(-2, keepdim=True)) / self.scale

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set `scale` from the source training clips, given in batches [B, T, D]; a channel that never changes gets scale 1.

        Sums in float64, batch by batch, so the result depends on the clips and their order alone.
        """
        if self.name == "none":
            return
        total, count = torch.zeros(len(self.scale), dtype=torch.float64), 0
        for batch in batches:
            centred = (batch - batch.mean(-2, keepdim=True)).double().flatten(0, -2)
            total += centred.square().sum(0).cpu()
            count += len(centred)
        if count == 0:
            raise UsageError(
                "no source clip to take deviations from", hint="check the source partition and its failed clips"
            )
        deviation = (total / count).sqrt()
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
