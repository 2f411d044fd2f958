"""Stores of a part of a dataset, and what settings may and may not change: partitions, classes, growth, precision, blocks, the disk."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import write_clips

from cache.store import FeatureStore, open_store, stores_under
from extract.backbone import BACKBONES
from extract.config import ExtractConfig, backbone_of, row_shape, spec_of
from extract.plan import plan
from extract.run import extract
from fsar_cache.errors import Interrupted, MissingError, SpaceError, UsageError
from pipeline.cli import main
from pipeline.sources import StoreSource
from splits.types import Part, Split, Video

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ExtractConfig(size=32, frames=4, workers=2, block_rows=4, device="cpu", max_failures=1.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 14)


def split_of(folder: Path, train: int = 9, test: int = 5) -> Split:
    """Clips 0.. in train (classes jump, run, sit in turn), clips 13, 12, .. in test (classes wave, walk in turn)."""
    numbers = {"train": range(train), "test": range(13, 13 - test, -1)}
    names = {"train": ("jump", "run", "sit"), "test": ("wave", "walk")}
    parts = {}
    for part, chosen in numbers.items():
        videos = tuple(Video(f"{i:02d}", names[part][i % len(names[part])], f"{i:02d}.mp4") for i in chosen)
        parts[part] = Part(part, tuple(sorted({v.label for v in videos})), videos)
    return Split("toy", folder, parts)


@pytest.fixture(scope="module")
def split(clips: Path) -> Split:
    return split_of(clips)


@pytest.fixture(scope="module")
def whole(split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with open_store(extract(split, SMALL, tmp_path_factory.mktemp("whole")).path) as store:
        return by_id(store)


def by_id(store: FeatureStore) -> dict[str, bytes]:
    """The bytes of every row with features."""
    rows = [i for i, ok in enumerate(store.ok) if ok]
    return {store.rows[i].id: array.tobytes() for i, array in zip(rows, store.read(rows), strict=True)}


@pytest.fixture(scope="module")
def many(clips: Path) -> Split:
    """38 clips in train over 9 files, so that a run can be stopped in their midst, and the five of test."""
    few = split_of(clips)
    videos = tuple(Video(f"m{i}", ("jump", "run", "sit")[i % 3], f"{i % 9:02d}.mp4") for i in range(38))
    return dataclasses.replace(
        few, parts={**few.parts, "train": dataclasses.replace(few.parts["train"], videos=videos)}
    )


@pytest.fixture(scope="module")
def all_of_many(many: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with open_store(extract(many, SMALL, tmp_path_factory.mktemp("many")).path) as store:
        return by_id(store)


def stopped(split: Split, config: ExtractConfig, folder: Path, after: int) -> None:
    """Extract until `after` clips are done and saved."""
    stop = threading.Event()
    with pytest.raises(Interrupted):
        extract(split, config, folder, stop=stop, report=lambda now: stop.set() if now.done >= after else None)


def test_one_partition_then_the_other_is_the_whole(split: Split, tmp_path: Path, whole: dict[str, bytes]) -> None:
    train = dataclasses.replace(SMALL, partitions=("train",))
    summary = extract(split, train, tmp_path)
    assert (summary.ok, summary.made) == (9, 9)
    assert extract(split, train, tmp_path).made == 0
    with open_store(summary.path) as store:
        assert {row.partition for row in store.rows} == {"train"}
        assert by_id(store).items() < whole.items()
        with pytest.raises(MissingError, match="5 of 5 clips of toy/test are not in the store"):
            StoreSource(store, split.parts["test"])
        assert len(StoreSource(store, split.parts["train"]).part.ids) == 9
        again = extract(split, SMALL, tmp_path)
        assert (again.ok, again.made, again.skipped) == (14, 5, 9)
        store.refresh()
        assert by_id(store) == whole
        assert {outcome.status for outcome in map(store.outcome, range(14)) if outcome} == {"ok"}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"classes": ("jump", "wave")}, {"00", "03", "06", "12", "10"}),
        ({"classes": ("jump", "wave"), "partitions": ("train",)}, {"00", "03", "06"}),
        ({"partitions": ("test", "train")}, None),
    ],
)
def test_only_what_is_asked_for_is_stored(
    split: Split, tmp_path: Path, whole: dict[str, bytes], change: dict[str, Any], wanted: set[str] | None
) -> None:
    config = dataclasses.replace(SMALL, **change)
    asked = set(whole) if wanted is None else wanted
    assert plan(split, config, tmp_path).clips == len(asked)
    summary = extract(split, config, tmp_path)
    assert (summary.ok, summary.made, summary.skipped) == (len(asked), len(asked), 0)
    with open_store(summary.path) as store:
        assert by_id(store) == {name: row for name, row in whole.items() if name in asked}
    assert extract(split, SMALL, tmp_path).made == 14 - len(asked)


def test_asking_for_nothing_is_a_mistake(split: Split, tmp_path: Path) -> None:
    nothing = dataclasses.replace(SMALL, partitions=("train",), classes=("wave",))
    for work in (plan, extract):
        with pytest.raises(UsageError, match="toy has no clip of train, wave"):
            work(split, nothing, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_disk_needs_room_for_what_is_asked_alone(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of another partition that are not finished are no part of it."""
    needs: list[int] = []
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        extract(split, dataclasses.replace(SMALL, partitions=("train",)), tmp_path, stop=stop)
    monkeypatch.setattr("extract.prepare.require_space", lambda _, needed: needs.append(needed))
    extract(split, dataclasses.replace(SMALL, partitions=("test",)), tmp_path)
    with open_store(next((tmp_path / "toy").iterdir())) as store:
        assert needs == [5 * store.spec.row_bytes]


