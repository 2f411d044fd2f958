"""Every head's training steps and evaluation episodes per second, and the share of a step that is not the head's own arithmetic.

    python bench/bench_heads.py             # a line per head and size; --head trx for one of them
    python bench/bench_heads.py --json

Features are random tensors of published sizes in memory. A training step is one episode by the card's shots and queries (forward,
backward, optimizer); "bare" is the head alone on the same tensors, "outside" the share of a step that the rest takes: fetching, draws,
checks, copies. Evaluation: 5-way 5-shot, 1 query per class. Clips are encoded in both roles on all cores; episodes are matched one at a
time (E = 1) and 32 at a time on one core; "10,000" is what the evaluation stage takes for as many episodes on all cores, encoding apart.
A head that is registered but has no sizes here is an error. On a machine with an accelerator all is measured there as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from heads_sizes import CASES, Case
from tamt_cut import tamt_ratios
from torch import Tensor, nn

from cache.spec import FeatureSpec
from fsar_cache.draws import U64
from heads.base import HEADS, EpisodeBatch, Head, Task
from pipeline.evaluate import encode_clips, evaluate, one_thread_each, tasks
from pipeline.loop import Fetched, TrainData, Training, fetch_episode, repeatable
from pipeline.model import Model, build_head
from pipeline.normalise import Normaliser
from pipeline.recipe import Recipe, load_recipe
from pipeline.sources import Beside
from splits.episodes import EpisodeSampler
from splits.types import Ints, Part, Protocol, Video

CLASSES, EACH = 8, 20
EPISODES = 10_000
SECONDS = 0.3
"""Roughly how long each figure is measured."""
REACH = {"gslta": 3.0, "tamt": 3.0, "protonet": 3.0, "otam": 6.0}
"""Seconds for 10,000 evaluation episodes on two cores, of the first case of a head."""


@dataclass
class TensorSource:
    """Clips that are tensors already."""

    part: Part
    clips: Tensor
    beside: Beside
    spec: FeatureSpec
    ahead: int = 0
    excluded: frozenset[str] = frozenset()

    def fetch(self, positions: Ints, *, training: bool, keys: U64) -> Tensor:
        """Rows of the tensor."""
        del training, keys
        return self.clips[torch.from_numpy(positions)]


def source_of(case: Case) -> TensorSource:
    """Random clips of the case's kinds, none below 0, as pooled features are."""
    names = [f"class{c}" for c in range(CLASSES)]
    part = Part("all", tuple(names), tuple(Video(f"{n}/{i}", n, "") for n in names for i in range(EACH)))
    made = torch.Generator().manual_seed(0)

    def clips(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(len(part.videos), *shape, generator=made).clamp_(min=0)

    spec = FeatureSpec("features", {}, {}, {}, {"name": "bench"}, "pooled", case.shape, "float32")
    flow = TensorSource(part, clips(case.shape), Beside(), spec) if case.flow else None
    text = torch.randn(CLASSES, case.shape[-1], generator=made) if case.text else None
    return TensorSource(part, clips(case.shape), Beside(flow, text), spec)


def model_of(case: Case) -> tuple[Recipe, Model]:
    """The recipe of one-episode steps by the card's protocol, and the head behind nothing."""
    sets = [
        "features.normalise=none",
        f"train.shot={case.shot}",
        f"train.query={case.query}",
        "train.tasks_per_batch=1",
    ]
    base = load_recipe("demo", [*sets, f"train.unlabelled={case.unlabelled}", f"features.frames={case.shape[0]}"])
    recipe = replace(base, head=case.head, head_config=dict(case.config))
    head = build_head(recipe, CLASSES, case.width)
    return recipe, Model(nn.Identity(), Normaliser("none"), head)


def batch_of(fetched: Fetched, way: int, device: torch.device) -> EpisodeBatch:
    """The fetched episode as what the head sees, on the device."""

    def one(values: Any) -> Tensor:
        return torch.as_tensor(values)[None].to(device)

    clips = {
        role: {"features": one(rows)} | {kind: one(clip) for kind, clip in fetched.beside[role].items()}
        for role, rows in fetched.roles.items()
    }
    text = None if fetched.class_text is None else one(fetched.class_text)
    draws = {name: one(draw) for name, draw in fetched.draws.items()}
    return EpisodeBatch(
        Task(way, one(fetched.support_labels), draws, text),
        clips["support"],
        clips["query"],
        one(fetched.query_labels),
        one(fetched.support_class),
        one(fetched.query_class),
        clips.get("unlabelled"),
        None if fetched.source_text is None else fetched.source_text.to(device),
    )


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def repeated(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, after one that warms up."""
    timed(work, device)
    times = [timed(work, device)]
    while sum(times) < SECONDS and len(times) < 50:
        times.append(timed(work, device))
    return float(np.median(times))


def bare_step(head: Head, batch: EpisodeBatch, optimizer: torch.optim.Optimizer | None, step: int) -> float:
    """The head's own training step on one episode; returns the loss."""
    head.train()
    out = head(batch, step)
    head.after_forward(step)
    if optimizer is not None:
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(out.loss.detach())


def training(case: Case, source: TensorSource, device: torch.device) -> dict[str, float]:
    """Steps per second and the share outside the head's own arithmetic: both do one step in turn, the median ratio counts.

    Heads without parameters have no step, as the pipeline trains none; {} for them.
    """
    (recipe, model), (_, alone) = model_of(case), model_of(case)
    if not any(p.requires_grad for p in model.parameters()):
        return {}
    run, head = Training(recipe, model, device), alone.head.to(device)
    optimizer = torch.optim.Adam([p for p in head.parameters() if p.requires_grad], recipe.train.lr)
    sampler = EpisodeSampler(source.part, recipe.train.protocol, 1, unlabelled=source.part if case.unlabelled else None)
    data = TrainData(source, sampler, source if case.unlabelled else None)
    whole: list[float] = []
    bare: list[float] = []
    with repeatable(device):
        while len(whole) < 3 or (sum(whole) < 2 * SECONDS and len(whole) < 60):
            i = len(whole)
            fetched = fetch_episode(data, run.model.head, recipe.train, case.shape[0], sampler.episodes(i, 1), 0)
            batch = batch_of(fetched, recipe.train.way, device)

            def step(i: int = i) -> None:
                again = fetch_episode(data, run.model.head, recipe.train, case.shape[0], sampler.episodes(i, 1), 0)
                run.advance(again)

            def own(i: int = i, batch: EpisodeBatch = batch) -> None:
                bare_step(head, batch, optimizer, i + 1)

            for work, times in ((step, whole), (own, bare)) if i % 2 else ((own, bare), (step, whole)):
                times.append(timed(work, device))
    ratio = float(np.median(np.divide(bare[1:], whole[1:])))
    return {"steps_per_second": 1 / float(np.median(whole[1:])), "outside": 1 - ratio}


def evaluation(case: Case, source: TensorSource, device: torch.device) -> dict[str, float]:
    """Clips encoded and episodes matched per second, and seconds of 10,000 episodes (scaled from fewer where they are slow)."""
    _, model = model_of(case)
    model = model.to(device).eval()
    sampler = EpisodeSampler(source.part, Protocol(5, 5, 1, EPISODES), 1)
    everything = np.arange(len(source.part.videos))
    with torch.inference_mode():
        encode = repeated(lambda: encode_clips(model, source, everything), device)
        tables = encode_clips(model, source, everything)
        rates = {}
        for size in (1, 32):
            episodes = sampler.episodes(0, size)
            task = tasks(model.head, source, episodes, 5, 1)(slice(0, size)).to(device)
            codes = tables[0].rows(episodes.support), tables[1].rows(episodes.query)
            with one_thread_each():
                rates[size] = size / repeated(lambda codes=codes, task=task: model.head.match(*codes, task), device)
    count = int(min(EPISODES, max(64, SECONDS * 2 * rates[32] // 32 * 32)))
    seconds = min(evaluate(model, source, sampler, count=count).seconds["match"] for _ in range(2))
    return {
        "clips_per_second": len(everything) / encode,
        "episodes_per_second_E1": rates[1],
        "episodes_per_second_E32": rates[32],
        "seconds_10000": seconds * EPISODES / count,
        "measured_episodes": count,
    }


def measure(case: Case, device: torch.device) -> dict[str, float]:
    """All figures of one case on one device."""
    source = source_of(case)
    return training(case, source, device) | evaluation(case, source, device)


def rows_of(detail: dict[str, dict[str, dict[str, float]]], special: dict[str, float]) -> list[dict[str, Any]]:
    """What has a reach, beside it; the reach is one of CPU cores."""
    rows: list[dict[str, Any]] = []
    for head, reach in REACH.items():
        first = next((case.name for case in CASES if case.head == head and case.name in detail["cpu"]), None)
        if first:
            value = detail["cpu"][first]["seconds_10000"]
            what = f"10,000 evaluation episodes, matching, {first}"
            rows.append({"what": what, "value": value, "reach": reach, "unit": "s", "better": "lower"})
    reaches = {
        "TAMT step from frames / from block10": 3.3,
        "the same, frames augmented as published": 4.0,
    }
    return rows + [
        {"what": what, "value": special[what], "reach": reach, "unit": "x", "better": "higher"}
        for what, reach in reaches.items()
        if what in special
    ]


def line_of(name: str, found: dict[str, float]) -> str:
    """One line for a person."""
    steps = (
        f"{found['steps_per_second']:8.2f} steps/s {found['outside']:6.1%} outside" if "outside" in found else " " * 32
    )
    return (
        f"{name:32} {steps}  {found['clips_per_second']:9.0f} clips/s  {found['episodes_per_second_E1']:8.1f} E=1 "
        f"{found['episodes_per_second_E32']:8.1f} E=32 episodes/s  10,000: {found['seconds_10000']:8.2f} s"
    )


def require_sizes() -> None:
    """End with an error where a registered head has no case."""
    if lacking := sorted(set(HEADS.names()) - {case.head for case in CASES}):
        raise SystemExit(f"no sizes in bench/heads_sizes.py for the heads {', '.join(lacking)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--head", help="only this head")
    given = parser.parse_args()
    require_sizes()
    detail: dict[str, dict[str, dict[str, float]]] = {}
    special: dict[str, float] = {}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        detail[device] = {}
        for case in CASES:
            if given.head in (None, case.head) and (device == "cuda" or not case.accelerator):
                detail[device][case.name] = measure(case, torch.device(device))
                print(
                    device, line_of(case.name, detail[device][case.name]), file=sys.stderr if given.json else sys.stdout
                )
    if given.head in (None, "tamt"):
        special |= tamt_ratios(torch.device("cpu"))
    rows = rows_of(detail, special)
    if given.json:
        print(json.dumps({"rows": rows, "detail": detail | {"special": special}}))
        return
    for row in rows:
        print(f"{row['what']:60} {row['value']:.3g} {row['unit']} (reach {row['reach']}, {row['better']} is better)")


if __name__ == "__main__":
    main()
