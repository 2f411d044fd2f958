"""The engine "ray": workers on the machines of a Ray cluster compute whole blocks; this process hands them out and takes the slices back.

Workers need the same packages, and the videos under the same path; they never see the store. Machines that join later are not used.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from threading import Event
from typing import Any

from extract.compute import Made, Slice
from extract.config import ExtractConfig, device_for
from extract.local import Clips
from extract.prepare import rows_of
from extract.product import Product
from extract.ray_cluster import Place, connected, places
from extract.ray_worker import Given, Worker, facts
from fsar_cache.console import warn
from fsar_cache.errors import FsarError, MissingError, SpaceError
from splits.types import Split

SHARE = 256
"""Least rows in a share, where there are many: decode processes start and end with it, which a few small blocks would not repay."""
AHEAD = 8
"""Slices that a worker may have finished before this process takes them."""
LOSSES = 2
"""Workers lost over one share until it counts as the cause."""
LOOK = 0.2
"""Seconds between two looks at the stop event while nothing arrives."""
PATIENCE = 60.0
"""Seconds without a worker after which the user is told."""


def computed_by_ray(
    slices: Iterable[Slice],
    product: Product,
    split: Split,
    config: ExtractConfig,
    clips: Clips,
    batch_clips: int,
    *,
    rows: int,
    stop: Event,
) -> Iterator[Made]:
    """Compute slices as `extract.local.computed` does, on the cluster at `config.ray_address` ("": one started here, and ended).

    Where `config.device` is an accelerator on this machine, there is one worker per accelerator of the cluster; else one per machine, which
    computes on all its cores. `config.workers` are the decode processes of each and the processors claimed for it (0: all of the machine,
    divided among its workers). A worker takes whole blocks; what a lost one had not delivered another computes again. Workers whose
    weights, packages or machine type differ from this machine's are left out with a warning. rows: how many there are to do, so that
    every worker gets some of them. Once `stop` is set only what has arrived by then comes out.

    Raises the errors of ours that a worker meets, MissingError without Ray, without a worker that can be used, or where a worker's files
    are not those of this machine, and SpaceError where a second worker is lost over the same blocks.
    """
    device = device_for(config)
    with connected(config.ray_address) as ray:
        here = Clips(clips.root.absolute(), clips.videos)
        origins = {row.id: row.origin for row in rows_of(split)}
        given = Given(Path.cwd(), split, replace(config, device=device.type), here, batch_clips, origins)
        crew = _Crew(ray, ray.put(given), facts(config, product, batch_clips), config.workers)
        try:
            found = places(ray.nodes(), config.workers, accelerator=device.type == "cuda")
            for place in found:
                crew.hire(place)
            yield from crew.results(_shares(slices, _least(rows, len(found))), stop)
        finally:
            crew.dismiss()


@dataclass
class _Share:
    """Whole blocks for one worker: the slices that have not come back, by block and first row, and the workers lost over them."""

    left: dict[tuple[int, int], Slice]
    losses: int = 0

    def __str__(self) -> str:
        parts = list(self.left.values())
        blocks = ", ".join(map(str, sorted({part.block for part in parts})))
        return f"block {blocks} (clips {parts[0].rows[0].id!r} to {parts[-1].rows[-1].id!r})"


def _least(rows: int, workers: int) -> int:
    """Rows that a share needs at least: SHARE, or where there are few rows, so many that every worker gets about two shares."""
    return max(1, min(SHARE, rows // (2 * workers)))


def _shares(slices: Iterable[Slice], least: int) -> Iterator[_Share]:
    """Shares of at least `least` rows (the last may have fewer), taken from the slices only as they are wanted."""
    left: dict[tuple[int, int], Slice] = {}
    for _, parts in groupby(slices, key=lambda part: part.block):
        left |= {(part.block, part.first): part for part in parts}
        if sum(len(part.rows) for part in left.values()) >= least:
            yield _Share(left)
            left = {}
    if left:
        yield _Share(left)


@dataclass
class _Hand:
    """A worker: its actor and place, what is awaited of it (None: it is free), and its share (None: it is free or getting ready)."""

    actor: Any
    place: Place
    pending: Any
    share: _Share | None = None


class _Crew:
    """The workers of one run, each with `workers` decode processes (0: one per processor claimed), and the shares to hand out next."""

    def __init__(self, ray: Any, given: Any, facts: Mapping[str, Any], workers: int) -> None:
        self._ray, self._given, self._facts, self._workers = ray, given, facts, workers
        self._hands: list[_Hand] = []
        self._next: deque[_Share] = deque()
        errors = ray.exceptions
        self._losses = (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError)

    def hire(self, place: Place) -> None:
        """Ask for a worker; it is given work once it is ready."""
        near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(place.node, soft=True)
        kind = self._ray.remote(Worker).options(num_cpus=place.cpus, num_gpus=place.gpus, scheduling_strategy=near)
        actor = kind.remote(self._given, self._workers or max(place.cpus, 1))
        self._hands.append(_Hand(actor, place, actor.ready.remote()))

    def dismiss(self) -> None:
        """End all workers."""
        while self._hands:
            self._ray.kill(self._hands.pop().actor)

    def results(self, shares: Iterator[_Share], stop: Event) -> Iterator[Made]:
        """Hand out all shares and yield what comes back, until that is everything or `stop` is set."""
        idle = time.monotonic()
        while self._waiting(shares) or any(hand.share for hand in self._hands):
            if stop.is_set():
                break
            self._hand_out(shares)
            if any(hand.share for hand in self._hands):
                idle = time.monotonic()
            elif time.monotonic() > idle + PATIENCE:
                idle = float("inf")
                warn("no Ray worker is ready yet: other work may hold the processors of the cluster (ray status)")
            yield from self._arrived(1, LOOK)
        for _ in range(AHEAD):
            yield from self._arrived(len(self._hands), 0)

    def _waiting(self, shares: Iterator[_Share]) -> bool:
        """Whether a share waits to be handed out; where none does, the next of `shares` is made to."""
        if not self._next:
            self._next.extend(islice(shares, 1))
        return bool(self._next)

    def _hand_out(self, shares: Iterator[_Share]) -> None:
        for hand in self._hands:
            if hand.pending is None and self._waiting(shares):
                hand.share = self._next.popleft()
                made = hand.actor.made.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
                hand.pending = made.remote(list(hand.share.left.values()))

    def _arrived(self, most: int, wait: float) -> Iterator[Made]:
        """Take what came from at most `most` workers within `wait` seconds; those taken from are last in turn."""
        busy = {id(hand.pending): hand for hand in self._hands if hand.pending is not None}
        if not busy:
            return
        ready, _ = self._ray.wait([h.pending for h in busy.values()], num_returns=min(most, len(busy)), timeout=wait)
        for hand in [busy[id(pending)] for pending in ready]:
            self._hands.remove(hand)
            self._hands.append(hand)
            try:
                if hand.share:
                    made = self._ray.get(next(hand.pending))
                    del hand.share.left[made.block, made.first]
                    yield made
                else:
                    self._welcome(hand, *self._ray.get(hand.pending))
            except StopIteration:
                hand.share = hand.pending = None
            except self._losses as error:
                self._replace(hand, error)
            except self._ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, FsarError) else error) from None

    def _welcome(self, hand: _Hand, host: str, its: Mapping[str, Any]) -> None:
        """A worker is ready: keep it if its rows are those that this machine would make."""
        hand.pending = None
        if its == self._facts:
            return
        differ = [key for key in self._facts if its.get(key) != self._facts[key]]
        text = "; ".join(f"{key} {its.get(key)} there, {self._facts[key]} here" for key in differ)
        self._leave_out(hand, f"{host} would make other bytes than this machine: {text}")

    def _leave_out(self, hand: _Hand, reason: str) -> None:
        """Do without a worker; MissingError where it was the last."""
        self._hands.remove(hand)
        self._ray.kill(hand.actor)
        if not self._hands:
            raise MissingError(
                f"the Ray cluster has no worker that can be used: {reason}",
                hint="all its machines need fsar-cache[ray] and packages of the same versions; a machine of another type "
                "can make a part of its own: --part",
            )
        warn(f"a Ray worker is left out: {reason}")

    def _replace(self, hand: _Hand, error: Exception) -> None:
        """A worker is lost: what it had not delivered is the next share, and another worker is asked for."""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        if hand.share is None:
            self._leave_out(hand, f"it ended before it was ready ({reason})")
            return
        self._hands.remove(hand)
        self._ray.kill(hand.actor)
        self.hire(hand.place)
        if not hand.share.left:
            return
        hand.share.losses += 1
        if hand.share.losses == LOSSES:
            raise SpaceError(
                f"{LOSSES} Ray workers were lost over {hand.share}, most likely for want of memory: {reason}",
                hint="use fewer decode processes on each machine: --workers 1; everything delivered before is saved",
            )
        self._next.appendleft(hand.share)
