"""Evaluation: encode each clip once, then match thousands of episodes in a few threads.

Letters: E episodes of a chunk, W way, S support and Q query clips of an episode.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fsar_cache.draws import generator
from fsar_cache.errors import UsageError
from heads.base import EpisodeShape, Head, Role, Task
from pipeline.model import Model
from pipeline.results import Evaluation, summarise
from pipeline.sources import FeatureSource
from splits.episodes import EpisodeSampler
from splits.types import Episodes, Ints

CHUNK = 32
"""Episodes matched at a time; between 16 and 32 was fastest for [8, 512] features on two cores."""
BATCH_BYTES = 8 * 2**20
"""Activations encoded at a time: some clips of pixels, hundreds of pooled ones."""
CHUNK_BYTES = 2**29
"""Bytes of codes gathered for a chunk: episodes of large codes (feature maps) are matched fewer at a time."""
CODES_LIMIT = 4 * 2**30
"""Bytes of encoded clips held at a time. Where all clips need more (feature maps), episodes are taken in groups whose clips fit, and a clip
is encoded once in every group that draws it."""
Progress = Callable[[str, int, int], None]


class Table:
    """Encoded clips: {name: [clips, ...]}, looked up by position in the partition."""

    def __init__(self, positions: Ints, codes: dict[str, Tensor], size: int) -> None:
        self.codes = codes
        self._row = np.full(size, -1, np.int64)
        self._row[positions] = np.arange(len(positions))
        self.row_bytes = sum(code[:1].numel() * code.element_size() for code in codes.values())

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
    size = batch_of(source)
    for start in range(0, len(positions), size):
        batch = positions[start : start + size]
        for role, codes in encode_batch(model, source, batch, roles).items():
            for name, code in codes.items():
                made[role].setdefault(name, []).append(code)
        if report:
            report("encode", start + len(batch), len(positions))
    tables = [
        Table(positions, {name: torch.cat(codes) for name, codes in made[role].items()}, len(source.part.videos))
        for role in roles
    ]
    return tables[0], tables[-1]


def batch_of(source: FeatureSource) -> int:
    """Clips encoded at a time."""
    return max(1, BATCH_BYTES // source.spec.row_bytes)


def encode_batch(
    model: Model, source: FeatureSource, positions: Ints, roles: Sequence[Role]
) -> dict[Role, dict[str, Tensor]]:
    """The head's codes of the clips at `positions` in each role, {name: [n, ...]}; features are made once for all roles."""
    activations = source.fetch(positions, training=False, keys=np.zeros(len(positions), np.uint64))
    features = model.features(activations.to(model.device))
    made: dict[Role, dict[str, Tensor]] = {}
    for role in roles:
        others = source.beside.clips(source.part, positions, role)
        clips = {
            "features": features,
            **model.beside({kind: clip.to(model.device) for kind, clip in others.items()}),
        }
        model.head.check(clips, role)
        made[role] = model.head.encode(clips, role)
    return made


