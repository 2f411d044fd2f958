"""Optical flow by RAFT as torchvision builds it, on the device. Source: the optical-flow card, "RAFT (torchvision)"."""

from __future__ import annotations

import copy
import threading
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from extract.flow import FlowEstimator
from extract.flow_settings import FlowSettings
from extract.weights import drawn, load_strictly, read_tensors, seed_of, weight_hash
from fsar_cache.errors import MissingError, UsageError, unknown

LEAST = 128
"""Pixels that both sides of a frame must have: the coarsest level of the correlation pyramid is 1/64 of the frame, and needs two."""
MULTIPLE = 8


class RaftFlow(FlowEstimator):
    """raft_small or raft_large: RGB in [-1, 1], `raft_updates` refinements, the last field.

    Frames are padded to multiples of 8 on the right and below by repeating their edge; the field is cut back.
    """

    def __init__(self, settings: FlowSettings) -> None:
        import torchvision

        if settings.size < LEAST:
            raise UsageError(
                f"{settings.estimator} needs frames of at least {LEAST} pixels a side, flow.size is {settings.size}",
                hint=f"--set features.flow.size={2 * LEAST}, or --set features.flow.estimator=dis_medium",
            )
        self._updates = settings.raft_updates
        self._net = raft(settings.estimator, settings.raft_weights)
        self._own = threading.local()
        self.facts = {
            "library": f"torchvision {torchvision.__version__.partition('+')[0]}",
            "weights": weight_hash(self._net),
            "settings": {"updates": self._updates},
        }

    def to(self, device: torch.device) -> None:  # noqa: D102 - as in FlowEstimator
        self._net.to(device)
        self._own = threading.local()

    @torch.inference_mode()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:  # noqa: D102
        height, width = first.shape[1:3]
        if min(height, width) < LEAST:
            raise ValueError(f"RAFT needs frames of at least {LEAST} pixels a side, got {height} x {width}")
        if not hasattr(self._own, "net"):  # the network keeps its correlation volume in itself: one per thread
            self._own.net = copy.deepcopy(self._net)
        fields: list[Tensor] = self._own.net(_input(first), _input(second), num_flow_updates=self._updates)
        return fields[-1][..., :height, :width].contiguous()


def _input(frames: Tensor) -> Tensor:
    """uint8 [P, H, W, 3] to float32 [P, 3, H', W'] in [-1, 1], H' and W' the next multiples of 8."""
    height, width = frames.shape[1:3]
    planes = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    return pad(planes, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")


def raft(name: str, weights: str) -> nn.Module:
    """The network `name` of torchvision in evaluation mode, its tensors those that `weights` names.

    weights: "random:SEED" (drawn as torchvision initialises, in a forked random state), "file:PATH" (torchvision's names) or
    "torchvision:NAME" ("default" for its default). Errors: UsageError for a malformed or unknown name, MissingError where they can't be
    had, IntegrityError where they don't fit.
    """
    from torchvision.models import optical_flow

    source, _, rest = weights.partition(":")
    if source not in ("random", "file", "torchvision") or not rest:
        raise UsageError(
            f"RAFT weights {weights!r} are not random:SEED, file:PATH or torchvision:NAME",
            hint="for example --set features.flow.raft_weights=torchvision:default",
        )
    net = drawn(lambda: getattr(optical_flow, name)(weights=None), seed_of(rest) if source == "random" else 0)
    if source != "random":
        path = Path(rest) if source == "file" else _published(name, rest)
        load_strictly(net, read_tensors(path), str(path), unused=(), layout=f"torchvision's of {name}")
    return net.eval()


def _published(name: str, entry: str) -> Path:
    """The file of torchvision's weights `entry` of the network `name`, from its cache or downloaded to it."""
    from torchvision.models import get_model_weights

    known: Any = get_model_weights(name)
    if entry != "default" and entry not in known.__members__:
        raise unknown(f"torchvision weights of {name}", entry, ["default", *known.__members__])
    url: str = (known.DEFAULT if entry == "default" else known[entry]).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file():
        return path
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:
        raise MissingError(
            f"the weights {path.stem} of {name} could not be fetched: {error}",
            hint="connect to the network once, or use weights you have: --set features.flow.raft_weights=file:PATH "
            "(flow.estimator=dis_medium needs none)",
        ) from error
    return path
