"""Clips whose files are not there: listed, told, refused where they are too many, skipped on request, made when they appear."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from toy import split_of, write_clips

from cache.gc import leftovers
from cache.store import open_store, stores_under
from extract.config import ExtractConfig
from extract.missing import list_of
from extract.plan import plan
from extract.run import extract
from fsar_cache.errors import FailedVideosError, MissingError
from pipeline import cli
from splits.types import Split

STRICT = ExtractConfig(size=32, frames=4, workers=1, block_rows=4, device="cpu")
SKIP = dataclasses.replace(STRICT, skip_missing=True)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return write_clips(tmp_path / "videos", 6)


@pytest.fixture
def split(videos: Path) -> Split:
    """Eight clips: 0 to 5 are there, 6 and 7 (of the test partition) are not."""
    return split_of(videos, range(8))


def lines(split: Split, store: Path) -> list[str]:
    return list_of(store, split).read_text().splitlines()


def test_too_many_missing_files_stop_it_before_anything_is_decoded(
    split: Split, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.run._Run.fill", lambda *_: pytest.fail("clips were decoded"))
    monkeypatch.setattr("extract.run.estimate", lambda *_, **__: pytest.fail("clips were tried"))
    with pytest.raises(MissingError) as caught:
        extract(split, STRICT, tmp_path / "stores")
    (file,) = (tmp_path / "stores").rglob("*.missing.txt")
    said = caught.value.message
    for word in ("2 of 8 clips of toy", "test/06, test/07", f"{videos / '06.mp4'}", str(file), "2.0% may be missing"):
        assert word in said
    assert "split missing" not in said, "no split that could be named there"
    assert "--skip-missing" in str(caught.value.hint)
    assert caught.value.exit_code == 3
    assert file.read_text() == f"test/06\t{videos / '06.mp4'}\ntest/07\t{videos / '07.mp4'}\n"
    assert stores_under(tmp_path / "stores") == []


def test_a_published_split_names_the_command_that_tells_what_is_missing(split: Split, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="told by: fsar-cache split missing toy;"):
        extract(dataclasses.replace(split, dataset="toys"), STRICT, tmp_path)


def test_so_many_as_may_fail_may_be_missing(split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = extract(split, dataclasses.replace(STRICT, max_failures=0.25), tmp_path)
    assert (made.ok, [name for name, _ in made.failed]) == (6, ["test/06", "test/07"])
    assert "warning: the files of 2 of 8 clips of toy are not there" in capsys.readouterr().err
    assert len(lines(split, made.path)) == 2
    with pytest.raises(MissingError):
        extract(split, dataclasses.replace(STRICT, max_failures=0.24), tmp_path)


def test_skipped_clips_do_not_count_and_are_made_when_they_appear(
    split: Split, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = extract(split, SKIP, tmp_path)
    assert (made.ok, made.made) == (6, 8)
    assert "all are listed in" in capsys.readouterr().err
    assert extract(split, SKIP, tmp_path).made == 0
    assert len(lines(split, made.path)) == 2, "still missing, though nothing was to do"
    with pytest.raises(MissingError):
        extract(split, STRICT, tmp_path)
    shutil.copy(videos / "00.mp4", videos / "06.mp4")
    again = extract(split, SKIP, tmp_path)
    assert (again.ok, [name for name, _ in again.failed]) == (7, ["test/07"])
    assert [line.partition("\t")[0] for line in lines(split, made.path)] == ["test/07"]
    shutil.copy(videos / "01.mp4", videos / "07.mp4")
    assert extract(split, STRICT, tmp_path).ok == 8
    assert not list_of(made.path, split).exists()


def test_clips_that_cannot_be_decoded_count_all_the_same(split: Split, videos: Path, tmp_path: Path) -> None:
    (videos / "05.mp4").write_bytes(b"no video")
    with pytest.raises(FailedVideosError, match="1 of 6 clips of toy failed") as caught:
        extract(split, SKIP, tmp_path)
    assert "test/05: " in caught.value.message
    assert "test/06" not in caught.value.message
    assert "--max-failures 0.17" in str(caught.value.hint)
    assert extract(split, dataclasses.replace(SKIP, max_failures=0.17), tmp_path).ok == 5


def test_files_that_are_gone_after_their_extraction_are_not_missing(split: Split, videos: Path, tmp_path: Path) -> None:
    there = split_of(videos, range(6))
    made = extract(there, STRICT, tmp_path)
    for i in (0, 4):
        (videos / f"{i:02d}.mp4").unlink()
    assert extract(there, STRICT, tmp_path).made == 0
    assert not list_of(made.path, split).exists()


def test_only_the_clips_asked_for_are_told_of(split: Split, tmp_path: Path) -> None:
    made = extract(split, dataclasses.replace(STRICT, partitions=("train",)), tmp_path)
    assert made.ok == 4
    assert not list_of(made.path, split).exists()


def ids(file: Path) -> list[str]:
    return [line.partition("\t")[0] for line in file.read_text().splitlines()]


def test_a_part_of_the_split_leaves_what_is_listed_of_the_rest(videos: Path, tmp_path: Path) -> None:
    """Whatever the features: a list says what is missing of one split, wherever its clips are stored."""
    split = split_of(videos, range(8))
    (videos / "00.mp4").unlink()
    extract(split, SKIP, tmp_path)
    file = tmp_path / "toy" / "toy.missing.txt"
    assert ids(file) == ["train/00", "test/06", "test/07"]
    shutil.copy(videos / "01.mp4", videos / "00.mp4")
    extract(split, dataclasses.replace(SKIP, partitions=("train",)), tmp_path)
    assert ids(file) == ["test/06", "test/07"], "the part asked for has all its files, the other was not asked for"
    other = dataclasses.replace(SKIP, size=64)
    shutil.copy(videos / "01.mp4", videos / "06.mp4")
    extract(split, dataclasses.replace(other, partitions=("test",)), tmp_path)
    assert ids(file) == ["test/07"]
    extract(split, dataclasses.replace(SKIP, partitions=("train",), classes=()), tmp_path)
    assert ids(file) == ["test/07"]


def test_each_split_of_a_dataset_has_its_list(split: Split, videos: Path, tmp_path: Path) -> None:
    whole, less = (dataclasses.replace(split, name=name, dataset="toy") for name in ("whole", "less"))
    less = dataclasses.replace(less, parts={"train": split.parts["train"]})
    made = extract(whole, SKIP, tmp_path)
    assert extract(less, SKIP, tmp_path).path == made.path
    assert ids(tmp_path / "toy" / "whole.missing.txt") == ["test/06", "test/07"]
    assert not (tmp_path / "toy" / "less.missing.txt").exists()
    assert stores_under(tmp_path) == [made.path]
    assert leftovers(tmp_path / "toy") == []


def test_parts_share_one_list_which_no_store_command_takes_for_a_store(split: Split, tmp_path: Path) -> None:
    for number in (1, 2):
        extract(split, dataclasses.replace(SKIP, part=(number, 2)), tmp_path)
    (file,) = tmp_path.rglob("*.missing.txt")
    assert file == tmp_path / "toy" / "toy.missing.txt"
    assert len(stores_under(tmp_path)) == 2
    assert leftovers(tmp_path / "toy") == []
    for store in stores_under(tmp_path):
        with open_store(store) as opened:
            assert opened.rows


def test_a_plan_tells_and_never_stops(split: Split, tmp_path: Path) -> None:
    made = plan(split, STRICT, tmp_path)
    assert (made.absent, made.refused) == (["test/06", "test/07"], True)
    assert not plan(split, SKIP, tmp_path).refused
    assert not plan(split, dataclasses.replace(STRICT, max_failures=0.3), tmp_path).refused
    assert not list(tmp_path.rglob("*.missing.txt"))


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], videos: Path
) -> None:
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    rows = "".join(f"{i},c{i % 2},{i:02d}.mp4\n" for i in range(8))
    (videos / "clips.csv").write_text("id,class,path\n" + rows)
    command = ["extract", f"csv:{videos}/clips.csv", "--device", "cpu", "--workers", "1", "--set", "features.size=32"]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "the extraction would stop for them: --skip-missing goes on" in " ".join(capsys.readouterr().err.split())
    assert cli.main(command) == 3
    assert "hint: bring the files, or extract the other clips: --skip-missing" in capsys.readouterr().err
    assert cli.main([*command, "--skip-missing"]) == 0
    assert cli.main([*command, "--skip-missing", "--dry-run"]) == 0


def test_no_arithmetic_is_done_for_a_batch_without_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole stretches of a dataset may be missing."""
    from videos import write

    from extract.config import ExtractConfig
    from extract.product import FeatureProduct
    from extract.run import extract
    from splits.datasets import make_parts
    from splits.types import Split, Video

    write(tmp_path / "00.mp4", frames=12)
    clips = [("all", Video(f"{i:02d}", "x", f"{i:02d}.mp4")) for i in range(9)]
    counted: list[int] = []
    once = FeatureProduct.batch
    monkeypatch.setattr(FeatureProduct, "batch", lambda self, clips: (counted.append(1), once(self, clips))[1])
    config = ExtractConfig(size=32, workers=1, batch_clips=1, skip_missing=True)
    made = extract(Split("toy", tmp_path, make_parts(clips)), config, tmp_path / "stores")
    assert (made.ok, len(made.failed)) == (1, 8)
    assert len(counted) == 1
