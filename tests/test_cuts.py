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
SINGLE = ((1, 1, 96), (1, 2, 96), (1, 1, 224))
SEVERAL = ((2, 2, 96), (1, 2, 224))
"""Clips, frames of each, side of a frame in pixels; each backbone is tested with the first that it takes."""
HALF = 1e-2
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

    def comes_back(self, cut: str) -> bool:
        """Whether running on from a store ends in the same bits: sure as soon as a stage gives the same bits in the same memory order."""
        first, x = self.backbone.cuts[cut], self.stored(cut)
        for stage, before in zip(self.backbone.tail_of(cut), self.passed[first + 1 :], strict=True):
            x = stage(x)
            if torch.equal(x, before) and x.stride() == before.stride():
                return True
        return torch.equal(x, self.whole)


def walk(backbone: Backbone, inputs: tuple[tuple[int, int, int], ...]) -> Walk:
    rng = np.random.default_rng(0)
    for clips, frames, side in inputs:
        pixels = torch.from_numpy(rng.integers(0, 256, (clips, frames, side, side, 3), np.uint8))
        passed = [pixels]
        try:
            for stage in backbone.stages:
                passed.append(stage(passed[-1]))
        except UsageError:
            continue
        return Walk(backbone, pixels, passed)
    raise AssertionError(f"{backbone.name} takes none of {inputs}")


@pytest.fixture(autouse=True, scope="module")
def _one_thread_no_gradients() -> Iterator[None]:
    """The last bits of a convolution depend on how many threads share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return build_backbone(request.param, "random:1").eval()


@pytest.fixture(scope="module")
def single(backbone: Backbone) -> Walk:
    return walk(backbone, SINGLE)


@pytest.fixture(scope="module")
def several(backbone: Backbone) -> Walk:
    return walk(backbone, SEVERAL)


def test_the_output_is_a_row_of_vectors_per_step(several: Walk) -> None:
    whole = several.whole
    assert whole.dtype == torch.float32
    assert whole.ndim == 3
    assert len(whole) == len(several.pixels)
    assert whole.isfinite().all()
    assert whole.std() > 0


def test_cuts_go_from_the_frames_to_the_output(single: Walk) -> None:
    cuts = single.backbone.cuts
    assert list(cuts.values()) == sorted(cuts.values())
    assert (cuts["frames"], cuts["pooled"]) == (0, len(single.backbone.stages))
    blocks = [name for name in cuts if name.startswith("block")]
    assert blocks == [f"block{i}" for i in range(len(blocks))]
    middle = list(cuts)[len(cuts) // 2]
    assert torch.equal(single.backbone.head_of(middle)(single.pixels), single.passed[cuts[middle]])
    assert torch.equal(single.backbone(single.pixels), single.whole)


def test_running_on_from_a_float32_store_gives_the_same_bits(single: Walk, several: Walk) -> None:
    for walked in (single, several):
        for cut in walked.backbone.cuts:
            assert walked.comes_back(cut), cut
        middle = list(walked.backbone.cuts)[len(walked.backbone.cuts) // 2]
        assert torch.equal(walked.on_from(middle, walked.stored(middle)), walked.whole)


def test_float16_moves_the_output_by_little(single: Walk) -> None:
    power = single.whole.double().square().mean()
    for cut, index in single.backbone.cuts.items():
        if index == 0:
            continue  # pixels are stored as they are
        half = single.stored(cut).half()
        assert half.isfinite().all(), cut
        error = (single.on_from(cut, half.float()) - single.whole).double().square().mean()
        assert 0 < (error / power).sqrt() < HALF, cut


def test_a_row_does_not_depend_on_its_batch(single: Walk) -> None:
    both = single.backbone(torch.cat((single.pixels, 255 - single.pixels)))
    scale = single.whole.square().mean().sqrt()
    assert (both[:1] - single.whole).abs().max() < 1e-4 * scale
    assert (both[1:] - single.whole).abs().max() > 1e-2 * scale
