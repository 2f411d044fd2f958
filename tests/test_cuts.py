"""The promise of a cut, for every backbone that is registered: running on from a store equals the uncut network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from extract.backbone import BACKBONES, Backbone, build_backbone
from fsar_cache.errors import UsageError

NAMES = [*BACKBONES.names(), "timm:convnext_atto", "timm:vit_tiny_patch16_224"]
INPUTS = ((2, 2, 32), (2, 2, 48), (1, 1, 224), (1, 2, 224))
"""Clips, frames of each, side of a frame in pixels; each backbone is tested with the first that it takes."""
HALF = 5e-3
"""The most that storing a cut in float16 may move the pooled output: rms of the error over rms of the output, drawn weights."""


@dataclass(frozen=True)
class Walk:
    """A backbone, a few clips, and what passes each of its stages on the way to the pooled output."""

    backbone: Backbone
    pixels: Tensor
    passed: list[Tensor]

    @property
    def whole(self) -> Tensor:
        return self.passed[-1]

    def stored(self, cut: str) -> Tensor:
        """What the cut gives, as a store gives it back: through numpy, in plain memory order."""
        return torch.from_numpy(np.ascontiguousarray(self.passed[self.backbone.cuts[cut]].numpy()))

    def on_from(self, cut: str, x: Tensor) -> Tensor:
        made: Tensor = self.backbone.tail_of(cut)(x)
        return made


def walk(name: str) -> Walk:
    backbone = build_backbone(name, "random:1").eval()
    rng = np.random.default_rng(0)
    for clips, frames, side in INPUTS:
        pixels = torch.from_numpy(rng.integers(0, 256, (clips, frames, side, side, 3), np.uint8))
        passed = [pixels]
        try:
            for stage in backbone.stages:
                passed.append(stage(passed[-1]))
        except UsageError:
            continue
        return Walk(backbone, pixels, passed)
    raise AssertionError(f"{name} takes none of {INPUTS}")


@pytest.fixture(scope="module", params=NAMES)
def walked(request: pytest.FixtureRequest) -> Iterator[Walk]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield walk(request.param)
    torch.set_num_threads(before)


def test_the_output_is_a_row_of_vectors_per_step(walked: Walk) -> None:
    whole = walked.whole
    assert whole.dtype == torch.float32
    assert whole.ndim == 3
    assert len(whole) == len(walked.pixels)
    assert whole.isfinite().all()
    assert whole.std() > 0


def test_cuts_go_from_the_frames_to_the_output(walked: Walk) -> None:
    cuts = walked.backbone.cuts
    assert list(cuts.values()) == sorted(cuts.values())
    assert (cuts["frames"], cuts["pooled"]) == (0, len(walked.backbone.stages))
    blocks = [name for name in cuts if name.startswith("block")]
    assert blocks == [f"block{i}" for i in range(len(blocks))]
    middle = list(cuts)[len(cuts) // 2]
    assert torch.equal(walked.backbone.head_of(middle)(walked.pixels), walked.passed[cuts[middle]])
    assert torch.equal(walked.backbone(walked.pixels), walked.whole)


def test_running_on_from_a_float32_store_gives_the_same_bits(walked: Walk) -> None:
    for cut in walked.backbone.cuts:
        again = walked.on_from(cut, walked.stored(cut))
        assert torch.equal(again, walked.whole), cut


def test_float16_moves_the_output_by_little(walked: Walk) -> None:
    power = walked.whole.double().square().mean()
    for cut, index in walked.backbone.cuts.items():
        if index == 0:
            continue  # pixels are stored as they are
        half = walked.stored(cut).half()
        assert half.isfinite().all(), cut
        error = (walked.on_from(cut, half.float()) - walked.whole).double().square().mean()
        assert 0 < (error / power).sqrt() < HALF, cut


def test_a_row_does_not_depend_on_its_batch(walked: Walk) -> None:
    if len(walked.pixels) == 1:
        pytest.skip("one clip only, at the size that this backbone takes")
    torch.testing.assert_close(walked.backbone(walked.pixels[1:])[0], walked.whole[1], rtol=1e-4, atol=1e-5)
