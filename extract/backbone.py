"""What a backbone is: ordered stages, cuts between them, and slots inside its blocks that a head's adapters can go into.

Letters: B clips, T frames, H x W pixels, C channels of a map, h x w its size, N tokens, D channels of a token or pooled vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fsar_cache.errors import UsageError, unknown
from fsar_cache.registry import Registry


@dataclass(frozen=True)
class Scaling:
    """From uint8 pixels to the network's input: x / 255, then (x - mean) / std where given. Travels with the weights."""

    name: str = "unit"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class SlottedBlock(nn.Module):
    """A block with named places for adapters, all empty at first.

    Its forward calls `through(slot, x)` at each of them. What a slot's module gets and gives (tokens of one shape, a branch that is added)
    is the block's to say, beside `slot_names`.
    """

    slot_names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()

    def through(self, slot: str, tokens: Tensor) -> Tensor:
        """What the adapter in `slot` makes of the tokens; the tokens themselves where it is empty."""
        if slot not in self.adapters:
            return tokens
        made: Tensor = self.adapters[slot](tokens)
        return made


class Backbone(nn.Module):
    """A network as a chain of stages, [B, T, H, W, 3] uint8 in.

    `stages` is ordered; cut number i lies after the first i stages, so cut 0 ("frames") is the uint8 input itself. `cuts` maps each
    cut's name to that number; "blockN" is what enters block N. head_of(cut) runs offline, tail_of(cut) online; tail_of(c)(head_of(c)(x))
    equals the uncut network. `insert` puts a head's adapters into the slots of blocks, named "blockN.SLOT".
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

    def _blocks(self) -> dict[str, tuple[int, SlottedBlock]]:
        """Map "blockN" to its stage's number and module, for the blocks that have slots."""
        named = {index: name for name, index in self.cuts.items() if name.startswith("block")}
        return {
            named[i]: (i, stage)
            for i, stage in enumerate(self.stages)
            if i in named and isinstance(stage, SlottedBlock)
        }

    @property
    def slots(self) -> list[str]:
        """Every place for an adapter, in the order of the blocks: "block0.pre_attn", ..."""
        return [f"{name}.{slot}" for name, (_, block) in self._blocks().items() for slot in block.slot_names]

    def insert(self, adapters: Mapping[str, nn.Module]) -> None:
        """Put modules into empty slots. UsageError for a slot that isn't there or is taken; nothing is inserted then."""
        blocks = self._blocks()
        for slot in adapters:
            if slot not in self.slots:
                raise unknown(f"adapter slot of {self.name}", slot, self.slots)
            name, _, place = slot.partition(".")
            if place in blocks[name][1].adapters:
                raise UsageError(f"the adapter slot {slot} of {self.name} is taken")
        for slot, module in adapters.items():
            name, _, place = slot.partition(".")
            blocks[name][1].adapters[place] = module

    def head_of(self, cut: str) -> nn.Sequential:
        """The stages before `cut` (shared modules, not copies); UsageError where one of them holds an adapter: it couldn't be frozen."""
        index = self._index(cut)
        for name, (stage, block) in self._blocks().items():
            if stage < index and len(block.adapters):
                raise UsageError(
                    f"{self.name} has an adapter in {name}, which lies before the cut {cut!r}",
                    hint=f"cut at {name} or before, or at frames",
                )
        return nn.Sequential(*self.stages[:index])

    def tail_of(self, cut: str, end: str | None = None) -> nn.Sequential:
        """The stages after `cut` (shared modules, not copies), up to the cut `end` if named; UsageError where that lies before."""
        first, last = self._index(cut), len(self.stages) if end is None else self._index(end)
        if last < first:
            raise UsageError(f"the cut {cut!r} of {self.name} lies behind {end!r}", hint=f"cut at {end} or before")
        return nn.Sequential(*self.stages[first:last])

    @property
    def last_block(self) -> str | None:
        """The cut behind the last block, whose activations are a transformer's tokens; None where no cut enters a block."""
        blocks = [name for name in self.cuts if name.startswith("block")]
        return max(blocks, key=lambda name: self.cuts[name], default=None)

    def forward(self, frames: Tensor) -> Tensor:
        """The whole network: uint8 [B, T, H, W, 3] to pooled features float32 [B, T, D]."""
        for stage in self.stages:
            frames = stage(frames)
        return frames


BACKBONES: Registry[Callable[[str], Backbone]] = Registry(
    "backbone", ("extract.resnet", "extract.clip_resnet", "extract.clip_vit", "extract.videomae")
)
"""name -> build(weights), weights being "random:SEED", "file:PATH" or a hub's name for them ("timm:NAME", "openclip:NAME")."""
ANY = "timm:"
"""A backbone named so is any image model of timm: "timm:convnext_tiny"."""


def build_backbone(name: str, weights: str) -> Backbone:
    """The backbone called `name` with these weights: a registered one, or "timm:MODEL". Errors as `extract.weights` says."""
    if name.startswith(ANY):
        from extract.timm_image import timm_image

        return timm_image(name.removeprefix(ANY), weights)
    return BACKBONES.get(name)(weights)
