"""The optical flow of each clip as what an extraction makes: int16 fields [T, 2, size, size] in the geometry of the evaluation view."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cache.spec import FeatureSpec
from extract.clip import Task, task_of
from extract.config import ExtractConfig
from extract.decoders import pixels_of, usable
from extract.flow import computing_size, flow_estimator
from extract.flow_field import square, stored
from extract.geometry import resized
from extract.product import Product
from extract.sampling import SAMPLING
from extract.transforms import resize
from fsar_cache.errors import UsageError
from splits.types import Video


class FlowProduct(Product):
    """Flow is computed on whole frames of short side `flow.size`; the field is brought to the geometry of `transform` and cropped.

    Pair "next_native" decodes two frames per field: i_t and i_t + stride; a frame too near the end stands back until its partner is the
    last frame. "next_sampled" decodes T: the field of the last is that of the pair which ends on it. A clip of one frame has zero flow.
    """

    def __init__(self, config: ExtractConfig) -> None:
        _check(config)
        self._config, self._settings = config, config.flow
        self._estimator = flow_estimator(config.flow)
        self.frames = config.frames
        self.weights = config.flow.raft_weights if config.flow.is_raft else ""
        self.packages = ("torchvision",) if config.flow.is_raft else ("opencv-python-headless",)
        self.clip_shape = (config.frames, 2, config.size, config.size)
        self.clip_dtype = torch.int16
        self.spec = self._spec()

    def _spec(self) -> FeatureSpec:
        c, s = self._config, self._settings
        pair = {"pair": s.pair, "stride": s.stride} if s.pair == "next_native" else {"pair": s.pair}
        return FeatureSpec(
            kind="flow",
            decoder=pixels_of(usable(c.decoder)),
            sampling={"rule": c.sampling, "frames": c.frames, **pair},
            transform={"name": c.transform, "size": c.size},
            backbone={"name": s.estimator, "size": s.size, **self._estimator.facts},
            cut="flow",
            shape=self.clip_shape,
            dtype="int16",
        )

    def to(self, device: torch.device) -> None:  # noqa: D102 - as in Product
        self._estimator.to(device)

    def task(self, root: Path, video: Video, view: int) -> Task:  # noqa: D102
        c = self._config
        follow = self._settings.stride if self._settings.pair == "next_native" else 0
        return task_of(root, video, c.sampling, c.frames, decoder=c.decoder, follow=follow)

    def clip(self, frames: Tensor, video: str, view: int) -> Tensor:  # noqa: D102
        height, width = frames.shape[1:3]
        frames = resize(frames, *computing_size(height, width, self._settings))
        if self._settings.pair == "next_native":
            field = self._estimator(frames[0::2], frames[1::2])
        else:
            last = max(len(frames) - 1, 1)
            field = self._estimator(frames[:last], frames[-last:])
            field = torch.cat([field, field[-1:]])[: len(frames)]
        return stored(square(field, height, width, self._config.transform, self._config.size))

    def batch(self, clips: Tensor) -> Tensor:  # noqa: D102
        return clips


def _check(config: ExtractConfig) -> None:
    """UsageError for settings that optical flow has no use for or can't follow."""
    if config.dtype != "auto" or config.precision != "float32":
        raise UsageError(
            f"flow is computed in float32 and stored as int16, not {config.precision} and {config.dtype}",
            hint="leave dtype and precision alone",
        )
    resized(config.transform, config.size, config.size, config.size)  # refuses a transform without known geometry
    SAMPLING.get(config.sampling)(config.frames, config.frames, None)  # refuses a rule that draws
