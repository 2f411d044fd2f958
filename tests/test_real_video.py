"""Real files: five clips as classes, time spans as their videos, from a list to an accuracy through the command line."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

CLASSES = ("av1", "k400_demo", "mm_test", "pancake", "tiny")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("time_spans", ROOT / "examples" / "time_spans.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fsar(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_five_real_clips_are_told_apart_and_the_broken_one_is_recorded(
    shared_folder: Path, tmp_path: Path, example: ModuleType
) -> None:
    clips = shared_folder / "clips"
    if not clips.is_dir():
        pytest.skip(f"no folder of real clips {clips}")
    made = tmp_path / "all.csv"
    example.write(clips, made)
    rows = [row for row in csv.DictReader(made.open()) if row["class"] in CLASSES]
    assert len(rows) == 4 * len(CLASSES)
    rows.append({"id": "broken", "class": "tiny", "path": str(clips / "decord_corrupted.mp4"), "start": "", "end": ""})
    with (tmp_path / "spans.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    too_many = fsar(tmp_path, "extract", "csv:spans.csv", "--json")
    assert too_many.returncode == 5
    assert "1 of 21 clips of spans failed" in too_many.stderr
    assert "decord_corrupted.mp4: damaged" in too_many.stderr
    allowed = fsar(tmp_path, "extract", "csv:spans.csv", "--max-failures", "0.05", "--json")
    assert allowed.returncode == 0, allowed.stderr
    measured = fsar(
        tmp_path,
        *["eval", "--head", "protonet", "--target", "csv:spans.csv", "--shot", "1", "--episodes", "2000", "--json"],
    )
    assert measured.returncode == 0, measured.stderr
    result = json.loads(measured.stdout)
    assert result["accuracy"] >= 99.0
    assert set(result["classes"]) == set(CLASSES)


def test_the_example_lists_an_unreadable_file_as_one_clip(tmp_path: Path, example: ModuleType) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    assert example.write(tmp_path, tmp_path / "list.csv") == 1
    (row,) = csv.DictReader((tmp_path / "list.csv").open())
    assert (row["class"], row["start"]) == ("unreadable", "")
