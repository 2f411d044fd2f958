"""The extraction run against a plain one-clip-at-a-time reference: same rows whatever decodes, computes, fails or is stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from toy import split_of, write_clip, write_clips

from cache.store import FeatureStore, open_store
from extract.clip import decode_clip, task_of
from extract.config import ExtractConfig, backbone_of, batch_clips_of, device_of, spec_of, store_path
from extract.live import live_clips
from extract.plan import plan
from extract.pool import DecodePool
from extract.progress import Progress
from extract.run import extract, rows_of
from extract.transforms import TRANSFORMS
from fsar_cache.draws import generator
from fsar_cache.errors import FailedVideosError, IntegrityError, Interrupted, MissingError, SpaceError, UsageError
from fsar_cache.settings import build
from pipeline.cli import main
from splits.types import Part, Split, Video

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ExtractConfig(size=32, frames=4, workers=2, max_failures=1.0, block_rows=8, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 good clips, then an empty file, a text file and a truncated one."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 21)
    (folder / "21.mp4").write_bytes(b"")
    (folder / "22.mp4").write_text("not a video")
    (folder / "23.mp4").write_bytes((folder / "00.mp4").read_bytes()[:700])
    return folder


@pytest.fixture(scope="session")
def good(clips: Path) -> Split:
    return split_of(clips, list(range(21)))


@pytest.fixture(scope="session")
def mixed(clips: Path) -> Split:
    """Good and bad clips in turn, and one whose file is missing."""
    return split_of(clips, [0, 21, 1, 2, 22, 3, 4, 5, 23, 6, 7, 99, 8, 9, 10, 11, 12])


@pytest.fixture(scope="session")
def stored(good: Split, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return open_store(extract(good, SMALL, tmp_path_factory.mktemp("stored")).path)


def reference(split: Split, config: ExtractConfig, videos: list[Video]) -> np.ndarray:
    """One clip after the other, in this process, each alone in its batch."""
    head = backbone_of(config).head_of(config.cut)
    rows = []
    for video in videos:
        frames = decode_clip(task_of(split.root, video, config.sampling, config.frames)).frames
        small = TRANSFORMS.get(config.transform)(torch.from_numpy(frames), config.size, None)
        with torch.inference_mode():
            rows.append(head(small[None])[0].numpy())
    return np.stack(rows)


def videos_of(split: Split) -> list[Video]:
    return [video for part in split.parts.values() for video in part.videos]


@pytest.mark.parametrize("cut", ["frames", "map", "pooled"])
def test_rows_are_what_a_plain_loop_gives(good: Split, tmp_path: Path, cut: str) -> None:
    config = dataclasses.replace(SMALL, cut=cut)
    summary = extract(good, config, tmp_path)
    assert (summary.ok, summary.failed, summary.made, summary.skipped) == (21, [], 21, 0)
    with open_store(summary.path) as store:
        assert [row.id for row in store.rows] == [v.id for v in videos_of(good)]
        assert [(r.label, r.partition) for r in store.rows] == [(v.label, v.id[:-3]) for v in videos_of(good)]
        rows, want = store.load(), reference(good, config, videos_of(good))
        outcome = store.outcome(0)
    assert rows.dtype == {"frames": np.uint8, "map": np.float16, "pooled": np.float32}[cut]
    assert outcome is not None
    assert (outcome.status, outcome.decoded, outcome.corrupt) == ("ok", 20, 0)
    if cut == "frames":
        np.testing.assert_array_equal(rows, want)
    else:  # a batch of other clips moves the sums of a convolution by a few units in the last place
        np.testing.assert_allclose(
            rows, want.astype(rows.dtype), rtol=2e-3 if cut == "map" else 1e-5, atol=1e-3 if cut == "map" else 1e-5
        )
    assert len(np.unique(rows.reshape(21, -1), axis=0)) == 21


@pytest.mark.parametrize("change", [{"workers": 1}, {"workers": 3, "time_limit": 5.0}, {"backend": "hdf5"}])
def test_bytes_do_not_depend_on_how_they_are_made(
    good: Split, stored: FeatureStore, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.compute.cores", lambda: 3 if "time_limit" in change else 1)
    config = dataclasses.replace(SMALL, **change)
    with open_store(extract(good, config, tmp_path).path) as other:
        assert other.spec == stored.spec
        assert other.load().tobytes() == stored.load().tobytes()


def test_failed_clips_are_recorded_and_move_nothing(mixed: Split, stored: FeatureStore, tmp_path: Path) -> None:
    summary = extract(mixed, SMALL, tmp_path)
    reasons = dict(summary.failed)
    assert [int(name[-2:]) for name in reasons] == [21, 22, 23, 99]
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert (summary.ok, summary.made) == (13, 17)
    with open_store(summary.path) as store:
        rows = store.load()
        for video, row, ok in zip(videos_of(mixed), rows, store.ok, strict=True):
            if video.id in reasons:
                assert not ok
                assert np.isnan(row).all()
            else:
                number = next(i for i, r in enumerate(stored.rows) if r.id[-2:] == video.id[-2:])
                np.testing.assert_allclose(row, stored.read([number])[0], rtol=1e-5, atol=1e-6)


def test_too_many_failures_end_with_their_table(mixed: Split, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, max_failures=0.2)
    for _ in range(2):  # the second time nothing is left to do, and the verdict is the same
        with pytest.raises(FailedVideosError, match="4 of 17 clips of toy failed") as caught:
            extract(mixed, config, tmp_path)
        assert "train/21" in str(caught.value)
        assert caught.value.exit_code == 5
    assert extract(mixed, dataclasses.replace(config, max_failures=0.25), tmp_path).made == 0


def test_a_clip_the_transform_refuses_fails_alone(good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = TRANSFORMS.get(SMALL.transform)
    seen = []

    def choosy(frames: torch.Tensor, size: int, rng: Any) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 3:
            raise ValueError("no\nway")
        return real(frames, size, rng)

    monkeypatch.setitem(TRANSFORMS._members, SMALL.transform, choosy)
    summary = extract(good, SMALL, tmp_path)
    assert [reason for _, reason in summary.failed] == ["transform of [4, 48, 64, 3]: no way"]


def test_an_error_in_a_compute_thread_ends_the_run(
    good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()

    def broken(self: Any, batch: Any) -> None:
        raise ZeroDivisionError("in a thread")

    monkeypatch.setattr("extract.compute.Compute._computed", broken)
    with pytest.raises(ZeroDivisionError, match="in a thread"):
        extract(good, SMALL, tmp_path)
    assert threading.active_count() == before


def test_features_that_the_dtype_cannot_hold_are_refused(
    good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loud(config: ExtractConfig) -> Any:
        backbone = backbone_of(config)
        backbone.stages[-1].register_forward_hook(lambda _, __, out: out * 1e6)
        return backbone

    monkeypatch.setattr("extract.product.backbone_of", loud)
    with pytest.raises(IntegrityError, match="float16 can't hold"):
        extract(good, dataclasses.replace(SMALL, dtype="float16"), tmp_path)


def test_repeating_does_nothing_and_growing_does_the_rest(clips: Path, tmp_path: Path) -> None:
    small, large = split_of(clips, list(range(6))), split_of(clips, list(range(14)))
    assert extract(small, SMALL, tmp_path).made == 6
    assert extract(small, SMALL, tmp_path).made == 0
    reports: list[Progress] = []
    summary = extract(large, SMALL, tmp_path, report=reports.append)
    ids = {v.id for v in videos_of(small)}
    fresh = [v for v in videos_of(large) if v.id not in ids]
    assert (summary.made, summary.skipped) == (len(fresh), 6)
    assert reports[-1].done == reports[-1].total == 6 + len(fresh)
    assert reports[-1].eta == 0
    with open_store(summary.path) as store:
        rows = store.read(store.rows_of([v.id for v in fresh]))
        np.testing.assert_allclose(rows, reference(large, SMALL, fresh), rtol=1e-5, atol=1e-5)


def split_with(clips: Path, numbers: list[int], name: str = "toy") -> Split:
    """The clips of these numbers, all in the part "all", so that a clip's id doesn't depend on the others."""
    made = tuple(Video(f"{i:02d}", f"c{i % 3}", f"{i:02d}.mp4") for i in numbers)
    return Split(name, clips, {"all": Part("all", tuple(sorted({v.label for v in made})), made)})


def test_a_clip_that_left_the_dataset_is_no_failure_and_comes_back_with_it(clips: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    strict = dataclasses.replace(SMALL, max_failures=0.0)
    with pytest.raises(Interrupted):
        extract(split_with(clips, [0, 1, 2, 3, 21]), SMALL, tmp_path, stop=stop)
    summary = extract(split_with(clips, [0, 1, 2, 3]), strict, tmp_path)
    assert (summary.ok, summary.failed, summary.made) == (4, [], 4)
    with open_store(summary.path) as store:
        outcome = store.outcome(4)
        assert outcome is not None
        assert outcome.status == "absent"
    again = extract(split_with(clips, [0, 1, 2, 3, 21]), SMALL, tmp_path)
    assert [name for name, _ in again.failed] == ["21"]
    assert extract(split_with(clips, [0, 1, 2, 3]), strict, tmp_path).failed == []  # the failed clip is not among these


def interrupted(split: Split, config: ExtractConfig, folder: Path, after: int) -> None:
    """Extract until `after` clips are done and saved."""
    stop = threading.Event()
    with pytest.raises(Interrupted):
        extract(split, config, folder, stop=stop, report=lambda p: stop.set() if p.done >= after else None)


def test_a_resumed_run_takes_no_row_of_another_video(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file behind a journalled clip is replaced before its block is written."""
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(21):
        shutil.copy(clips / f"{i:02d}.mp4", folder)
    split, config = split_with(folder, list(range(21))), dataclasses.replace(SMALL, block_rows=32, workers=1)
    interrupted(split, config, tmp_path, 3)
    write_clip(folder / "00.mp4", 77, frames=23)
    summary = extract(split, config, tmp_path)
    assert 0 < summary.skipped < 21, "what is still right is kept"
    with open_store(summary.path) as store:
        np.testing.assert_allclose(store.load(), reference(split, config, videos_of(split)), rtol=1e-5, atol=1e-5)


