"""From decoded clips to rows: threads that prepare each clip as it arrives and compute every batch that is full.

A batch is a fixed slice of a block, padded with empty clips; failed clips stay empty. So no row depends on how many processes decode,
in which order clips arrive, how many threads compute or which clips fail.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.rows import Outcome, Row
from extract.clip import Decoded
from extract.parcel import Parcel
from extract.pool import Failure, cores
from extract.product import Product
from extract.upload import Upload, waiting_event
from fsar_cache.errors import IntegrityError, SpaceError

Array = NDArray[Any]
CUDA_THREADS = 2
"""Compute threads per accelerator, each with a stream of its own: while one waits for its rows, the other feeds the device."""
SWITCH = 0.0005
"""Seconds after which a thread hands the interpreter over while an accelerator is fed by several (Python's own 5 ms starve it)."""


@dataclass(frozen=True)
class Slice:
    """Rows of one block that are computed together: the block, the place of the first in it, and the rows."""

    block: int
    first: int
    rows: Sequence[Row]


@dataclass
class Batch:
    """A slice underway: `clips` [clips of a batch, *clip shape], one outcome per row as they come, and the rows' features at the end."""

    slice: Slice
    clips: Tensor
    marks: list[torch.cuda.Event] = field(default_factory=list)
    features: Array | None = None

    def __post_init__(self) -> None:
        self.outcomes: list[Outcome | None] = [None] * len(self.slice.rows)

    @property
    def full(self) -> bool:
        """Whether every row has its outcome."""
        return None not in self.outcomes


@dataclass(frozen=True)
class Made:
    """A slice with its rows' features [rows, *row shape] and outcomes."""

    block: int
    first: int
    features: Array
    outcomes: list[Outcome]


Arrival = Parcel | Decoded | Failure | Outcome
"""What comes for a row: its frames (as they lie with the decode process, or in memory), why there are none, or an outcome without any."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is no memory left, on the device or (a plain RuntimeError of the tensor library) on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class Compute:
    """The compute threads. `put` clips, collect finished slices with `finished`; a context manager that ends its threads.

    On a CPU as many threads as cores, each with one thread inside the tensor library (so that bytes don't depend on the number of
    cores). At most twice as many decoded clips as threads wait, so memory stays bounded.
    """

    def __init__(self, product: Product, device: torch.device, clips: int, threads: int = 0) -> None:
        self._product = product
        product.to(device)
        self.device, self.clips = device, clips
        self._dtype = np.dtype(product.spec.dtype)
        count = threads or (cores() if device.type == "cpu" else CUDA_THREADS)
        self._arrivals: queue.Queue[tuple[Batch, int, Arrival]] = queue.Queue(2 * count)
        self._done: queue.Queue[Made | BaseException] = queue.Queue()
        self._filling = threading.Lock()
        self._cancelled = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        self._outside = torch.get_num_threads(), sys.getswitchinterval()

    def __enter__(self) -> Compute:
        if self.device.type == "cuda":
            sys.setswitchinterval(SWITCH)
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
        torch.set_num_threads(self._outside[0])
        sys.setswitchinterval(self._outside[1])

    def batch(self, part: Slice) -> Batch:
        """An empty batch for a slice; its clips are zeros until they come."""
        shape = (self.clips, *self._product.clip_shape)
        made = Batch(part, torch.zeros(shape, dtype=self._product.clip_dtype, device=self.device))
        self._mark(made)
        return made

    def _mark(self, batch: Batch) -> None:
        """Note on an accelerator how far the current stream is; whoever computes the batch waits for all marks."""
        if self.device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            batch.marks.append(event)

    def put(self, batch: Batch, place: int, clip: Arrival) -> None:
        """Hand over the clip (or what became of it) of row `place` of the batch; waits while too many are waiting."""
        while True:
            try:
                return self._arrivals.put((batch, place, clip), timeout=0.2)
            except queue.Full:
                if not all(thread.is_alive() for thread in self._threads):
                    list(self.finished())
                    raise

    def finished(self, wait: float = 0.0) -> Iterator[Made]:
        """Slices that are computed by now; where there is none, the next one if it comes within `wait` seconds.

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
            upload = Upload(self.device)
            with ExitStack() as settings:
                for setting in _settings(self.device):
                    settings.enter_context(setting)
                while not self._cancelled.is_set():
                    try:
                        arrival = self._arrivals.get(timeout=0.1)
                    except queue.Empty:
                        continue
                    self._take(*arrival, upload)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked for the work
            self._done.put(self._no_memory(error) if is_out_of_memory(error) else error)

    def _no_memory(self, error: BaseException) -> SpaceError:
        fewer = " --workers 1" if self.device.type == "cpu" else ""
        hint = f"work on less at a time: fsar-cache extract ... --batch-clips 1{fewer}"
        return SpaceError(f"out of memory on {self.device}: {' '.join(str(error).split())[:200]}", hint=hint)

    def _take(self, batch: Batch, place: int, clip: Arrival, upload: Upload) -> None:
        """Put one clip into its place; whoever brings the last clip of a batch computes it."""
        outcome = self._place(batch, place, clip, upload)
        with self._filling:
            batch.outcomes[place] = outcome
            last = batch.full
        if last:
            self._done.put(self._computed(batch))

    def _place(self, batch: Batch, place: int, clip: Arrival, upload: Upload) -> Outcome:
        if isinstance(clip, Outcome):
            return clip
        if isinstance(clip, Failure):
            return Outcome("failed", clip.reason)
        row = batch.slice.rows[place]
        if isinstance(clip, Parcel):
            clip = clip.open(upload.room)
        try:
            if batch.marks:
                batch.marks[0].wait()
            batch.clips[place].copy_(self._product.clip(upload(clip.frames), row.id, row.view))
            self._mark(batch)
        except (RuntimeError, ValueError) as error:  # a picture the step can't take: a matter of this clip alone
            if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                raise
            return Outcome("failed", f"transform of {list(clip.frames.shape)}: {' '.join(str(error).split())[:200]}")
        return Outcome("ok", "", clip.decoded, clip.claimed, clip.corrupt, clip.duration)

    def _computed(self, batch: Batch) -> Made:
        for mark in batch.marks:
            mark.wait()
        outcomes = [outcome for outcome in batch.outcomes if outcome is not None]
        if all(
            outcome.status != "ok" for outcome in outcomes
        ):  # whole stretches of files may be missing: no arithmetic for them
            nothing = np.zeros((len(outcomes), *self._product.spec.shape), self._dtype)
            return Made(batch.slice.block, batch.slice.first, nothing, outcomes)
        with np.errstate(over="ignore"):  # said below, with what to do
            rows = self._product.batch(batch.clips)[: len(outcomes)].to("cpu", non_blocking=True)
            if self.device.type == "cuda":
                waiting_event().synchronize()
            made = rows.numpy().astype(self._dtype, copy=False)
        if not np.isfinite(made).all():
            raise IntegrityError(
                f"the backbone gave features that {self._dtype} can't hold (infinite or not a number)",
                hint="check the weights and --set features.scaling=..., or store float32: --dtype float32",
            )
        return Made(batch.slice.block, batch.slice.first, np.ascontiguousarray(made), outcomes)


def _settings(device: torch.device) -> list[AbstractContextManager[Any]]:
    """What holds in a compute thread: no gradients, one thread on a CPU; on an accelerator a stream of its own and exact kernels."""
    if device.type != "cuda":
        torch.set_num_threads(1)
        return [torch.inference_mode()]
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    stream = torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    return [torch.inference_mode(), torch.cuda.device(device), stream, exact]
