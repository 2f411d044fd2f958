"""For bench_heads.py: TAMT's training step from its cut against one from frames."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from extract.config import backbone_of, spec_of
from extract.transforms import TRANSFORMS
from pipeline.beside import extract_config
from pipeline.loop import Fetched, Training, repeatable
from pipeline.model import build_model
from pipeline.recipe import load_recipe

TAMT_EPISODE = (5, 1, 1)
"""Way, shots and queries of the TAMT step on a CPU: ten clips, as the ratio hardly depends on their number."""
NATIVE = (240, 320)
"""Height and width of decoded frames before the published augmentation."""


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
