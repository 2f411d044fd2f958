"""Rows made again from their videos: equal where they must be, near elsewhere, and whatever is not what its clip gives is named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy import split_of, write_clip, write_clips

from cache.features import FeatureStore
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create, open_store
from extract import clip_text
from extract.config import ExtractConfig, backbone_of
from extract.recheck import distance, recheck, tolerance
from extract.resnet import trunk
from extract.run import extract
from fsar_cache.errors import IntegrityError, MissingError, UsageError
from pipeline.cli import main
from splits.types import Split

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ExtractConfig(size=32, frames=4, workers=1, block_rows=8, device="cpu", max_failures=1.0)
OTHER_CPU = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
"""Makes a process compute as an old processor would."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven clips; number 10 is no video."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 10)
    (folder / "10.mp4").write_text("not a video")
    return folder


@pytest.fixture
def own(clips: Path, tmp_path: Path) -> Split:
    """A split over files that a test may spoil."""
    shutil.copytree(clips, tmp_path / "videos")
    return split_of(tmp_path / "videos", list(range(11)))


def made(split: Split, folder: Path, **change: Any) -> FeatureStore:
    return open_store(extract(split, dataclasses.replace(SMALL, **change), folder).path)


def rewritten(store: FeatureStore, change: Any, provenance: dict[str, Any] | None = None) -> None:
    """Put change(rows) into every block in place of its rows, checksums right."""
    with store.writer() as writer:
        for block in sorted(store.done):
            entry = store.entry(block)
            assert entry is not None
            first, last = store.block_range(block)
            array = np.stack(
                [store.read([i])[0] if store.ok[i] else np.zeros(store.spec.shape) for i in range(first, last)]
            )
            outcomes = [entry.outcome(place) for place in range(entry.rows)]
            writer.drop_block(block)
            by = {**entry.provenance, **(provenance or {})}
            writer.write_block(block, change(array.astype(store.dtype)), outcomes, by)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"cut": "map", "batch_clips": 3},
        {"cut": "frames", "decoder": "decord"},
        {"views": 2, "flip": "on", "view_seed": 4, "train_sampling": "clip-fsar"},
        {"precision": "bfloat16", "scaling": "imagenet", "transform": "squash"},
        {"kind": "flow", "transform": "squash", "backend": "hdf5"},
        {"backbone": "timm:resnet10t", "dtype": "float16"},
        {"backbone": "timm:resnet18", "weights": "random:2"},
    ],
)
def test_every_row_comes_out_again_byte_for_byte(clips: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    if change.get("decoder") == "decord":
        pytest.importorskip("decord")
    split = split_of(clips, list(range(11)))
    told: list[tuple[int, int]] = []
    with made(split, tmp_path, **change) as store:
        found = recheck(store, split, 999, report=lambda done, of: told.append((done, of)))
        assert (found.exact, found.near, found.largest) == (int(store.ok.sum()), 0, 0.0)
        assert (found.wrong, found.gone, found.elsewhere) == ([], [], [])
        assert told[-1][0] == told[-1][1] == len(told)
        with open_store(store.path) as again:
            assert again.verify() == [], "nothing was written"


def test_a_sample_is_some_slices_drawn_by_the_seed(clips: Path, tmp_path: Path) -> None:
    split = split_of(clips, list(range(10)))
    with made(split, tmp_path) as store:
        rewritten(store, lambda rows: rows + 1)  # all are wrong: those that were drawn are named

        def drawn(sample: int, seed: int) -> list[str]:
            return [each.id for each in recheck(store, split, sample, seed).wrong]

        first = drawn(2, 0)
        assert len(first) == 4, "two slices of two clips"
        assert drawn(2, 0) == first
        assert any(drawn(2, seed) != first for seed in (1, 2))
        assert sorted(drawn(5, 0)) == sorted(row.id for row in store.rows)


def test_one_bit_is_too_much_on_the_same_machine(clips: Path, tmp_path: Path) -> None:
    split = split_of(clips, list(range(10)))
    with made(split, tmp_path) as store:

        def nudge(rows: np.ndarray) -> np.ndarray:
            rows[1, 0, 0] = np.nextafter(rows[1, 0, 0], np.float32(9))
            return rows

        rewritten(store, nudge)
        found = recheck(store, split, 99)
        assert [each.id for each in found.wrong] == [store.rows[1].id, store.rows[9].id]
        assert all(0 < (each.off or 0) < 1e-6 and each.allowed == 0 for each in found.wrong)


@pytest.mark.parametrize(("noise", "good"), [(1e-5, True), (3e-3, False)])
def test_another_machine_may_be_off_a_little_and_no_more(clips: Path, tmp_path: Path, noise: float, good: bool) -> None:
    split = split_of(clips, list(range(10)))
    rng = np.random.default_rng(0)
    with made(split, tmp_path) as store:

        def nudge(rows: np.ndarray) -> np.ndarray:
            scale = np.sqrt((rows**2).mean(axis=(1, 2), keepdims=True))
            noisy: np.ndarray = (rows + noise * scale * rng.standard_normal(rows.shape)).astype(np.float32)
            return noisy

        rewritten(store, nudge, {"device": "cpu of another kind", "host": "far away"})
        found = recheck(store, split, 99)
        assert (found.exact, found.near) == (0, 10)
        assert found.largest == pytest.approx(noise, rel=0.1)
        assert (found.wrong == []) == good
        assert len(found.elsewhere) == 1
        assert found.elsewhere[0].startswith("device: cpu of another kind then, cpu")


def test_another_host_of_the_same_type_has_no_excuse(clips: Path, tmp_path: Path) -> None:
    split = split_of(clips, list(range(10)))
    with made(split, tmp_path) as store:
        rewritten(store, lambda rows: rows * np.float32(1 + 1e-6), {"host": "its sister"})
        assert len(recheck(store, split, 99).wrong) == 10


def test_rows_of_other_clips_and_views_are_found(clips: Path, tmp_path: Path) -> None:
    """Two neighbours changed places, under right checksums and on a machine that is forgiven much."""
    split = split_of(clips, list(range(10)))
    with made(split, tmp_path, cut="map") as store:
        rewritten(store, lambda rows: rows[::-1].copy(), {"device": "Some Accelerator"})
        found = recheck(store, split, 99)
        assert tolerance(store.spec, crossed=True) == 0.02
        assert len(found.wrong) >= 8
        assert all(each.allowed == 0.02 for each in found.wrong)
    views = dataclasses.replace(SMALL, cut="frames", views=1, view_seed=3)
    with open_store(extract(split, views, tmp_path).path) as store:
        last = store.entry(max(store.done))
        assert last is not None
        rewritten(store, lambda rows: rows, {"views": {**last.provenance["views"], "view_seed": 4}})
        found = recheck(store, split, 99)
        assert {why.partition(" in")[0][:9] for _, why in found.gone} == {"made from"}, (
            "drawn by another seed than its rows say"
        )


def test_old_instructions_are_within_the_tolerance(clips: Path, tmp_path: Path) -> None:
    """A process that may use fewer instructions is another machine type: its bytes differ, by less than is allowed.

    The weights come from a file, because drawn ones differ in their last bits as well.
    """
    split = split_of(clips, list(range(10)))
    save_file(trunk(backbone_of(SMALL)).state_dict(), tmp_path / "weights.safetensors")
    code = (
        "import sys, torch; from pathlib import Path; from toy import split_of; from test_recheck import made;"
        "torch.set_num_threads(1);"
        "split, weights = split_of(Path(sys.argv[1]), list(range(10))), 'file:' + sys.argv[2] + '/weights.safetensors';"
        "print(made(split, Path(sys.argv[2]), size=64, weights=weights).path)"
    )
    env = {**os.environ, **OTHER_CPU, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    said = subprocess.run(
        [sys.executable, "-c", code, str(clips), str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine has no newer instructions")
    with open_store(Path(said.stdout.strip())) as store:
        found = recheck(store, split, 99)
    assert (found.exact, found.near, found.wrong) == (0, 10, [])
    assert 0 < found.largest < 1e-3
    assert "(DEFAULT) then" in found.elsewhere[0]


def test_clips_that_are_gone_are_said_and_the_others_checked(own: Split, tmp_path: Path) -> None:
    with made(own, tmp_path) as store:
        (own.root / "00.mp4").unlink()
        write_clip(own.root / "01.mp4", 77, frames=23)
        found = recheck(store, own, 99)
        assert found.exact == 8
        assert found.wrong == []
        assert [name[-2:] for name, _ in found.gone] == ["00", "01"]
        assert found.gone[0][1] == "its file is not there"
        assert found.gone[1][1].startswith("made from 01.mp4 (")
        fewer = split_of(own.root, [2, 3, 4])
        assert {why for _, why in recheck(store, fewer, 99).gone} >= {"not in the dataset"}


def test_a_clip_that_decodes_no_more_is_wrong_unless_its_file_changed(own: Split, tmp_path: Path) -> None:
    with made(own, tmp_path) as store:
        file = own.root / "02.mp4"
        file.write_bytes(bytes(len(file.read_bytes())))  # of the same size, so it passes for the same file
        (each,) = recheck(store, own, 99).wrong
        assert (each.id[-2:], each.off) == ("02", None)
        assert each.why


def test_a_row_that_failed_then_is_no_matter(own: Split, tmp_path: Path) -> None:
    with made(own, tmp_path) as store:
        write_clip(own.root / "10.mp4", 10)
        found = recheck(store, own, 99)
        assert (found.exact, found.wrong, found.gone) == (10, [], [])


def test_slices_without_any_features_are_not_drawn(clips: Path, tmp_path: Path) -> None:
    """The last slice of the first block holds the clip that failed alone; the first of the next block is none of it."""
    told: list[tuple[int, int]] = []
    split = split_of(clips, [0, 1, 10, 3, 4, 5])
    with made(split, tmp_path, block_rows=3, batch_clips=2) as store:
        assert store.ok.tolist() == [True, True, False, True, True, True]
        recheck(store, split, 99, report=lambda done, of: told.append((done, of)))
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert all(recheck(store, split, 1, seed).exact for seed in range(8))


def test_weights_that_are_others_now_are_named(clips: Path, tmp_path: Path) -> None:
    split = split_of(clips, [0, 1])
    with made(split, tmp_path) as store:
        rewritten(store, lambda rows: rows, {"weights": "random:1"})
        with pytest.raises(IntegrityError, match=r"backbone\.weights"):
            recheck(store, split, 1)
        rewritten(store, lambda rows: rows, {"weights": f"file:{tmp_path / 'lost.safetensors'}"})
        with pytest.raises(MissingError, match="lost"):
            recheck(store, split, 1)


def test_features_made_elsewhere_are_refused(clips: Path, tmp_path: Path) -> None:
    split = split_of(clips, [0])
    unknown = {"contract": "unknown"}
    spec = FeatureSpec(
        "features", unknown, unknown, unknown, {"name": "theirs", "weights": "unknown"}, "pooled", (4,), "float32"
    )
    with create(tmp_path / "theirs", spec, [Row("train/00", "c0", "train")], dataset="toy") as store:
        with store.writer() as writer:
            writer.write_block(0, np.zeros((1, 4), np.float32), [Outcome("ok")], {"imported": "from elsewhere"})
        with pytest.raises(UsageError, match="not made by an extraction"):
            recheck(store, split, 1)
    with create(tmp_path / "empty", spec, [], dataset="toy") as store:
        assert recheck(store, split, 1).exact == 0


def test_class_names_are_encoded_again_without_a_dataset(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = clip_text.text_tower("clip_rn50", "random:0")
    monkeypatch.setattr(clip_text, "text_tower", lambda backbone, weights: tower)
    config = ExtractConfig(kind="text", backbone="clip_rn50", prompt="a film of {}")
    with open_store(clip_text.extract_text(split_of(clips, [0, 1, 2, 3]), config, tmp_path).path) as store:
        assert recheck(store, None, 99).exact == 3, "one slice per class"
        assert recheck(store, None, 2).exact == 2
        rewritten(store, lambda rows: rows[::-1].copy())
        assert [each.id for each in recheck(store, None, 99).wrong] == ["c0", "c2"]
        rewritten(store, lambda rows: rows * np.float32(1 + 1e-5), {"device": "cpu of another kind"})
        found = recheck(store, None, 1)
        assert (found.exact, found.near) == (0, 1)


def test_distances_have_their_units() -> None:
    pixels = np.array([0, 255, 7], np.uint8)
    assert distance(pixels, np.array([255, 255, 7], np.uint8)) == 255, "no wrapping around"
    field = np.zeros((2, 4), np.int16)
    assert distance(field, field + 64) == 1.0, "one pixel"
    assert distance(np.full(4, -32768, np.int16), np.full(4, 32767, np.int16)) == pytest.approx(1024, rel=1e-3)
    row = np.array([3.0, 4.0], np.float16)
    assert distance(row, np.array([3.0, 4.5], np.float16)) == pytest.approx(0.1)
    assert distance(np.zeros(2, np.float32), np.array([0.5, 0], np.float32)) == 0.5


@pytest.fixture
def mine(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stores of a folder dataset called "mine", pooled features and flow."""
    (tmp_path / "mine" / "a").mkdir(parents=True)
    for i in range(3):
        shutil.copy(clips / f"{i:02d}.mp4", tmp_path / "mine" / "a")
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    from splits.datasets import open_split

    split = open_split(f"folder:{tmp_path / 'mine'}")
    extract(split, SMALL, tmp_path / "stores")
    extract(split, dataclasses.replace(SMALL, kind="flow", transform="squash"), tmp_path / "stores")
    return tmp_path / "stores" / "mine"


def test_the_command_says_that_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where every clip failed."""
    from splits.datasets import open_split

    (tmp_path / "broken" / "a").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "0.mp4").write_text("not a video")
    dataset = f"folder:{tmp_path / 'broken'}"
    path = extract(open_split(dataset), SMALL, tmp_path / "stores").path
    assert main(["store", "verify", str(path)]) == 0
    assert main(["store", "verify", str(path), "--sample", "3", "--dataset", dataset]) == 3
    assert "has no features that could be made again" in capsys.readouterr().err


def test_the_command_says_what_it_found(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = f"folder:{mine.parent.parent / 'mine'}"
    command = ["store", "verify", str(mine), "--sample", "9"]
    assert main([*command, "--dataset", dataset]) == 0
    said = capsys.readouterr().err
    assert said.count("3 rows made again by the same machine type and packages") == 2
    assert main([*command, "--dataset", dataset, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["made_again"]["exact"] for each in found] == [3, 3]

    assert main(command) == 3
    assert "--dataset csv:PATH#mine" in capsys.readouterr().err
    assert main([*command, "--dataset", f"{dataset}#other"]) == 2
    assert "is called 'other'" in capsys.readouterr().err

    (pooled,) = (path for path in mine.iterdir() if "pooled" in path.name)
    with open_store(pooled) as store:
        rewritten(store, lambda rows: rows * 2)
    assert main([*command, "--dataset", dataset]) == 4
    said = capsys.readouterr().err
    assert "3 rows are not what their clips give" in said
    assert "a/00: off by 0.5 of the row's norm, where 0 is allowed" in said
    assert "blocks are sound" in said, "its checksums are right"

    shutil.rmtree(mine.parent.parent / "mine" / "a")
    (mine.parent.parent / "mine" / "a").mkdir()
    shutil.copy(pooled / "store.json", mine.parent.parent / "mine" / "a" / "00.mp4")
    assert main([*command, "--dataset", dataset]) == 3
    said = capsys.readouterr().err
    assert "none of the 3 rows drawn could be made again" in said
    assert "Traceback" not in said
