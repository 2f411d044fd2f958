"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: a core for each worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of golden cases, clips and published lists: $FSAR_SHARED, else the sibling of the project; skips where it is absent."""
    folder = Path(os.environ.get("FSAR_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set FSAR_SHARED to the folder of shared cases and clips")
    return folder


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with videos, stores and runs below it."""
    monkeypatch.chdir(tmp_path)
    for name in ("FSAR_VIDEOS", "FSAR_STORES", "FSAR_RUNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread in the tensor library, as in the compute threads of an extraction, so that bytes can be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
