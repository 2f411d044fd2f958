"""Every registered head through the whole pipeline: trained from stores of all the kinds it needs, stopped and resumed, evaluated."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_episodes import DIM, EQUAL_SHOTS, FRAMES, SIDE, SMALL, make
from worlds import made_up

from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create
from fsar_cache.errors import IntegrityError, Interrupted, MissingError, UsageError
from heads.base import HEADS, Head, Task
from pipeline.assemble import Places, workshop
from pipeline.evaluate import evaluate
from pipeline.example import example_of
from pipeline.recipe import Recipe, load_recipe
from pipeline.runs import evaluate_run, evaluate_untrained
from pipeline.trainer import train
from splits.datasets import open_split

CUT = {"pooled": "pooled", "map": "map", "tokens": "block12"}
USUAL = {"pooled": (FRAMES, DIM), "map": (FRAMES, DIM, SIDE, SIDE), "tokens": (FRAMES, SIDE * SIDE, DIM)}
every_head = pytest.mark.parametrize("name", HEADS.names())
learning = pytest.mark.parametrize("name", [n for n in HEADS.names() if any(True for _ in make(n).parameters())])
FROZEN: dict[str, dict[str, Any]] = {"tamt": {"adapter_blocks": ()}, "tmal": {"adapter": "none"}}
"""Settings of heads that adapt the backbone, for stores of which nothing of a backbone runs online."""
KINDS = {"flow": "flow_store", "text": "text_store"}


def shape_of(head: Head, kind: str) -> tuple[int, ...]:
    want = head.needs.kinds[kind]
    usual: tuple[int, ...] = USUAL[head.needs.at] if kind == "features" else USUAL["pooled"]
    return (DIM,) if kind == "text" else tuple(u if n is None else n for n, u in zip(want, usual, strict=True))


def fill(
    path: Path, dataset: str, kind: str, shape: tuple[int, ...], rows: list[Row], cut: str = "own", turn: int = 0
) -> None:
    spec = FeatureSpec(kind, {}, {}, {}, {"name": "made up", "turn": turn}, cut, shape, "float32")
    with create(path, spec, rows, dataset=dataset, block_rows=16) as store, store.writer() as writer:
        for block in range(store.blocks):
            first, last = store.block_range(block)
            array = np.stack([made_up(row.label, row.id, spec) for row in rows[first:last]])
            writer.write_block(block, array, [Outcome("ok")] * (last - first), {"made": "up"})


@dataclass(frozen=True)
class World:
    folder: Path
    places: Places
    recipe: Recipe


def make_world(folder: Path, name: str, *, episodes: int = 40, **more: Any) -> World:
    """Two csv datasets and, for every kind that the head needs, a store of one's own called mine-KIND."""
    more = FROZEN.get(name, {}) | more
    head = make(name, **more)
    lines = {f"features.{field}": f"mine-{kind}" for kind, field in KINDS.items() if kind in head.needs.kinds}
    for domain, parts in (("source", ("train", "val")), ("target", ("train", "test"))):
        rows = [
            f"{domain}-{p}-{c}-{i},{p}{c},{domain}-{p}-{c}-{i}.mp4,{p}"
            for p in parts
            for c in range(4)
            for i in range(6)
        ]
        (folder / f"{domain}.csv").write_text("\n".join(["id,class,path,partition", *rows]) + "\n")
        split = open_split(f"csv:{folder}/{domain}.csv#{domain}")
        clips = [Row(v.id, v.label, part.name) for part in split.parts.values() for v in part.videos]
        classes = [Row(c, c, part.name) for part in split.parts.values() for c in part.classes]
        for kind in head.needs.kinds:
            path = folder / "stores" / domain / f"mine-{kind}"
            fill(path, domain, kind, shape_of(head, kind), classes if kind == "text" else clips)
    path = folder / "recipe.toml"
    config = SMALL.get(name, {}) | more
    path.write_text(
        f"""
head = "{name}"
[features]
store = "mine-features"
frames = {shape_of(head, "features")[0]}
cut = "{CUT[head.needs.at]}"
[source]
dataset = "csv:{folder}/source.csv#source"
part = "train"
[target]
dataset = "csv:{folder}/target.csv#target"
part = "test"
unlabelled = "train"
[train]
way = 3
shot = 2
query = 2
unlabelled = {3 if name == "gslta" else 0}
iterations = 5
tasks_per_batch = 2
save_every = 2
lr = 1e-4
[head_config]
{chr(10).join(f"{k} = {json.dumps(v)}" for k, v in config.items() if k not in ("class_num", "tasks_per_batch"))}
[eval]
way = 3
shot = 2
query = 1
episodes = {episodes}
"""
    )
    recipe = load_recipe(str(path), [f"{key}={value}" for key, value in lines.items()])
    return World(folder, Places(folder / "stores"), recipe)


