"""RandAugment's operations against PIL and plain readings, and the statistics of its draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import videos
from PIL import Image, ImageEnhance, ImageOps

from extract.randaugment import FILL, OPS, affine, draw, rand_augment
from fsar_cache.draws import generator

MAGNITUDES = (0.0, 5.3, 7.0, 8.9, 10.0)
Pixels = np.ndarray


def noisy(height: int = 41, width: int = 67, count: int = 2) -> torch.Tensor:
    """uint8 [T, 3, H, W]: pictures with noise in places, and of a narrow range of values in one channel."""
    rng = np.random.default_rng(5)
    drawn = np.stack([videos.picture(i, width, height) for i in range(count)])
    noise = rng.integers(0, 256, drawn.shape)
    frames = np.where(np.arange(width)[:, None] % 30 < 15, noise, drawn)
    frames[..., 1] = frames[..., 1] // 3 + 40
    return torch.from_numpy(frames.astype(np.uint8)).permute(0, 3, 1, 2)


def per_pixel(rule: object) -> object:
    return lambda image, m, sign: image.point([rule(v, m) for v in range(256)] * 3)


def enhanced(kind: type) -> object:
    return lambda image, m, sign: kind(image).enhance(1 + sign * 0.9 * m / 10)


BY_PIL = {
    "auto-contrast": lambda image, m, sign: ImageOps.autocontrast(image),
    "equalise": lambda image, m, sign: ImageOps.equalize(image),
    "invert": lambda image, m, sign: ImageOps.invert(image),
    "posterise": per_pixel(lambda v, m: v & ~(2 ** (4 + int(4 * m / 10)) - 1)),  # PIL's own refuses 0 bits
    "solarise": lambda image, m, sign: ImageOps.solarize(image, 256 - int(25.6 * m)),
    "solarise-add": per_pixel(lambda v, m: min(v + int(11 * m), 255) if v < 128 else v),
    "colour": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
}
"""The same operation by PIL, at one magnitude and sign."""

GEOMETRIC = {
    "rotate": None,
    "shear-x": lambda w, h, k: (1, 0.3 * k, 0, 0, 1, 0),
    "shear-y": lambda w, h, k: (1, 0, 0, 0.3 * k, 1, 0),
    "translate-x": lambda w, h, k: (1, 0, 0.45 * k * w, 0, 1, 0),
    "translate-y": lambda w, h, k: (1, 0, 0, 0, 1, 0.45 * k * h),
}
"""PIL's affine coefficients for magnitude 10 k (signed); rotation is PIL's own."""


def test_the_fifteen_operations_of_the_card() -> None:
    assert len(OPS) == 15
    assert set(OPS) == set(BY_PIL) | set(GEOMETRIC)


@pytest.mark.parametrize("name", BY_PIL)
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("sign", [1, -1])
def test_colour_operations_are_pil_s(name: str, magnitude: float, sign: int) -> None:
    planes = noisy()
    got = OPS[name](planes, magnitude, sign)
    assert (got.dtype, got.shape) == (torch.uint8, planes.shape)
    limit = {"contrast": 2, "colour": 2, "sharpness": 1, "brightness": 1, "auto-contrast": 1}.get(name, 0)
    for one, frame in zip(got, planes, strict=True):
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        expected = np.asarray(BY_PIL[name](image, magnitude, sign)).astype(int)
        assert np.abs(one.permute(1, 2, 0).numpy() - expected).max() <= limit


def pil_moved(image: Image.Image, name: str, k: float, filter_: Image.Resampling) -> Pixels:
    """The geometric operation by PIL: `k` is sign * magnitude / 10."""
    if name == "rotate":
        return np.asarray(image.rotate(30 * k, filter_, fillcolor=(FILL,) * 3))
    matrix = GEOMETRIC[name](*image.size, k)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, filter_, fillcolor=(FILL,) * 3))


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("k", [0.7, -0.7, 0.53, -1.0, 0.04])
def test_geometric_operations_move_like_pil_s(name: str, k: float) -> None:
    """On a smooth picture, where the cubic kernels of the two agree; what comes from outside is grey in both."""
    y, x = np.mgrid[:60, :90]
    smooth = (
        np.stack([60 + 50 * np.sin(x / 12), 190 + 40 * np.cos(y / 9 + x / 30), 30 + x], -1).round().astype(np.uint8)
    )
    got = OPS[name](torch.from_numpy(smooth).permute(2, 0, 1)[None], abs(k) * 10, 1 if k > 0 else -1)
    expected = pil_moved(Image.fromarray(smooth), name, k, Image.Resampling.BICUBIC).astype(int)
    off = np.abs(got[0].permute(1, 2, 0).numpy() - expected).max(-1)
    assert np.count_nonzero(off > 2) <= 2  # a place exactly on the border may fall to either side
    outside = (expected == FILL).all(-1)
    assert outside.any() or abs(k) < 0.1


def keys(t: float) -> float:
    """Keys' cubic convolution kernel with a = -0.75."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def test_affine_is_cubic_convolution_with_repeated_borders_inside_the_frame() -> None:
    planes, matrix = noisy(9, 11, 1), (0.8, 0.3, -0.7, -0.4, 1.1, 1.9)
    got = affine(planes, matrix)[0].int()
    a, b, c, d, e, f = matrix
    for row in range(9):
        for column in range(11):
            x = a * (column + 0.5) + b * (row + 0.5) + c
            y = d * (column + 0.5) + e * (row + 0.5) + f
            expected = np.full(3, float(FILL))
            if 0 <= x < 11 and 0 <= y < 9:
                expected = np.zeros(3)
                for i in range(math.floor(y - 0.5) - 1, math.floor(y - 0.5) + 3):
                    for j in range(math.floor(x - 0.5) - 1, math.floor(x - 0.5) + 3):
                        pixel = planes[0, :, min(max(i, 0), 8), min(max(j, 0), 10)].numpy()
                        expected += keys(y - 0.5 - i) * keys(x - 0.5 - j) * pixel
            assert np.abs(got[:, row, column].numpy() - expected.clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize("name", OPS)
def test_frames_do_not_look_at_each_other(name: str) -> None:
    """A frame comes out the same alone and beside others."""
    planes = noisy(count=3)
    together = OPS[name](planes, 7.0, -1)
    assert torch.equal(together, torch.cat([OPS[name](one[None], 7.0, -1) for one in planes]))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 200), (300, 2)])
