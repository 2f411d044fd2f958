"""Opening what a recipe names: stores whose clips are not the dataset's any more are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds

from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create, open_store, stores_under
from fsar_cache.console import forget_warnings
from fsar_cache.errors import IntegrityError, MissingError
from pipeline.assemble import workshop
from pipeline.runs import evaluate_run, evaluate_untrained
from pipeline.sources import StoreSource
from pipeline.trainer import train
from splits.types import Part, Video


def test_features_of_a_file_that_has_changed_since_are_refused(tmp_path: Path) -> None:
    world = worlds.make_world(tmp_path)
    (path,) = stores_under(world.places.stores / "source")
    clip = "source-train-0-0"
    with open_store(path) as store:
        store.plan([replace(row, origin=f"{row.id}.mp4 (5 bytes)") for row in store.rows])
    with workshop(world.recipe(), world.places) as shop:
        (tmp_path / f"{clip}.mp4").write_bytes(b"12345")
        shop.training()
        (tmp_path / f"{clip}.mp4").write_bytes(b"123456")
        with pytest.raises(
            IntegrityError, match=rf"(?s)1 clips.*{clip}.mp4 \(5 bytes\) then, {clip}.mp4 \(6 bytes\) now"
        ):
            shop.training()


def test_a_clip_that_was_never_tried_is_missing_and_not_excluded(tmp_path: Path) -> None:
    part = Part("all", ("c",), (Video("a", "c", "a.mp4"), Video("b", "c", "b.mp4"), Video("x", "c", "x.mp4")))
    spec = FeatureSpec("features", {}, {}, {}, {}, "pooled", (2, 4), "float32")
    store = create(tmp_path / "store", spec, [Row(v.id, v.label, "all") for v in part.videos], dataset="set")
    outcomes = [Outcome("ok"), Outcome("failed", "broken"), Outcome("absent")]
    with store.writer() as writer:
        writer.write_block(0, np.zeros((3, 2, 4), np.float32), outcomes)
    with pytest.raises(MissingError, match=r"1 of 3 clips of set/all are not in the store.*: x"):
        StoreSource(store, part)
    known = Part("all", ("c",), part.videos[:2])
    assert StoreSource(store, known).excluded == {"b"}


def test_an_evaluation_on_training_clips_is_said_to_be_no_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = worlds.make_world(tmp_path)
    recipe = world.recipe("train.iterations=4")
    folder = tmp_path / "run"
    forget_warnings()
    train(recipe, folder, world.places, device="cpu")
    evaluate_run(folder, world.places, device="cpu")
    assert "no test" not in capsys.readouterr().err
    evaluate_run(folder, world.places, sets=["target.part=train"], device="cpu")
    assert "target/train were trained on, without labels: this accuracy is no test" in capsys.readouterr().err


def test_a_refused_evaluation_leaves_no_run(tmp_path: Path) -> None:
    world = worlds.make_world(tmp_path)
    recipe, folder = world.recipe("train.unlabelled=0", head="otam"), tmp_path / "runs" / "otam"
    with pytest.raises(MissingError, match="is not extracted for this recipe"):
        evaluate_untrained(recipe, folder, replace(world.places, stores=tmp_path / "none"))
    assert not folder.exists()
    assert evaluate_untrained(recipe, folder, world.places, sets=["eval.episodes=5"], device="cpu").episodes == 5
    assert (folder / "config.json").is_file()
