"""What a backbone is: ordered stages, and cuts between them.

Letters: B clips, T frames, H x W pixels, C channels of a map, h x w its size, D channels of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fsar_cache.errors import unknown
from fsar_cache.registry import Registry


@dataclass(frozen=True)
class Scaling:
    """From uint8 pixels to the network's input: x / 255, then (x - mean) / std where given. Travels with the weights."""

    name: str = "unit"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class Backbone(nn.Module):
    """A frame network as a chain of stages, [B, T, H, W, 3] uint8 in.

    `stages` is ordered; cut number i lies after the first i stages, so cut 0 ("frames") is the uint8 input itself. `cuts` maps each
    cut's name to that number. head_of(cut) runs offline, tail_of(cut) online; tail_of(c)(head_of(c)(x)) equals the uncut network.
    """

    def __init__(self, name: str, stages: nn.ModuleList, cuts: Mapping[str, int], facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.stages = stages
        self.cuts = dict(cuts)
        self.facts = dict(facts)
        """What the fingerprint says of it: name, weights (hash of the tensors), scaling."""

    def _index(self, cut: str) -> int:
        if cut not in self.cuts:
            raise unknown(f"cut of {self.name}", cut, self.cuts)
        return self.cuts[cut]

    def head_of(self, cut: str) -> nn.Sequential:
        """The stages before `cut` (shared modules, not copies)."""
        return nn.Sequential(*self.stages[: self._index(cut)])

    def tail_of(self, cut: str) -> nn.Sequential:
        """The stages after `cut` (shared modules, not copies)."""
        return nn.Sequential(*self.stages[self._index(cut) :])

    def forward(self, frames: Tensor) -> Tensor:
        """The whole network: uint8 [B, T, H, W, 3] to pooled features float32 [B, T, D]."""
        for stage in self.stages:
            frames = stage(frames)
        return frames


BACKBONES: Registry[Callable[[str], Backbone]] = Registry("backbone", ("extract.resnet",))
"""name -> build(weights), weights being "random:SEED", "timm:NAME" or "file:PATH"."""
