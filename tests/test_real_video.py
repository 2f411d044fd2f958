"""Real files: clips as classes, time spans as their videos, from a list to an accuracy by the commands that the example documents."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from pipeline.cli import main

EXAMPLE = ROOT / "examples" / "time_spans.py"
CLASSES = {"av1", "k400_demo", "mm_test", "pancake", "tiny"}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("time_spans", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clips(shared_folder: Path) -> Path:
    folder = shared_folder / "clips"
    if not folder.is_dir():
        pytest.skip(f"no folder of real clips {folder}")
    return folder


def test_the_documented_commands_work_word_for_word(
    clips: Path,
    empty_place: Path,
    example: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line.strip() for line in str(example.__doc__).splitlines() if line.startswith("    ")]
    assert [line.split()[:2] for line in lines] == 2 * [
        ["python", "examples/time_spans.py"],
        ["fsar-cache", "extract"],
        ["fsar-cache", "eval"],
    ]
    said = []
    for line in lines:
        words = shlex.split(line.replace("FOLDER", shlex.quote(str(clips))))
        if words[0] == "python":
            command = [sys.executable, str(EXAMPLE), *words[2:]]
            made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=empty_place)
            said.append(made.stdout)
            continue
        code = main([*words[1:], *(["--json"] if words[1] == "eval" else [])])
        out, err = capsys.readouterr()
        assert code == 0, f"{line}\n{err}"
        said.append(out if words[1] == "eval" else err)
    assert [said[0], said[3]] == ["24 clips in spans.csv\n", "20 clips in whole.csv\n"]
    assert len(re.findall(r"failed: decord_corrupted-\d: decord_corrupted.mp4: damaged", said[1])) == 2
    assert "failed" not in said[4]
    with_broken, without = json.loads(said[2]), json.loads(said[5])
    assert set(with_broken["classes"]) == {*CLASSES, "decord_corrupted"}
    assert 75 < with_broken["accuracy"] < 95, "two of the six classes show the same picture"
    assert set(without["classes"]) == CLASSES
    assert without["accuracy"] >= 99.0


def test_a_wholly_broken_file_is_recorded_and_its_class_left_out(
    clips: Path,
    empty_place: Path,
    example: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example.write(clips, empty_place / "spans.csv", skip=("decord_corrupted",))
    with (empty_place / "spans.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["broken", "broken", clips / "decord_corrupted.mp4", "", ""])
    assert main(["extract", "csv:spans.csv"]) == 5
    said = capsys.readouterr().err
    assert "1 of 21 clips of spans failed" in said
    assert "decord_corrupted.mp4: damaged" in said
    assert main(["extract", "csv:spans.csv", "--max-failures", "0.05"]) == 0
    capsys.readouterr()
    assert main(["eval", "--head", "protonet", "--target", "csv:spans.csv", "--shot", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "1 of 6 classes of spans/all are left out" in err
    found = json.loads(out)
    assert found["accuracy"] >= 99.0
    assert found["identity"]["left_out"] == ["broken"]


def test_the_example_lists_an_unreadable_file_as_one_clip(tmp_path: Path, example: ModuleType) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    assert example.write(tmp_path, tmp_path / "list.csv") == 1
    (row,) = csv.DictReader((tmp_path / "list.csv").open())
    assert (row["class"], row["start"]) == ("unreadable", "")
    wrong = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), str(tmp_path / "list.csv"), "--skip", "txet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "--skip txet" in wrong.stderr
