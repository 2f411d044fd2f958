"""Two ratios for bench_heads.py: OTAM's recursion against a plain double loop, and TAMT's step from its cut against one from frames."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from extract.config import backbone_of, spec_of
from extract.transforms import TRANSFORMS
from heads.alignment import otam_both
from pipeline.beside import extract_config
from pipeline.evaluate import one_thread_each
from pipeline.loop import Fetched, Training, repeatable
from pipeline.model import build_model
from pipeline.recipe import load_recipe

SMOOTHING = 0.1
TAMT_EPISODE = (5, 1, 1)
"""Way, shots and queries of the TAMT step on a CPU: ten clips, as the ratio hardly depends on their number."""
NATIVE = (240, 320)
"""Height and width of decoded frames before the published augmentation."""


def double_loop(table: Tensor) -> Tensor:
    """OTAM's distance of [Q, W, T, T] in one direction, cell after cell as the recursion is written down."""
    padded = F.pad(table, (1, 1))
    rows, columns = padded.shape[-2:]
    held = [[torch.zeros_like(padded[..., 0, 0]) for _ in range(columns)] for _ in range(rows)]
    for m in range(1, columns):
        held[0][m] = padded[..., 0, m] + held[0][m - 1]
    for row in range(1, rows):
        for m in range(1, columns):
            before = [held[row - 1][m - 1], held[row][m - 1]]
            before += [held[row - 1][m]] if m in (1, columns - 1) else []
            total = torch.stack([torch.exp(-cell / SMOOTHING) for cell in before]).sum(0)
            held[row][m] = padded[..., row, m] - SMOOTHING * torch.log(total)
    return held[-1][-1]


def otam_ratio(episodes: int = 32) -> dict[str, float]:
    """Seconds of the double loop, episode after episode, over those of `otam_both` on all at once; tables [E, 5, 5, 8, 8], one core."""
    table = torch.rand(episodes, 5, 5, 8, 8, generator=torch.Generator().manual_seed(0))

    def slow() -> Tensor:
        return torch.stack([double_loop(one) + double_loop(one.transpose(-1, -2)) for one in table])

    def fast() -> Tensor:
        return otam_both(table, SMOOTHING)

    torch.testing.assert_close(fast(), slow(), rtol=1e-4, atol=1e-4)
    times: dict[str, list[float]] = {"slow": [], "fast": []}
    with one_thread_each():
        for _ in range(7):
            for name, work in (("slow", slow), ("fast", fast)):
                began = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - began)
    ratio = float(np.median(np.divide(times["slow"], times["fast"])))
    return {f"OTAM, double loop / by columns, {episodes} episodes": ratio}


def tamt_ratios(device: torch.device, steps: int = 3) -> dict[str, float]:
    """TAMT training steps from decoded frames over steps from stored tokens: frames prepared already, and augmented as published.

    Both models begin with the same weights and must have the same loss at the first step.
    """
    way, shot, query = TAMT_EPISODE
    protocol = [f"train.way={way}", f"train.shot={shot}", f"train.query={query}"]
    recipe = {
        cut: load_recipe("tamt", [*protocol, "follows=ours", f"features.cut={cut}"]) for cut in ("frames", "block10")
    }
    backbone = backbone_of(extract_config(recipe["block10"].features))
    spec = {cut: spec_of(extract_config(r.features), backbone) for cut, r in recipe.items()}
    run = {cut: Training(recipe[cut], build_model(recipe[cut], backbone, spec[cut], way), device) for cut in recipe}
    rng, features = np.random.default_rng(0), recipe["frames"].features
    shape = (way * (shot + query), features.frames, features.size, features.size, 3)
    frames = torch.from_numpy(rng.integers(0, 256, shape, np.uint8))
    native = torch.from_numpy(rng.integers(0, 256, (features.frames, *NATIVE, 3), np.uint8))
    head_of = backbone.head_of("block10").to(device)
    with torch.inference_mode():
        tokens = torch.cat([head_of(clip[None].to(device)).cpu() for clip in frames])
    augment = TRANSFORMS.get(features.train_transform)
    times: dict[str, list[float]] = {"block10": [], "frames": [], "augmentation": []}
    with repeatable(device):
        for step in range(steps + 1):
            losses = {}
            for cut, clips in (("block10", tokens.clone()), ("frames", frames)):
                began = time.perf_counter()
                losses[cut] = run[cut].advance(_fetched(clips, way, shot))["loss"]
                times[cut].append(time.perf_counter() - began)
            if step == 0 and abs(losses["frames"] - losses["block10"]) > 1e-3 * abs(losses["block10"]):
                raise AssertionError(f"the loss depends on the cut: {losses}")
            began = time.perf_counter()
            for _ in frames:
                augment(native, features.size, rng)
            times["augmentation"].append(time.perf_counter() - began)
    cut, whole, more = (np.array(times[name][1:]) for name in ("block10", "frames", "augmentation"))
    return {
        "TAMT step from frames / from block10": float(np.median(whole / cut)),
        "the same, frames augmented as published": float(np.median((whole + more) / cut)),
    }


def _fetched(clips: Tensor, way: int, shot: int) -> Fetched:
    """One episode of these clips, supports first."""
    support, query = np.repeat(np.arange(way), shot), np.repeat(np.arange(way), len(clips) // way - shot)
    parts = {"support": clips[: way * shot], "query": clips[way * shot :]}
    return Fetched(parts, support, query, support, query, {}, {"support": {}, "query": {}}, None, None)
