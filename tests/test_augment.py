"""The training views: their draws counted and re-drawn in the documented order, their results against torchvision and plain readings."""

from __future__ import annotations

import colorsys
import random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from extract import augment
from extract.augment import TAMT_CROP, TAMT_ERASED, Bounds, Box, central_box, erased, random_box
from extract.colour import jitter
from extract.randaugment import draw
from extract.transforms import TRANSFORMS, resize
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError

POLICIES = [name for name in TRANSFORMS.names() if "train" in name]


def coordinates(height: int, width: int, count: int = 3) -> torch.Tensor:
    """Frames whose first channel is the row and second the column, so that a crop and a flip can be read off the pixels."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return torch.from_numpy(np.stack([np.stack([y, x, x * 0 + t], -1) for t in range(count)]))


def picture(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.stack([videos.picture(i, width, height) for i in range(count)]))


def test_every_policy_of_the_cards_is_there() -> None:
    assert POLICIES == ["clip-fsar-train", "clip-fsar-train-query", "gslta-train", "tamt-train"]


def test_gslta_train_crops_anywhere_and_flips_half_the_clips() -> None:
    frames = coordinates(32, 48)
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


def test_clip_fsar_train_crops_at_the_published_offsets_and_never_flips() -> None:
    """Room of 4 pixels: offsets int(uniform(0, 4)), so 0..3 each way and never 4."""
    whole = coordinates(32, 32)
    seen = []
    for i in range(800):
        got = TRANSFORMS.get("clip-fsar-train")(whole, 28, generator("crop", i))
        top, left = int(got[0, 0, 0, 0]), int(got[0, 0, 0, 1])
        assert torch.equal(got, whole[:, top : top + 28, left : left + 28])
        seen.append((top, left))
    counts = np.array([seen.count((t, x)) for t in range(4) for x in range(4)])
    assert counts.sum() == 800
    assert (np.abs(counts - 50) < 5 * np.sqrt(50)).all()


@pytest.mark.parametrize("name", POLICIES)
def test_one_generator_one_view_and_no_other_randomness(name: str) -> None:
    frames = picture(60, 80)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    once, again = (TRANSFORMS.get(name)(frames, 56, generator("v", 1)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(frames, picture(60, 80))
    assert len({TRANSFORMS.get(name)(frames, 56, generator("v", i)).numpy().tobytes() for i in range(8)}) > 6
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("name", POLICIES)
def test_forbidding_flips_unmirrors_the_same_view(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the clips are the mirror image of the view without flips, the others equal it; the generator ends in the same state."""
    monkeypatch.setattr(
        augment, "erased", lambda frames, rng: frames.contiguous()
    )  # noise comes after the flip, in its own place
    frames, mirrored = picture(40, 56), 0
    for i in range(60):
        free, bound = generator("flip", i), generator("flip", i)
        one, other = (
            TRANSFORMS.get(name)(frames, 28, free),
            TRANSFORMS.get(name)(frames, 28, bound, flip=False),
        )
        assert str(free.bit_generator.state) == str(bound.bit_generator.state)
        same, turned = ((one.int() - view.int()).abs().max() <= 1 for view in (other, other.flip(2)))
        assert same or turned
        mirrored += not same
    assert mirrored == 0 if name == "clip-fsar-train" else 12 < mirrored < 48


@pytest.mark.parametrize("name", POLICIES)
def test_without_flips_left_stays_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("rand_augment", "erased", "jitter"):
        monkeypatch.setattr(augment, part, lambda frames, rng: frames.contiguous())
    frames = coordinates(40, 56)
    for i in range(100):
        columns = TRANSFORMS.get(name)(frames, 28, generator("left", i), flip=False)[0, 0, :, 1].int()
        assert (columns.diff() >= 0).all()
        assert columns[-1] > columns[0]


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_every_policy_takes_any_frame(name: str, height: int, width: int, size: int, seed: int) -> None:
    """Pixels, strips, portraits; and what is drawn is drawn for all frames: a still clip stays still but for the erasing noise."""
    still = picture(height, width, 1).expand(3, -1, -1, -1)
    got = TRANSFORMS.get(name)(still, size, generator("any", seed))
    assert (got.shape, got.dtype, got.is_contiguous()) == ((3, size, size, 3), torch.uint8, True)
    moved = (got[0] != got[1]).any(-1).nonzero()
    if len(moved):
        assert name == "tamt-train"
        high, wide = (moved.max(0).values - moved.min(0).values + 1).tolist()
        assert high * wide <= size * size / 3 + size + 1


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("shape", [(8, 400), (400, 8), (240, 320), (320, 240), (1, 1), (720, 1280)])
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    got = TRANSFORMS.get(name)(picture(*shape), 112, generator("shape"))
    assert (got.shape, got.dtype, got.is_contiguous()) == ((2, 112, 112, 3), torch.uint8, True)


