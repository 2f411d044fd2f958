"""Geometric transforms against PIL, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import videos
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv

from extract.geometry import RESIZED
from extract.transforms import TRANSFORMS, resize, short_side
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError

EVALUATION = sorted(RESIZED)
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


@pytest.mark.parametrize("shape", SIZES)
def test_clip_eval_is_pil_bicubic_and_a_central_square(shape: tuple[int, int]) -> None:
    """CLIP's own preprocessing up to its scaling of values, by torchvision and PIL: shorter side, bicubic, centre crop."""
    frames = frames_of(*shape)
    own = tv.Compose([tv.Resize(112, tv.InterpolationMode.BICUBIC), tv.CenterCrop(112)])
    for one, frame in zip(TRANSFORMS.get("clip-eval")(frames, 112, None), frames.numpy(), strict=True):
        assert worst(one, np.asarray(own(Image.fromarray(frame)))) <= 2


@pytest.mark.parametrize("shape", SIZES)
def test_centre_crop_is_pil_bilinear_and_a_central_square(shape: tuple[int, int]) -> None:
    frames = frames_of(*shape)
    own = tv.Compose([tv.Resize(112, tv.InterpolationMode.BILINEAR), tv.CenterCrop(112)])
    for one, frame in zip(TRANSFORMS.get("centre-crop")(frames, 112, None), frames.numpy(), strict=True):
        assert worst(one, np.asarray(own(Image.fromarray(frame)))) <= 1


def plain_bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Two-tap bilinear with half-pixel centres and repeated borders, in float64."""
    parts = []
    for axis, (old, new) in enumerate(zip(frame.shape, (height, width), strict=False)):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        source = frame if axis == 0 else parts[-1]
        high = np.minimum(low + 1, old - 1)
        parts.append(source.take(low, axis) * (1 - share) + source.take(high, axis) * share)
    return parts[-1]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", [224, 112])
def test_clip_fsar_eval_squashes_without_antialiasing(shape: tuple[int, int], size: int) -> None:
    frames = frames_of(*shape)
    side, edge = {224: (256, 16), 112: (128, 8)}[size]
    for one, frame in zip(TRANSFORMS.get("clip-fsar-eval")(frames, size, None), frames.numpy(), strict=True):
        whole = plain_bilinear(frame.astype(float), side, side)[edge : edge + size, edge : edge + size]
        assert np.abs(one.numpy() - whole).max() <= 1.5  # half a level of rounding and one of integer arithmetic


@pytest.mark.parametrize("name", EVALUATION)
@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 40))
def test_every_evaluation_view_takes_any_frame(name: str, height: int, width: int, size: int) -> None:
    """Also one pixel and strips; a picture of one colour stays of that colour; mirroring is nothing to them."""
    frames = torch.tensor([10, 120, 255], dtype=torch.uint8).expand(2, height, width, 3)
    got = TRANSFORMS.get(name)(frames, size, None)
    assert (got.shape, got.dtype, got.is_contiguous()) == ((2, size, size, 3), torch.uint8, True)
    assert torch.equal(got, frames[:, :1, :1].expand_as(got))
    noise = frames_of(height, width)
    assert torch.equal(
        TRANSFORMS.get(name)(noise, size, None, flip=False), TRANSFORMS.get(name)(noise, size, None, flip=True)
    )


@pytest.mark.parametrize(("mode", "antialias"), [("bilinear", True), ("bilinear", False), ("bicubic", True)])
def test_the_float_path_of_accelerators_agrees(mode: str, antialias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken on the CPU by pretending to be elsewhere: noise, enlarged and shrunk, is where the two would part."""
    for shape in ((240, 320), (97, 181), (60, 100)):
        frames = frames_of(*shape)
        exact = resize(frames, 128, 171, mode, antialias)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "device", property(lambda tensor: torch.device("meta")))
            assert worst(resize(frames, 128, 171, mode, antialias), exact.numpy()) <= (2 if mode == "bicubic" else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", EVALUATION)
def test_devices_agree(name: str) -> None:
    for shape in SIZES:
        frames = frames_of(*shape)
        views = [TRANSFORMS.get(name)(frames.to(device), 112, None) for device in ("cpu", "cuda")]
        assert worst(views[1].cpu(), views[0].numpy()) <= (2 if name == "clip-eval" else 1)


def test_mistakes_are_named() -> None:
    frames = frames_of(20, 30)
    for name in EVALUATION:
        with pytest.raises(UsageError, match="deterministic and takes no generator"):
            TRANSFORMS.get(name)(frames, 16, generator("x"))
        with pytest.raises(UsageError, match="size of at least 1"):
            TRANSFORMS.get(name)(frames, 0, None)
        for bad in (frames.float(), frames[0], frames.permute(0, 3, 1, 2), frames[:0]):
            with pytest.raises(UsageError, match=r"wants uint8 frames \[T, H, W, 3\]"):
                TRANSFORMS.get(name)(bad, 16, None)
