"""Training runs: exact resume, determinism, the published step count, separate batch norm passes, refusals."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from worlds import World, fill, make_world, metrics, spec_with

from extract.config import ExtractConfig, backbone_of, spec_of
from fsar_cache import errors
from heads.base import Head
from pipeline import stages
from pipeline.assemble import Opened, Workshop, _warn_once, workshop
from pipeline.beside import extract_command, extract_config
from pipeline.checkpoints import load_checkpoint, save_checkpoint
from pipeline.cli import main
from pipeline.loop import Training, fetch_episode, in_advance, repeatable, stream
from pipeline.metrics import MetricsLog
from pipeline.model import Model
from pipeline.normalise import Normaliser
from pipeline.recipe import Domain, Features, Recipe, load_recipe, recipe_of_head
from pipeline.trainer import command_that_continues, train
from pipeline.unseen import apart


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Bytes are promised for one number of threads, and one is quickest for such small tensors on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def weights(folder: Path, name: str = "last") -> bytes:
    return (folder / "checkpoints" / f"{name}.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = train(world.recipe("train.keep_every=5"), folder, world.places)
    assert (done.iterations, done.done_before) == (10, 0)
    return folder


def test_a_run_folder_holds_what_it_promises(whole: Path, world: World) -> None:
    config = json.loads((whole / "config.json").read_text())
    assert config["head_config"]["class_num"] == 4
    assert config["head_config"]["tasks_per_batch"] == 4
    provenance = json.loads((whole / "provenance.json").read_text())
    assert {"source", "unlabelled", "excluded", "left_out"} == set(provenance["data"])
    assert provenance["data"]["source"]["features"] == provenance["data"]["unlabelled"]["features"]
    assert provenance["sessions"][0]["torch"] == torch.__version__.split("+")[0]
    rows = metrics(whole)
    assert [row["iteration"] for row in rows] == list(range(1, 11))
    assert {"loss", "supervised", "meta", "reconstruction", "self", "cross", "accuracy", "lr"} <= set(rows[0])
    kept = {path.name for path in (whole / "checkpoints").iterdir()}
    assert kept == {f"{n}.{e}" for n in ("last", "step-5", "step-10") for e in ("safetensors", "json")}
    assert weights(whole) == weights(whole, "step-10")


def test_a_finished_run_is_not_repeated(whole: Path, world: World) -> None:
    before = weights(whole), (whole / "metrics.jsonl").read_bytes(), (whole / "provenance.json").read_bytes()
    done = train(world.recipe("train.keep_every=5"), whole, world.places)
    assert done.done_before == 10
    assert before == (weights(whole), (whole / "metrics.jsonl").read_bytes(), (whole / "provenance.json").read_bytes())


def test_stopping_after_every_iteration_changes_no_byte(whole: Path, world: World, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    for done in range(1, 10):
        with pytest.raises(errors.Interrupted, match=f"iteration {done} of 10"):
            train(world.recipe("train.keep_every=5"), tmp_path, world.places, stop=stop)
    assert train(world.recipe("train.keep_every=5"), tmp_path, world.places, stop=stop).done_before == 9
    assert weights(tmp_path) == weights(whole)
    assert weights(tmp_path, "step-5") == weights(whole, "step-5")
    assert metrics(tmp_path) == metrics(whole)


KILLED = """
import sys
from pathlib import Path
from pipeline.assemble import Places
from pipeline.recipe import load_recipe
from pipeline.trainer import command_that_continues, train
recipe, folder, stores = sys.argv[1:]
print("ready", flush=True)
train(load_recipe(recipe, ["train.keep_every=5"]), Path(folder), Places(Path(stores)), report=lambda *a: print(a[0], flush=True))
"""


def start(world: World, folder: Path) -> subprocess.Popen[str]:
    world.recipe()
    args = [str(world.folder / "gslta-pooled.toml"), str(folder), str(world.places.stores)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def test_kill_9_at_random_instants_changes_no_byte(whole: Path, world: World, tmp_path: Path) -> None:
    draw = random.Random(5)
    for at in (2, 4, 7):
        process = start(world, tmp_path)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= at:
                time.sleep(draw.uniform(0, 0.05))
                break
        process.kill()
        process.communicate()
    train(world.recipe("train.keep_every=5"), tmp_path, world.places)
    assert weights(tmp_path) == weights(whole)
    assert metrics(tmp_path) == metrics(whole)


def test_the_command_of_the_hint_continues_the_run(
    whole: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the recipe was changed by settings and its file is gone."""
    folder, stop = tmp_path / "a run", threading.Event()
    stop.set()
    with pytest.raises(errors.Interrupted) as caught:
        train(world.recipe("train.keep_every=5"), folder, world.places, stop=stop)
    (world.folder / "gslta-pooled.toml").unlink()
    monkeypatch.setenv("FSAR_STORES", str(world.places.stores))
    assert main(shlex.split(str(caught.value.hint).partition("fsar-cache ")[2])) == 0
    assert load_checkpoint(folder / "checkpoints" / "last.safetensors").facts["iteration"] == 10
    assert weights(folder) == weights(whole)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command_that_continues(Path("here"), torch.device("cpu")))
    assert words == ["fsar-cache", "train", "--recipe", "./here/config.json", "--run", "./here", "--device", "cpu"]


