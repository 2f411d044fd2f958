"""ST-Adapter: small temporal convolutions between the blocks of a frozen CLIP ViT, for heads that adapt the backbone itself.

Source: the method card of TMAL, Part A (taken from the published code of ST-Adapter). Ours: it adds out of place, where the published one
overwrites its input; and an activation can be chosen (the published code has none, its paper speaks of one).
B clips, T frames, N tokens of a frame with the class token first, C channels of a token, A channels inside the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown

Act = Literal["none", "gelu", "quick_gelu"]
PRESETS: dict[str, tuple[str, ...]] = {"24x384": ("pre_attn", "pre_mlp"), "12x384": ("pre_mlp",)}
"""Published placement (number of adapters in 12 blocks x A) -> the slots of each block that it fills."""
WIDTH = 384


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation, x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


_ACTS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "gelu": F.gelu, "quick_gelu": quick_gelu}


class STAdapter(nn.Module):
    """tokens [B, T, N, C] to the same: the class token as it is, patches P as P + fc2(act(conv(fc1 P))), conv depth-wise over [T, h, w].

    kernel: (frames, rows, columns), odd, zero-padded at the ends. act: after the convolution. The patches must form a square (UsageError).
    At first the convolution and all biases are 0, so the adapter is the identity, and only conv.* and fc2.bias get a gradient.
    """

    def __init__(
        self, channels: int, width: int = WIDTH, kernel: tuple[int, int, int] = (3, 1, 1), act: Act = "none"
    ) -> None:
        super().__init__()
        if act not in _ACTS:
            raise unknown("adapter activation", act, _ACTS)
        if any(k < 1 or k % 2 == 0 for k in kernel):
            raise UsageError(
                f"an adapter's kernel has three odd sizes, not {kernel}", hint="(3, 1, 1) is the published one"
            )
        self.fc1 = nn.Linear(channels, width)
        time, rows, columns = kernel
        self.conv = nn.Conv3d(width, width, kernel, padding=(time // 2, rows // 2, columns // 2), groups=width)
        self.fc2 = nn.Linear(width, channels)
        self.act = act
        for tensor in (self.conv.weight, self.conv.bias, self.fc1.bias, self.fc2.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def forward(self, tokens: Tensor) -> Tensor:
        """Frames see their neighbours here, and nowhere else in the tower."""
        patches = tokens[:, :, 1:]
        side = math.isqrt(patches.shape[2])
        if side * side != patches.shape[2]:
            raise UsageError(
                f"an adapter needs a square of patches, not {patches.shape[2]} of them beside the class token"
            )
        inner = self.fc1(patches).movedim(3, 1)
        mixed = self.conv(inner.reshape(*inner.shape[:3], side, side)).flatten(3).movedim(1, 3)
        return torch.cat([tokens[:, :, :1], patches + self.fc2(_ACTS[self.act](mixed))], 2)


def adapters(
    preset: str, slots: Sequence[str], channels: int = 768, layers: int | None = None, act: Act = "none"
) -> dict[str, nn.Module]:
    """New adapters for a backbone's `slots` ("block0.pre_attn", ...), {slot: module}, to be given to its `insert`.

    preset: "24x384" (before attention and before the MLP) or "12x384" (before the MLP only); layers: in the last so many blocks only.
    Parameters are drawn from torch's global generator. UsageError where the backbone hasn't got the slots.
    """
    if preset not in PRESETS:
        raise unknown("adapter preset", preset, PRESETS)
    blocks = list(dict.fromkeys(slot.partition(".")[0] for slot in slots))
    layers = len(blocks) if layers is None else layers
    if not 1 <= layers <= len(blocks):
        raise UsageError(f"adapters go into 1 to {len(blocks)} of the backbone's blocks, not {layers}")
    wanted = [f"{block}.{place}" for block in blocks[len(blocks) - layers :] for place in PRESETS[preset]]
    if strange := sorted(set(wanted) - set(slots)):
        raise UsageError(f"the backbone has no slot {strange[0]}, so no place for {preset}", hint="a CLIP ViT has them")
    return {slot: STAdapter(channels, WIDTH, act=act) for slot in wanted}


def published_names(made: Mapping[str, nn.Module]) -> dict[str, str]:
    """Name of each tensor of `adapters`, "block3.pre_mlp.fc1.weight" -> its key in ST-Adapter's published checkpoints.

    The keys are transformer.resblocks.3.adapter_pre_mlp.fc1.weight and the like.
    """
    keys = {}
    for slot, module in made.items():
        block, _, place = slot.partition(".")
        for name in module.state_dict():
            number = block.removeprefix("block")
            keys[f"{slot}.{name}"] = f"transformer.resblocks.{number}.adapter_{place}.{name}"
    return keys
