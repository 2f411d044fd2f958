"""The learning table: every head trained on the synthetic source, and what it then gets right there and in the other domains.

    fsar-cache synth && fsar-cache extract synth          # once: videos, the demo's features
    python bench/learning.py                              # trains and evaluates what bench/results/learning.json lacks, prints the tables
    python bench/learning.py otam gslta                   # only rows whose names hold one of the words
    python bench/learning.py --list                       # rows, their settings, and the extractions they need
    python bench/learning.py --doc                        # write the tables of docs/learning.md from the results

A row is a recipe with stated changes and some training seeds; a result is kept as soon as it is made and is made again only where its
settings or the world changed. Every head sees the same evaluation episodes: 5-way of the test classes of source (other classes than those
trained on, same look), target and far (other classes, other looks), and 2-way pairs of a class and its reversal, as many for each pair.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import joint_text
import numpy as np
import torch
import truth
from learning_rows import ROWS, Row
from rich.console import Console
from rich.table import Table
from run import machine

from fsar_cache import places
from fsar_cache.canonical import digest, plain
from fsar_cache.console import say, warn
from fsar_cache.errors import FsarError
from fsar_cache.files import whole_file
from pipeline.assemble import Opened, Places, Workshop, workshop
from pipeline.evaluate import Table as EncodedClips
from pipeline.evaluate import encode_clips, match_all, tasks
from pipeline.folder import read_config
from pipeline.model import Model
from pipeline.recipe import Domain, Recipe, load_recipe
from pipeline.trainer import train
from splits.datasets import open_split
from splits.episodes import EpisodeSampler
from splits.synth_motion import motion
from splits.types import Protocol

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learning.json"
DOC = HERE.parent / "docs" / "learning.md"
BEGIN, END = "<!-- tables: python bench/learning.py --doc -->", "<!-- end of tables -->"
DOMAINS = ("source", "target", "far")
SHOTS = (1, 5)
SEED = 1
"""Of the evaluation episodes."""


def recipe_of(row: Row, seed: int, joint: dict[str, str]) -> Recipe:
    """The row's recipe for one training seed; `joint` holds the names of the stores that a row of the joint space reads, by setting."""
    return load_recipe(row.recipe, settings(row, seed, joint))


def settings(row: Row, seed: int, joint: dict[str, str]) -> list[str]:
    """All that is changed of the recipe."""
    return [*row.sets, *(f'features.{name}="{joint[name]}"' for name in row.joint), f"train.seed={seed}"]


def identity(row: Row, recipe: Recipe, hashes: dict[str, str]) -> str:
    """What a result depends on: settings, worlds (hashes of their splits) and evaluation."""
    return digest([plain(recipe) | {"about": "", "published": None}, hashes, row.shots, row.episodes, SEED], 16)


def command(row: Row, seed: int, joint: dict[str, str], verb: str) -> str:
    """The command line that trains the row's model, or evaluates one that has nothing to train."""
    words = ["fsar-cache", verb, "--recipe", row.recipe]
    words += [word for text in settings(row, seed, joint) for word in ("--set", text)]
    return shlex.join(words)


def prepared(recipe: Recipe, folder: Path, shop: Workshop) -> tuple[Model, float]:
    """The model trained in the run folder `folder` (as it is, where it has nothing to train), and the seconds that took now."""
    began = time.perf_counter()
    if any(p.requires_grad for p in shop.model(classes=1).parameters()):
        train(recipe, folder, Places(places.stores()))
        shop.recipe = read_config(folder)
    return truth.model_of(shop, folder), time.perf_counter() - began


def reversal_pairs(classes: Sequence[str]) -> list[tuple[str, str]]:
    """The classes with their reversals, each pair once."""
    return sorted({(min(pair), max(pair)) for pair in ((name, motion(name).reverse.name) for name in classes)})


Tables = tuple[EncodedClips, EncodedClips]
"""Support and query codes of all clips of a partition."""


