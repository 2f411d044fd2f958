"""GSLTA end to end from video files: fresh views by key, the same pixels as a frames store in evaluation, exact resume, bad files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from videos import write
from worlds import World

from extract.run import extract
from fsar_cache import errors
from pipeline.assemble import Places, workshop
from pipeline.beside import extract_config
from pipeline.runs import evaluate_run
from pipeline.trainer import train
from splits.datasets import open_split

SETS = [
    "train.way=2",
    "train.unlabelled=2",
    "train.iterations=3",
    "train.tasks_per_batch=2",
    "eval.way=2",
    "eval.shot=1",
    "eval.episodes=10",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two datasets of real files, two classes of four clips in each partition, a few frames of 64 x 48."""
    folder = tmp_path_factory.mktemp("live")
    for name, parts in (("source", ("train",)), ("target", ("train", "test"))):
        lines = ["id,class,path,partition"]
        for part in parts:
            for i in range(8):
                path = write(folder / f"{name}-{part}-{i}.mp4", frames=20 + i, size=(64, 48))
                lines.append(f"{path.stem},{part}{i % 2},{path.name},{part}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return World(folder, Places(folder / "stores", workers=2))


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_views_depend_on_their_key_alone_and_evaluation_equals_the_frames_store(world: World) -> None:
    recipe = world.recipe(*SETS, cut="video")
    with workshop(recipe, world.places) as shop:
        source = shop.open(recipe.source, "train").source
        at = np.array([3, 0, 6])
        one = source.fetch(at, training=True, keys=keys(11, 12, 13))
        again = source.fetch(at[::-1].copy(), training=True, keys=keys(13, 12, 11))
        other = source.fetch(at, training=True, keys=keys(21, 22, 23))
        fixed = source.fetch(at, training=False, keys=keys(0, 0, 0))
    assert torch.equal(one, again.flip(0))
    assert not torch.equal(one, other)
    assert one.shape == (3, 8, 32, 32, 3)
    frames = replace(recipe, features=replace(recipe.features, cut="frames"))
    extract(open_split(recipe.source.dataset), replace(extract_config(frames.features), workers=2), world.places.stores)
    with workshop(frames, world.places) as shop:
        stored = shop.open(recipe.source, "train").source
        assert stored.spec == source.spec
        assert torch.equal(stored.fetch(at, training=False, keys=keys(0, 0, 0)), fixed)


def test_training_from_live_video_resumes_exactly_and_can_be_evaluated(world: World, tmp_path: Path) -> None:
    recipe = world.recipe(*SETS, cut="video")
    train(recipe, tmp_path / "whole", world.places)
    stop = threading.Event()
    stop.set()
    for _ in range(2):
        with pytest.raises(errors.Interrupted):
            train(recipe, tmp_path / "parts", world.places, stop=stop)
    train(recipe, tmp_path / "parts", world.places)
    path = Path("checkpoints") / "last.safetensors"
    assert (tmp_path / "whole" / path).read_bytes() == (tmp_path / "parts" / path).read_bytes()
    state = load_file(tmp_path / "whole" / path)
    assert int(state["model.tail.1.net.bn1.num_batches_tracked"]) == 9  # three passes in each of three episodes
    assert evaluate_run(tmp_path / "whole", world.places).episodes == 10


def test_files_that_are_not_there_are_left_out_and_bad_ones_are_named(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world.folder, folder)
    (folder / "source-train-1.mp4").unlink()
    (folder / "source-train-2.mp4").write_text("not a video")
    broken = World(folder, replace(world.places, stores=folder / "stores"))
    recipe = broken.recipe(*SETS, cut="video")
    with workshop(recipe, broken.places) as shop:
        opened = shop.open(recipe.source, "train")
        assert opened.exclude == {"source-train-1"}
        with pytest.raises(errors.MissingError, match="'source-train-2' can't be decoded") as caught:
            opened.source.fetch(np.array([0, 2]), training=True, keys=keys(1, 2))
    assert "source.exclude" in str(caught.value.hint)
    healed = broken.recipe(*SETS, 'source.exclude=["source-train-2"]', cut="video")
    train(healed, tmp_path / "run", broken.places)
