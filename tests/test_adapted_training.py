"""Heads that adapt the backbone itself, trained through the pipeline from frames and from the tokens before their adapters."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import fill

from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create, open_store
from extract.config import backbone_of, spec_of, store_path
from extract.videomae import trunk
from fsar_cache.errors import UsageError
from heads import Tamt
from pipeline.assemble import Places, workshop
from pipeline.beside import extract_config
from pipeline.loop import Training, repeatable, stream
from pipeline.model import Model
from pipeline.recipe import Recipe, load_recipe
from pipeline.runs import evaluate_run
from pipeline.trainer import train
from splits.datasets import open_split

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    folder: Path
    places: Places

    def recipe(self, head: str, features: dict[str, Any], config: dict[str, Any], cut: str) -> Recipe:
        path = self.folder / "recipe.json"
        values = {
            "head": head,
            "features": {**features, "cut": cut},
            "source": {"dataset": f"csv:{self.folder}/clips.csv#clips", "part": "train"},
            "target": {"dataset": f"csv:{self.folder}/clips.csv#clips", "part": "test"},
            "train": {"way": 2, "shot": 1, "query": 1, "iterations": 2, "tasks_per_batch": 1, "lr": 1e-2},
            "eval": {"way": 2, "shot": 1, "query": 1, "episodes": 4},
            "head_config": config,
        }
        path.write_text(json.dumps(values))
        return load_recipe(str(path))


@pytest.fixture
def world(tmp_path: Path) -> World:
    rows = [f"{p}-{c}-{i},{p}{c},{p}-{c}-{i}.mp4,{p}" for p in ("train", "test") for c in range(2) for i in range(2)]
    (tmp_path / "clips.csv").write_text("\n".join(["id,class,path,partition", *rows]) + "\n")
    return World(tmp_path, Places(tmp_path / "stores"))


def made_up_store(world: World, recipe: Recipe) -> Path:
    config = extract_config(recipe.features)
    return fill(world, recipe.source.dataset, spec_of(config, backbone_of(config)))  # type: ignore[arg-type]


def tokens_store(world: World, recipe: Recipe, frames: Path) -> None:
    """The store of another cut, computed from the frames of one by the network itself."""
    config = extract_config(recipe.features)
    backbone = backbone_of(config)
    spec = spec_of(config, backbone)
    stored, split = open_store(frames), open_split(recipe.source.dataset)
    rows = [Row(v.id, v.label, part.name) for part in split.parts.values() for v in part.videos]
    path = store_path(world.places.stores, split.name, spec)
    head = backbone.head_of(recipe.features.cut).eval()
    with create(path, spec, rows, dataset=split.name, block_rows=16) as store, store.writer() as writer:
        with torch.inference_mode():
            pixels = torch.from_numpy(stored.read(stored.rows_of([row.id for row in rows])))
            array = torch.cat([head(clip[None]) for clip in pixels]).numpy().astype(spec.dtype)
        writer.write_block(0, array, [Outcome("ok")] * len(rows), {"made": "up"})


def step(recipe: Recipe, places: Places) -> tuple[Model, dict[str, torch.Tensor], dict[str, float]]:
    """One training iteration: the model, what it was before, and the row of metrics."""
    with workshop(recipe, places) as shop:
        data, _ = shop.training()
        training = Training(recipe, shop.model(2), CPU)
        before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
        with repeatable(CPU):
            row = training.advance(next(iter(stream(data, training.model.head, recipe, 0))))
    return training.model, before, row


VIDEOMAE = {
    "backbone": "videomae_vit_s",
    "frames": 16,
    "size": 32,
    "sampling": "tamt-centre",
    "transform": "centre-crop",
    "dtype": "float32",
}


def test_tamt_trains_its_adapters_and_itself_alike_from_frames_and_from_tokens(world: World) -> None:
    config = {"covariance_groups": 4, "reduce_dims": [8, 8], "adapter_drop_path": 0.0}
    whole = world.recipe("tamt", {**VIDEOMAE, "dtype": "auto"}, config, "frames")
    stored = made_up_store(world, whole)
    late = world.recipe("tamt", VIDEOMAE, config, "block10")
    tokens_store(world, late, stored)
    model, before, row = step(whole, world.places)
    _, _, again = step(late, world.places)
    assert again["loss"] == pytest.approx(row["loss"], rel=1e-5)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    learnt = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in moved if name.startswith("tail.")} <= {n for n in before if ".adapters." in n}
    assert any(".adapters.beside_mlp." in name for name in moved)
    assert any(name.startswith("head.") for name in moved)
    assert all(".adapters." in name for name in learnt if name.startswith("tail."))
    folder = world.folder / "run"
    assert np.isfinite(train(late, folder, world.places).metrics["loss"])
    assert 0 <= evaluate_run(folder, world.places).accuracy <= 100


def test_a_cut_behind_an_adapter_is_refused(world: World) -> None:
    recipe = world.recipe("tamt", VIDEOMAE, {}, "block11")
    with (
        pytest.raises(UsageError, match="adapter in block10, which lies before the cut 'block11'") as caught,
        workshop(recipe, world.places) as shop,
    ):
        shop.model(2)
    assert "cut at block10 or before" in (caught.value.hint or "")
    assert "--set 'head_config.adapter_blocks=[]'" in (caught.value.hint or "")


def test_the_norm_of_a_pretrained_file_is_where_the_head_starts(world: World) -> None:
    """As TAMT's published tuning takes fc_norm from the supervised VideoMAE file, beside the backbone."""
    backbone = backbone_of(extract_config(world.recipe("tamt", VIDEOMAE, {}, "block10").features))
    weights = {name: tensor.clone() for name, tensor in trunk(backbone).state_dict().items()}
    norm = {
        f"fc_norm.{leaf}": torch.rand(384, generator=torch.Generator().manual_seed(i))
        for i, leaf in enumerate(("weight", "bias"))
    }
    torch.save({"module": weights | norm}, world.folder / "vit_s.pth")
    recipe = world.recipe("tamt", VIDEOMAE | {"weights": f"file:{world.folder / 'vit_s.pth'}"}, {}, "block10")
    with workshop(recipe, world.places) as shop:
        head = shop.model(2).head
    assert isinstance(head, Tamt)
    for leaf in ("weight", "bias"):
        assert torch.equal(getattr(head.first_norm, leaf), norm[f"fc_norm.{leaf}"])


