"""Settings of an extraction, and the feature spec and store folder that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cache.spec import FeatureSpec
from extract.backbone import Backbone, build_backbone
from extract.decoders import PIXELS, usable
from extract.sampling import SAMPLING
from extract.scaling import rescaled
from extract.transforms import TRANSFORMS
from fsar_cache.errors import UsageError


@dataclass(frozen=True)
class ExtractConfig:
    """How clips become rows. The first block of settings decides the bytes and is fingerprinted, the second only how they are made.

    frames per clip; size: side of the square the transform makes, in pixels; scaling "auto" takes the one that belongs to the weights;
    dtype "auto" is float32 for pooled features and float16 for maps (frames are uint8). workers: decode processes, 0 for one per core;
    batch_clips: clips per device batch, 0 for 2 on a CPU and 32 on an accelerator; time_limit: seconds per clip; max_failures: the
    fraction of a dataset's clips that may fail; block_rows: clips per block, 0 for the store's own choice.
    """

    backbone: str = "resnet18"
    weights: str = "random:0"
    cut: str = "pooled"
    frames: int = 8
    size: int = 224
    sampling: str = "gslta-test"
    transform: str = "gslta-eval"
    scaling: str = "auto"
    dtype: Literal["auto", "float32", "float16"] = "auto"

    decoder: str = "auto"
    device: str = "auto"
    workers: int = 0
    batch_clips: int = 0
    time_limit: float = 60.0
    max_failures: float = 0.02
    backend: str = "zarr"
    block_rows: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("size", 8), ("workers", 0), ("batch_clips", 0), ("block_rows", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.time_limit < float("inf"):
            raise ValueError(f"time_limit must be a positive number of seconds, got {self.time_limit}")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"max_failures is a fraction between 0 and 1, got {self.max_failures}")


def backbone_of(config: ExtractConfig) -> Backbone:
    """The backbone that the settings name, with their weights and scaling, in evaluation mode."""
    made = rescaled(build_backbone(config.backbone, config.weights), config.scaling)
    return made.eval()


def device_of(name: str) -> torch.device:
    """The device called `name`; "auto" is the accelerator where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", hint="auto, cpu, cuda or cuda:1") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in ("cpu", "cuda") or (device.index or 0) >= count:
        raise UsageError(f"this machine has no device {name!r} that can be used", hint="--device auto")
    return device


def batch_clips_of(config: ExtractConfig, device: torch.device) -> int:
    """Clips per device batch. A CPU works best on about 16 frames at a time (they stay in its caches), an accelerator on hundreds."""
    return config.batch_clips or (2 if device.type == "cpu" else 32)


def blank_clip(config: ExtractConfig) -> Tensor:
    """A black transformed clip, uint8 [1, frames, size, size, 3]."""
    return torch.zeros(1, config.frames, config.size, config.size, 3, dtype=torch.uint8)


def spec_of(config: ExtractConfig, backbone: Backbone) -> FeatureSpec:
    """The identity of the store these settings make. At the cut "frames" no backbone has touched the rows, so none is named in it."""
    usable(config.decoder)
    SAMPLING.get(config.sampling)(
        config.frames, config.frames, None
    )  # refuses a rule that draws: a store holds evaluation views
    clip = TRANSFORMS.get(config.transform)(blank_clip(config)[0], config.size, None)
    with torch.inference_mode():
        row = backbone.head_of(config.cut)(clip[None])[0]
    pixels = row.dtype == torch.uint8
    if pixels and config.dtype != "auto":
        raise UsageError(f"the cut {config.cut!r} holds uint8 pixels, not {config.dtype}", hint="leave dtype at auto")
    auto = "uint8" if pixels else "float32" if row.ndim == 2 else "float16"
    return FeatureSpec(
        kind="frames" if pixels else "features",
        decoder=PIXELS,
        sampling={"rule": config.sampling, "frames": config.frames},
        transform={"name": config.transform, "size": config.size},
        backbone={} if pixels else backbone.facts,
        cut=config.cut,
        shape=tuple(row.shape),
        dtype=auto if config.dtype == "auto" else config.dtype,
    )


def store_path(folder: Path, split_name: str, spec: FeatureSpec) -> Path:
    """The store's folder: <folder>/<split>/<backbone>-<cut>-<first 8 digits of the fingerprint>, without backbone at the cut "frames"."""
    words = [spec.backbone.get("name"), spec.cut, spec.fingerprint[:8]]
    return folder / split_name / "-".join(word for word in words if word)
