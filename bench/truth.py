"""Time warps and alignment paths against the truth of the synthetic world: does a head find when the action happens?

    python bench/truth.py runs/ta2n runs/otam             # on synth-target's test clips; --domain far, --json

A run is a folder that `train` or `eval` left. Heads that warp clips in time (whose codes hold "theta") and heads that show the "path"
between two clips are scored; what the figures mean is in truth_scores.py.

Letters: n clips or pairs, Tq and Ts frames of a pair.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from truth_scores import Floats, Ints, action_of, disjoint_pairs, score_paths, score_windows, warped

from fsar_cache import places
from fsar_cache.canonical import plain
from fsar_cache.draws import generator
from fsar_cache.errors import FsarError
from heads.base import EpisodeShape, Role, Task
from pipeline.assemble import Opened, Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, unpack_model
from pipeline.evaluate import batch_of, encode_batch
from pipeline.evaluating import is_trained
from pipeline.folder import read_config
from pipeline.model import Model
from pipeline.recipe import Domain
from pipeline.runs import checkpoint_of
from splits.synth import read_truth

ONE = EpisodeShape(1, 1, 1, 0, 0, np.zeros(1, np.int64))
"""An episode of one support and one query clip."""
ROLES: tuple[Role, ...] = ("support", "query")


def codes_of(model: Model, opened: Opened, positions: Ints) -> dict[Role, dict[str, Tensor]]:
    """Codes {role: {name: [n, ...]}} of the clips at `positions` [n] of the opened partition."""
    size, roles = batch_of(opened.source), ROLES
    parts = [
        encode_batch(model, opened.source, positions[start : start + size], roles)
        for start in range(0, len(positions), size)
    ]
    return {role: {name: torch.cat([part[role][name] for part in parts]) for name in parts[0][role]} for role in roles}


def paths_of(
    model: Model, opened: Opened, positions: Ints, codes: dict[Role, dict[str, Tensor]], pairs: Ints
) -> list[Floats]:
    """The path [Tq, Ts] that the head shows for each pair [n, 2] (query, support: numbers of `positions`), 1-way 1-shot; [] where none."""
    text, labels = opened.source.beside.text, opened.source.part.labels[positions]
    made: list[Floats] = []
    for query, support in pairs.tolist():
        known = None if text is None else text[labels[support]].view(1, 1, -1)
        drawn = model.head.match_draw(ONE, generator("truth draws", query, support))
        draws = {name: torch.from_numpy(draw)[None] for name, draw in drawn.items()}
        task = Task(1, torch.zeros(1, 1, dtype=torch.int64), draws, known).to(model.device)
        s, q = (
            {name: code[at][None, None] for name, code in codes[role].items()}
            for role, at in zip(ROLES, (support, query), strict=True)
        )
        shown = model.head.show(s, q, task)
        if "path" not in shown:
            return []
        made.append(shown["path"][0, 0].double().cpu().numpy())
    return made


def score_model(model: Model, opened: Opened, folder: Path, rule: str) -> dict[str, Any]:
    """What of warps and paths the model has, scored on all clips of the opened partition: {"windows": ..., "paths": ...}.

    folder: of the domain's videos and truth; rule: how the frames of the features were chosen. Frames that a head warps are where it reads
    them, so its paths are scored by these moments.
    """
    lines = {line["id"]: line for line in read_truth(folder)}
    part = opened.source.part
    kept = np.array([i for i, clip in enumerate(part.ids) if clip not in opened.exclude])
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            codes = codes_of(model, opened, kept)
            pairs = disjoint_pairs(part.labels[kept], generator("truth pairs", part.name))
            several = getattr(model.head.config, "shot", 0) > 1  # a head for several shots alone has no path of one
            paths = [] if several else paths_of(model, opened, kept, codes, pairs)
    finally:
        model.train(was_training)
    frames = model.head.needs.kinds["features"][0] or opened.source.spec.shape[0]
    actions = [action_of(lines[part.ids[i]], rule, frames) for i in kept.tolist()]
    found, rng = {}, generator("truth resamples", part.name)
    if "theta" in codes["query"]:
        theta = codes["query"]["theta"].double().cpu().numpy()
        found["windows"] = score_windows(theta, actions, rng)
        actions = [warped(action, row) for action, row in zip(actions, theta, strict=True)]
    if paths:
        queries, supports = ([actions[i] for i in pairs[:, side].tolist()] for side in (0, 1))
        found["paths"] = score_paths(paths, queries, supports, rng)
    return found


def model_of(shop: Workshop, run: Path) -> Model:
    """The model of a run as its checkpoint has it, or, of a head that needs no training, with the source's deviations."""
    model = shop.model(classes=1)
    if is_trained(run):
        path = checkpoint_of(run)
        unpack_model(load_checkpoint(path), model, str(path))
    else:
        source = shop.open(shop.recipe.source, shop.recipe.source.part)
        fit_normaliser(model, source.source, source.exclude)
    return model


def merged(scores: Sequence[Mapping[str, Any]]) -> str:
    """Scores of several training seeds as "value [low, high]": the mean value, and the mean ends of the intervals over clips."""
    value, low, high = (float(np.mean([score[key] for score in scores])) for key in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


PATHS = ("head", "identity", "middle", "nearest frame", "shift", "shift of middle")
WINDOWS = (
    *(
        ("head", "centre"),
        ("whole clip", "centre"),
        ("head", "overlap"),
        ("whole clip", "overlap"),
        ("centred", "overlap"),
    ),
    *(("head", "centre correlation"), ("head", "width correlation")),
)


def tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{title: (head of the table, lines)} from {row: [per seed {domain: score_model's as plain data}]}."""
    paths, windows = [], []
    for name, seeds in found.items():
        for domain in seeds[0]:
            here = [seed[domain] for seed in seeds]
            if "paths" in here[0]:
                paths.append([name, domain, *(merged([h["paths"][key] for h in here]) for key in PATHS)])
            if "windows" in here[0]:
                windows.append([name, domain, *(merged([h["windows"][a][b] for h in here]) for a, b in WINDOWS)])
    heads = {"paths": ["head", "domain", *PATHS], "windows": ["head", "domain", *(f"{b}, {a}" for a, b in WINDOWS)]}
    made = {
        "alignment paths: error in seconds, and correlation of shifts": (heads["paths"], paths),
        "time warps": (heads["windows"], windows),
    }
    return {title: table for title, table in made.items() if table[1]}


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--domain", default="target", choices=("source", "target", "far"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    given = parser.parse_args()
    found = {}
    for run in given.runs:
        recipe = read_config(run)
        with workshop(recipe, Places(places.stores())) as shop:
            opened = shop.open(Domain(f"synth-{given.domain}", "test"), "test")
            folder = places.videos() / "synth" / given.domain
            scores = plain(score_model(model_of(shop, run), opened, folder, recipe.features.sampling))
        found[run.name] = [{given.domain: scores}]
    if given.json:
        print(json.dumps({name: seeds[0] for name, seeds in found.items()}, indent=1))
        return
    for title, (head, lines) in tables(found).items():
        print(title, *(" | ".join(line) for line in [head, *lines]), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except FsarError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from error