def test_sigterm_saves_and_says_how_to_continue(whole: Path, world: World, tmp_path: Path) -> None:
    process = start(world, tmp_path)
    assert process.stdout is not None
    next(line for line in process.stdout if line.strip() == "2")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1  # the exception reaches the interpreter here; the command line makes 130 of it
    assert "Interrupted: stopped and saved after iteration" in stderr
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.safetensors").facts["iteration"]
    assert 2 <= saved < 10
    train(world.recipe("train.keep_every=5"), tmp_path, world.places)
    assert weights(tmp_path) == weights(whole)


def test_dropout_and_draws_leave_the_global_random_state_alone(world: World, tmp_path: Path) -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    random.seed(1)
    train(world.recipe("train.iterations=2"), tmp_path, world.places)
    assert torch.equal(torch.rand(3), want)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_seed_decides(world: World, whole: Path, tmp_path: Path) -> None:
    train(world.recipe("train.seed=1"), tmp_path, world.places)
    assert weights(tmp_path) != weights(whole)


@pytest.mark.parametrize(
    ("early", "iterations", "steps"),
    [(True, 40, [15, 31, 39]), (False, 40, [16, 32, 40]), (True, 16, [15]), (False, 5, [5]), (False, 32, [16, 32])],
)
def test_steps_are_counted_as_published_or_plainly(
    early: bool, iterations: int, steps: list[int], world: World
) -> None:
    recipe = world.recipe(
        f"train.first_step_early={str(early).lower()}", f"train.iterations={iterations}", "train.tasks_per_batch=16"
    )
    assert [i for i in range(1, iterations + 1) if recipe.train.steps_at(i)] == steps


def test_gradients_of_tasks_are_summed(world: World) -> None:
    """Plain SGD: one step after three episodes moves the weights by the sum of the episodes' gradients, each taken on its own."""
    sets = ["train.optimizer=sgd", "train.lr=0.5", "train.iterations=3", "train.first_step_early=false"]
    sets += ["head_config.weight_self=0.0", "head_config.weight_cross=0.0"]
    recipe, never = world.recipe(*sets), world.recipe(*sets, "train.tasks_per_batch=100", "train.iterations=1000")
    cpu = torch.device("cpu")
    with workshop(recipe, world.places) as shop, repeatable(cpu):
        data, _ = shop.training()
        training = Training(recipe, shop.model(4), cpu)
        start = {name: p.detach().clone() for name, p in training.model.named_parameters()}
        total = {name: torch.zeros_like(p) for name, p in start.items()}
        for done, fetched in enumerate(stream(data, training.model.head, recipe, 0)):
            assert all(torch.equal(p, start[n]) for n, p in training.model.named_parameters() if "teacher" not in n)
            training.advance(fetched)
            alone = Training(never, shop.model(4), cpu)
            alone.iteration = done
            alone.advance(fetched)
            for name, p in alone.model.named_parameters():
                if p.grad is not None:
                    total[name] += p.grad
    assert sum(float(g.abs().sum()) for g in total.values()) > 0
    for name, p in training.model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.detach(), start[name] - 0.5 * total[name])


