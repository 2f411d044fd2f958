"""Decoded clips to the device: through page-locked memory of bounded size on an accelerator, as they are on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUFFERS = 2
"""Page-locked buffers per compute thread: one is filled while the other is on its way."""


class Upload:
    """One compute thread's way from decoded frames to its device; its buffers grow to the largest clip and are used in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: list[tuple[Tensor, torch.cuda.Event] | None] = [None] * BUFFERS
        self._next = 0

    def __call__(self, frames: NDArray[np.uint8]) -> Tensor:
        """The frames, uint8 [M, H, W, 3], on the device; on an accelerator the copy is queued on the current stream."""
        clip = torch.from_numpy(frames)
        if self._device.type != "cuda":
            return clip.to(self._device)
        size, place = clip.numel(), self._next
        self._next = (place + 1) % BUFFERS
        held = self._held[place]
        if held is not None:
            held[1].synchronize()
        buffer = (
            held[0]
            if held is not None and held[0].numel() >= size
            else torch.empty(size, dtype=torch.uint8, pin_memory=True)
        )
        locked = buffer[:size].view(clip.shape)
        locked.copy_(clip)
        made = locked.to(self._device, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._held[place] = (buffer, event)
        return made
