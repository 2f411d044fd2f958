"""What storing a cut costs: bytes per clip, and how far float16 moves the pooled output, for every registered backbone and cut.

    python bench/bench_cuts.py           # the table of docs/extraction.md
    python bench/bench_cuts.py --json

Each backbone with drawn weights (random:0) runs over clips of random 28 x 28 grids, enlarged to its usual size. What each cut gives is
rounded to float16 and run on from; errors are relative to the rms of the pooled output. From float32 the output must come back bit by bit.
Nothing here is timed, so a busy machine gives the same figures.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extract.backbone import BACKBONES, Backbone, build_backbone

REACH = 1e-2
"""The bound that the tests hold every cut to."""
CLIPS, FRAMES, SIDE = 2, 4, 224
USUAL = {"videomae_vit_s": (2, 16, 112), "videomae_vit_b": (2, 16, 112)}
"""Clips, frames and side for backbones whose usual clip is another."""


def clips(name: str) -> Tensor:
    """Pixels, uint8 [clips, frames, side, side, 3]."""
    count, frames, side = USUAL.get(name, (CLIPS, FRAMES, SIDE))
    small = np.random.default_rng(0).integers(0, 256, (count, frames, 28, 28, 3), np.uint8)
    return torch.from_numpy(small.repeat(side // 28, axis=2).repeat(side // 28, axis=3))


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(x.double().square().mean().sqrt())


def measure(backbone: Backbone, pixels: Tensor) -> dict[str, dict[str, Any]]:
    """By cut: shape of a clip, its bytes, and the error of float16; pixels are stored as they are."""
    passed = [pixels]
    for stage in backbone.stages:
        passed.append(stage(passed[-1]))
    whole, found = passed[-1], {}
    for cut, index in backbone.cuts.items():
        stored, tail = passed[index].contiguous(), backbone.tail_of(cut)
        if not torch.equal(tail(stored), whole):
            raise AssertionError(f"{backbone.name} does not run on from {cut} to the same bits")
        facts: dict[str, Any] = {"shape": list(stored.shape[1:]), "bytes": stored[0].numel()}
        if index:
            error = tail(stored.half().float()) - whole
            largest = float(error.abs().max()) / rms(whole)
            facts |= {"bytes": 2 * stored[0].numel(), "rms_error": rms(error) / rms(whole), "largest_error": largest}
        found[cut] = facts
    return found


def rows(detail: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The worst cut of each backbone beside the bound."""
    made = []
    for name, cuts in detail.items():
        worst = max(facts["rms_error"] for facts in cuts.values() if "rms_error" in facts)
        what = f"{name}: float16 at the worst cut, rms error / rms of the pooled output"
        made.append({"what": what, "value": worst, "reach": REACH, "unit": "x", "better": "lower"})
    return made


def table(detail: dict[str, dict[str, dict[str, Any]]]) -> str:
    """As Markdown, neighbouring cuts of one shape on one line with the worst of their errors."""
    lines = ["| backbone | cut | a clip | float16 KiB | rms error | largest error |", "|---|---|---|---|---|---|"]
    for name, cuts in detail.items():
        for shape, group in groupby(cuts.items(), key=lambda item: item[1]["shape"]):
            each = list(group)
            first, last, facts = each[0][0], each[-1][0], each[0][1]
            named = first if first == last else f"{first} .. {last}"
            errors = [
                f"{max(f[kind] for _, f in each):.1e}" if kind in facts else "0"
                for kind in ("rms_error", "largest_error")
            ]
            size = f"{facts['bytes'] / 1024:,.1f}" + ("" if "rms_error" in facts else " (uint8)")
            lines.append(f"| {name} | {named} | {' x '.join(map(str, shape))} | {size} | {' | '.join(errors)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    detail = {}
    with torch.inference_mode():
        for name in BACKBONES:
            detail[name] = measure(build_backbone(name, "random:0").eval(), clips(name))
    print(json.dumps({"rows": rows(detail), "detail": detail}) if given.json else table(detail))


if __name__ == "__main__":
    main()