def groups(model: Model, source: FeatureSource, episodes: Episodes) -> list[slice]:
    """The episodes in as few runs of whole chunks as `CODES_LIMIT` allows; one run where the codes of all their clips fit."""
    drawn = np.union1d(episodes.support, episodes.query)
    roles: tuple[Role, ...] = ("support", "query") if model.head.role_matters else ("support",)
    found = encode_batch(model, source, drawn[:1], roles)
    each = sum(code.numel() * code.element_size() for codes in found.values() for code in codes.values())
    if each * len(drawn) <= CODES_LIMIT:
        return [slice(0, len(episodes))]
    clips = episodes.support.shape[1] + episodes.query.shape[1]
    size = max(1, CODES_LIMIT // (each * clips * CHUNK)) * CHUNK
    return [slice(start, start + size) for start in range(0, len(episodes), size)]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """New threads compute with one thread of their own inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tasks(head: Head, source: FeatureSource, episodes: Episodes, way: int, seed: int) -> Callable[[slice], Task]:
    """What `match` knows of a chunk of the episodes beside codes: labels, class text, and the head's draws of (seed, episode) alone."""
    text, shot = source.beside.text, episodes.support.shape[1] // way

    def draws(chunk: slice) -> dict[str, Tensor]:
        found = [
            head.match_draw(
                EpisodeShape(way, shot, labels.size, 0, 0, labels), generator("evaluation draws", seed, index)
            )
            for index, labels in zip(episodes.index[chunk].tolist(), episodes.query_labels[chunk], strict=True)
        ]
        return {name: torch.from_numpy(np.stack([each[name] for each in found])) for name in found[0]}

    def task(chunk: slice) -> Task:
        labels = torch.from_numpy(episodes.support_labels[chunk])
        return Task(
            way,
            labels,
            draws(chunk) if type(head).match_draw is not Head.match_draw else {},
            None if text is None else text[torch.from_numpy(episodes.classes[chunk])],
        )

    return task


def match_all(
    head: Head,
    support: Table,
    query: Table,
    episodes: Episodes,
    task: Callable[[slice], Task],
    threads: int,
    report: Callable[[int], None] | None = None,
) -> tuple[Ints, float]:
    """Predicted labels int64 [episodes, Q] and the summed cross-entropy of all queries. Chunks are independent of `threads`.

    task: of a chunk of the episodes. report(episodes matched).
    """
    said = np.empty(episodes.query.shape, np.int64)
    each = episodes.support.shape[1] * support.row_bytes + episodes.query.shape[1] * query.row_bytes
    size = min(CHUNK, max(1, CHUNK_BYTES // max(each, 1)))
    starts = range(0, len(episodes), size)

    def match(start: int) -> float:
        chunk = slice(start, start + size)
        with torch.inference_mode():
            codes = support.rows(episodes.support[chunk]), query.rows(episodes.query[chunk])
            device = next(iter(codes[0].values())).device
            logits = head.match(*codes, task(chunk).to(device)).logits
            truth = torch.from_numpy(episodes.query_labels[chunk]).to(device)
            said[chunk] = logits.argmax(-1).cpu().numpy()
            return float(F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum"))

    total = 0.0
    with one_thread_each(), ThreadPoolExecutor(threads, thread_name_prefix="match") as pool:
        for start, loss in zip(starts, pool.map(match, starts), strict=True):
            total += loss
            if report:
                report(min(start + size, len(episodes)))
    return said, total


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
    threads = threads or (1 if model.device.type != "cpu" else os.cpu_count() or 1)
    was_training = model.training
    model.eval()
    try:
        said, loss, seconds = _run(model, source, episodes, protocol.way, sampler.seed, threads, report)
    finally:
        model.train(was_training)
    rows = np.arange(len(episodes))[:, None]
    truth_of, said_of = episodes.classes[rows, episodes.query_labels], episodes.classes[rows, said]
    return summarise(said_of, truth_of, loss / said.size, source.part.classes, dict(identity or {}), seconds)


def _run(
    model: Model,
    source: FeatureSource,
    episodes: Episodes,
    way: int,
    seed: int,
    threads: int,
    report: Progress | None,
) -> tuple[Ints, float, dict[str, float]]:
    """Predicted labels int64 [E, Q], summed cross-entropy, and the seconds of each stage."""
    seconds, total = {"encode": 0.0, "match": 0.0}, 0.0
    said = np.empty(episodes.query.shape, np.int64)
    with torch.inference_mode():
        parts = groups(model, source, episodes)
    for part in parts:
        some = Episodes(**{f.name: getattr(episodes, f.name)[part] for f in dataclasses.fields(Episodes)})
        began = time.perf_counter()
        with torch.inference_mode():
            tables = encode_clips(model, source, np.union1d(some.support, some.query), report)
        encoded = time.perf_counter()
        task = tasks(model.head, source, some, way, seed)

        def matched(done: int, before: int = part.start) -> None:
            if report:
                report("match", before + done, len(episodes))

        said[part], loss = match_all(model.head, *tables, some, task, threads, matched)
        total += loss
        seconds["encode"] += encoded - began
        seconds["match"] += time.perf_counter() - encoded
    return said, total, seconds
