"""TAA, the temporal adapter of TAMT: a branch beside the MLP of a frozen VideoMAE block, for the head that trains it.

Source: the method card of TAMT (Wang et al., CVPR 2025), as its published code has it: parallel to the MLP, up-projections of kernel 1, the
shift times 0.1 (its paper draws it in series, with kernel 3 and the shift unscaled).
B clips, T tubelet steps, N tokens of a step, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fsar_cache.errors import UsageError

PLACE = "beside_mlp"
"""The slot that a block has for it."""
SHIFT = 0.1


class Taa(nn.Module):
    """Tokens [B, T, N, C] to the same: a scale in 0..1 and a shift for each step and channel, made from the mean tokens of the steps.

    drop_path: with which probability training drops each branch of a clip in the block that holds this one (see extract's Block).
    """

    def __init__(self, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        inner = channels // 4
        self.drop_path = drop_path
        self.reduce = nn.Conv1d(channels, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(inner)
        self.scale = nn.Conv1d(inner, channels, 1, bias=False)
        self.shift = nn.Conv1d(inner, channels, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The block adds it to what its MLP gives."""
        reduced = torch.relu(self.norm(self.reduce(tokens.mean(2).transpose(1, 2))))
        scale, shift = (made.transpose(1, 2).unsqueeze(2) for made in (self.scale(reduced), self.shift(reduced)))
        branch: Tensor = tokens * torch.sigmoid(scale) + SHIFT * shift
        return branch


def adapters(numbers: Sequence[int], slots: Sequence[str], channels: int, drop_path: float = 0.0) -> dict[str, Taa]:
    """A new adapter for each of these blocks, {"block10.beside_mlp": Taa}, to be given to a backbone's `insert`.

    slots: the backbone's; drop_path: the rate in its last block, which falls linearly to 0 in the first. Parameters are drawn from torch's
    global generator. UsageError where the backbone has no such slot.
    """
    wanted = {f"block{number}.{PLACE}": number for number in numbers}
    if strange := sorted(set(wanted) - set(slots)):
        raise UsageError(
            f"the backbone has no slot {strange[0]}, so no place for TAMT's adapter",
            hint="take videomae_vit_s, or features as they are: --set head_config.adapter_blocks=[]",
        )
    last = max(1, len({slot.partition(".")[0] for slot in slots}) - 1)
    return {slot: Taa(channels, drop_path * number / last) for slot, number in wanted.items()}


PUBLISHED_PARTS = {"reduce": "L.0", "norm": "L.1", "scale": "L2.0", "shift": "L3.0"}
"""Part of an adapter -> what published checkpoints call it."""


def published_names(made: Mapping[str, nn.Module]) -> dict[str, str]:
    """Name of each tensor of `adapters`, "block10.beside_mlp.reduce.weight" -> "feature.blocks.10.tam.L.0.weight", and so on."""
    keys = {}
    for slot, module in made.items():
        number = slot.partition(".")[0].removeprefix("block")
        for name in module.state_dict():
            part, _, leaf = name.partition(".")
            keys[f"{slot}.{name}"] = f"feature.blocks.{number}.tam.{PUBLISHED_PARTS[part]}.{leaf}"
    return keys