def test_random_boxes_cover_the_area_and_aspects_asked_for() -> None:
    """On a frame where every try fits: areas and log aspects uniform (Kolmogorov-Smirnov), places uniform over all that fit."""
    bounds, count = Bounds((0.02, 0.2), (0.5, 2.0), 1), 4000
    boxes = [random_box(generator("box", i), 1200, 1000, bounds) for i in range(count)]
    sizes = np.array([(box.height, box.width) for box in boxes if box], float)
    assert len(sizes) == count

    def gap(values: np.ndarray) -> float:
        return float(np.abs(np.sort(values) - (np.arange(count) + 0.5) / count).max())

    limit = 2.0 / np.sqrt(count)  # passed by chance once in 1,500
    assert gap((sizes.prod(1) / 1.2e6 - 0.02) / 0.18) < limit
    assert gap(np.log(sizes[:, 1] / sizes[:, 0] * 2) / np.log(4)) < limit
    assert gap(np.array([(box.top + 0.5) / (1200 - box.height + 1) for box in boxes if box])) < limit
    assert gap(np.array([(box.left + 0.5) / (1000 - box.width + 1) for box in boxes if box])) < limit


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 10**6))
def test_boxes_lie_inside(height: int, width: int, seed: int) -> None:
    for bounds in (TAMT_CROP, TAMT_ERASED):
        box = random_box(generator("in", seed), height, width, bounds)
        assert box is None or (min(box[:2]) >= 0 and min(box[2:]) >= 1)
        assert box is None or (box.top + box.height <= height and box.left + box.width <= width)
    high, wide = central_box(height, width, TAMT_CROP.aspect)[2:]
    assert (high == height or wide == width) and 1 <= high <= height and 1 <= wide <= width  # noqa: PT018


def test_the_central_box_is_the_nearest_aspect() -> None:
    assert central_box(100, 300, (0.75, 1.3333)) == Box(0, 83, 100, 133)
    assert central_box(300, 90, (0.75, 1.3333)) == Box(90, 0, 120, 90)
    assert central_box(240, 320, (0.75, 1.3333)) == Box(0, 0, 240, 320)
    assert random_box(generator("strip"), 2, 2000, TAMT_CROP) is None


def test_tamt_train_crops_the_area_and_aspects_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Area 0.08..1 of the frame, width / height 0.75..1.3333; read off frames whose values are their coordinates."""
    for part in ("rand_augment", "erased"):
        monkeypatch.setattr(augment, part, lambda frames, rng: frames.contiguous())
    frames, found = coordinates(240, 250, 1), []
    for i in range(1500):
        got = TRANSFORMS.get("tamt-train")(frames, 64, generator("area", i), flip=False)[0].int()
        high = int(got[-1, 0, 0] - got[0, 0, 0]) * 64 / 63
        wide = int(got[0, -1, 1] - got[0, 0, 1]) * 64 / 63
        found.append((high * wide / 60000, wide / high))
    areas, aspects = np.array(found).T
    assert 0.07 < areas.min() < 0.1
    assert 0.9 < areas.max() < 1.01
    assert 0.72 < aspects.min() < 0.78
    assert 1.28 < aspects.max() < 1.38
    assert abs(np.mean(aspects < 1) - 0.5) < 0.07


def test_erasing_fills_one_box_in_a_quarter_of_the_clips() -> None:
    frames = torch.full((2, 60, 80, 3), 7, dtype=torch.uint8)
    areas, aspects = [], []
    for i in range(800):
        got = erased(frames, generator("erase", i))
        changed = (got != 7).any(-1)
        if changed.any():
            rows, columns = (changed.any(0).any(axis).nonzero().flatten() for axis in (1, 0))
            box = changed[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.float().mean() > 0.95  # noise that happens to be 7 in all channels is rare
            assert not torch.equal(got[0], got[1])
            areas.append(box[0].numel() / 4800)
            aspects.append(box.shape[2] / box.shape[1])
    assert (frames == 7).all()
    assert abs(len(areas) - 200) < 4 * np.sqrt(150)
    assert 0.015 < min(areas) < 0.06
    assert 0.28 < max(areas) < 0.345
    assert 0.24 < min(aspects) < 0.4
    assert 2.5 < max(aspects) < 4


def test_erasing_noise_is_normal_in_the_normalised_pixels() -> None:
    """The share of values below the quartiles of the standard normal (which clipping leaves alone), in ImageNet's normalisation."""
    found = []
    for i in range(60):
        got = erased(torch.full((4, 48, 48, 3), 7, dtype=torch.uint8), generator("noise", i))
        rows, columns = ((got != 7).any(-1).all(0).any(axis).nonzero().flatten() for axis in (1, 0))
        if len(rows):
            found.append(got[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3).numpy())
    pixels = np.concatenate(found)
    assert len(pixels) > 10_000
    for quartile, share in ((-0.6745, 0.25), (0, 0.5), (0.6745, 0.75)):
        border = 255 * (np.array([0.485, 0.456, 0.406]) + quartile * np.array([0.229, 0.224, 0.225]))
        low, high = (
            (pixels <= np.floor(border) + shift).mean(0) for shift in (-1, 1)
        )  # rounded values: share between these
        assert (low - 0.015 < share).all()
        assert (share < high + 0.015).all()