CLIP = {
    "backbone": "clip_vit_b16",
    "frames": 8,
    "size": 224,
    "sampling": "clip-fsar-centre",
    "transform": "clip-fsar-eval",
    "text_store": "own-text",
}


def test_tmal_trains_its_adapters_and_itself(world: World) -> None:
    """With adapters in the last two blocks, from tokens before them; the ones in all twelve need frames."""
    config = {"fusion_order": "text", "flow_encoder": "none", "adapter": "24x384", "adapter_layers": 2, "seq_len": 8}
    recipe = world.recipe("tmal", CLIP, config | {"out_dropout": 0.0, "ff_dropout": 0.0}, "block10")
    made_up_store(world, recipe)
    rows = [Row(f"{p}{c}", f"{p}{c}", p) for p in ("train", "test") for c in range(2)]
    spec = FeatureSpec("text", {}, {}, {}, {"name": "made up"}, "text", (512,), "float32")
    place = world.places.stores / "clips" / "own-text"
    with create(place, spec, rows, dataset="clips") as store, store.writer() as writer:
        text = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
        writer.write_block(0, text, [Outcome("ok")] * 4, {"made": "up"})
    model, before, row = step(recipe, world.places)
    assert np.isfinite(row["loss"])
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    in_tail = {name.partition(".adapters.")[2] for name in moved if name.startswith("tail.")}
    # at the first step only the convolutions and the last biases have a gradient
    assert in_tail == {
        f"{at}.{leaf}" for at in ("pre_attn", "pre_mlp") for leaf in ("conv.weight", "conv.bias", "fc2.bias")
    }
    everywhere = replace(recipe, head_config=recipe.head_config | {"adapter_layers": 12})
    with (
        pytest.raises(UsageError, match="adapter in block0, which lies before the cut 'block10'"),
        workshop(everywhere, world.places) as shop,
    ):
        shop.model(2)
