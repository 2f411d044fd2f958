"""Estimators of optical flow: OpenCV's DIS and Farneback on the CPU, RAFT (extract.flow_raft) on the device.

P pairs of frames, H x W pixels. Source: the optical-flow card (presets and Farneback's arguments as listed there).
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.flow_settings import FlowSettings
from extract.geometry import Size, with_short_side

DIS = {"dis_ultrafast": 0, "dis_fast": 1, "dis_medium": 2}
"""Estimator -> OpenCV's preset."""
LEAST = 32
"""Pixels that both sides of a frame must have for DIS and Farneback: below, DIS (OpenCV 5.0.0) ends the process on wide pictures."""
FARNEBACK: dict[str, float | int] = {
    "pyr_scale": 0.5,
    "levels": 3,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}
"""In the order of OpenCV's arguments."""


class FlowEstimator(abc.ABC):
    """Flow between the two frames of every pair; safe to call from several threads. facts: what decides its fields, as plain data."""

    facts: dict[str, Any]

    @abc.abstractmethod
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """From RGB frames, uint8 [P, H, W, 3] each, to fields float32 [P, 2, H, W] in pixels, on the same device.

        A pair's field depends on that pair alone (to rounding of floats). ValueError where the frames are too small.
        """

    def to(self, device: torch.device) -> None:  # noqa: B027 - nothing to move unless there are weights
        """Move what the estimator needs to the device."""


class OpenCVFlow(FlowEstimator):
    """DIS or Farneback on 8-bit grey images, in one thread of the CPU, wherever the frames are."""

    def __init__(self, name: str) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._name = name
        self.facts = {"library": f"opencv {cv2.__version__}", "grey": "opencv RGB2GRAY", "settings": FARNEBACK}
        if name in DIS:
            dis = cv2.DISOpticalFlow.create(DIS[name])
            self.facts["settings"] = {
                "finest_scale": dis.getFinestScale(),
                "gradient_steps": dis.getGradientDescentIterations(),
                "patch": dis.getPatchSize(),
                "stride": dis.getPatchStride(),
                "variational_steps": dis.getVariationalRefinementIterations(),
            }

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:  # noqa: D102 - as in FlowEstimator
        height, width = first.shape[1:3]
        if min(height, width) < LEAST:
            raise ValueError(f"optical flow needs frames of at least {LEAST} pixels a side, got {height} x {width}")
        made = np.empty((len(first), 2, height, width), np.float32)
        for number, pair in enumerate(zip(_grey(first), _grey(second), strict=True)):
            made[number] = self._flow(*pair).transpose(2, 0, 1)
        return torch.from_numpy(made).to(first.device)

    def _flow(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [H, W, 2] between two grey images."""
        import cv2

        arguments: Any = [first, second, None]  # no field to start from
        found: NDArray[np.float32]
        if self._name in DIS:
            estimator = cv2.DISOpticalFlow.create(DIS[self._name])  # anew: its buffers would be shared between threads
            found = estimator.calc(*arguments)
        else:
            found = cv2.calcOpticalFlowFarneback(*arguments, *FARNEBACK.values())
        return found


def _grey(frames: Tensor) -> list[NDArray[np.uint8]]:
    """uint8 [P, H, W, 3] as P grey images [H, W]."""
    import cv2

    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.cpu().contiguous().numpy()]


def computing_size(height: int, width: int, settings: FlowSettings) -> Size:
    """The size at which the flow of frames of height x width is computed: short side `settings.size`, never enlarged."""
    if min(height, width) <= settings.size:
        return height, width
    return with_short_side(height, width, settings.size)


def flow_estimator(settings: FlowSettings) -> FlowEstimator:
    """The estimator that the settings name; MissingError, UsageError or IntegrityError where RAFT's weights can't be had or don't fit."""
    if settings.is_raft:
        from extract.flow_raft import RaftFlow

        return RaftFlow(settings)
    return OpenCVFlow(settings.estimator)
