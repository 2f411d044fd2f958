"""What decides the fields of an optical-flow store, and the pictures made of them, apart from the frames behind them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Estimator = Literal["dis_medium", "dis_fast", "dis_ultrafast", "farneback", "raft_small", "raft_large"]
Pair = Literal["next_native", "next_sampled"]
Style = Literal["wheel", "uvm", "uv"]
Scale = Literal["fixed", "per_frame_max"]


MOST = 10_000
"""Upper bound of the settings that are counts; more is a slip of the pen."""


@dataclass(frozen=True)
class FlowSettings:
    """How flow is computed (card: optical flow, "Switches").

    estimator: DIS and Farneback run on the CPU and need no weights, RAFT runs on the device.
    pair: "next_native" takes frame i_t of the decoded clip with i_t + stride, "next_sampled" takes i_t with i_(t+1) of the sampled frames
    (stride is not used). The last frame takes the pair that ends on it where it has no partner.
    size: short side in pixels at which flow is computed; smaller frames are taken as they are, never enlarged.
    raft_updates: refinement steps; raft_weights: "random:SEED", "file:PATH" or "torchvision:NAME" (both are not used by DIS and Farneback).
    image, image_scale: how features of flow see a field (see `extract.flow_image`); a store of fields is the same whatever they are.
    """

    estimator: Estimator = "dis_medium"
    pair: Pair = "next_native"
    stride: int = 1
    size: int = 256
    raft_updates: int = 12
    raft_weights: str = "torchvision:default"
    image: Style = "wheel"
    image_scale: Scale = "fixed"

    def __post_init__(self) -> None:
        for name, kind in (("estimator", Estimator), ("pair", Pair), ("image", Style), ("image_scale", Scale)):
            allowed = get_args(kind)
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("stride", "size", "raft_updates"):
            if getattr(self, name) > MOST:
                raise ValueError(f"{name} must be at most {MOST}, got {getattr(self, name)}")
        for name, least in (("stride", 1), ("size", 32), ("raft_updates", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def is_raft(self) -> bool:
        """Whether the estimator is a network with weights."""
        return self.estimator.startswith("raft")
