"""The training loop itself: fetch an episode's activations, one forward and backward pass, an optimizer step where it is due."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fsar_cache.draws import U64, bits, generator, key_of
from fsar_cache.errors import UsageError
from heads.base import EpisodeBatch, EpisodeShape, Head, Role, Task
from pipeline.model import Model
from pipeline.optim import optimizer_of, rate_at
from pipeline.recipe import Recipe, Train
from pipeline.sources import FeatureSource
from splits.episodes import EpisodeSampler
from splits.types import Episodes, Ints

T = TypeVar("T")
BLOCK = 64
"""Episodes drawn at a time; their integers don't depend on it."""


@dataclass(frozen=True)
class TrainData:
    """Labelled source clips, the sampler of training episodes, unlabelled target clips where the protocol asks for them.

    exclude: ids of source clips that are left out.
    """

    source: FeatureSource
    sampler: EpisodeSampler
    unlabelled: FeatureSource | None = None
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fetched:
    """One training episode on the CPU: activations of each role [clips, ...], labels [clips], source classes [clips], the head's draws.

    beside: the other kinds of the clips of each role, {kind: [clips, ...]}. class_text [way, D] and source_text [classes, D] where there is
    text.
    """

    roles: dict[Role, Tensor]
    support_labels: Ints
    query_labels: Ints
    support_class: Ints
    query_class: Ints
    draws: dict[str, np.ndarray[Any, Any]]
    beside: dict[Role, dict[str, Tensor]]
    class_text: Tensor | None
    source_text: Tensor | None


def fetch_episode(data: TrainData, head: Head, train: Train, frames: int, episodes: Episodes, row: int) -> Fetched:
    """Episode `row` of `episodes`; everything random in it is a function of (seed, index) alone."""
    index = int(episodes.index[row])
    unlabelled = episodes.unlabelled[row]

    def keys(role: int, count: int) -> U64:
        return bits(key_of("training view", train.seed), index, role, np.arange(count))

    support, query = episodes.support[row], episodes.query[row]
    roles: dict[Role, Tensor] = {
        "support": data.source.fetch(support, training=True, keys=keys(0, len(support))),
        "query": data.source.fetch(query, training=True, keys=keys(1, len(query))),
    }
    part, besides = data.source.part, data.source.beside
    beside: dict[Role, dict[str, Tensor]] = {
        "support": besides.clips(part, support, "support"),
        "query": besides.clips(part, query, "query"),
    }
    if data.unlabelled is not None:
        roles["unlabelled"] = data.unlabelled.fetch(unlabelled, training=True, keys=keys(2, len(unlabelled)))
        beside["unlabelled"] = data.unlabelled.beside.clips(data.unlabelled.part, unlabelled, "unlabelled")
    text = besides.text
    shape = EpisodeShape(train.way, train.shot, len(query), len(unlabelled), frames, episodes.query_labels[row])
    return Fetched(
        roles,
        episodes.support_labels[row],
        episodes.query_labels[row],
        part.labels[support],
        part.labels[query],
        head.draw(shape, generator("training draws", train.seed, index)),
        beside,
        None if text is None else text[torch.from_numpy(episodes.classes[row])],
        text,
    )


def stream(data: TrainData, head: Head, recipe: Recipe, done: int) -> Generator[Fetched, None, None]:
    """The episodes of iterations done + 1, done + 2, ... to the last, fetched ahead where the source is slow."""

    def fetched() -> Generator[Fetched, None, None]:
        for start in range(done, recipe.train.iterations, BLOCK):
            episodes = data.sampler.episodes(start, min(BLOCK, recipe.train.iterations - start))
            for row in range(len(episodes)):
                yield fetch_episode(data, head, recipe.train, recipe.features.frames, episodes, row)

    ahead = max(data.source.ahead, data.unlabelled.ahead if data.unlabelled else 0)
    return in_advance(fetched(), ahead) if ahead else fetched()


def in_advance(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """The items of an iterator, up to `count` of them made ahead by one thread; its errors come out where they would have."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="episodes") as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Deterministic kernels and a random state of its own inside the block; both as before afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill


class Training:
    """A model in training: its optimizer and the number of iterations done."""

    def __init__(self, recipe: Recipe, model: Model, device: torch.device) -> None:
        self.recipe = recipe
        self.model = model.to(device)
        self.device = device
        self.optimizer = optimizer_of(recipe.train, model.named_parameters())
        self.iteration = 0

    def advance(self, fetched: Fetched) -> dict[str, float]:
        """One iteration: forward, teachers, backward, and the optimizer step where it is due; returns losses, accuracy and rate.

        Call inside `repeatable`. UsageError where the training diverged; the weights are then those before the iteration.
        """
        train, step = self.recipe.train, self.iteration + 1
        self.model.train()
        torch.manual_seed(key_of("dropout", train.seed, step) % 2**63)
        batch = self._batch(fetched)
        try:
            out = self.model.head(batch, step)
        except UsageError as error:
            # the same shapes passed before the first step and what came in is finite: it's the weights that are at fault
            stepped = any(train.steps_at(i) for i in range(1, step))
            if stepped and all(bool(a.isfinite().all()) for a in fetched.roles.values()):
                raise _diverged(step, error.message) from error
            raise
        loss = out.loss
        names = list(out.losses)
        found = torch.stack([loss, *(value for value, _ in out.losses.values())]).tolist()
        if not math.isfinite(found[0]):
            each = ", ".join(f"{n} {v:g}" for n, v in zip(names, found[1:], strict=True))
            raise _diverged(step, f"the loss is {found[0]} ({each})")
        self.model.head.after_forward(step)
        loss.backward()
        rate = rate_at(train, step)
        if train.steps_at(step):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.iteration = step
        accuracy = (out.logits.argmax(-1) == batch.query_labels).float().mean().item()
        return {"loss": found[0], **dict(zip(names, found[1:], strict=True)), "accuracy": accuracy, "lr": rate}

    def _batch(self, fetched: Fetched) -> EpisodeBatch:
        def ints(values: Ints) -> Tensor:
            return torch.from_numpy(values)[None].to(self.device)

        beside = {
            role: {kind: clip.to(self.device) for kind, clip in clips.items()} for role, clips in fetched.beside.items()
        }
        clips = self.model.episode_features({r: a.to(self.device) for r, a in fetched.roles.items()}, beside)
        draws = {name: torch.from_numpy(value)[None].to(self.device) for name, value in fetched.draws.items()}
        text = None if fetched.class_text is None else fetched.class_text[None].to(self.device)
        return EpisodeBatch(
            Task(self.recipe.train.way, ints(fetched.support_labels), draws, text),
            clips["support"],
            clips["query"],
            ints(fetched.query_labels),
            ints(fetched.support_class),
            ints(fetched.query_class),
            clips.get("unlabelled"),
            None if fetched.source_text is None else fetched.source_text.to(self.device),
        )


def _diverged(step: int, what: str) -> UsageError:
    return UsageError(
        f"the training diverged at iteration {step}: {what}",
        hint="try a smaller train.lr in a new run: --set train.lr=NUMBER --run NAME",
    )
