"""Decoded clips to the device: through page-locked memory of bounded size on an accelerator, as they are on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.parcel import fresh

BUFFERS = 2
"""Page-locked buffers per compute thread: one is filled while the other is on its way."""


def waiting_event() -> torch.cuda.Event:
    """An event of the current stream, now; who waits for it sleeps, because the decode processes need the core."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class Upload:
    """One compute thread's way from a decode process to its device; its buffers grow to the largest clip and are used in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * BUFFERS
        self._sent: list[torch.cuda.Event | None] = [None] * BUFFERS
        self._now = 0

    def room(self, size: int) -> memoryview:
        """Memory of `size` bytes to put the next clip into; on an accelerator page-locked, and free of the clip before the last."""
        if self._device.type != "cuda":
            return fresh(size)
        self._now = (self._now + 1) % BUFFERS
        sent = self._sent[self._now]
        if sent is not None:
            sent.synchronize()
        if self._buffers[self._now].numel() < size:
            self._buffers[self._now] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._buffers[self._now].numpy().data[:size]

    def __call__(self, frames: NDArray[np.uint8]) -> Tensor:
        """Frames, uint8 [M, H, W, 3], on the device; on an accelerator the copy is queued on the current stream."""
        made = torch.from_numpy(frames).to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            self._sent[self._now] = waiting_event()
        return made
