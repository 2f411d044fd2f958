"""Which heads tell motions apart, and which tell a motion from its reversal: accuracies with intervals on the synthetic world.

    make demo && .venv/bin/fsar-cache synth && .venv/bin/fsar-cache extract synth    # once: videos, features, the trained run runs/demo
    .venv/bin/python bench/orderings.py                                               # about a minute; --json for the figures

Every head sees the same episodes of a domain's test classes (the same seed). "pairs" are 2-way 5-shot episodes of a class against its
reversal, as many for each pair. Intervals count episodes; the clips behind them are few, so another world moves the figures by more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fsar_cache import places
from pipeline.assemble import Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, unpack_model
from pipeline.evaluate import evaluate
from pipeline.folder import read_config
from pipeline.model import Model
from pipeline.recipe import Domain, Recipe, load_recipe
from pipeline.runs import checkpoint_of
from pipeline.sources import StoreSource
from splits.episodes import EpisodeSampler
from splits.synth import read_truth
from splits.types import Part, Protocol

CENTRED = ["features.normalise=centre-source-std"]
UNTRAINED = {
    "ProtoNet (mean pooling), raw": ("protonet", []),
    "OTAM, raw": ("otam", ["features.normalise=none"]),
    "OTAM, centred": ("otam", CENTRED),
    "GSLTA untrained, centred": ("demo", CENTRED),
}


def reversal_pairs(domain: str, part: Part) -> list[tuple[str, str]]:
    """The classes of `part` with their reversals, each pair once."""
    reverse = {line["class"]: line["reversed_of"] for line in read_truth(places.videos() / "synth" / domain)}
    return sorted({tuple(sorted((name, reverse[name]))) for name in part.classes})


def accuracy(model: Model, source: StoreSource, protocol: Protocol) -> np.ndarray:
    """Accuracy of every episode, in percent."""
    sampler = EpisodeSampler(source.part, protocol, 1, exclude=source.excluded)
    return np.asarray(evaluate(model, source, sampler).correct) * 100 / (protocol.way * protocol.query)


def measure(shop: Workshop, model: Model, domain: str, episodes: int) -> dict[str, tuple[float, float]]:
    """{column: (mean, half of the 95 % interval)} for one domain."""
    whole = shop.open(Domain(f"synth-{domain}", "test"), "test").source
    assert isinstance(whole, StoreSource)
    found = {f"{shot}-shot": accuracy(model, whole, Protocol(5, shot, 1, episodes)) for shot in (1, 5)}
    pairs = reversal_pairs(domain, whole.part)
    each = []
    for pair in pairs:
        videos = tuple(video for video in whole.part.videos if video.label in pair)
        source = StoreSource(whole.store, Part("test", pair, videos))
        each.append(accuracy(model, source, Protocol(2, 5, 1, episodes // len(pairs))))
    found["pairs"] = np.concatenate(each)
    return {name: (float(a.mean()), float(1.96 * a.std() / np.sqrt(len(a)))) for name, a in found.items()}


def models(run: Path) -> Iterator[tuple[str, Workshop, Model]]:
    """Every head of the table, ready to evaluate."""
    here = Places(places.stores())
    for name, (recipe, sets) in UNTRAINED.items():
        with workshop(load_recipe(recipe, sets), here) as shop:
            yield name, shop, _fitted(shop)
    recipe: Recipe = read_config(run)
    with workshop(recipe, here) as shop:
        model = shop.model(classes=1)
        path = checkpoint_of(run)
        unpack_model(load_checkpoint(path), model, str(path))
        yield f"GSLTA, {recipe.train.iterations} episodes on source, centred", shop, model


def _fitted(shop: Workshop) -> Model:
    source = shop.open(shop.recipe.source, shop.recipe.source.part)
    model = shop.model(classes=len(source.source.part.classes))
    fit_normaliser(model, source.source, source.exclude)
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", type=Path, default=places.runs() / "demo")
    parser.add_argument("--episodes", type=int, default=2000)
    args = parser.parse_args()
    figures = {}
    for name, shop, model in models(args.run):
        figures[name] = {
            f"{domain} {column}": pair
            for domain in ("target", "far")
            for column, pair in measure(shop, model, domain, args.episodes).items()
        }
    if args.json:
        json.dump({"episodes": args.episodes, "accuracy": figures}, sys.stdout, indent=1)
        return
    table = Table("head, features", *next(iter(figures.values())), title="accuracy in percent, with 95 % interval")
    for name, row in figures.items():
        table.add_row(name, *(f"{mean:.1f} ± {half:.1f}" for mean, half in row.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