def accuracy(model: Model, opened: Opened, tables: Tables, protocol: Protocol, classes: Sequence[str]) -> np.ndarray:
    """Accuracy of every episode in percent, on these classes of the opened partition."""
    part, source = opened.source.part, opened.source
    others = {video.id for video in part.videos if video.label not in classes}
    sampler = EpisodeSampler(part, protocol, SEED, exclude=opened.exclude | others, split_hash=opened.split.hash)
    episodes = sampler.episodes(0, protocol.episodes)
    task = tasks(model.head, source, episodes, protocol.way, SEED)
    said, _ = match_all(model.head, *tables, episodes, task, os.cpu_count() or 1)
    return np.asarray((said == episodes.query_labels).mean(1) * 100)


def summary(found: np.ndarray, way: int) -> dict[str, float]:
    """Mean and half of the 95 % interval over episodes, in percent, the number of episodes and the chance."""
    half = 1.96 * found.std() / np.sqrt(len(found))
    return {"mean": float(found.mean()), "half": float(half), "episodes": len(found), "chance": 100 / way}


def measure(model: Model, opened: Opened, row: Row) -> dict[str, dict[str, float]]:
    """{column: summary} of one domain; every clip is encoded once."""
    classes, kept = opened.source.part.classes, [id_ not in opened.exclude for id_ in opened.source.part.ids]
    pairs = reversal_pairs(classes)
    model.eval()
    with torch.inference_mode():
        tables = encode_clips(model, opened.source, np.flatnonzero(kept))
    found = {}
    for shot in row.shots:
        whole = accuracy(model, opened, tables, Protocol(5, shot, 1, row.episodes), classes)
        found[f"5-way {shot}-shot"] = summary(whole, 5)
    for shot in row.shots:
        protocol = Protocol(2, shot, 1, max(1, row.episodes // len(pairs)))
        each = [accuracy(model, opened, tables, protocol, pair) for pair in pairs]
        found[f"pairs {shot}-shot"] = summary(np.concatenate(each), 2)
    return found


def make(row: Row, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train and evaluate one row with one seed."""
    with workshop(recipe, Places(places.stores())) as shop:
        model, seconds = prepared(recipe, folder, shop)
        began, figures, scores = time.perf_counter(), {}, {}
        for domain in DOMAINS:
            opened = shop.open(Domain(f"synth-{domain}", "test"), "test")
            figures[domain] = measure(model, opened, row)
            truths = places.videos() / "synth" / domain
            scores[domain] = plain(truth.score_model(model, opened, truths, recipe.features.sampling))
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "accuracy": figures,
        "truth": scores,
        "parameters": parameters,
        "seconds": {"train": round(seconds, 1), "evaluate": round(time.perf_counter() - began, 1)},
    }


@cache
def joint_of(flow: bool) -> dict[str, str]:
    """The settings that name the stores of the joint space, which are made or found there, with those of flow or without."""
    found: dict[str, str] = joint_text.make(joint_text.Joint(), flow=flow)["stores"]
    return found


def hashes() -> dict[str, str]:
    """The content hash of each domain's split."""
    return {domain: open_split(f"synth-{domain}").hash for domain in DOMAINS}


def read(path: Path) -> dict[str, Any]:
    """The results so far: {"row": {"seed": result}}."""
    return dict(json.loads(path.read_text())["rows"]) if path.is_file() else {}


def write(path: Path, rows: dict[str, Any]) -> None:
    """Keep the results, in the order of the table, to four decimals."""
    order = {row.name: n for n, row in enumerate(ROWS)}
    short = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 4))
    known = dict(sorted(short.items(), key=lambda item: order.get(item[0], len(order))))
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps({"machine": machine(), "rows": known}, indent=1) + "\n").encode())


