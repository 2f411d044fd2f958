"""From decoded clips to rows: threads that transform each clip as it arrives and run the backbone on every batch that is full.

A batch is a fixed slice of a block, padded with black clips; failed clips stay black. So no row depends on how many processes decode,
in which order clips arrive, how many threads compute or which clips fail.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.rows import Outcome
from cache.spec import FeatureSpec
from extract.backbone import Backbone
from extract.clip import Decoded
from extract.config import ExtractConfig, blank_clip
from extract.pool import Failure, cores
from extract.transforms import TRANSFORMS
from fsar_cache.errors import IntegrityError, SpaceError

Array = NDArray[Any]


@dataclass
class Batch:
    """Rows first..first+count-1 of a block: `pixels` uint8 [clips of a batch, T, size, size, 3], one outcome per row as they come."""

    block: int
    first: int
    count: int
    pixels: Tensor
    outcomes: list[Outcome | None] = field(init=False)
    features: Array | None = None

    def __post_init__(self) -> None:
        self.outcomes = [None] * self.count

    @property
    def full(self) -> bool:
        """Whether every row has its outcome."""
        return None not in self.outcomes


Arrival = Decoded | Failure | Outcome
"""What comes for a row: its frames, why there are none, or an outcome that needs no frames."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is no memory left, on the device or (a plain RuntimeError of the tensor library) on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class Compute:
    """The compute threads. `put` clips, collect finished batches with `finished`; a context manager that ends its threads.

    On a CPU as many threads as cores, each with one thread inside the tensor library (so that bytes don't depend on the number of
    cores); one thread per accelerator. At most twice as many decoded clips as threads wait, so memory stays bounded.
    """

    def __init__(
        self,
        config: ExtractConfig,
        spec: FeatureSpec,
        backbone: Backbone,
        device: torch.device,
        clips: int,
        threads: int = 0,
    ) -> None:
        self._transform, self._size = TRANSFORMS.get(config.transform), config.size
        self._head = backbone.head_of(spec.cut).to(device).eval()
        self.device, self.clips = device, clips
        self._dtype = np.dtype(spec.dtype)
        self._blank = blank_clip(config)
        count = threads or (cores() if device.type == "cpu" else 1)
        self._arrivals: queue.Queue[tuple[Batch, int, Arrival]] = queue.Queue(2 * count)
        self._done: queue.Queue[Batch | BaseException] = queue.Queue()
        self._filling = threading.Lock()
        self._cancelled = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        self._outside = torch.get_num_threads()

    def __enter__(self) -> Compute:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads; what is not computed yet is dropped."""
        self._cancelled.set()
        for thread in self._threads:
            thread.join()
        torch.set_num_threads(self._outside)

    def batch(self, block: int, first: int, count: int) -> Batch:
        """An empty batch of `count` rows; its pixels are black until clips come."""
        pixels = self._blank.expand(self.clips, *self._blank.shape[1:])
        return Batch(block, first, count, pixels.to(self.device, copy=True).contiguous())

    def put(self, batch: Batch, place: int, clip: Arrival) -> None:
        """Hand over the clip (or what became of it) of row `place` of the batch; waits while too many are waiting."""
        while True:
            try:
                return self._arrivals.put((batch, place, clip), timeout=0.2)
            except queue.Full:
                if not all(thread.is_alive() for thread in self._threads):
                    list(self.finished())
                    raise

    def finished(self, wait: float = 0.0) -> Iterator[Batch]:
        """Batches that are computed by now; where there is none, the next one if it comes within `wait` seconds.

        Raises what went wrong in a thread.
        """
        try:
            while True:
                got = self._done.get(timeout=wait) if wait else self._done.get_nowait()
                if isinstance(got, BaseException):
                    raise got
                yield got
                wait = 0.0
        except queue.Empty:
            return

    def _run(self) -> None:
        try:
            if self.device.type == "cpu":
                torch.set_num_threads(1)
            exact = (
                nullcontext()
                if self.device.type == "cpu"
                else torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
            )
            with torch.inference_mode(), exact:
                while not self._cancelled.is_set():
                    try:
                        arrival = self._arrivals.get(timeout=0.1)
                    except queue.Empty:
                        continue
                    self._take(*arrival)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked for the work
            self._done.put(self._no_memory(error) if is_out_of_memory(error) else error)

    def _no_memory(self, error: BaseException) -> SpaceError:
        fewer = " --workers 1" if self.device.type == "cpu" else ""
        hint = f"work on less at a time: fsar-cache extract ... --batch-clips 1{fewer}"
        return SpaceError(f"out of memory on {self.device}: {' '.join(str(error).split())[:200]}", hint=hint)

    def _take(self, batch: Batch, place: int, clip: Arrival) -> None:
        """Transform one clip into its place; whoever brings the last clip of a batch runs the backbone on it."""
        outcome = self._place(batch.pixels[place], clip)
        with self._filling:
            batch.outcomes[place] = outcome
            last = batch.full
        if last:
            self._forward(batch)

    def _place(self, pixels: Tensor, clip: Arrival) -> Outcome:
        if isinstance(clip, Outcome):
            return clip
        if isinstance(clip, Failure):
            return Outcome("failed", clip.reason)
        try:
            pixels.copy_(self._transform(torch.from_numpy(clip.frames).to(self.device), self._size, None))
        except (RuntimeError, ValueError) as error:  # a picture the transform can't take: a matter of this clip alone
            if is_out_of_memory(error):
                raise
            return Outcome("failed", f"transform of {list(clip.frames.shape)}: {' '.join(str(error).split())[:200]}")
        return Outcome("ok", "", clip.decoded, clip.claimed, clip.corrupt, clip.duration)

    def _forward(self, batch: Batch) -> None:
        with np.errstate(over="ignore"):  # said below, with what to do
            rows = self._head(batch.pixels)[: batch.count].cpu().numpy().astype(self._dtype, copy=False)
        if not np.isfinite(rows).all():
            raise IntegrityError(
                f"the backbone gave features that {self._dtype} can't hold (infinite or not a number)",
                hint="check the weights and --set features.scaling=...; the cut pooled is stored in float32",
            )
        batch.features = np.ascontiguousarray(rows)
        self._done.put(batch)