def test_operations_take_any_size(name: str, shape: tuple[int, int]) -> None:
    planes = noisy(*shape)
    for magnitude in MAGNITUDES:
        assert OPS[name](planes, magnitude, -1).shape == planes.shape


def test_draws_are_those_of_the_card() -> None:
    """4 of 15 with replacement, each used with probability 0.5, magnitudes normal(7, 0.5), signs even."""
    clips = [draw(generator("ra", i)) for i in range(6000)]
    used = [op for clip in clips for op in clip]
    lengths = np.bincount([len(clip) for clip in clips], minlength=5)
    expected = 6000 * np.array([1, 4, 6, 4, 1]) / 16
    assert (np.abs(lengths - expected) < 5 * np.sqrt(expected)).all()
    counts = np.array([sum(op.name == name for op in used) for name in OPS])
    assert (np.abs(counts - 800) < 5 * np.sqrt(800)).all()
    magnitudes = np.array([op.magnitude for op in used])
    assert abs(magnitudes.mean() - 7) < 5 * 0.5 / np.sqrt(len(used))
    assert abs(magnitudes.std() - 0.5) < 0.02
    assert abs(sum(op.sign for op in used)) < 5 * np.sqrt(len(used))
    assert {op.sign for op in used} == {1, -1}
    assert any(len({op.name for op in clip}) < len(clip) for clip in clips)


def test_the_clip_gets_what_was_drawn_in_that_order() -> None:
    planes = noisy()
    frames = planes.permute(0, 2, 3, 1)
    touched = 0
    for i in range(30):
        drawn = draw(generator("order", i))
        expected = planes
        for name, magnitude, sign in drawn:
            expected = OPS[name](expected, magnitude, sign)
        assert torch.equal(rand_augment(frames, generator("order", i)), expected.permute(0, 2, 3, 1))
        touched += len(drawn) > 1
    assert touched > 10