def fill(rows: Sequence[Row], path: Path) -> int:
    """Make what is missing of these rows; the number that failed."""
    done, worlds, failed = read(path), hashes(), 0
    for row in rows:
        for seed in row.seeds:
            try:
                joint = joint_of("flow_store" in row.joint) if row.joint else {}
                recipe = recipe_of(row, seed, joint)
                mark = identity(row, recipe, worlds)
                held = done.get(row.name, {})
                if held.get(str(seed), {}).get("identity") == mark:
                    continue
                say(f"{row.name}, seed {seed}")
                found = make(row, recipe, places.runs() / f"learning-{mark}")
            except FsarError as error:
                warn(f"{row.name}, seed {seed}: {error.message}; hint: {error.hint}")
                failed += 1
                continue
            verb = "train" if found["parameters"] else "eval"
            facts = {"identity": mark, "command": command(row, seed, joint, verb)}
            done = read(path)
            done.setdefault(row.name, {})[str(seed)] = facts | found
            write(path, done)
    return failed


def figure(results: Sequence[dict[str, Any]], domain: str, column: str) -> tuple[float, float, float] | None:
    """Mean over seeds, half of its 95 % interval, and chance; None where the row doesn't have the column.

    The interval counts episodes and training seeds: the variance is that of the mean over episodes (the same episodes for every seed)
    plus, with several seeds, the variance between them divided by their number.
    """
    cells = [result["accuracy"][domain][column] for result in results if column in result["accuracy"][domain]]
    if not cells:
        return None
    means = np.array([cell["mean"] for cell in cells])
    episodes = float(np.mean([(cell["half"] / 1.96) ** 2 for cell in cells]))
    between = float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
    return float(means.mean()), 1.96 * float(np.sqrt(episodes + between)), cells[0]["chance"]


def cell(found: tuple[float, float, float] | None) -> str:
    """As text; a figure whose interval reaches down to chance is marked."""
    if found is None:
        return "-"
    mean, half, chance = found
    return f"{mean:.1f} ± {half:.1f}" + (" †" if mean - half <= chance else "")


def tables(rows: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{title: (head of the table, lines)}: accuracies per domain, then warps and paths against the truth."""
    columns = [f"{kind} {shot}-shot" for kind in ("5-way", "pairs") for shot in SHOTS]
    made: dict[str, tuple[list[str], list[list[str]]]] = {}
    for domain in DOMAINS:
        lines = [
            [name, str(len(seeds)), *(cell(figure(list(seeds.values()), domain, column)) for column in columns)]
            for name, seeds in rows.items()
        ]
        made[f"{domain}, test classes"] = (["head", "seeds", *columns], lines)
    return made | truth.tables({name: [s["truth"] for s in seeds.values()] for name, seeds in rows.items()})


def markdown(found: dict[str, tuple[list[str], list[list[str]]]]) -> str:
    """The tables as Markdown."""
    parts = []
    for title, (head, lines) in found.items():
        body = [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines]]
        parts.append("\n".join([f"### {title}", "", *body]))
    return "\n\n".join(parts)


def write_doc(text: str) -> None:
    """Put the tables between the two marks of docs/learning.md."""
    before, _, rest = DOC.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{DOC} lacks the marks {BEGIN} and {END}")
    DOC.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> int:
    """Measure, keep, print; exit status 1 where a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only rows whose names hold one of these")
    parser.add_argument("--list", action="store_true", help="print rows, settings and extractions, and measure nothing")
    parser.add_argument(
        "--doc", action="store_true", help="write the tables into docs/learning.md, and measure nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = [row for row in ROWS if not given.words or any(word in row.name.lower() for word in given.words)]
    if given.list:
        for row in rows:
            print(f"{row.name}\n  recipe {row.recipe}, seeds {row.seeds}", *row.sets, *row.extract, sep="\n  ")
        return 0
    failed = 0 if given.doc else fill(rows, given.results)
    found = tables(read(given.results))
    if given.doc:
        write_doc(markdown(found))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    for title, (head, lines) in found.items():
        table = Table(*head, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FsarError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")
