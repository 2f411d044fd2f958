"""Features of flow pictures as what an extraction makes: what a frozen image backbone sees in each field of a clip's optical flow.

Source: the cards of TMAL (B2, `flow_encoder: clip_frozen`) and optical flow ("From field to a CLIP input").
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cache.spec import FeatureSpec
from extract.backbone import Backbone
from extract.clip import Task
from extract.config import ExtractConfig, spec_of
from extract.flow_field import pixels
from extract.flow_image import flow_image
from extract.flow_product import FlowProduct
from extract.product import FeatureProduct, Product
from fsar_cache.errors import UsageError
from splits.types import Video

KIND = "flow-features"


class FlowFeatures(Product):
    """Rows float32 [T, D]: the fields of `FlowProduct`, rounded as a flow store keeps them, as pictures, through the backbone to "pooled".

    OpenCV's flow is computed on the CPU from frames resized there, so that its fields are those of a flow store whatever the device.
    """

    def __init__(self, config: ExtractConfig, backbone: Backbone) -> None:
        self._settings = config.flow
        self._flow = FlowProduct(_of_flow(config))
        self._pictures = FeatureProduct(_of_pictures(config), backbone)
        self.spec = _joined(self._flow.spec, self._pictures.spec, config)
        self.frames = config.frames
        self.weights, self.flow_weights = self._pictures.weights, self._flow.weights
        self.packages = (*self._pictures.packages, *self._flow.packages)
        self.clip_shape, self.clip_dtype = self._flow.clip_shape, self._flow.clip_dtype

    def to(self, device: torch.device) -> None:  # noqa: D102 - as in Product
        self._flow.to(device)
        self._pictures.to(device)

    def task(self, root: Path, video: Video, view: int) -> Task:  # noqa: D102
        return self._flow.task(root, video, view)

    def clip(self, frames: Tensor, video: str, view: int) -> Tensor:
        """The clip's stored field, int16 [T, 2, size, size]."""
        return self._flow.clip(frames if self._settings.is_raft else frames.cpu(), video, view)

    def batch(self, clips: Tensor) -> Tensor:
        """From stored fields [B, T, 2, size, size] to features [B, T, D]."""
        pictures = flow_image(pixels(clips), self._settings.image, self._settings.image_scale)
        return self._pictures.batch(pictures.movedim(2, -1).contiguous())


def flow_features_spec(config: ExtractConfig, backbone: Backbone) -> FeatureSpec:
    """The identity of the store of flow features that these settings (of kind "flow-features") and this backbone make.

    UsageError for settings that flow has no use for, and for a backbone that doesn't see frame by frame.
    """
    return _joined(FlowProduct(_of_flow(config)).spec, spec_of(_of_pictures(config), backbone), config)


def _of_flow(config: ExtractConfig) -> ExtractConfig:
    """The settings of the fields: dtype and precision are the features'."""
    return replace(config, kind="flow", dtype="auto", precision="float32")


def _of_pictures(config: ExtractConfig) -> ExtractConfig:
    """The settings of what the backbone makes of pictures; the cut is that of the pixels' features and says nothing of flow."""
    return replace(config, kind="features", cut="pooled")


def _joined(flow: FeatureSpec, pictures: FeatureSpec, config: ExtractConfig) -> FeatureSpec:
    """One identity of the fields', the picture's and the backbone's."""
    if len(pictures.shape) != 2 or pictures.shape[0] != config.frames:
        raise UsageError(
            f"{config.backbone} makes features {list(pictures.shape)} of {config.frames} pictures; flow features are of one picture each",
            hint="take a backbone that sees frame by frame: --backbone clip_vit_b16",
        )
    picture = {"image": config.flow.image, "image_scale": config.flow.image_scale}
    return FeatureSpec(
        kind=KIND,
        decoder=flow.decoder,
        sampling=flow.sampling,
        transform={**flow.transform, **picture, "flow": dict(flow.backbone)},
        backbone=pictures.backbone,
        cut=KIND,
        shape=pictures.shape,
        dtype=pictures.dtype,
    )
