"""Training runs: a folder that holds the recipe, what it was made from, metrics and checkpoints; stopped at any moment, it goes on exactly.

A checkpoint holds weights, optimizer state and the gradients summed so far; draws and dropout are functions of (seed, iteration). So a run
that was killed and resumed ends with the same bytes as one that was not (on one machine and device type).
"""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cache.lock import exclusive
from extract.config import device_of
from fsar_cache import places
from fsar_cache.canonical import differences
from fsar_cache.errors import IntegrityError, Interrupted, UsageError
from pipeline.assemble import Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, pack_state, save_checkpoint, unpack_model, unpack_training
from pipeline.evaluate import evaluate
from pipeline.folder import CHECKPOINTS, CONFIG, LAST, METRICS, note_session, write_config
from pipeline.leaks import tell
from pipeline.loop import Training, repeatable, stream
from pipeline.metrics import MetricsLog
from pipeline.recipe import Recipe
from pipeline.seen import write_seen
from pipeline.sources import FeatureSource
from splits.episodes import EpisodeSampler
from splits.types import Protocol

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class RunSummary:
    """What a call of `train` did: iterations done in all, those found done at its start, seconds, the last iteration's metrics.

    best: {"iteration", "accuracy" in percent} of the best validation, None without validations.
    """

    folder: Path
    iterations: int
    done_before: int
    seconds: float
    metrics: dict[str, float]
    best: dict[str, float] | None


@dataclass(frozen=True)
class Validation:
    """Labelled clips that are not trained on, and their episodes."""

    source: FeatureSource
    sampler: EpisodeSampler


def train(
    recipe: Recipe,
    folder: Path,
    places: Places,
    *,
    device: str = "auto",
    report: Progress | None = None,
    stop: threading.Event | None = None,
) -> RunSummary:
    """Train `recipe` in the run folder `folder`, or go on where a run of the same recipe and data stopped there.

    report(iteration, iterations, metrics) after every iteration. SIGINT and SIGTERM (in the main thread), or `stop` set by the caller,
    end it after the iteration in hand: a checkpoint is saved and Interrupted raised. UsageError where the folder holds a run of another
    recipe or is in use, or there is nothing to train; IntegrityError where the data changed since the run began. What the head can't use
    is refused before stores are looked for, and nothing is written before all of it is known to fit.
    """
    stop = stop or threading.Event()
    with ExitStack() as held:
        there = folder.is_dir()
        if there:  # a run that somebody is training is refused at once
            held.enter_context(exclusive(folder / ".lock", "run"))
        shop = held.enter_context(workshop(recipe, places))
        held.enter_context(stop_signals(stop))
        target = device_of(device)
        run = Run(shop, folder, target)
        if not there:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive(folder / ".lock", "run"))
        with repeatable(target):
            return run.go(stop, report)


