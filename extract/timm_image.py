"""Any image model of timm by name, "timm:convnext_tiny": its own pooled features before the classifier, frame by frame.

The scaling of the pixels is what timm's configuration of the model says, also for drawn weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.backbone import ANY, BACKBONES, Backbone
from extract.scaling import Scale, scaling_of
from extract.weights import drawn, hub_file, load_strictly, read_tensors, seed_of, source_of, weight_hash
from fsar_cache.canonical import plain
from fsar_cache.errors import MissingError, UsageError, nearest, unknown


class Pooled(nn.Module):
    """float [B, T, 3, H, W] to pooled features [B, T, D] of timm's network `net`, meant for pictures of `size` = (H, W)."""

    def __init__(self, net: nn.Module, size: tuple[int, int], *, fixed: bool) -> None:
        super().__init__()
        self.net = net
        self._size, self._fixed = size, fixed

    def forward(self, frames: Tensor) -> Tensor:
        """Every frame on its own. UsageError for a size that the network can't take, or where it gives no vector per frame."""
        height, width = frames.shape[-2:]
        own = (height, width) == self._size
        if self._fixed and not own:
            raise self._refused(height, width, "its size is fixed")
        try:
            made: Tensor = self.net(frames.flatten(0, 1))
        except (AssertionError, ValueError, RuntimeError) as error:
            if own or isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            raise self._refused(height, width, " ".join(str(error).split())[:200] or "it says no more") from error
        if made.ndim != 2:
            raise UsageError(f"{type(self.net).__name__} gives {list(made.shape[1:])} per frame, not one vector")
        return made.view(*frames.shape[:2], -1)

    def _refused(self, height: int, width: int, why: str) -> UsageError:
        high, wide = self._size
        setting = f"--set features.size={high}"
        hint = f"it is meant for {setting if high == wide else f'{high} x {wide}; clips are square'}"
        return UsageError(
            f"{type(self.net).__name__} can't take pictures of {height} x {width} pixels: {why}", hint=hint
        )


def timm_image(model: str, weights: str) -> Backbone:
    """The image model that timm calls `model`, cut at the frames or the pooled features; a registered one is built as without "timm:".

    weights: "random:SEED" (as timm initialises it), "timm:TAG" or "timm:MODEL.TAG", "file:PATH" (timm's names, classifier or not).
    Errors: UsageError for unknown names, MissingError where weights can't be had, IntegrityError where they don't fit.
    """
    import timm

    architectures = timm.list_models()
    if model not in architectures:
        plain_name = model.split(".")[0]
        close = plain_name if plain_name in architectures else nearest(model, architectures)
        where = "weights are named by --weights timm:TAG" if close == plain_name else "timm.list_models() has them all"
        hint = f"did you mean {ANY}{close}? {where}" if close else where
        raise UsageError(f"timm {timm.__version__} has no image model {model!r}", hint=hint)
    if model in BACKBONES.names():  # so that one name always means one network
        return BACKBONES.get(model)(weights)
    source, name = source_of(weights, ("random", "timm", "file"))
    full = _tagged(model, name) if source == "timm" else model

    def blank() -> nn.Module:
        made: nn.Module = timm.create_model(full, pretrained=False, num_classes=0)
        return made

    net = drawn(blank, seed_of(name) if source == "random" else 0)
    config: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    if source != "random":
        path = Path(name) if source == "file" else _hub(config, f"timm:{full}")
        tensors = read_tensors(path)
        load_strictly(net, tensors, str(path), unused=_classifier(config, tensors), layout=f"timm's for {model}")
    scaling = scaling_of(config["mean"], config["std"])
    facts = {"name": model, "weights": weight_hash(net), "scaling": plain(scaling)}
    pooled = Pooled(net, tuple(config["input_size"][1:]), fixed=bool(config.get("fixed_input_size")))
    return Backbone(model, nn.ModuleList([Scale(scaling), pooled]), {"frames": 0, "pooled": 2}, facts)


def _tagged(model: str, name: str) -> str:
    """The whole name of published weights, "resnet18.a1_in1k"; `name` may be that or the tag alone."""
    import timm

    known: list[str] = timm.list_pretrained(f"{model}.*")
    full = name if name.startswith(f"{model}.") else f"{model}.{name}"
    if full not in known:
        raise unknown(f"timm weights of {model}", name, known)
    return full


def _hub(config: dict[str, Any], weights: str) -> Path:
    if not config.get("hf_hub_id"):
        hint = f"download {config.get('url')} and use --weights file:PATH"
        raise MissingError(f"the weights {weights} are not on the model hub", hint=hint)
    return hub_file(config["hf_hub_id"], "model.safetensors", weights)


def _classifier(config: dict[str, Any], tensors: dict[str, Tensor]) -> set[str]:
    """The entries of a file that belong to the classifier, which is left out."""
    layers = config.get("classifier") or ()
    prefixes = tuple(f"{layer}." for layer in ([layers] if isinstance(layers, str) else layers))
    return {name for name in tensors if name.startswith(prefixes)}