@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_an_interrupted_partition_stays_unfinished_beside_another(
    many: Split, tmp_path: Path, all_of_many: dict[str, bytes], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    config = dataclasses.replace(SMALL, backend=backend, workers=1)
    train, test = (dataclasses.replace(config, partitions=(name,)) for name in ("train", "test"))
    stopped(many, train, tmp_path, after=3)
    summary = extract(many, test, tmp_path)
    assert (summary.ok, summary.failed) == (5, [])
    with open_store(summary.path) as store:
        states = {row.id: store.outcome(number) for number, row in enumerate(store.rows)}
        undone = {name for name, outcome in states.items() if outcome is None}
        assert undone, "train is not finished"
        assert undone <= set(many.parts["train"].ids)
        assert {outcome.status for outcome in states.values() if outcome} == {"ok"}
        with pytest.raises(MissingError, match="not in the store"):
            StoreSource(store, many.parts["train"])
        rest = extract(many, train, tmp_path)
        assert (rest.ok, rest.made + rest.skipped) == (38, 38)
        assert rest.skipped > 0
        store.refresh()
        assert by_id(store) == all_of_many


def test_a_whole_extraction_that_was_stopped_goes_on_with_one_partition(
    many: Split, tmp_path: Path, all_of_many: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block that holds the last clips of train and the first of test is made whole: nothing in it becomes "absent"."""
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    stopped(many, dataclasses.replace(SMALL, workers=1), tmp_path, after=1)
    summary = extract(many, dataclasses.replace(SMALL, partitions=("test",)), tmp_path)
    assert summary.ok == 5
    with open_store(summary.path) as store:
        assert store.missing()
        assert max(store.missing()) < 9
        assert {o.status for o in map(store.outcome, range(43)) if o} == {"ok"}
        assert store.outcome(37) is not None, "a clip of train in a block with clips of test"
        assert extract(many, SMALL, tmp_path).ok == 43
        store.refresh()
        assert by_id(store) == all_of_many


def test_a_growing_dataset_costs_its_new_clips_only(clips: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    made = []
    for train, test in ((3, 0), (3, 2), (9, 2), (9, 5), (9, 5)):
        summary = extract(split_of(clips, train, test), SMALL, tmp_path)
        made.append(summary.made)
        assert (summary.ok, summary.made + summary.skipped) == (train + test, train + test)
    assert made == [3, 2, 6, 3, 0]
    with open_store(summary.path) as store:
        assert by_id(store) == whole
        assert store.extents == (3, 2, 6, 3)


def test_a_clip_that_moves_to_another_partition_is_not_made_again(clips: Path, tmp_path: Path) -> None:
    extract(split_of(clips), SMALL, tmp_path)
    was = split_of(clips)
    rest = tuple(video for video in was.parts["test"].videos if video.id != "09")
    joined = (*was.parts["train"].videos, Video("09", "jump", "09.mp4"))
    parts = {name: dataclasses.replace(was.parts[name], videos=v) for name, v in (("train", joined), ("test", rest))}
    moved = dataclasses.replace(was, parts=parts)
    summary = extract(moved, dataclasses.replace(SMALL, partitions=("train",)), tmp_path)
    assert (summary.ok, summary.made) == (10, 0)
    with open_store(summary.path) as store:
        row = store.rows[int(store.rows_of(["09"])[0])]
        assert (row.partition, row.label) == ("train", "jump")


@pytest.mark.parametrize(
    ("change", "error", "hint"),
    [
        ({"partitions": ("trian",)}, "unknown partition of toy 'trian'; known: test, train", "'train'"),
        ({"classes": ("jumpp",)}, "unknown class of toy 'jumpp'; known: jump, run, sit, walk, wave", "'jump'"),
        ({"partitions": ("train", "val")}, "unknown partition of toy 'val'", None),
    ],
)
def test_unknown_names_suggest_the_nearest(
    split: Split, tmp_path: Path, change: dict[str, Any], error: str, hint: str | None
) -> None:
    with pytest.raises(UsageError, match=error) as caught:
        extract(split, dataclasses.replace(SMALL, **change), tmp_path)
    assert hint is None or hint in str(caught.value.hint)
    with pytest.raises(UsageError, match=error):
        plan(split, dataclasses.replace(SMALL, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (-1, -1)])
def test_parts_that_are_none_are_refused(part: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="none of 1/N to N/N"):
        ExtractConfig(part=part)


def test_mixed_precision_is_another_store(split: Split, tmp_path: Path) -> None:
    made = {}
    for precision in ("float32", "bfloat16", "float16"):
        path = extract(split, dataclasses.replace(SMALL, precision=precision), tmp_path).path
        with open_store(path) as store:
            assert store.spec.backbone.get("precision", "float32") == precision
            made[precision] = store.load().astype(np.float64)
    assert len(stores_under(tmp_path)) == 3
    size = np.linalg.norm(made["float32"])
    for precision, least, most in (("bfloat16", 1e-4, 3e-2), ("float16", 1e-5, 3e-3)):
        off = np.linalg.norm(made[precision] - made["float32"]) / size
        assert least < off < most, f"{precision} rounds, and no more than that"
    with pytest.raises(UsageError, match="precision bfloat16 has no meaning"):
        extract(split, dataclasses.replace(SMALL, cut="frames", precision="bfloat16"), tmp_path)


def test_rows_per_block_are_settled_once(split: Split, tmp_path: Path, whole: dict[str, bytes]) -> None:
    own = dataclasses.replace(SMALL, block_rows=0)
    with open_store(extract(split, own, tmp_path).path) as store:
        assert (store.block_rows, store.blocks) == (256, 1)
        assert by_id(store) == whole
    with pytest.raises(UsageError, match="256 rows per block, 4 were asked for"):
        extract(split, SMALL, tmp_path)
    with pytest.raises(UsageError, match="is zarr, hdf5 was asked for"):
        extract(split, dataclasses.replace(own, backend="hdf5"), tmp_path)
    assert extract(split, own, tmp_path).made == 0


def test_the_disk_needs_a_margin_that_force_waives(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    needed = 14 * 4 * 512 * 4

    def free(count: float) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=int(count)))

    free(1.04 * needed)
    with pytest.raises(SpaceError, match="5% to spare") as caught:
        extract(split, SMALL, tmp_path)
    assert "--force" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []
    free(1.06 * needed * 8 / 14)
    extract(split, dataclasses.replace(SMALL, part=(1, 3)), tmp_path / "part")  # at most two blocks of four
    free(1.04 * needed)
    with pytest.raises(SpaceError):
        extract(
            split, dataclasses.replace(SMALL, part=(1, 3), block_rows=64), tmp_path / "block"
        )  # one block holds all
    free(1.06 * needed * 5 / 14)
    extract(split, dataclasses.replace(SMALL, partitions=("test",)), tmp_path / "test")
    free(10)
    assert extract(split, dataclasses.replace(SMALL, force=True), tmp_path / "forced").ok == 14
    assert extract(split, SMALL, tmp_path / "forced").made == 0, "nothing to write needs no room"


FITS: dict[str, tuple[int, int]] = {"videomae_vit_s": (32, 4), "clip_vit_b16": (224, 2)}
"""Size and frames of the smallest clip that a backbone takes; 40 pixels and 3 frames where it isn't named. Large networks are left out."""


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "videomae_vit_s", "clip_vit_b16", "timm:resnet10t"]
)
def test_row_shapes_are_known_before_anything_is_computed(name: str) -> None:
    size, frames = FITS.get(name, (40, 3))
    backbone = backbone_of(ExtractConfig(backbone=name))
    clip = torch.randint(0, 256, (1, frames, size, size, 3), dtype=torch.uint8)
    done = 0
    with torch.inference_mode():
        for cut, index in sorted(backbone.cuts.items(), key=lambda item: item[1]):
            clip = torch.nn.Sequential(*backbone.stages[done:index])(clip)
            done = index
            assert row_shape(backbone, cut, frames, size) == tuple(clip.shape[1:]), cut
    assert name.startswith("timm:") or name in BACKBONES.names()