def test_tamt_train_is_augment_crop_flip_erase_in_the_documented_order() -> None:
    """Read again from the same generator, with torchvision's crop; clips that no RandAugment operation touches show it unchanged."""
    frames, compared = picture(50, 70), 0
    for i in range(120):
        rng = generator("tamt", i)
        got = TRANSFORMS.get("tamt-train")(frames, 32, generator("tamt", i))
        if draw(rng):
            continue
        box = random_box(rng, 50, 70, TAMT_CROP)
        assert box is not None
        view = tv.resized_crop(frames.permute(0, 3, 1, 2).float(), *box, [32, 32], antialias=False).permute(0, 2, 3, 1)
        view = view.flip(2) if rng.random() < 0.5 else view
        hole = random_box(rng, 32, 32, TAMT_ERASED) if rng.random() < 0.25 else Box(0, 0, 0, 0)
        assert hole is not None
        off = (got - view).abs().amax((0, 3))
        off[hole.top : hole.top + hole.height, hole.left : hole.left + hole.width] = 0
        assert off.max() <= 1.5
        compared += 1
    assert compared >= 3


def plain_jitter(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The card's colour jitter on one float64 frame in [0, 1], with the documented draws and the standard library's HSV."""

    def luminance(x: np.ndarray) -> np.ndarray:
        return (x @ [0.299, 0.587, 0.114])[..., None]

    grey, order = rng.random() < 0.3, rng.permutation(4)
    brightness, contrast, saturation = rng.uniform(0.5, 1.5, 3)
    hue = rng.uniform(-0.25, 0.25)

    def turned(x: np.ndarray) -> np.ndarray:
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
        return np.reshape([colorsys.hsv_to_rgb((h + hue) % 1, s, v) for h, s, v in hsv], x.shape)

    steps = (
        lambda x: x * brightness,
        lambda x: contrast * x + (1 - contrast) * luminance(x).mean(),
        lambda x: saturation * x + (1 - saturation) * luminance(x),
        turned,
    )
    frame = np.broadcast_to(luminance(frame), frame.shape) if grey else frame
    for step in order:
        frame = steps[step](frame).clip(0, 1)
    return frame


def test_colour_jitter_reads_like_the_card() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (2, 9, 7, 3), np.uint8)
    greys = 0
    for i in range(60):
        got = jitter(torch.from_numpy(noise), generator("colour", i)).numpy()
        for one, frame in zip(got, noise, strict=True):
            assert np.abs(one - 255 * plain_jitter(frame / 255, generator("colour", i))).max() < 1.0
        greys += (got == got[..., :1]).all()
    assert 8 <= greys <= 30  # of 60 at 0.3


def test_queries_are_squashed_cropped_mirrored_and_then_coloured() -> None:
    frames = picture(48, 64)
    squashed = resize(frames, 32, 32, antialias=False)
    for i in range(20):
        rng = generator("query", i)
        top, left, heads = int(rng.integers(0, 4)), int(rng.integers(0, 4)), rng.random() < 0.5
        square = squashed[:, top : top + 28, left : left + 28]
        expected = jitter(square.flip(2) if heads else square, rng)
        assert torch.equal(TRANSFORMS.get("clip-fsar-train-query")(frames, 28, generator("query", i)), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", POLICIES)
def test_devices_draw_the_same_view(name: str) -> None:
    """Within a grey level before RandAugment's and the jitter's colour operations, which stretch and quantise it."""
    for i in range(20):
        frames = picture(120, 160)
        one, other = (TRANSFORMS.get(name)(frames.to(d), 56, generator("dev", i)).cpu().int() for d in ("cpu", "cuda"))
        if name in ("gslta-train", "clip-fsar-train"):
            assert (one - other).abs().max() <= 1
        else:
            assert ((one - other).abs() > 2).float().mean() < 0.02


@pytest.mark.parametrize("name", POLICIES)
def test_mistakes_are_named(name: str) -> None:
    frames = picture(20, 30)
    with pytest.raises(UsageError, match=f"'{name}' is random and needs a generator"):
        TRANSFORMS.get(name)(frames, 16, None)
    with pytest.raises(UsageError, match="size of at least 1"):
        TRANSFORMS.get(name)(frames, 0, generator("x"))
    with pytest.raises(UsageError, match=r"wants uint8 frames \[T, H, W, 3\]"):
        TRANSFORMS.get(name)(frames.float(), 16, generator("x"))
