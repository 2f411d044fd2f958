"""Evaluation: against a plain loop over episodes, paired across heads; of runs, untrained heads, published checkpoints."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import World, fill, make_world

from cache.store import open_store
from extract.config import backbone_of, spec_of
from extract.resnet import trunk
from fsar_cache import errors
from heads.base import Task
from heads.published import Rest, to_published
from pipeline.assemble import extract_config, workshop
from pipeline.evaluate import evaluate
from pipeline.model import build_head
from pipeline.results import interval95, read_evaluation, summarise, write_evaluation
from pipeline.runs import evaluate_run, evaluate_untrained, import_published
from pipeline.sources import StoreSource
from pipeline.trainer import train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), failed=("target-test-1-2",))


@pytest.mark.parametrize("head", ["gslta", "otam", "protonet"])
def test_it_equals_a_plain_loop_over_episodes(world: World, head: str) -> None:
    """Each episode on its own, every clip encoded where it is used, answers counted by hand."""
    recipe = world.recipe("eval.query=2", "train.unlabelled=0", head=head)
    with workshop(recipe, world.places) as shop:
        model = shop.model(4).eval()
        source, sampler, _ = shop.evaluation(recipe.target, recipe.eval.protocol, 3)
        found = evaluate(model, source, sampler, threads=3)
        episodes = sampler.episodes(0, 50)
        keys = np.zeros(99, np.uint64)
        right, confusion, loss = [], np.zeros((4, 4), int), 0.0
        with torch.no_grad():
            for e in range(50):
                codes = [
                    {
                        name: code[None]
                        for name, code in model.encode(source.fetch(at, training=False, keys=keys), role).items()
                    }
                    for at, role in ((episodes.support[e], "support"), (episodes.query[e], "query"))
                ]
                logits = model.head.match(*codes, Task(3, torch.from_numpy(episodes.support_labels[e])[None])).logits[0]
                said = logits.argmax(1).tolist()
                truth = episodes.query_labels[e].tolist()
                right.append(sum(a == b for a, b in zip(said, truth, strict=True)))
                loss += float(-logits.log_softmax(1)[range(6), truth].sum())
                for a, b in zip(said, truth, strict=True):
                    confusion[episodes.classes[e, b], episodes.classes[e, a]] += 1
    assert list(found.correct) == right
    assert np.array_equal(found.confusion, confusion)
    assert found.accuracy == pytest.approx(100 * np.mean(right) / 6)
    assert found.loss == pytest.approx(loss / 300, rel=1e-4)
    assert found.per_class == tuple(100 * confusion[c, c] / confusion[c].sum() for c in range(4))
    assert found.queries == tuple(confusion.sum(1))


def test_the_number_of_threads_changes_nothing(world: World) -> None:
    recipe = world.recipe("train.unlabelled=0", head="otam")
    with workshop(recipe, world.places) as shop:
        model = shop.model(4)
        source, sampler, _ = shop.evaluation(recipe.target, replace(recipe.eval, episodes=200).protocol, 1)
        one, many = evaluate(model, source, sampler, threads=1), evaluate(model, source, sampler, threads=4)
        fewer = evaluate(model, source, sampler, count=70)
    assert replace(one, seconds={}) == replace(many, seconds={})
    assert one.correct[:70] == fewer.correct


def test_the_mode_of_the_model_and_the_thread_count_are_left_as_they_were(world: World) -> None:
    recipe = world.recipe()
    threads = torch.get_num_threads()
    with workshop(recipe, world.places) as shop:
        model = shop.model(4).train()
        source, sampler, _ = shop.evaluation(recipe.target, recipe.eval.protocol, 1)
        evaluate(model, source, sampler)
        assert model.training
        assert torch.get_num_threads() == threads


def test_the_interval_is_the_normal_one_over_episodes() -> None:
    """With the population deviation, by hand: the mean of (0, 1, 1, 0) has deviation 0.5 over the root of 4."""
    assert interval95(np.array([0.0, 1.0, 1.0, 0.0])) == pytest.approx(1.96 * 0.5 / 2)
    assert interval95(np.array([0.4] * 9)) == pytest.approx(0.0)


def test_results_survive_their_file(tmp_path: Path) -> None:
    said, truth = np.array([[0, 1], [2, 2]]), np.array([[0, 2], [2, 0]])
    found = summarise(said, truth, 0.5, ("a", "b", "c"), {"seed": 1}, {"encode": 1.0, "match": 2.0})
    assert (found.accuracy, found.correct, found.per_class) == (50.0, (1, 1), (50.0, None, 50.0))
    assert found.confusion == ((1, 0, 1), (0, 0, 0), (0, 1, 1))
    path = tmp_path / "eval-x.json"
    write_evaluation(path, found)
    assert read_evaluation(path) == found
    assert json.loads(path.read_text())["accuracy"] == 50.0
    path.write_text('{"accuracy": 3}')
    with pytest.raises(errors.IntegrityError, match="not an evaluation"):
        read_evaluation(path)


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(world.recipe("train.keep_every=4", "train.iterations=8"), folder, world.places)
    return folder


def test_a_run_is_evaluated_and_says_what_its_number_depends_on(run: Path, world: World) -> None:
    found = evaluate_run(run, world.places)
    assert read_evaluation(run / "eval-target.json") == found
    assert found.episodes == 50
    assert found.identity["dataset"] == "target"
    assert found.identity["protocol"] == {"way": 3, "shot": 2, "query": 1, "episodes": 50, "unlabelled": 0}
    assert found.identity["checkpoint"]["iteration"] == 8
    again = evaluate_run(run, world.places)
    assert replace(again, seconds={}) == replace(found, seconds={})
    early = evaluate_run(run, world.places, checkpoint="step-4", sets=["eval.episodes=20"])
    assert early.identity["checkpoint"] == {**early.identity["checkpoint"], "name": "step-4", "iteration": 4}
    assert early.episodes == 20


def test_failed_clips_are_left_out_and_that_is_recorded(run: Path, world: World, tmp_path: Path) -> None:
    recipe = world.recipe()
    with workshop(recipe, world.places) as shop:
        source, sampler, identity = shop.evaluation(recipe.target, recipe.eval.protocol, 1)
        episodes = sampler.episodes(0, 300)
    drawn = {source.part.ids[i] for i in np.unique(np.r_[episodes.support.ravel(), episodes.query.ravel()])}
    assert drawn == set(source.part.ids) - {"target-test-1-2"}
    clean = make_world(tmp_path)
    with workshop(clean.recipe(), clean.places) as shop:
        assert shop.evaluation(clean.recipe().target, recipe.eval.protocol, 1)[2]["excluded"] != identity["excluded"]


def test_what_a_run_was_trained_with_can_not_be_changed_afterwards(run: Path, world: World) -> None:
    with pytest.raises(errors.UsageError, match=r"only target\.\* and eval\.\*"):
        evaluate_run(run, world.places, sets=["features.size=64"])
    with pytest.raises(errors.MissingError, match="no checkpoint 'step-3'; it has: last, step-4, step-8"):
        evaluate_run(run, world.places, checkpoint="step-3")
    with pytest.raises(errors.MissingError, match="no run in"):
        evaluate_run(run / "nowhere", world.places)


def test_heads_without_parameters_need_no_training(world: World, tmp_path: Path) -> None:
    recipe = world.recipe("train.unlabelled=0", 'features.normalise="centre-source-std"', head="otam")
    found = evaluate_untrained(recipe, tmp_path / "otam", world.places)
    assert (tmp_path / "otam" / "config.json").exists()
    assert (tmp_path / "otam" / "provenance.json").exists()
    assert found.identity["checkpoint"] is None
    assert found.identity["trained_on"]["source"]["dataset"] == "source"
    assert found.accuracy > 60  # classes of made-up features are easy; chance is 33
    blind = evaluate_untrained(world.recipe("train.unlabelled=0", head="protonet"), tmp_path / "proto", world.places)
    same = ("dataset", "split", "features", "excluded", "protocol", "seed")
    assert [found.identity[k] for k in same] == [blind.identity[k] for k in same]
    with pytest.raises(errors.UsageError, match="must be trained first"):
        evaluate_untrained(world.recipe(), tmp_path / "gslta", world.places)


def test_encoding_happens_once_per_clip_and_role(world: World) -> None:
    recipe = world.recipe()
    with workshop(recipe, world.places) as shop:
        model = shop.model(4)
        source, sampler, _ = shop.evaluation(recipe.target, recipe.eval.protocol, 1)
        seen: dict[str, int] = {}
        encode = model.head.encode

        def counted(clips, role):  # type: ignore[no-untyped-def]
            seen[role] = seen.get(role, 0) + len(clips["features"])
            return encode(clips, role)

        model.head.encode = counted  # type: ignore[method-assign]
        evaluate(model, source, sampler)
    assert seen == {"support": 23, "query": 23}


def test_a_store_read_through_maps_equals_one_held_in_memory(world: World) -> None:
    recipe = world.recipe()
    with workshop(recipe, world.places) as shop:
        path = next((world.places.stores / "target").iterdir())
        part = shop.open(recipe.target, "test").source.part
    held, mapped = StoreSource(open_store(path), part, "ram"), StoreSource(open_store(path), part, "mmap")
    at = np.array([5, 0, 5, 17])
    keys = np.zeros(4, np.uint64)
    assert torch.equal(held.fetch(at, training=False, keys=keys), mapped.fetch(at, training=True, keys=keys + 1))


@pytest.mark.parametrize("prefix", ["backbone.resnet.", "backbone.module.resnet."])
def test_a_published_checkpoint_becomes_a_run(tmp_path: Path, prefix: str) -> None:
    """Written under the published names by hand, imported, extracted with its own backbone: same weights, same answers."""
    world = make_world(tmp_path / "world")
    recipe = world.recipe("train.unlabelled=0")
    torch.manual_seed(3)
    head = build_head(recipe, 5)
    net = trunk(backbone_of(replace(extract_config(recipe.features), weights="random:9")))
    unused = {"scale": torch.ones(1), f"{prefix}fc.bias": torch.zeros(3)}
    tensors = to_published(head, Rest(net.state_dict(), unused, prefix))  # type: ignore[arg-type]
    torch.save({"iteration": 20000, "model_state_dict": OrderedDict(tensors)}, tmp_path / "theirs.pt")

    made = import_published(tmp_path / "theirs.pt", recipe, tmp_path / "run", classes=5)
    config = extract_config(made.features)
    spec = spec_of(config, backbone_of(config))
    assert (
        spec.backbone["weights"]
        == spec_of(replace(config, weights="random:9"), backbone_of(replace(config, weights="random:9"))).backbone[
            "weights"
        ]
    )
    with pytest.raises(errors.MissingError, match=r"backbone\.weights"):
        evaluate_run(tmp_path / "run", world.places)
    fill(world, recipe.target.dataset, spec)
    found = evaluate_run(tmp_path / "run", world.places)
    with workshop(made, world.places) as shop:
        model = shop.model(5)
        model.head.load_state_dict(head.state_dict())
        source, sampler, _ = shop.evaluation(made.target, made.eval.protocol, made.eval.seed)
        assert evaluate(model, source, sampler).correct == found.correct
    assert found.identity["checkpoint"]["iteration"] == 20000
    del tensors["student_encoder.layers.0.0.norm.weight"]
    torch.save({"model_state_dict": tensors}, tmp_path / "less.pt")
    with pytest.raises(errors.IntegrityError, match=r"student_encoder\.layers\.0\.0\.norm\.weight"):
        import_published(tmp_path / "less.pt", recipe, tmp_path / "other", classes=5)