@pytest.mark.parametrize("begun", [False, True])
def test_a_plan_of_a_part_is_what_the_part_makes(split: Split, tmp_path: Path, begun: bool) -> None:
    plans, made = [], []
    for number in (1, 2, 3):
        config = dataclasses.replace(SMALL, part=(number, 3))
        if begun:
            extract(split, dataclasses.replace(config, partitions=("test",)), tmp_path)
        plans.append(plan(split, config, tmp_path, tries=1))
        made.append(extract(split, config, tmp_path).made)
        assert plan(split, config, tmp_path).todo == 0
    assert [each.todo for each in plans] == made
    assert [each.bytes for each in plans] == [each.todo * 4 * 512 * 4 for each in plans]
    assert sum(each.clips for each in plans) == 14
    if not begun:
        assert made == [6, 4, 4], "blocks of four in turn"


def test_a_spec_names_the_bytes_of_its_rows() -> None:
    config = dataclasses.replace(SMALL, cut="map")
    spec = spec_of(config, backbone_of(config))
    assert (spec.shape, spec.dtype, spec.row_bytes) == ((4, 512, 1, 1), "float16", 4 * 512 * 2)


def test_the_command_takes_parts_of_a_dataset_and_shows_its_estimate(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["id,class,path,partition"]
    lines += [f"{v.id},{v.label},{clips / v.path},{p.name}" for p in split_of(clips).parts.values() for v in p.videos]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    command = [
        "extract",
        f"csv:{tmp_path / 'mine.csv'}",
        "--device",
        "cpu",
        "--workers",
        "1",
        "--set",
        "features.size=32",
    ]
    assert main([*command, "--partition", "test", "--class", "wave", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "2 of 2 clips to do" in said
    assert "tried 2: " in said
    assert " ms per clip, about " in said
    assert main([*command, "--partition", "test", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert (made["ok"], made["made"]) == (5, 5)
    assert main([*command, "--partition", "tset"]) == 2
    assert "did you mean 'test'?" in capsys.readouterr().err
    assert main([*command, "--partition", "test", "--partition", "train", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert (made["ok"], made["made"], made["skipped"]) == (14, 9, 5)


def test_long_runs_say_first_how_long_they_take(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("extract.run.WORTH_A_TRY", 9)
    extract(split, dataclasses.replace(SMALL, partitions=("train",)), tmp_path)
    said = capsys.readouterr().err
    assert "tried 4 clips: " in said
    assert " min in all" in said
    extract(split, SMALL, tmp_path)
    assert "tried" not in capsys.readouterr().err, "five clips are soon done"