@learning
def test_a_stopped_training_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, name)
    whole = train(world.recipe, tmp_path / "whole", world.places)
    stop = threading.Event()
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(
                world.recipe,
                tmp_path / "parts",
                world.places,
                stop=stop,
                report=lambda done, total, row: stop.set() if done in (1, 3) else None,
            )
        stop.clear()
    train(world.recipe, tmp_path / "parts", world.places)
    kept = [(tmp_path / run / "checkpoints" / "last.safetensors").read_bytes() for run in ("whole", "parts")]
    assert kept[0] == kept[1]
    assert np.isfinite(whole.metrics["loss"])
    found = evaluate_run(tmp_path / "whole", world.places)
    assert 0 <= found.accuracy <= 100
    assert found.identity["head"] == name


@every_head
def test_evaluation_equals_a_plain_loop_over_episodes(name: str, tmp_path: Path) -> None:
    """Each episode by itself, every clip encoded where it is used, the other kinds looked up by hand."""
    world = make_world(tmp_path, name, episodes=40)
    with workshop(world.recipe, world.places) as shop:
        model = shop.model(4).eval()
        source, sampler, identity = shop.evaluation(world.recipe.target, world.recipe.eval.protocol, 3)
        found = evaluate(model, source, sampler, threads=2)
        episodes = sampler.episodes(0, 40)
        keys, text = np.zeros(99, np.uint64), source.beside.text
        right = []
        for e in range(40):
            codes = []
            for at, role in ((episodes.support[e], "support"), (episodes.query[e], "query")):
                clips: dict[str, torch.Tensor] = {"features": source.fetch(at, training=False, keys=keys)}
                if source.beside.flow is not None:
                    clips["flow"] = source.beside.flow.fetch(at, training=False, keys=keys)
                if text is not None and role == "support":
                    clips["text"] = torch.stack([text[source.part.labels[i]] for i in at.tolist()])
                with torch.no_grad():
                    codes.append({n: code[None] for n, code in model.head.encode(clips, role).items()})  # type: ignore[arg-type]
            labels = torch.from_numpy(episodes.support_labels[e])[None]
            named = None if text is None else text[torch.from_numpy(episodes.classes[e])][None]
            draws = drawn_by(model.head, episodes.query_labels[e], e)
            with torch.no_grad():
                said = model.head.match(*codes, Task(3, labels, draws, named)).logits[0].argmax(-1)
            right.append(int((said.numpy() == episodes.query_labels[e]).sum()))
    assert list(found.correct) == right
    assert set(identity) >= set(world_kinds(name))


def world_kinds(name: str) -> set[str]:
    return set(make(name).needs.kinds) & {"flow", "text"}


def drawn_by(head: Head, labels: np.ndarray, index: int) -> dict[str, torch.Tensor]:
    from fsar_cache.draws import generator
    from heads.base import EpisodeShape

    found = head.match_draw(EpisodeShape(3, 2, 3, 0, 0, labels), generator("evaluation draws", 3, index))
    return {key: torch.from_numpy(value)[None] for key, value in found.items()}


def test_a_comparison_that_the_head_refuses_is_left_out_of_the_report(tmp_path: Path) -> None:
    """TA2N trained with two shots per class can't be asked at one."""
    world = make_world(tmp_path, "ta2n")
    train(world.recipe, tmp_path / "run", world.places)
    found = evaluate_run(tmp_path / "run", world.places)
    said = example_of(tmp_path / "run", found, world.places.stores)
    assert set(said) == {"absent"}
    assert "One-shot episodes can't be shown" in said["absent"]


