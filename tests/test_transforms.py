"""Geometric transforms against PIL, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import videos
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from extract.transforms import TRANSFORMS, short_side
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError

SIZES = [(240, 320), (256, 340), (320, 240), (256, 256), (97, 181), (1080, 1920), (60, 100), (224, 224)]


def frames_of(height: int, width: int, count: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(height * width)
    noise = rng.integers(0, 256, (count, height, width, 3))
    drawn = np.stack([videos.picture(i, width, height) for i in range(count)])
    return torch.from_numpy(np.where(np.arange(width)[:, None] % 40 < 20, noise, drawn).astype(np.uint8))


def pil_short_side(frame: np.ndarray, size: int) -> np.ndarray:
    """The card: shorter side to `size`, the other to int(size * long / short), PIL bilinear (which antialiases)."""
    height, width = frame.shape[:2]
    wide, high = int(size * width / height), int(size * height / width)
    shape = (size, high) if width < height else (wide, size)
    return np.asarray(Image.fromarray(frame).resize(shape, Image.Resampling.BILINEAR))


def worst(one: torch.Tensor, other: np.ndarray) -> int:
    return int(np.abs(one.numpy().astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", [224, 112])
def test_gslta_eval_is_the_central_square_of_the_card(shape: tuple[int, int], size: int) -> None:
    frames = frames_of(*shape)
    got = TRANSFORMS.get("gslta-eval")(frames, size, None)
    assert got.shape == (2, size, size, 3)
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    for one, frame in zip(got, frames.numpy(), strict=True):
        whole = pil_short_side(frame, {224: 256, 112: 128}[size])
        top, left = round((whole.shape[0] - size) / 2.0), round((whole.shape[1] - size) / 2.0)
        assert worst(one, whole[top : top + size, left : left + size]) <= 1


@pytest.mark.parametrize("shape", SIZES)
def test_squash(shape: tuple[int, int]) -> None:
    frames = frames_of(*shape)
    got = TRANSFORMS.get("squash")(frames, 112, None)
    for one, frame in zip(got, frames.numpy(), strict=True):
        assert worst(one, np.asarray(Image.fromarray(frame).resize((112, 112), Image.Resampling.BILINEAR))) <= 1


@settings(deadline=None, max_examples=60)
@given(height=st.integers(8, 90), width=st.integers(8, 90), size=st.integers(4, 60))
def test_any_size_is_within_a_grey_level_of_pil(height: int, width: int, size: int) -> None:
    frames = frames_of(height, width, 1)
    assert worst(short_side(frames, size)[0], pil_short_side(frames[0].numpy(), size)) <= 1
    assert TRANSFORMS.get("gslta-eval")(frames, size, None).shape == (1, size, size, 3)


def test_gslta_train_crops_anywhere_and_flips_half_the_clips() -> None:
    """Two channels carry the coordinates, so that each clip's crop and flip can be read off its pixels."""
    y, x = np.mgrid[:32, :48].astype(np.uint8)
    frames = torch.from_numpy(np.stack([np.stack([y, x, x * 0 + t], -1) for t in range(3)]))
    seen, flips = set(), 0
    for i in range(3000):
        got = TRANSFORMS.get("gslta-train")(frames, 28, generator("crop", i))
        top, left, right = int(got[0, 0, 0, 0]), int(got[0, 0, 0, 1]), int(got[0, 0, -1, 1])
        flips += left > right
        seen.add((top, min(left, right), left > right))
        square = frames[:, top : top + 28, min(left, right) : max(left, right) + 1]
        assert torch.equal(got, square.flip(2) if left > right else square)
    assert seen == {(t, left, f) for t in range(5) for left in range(21) for f in (True, False)}
    assert abs(flips - 1500) < 4 * 27.4  # four standard deviations


def test_one_key_one_view() -> None:
    frames = frames_of(60, 80)
    once, again = (TRANSFORMS.get("gslta-train")(frames, 56, generator("v", 1)) for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_devices_agree_within_a_grey_level(name: str) -> None:
    for shape in SIZES:
        frames = frames_of(*shape)
        views = [
            TRANSFORMS.get(name)(frames.to(d), 112, generator("d") if "train" in name else None)
            for d in ("cpu", "cuda")
        ]
        assert worst(views[1].cpu(), views[0].numpy()) <= 1


def test_mistakes_are_named() -> None:
    frames = frames_of(20, 30)
    with pytest.raises(UsageError, match="'gslta-train' is random and needs a generator"):
        TRANSFORMS.get("gslta-train")(frames, 16, None)
    for name in ("gslta-eval", "squash"):
        with pytest.raises(UsageError, match="deterministic and takes no generator"):
            TRANSFORMS.get(name)(frames, 16, generator("x"))
        with pytest.raises(UsageError, match="size of at least 1"):
            TRANSFORMS.get(name)(frames, 0, None)
        for bad in (frames.float(), frames[0], frames.permute(0, 3, 1, 2), frames[:0]):
            with pytest.raises(UsageError, match=r"wants uint8 frames \[T, H, W, 3\]"):
                TRANSFORMS.get(name)(bad, 16, None)
