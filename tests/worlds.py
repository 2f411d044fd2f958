"""A small world of stored features for training tests: two csv datasets without video files, and stores filled with made-up rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create
from extract.config import backbone_of, spec_of, store_path
from pipeline.assemble import Places
from pipeline.beside import extract_config
from pipeline.recipe import Recipe, load_recipe
from splits.datasets import open_split

FRAMES, SIZE = 8, 32
RECIPE = """
head = "{head}"
[features]
size = 32
cut = "{cut}"
[source]
dataset = "csv:{folder}/source.csv#source"
part = "train"
[target]
dataset = "csv:{folder}/target.csv#target"
part = "test"
unlabelled = "train"
[train]
way = 3
shot = 1
query = 2
unlabelled = 3
iterations = 10
tasks_per_batch = 4
save_every = 3
lr = 1e-4
first_step_early = true
{small}[eval]
way = 3
shot = 2
query = 1
episodes = 50
"""


SMALL = """
[head_config]
mlp_dim = 32
heads = 1
dim_head = 16
"""


@dataclass(frozen=True)
class World:
    folder: Path
    places: Places

    def recipe(self, *sets: str, head: str = "gslta", cut: str = "pooled") -> Recipe:
        path = self.folder / f"{head}-{cut}.toml"
        path.write_text(RECIPE.format(head=head, cut=cut, folder=self.folder, small=SMALL if head == "gslta" else ""))
        return load_recipe(str(path), sets)


def make_world(folder: Path, cut: str = "pooled", failed: tuple[str, ...] = ()) -> World:
    """Source with parts train and val, target with train and test: 4 classes of 6 clips each, features that tell the classes apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in (("source", ("train", "val")), ("target", ("train", "test"))):
        lines = ["id,class,path,partition"]
        lines += [
            f"{name}-{p}-{c}-{i},{p}{c},{name}-{p}-{c}-{i}.mp4,{p}" for p in parts for c in range(4) for i in range(6)
        ]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    world = World(folder, Places(folder / "stores"))
    recipe = world.recipe(cut=cut)
    config = extract_config(recipe.features)
    spec = spec_of(config, backbone_of(config))
    for domain in (recipe.source.dataset, recipe.target.dataset):
        fill(world, domain, spec, failed)
    return world


def fill(world: World, dataset: str, spec: FeatureSpec, failed: tuple[str, ...] = ()) -> Path:
    """A store of the dataset with one made-up row per clip; the ids in `failed` failed."""
    split = open_split(dataset)
    videos = [(part.name, video) for part in split.parts.values() for video in part.videos]
    rows = [Row(video.id, video.label, part) for part, video in videos]
    path = store_path(world.places.stores, split.name, spec)
    with create(path, spec, rows, dataset=split.name, block_rows=16) as store, store.writer() as writer:
        for block in range(store.blocks):
            first, last = store.block_range(block)
            array = np.stack([made_up(row.label, row.id, spec) for row in rows[first:last]])
            outcomes = [
                Outcome("failed", "made to fail") if r.id in failed else Outcome("ok") for r in rows[first:last]
            ]
            writer.write_block(block, array, outcomes, {"made": "up"})
    return path


def made_up(label: str, clip: str, spec: FeatureSpec) -> np.ndarray:
    """The class's pattern over time plus the clip's own noise; pixels for uint8 specs, not negative for others."""
    pattern = np.random.default_rng(list(label.encode())).standard_normal(spec.shape)
    noise = np.random.default_rng(list(clip.encode())).standard_normal(spec.shape)
    mixed = pattern + 0.7 * noise
    return (
        (128 + 40 * mixed).clip(0, 255).astype(np.uint8)
        if spec.dtype == "uint8"
        else np.maximum(mixed, 0).astype(spec.dtype)
    )


def spec_with(spec: FeatureSpec, **changes: object) -> FeatureSpec:
    """Another spec of the same shape."""
    return replace(spec, **changes)  # type: ignore[arg-type]


def metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
