"""What holds on an accelerator: the same bytes every time, rows near the CPU's, cuts that lose nothing. Skipped where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import split_of, write_clips

from cache.store import open_store
from extract.backbone import BACKBONES, build_backbone
from extract.config import ExtractConfig
from extract.run import extract
from fsar_cache.errors import UsageError
from splits.types import Split

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
SMALL = ExtractConfig(size=64, frames=4, workers=2, max_failures=1.0, block_rows=8, batch_clips=4, device="cuda")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """21 good clips and an empty file among them."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 21)
    (folder / "21.mp4").write_bytes(b"")
    return split_of(folder, list(range(22)))


def rows(split: Split, config: ExtractConfig, folder: Path) -> np.ndarray:
    with open_store(extract(split, config, folder).path) as store:
        assert store.ok.sum() == 21
        return store.load()[store.ok]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bytes_depend_on_nothing_but_the_clips(
    clips: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    config = dataclasses.replace(SMALL, precision=precision)
    first = rows(clips, config, tmp_path / "a")
    for number, (workers, threads) in enumerate(((1, 1), (3, 4))):
        monkeypatch.setattr("extract.compute.CUDA_THREADS", threads)
        again = rows(clips, dataclasses.replace(config, workers=workers), tmp_path / str(number))
        assert again.tobytes() == first.tobytes()


def test_pixels_and_features_are_near_those_of_a_cpu(clips: Split, tmp_path: Path) -> None:
    cpu = dataclasses.replace(SMALL, device="cpu")
    pixels = [rows(clips, dataclasses.replace(c, cut="frames"), tmp_path / c.device) for c in (SMALL, cpu)]
    difference = np.abs(pixels[0].astype(int) - pixels[1].astype(int))
    assert difference.max() <= 1
    features = [rows(clips, c, tmp_path / f"{c.device} features") for c in (SMALL, cpu)]
    spread = features[1].std()
    assert np.abs(features[0] - features[1]).max() < 0.05 * spread
    assert np.abs(features[0] - features[1]).mean() < 0.005 * spread


@pytest.mark.parametrize("name", BACKBONES.names())
def test_running_on_from_any_cut_gives_the_uncut_network(name: str) -> None:
    backbone = build_backbone(name, "random:0").eval().cuda()
    rng = np.random.default_rng(0)
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        try:
            pixels = torch.from_numpy(rng.integers(0, 256, (2, 4, 96, 96, 3), np.uint8)).cuda()
            whole = backbone(pixels)
        except UsageError:
            pixels = torch.from_numpy(rng.integers(0, 256, (2, 4, 224, 224, 3), np.uint8)).cuda()
            whole = backbone(pixels)
        for cut in backbone.cuts:
            stored = backbone.head_of(cut)(pixels).cpu().numpy()
            again = backbone.tail_of(cut)(torch.from_numpy(np.ascontiguousarray(stored)).cuda())
            assert torch.equal(again, whole), cut