class Run:
    """One run folder being trained; it is first written to by `go`."""

    def __init__(self, shop: Workshop, folder: Path, device: torch.device) -> None:
        model = shop.training_model()
        if not any(p.requires_grad for p in model.parameters()):
            raise UsageError(
                f"head {shop.recipe.head!r} on frozen {shop.recipe.features.cut!r} features has nothing to train",
                hint="evaluate it as it is: fsar-cache eval, with the --head or --recipe and the --set given here",
            )
        self.recipe = replace(shop.recipe, head_config=asdict(model.head.config))
        self.folder = folder
        self.data, self.identity = shop.training()
        self.seen, self.leaks = shop.seen, shop.leaks
        tell(self.leaks)
        self.device = device
        self.training = Training(self.recipe, model, device)
        self.validation = _validation(shop)
        self.best: dict[str, float] | None = None

    def go(self, stop: threading.Event, report: Progress | None) -> RunSummary:
        """Resume or start, train to the end; call inside `repeatable`, with the folder locked."""
        began, train = time.perf_counter(), self.recipe.train
        write_config(self.folder, self.recipe)
        self._resume()
        write_seen(self.folder, self.seen)
        before, row = self.training.iteration, dict[str, float]()
        if before < train.iterations:
            note_session(self.folder, self.identity, self.training.device, before, self.leaks)
        with (
            closing(MetricsLog(self.folder / METRICS, before)) as log,
            closing(stream(self.data, self.training.model.head, self.recipe, before)) as episodes,
        ):
            for fetched in episodes:
                row = self.training.advance(fetched)
                log.write({"iteration": self.training.iteration, **row} | self._validate())
                if report:
                    report(self.training.iteration, train.iterations, row)
                stopping = stop.is_set() and self.training.iteration < train.iterations
                self._save_if_due(log, stopping)
                if stopping:
                    raise Interrupted(
                        f"stopped and saved after iteration {self.training.iteration} of {train.iterations} in {self.folder}",
                        hint=f"continue from there: {command_that_continues(self.folder, self.device)}",
                    )
        return RunSummary(self.folder, train.iterations, before, time.perf_counter() - began, row, self.best)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINTS / f"{LAST}.safetensors"
        training = self.training
        if not path.exists():
            fit_normaliser(training.model, self.data.source, self.data.exclude)
            return
        found = load_checkpoint(path)
        changed = differences(found.facts["identity"], self.identity)
        if changed:
            lines = "".join(f"\n  {field}: {was!r} then, {now!r} now" for field, was, now in changed)
            raise IntegrityError(
                f"the data of the run {self.folder} changed since it began:{lines}",
                hint="train in a new run folder, or bring the data back",
            )
        unpack_model(found, training.model, str(path))
        unpack_training(found, training.model, training.optimizer)
        training.iteration = found.facts["iteration"]
        self.best = found.facts["best"]

    def _save(self, name: str) -> None:
        facts = {"iteration": self.training.iteration, "identity": self.identity, "best": self.best}
        save_checkpoint(
            self.folder / CHECKPOINTS, name, pack_state(self.training.model, self.training.optimizer), facts
        )

    def _save_if_due(self, log: MetricsLog, stopping: bool) -> None:
        at, train = self.training.iteration, self.recipe.train
        if train.keep_every and at % train.keep_every == 0:
            self._save(f"step-{at}")
        if stopping or at % train.save_every == 0 or at == train.iterations:
            log.flush()
            self._save(LAST)

    def _validate(self) -> dict[str, float]:
        """Where it is due: the accuracy on validation episodes, kept as "best" if it is; {} otherwise."""
        train, at = self.recipe.train, self.training.iteration
        if self.validation is None or (at % train.validate_every and at != train.iterations):
            return {}
        found = evaluate(self.training.model, self.validation.source, self.validation.sampler)
        if self.best is None or found.accuracy > self.best["accuracy"]:
            self.best = {"iteration": at, "accuracy": found.accuracy}
            self._save("best")
        return {"validation": found.accuracy, "validation_interval": found.interval}


def command_that_continues(folder: Path, device: torch.device) -> str:
    """The command line that goes on with the run in `folder`, whatever command began it: by the recipe that the run keeps."""
    where = f"{folder}" if "/" in f"{folder}" else f"./{folder}"
    words = ["fsar-cache", "train", "--recipe", f"{where}/{CONFIG}", "--run", where, "--device", str(device)]
    return shlex.join([*words, *places.videos_words()])


def _validation(shop: Workshop) -> Validation | None:
    """Validation episodes have the shape of the recipe's evaluation episodes."""
    train, eval_ = shop.recipe.train, shop.recipe.eval
    if not train.validate_every:
        return None
    protocol = Protocol(eval_.way, eval_.shot, eval_.query, train.validate_episodes)
    domain = replace(shop.recipe.source, part=train.validate_part)
    source, sampler, _ = shop.evaluation(domain, protocol, train.seed, role="source")
    return Validation(source, sampler)


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[None]:
    """Inside the block the first SIGINT or SIGTERM sets `stop`; a second one acts as if there were no handler. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(*_: object) -> None:
        stop.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
