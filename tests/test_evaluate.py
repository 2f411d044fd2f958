"""Evaluation: against a plain loop over episodes, paired across heads; of runs and untrained heads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from worlds import World, fill, make_world

import pipeline.evaluate
from cache.spec import FeatureSpec
from cache.store import open_store
from extract.config import backbone_of, spec_of
from extract.resnet import trunk
from fsar_cache import errors
from heads.base import Task
from heads.otam import Otam
from pipeline.assemble import workshop
from pipeline.beside import extract_config
from pipeline.evaluate import encode_clips, evaluate
from pipeline.evaluating import known_evaluation
from pipeline.results import interval95, read_evaluation, summarise, write_evaluation
from pipeline.runs import evaluate_run, evaluate_untrained
from pipeline.sources import FeatureSource, StoreSource
from pipeline.trainer import train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), failed=("target-test-1-2",))


def test_clips_too_large_to_hold_are_encoded_group_by_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = world.recipe("eval.episodes=150", "train.unlabelled=0", head="otam")
    with workshop(recipe, world.places) as shop:
        model = shop.model(4).eval()
        source, sampler, _ = shop.evaluation(recipe.target, recipe.eval.protocol, 3)
        whole = evaluate(model, source, sampler)
        held = []

        def counted(model: Any, source: Any, positions: Any, report: Any = None) -> Any:
            held.append(len(positions))
            return encode_clips(model, source, positions, report)

        monkeypatch.setattr(pipeline.evaluate, "encode_clips", counted)
        monkeypatch.setattr(pipeline.evaluate, "CODES_LIMIT", 22 * source.spec.row_bytes)  # 23 clips are drawn in all
        found = evaluate(model, source, sampler)
    assert len(held) == 5  # 32 episodes at a time
    assert found.correct == whole.correct
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)


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


class Sided(Otam):
    """An OTAM whose encoding depends on the role: it compares the frames of a clip with its support's in reverse."""

    role_matters = True

    def encode(self, clips, role):  # type: ignore[no-untyped-def]
        codes = super().encode(clips, role)
        return {name: code.flip(1) for name, code in codes.items()} if role == "query" else codes


@pytest.mark.parametrize(("kind", "roles"), [(Otam, ["support"]), (Sided, ["support", "query"])])
def test_each_clip_passes_the_tail_once_and_the_head_once_per_role_that_matters(
    world: World, kind: type[Otam], roles: list[str]
) -> None:
    recipe = world.recipe("train.unlabelled=0", head="otam")
    with workshop(recipe, world.places) as shop:
        model = shop.model(4)
        model.head = kind(kind.Config())
        source, sampler, _ = shop.evaluation(recipe.target, recipe.eval.protocol, 1)
        seen: dict[str, int] = {}
        features, encode, fetch = model.features, model.head.encode, source.fetch

        def count(what: str, clips: int) -> None:
            seen[what] = seen.get(what, 0) + clips

        def counted_features(activations):  # type: ignore[no-untyped-def]
            count("tail", len(activations))
            return features(activations)

        def counted_encode(clips, role):  # type: ignore[no-untyped-def]
            count(role, len(clips["features"]))
            return encode(clips, role)

        def counted_fetch(positions, **more):  # type: ignore[no-untyped-def]
            count("fetch", len(positions))
            return fetch(positions, **more)

        model.features = counted_features  # type: ignore[method-assign]
        model.head.encode = counted_encode  # type: ignore[method-assign]
        source.fetch = counted_fetch  # type: ignore[method-assign]
        found = evaluate(model, source, sampler)
        assert seen == dict.fromkeys(["fetch", "tail", *roles], 23 + 1)  # one more at first, to see how large codes are
        episodes = sampler.episodes(0, 50)
        codes = [
            {n: c.view(*at.shape, *c.shape[1:]) for n, c in model.encode(_fetched(source, at), role).items()}
            for at, role in ((episodes.support, "support"), (episodes.query, "query"))
        ]
        said = model.head.match(*codes, Task(3, torch.from_numpy(episodes.support_labels))).logits.argmax(-1)
    assert found.correct == tuple((said.numpy() == episodes.query_labels).sum(1))


def _fetched(source: FeatureSource, positions: np.ndarray) -> torch.Tensor:
    flat = positions.ravel()
    return source.fetch(flat, training=False, keys=np.zeros(len(flat), np.uint64))


