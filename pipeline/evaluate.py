"""Evaluation: encode each clip once, then match thousands of episodes in a few threads.

Letters: E episodes of a chunk, W way, S support and Q query clips of an episode.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fsar_cache.errors import UsageError
from heads.base import Head, Role, Task
from pipeline.model import Model
from pipeline.results import Evaluation, summarise
from pipeline.sources import FeatureSource
from splits.episodes import EpisodeSampler
from splits.types import Episodes, Ints

CHUNK = 32
"""Episodes matched at a time; between 16 and 32 was fastest for [8, 512] features on two cores."""
BATCH_BYTES = 8 * 2**20
"""Activations encoded at a time: some clips of pixels, hundreds of pooled ones."""
Progress = Callable[[str, int, int], None]


class Table:
    """Encoded clips: {name: [clips, ...]}, looked up by position in the partition."""

    def __init__(self, positions: Ints, codes: dict[str, Tensor], size: int) -> None:
        self.codes = codes
        self._row = np.full(size, -1, np.int64)
        self._row[positions] = np.arange(len(positions))

    def rows(self, positions: Ints) -> dict[str, Tensor]:
        """{name: [E, clips, ...]} for positions [E, clips]."""
        index = torch.from_numpy(self._row[positions].ravel())
        return {
            name: code.index_select(0, index.to(code.device)).view(*positions.shape, *code.shape[1:])
            for name, code in self.codes.items()
        }


def encode_clips(
    model: Model, source: FeatureSource, positions: Ints, report: Progress | None = None
) -> tuple[Table, Table]:
    """Support and query codes of the clips at the unique `positions`; the model must be in evaluation mode.

    Each clip is fetched and goes through the backbone's tail once. A head whose `encode` ignores the role encodes it once too: both
    tables are then one.
    """
    roles: tuple[Role, ...] = ("support", "query") if model.head.role_matters else ("support",)
    made: dict[Role, dict[str, list[Tensor]]] = {role: {} for role in roles}
    size = max(1, BATCH_BYTES // source.spec.row_bytes)
    for start in range(0, len(positions), size):
        batch = positions[start : start + size]
        activations = source.fetch(batch, training=False, keys=np.zeros(len(batch), np.uint64))
        clips = {"features": model.features(activations.to(model.device))}
        for role in roles:
            model.head.check(clips, role)
            for name, code in model.head.encode(clips, role).items():
                made[role].setdefault(name, []).append(code)
        if report:
            report("encode", start + len(batch), len(positions))
    tables = [
        Table(positions, {name: torch.cat(codes) for name, codes in made[role].items()}, len(source.part.videos))
        for role in roles
    ]
    return tables[0], tables[-1]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """New threads compute with one thread of their own inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def match_all(
    head: Head, support: Table, query: Table, episodes: Episodes, way: int, threads: int, report: Progress | None = None
) -> tuple[Ints, float]:
    """Predicted labels int64 [episodes, Q] and the mean cross-entropy over all queries. Chunks are independent of `threads`."""
    said = np.empty(episodes.query.shape, np.int64)
    starts = range(0, len(episodes), CHUNK)

    def match(start: int) -> float:
        chunk = slice(start, start + CHUNK)
        with torch.inference_mode():
            codes = support.rows(episodes.support[chunk]), query.rows(episodes.query[chunk])
            device = next(iter(codes[0].values())).device
            task = Task(way, torch.from_numpy(episodes.support_labels[chunk]).to(device))
            logits = head.match(*codes, task).logits
            truth = torch.from_numpy(episodes.query_labels[chunk]).to(device)
            said[chunk] = logits.argmax(-1).cpu().numpy()
            return float(F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum"))

    total = 0.0
    with one_thread_each(), ThreadPoolExecutor(threads, thread_name_prefix="match") as pool:
        for start, loss in zip(starts, pool.map(match, starts), strict=True):
            total += loss
            if report:
                report("match", min(start + CHUNK, len(episodes)), len(episodes))
    return said, total / said.size


def evaluate(
    model: Model,
    source: FeatureSource,
    sampler: EpisodeSampler,
    *,
    count: int | None = None,
    identity: dict[str, Any] | None = None,
    threads: int = 0,
    report: Progress | None = None,
) -> Evaluation:
    """Accuracy of `model` on the sampler's first `count` episodes (default: as many as its protocol says).

    threads: for matching (0: one per core; one on an accelerator). identity: kept in the result, see `Evaluation`. report(stage, done,
    total). The model is left in the mode it was in.
    """
    protocol = sampler.protocol
    episodes = sampler.episodes(0, protocol.episodes if count is None else count)
    if not len(episodes):
        raise UsageError("no episodes to evaluate", hint="--set eval.episodes=1000")
    was_training = model.training
    model.eval()
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            drawn = np.union1d(episodes.support, episodes.query)
            support, query = encode_clips(model, source, drawn, report)
        encoded = time.perf_counter()
        threads = threads or (1 if model.device.type != "cpu" else os.cpu_count() or 1)
        said, loss = match_all(model.head, support, query, episodes, protocol.way, threads, report)
    finally:
        model.train(was_training)
    seconds = {"encode": encoded - began, "match": time.perf_counter() - encoded}
    rows = np.arange(len(episodes))[:, None]
    truth_of, said_of = episodes.classes[rows, episodes.query_labels], episodes.classes[rows, said]
    return summarise(said_of, truth_of, loss, source.part.classes, dict(identity or {}), seconds)