def test_another_recipe_in_the_same_folder_is_refused(whole: Path, world: World) -> None:
    with pytest.raises(errors.UsageError, match=r"train\.lr: 0\.0001 there, 0\.5 asked for"):
        train(world.recipe("train.keep_every=5", "train.lr=0.5"), whole, world.places)


def test_a_folder_in_use_is_refused(world: World, tmp_path: Path) -> None:
    process = start(world, tmp_path)
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if line.strip() == "1")
        with pytest.raises(errors.UsageError, match=f"another writer has the run .*process {process.pid}"):
            train(world.recipe("train.keep_every=5"), tmp_path, world.places)
    finally:
        process.kill()
        process.communicate()


def test_changed_data_are_named_on_resume(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    stop = threading.Event()
    stop.set()
    with pytest.raises(errors.Interrupted):
        train(world.recipe(), tmp_path / "run", world.places, stop=stop)
    with (tmp_path / "world" / "source.csv").open("a") as file:
        file.write("more-0,train0,more-0.mp4,train\n")
    recipe = world.recipe()
    fill_again(world, recipe)
    with pytest.raises(errors.IntegrityError, match=r"source\.split: '[0-9a-f]+' then, '[0-9a-f]+' now"):
        train(recipe, tmp_path / "run", world.places)


def fill_again(world: World, recipe: Recipe) -> None:
    """The source's store, made anew for the clips that its list has now."""
    config = extract_config(recipe.features)
    shutil.rmtree(world.places.stores / "source")
    fill(world, recipe.source.dataset, spec_of(config, backbone_of(config)))


def test_clips_that_are_not_extracted_are_named(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    with (tmp_path / "world" / "target.csv").open("a") as file:
        file.write("more-0,train0,more-0.mp4,train\n")
    with pytest.raises(
        errors.MissingError, match=r"1 of 25 clips of target/train are not in the store .*: more-0"
    ) as caught:
        train(world.recipe(), tmp_path / "run", world.places)
    assert f"fsar-cache extract 'csv:{world.folder}/target.csv#target' --backbone resnet18" in str(caught.value.hint)


def test_a_missing_store_says_what_to_run_and_what_is_there_instead(world: World, tmp_path: Path) -> None:
    with pytest.raises(errors.MissingError, match=r"transform\.size: 64 in this recipe, 32 in the store") as caught:
        train(world.recipe("features.size=64"), tmp_path, world.places)
    hint = shlex.split(str(caught.value.hint))
    assert hint[:3] == ["fsar-cache", "extract", f"csv:{world.folder}/source.csv#source"]
    with pytest.raises(errors.MissingError, match="is not extracted for this recipe"):
        train(world.recipe(), tmp_path, replace(world.places, stores=tmp_path))


@pytest.mark.parametrize(
    ("head", "sets", "says", "hint"),
    [
        ("tamt", ["features.cut=pooled"], "the cut 'pooled' of videomae_vit_s lies behind 'block12'", "--cut block10"),
        ("tamt", ["features.cut=block12"], "an adapter in block10, which lies before the cut 'block12'", "block10"),
        ("clip_mdmf", ["features.frames=6"], "got 6 frames: the method is made for 8", "with 8 frames"),
    ],
)
def test_features_that_a_head_cannot_use_are_refused_before_stores_are_looked_for(
    head: str, sets: list[str], says: str, hint: str, world: World, tmp_path: Path
) -> None:
    data = world.recipe()
    recipe = replace(load_recipe(recipe_of_head(head), sets), source=data.source, target=data.target)
    folder = tmp_path / "runs" / "refused"
    with pytest.raises(errors.UsageError, match=says) as caught:
        train(recipe, folder, replace(world.places, stores=tmp_path / "no stores"))
    assert hint in str(caught.value.hint)
    assert "fsar-cache extract" not in str(caught.value.hint)
    assert not folder.exists()


def test_a_refused_run_leaves_no_folder_and_takes_nothing_from_one(whole: Path, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "refused"
    with pytest.raises(errors.MissingError, match="is not extracted for this recipe"):
        train(world.recipe(), folder, replace(world.places, stores=tmp_path))
    assert not folder.exists()
    before = sorted(whole.rglob("*"))
    with pytest.raises(errors.MissingError, match="is not extracted for this recipe"):
        train(world.recipe("train.keep_every=5"), whole, replace(world.places, stores=tmp_path))
    assert sorted(whole.rglob("*")) == before


@pytest.mark.parametrize(
    "features",
    [
        Features(),
        Features(size=64, frames=4, sampling="uniform", transform="squash", cut="map", scaling="imagenet"),
        Features(backbone="clip_vit_b16", cut="block6", dtype="float32", views=2, view_seed=3, flip="on"),
    ],
)
def test_the_extract_command_of_a_hint_makes_exactly_these_features(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the recipe was: the command names every setting that decides the bytes."""
    asked: list[tuple[str, ExtractConfig]] = []
    monkeypatch.setattr(stages, "extract", lambda name, f, how, **_: asked.extend([(name, extract_config(f))]) or [])
    program, *words = shlex.split(extract_command("csv:a list.csv", features))
    assert program == "fsar-cache"
    assert main(words) == 0
    assert asked == [("csv:a list.csv", extract_config(features))]


def test_unlabelled_clips_must_hold_the_same_features(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two sources of different fingerprints never train together, however they were opened."""
    opened = Workshop.open

    def other(self: Workshop, domain: Domain, part: str, **how: bool) -> Opened:
        found = opened(self, domain, part, **how)
        if part == "train" and "target" in domain.dataset:
            found.source.spec = spec_with(found.source.spec, cut="map")  # type: ignore[misc]
        return found

    monkeypatch.setattr(Workshop, "open", other)
    with pytest.raises(errors.IntegrityError, match=r"cut: 'map' in target, 'pooled' in source"):
        train(world.recipe(), tmp_path, world.places)


def test_failed_clips_are_never_drawn(tmp_path: Path) -> None:
    failed = ("source-train-0-1", "source-train-2-5", "target-train-1-1")
    world = make_world(tmp_path / "world", failed=failed)
    recipe = world.recipe("train.iterations=200", 'source.exclude=["source-train-1-0"]')
    with workshop(recipe, world.places) as shop:
        data, identity = shop.training()
        plain_identity = workshop_identity(make_world(tmp_path / "clean"))
        episodes = data.sampler.episodes(0, 200)
        assert data.unlabelled is not None
        drawn = {data.source.part.ids[i] for i in np.unique(np.r_[episodes.support.ravel(), episodes.query.ravel()])}
        free = {data.unlabelled.part.ids[i] for i in np.unique(episodes.unlabelled)}
        assert drawn == set(data.source.part.ids) - {*failed, "source-train-1-0"}
        assert free == set(data.unlabelled.part.ids) - set(failed)
        assert identity["excluded"] != plain_identity["excluded"]
        bad = np.array([data.source.part.ids.index(failed[0])])
        with pytest.raises(errors.MissingError, match="'source-train-0-1' failed"):
            data.source.fetch(bad, training=True, keys=np.zeros(1, np.uint64))


def test_only_the_datasets_own_exclusions_count(tmp_path: Path) -> None:
    """The target list names a clip as the source does; that it failed in one dataset says nothing about the other."""
    world = make_world(tmp_path / "world", failed=("target-train-1-1",))
    source = tmp_path / "world" / "source.csv"
    source.write_text(source.read_text().replace("source-train-0-0,", "target-train-1-1,"))
    recipe = world.recipe("train.iterations=200")
    fill_again(world, recipe)
    with workshop(recipe, world.places) as shop:
        data, _ = shop.training()
        assert data.unlabelled is not None
        episodes = data.sampler.episodes(0, 200)
        assert data.source.part.ids.index("target-train-1-1") in episodes.support
        assert data.unlabelled.part.ids.index("target-train-1-1") not in episodes.unlabelled
        assert not data.exclude


def test_a_class_that_failed_is_left_out_and_a_small_one_is_if_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _warn_once.cache_clear()  # another test may have had the same classes left out
    gone = tuple(f"{name}-0-{i}" for name in ("source-train", "target-test") for i in range(6))
    world = make_world(tmp_path / "world", failed=gone)
    with workshop(world.recipe(), world.places) as shop:
        data, identity = shop.training()
        assert data.sampler.left_out == ("train0",)
        assert identity["left_out"] == ["train0"]
        for _ in range(2):
            _, sampler, found = shop.evaluation(shop.recipe.target, shop.recipe.eval.protocol, 1)
        assert found["left_out"] == ["test0"]
        assert 0 not in sampler.episodes(0, 50).classes
    said = capsys.readouterr().err
    assert said.count("1 of 4 classes of target/test are left out") == 1
    assert "fewer than 3 usable clips: train0" in said

    world = make_world(tmp_path / "small", failed=tuple(f"source-train-1-{i}" for i in range(4)))
    with pytest.raises(errors.UsageError, match="1 of 4 classes") as caught:
        train(world.recipe("train.iterations=1"), tmp_path / "run", world.places)
    assert "--set source.min_class=drop" in str(caught.value.hint)
    train(world.recipe("train.iterations=1", "source.min_class=drop"), tmp_path / "run", world.places)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["data"]["left_out"] == ["train1"]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (
            ["target.part=train"],
            r"24 of 24 evaluation clips \(target.part\) .* \(target.unlabelled\), e.g. 'target-train",
        ),
        (["target.dataset=SOURCE#target", "target.part=train", "target.unlabelled=val"], r"\(source.part\)"),
        (["target.dataset=SOURCE", "target.part=train", "train.unlabelled=0"], r"\(source.part\)"),
        (["train.validate_every=5", "train.validate_part=train"], r"24 of 24 validation clips \(train.validate_part\)"),
        (
            ["train.validate_every=5", "target.dataset=SOURCE", "target.part=val", "train.unlabelled=0"],
            r"24 of 24 evaluation clips .* \(train.validate_part\)",
        ),
    ],
)
def test_training_on_what_is_evaluated_is_refused(sets: list[str], says: str, world: World, tmp_path: Path) -> None:
    given = [text.replace("SOURCE", f"csv:{world.folder}/source.csv") for text in sets]
    with pytest.raises(errors.UsageError, match=says) as caught:
        train(world.recipe(*given), tmp_path, world.places)
    assert "--set" in str(caught.value.hint)
    assert not (tmp_path / "config.json").exists()


def test_one_clip_under_two_names_is_found_and_may_be_excluded(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    target = tmp_path / "world" / "target.csv"
    target.write_text(target.read_text() + "again,test0,x/../source-train-2-3.mp4,test\n")
    recipe = world.recipe()
    with pytest.raises(errors.UsageError, match=r"1 of 25 evaluation clips .*'again'"):
        apart(recipe)
    apart(world.recipe('target.exclude=["again"]'))
    apart(world.recipe('source.exclude=["source-train-2-3"]'))


def workshop_identity(world: World) -> dict[str, object]:
    with workshop(world.recipe(), world.places) as shop:
        return shop.training()[1]


def test_an_excluded_id_must_exist(world: World, tmp_path: Path) -> None:
    with pytest.raises(errors.MissingError, match="no clip 'nobody'"):
        train(world.recipe('source.exclude=["nobody"]'), tmp_path, world.places)


def test_a_loss_that_is_not_finite_ends_the_run_clearly(world: World, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"^the training diverged at iteration 2: ") as caught:
        train(world.recipe("train.lr=1e30", "train.tasks_per_batch=1"), tmp_path, world.places)
    assert "smaller train.lr" in str(caught.value.hint)


def test_features_that_are_not_finite_are_no_divergence(world: World) -> None:
    recipe, cpu = world.recipe("train.tasks_per_batch=1"), torch.device("cpu")
    with workshop(recipe, world.places) as shop, repeatable(cpu):
        data, _ = shop.training()
        training = Training(recipe, shop.model(4), cpu)
        episodes = stream(data, training.model.head, recipe, 0)
        training.advance(next(episodes))
        fetched = next(episodes)
        fetched.roles["support"][0, 0, 0] = torch.nan
        with pytest.raises(errors.UsageError, match=r"^Gslta got support features with NaN"):
            training.advance(fetched)


def test_validation_keeps_the_best(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    sets = ["train.validate_every=4", "train.validate_episodes=40"]
    done = train(world.recipe(*sets), tmp_path / "run", world.places)
    rows = {row["iteration"]: row["validation"] for row in metrics(tmp_path / "run") if "validation" in row}
    assert sorted(rows) == [4, 8, 10]
    assert done.best is not None
    assert done.best["accuracy"] == max(rows.values()) == rows[int(done.best["iteration"])]
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors")
    assert kept.facts["iteration"] == done.best["iteration"]


def test_nothing_to_train_is_said(world: World, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="has nothing to train") as caught:
        train(world.recipe("train.unlabelled=0", head="otam"), tmp_path, world.places)
    assert "fsar-cache eval" in str(caught.value.hint)


class Recorder(nn.Module):
    """A tail that notes what passes and normalises by the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.norm(x.flatten(0, 1)).view(x.shape)


class Plain(Head):
    """A head for the tests below: logits from mean features."""

    def __init__(self) -> None:
        super().__init__(None)


@pytest.mark.parametrize("passes", ["separate", "joint"])
def test_batch_norm_sees_support_query_and_unlabelled_as_the_head_says(passes: str) -> None:
    torch.manual_seed(0)
    tail, head = Recorder(), Plain()
    head.bn_passes = passes  # type: ignore[assignment, misc]
    model = Model(tail, Normaliser("none"), head).train()
    roles = {"support": torch.randn(3, 2, 4), "query": torch.randn(2, 2, 4) + 3, "unlabelled": torch.randn(4, 2, 4) - 5}
    made = model.episode_features(roles)  # type: ignore[arg-type]
    reference = nn.BatchNorm1d(4).train()
    groups = list(roles.values()) if passes == "separate" else [torch.cat(list(roles.values()))]
    assert [len(seen) for seen in tail.seen] == [len(group) for group in groups]
    want = torch.cat([reference(group.flatten(0, 1)).view(group.shape) for group in groups])
    torch.testing.assert_close(torch.cat([made[r]["features"][0] for r in ("support", "query", "unlabelled")]), want)  # type: ignore[index]
    torch.testing.assert_close(tail.norm.running_mean, reference.running_mean)
    torch.testing.assert_close(tail.norm.running_var, reference.running_var)


def test_end_to_end_from_a_frames_store_trains_the_backbone_and_resumes_exactly(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", cut="frames")
    recipe = world.recipe("train.iterations=4", "train.tasks_per_batch=2", "train.save_every=100", cut="frames")
    train(recipe, tmp_path / "whole", world.places)
    stop = threading.Event()
    stop.set()
    for _ in range(3):
        with pytest.raises(errors.Interrupted):
            train(recipe, tmp_path / "parts", world.places, stop=stop)
    train(recipe, tmp_path / "parts", world.places, stop=stop)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    state = load_file(tmp_path / "whole" / "checkpoints" / "last.safetensors")
    fresh = backbone_of(extract_config(recipe.features)).tail_of("frames").state_dict()
    assert not torch.equal(state["model.tail.1.net.conv1.weight"], fresh["1.net.conv1.weight"])
    # three passes per episode (support, query, unlabelled), four episodes
    assert int(state["model.tail.1.net.bn1.num_batches_tracked"]) == 12


def test_normalisation_is_fitted_on_the_source_alone(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", failed=("source-train-0-1",))
    recipe = world.recipe('features.normalise="centre-source-std"', "train.iterations=1")
    train(recipe, tmp_path / "run", world.places)
    scale = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")["model.normaliser.scale"]
    with workshop(recipe, world.places) as shop:
        source = shop.open(recipe.source, "train").source
        usable = np.array([i for i, clip in enumerate(source.part.ids) if clip not in source.excluded])
        rows = source.fetch(usable, training=False, keys=np.zeros(len(usable), np.uint64)).numpy().astype(np.float64)
    want = (rows - rows.mean(1, keepdims=True)).reshape(-1, 512).std(0)
    np.testing.assert_allclose(scale.numpy(), want, rtol=1e-5)


def test_a_channel_that_never_changes_is_not_divided_by_zero() -> None:
    normaliser = Normaliser("centre-source-std", 2)
    clips = torch.tensor([[[1.0, 5.0], [3.0, 5.0]]])
    normaliser.fit([torch.full((4, 7, 2), 0.1)])
    assert normaliser.scale.tolist() == [1.0, 1.0]
    normaliser.fit([clips])
    assert normaliser(clips).tolist() == [[[-1.0, 0.0], [1.0, 0.0]]]
    with pytest.raises(errors.UsageError, match="no source clip"):
        normaliser.fit([])


def test_channels_that_almost_never_change_are_not_blown_up() -> None:
    """Dead in the source, alive in the target; constant but for rounding (0.1 over 7 frames); ten thousand times quieter than usual."""
    generator = torch.Generator().manual_seed(0)

    def clips(factors: list[float]) -> torch.Tensor:
        return 0.1 + torch.randn(50, 7, 6, generator=generator) * torch.tensor(factors)

    usual = [4.0, 5.0, 6.0]
    normaliser = Normaliser("centre-source-std", 6)
    normaliser.fit([clips([0.0, 0.0, 5e-4, *usual]), clips([0.0, 0.0, 5e-4, *usual])])
    dead, living = normaliser.scale[:3], normaliser.scale[3:]
    torch.testing.assert_close(living, torch.tensor(usual) * (6 / 7) ** 0.5, rtol=0.1, atol=0.0)
    assert dead.tolist() == [living.min()] * 3, "the (lower) median of those that change"
    alive_in_target = normaliser(clips([5.0, 0.0, 5e-4, *usual]))
    spread = alive_in_target.std((0, 1))
    assert 0.5 < spread[0] < 2
    assert spread[1:3].max() < 1e-3
    louder = Normaliser("centre-source-std", 6)
    louder.fit([clips([0.0, 0.0, 5e-2, *usual])])
    assert louder.scale[2] == pytest.approx(5e-2 * (6 / 7) ** 0.5, rel=0.1), (
        "a hundred times quieter is still a channel"
    )


def test_checkpoints_are_checked_when_read(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "last", {"model.a": torch.arange(6.0)}, {"iteration": 3})
    assert load_checkpoint(path).facts["iteration"] == 3
    assert json.loads(path.with_suffix(".json").read_text())["iteration"] == 3
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(errors.IntegrityError, match="checksum"):
        load_checkpoint(path)
    path.write_bytes(good[:-5])
    with pytest.raises(errors.IntegrityError, match="not a whole safetensors file"):
        load_checkpoint(path)
    with pytest.raises(errors.MissingError):
        load_checkpoint(tmp_path / "none.safetensors")


def test_the_log_follows_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"itera')
    log = MetricsLog(path, 2)
    log.write({"iteration": 3, "loss": 1.0})
    log.close()
    assert [row["iteration"] for row in metrics(tmp_path)] == [1, 2, 3]
    assert metrics(tmp_path)[-1]["loss"] == 1.0


def test_episodes_made_ahead_keep_their_order_and_their_errors() -> None:
    def items() -> object:
        yield from range(5)
        raise ValueError("sixth")

    made = in_advance(items(), 3)  # type: ignore[arg-type]
    assert [next(made) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="sixth"):
        next(made)
    threads = threading.active_count()
    short = in_advance(iter(range(100)), 3)
    next(short)
    short.close()
    assert threading.active_count() == threads


def test_an_episode_depends_on_seed_and_index_alone(world: World) -> None:
    recipe = world.recipe("train.iterations=100")
    with workshop(recipe, world.places) as shop:
        data, _ = shop.training()
        head = shop.model(4).head
        late = next(stream(data, head, recipe, 70))
        direct = fetch_episode(data, head, recipe.train, 8, data.sampler.episodes(70, 1), 0)
    assert all(torch.equal(late.roles[r], direct.roles[r]) for r in direct.roles)
    assert all((late.draws[n] == direct.draws[n]).all() for n in direct.draws)
    assert set(direct.draws) == {"sub_query", "cross_partner"}
