"""Where the tensors of CLIP's towers come from, under the names that OpenAI gave them: "random:SEED", "openclip:NAME" or "file:PATH".

A file may hold the whole of CLIP (image tower under `visual.`, text tower at top level, as OpenAI released it or as open_clip keeps it),
or a CLIP-FSAR checkpoint, whose trained image tower stands under `head.backbone.`. Half-precision values become float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from extract.backbone import Backbone, Scaling
from extract.scaling import SCALINGS
from extract.weights import drawn, hub_file, load_strictly, read_tensors, seed_of, source_of
from fsar_cache.errors import IntegrityError, unknown

CONFIGS = {"clip_rn50": "RN50-quickgelu", "clip_vit_b16": "ViT-B-16-quickgelu"}
"""Backbone -> open_clip's name of the configuration; only the -quickgelu ones agree with the released weights."""
VISUAL, FINE_TUNED = "visual.", "head.backbone."
_DROPPED = ("input_resolution", "context_length", "vocab_size", "logit_scale")
_BLOCK = (
    *(
        "ln_1.weight",
        "ln_1.bias",
        "attn.in_proj_weight",
        "attn.in_proj_bias",
        "attn.out_proj.weight",
        "attn.out_proj.bias",
    ),
    *("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)
TEXT = {
    *("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias", "text_projection"),
    *(f"transformer.resblocks.{layer}.{name}" for layer, name in product(range(12), _BLOCK)),
}
"""The entries of the text tower."""


def config_of(backbone: str) -> dict[str, Any]:
    """open_clip's configuration of the CLIP whose image tower is called `backbone`; UsageError for a name that is none."""
    import open_clip

    if backbone not in CONFIGS:
        raise unknown("CLIP backbone", backbone, CONFIGS)
    found: dict[str, Any] = open_clip.get_model_config(CONFIGS[backbone])
    return found


def filled(
    backbone: str, weights: str, part: Literal["image", "text"], blank: Callable[[], nn.Module]
) -> tuple[nn.Module, Scaling]:
    """One tower, made by `blank` and filled with `weights`, and the scaling of CLIP's pixels.

    Errors: UsageError for malformed `weights`, MissingError where they can't be had, IntegrityError naming entries that are missing,
    unknown or of another shape; the other tower's entries may be absent.
    """
    source, name = source_of(weights, ("random", "openclip", "file"))
    if source == "random":
        return drawn(blank, seed_of(name)), SCALINGS["clip"]
    path = Path(name) if source == "file" else _released(backbone, name)
    net = drawn(blank, 0)
    load_strictly(net, _part(read_tensors(path), part, path), str(path), unused=(), layout="OpenAI's CLIP")
    return net, SCALINGS["clip"]


def _part(tensors: Mapping[str, Tensor], part: str, path: Path) -> dict[str, Tensor]:
    """One tower's tensors under their own names, in float32."""
    fine_tuned = any(key.startswith(FINE_TUNED) for key in tensors)
    if fine_tuned and part == "text":
        raise IntegrityError(f"{path} holds an image tower alone, no text tower", hint="name a file of the whole CLIP")
    prefix, others = (FINE_TUNED, "head.") if fine_tuned else (VISUAL, VISUAL)
    strange = [key for key in tensors if not key.startswith(others) and key not in TEXT and key not in _DROPPED]
    if strange:
        raise IntegrityError(
            f"{path} holds entries that are none of CLIP's: {', '.join(sorted(strange)[:5])}",
            hint="the file must hold OpenAI's names: visual.conv1.weight, transformer.resblocks.0...",
        )
    if part == "text":
        return {key: tensor.float() for key, tensor in tensors.items() if key in TEXT}
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in own.items()}


def _released(backbone: str, name: str) -> Path:
    """The file of the weights that open_clip calls `name` ("openai"), from the hub's local cache or downloaded into it."""
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME
    from open_clip.pretrained import get_pretrained_cfg

    config = CONFIGS[backbone]
    known = open_clip.list_pretrained_tags_by_model(config)
    if name not in known:
        raise unknown(f"open_clip weights of {config}", name, known)
    repository = str(get_pretrained_cfg(config, name)["hf_hub"]).rstrip("/")
    return hub_file(repository, HF_SAFE_WEIGHTS_NAME, f"openclip:{name} of {config}")


def published_names(backbone: Backbone) -> dict[str, str]:
    """Name of each of a CLIP backbone's tensors -> its published key, without `visual.`; adapters as ST-Adapter's checkpoints name them."""
    made = {}
    for number, stage in enumerate(backbone.stages):
        for name in stage.state_dict():
            key = name.replace("adapters.", "adapter_", 1)
            made[f"stages.{number}.{name}"] = f"{stage.published}{key}"
    return made
