"""What fills a VideoMAE backbone: drawn weights, or a file in a layout of VideoMAE or TAMT, told apart by the names in it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from extract.weights import load_strictly, read_tensors, seed_of, source_of
from fsar_cache.draws import generator

TAMT = "feature."
"""What TAMT's files write before the backbone's names."""
BESIDE_IT = {
    TAMT: (
        *("layer_reduce*", "head2.*", "feature.temporal_conv.*", "feature.fc_norm.*", "feature.fc_norm2.*"),
        *("feature.blocks.*.tam.*", "feature.blocks.*.norm3.*", "feature.blocks.*.temporal_conv.*"),
    ),
    "encoder.": ("decoder.*", "encoder_to_decoder.*", "mask_token", "encoder.norm.*"),
    "": ("head.*", "fc_norm.*", "norm.*", "decoder.*", "encoder_to_decoder.*", "mask_token"),
}
"""Prefix of the backbone's names -> what else such a file may hold: heads, adapters, tensors that nothing uses."""


def fill(net: nn.Module, weights: str) -> None:
    """Give `net` (published names) its weights: "random:SEED" or "file:PATH".

    Errors: UsageError for other words, MissingError without the file, IntegrityError naming tensors that are missing, unknown or of
    another shape.
    """
    source, name = source_of(weights, ("random", "file"))
    if source == "random":
        draw(net, seed_of(name))
    else:
        tensors = published(read_tensors(Path(name)))
        load_strictly(net, tensors, name, unused=(), layout="VideoMAE's or TAMT's (blocks.0.norm1.weight, ...)")


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's backbone tensors, prefix removed. What is neither that nor known to lie beside it keeps a name that fits nothing."""
    prefix = next((p for p in (TAMT, "encoder.") if any(key.startswith(p) for key in tensors)), "")
    unread = BESIDE_IT[prefix]
    kept = {key: tensor for key, tensor in tensors.items() if not any(fnmatchcase(key, p) for p in unread)}
    return {
        key.removeprefix(prefix) if key.startswith(prefix) else f"{key} (without {prefix})": tensor
        for key, tensor in kept.items()
    }


@torch.no_grad()
def draw(net: nn.Module, seed: int) -> None:
    """Untrained weights as TAMT's card has them, each tensor from its own generator ("videomae", seed, name).

    Linear weights normal with deviation 0.02 (the published cut at +-2 is a hundred deviations away), their biases and the attention's 0;
    layer norms 1 and 0; the patch embedding uniform within 1 / sqrt(3 * 2 * 16 * 16), weight and bias.
    """
    for name, tensor in net.named_parameters():
        rng, shape = generator("videomae", seed, name), tuple(tensor.shape)
        if name.startswith("patch_embed"):
            bound = (3 * 2 * 16 * 16) ** -0.5
            tensor.copy_(torch.from_numpy((rng.random(shape, np.float32) * 2 - 1) * np.float32(bound)))
        elif tensor.ndim == 2:
            tensor.copy_(torch.from_numpy(rng.standard_normal(shape, np.float32) * np.float32(0.02)))
        else:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
