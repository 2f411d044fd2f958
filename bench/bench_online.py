"""The online path on two cores: 10,000 GSLTA evaluation episodes, and a GSLTA training step from a store against the same step on tensors.

    python bench/bench_online.py         # a line per figure
    python bench/bench_online.py --json

Evaluation: 5-way 5-shot 1-query over 2,000 clips of [8, 512]; every clip is encoded once, then matching is timed, best of rounds.
Training step: 5-way 5-shot, 5 queries, 25 unlabelled clips (the published episode), fetching included. The variants take turns within each
iteration and do the same work in it; what counts is the median over iterations of the ratio of their times.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import FeatureStore, create, open_store
from fsar_cache.draws import U64
from pipeline.evaluate import evaluate
from pipeline.loop import TrainData, Training, fetch_episode, repeatable
from pipeline.model import Model, build_head
from pipeline.normalise import Normaliser
from pipeline.recipe import Recipe, load_recipe
from pipeline.sources import Beside, FeatureSource, StoreSource
from splits.episodes import EpisodeSampler
from splits.types import Ints, Part, Protocol, Video

CLASSES, EACH, SHAPE = 40, 50, (8, 512)
SPEC = FeatureSpec("features", {}, {}, {}, {"name": "bench"}, "pooled", SHAPE, "float32")
EPISODES = 10_000
CPU = torch.device("cpu")


class TensorSource:
    """Clips that are tensors already: what a store is compared with."""

    ahead = 0
    spec = SPEC
    beside = Beside()
    excluded: frozenset[str] = frozenset()

    def __init__(self, part: Part, clips: Tensor) -> None:
        self.part, self._clips = part, clips

    def fetch(self, positions: Ints, *, training: bool, keys: U64) -> Tensor:
        """Rows of the tensor."""
        del training, keys
        return self._clips[torch.from_numpy(positions)]


def made_up(folder: Path) -> tuple[Part, FeatureStore, Tensor]:
    """A partition, a finished store of it and the same features as one tensor: like pooled ResNet features, none below 0."""
    names = [f"class{c:02d}" for c in range(CLASSES)]
    videos = tuple(Video(f"{name}/{i}", name, "") for name in names for i in range(EACH))
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((CLASSES, *SHAPE))
    noise = rng.standard_normal((CLASSES, EACH, *SHAPE))
    clips = np.maximum(patterns[:, None] + noise, 0).reshape(-1, *SHAPE).astype(np.float32)
    rows = [Row(v.id, v.label, "all") for v in videos]
    with create(folder, SPEC, rows, dataset="bench") as store, store.writer() as writer:
        for block in store.missing():
            first, last = store.block_range(block)
            writer.write_block(block, clips[first:last], [Outcome("ok")] * (last - first), {})
    return Part("all", tuple(names), videos), open_store(folder), torch.from_numpy(clips)


def gslta(recipe: Recipe) -> Model:
    """The head on cached features, as published in size."""
    return Model(nn.Identity(), Normaliser("none"), build_head(recipe, CLASSES))


def evaluation(recipe: Recipe, source: FeatureSource, rounds: int) -> dict[str, float]:
    """Seconds of encoding and matching, best of the rounds, and the memory that the process had at most."""
    sampler = EpisodeSampler(source.part, Protocol(5, 5, 1, EPISODES), 1)
    start = time.perf_counter()
    sampler.episodes(0, EPISODES)
    made = {"draw_seconds": time.perf_counter() - start, "encode_seconds": np.inf, "match_seconds": np.inf}
    model = gslta(recipe)
    before = peak_mb()
    for _ in range(rounds):
        found = evaluate(model, source, sampler)
        made["encode_seconds"] = min(made["encode_seconds"], found.seconds["encode"])
        made["match_seconds"] = min(made["match_seconds"], found.seconds["match"])
    return {**made, "accuracy": found.accuracy, "peak_mb": peak_mb(), "peak_mb_before": before}


def steps(recipe: Recipe, sources: dict[str, FeatureSource], count: int) -> dict[str, float]:
    """Median seconds of a training iteration from each source, and median ratio to "tensors"; the losses of all must agree."""
    trainings = {name: Training(recipe, gslta(recipe), CPU) for name in sources}
    data = {}
    for name, source in sources.items():
        sampler = EpisodeSampler(source.part, recipe.train.protocol, 1, unlabelled=source.part)
        data[name] = TrainData(source, sampler, source)
    times: dict[str, list[float]] = {name: [] for name in sources}
    with repeatable(CPU):
        for i in range(count + 2):
            names = list(sources)
            losses = set()
            for name in names[i % len(names) :] + names[: i % len(names)]:
                start = time.perf_counter()
                episodes = data[name].sampler.episodes(i, 1)
                fetched = fetch_episode(data[name], trainings[name].model.head, recipe.train, SHAPE[0], episodes, 0)
                losses.add(trainings[name].advance(fetched)["loss"])
                if i >= 2:  # the first ones warm up
                    times[name].append(time.perf_counter() - start)
            assert len(losses) == 1, losses
    seconds = {name: float(np.median(found)) for name, found in times.items()}
    return seconds | {
        f"{name} / tensors": float(np.median(np.divide(found, times["tensors"])))
        for name, found in times.items()
        if name != "tensors"
    }


def peak_mb() -> float:
    """The most memory this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(eval_: dict[str, float], step: dict[str, float]) -> list[dict[str, object]]:
    """What was measured beside its reach."""
    rows: list[dict[str, object]] = [
        {
            "what": f"{EPISODES:,} GSLTA evaluation episodes, matching",
            "value": eval_["match_seconds"],
            "reach": 3.0,
            "unit": "s",
        }
    ]
    for name in ("store in memory", "store mapped"):
        value = step[f"{name} / tensors"]
        rows.append({"what": f"GSLTA training step, {name} / tensors", "value": value, "reach": 1.05, "unit": "x"})
    return [{"better": "lower", **row} for row in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--rounds", type=int, default=3, help="evaluations (default 3)")
    parser.add_argument("--steps", type=int, default=40, help="training iterations per variant (default 40)")
    given = parser.parse_args()
    sets = ["train.tasks_per_batch=16", "train.unlabelled=25", "features.normalise=none"]
    recipe = load_recipe("demo", sets)
    with tempfile.TemporaryDirectory() as folder:
        part, store, clips = made_up(Path(folder) / "store")
        eval_ = evaluation(recipe, StoreSource(store, part, "ram"), given.rounds)
        step = steps(
            recipe,
            {
                "tensors": TensorSource(part, clips),
                "store in memory": StoreSource(store, part, "ram"),
                "store mapped": StoreSource(store, part, "mmap"),
            },
            given.steps,
        )
    rows = table(eval_, step)
    if given.json:
        print(json.dumps({"rows": rows, "detail": {"evaluation": eval_, "step": step}}))
        return
    print("evaluation:", "  ".join(f"{key} {value:.2f}" for key, value in eval_.items()))
    print("step:", "  ".join(f"{key} {value:.4f}" for key, value in step.items()))
    for row in rows:
        print(f"{row['what']:55} {row['value']:.3f} {row['unit']} (reach {row['reach']}, {row['better']} is better)")


if __name__ == "__main__":
    main()