def test_another_protocol_or_checkpoint_takes_no_evaluations_place(run: Path, world: World) -> None:
    evaluate_run(run, world.places)
    own = (run / "eval-target.json").read_bytes()
    for sets, checkpoint, name in (
        (["eval.shot=1", "eval.seed=7"], None, "target-1shot-seed7"),
        (["eval.way=2", "eval.query=3", "eval.episodes=9"], None, "target-2way-3query-9episodes"),
        (['target.part="train"'], None, "target-train"),
        (['target.exclude=["target-test-0-1"]'], None, None),
        ([], "step-4", "target-step-4"),
        ([f'target.dataset="csv:{world.folder}/source.csv#source"', 'target.part="val"'], None, "source-val"),
    ):
        before = set(run.glob("eval-*.json"))
        found = evaluate_run(run, world.places, sets=sets, checkpoint=checkpoint)
        made = [path for path in run.glob("eval-*.json") if read_evaluation(path) == found]
        assert len(made) == 1
        assert name is None or made[0].name == f"eval-{name}.json"
        assert made[0].name != "eval-target.json"
        assert before <= set(run.glob("eval-*.json"))
    assert (run / "eval-target.json").read_bytes() == own
    evaluate_run(run, world.places, checkpoint="last")  # the usual one, named
    assert not (run / "eval-target-last.json").exists()


def test_a_known_evaluation_is_of_the_checkpoint_that_would_be_evaluated(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSAR_STORES", str(world.places.stores))
    recipe, folder = world.recipe("train.iterations=4", "train.keep_every=2"), tmp_path / "run"
    train(recipe, folder, world.places)
    assert known_evaluation(recipe, folder) is None
    found = evaluate_run(folder, world.places)
    assert known_evaluation(recipe, folder) == found
    assert known_evaluation(recipe, folder, ["eval.shot=1"]) is None
    kept = folder / "checkpoints"
    shutil.copy(kept / "last.safetensors", kept / "best.safetensors")  # from now on the one to be chosen
    assert known_evaluation(recipe, folder) is None
    evaluate_run(folder, world.places, checkpoint="last")
    assert known_evaluation(recipe, folder) is None
    found = evaluate_run(folder, world.places)
    assert known_evaluation(recipe, folder) == found
    shutil.copy(kept / "step-2.safetensors", kept / "best.safetensors")
    assert known_evaluation(recipe, folder) is None


def test_features_of_other_weights_than_the_trained_ones_are_refused(tmp_path: Path) -> None:
    """The weights behind one path change after training; the target extracted with the new ones is no match for the run."""
    world = make_world(tmp_path / "world")
    weights = tmp_path / "net.safetensors"

    def put(seed: int) -> FeatureSpec:
        drawn = backbone_of(replace(extract_config(world.recipe().features), weights=f"random:{seed}"))
        save_file({name: tensor.contiguous() for name, tensor in trunk(drawn).state_dict().items()}, weights)
        config = extract_config(recipe.features)
        return spec_of(config, backbone_of(config))

    recipe = world.recipe(f"features.weights=file:{weights}", "train.iterations=4")
    then = put(9)
    stores = [fill(world, domain.dataset, then) for domain in (recipe.source, recipe.target)]
    train(recipe, tmp_path / "run", world.places)
    evaluate_run(tmp_path / "run", world.places)
    now = put(10)
    fill(world, recipe.target.dataset, now)
    with pytest.raises(
        errors.IntegrityError, match=r"backbone\.weights.*: '.*' in the evaluation, '.*' in the training"
    ):
        evaluate_run(tmp_path / "run", world.places)
    shutil.rmtree(stores[0])
    with pytest.raises(errors.IntegrityError, match=f"trained on features {then.fingerprint}.*{now.fingerprint}"):
        evaluate_run(tmp_path / "run", world.places)


def test_a_source_that_is_not_there_says_what_to_do_without_it(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    recipe = world.recipe("train.unlabelled=0", 'features.normalise="centre-source-std"', head="otam")
    shutil.rmtree(world.places.stores / "source")
    for words in ("fsar-cache extract", "--source DATASET", "--set features.normalise=none"):
        with pytest.raises(errors.MissingError, match="normalises features by the deviations of its source") as caught:
            evaluate_untrained(recipe, tmp_path / "run", world.places)
        assert words in str(caught.value.hint)
    evaluate_untrained(replace(recipe, source=replace(recipe.target, unlabelled=None)), tmp_path / "run", world.places)


def test_an_untrained_head_keeps_its_own_evaluation_beside_others(world: World, tmp_path: Path) -> None:
    recipe = world.recipe("train.unlabelled=0", head="protonet")
    own = evaluate_untrained(recipe, tmp_path / "run", world.places)
    other = evaluate_untrained(recipe, tmp_path / "run", world.places, sets=["eval.shot=1"])
    assert read_evaluation(tmp_path / "run" / "eval-target.json") == own
    assert read_evaluation(tmp_path / "run" / "eval-target-1shot.json") == other
    assert other.identity["protocol"]["shot"] == 1


def test_a_store_read_through_maps_equals_one_held_in_memory(world: World) -> None:
    recipe = world.recipe()
    with workshop(recipe, world.places) as shop:
        path = next((world.places.stores / "target").iterdir())
        part = shop.open(recipe.target, "test").source.part
    held, mapped = StoreSource(open_store(path), part, "ram"), StoreSource(open_store(path), part, "mmap")
    at = np.array([5, 0, 5, 17])
    keys = np.zeros(4, np.uint64)
    assert torch.equal(held.fetch(at, training=False, keys=keys), mapped.fetch(at, training=True, keys=keys + 1))
