"""An extraction divided into parts, on any scheduler: merged, they are the store of one run, file for file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import stores
from toy import split_of, write_clip, write_clips

from cache.merge import left_out, merge
from cache.store import FeatureStore, open_store
from extract.config import ExtractConfig
from extract.run import Summary, extract
from fsar_cache.errors import FailedVideosError
from pipeline.cli import main
from splits.types import Split

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 22
CONFIG = ExtractConfig(size=32, frames=4, workers=1, max_failures=1.0, block_rows=4, device="cpu")
BACKENDS = ("zarr", "hdf5")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """22 clips in blocks of 4; number 9 is damaged and number 21 missing."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), COUNT - 1)
    (folder / "09.mp4").write_text("not a video")
    return split_of(folder, list(range(COUNT)))


def config(backend: str, part: tuple[int, int] = (1, 1), **changes: object) -> ExtractConfig:
    return dataclasses.replace(CONFIG, backend=backend, part=part, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=BACKENDS)
def whole(request: pytest.FixtureRequest, split: Split, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """What one run makes; its backend is that of the test."""
    return open_store(extract(split, config(request.param), tmp_path_factory.mktemp("whole")).path)


def make(split: Split, backend: str, folder: Path, part: tuple[int, int]) -> Summary:
    return extract(split, config(backend, part), folder)


def test_three_parts_merge_into_the_store_of_one_run(whole: FeatureStore, split: Split, tmp_path: Path) -> None:
    parts = [make(split, whole.backend, tmp_path, (i, 3)) for i in (3, 1, 2)]  # in any order
    assert [part.made for part in parts] == [6, 8, 8], "blocks 2 and 5 (of 2), 0 and 3, 1 and 4"
    assert [[name for name, _ in part.failed] for part in parts] == [["train/09", "test/21"], [], []]
    assert sorted(block for part in parts for block in open_store(part.path).done) == list(range(6))
    assert [part.path.name.rpartition(".")[2] for part in parts] == ["part-3-of-3", "part-1-of-3", "part-2-of-3"]
    merged = merge([part.path for part in parts], tmp_path / "merged")
    assert stores.contents(merged.path) == stores.contents(whole.path)
    assert merged.verify() == []
    again = make(split, whole.backend, tmp_path, (2, 3))
    assert (again.made, again.skipped) == (0, 8)


def test_parts_with_training_views_equal_one_run_too(split: Split, tmp_path: Path) -> None:
    """Also what is kept of how each block was made: only blocks with views tell how views are drawn."""
    change = {"views": 1, "train_transform": "gslta-train", "train_sampling": "gslta-train"}
    one = extract(split, config("zarr", **change), tmp_path / "one")
    parts = [extract(split, config("zarr", (i, 3), **change), tmp_path / "parts").path for i in (1, 2, 3)]
    merged = merge(parts, tmp_path / "merged")
    assert stores.contents(merged.path) == stores.contents(one.path)
    told = ["views" in merged.entry(block).provenance for block in range(merged.blocks)]  # type: ignore[union-attr]
    assert set(told) == {True, False}


def test_a_merge_before_all_parts_are_done_is_completed_later(
    whole: FeatureStore, split: Split, tmp_path: Path
) -> None:
    first, second = (make(split, whole.backend, tmp_path, (i, 3)).path for i in (1, 2))
    merged = merge([first, second], tmp_path / "merged")
    assert sorted(merged.missing()) == [2, 5]
    assert left_out([first, second], merged) == []
    third = make(split, whole.backend, tmp_path, (3, 3)).path
    merged = merge([third], tmp_path / "merged")
    assert merged.missing() == []
    assert stores.contents(merged.path) == stores.contents(whole.path)


def test_a_merged_store_is_where_one_run_would_go_on(whole: FeatureStore, split: Split, tmp_path: Path) -> None:
    """The rest of an unfinished division can be made without parts."""
    parts = [make(split, whole.backend, tmp_path / "parts", (i, 3)).path for i in (1, 3)]
    merge(parts, tmp_path / "toy" / whole.path.name)
    summary = extract(split, config(whole.backend), tmp_path)
    assert (summary.made, summary.skipped) == (8, 14)
    assert stores.contents(summary.path) == stores.contents(whole.path)


def test_parts_count_the_failures_of_their_own_clips(split: Split, tmp_path: Path) -> None:
    strict = config("zarr", (1, 3), max_failures=0.0, skip_missing=True)
    assert extract(split, strict, tmp_path).ok == 8
    with pytest.raises(FailedVideosError, match="1 of 5 clips of toy failed"):
        extract(split, dataclasses.replace(strict, part=(3, 3)), tmp_path)


def test_the_command_says_of_a_part_what_it_is_and_how_to_join_all(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    (tmp_path / "mine" / "a").mkdir(parents=True)
    for i in range(3):
        write_clip(tmp_path / "mine" / "a" / f"{i}.mp4", i)
    command = ["extract", f"folder:{tmp_path / 'mine'}", "--device", "cpu", "--workers", "1", "--block-rows", "2"]
    command += ["--set", "features.size=32", "--part"]
    assert main([*command, "2/3"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 clips in" in said
    assert "this is part 2 of 3; when all are done: fsar-cache store merge" in said
    assert main([*command, "3/3"]) == 0, "there are but two blocks"
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "1/3"]) == 0
    parts = sorted((tmp_path / "stores").rglob("*.part-*-of-3"))
    assert len(parts) == 3
    whole = str(parts[0]).rpartition(".part-")[0]
    capsys.readouterr()
    assert main(["store", "merge", *map(str, parts), whole]) == 0
    assert main([*command, "1/1"]) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/2/3"])
def test_parts_that_are_none_are_refused(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "synth", f"--part={part}"]) == 2
    assert "--part" in capsys.readouterr().err