@every_head
def test_features_of_another_shape_are_refused_with_both(name: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, name)
    head = make(name)
    sizes = {"dim", "seq_len"} & set(head.config.__dataclass_fields__)
    for field in sorted(sizes):
        other = replace(
            world.recipe, head_config={**world.recipe.head_config, field: 2 * (getattr(head.config, field) or 4)}
        )
        with (
            pytest.raises(UsageError, match=r"needs \w+ of \S+ per clip, got"),
            workshop(other, world.places) as shop,
        ):
            shop.model(4)


@pytest.mark.parametrize("name", [n for n in HEADS.names() if world_kinds(n)])
def test_a_kind_that_is_not_there_is_named_with_the_command_that_makes_it(name: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, name)
    for kind in sorted(world_kinds(name)):
        lost = replace(world.recipe, features=replace(world.recipe.features, **{KINDS[kind]: "nowhere"}))
        with pytest.raises(MissingError, match="nowhere"), workshop(lost, world.places) as shop:
            shop.open(lost.source, "train")
    if "text" in world_kinds(name):
        plain = replace(world.recipe, features=replace(world.recipe.features, text_store=None))
        with (
            pytest.raises(MissingError, match="needs text of") as caught,
            workshop(plain, world.places) as shop,
        ):
            shop.open(plain.source, "train")
        assert "--kind text" in (caught.value.hint or "")


def refilled(world: World, kind: str, shape: tuple[int, ...], cut: str = "own", turn: int = 0) -> None:
    """The stores of one kind made anew, with rows of another shape, cut or content."""
    for domain in ("source", "target"):
        path = world.folder / "stores" / domain / f"mine-{kind}"
        shutil.rmtree(path)
        split = open_split(f"csv:{world.folder}/{domain}.csv#{domain}")
        parts = split.parts.values()
        clips = [Row(v.id, v.label, part.name) for part in parts for v in part.videos]
        classes = [Row(c, c, part.name) for part in parts for c in part.classes]
        fill(path, domain, kind, shape, classes if kind == "text" else clips, cut=cut, turn=turn)


def test_flow_of_another_width_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, "tmal")
    refilled(world, "flow", (shape_of(make("tmal"), "flow")[0], 2 * DIM))
    with pytest.raises(UsageError, match=r"Tmal needs flow of \S+ per clip, got \S+"):
        train(world.recipe, tmp_path / "run", world.places)
    centred = replace(world.recipe, features=replace(world.recipe.features, normalise="centre-source-std"))
    with pytest.raises(UsageError, match="flow"):
        train(centred, tmp_path / "centred", world.places)


def test_features_of_frames_are_no_features_of_flow(tmp_path: Path) -> None:
    world = make_world(tmp_path, "tmal")
    refilled(world, "flow", shape_of(make("tmal"), "flow"), cut="pooled")
    with pytest.raises(IntegrityError, match=r"holds pooled .* not features \[T, D\] of flow"):
        train(world.recipe, tmp_path / "run", world.places)


@pytest.mark.parametrize("kind", ["flow", "text"])
def test_an_evaluation_on_other_text_or_flow_than_the_training_is_refused(kind: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, "tmal")
    train(world.recipe, tmp_path / "run", world.places)
    evaluate_run(tmp_path / "run", world.places)
    refilled(world, kind, shape_of(make("tmal"), kind), turn=1)
    with pytest.raises(IntegrityError, match=kind):
        evaluate_run(tmp_path / "run", world.places)


def test_heads_with_equal_shots_only_are_known() -> None:
    assert set(HEADS.names()) >= EQUAL_SHOTS


@pytest.mark.parametrize("name", ["protonet", "otam"])
def test_heads_without_parameters_are_evaluated_at_once(name: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, name)
    assert evaluate_untrained(world.recipe, tmp_path / "run", world.places).accuracy > 34