def test_a_resumed_run_takes_no_row_made_in_another_way(
    good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    config = dataclasses.replace(SMALL, block_rows=32)  # so that no block is finished
    interrupted(good, config, tmp_path, 3)
    monkeypatch.setattr("extract.run.version", lambda _: "99")
    summary = extract(good, config, tmp_path)
    assert (summary.made, summary.skipped) == (21, 0)
    with open_store(summary.path) as store:
        (made,) = store.info()["made_by"]
    assert '"torch":"99"' in made["provenance"]
    assert '"decoder":"pyav"' in made["provenance"]


def test_files_that_appear_or_change_are_tried_again(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in (0, 1, 21):
        shutil.copy(clips / f"{i:02d}.mp4", folder)
    split = split_with(folder, [0, 1, 2, 21])
    first = extract(split, SMALL, tmp_path)
    assert [name for name, _ in first.failed] == ["02", "21"]
    assert "the files of 1 of 4 clips of toy are not there: 02 " in capsys.readouterr().err
    assert extract(split, SMALL, tmp_path).made == 0
    shutil.copy(clips / "02.mp4", folder)
    assert [name for name, _ in extract(split, SMALL, tmp_path).failed] == ["21"]
    shutil.copy(clips / "03.mp4", folder / "21.mp4")
    summary = extract(split, SMALL, tmp_path)
    assert (summary.ok, summary.failed) == (4, [])
    with open_store(summary.path) as store:
        np.testing.assert_allclose(store.load(), reference(split, SMALL, videos_of(split)), rtol=1e-5, atol=1e-5)


def test_retry_failed_tries_blocks_with_failures_and_no_others(mixed: Split, tmp_path: Path) -> None:
    first = extract(mixed, SMALL, tmp_path)
    again = extract(mixed, SMALL, tmp_path, retry_failed=True)
    assert again.failed == first.failed
    assert (again.made, again.skipped) == (16, 1)  # the last block has no failure
    with pytest.raises(FailedVideosError) as caught:
        extract(mixed, dataclasses.replace(SMALL, max_failures=0.0, skip_missing=True), tmp_path)
    assert "--retry-failed" in str(caught.value.hint)
    assert "appear or change" in str(caught.value.hint)


def test_retrying_costs_no_features_of_clips_whose_files_are_gone(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in (0, 1, 21):
        shutil.copy(clips / f"{i:02d}.mp4", folder)
    extract(split_with(folder, [0, 1, 21]), SMALL, tmp_path)
    (folder / "00.mp4").unlink()
    summary = extract(split_with(folder, [0, 1, 21]), SMALL, tmp_path, retry_failed=True)
    assert (summary.ok, summary.made) == (2, 0)
    summary = extract(split_with(folder, [1, 21]), SMALL, tmp_path, retry_failed=True)  # nor of those it doesn't list
    assert summary.made == 0
    assert "not tried again" in capsys.readouterr().err
    with open_store(summary.path) as store:
        assert store.ok.tolist() == [True, True, False]


def test_no_file_at_all_is_a_wrong_folder_and_no_failed_clip(clips: Path, tmp_path: Path) -> None:
    there = split_with(clips, [0, 1])
    elsewhere = dataclasses.replace(there, root=tmp_path / "unmounted")
    with pytest.raises(MissingError, match="none of the 2 clips of toy has its file") as caught:
        extract(elsewhere, SMALL, tmp_path)
    assert caught.value.exit_code == 3
    assert list(tmp_path.rglob("*")) == []
    extract(there, SMALL, tmp_path)
    assert extract(elsewhere, SMALL, tmp_path).made == 0  # all features are there: no video is needed
    with pytest.raises(MissingError, match="none of the 3 clips"):
        extract(dataclasses.replace(split_with(clips, [0, 1, 2]), root=tmp_path / "unmounted"), SMALL, tmp_path)


def test_a_decoder_that_is_not_installed_fails_no_clip(
    good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingError, match="decord can't be imported"):
        extract(good, dataclasses.replace(SMALL, decoder="decord"), tmp_path)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("where", ["transform", "backbone"])
def test_want_of_memory_is_no_failed_clip(
    good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def full(*_: Any) -> Any:
        raise error

    if where == "transform":  # its first use, in `spec_of`, has room
        real, calls = TRANSFORMS.get(SMALL.transform), iter(range(99))
        monkeypatch.setitem(TRANSFORMS._members, SMALL.transform, lambda *a: full() if next(calls) > 2 else real(*a))
    else:
        monkeypatch.setattr("extract.compute.Compute._computed", full)
    with pytest.raises(SpaceError, match="out of memory on cpu") as caught:
        extract(good, SMALL, tmp_path)
    assert caught.value.exit_code == 6
    assert "--workers" in str(caught.value.hint)
    monkeypatch.undo()
    assert extract(good, SMALL, tmp_path).failed == []


def test_features_of_damaged_files_are_shown(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(clips / "00.mp4", folder)
    whole = videos.write(folder / "01.mp4", frames=60, size=(96, 64), options={"movflags": "faststart"})
    videos.cut(whole, 0.6)
    summary = extract(split_with(folder, [0, 1]), SMALL, tmp_path)
    assert (summary.ok, summary.failed) == (2, [])
    (found,) = summary.damaged
    assert (found.id, found.claimed) == ("01", 60)
    assert 10 < found.decoded < 58


@pytest.mark.parametrize("clips_done", [1, 7])
def test_stop_saves_what_is_done_and_the_rest_follows(
    good: Split, stored: FeatureStore, tmp_path: Path, clips_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.done >= clips_done:
            stop.set()

    with pytest.raises(Interrupted, match="of 21 clips of toy done") as caught:
        extract(good, SMALL, tmp_path, report=watch, stop=stop)
    assert "repeat" in str(caught.value.hint)
    said = int(str(caught.value).split("with ")[1].split(" ")[0])
    assert clips_done <= said < 21
    summary = extract(good, SMALL, tmp_path)
    assert (summary.skipped, summary.made) == (said, 21 - said)
    with open_store(summary.path) as store:
        assert store.load().tobytes() == stored.load().tobytes()


def test_journals_of_another_batch_size_are_not_mixed_in(
    good: Split, tmp_path: Path, stored: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        extract(
            good,
            dataclasses.replace(SMALL, batch_clips=3),
            tmp_path,
            stop=stop,
            report=lambda p: stop.set() if p.done else None,
        )
    with open_store(extract(good, SMALL, tmp_path).path) as store:
        assert store.load().tobytes() == stored.load().tobytes()


def test_a_file_that_changed_since_is_not_taken_for_the_stored_clip(clips: Path, tmp_path: Path) -> None:
    copy = tmp_path / "videos"
    shutil.copytree(clips, copy)
    extract(split_of(copy, [0, 1]), SMALL, tmp_path)
    split = split_of(copy, [0, 1])
    file = split.root / videos_of(split)[0].path
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="1 clips that have changed since"):
        extract(split, SMALL, tmp_path)


def test_a_dropped_block_is_made_again(good: Split, tmp_path: Path, stored: FeatureStore) -> None:
    with open_store(extract(good, SMALL, tmp_path).path) as store:
        store.drop_block(1)
        summary = extract(good, SMALL, tmp_path)
        assert (summary.made, summary.skipped) == (8, 13)
        store.refresh()
        assert store.load().tobytes() == stored.load().tobytes()


def test_a_disk_too_small_is_seen_before_the_start(
    good: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SpaceError, match=r"need 0\.00 GB") as caught:
        extract(good, SMALL, tmp_path)
    assert caught.value.exit_code == 6
    assert list(tmp_path.rglob("*")) == []


def test_plan_says_what_a_run_would_do_and_writes_nothing(mixed: Split, tmp_path: Path) -> None:
    first = plan(mixed, SMALL, tmp_path, tries=3)
    assert list(tmp_path.iterdir()) == []
    assert (first.clips, first.todo, first.bytes) == (17, 17, 17 * 4 * 512 * 4)
    assert first.absent == ["test/99"]
    assert first.estimate is not None
    assert (first.estimate.tried, first.estimate.failed) == (3, 0)
    assert first.estimate.compute > 0
    assert first.estimate.decode > 0
    assert first.estimate.seconds > 0
    extract(mixed, SMALL, tmp_path)
    second = plan(mixed, SMALL, tmp_path, tries=3)
    assert (second.path, second.todo, second.bytes, second.absent) == (first.path, 0, 0, [])
    assert second.estimate is None
    assert plan(mixed, SMALL, tmp_path, retry_failed=True).todo == 16


def test_plan_counts_clips_that_cannot_be_tried(clips: Path, tmp_path: Path) -> None:
    made = plan(split_of(clips, [21, 22, 23, 0]), SMALL, tmp_path, tries=4)
    assert made.estimate is not None
    assert (made.estimate.tried, made.estimate.failed) == (4, 3)


def test_the_spec_holds_what_decides_bytes_and_nothing_else(good: Split, tmp_path: Path) -> None:
    drawn = backbone_of(SMALL)

    def spec(**change: Any) -> Any:
        config = dataclasses.replace(SMALL, **change)
        return spec_of(config, backbone_of(config) if {"weights", "scaling"} & set(change) else drawn)

    base = spec()
    for change in (
        {"weights": "random:1"},
        {"cut": "map"},
        {"frames": 5},
        {"size": 64},
        {"sampling": "uniform"},
        {"transform": "squash"},
        {"scaling": "imagenet"},
        {"dtype": "float16"},
    ):
        assert spec(**change).fingerprint != base.fingerprint, change
    for change in (
        {"workers": 7},
        {"batch_clips": 3},
        {"decoder": "pyav"},
        {"device": "cpu"},
        {"backend": "hdf5"},
        {"time_limit": 1.0},
        {"block_rows": 4},
        {"max_failures": 0.5},
    ):
        assert spec(**change).fingerprint == base.fingerprint, change
    frames = [spec(cut="frames", weights=f"random:{seed}") for seed in (0, 1)]
    assert frames[0] == frames[1]
    assert store_path(tmp_path, "toy", frames[0]).name == f"frames-{frames[0].fingerprint[:8]}"
    assert store_path(tmp_path, "toy", base) == tmp_path / "toy" / f"resnet18-pooled-{base.fingerprint[:8]}"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"backbone": "resnet19"}, "unknown backbone"),
        ({"cut": "layer9"}, "unknown cut"),
        ({"sampling": "unifrom"}, "unknown frame sampling"),
        ({"sampling": "gslta-train"}, "needs a generator"),
        ({"transform": "sqash"}, "unknown transform"),
        ({"transform": "gslta-train"}, "needs a generator"),
        ({"scaling": "zscore"}, "unknown scaling"),
        ({"decoder": "vlc"}, "unknown decoder"),
        ({"cut": "frames", "dtype": "float16"}, "uint8"),
        ({"device": "tpu9"}, "device"),
        ({"device": "cuda:99"}, "no device"),
        ({"backend": "memory"}, "nothing on disk"),
        ({"backend": "zar"}, "unknown"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"max_failures": 2.0}, "fraction"),
        ({"time_limit": 0.0}, "positive"),
        ({"dtype": "int8"}, "allowed"),
        ({"clip_size": 3}, "unknown setting"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    good: Split, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        extract(good, build(ExtractConfig, {"size": 32, "frames": 4, **change}), tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_batches_fit_the_device() -> None:
    assert batch_clips_of(SMALL, torch.device("cpu")) == 2
    assert batch_clips_of(SMALL, torch.device("cuda")) == 32
    assert batch_clips_of(dataclasses.replace(SMALL, batch_clips=5), torch.device("cuda")) == 5
    assert device_of("auto").type in ("cpu", "cuda")


def test_the_command_retries_and_shows_damage(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine" / "a"
    folder.mkdir(parents=True)
    for i in (0, 1, 21):
        shutil.copy(clips / f"{i:02d}.mp4", folder)
    whole = videos.write(folder / "cut.mp4", frames=60, size=(96, 64), options={"movflags": "faststart"})
    videos.cut(whole, 0.6)
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    command = [
        "extract",
        f"folder:{tmp_path / 'mine'}",
        "--device",
        "cpu",
        "--workers",
        "1",
        "--set",
        "features.size=32",
    ]
    command += ["--time-limit", "30", "--batch-clips", "3"]
    assert main(command) == 5
    assert "this command with --retry-failed" in capsys.readouterr().err
    assert main([*command, "--max-failures", "1"]) == 0
    assert "nothing to do" in (said := capsys.readouterr().err)
    assert "1 clips have features from damaged files: a/cut (" in said
    assert main([*command, "--max-failures", "1", "--retry-failed", "--dry-run"]) == 0
    assert "4 of 4 clips to do" in capsys.readouterr().err
    assert main([*command, "--max-failures", "1", "--retry-failed", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert (made["made"], [found["id"] for found in made["damaged"]]) == (4, ["a/cut"])
    with open_store(Path(made["path"])) as store:
        assert '"batch_clips":3' in store.info()["made_by"][0]["provenance"]


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecodePool]:
    with DecodePool(2) as pool:
        yield pool


def test_live_clips_equal_the_stored_frames(good: Split, decoders: DecodePool, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, cut="frames")
    videos = videos_of(good)
    order = [5, 0, 20, 5, 7]
    live = live_clips(
        decoders,
        good.root,
        [videos[i] for i in order],
        sampling=config.sampling,
        frames=4,
        transform="gslta-eval",
        size=32,
    )
    with open_store(extract(good, config, tmp_path).path) as store:
        np.testing.assert_array_equal(live.numpy(), store.read(order))


def test_live_training_views_depend_on_their_keys_alone(good: Split, decoders: DecodePool) -> None:
    videos = videos_of(good)[:6]

    def view(chosen: list[int]) -> torch.Tensor:
        return live_clips(
            decoders,
            good.root,
            [videos[i] for i in chosen],
            sampling="gslta-train",
            frames=8,
            transform="gslta-train",
            size=32,
            keys=[("seed", 3, i) for i in chosen],
        )

    all_six, some = view(list(range(6))), view([4, 1])
    assert torch.equal(all_six[[4, 1]], some)
    clip = decode_clip(task_of(good.root, videos[4], "gslta-train", 8, key=("seed", 3, 4)))
    own = TRANSFORMS.get("gslta-train")(torch.from_numpy(clip.frames), 32, generator("transform", "seed", 3, 4))
    assert torch.equal(own, some[0])
    views = {decode_clip(task_of(good.root, videos[4], "gslta-train", 8, key=(k,))).frames.tobytes() for k in range(12)}
    assert len(views) > 1


def test_a_live_clip_that_fails_is_named(mixed: Split, decoders: DecodePool) -> None:
    videos = videos_of(mixed)
    with pytest.raises(MissingError, match=r"train/21") as caught:
        live_clips(decoders, mixed.root, videos[:3], sampling="uniform", frames=4, transform="squash", size=32)
    assert caught.value.exit_code == 3
    assert rows_of(mixed)[1].id == "train/21"
