"""Settings of an extraction, and the feature spec and store folder that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from cache.spec import FeatureSpec
from extract.backbone import Backbone, build_backbone
from extract.decoders import pixels_of, usable
from extract.flow_settings import FlowSettings
from extract.sampling import SAMPLING
from extract.scaling import rescaled
from extract.transforms import TRANSFORMS
from fsar_cache.errors import UsageError

AUTOCAST: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precision of the backbone's arithmetic -> the dtype of autocast."""
Kind = Literal["features", "flow", "flow-features", "text"]
LARGEST = 4096
"""Pixels of a side; more is a slip of the pen."""


@dataclass(frozen=True)
class ExtractConfig:
    """How clips become rows. The first block of settings decides the bytes and is fingerprinted, the second only how they are made.

    kind: activations of the backbone, optical flow of the clip (settings in `flow`), what the backbone makes of pictures of that flow, or
    the text features of the class names put into `prompt`. frames per clip; size: side of the square the transform makes, in pixels;
    scaling "auto" takes the one that belongs to the weights; dtype "auto" is float32 for pooled features and float16 for tokens and maps
    (frames are uint8); precision: of the backbone's arithmetic.

    views: training views per clip beside the evaluation view, drawn from view_seed by the train_* rules; flip: whether they may be
    mirrored ("auto": where the dataset says that a mirrored clip keeps its class). They are rows, so they are no part of the fingerprint.

    workers: decode processes, 0 for one per core; batch_clips: clips per device batch, 0 for 2 on a CPU and 32 on an accelerator;
    time_limit: seconds per clip; max_failures: the fraction of a dataset's clips that may fail, or have no file;
    skip_missing: any number may have no file; block_rows: clips per block, 0 for the
    store's own choice; partitions, classes: only clips of these (empty: of all); part: (i, n) makes every n-th block, in a store of its
    own; engine: "local", or "ray" with the cluster's address in ray_address ("" starts one here); force: go on where the disk looks too
    small.
    """

    kind: Kind = "features"
    backbone: str = "resnet18"
    weights: str = "random:0"
    cut: str = "pooled"
    frames: int = 8
    size: int = 224
    sampling: str = "gslta-test"
    transform: str = "gslta-eval"
    scaling: str = "auto"
    dtype: Literal["auto", "float32", "float16"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    flow: FlowSettings = field(default_factory=FlowSettings)
    prompt: str = "a photo of {}"

    views: int = 0
    view_seed: int = 0
    train_sampling: str = "gslta-train"
    train_transform: str = "gslta-train"
    flip: Literal["auto", "on", "off"] = "auto"

    decoder: str = "auto"
    device: str = "auto"
    workers: int = 0
    batch_clips: int = 0
    time_limit: float = 60.0
    max_failures: float = 0.02
    skip_missing: bool = False
    backend: str = "zarr"
    block_rows: int = 0
    partitions: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    part: tuple[int, int] = (1, 1)
    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""
    force: bool = False

    def __post_init__(self) -> None:
        if self.size > LARGEST:
            raise ValueError(f"size must be at most {LARGEST} pixels, got {self.size}")
        least = {"frames": 1, "size": 8, "views": 0, "workers": 0, "batch_clips": 0, "block_rows": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name, known in (("kind", get_args(Kind)), ("engine", ("local", "ray"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.time_limit < float("inf"):
            raise ValueError(f"time_limit must be a positive number of seconds, got {self.time_limit}")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"max_failures is a fraction between 0 and 1, got {self.max_failures}")
        if not 1 <= self.part[0] <= self.part[1]:
            raise ValueError(f"part {self.part[0]}/{self.part[1]} is none of 1/N to N/N")
        if self.views and self.kind != "features":
            raise ValueError(f"training views are of features, not of {self.kind}: it is augmented when it is used")


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


def device_for(config: ExtractConfig) -> torch.device:
    """The device of an extraction: the one asked for; OpenCV's flow runs on the CPU whatever there is (UsageError where told otherwise)."""
    if config.kind != "flow" or config.flow.is_raft:
        return device_of(config.device)
    if config.device not in ("auto", "cpu"):
        raise UsageError(f"{config.flow.estimator} runs on the CPU, not on {config.device}", hint="leave out --device")
    return torch.device("cpu")


def batch_clips_of(config: ExtractConfig, device: torch.device) -> int:
    """Clips per device batch. A CPU works best on about 16 frames at a time (they stay in its caches), an accelerator on hundreds."""
    return config.batch_clips or (2 if device.type == "cpu" else 32)


def spec_of(config: ExtractConfig, backbone: Backbone) -> FeatureSpec:
    """The identity of a store of features with these settings. At the cut "frames" no backbone has touched the rows: none is named."""
    usable(config.decoder)
    SAMPLING.get(config.sampling)(
        config.frames, config.frames, None
    )  # refuses a rule that draws: the evaluation view is one and the same
    TRANSFORMS.get(config.transform)(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), config.size, None)
    pixels = backbone.cuts.get(config.cut) == 0
    for name, plain in (("dtype", "auto"), ("precision", "float32")):
        if pixels and getattr(config, name) != plain:
            raise UsageError(
                f"the cut {config.cut!r} holds uint8 pixels: {name} {getattr(config, name)} has no meaning there",
                hint=f"leave {name} at {plain}",
            )
    auto = "uint8" if pixels else "float32" if config.cut == "pooled" else "float16"
    mixed = {} if config.precision == "float32" else {"precision": config.precision}
    return FeatureSpec(
        kind="frames" if pixels else "features",
        decoder=pixels_of(config.decoder),
        sampling={"rule": config.sampling, "frames": config.frames},
        transform={"name": config.transform, "size": config.size},
        backbone={} if pixels else {**backbone.facts, **mixed},
        cut=config.cut,
        shape=row_shape(backbone, config.cut, config.frames, config.size),
        dtype=auto if config.dtype == "auto" else config.dtype,
    )


def row_shape(backbone: Backbone, cut: str, frames: int, size: int) -> tuple[int, ...]:
    """The shape of one clip's activation at the cut, worked out without computing it; UsageError where the network can't take the size."""
    head = backbone.head_of(cut)
    if not len(head):
        return (frames, size, size, 3)
    tensors = [*head.named_parameters(), *head.named_buffers()]
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    clip = torch.empty(1, frames, size, size, 3, dtype=torch.uint8, device="meta")
    with torch.inference_mode():
        made: Tensor = torch.func.functional_call(head, meta, (clip,))
    return tuple(made.shape[1:])


def store_path(folder: Path, split_name: str, spec: FeatureSpec, part: tuple[int, int] = (1, 1)) -> Path:
    """The store's folder: <folder>/<split>/<backbone>-<cut>-<first 8 digits of the fingerprint>, without backbone at the cut "frames".

    A part of several has its own, with ".part-I-of-N" behind.
    """
    words = [spec.backbone.get("name"), spec.cut, spec.fingerprint[:8]]
    name = "-".join(str(word).replace("/", "_") for word in words if word)
    return folder / split_name / (name if part == (1, 1) else f"{name}.part-{part[0]}-of-{part[1]}")
