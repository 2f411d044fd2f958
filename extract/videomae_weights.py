"""What fills a VideoMAE backbone: drawn weights, or a file in a layout of VideoMAE or TAMT, told apart by the names in it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from extract.weights import load_strictly, read_tensors
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError

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
    another shape, or for a file of anything but tensors.
    """
    source, _, name = weights.partition(":")
    if source == "file" and name:
        load_strictly(net, published(read_tensors(Path(name))), name)
    elif source == "random" and name.isdecimal():
        draw(net, int(name))
    else:
        raise UsageError(
            f"weights {weights!r} of a VideoMAE backbone are not random:SEED or file:PATH",
            hint="file: takes checkpoints of VideoMAE (pre-trained or fine-tuned) and of TAMT",
        )


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's backbone tensors, prefix removed; names that neither belong to it nor are known to lie beside it stay as they are."""
    prefix = next((p for p in (TAMT, "encoder.") if any(key.startswith(p) for key in tensors)), "")
    unread = BESIDE_IT[prefix]
    kept = {key: tensor for key, tensor in tensors.items() if not any(fnmatchcase(key, p) for p in unread)}
    return {key.removeprefix(prefix): tensor for key, tensor in kept.items()}


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
