"""What an extraction makes of each clip: which frames it decodes, what becomes of one clip, and what becomes of a batch of them.

Letters: B clips of a device batch, M decoded frames of a clip, T frames that stand for it, H x W pixels.
"""

from __future__ import annotations

import abc
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from cache.spec import FeatureSpec
from extract.backbone import Backbone
from extract.clip import Task, task_of
from extract.config import AUTOCAST, ExtractConfig, backbone_of, spec_of
from extract.sampling import SAMPLING
from extract.transforms import TRANSFORMS
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError
from splits.types import Split, Video


class Product(abc.ABC):
    """Made in three steps: a task for a decode process, a step per clip, a step per batch; the last two on one device.

    spec: of a row. frames: frames of a clip that its rate is counted in. clip_shape, clip_dtype: of one clip after the step per clip.
    weights: the name under which they were asked for ("" without); flow_weights: of the flow under a backbone; packages: those whose
    versions are kept with what they made.
    """

    spec: FeatureSpec
    frames: int
    weights: str
    flow_weights: str = ""
    packages: tuple[str, ...]
    clip_shape: tuple[int, ...]
    clip_dtype: torch.dtype

    @abc.abstractmethod
    def to(self, device: torch.device) -> None:
        """Move what the steps need to the device."""

    @abc.abstractmethod
    def task(self, root: Path, video: Video, view: int) -> Task:
        """Which frames to decode for a view of a clip; view 0 is the evaluation view."""

    @abc.abstractmethod
    def clip(self, frames: Tensor, video: str, view: int) -> Tensor:
        """From decoded frames, uint8 [M, H, W, 3], of the clip with the id `video` to one clip [*clip_shape]."""

    @abc.abstractmethod
    def batch(self, clips: Tensor) -> Tensor:
        """From clips [B, *clip_shape] to rows [B, *spec.shape]; a row depends on its own clip alone."""


class FeatureProduct(Product):
    """Activations of a frozen backbone at a cut (pixels at the cut "frames").

    View v > 0 of a clip draws its frames and its transform from (view_seed, id, v) alone, so it is the same whatever made it, and when.
    """

    def __init__(self, config: ExtractConfig, backbone: Backbone, flips: bool = False) -> None:
        self._config, self._flips = config, flips_allowed(config, flips)
        if config.views:
            _require_draws(config)
        self.spec = spec_of(config, backbone)
        self.frames = config.frames
        self.weights, self.packages = config.weights, ("timm", "open_clip_torch")
        self.clip_shape = (config.frames, config.size, config.size, 3)
        self.clip_dtype = torch.uint8
        self._head = backbone.head_of(config.cut).eval()
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:  # noqa: D102 - as in Product
        self._head, self._device = self._head.to(device), device

    def task(self, root: Path, video: Video, view: int) -> Task:  # noqa: D102
        c = self._config
        if view == 0:
            return task_of(root, video, c.sampling, c.frames, decoder=c.decoder)
        return task_of(root, video, c.train_sampling, c.frames, decoder=c.decoder, key=(c.view_seed, video.id, view))

    def clip(self, frames: Tensor, video: str, view: int) -> Tensor:  # noqa: D102
        c = self._config
        if view == 0:
            return TRANSFORMS.get(c.transform)(frames, c.size, None)
        rng = generator("transform", c.view_seed, video, view)
        return TRANSFORMS.get(c.train_transform)(frames, c.size, rng, flip=self._flips)

    def batch(self, clips: Tensor) -> Tensor:  # noqa: D102
        kind = AUTOCAST[self._config.precision]
        mixed = nullcontext() if kind is None else torch.autocast(self._device.type, kind)
        with mixed:
            rows: Tensor = self._head(clips)
        return rows if rows.dtype == torch.uint8 else rows.float()


def _require_draws(config: ExtractConfig) -> None:
    """UsageError for training rules that are unknown or draw nothing."""
    SAMPLING.get(config.train_sampling)(config.frames, config.frames, generator("try"))
    TRANSFORMS.get(config.train_transform)(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), config.size, generator("try"))


def flips_allowed(config: ExtractConfig, flips: bool) -> bool:
    """Whether training views may be mirrored; flips: whether a mirrored clip of the dataset keeps its class."""
    return flips if config.flip == "auto" else config.flip == "on"


def product_of(config: ExtractConfig, split: Split) -> Product:
    """What the settings make of the clips of `split`."""
    if config.kind == "flow":
        from extract.flow_product import FlowProduct

        return FlowProduct(config)
    if config.kind == "flow-features":
        from extract.flow_features import FlowFeatures

        return FlowFeatures(config, backbone_of(config))
    if config.kind == "text":
        raise UsageError("text features are made of class names, not of clips")
    return FeatureProduct(config, backbone_of(config), split.flips)
