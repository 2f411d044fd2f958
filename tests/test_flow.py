"""Optical flow: estimators on motion that is known, what flips and resizes do to fields, storage, and the colours."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.flow import OpenCVFlow, computing_size, flow_estimator
from extract.flow_field import flip, pixels, resize, square, stored
from extract.flow_image import flow_image
from extract.flow_raft import RaftFlow, raft
from extract.flow_settings import FlowSettings
from extract.geometry import RESIZED, box, resized
from extract.transforms import TRANSFORMS
from fsar_cache.errors import IntegrityError, MissingError, UsageError

CPU = {"dis_medium": 0.1, "dis_fast": 0.3, "dis_ultrafast": 0.4, "farneback": 0.15}
"""Estimator -> error in pixels to be expected at some 4 pixels of motion (the card's mean end-point errors)."""
RAFT = FlowSettings(estimator="raft_small", raft_weights="random:0", raft_updates=2)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture without repetition, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    drawn = sum(cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), s) * s for s in (2, 4, 8))
    return np.clip(128 + 60 * drawn / drawn.std(), 0, 255).astype(np.uint8)


def moved(dx: int, dy: int, height: int = 128, width: int = 160, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames [1, H, W, 3] whose content moves dx to the right and dy downwards: cut from one larger picture."""
    whole, room = texture(height + 64, width + 64, seed), 32
    first = whole[room : room + height, room : room + width]
    second = whole[room - dy : room - dy + height, room - dx : room - dx + width]
    return torch.from_numpy(first.copy())[None], torch.from_numpy(second.copy())[None]


def inside(field: torch.Tensor, margin: int = 16) -> torch.Tensor:
    return field[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize(("dx", "dy"), [(3, -2), (-4, 1), (0, 5)])
def test_a_translation_is_found_with_its_sign(name: str, dx: int, dy: int) -> None:
    found = OpenCVFlow(name)(*moved(dx, dy))
    assert found.dtype == torch.float32
    assert found.shape == (1, 2, 128, 160)
    u, v = inside(found)[0].flatten(1).median(1).values
    assert u == pytest.approx(dx, abs=CPU[name])
    assert v == pytest.approx(dy, abs=CPU[name])


@pytest.mark.parametrize("name", CPU)
def test_swapped_frames_give_roughly_the_negative(name: str) -> None:
    first, second = moved(3, -2)
    estimate = OpenCVFlow(name)
    assert (inside(estimate(first, second)) + inside(estimate(second, first))).abs().mean() < 2 * CPU[name]


@pytest.mark.parametrize("name", CPU)
def test_mirrored_frames_have_the_flipped_field(name: str) -> None:
    first, second = moved(4, 1)
    estimate = OpenCVFlow(name)
    mirrored, expected = estimate(first.flip(2), second.flip(2)), flip(estimate(first, second))
    assert (inside(mirrored) - inside(expected)).abs().mean() < CPU[name]
    assert (inside(mirrored) - inside(expected * torch.tensor([-1.0, 1.0])[:, None, None])).abs().mean() > 3


def test_nothing_moves_in_still_frames() -> None:
    still, _ = moved(0, 0)
    for name in ("dis_medium", "dis_fast", "dis_ultrafast"):
        assert not OpenCVFlow(name)(still, still).any()
    assert inside(OpenCVFlow("farneback")(still, still)).abs().mean() < 0.01


def test_every_pair_is_estimated_alone_and_in_any_thread() -> None:
    pairs = [moved(dx, 1, seed=dx) for dx in range(4)]
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    estimate = OpenCVFlow("dis_medium")
    alone = torch.cat([estimate(*pair) for pair in pairs])
    found: dict[int, torch.Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: estimate(first, second)})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert torch.equal(found[i], alone)


def test_small_and_wide_frames_end_in_an_error_or_a_field_but_never_the_process() -> None:
    """DIS of OpenCV 5.0.0 is killed by a segmentation fault on frames of, say, 16 x 200: such frames must not reach it."""
    script = """
import torch
from extract.flow import OpenCVFlow
for name in ("dis_medium", "dis_fast", "dis_ultrafast", "farneback"):
    for height, width in [(1, 1), (16, 80), (31, 640), (31, 31), (32, 32), (32, 80), (33, 330), (32, 1300), (63, 90), (640, 33)]:
        frames = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
        try:
            field = OpenCVFlow(name)(frames, frames.roll(1, 2))
            assert field.isfinite().all() and min(height, width) >= 32
        except ValueError:
            assert min(height, width) < 32
print("alive")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert ended.stdout == "alive\n", (ended.returncode, ended.stderr[-500:])


def test_flow_is_computed_at_the_size_asked_for_but_never_enlarged() -> None:
    assert computing_size(480, 640, FlowSettings(size=256)) == (256, 341)
    assert computing_size(640, 480, FlowSettings(size=256)) == (341, 256)
    assert computing_size(128, 160, FlowSettings(size=256)) == (128, 160)


@pytest.mark.parametrize(
    "wrong", [{"estimator": "dis"}, {"pair": "previous"}, {"stride": 0}, {"size": 31}, {"raft_updates": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlowSettings(**wrong)  # type: ignore[arg-type]


# RAFT, with random weights: shapes, padding and errors, not accuracy


@pytest.fixture(scope="module")
def raft_small() -> RaftFlow:
    made = flow_estimator(RAFT)
    assert isinstance(made, RaftFlow)
    return made


def test_raft_gives_what_torchvision_gives_and_pads_to_multiples_of_8(raft_small: RaftFlow) -> None:
    first, second = moved(2, 1, 131, 150)
    found = raft_small(first, second)
    assert found.shape == (1, 2, 131, 150)
    images = [torch.nn.ReplicationPad2d((0, 2, 0, 5))(f.permute(0, 3, 1, 2) / 255 * 2 - 1) for f in (first, second)]
    with torch.no_grad():
        expected = raft("raft_small", "random:0")(*images, num_flow_updates=2)[-1]
    assert expected.shape == (1, 2, 136, 152)
    assert (found - expected[..., :131, :150]).abs().max() < 1e-4 * expected.abs().max()


def test_raft_does_not_depend_on_the_batch_or_the_thread(raft_small: RaftFlow) -> None:
    pairs = [moved(2, 1, seed=1), moved(-3, 0, seed=2)]
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    found: dict[int, torch.Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: raft_small(*pairs[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = raft_small(first, second)
    assert together.abs().max() > 0.01
    for i in range(2):
        assert torch.equal(found[i], raft_small(*pairs[i]))
        assert (found[i][0] - together[i]).abs().max() < 1e-3 * together.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_raft_on_an_accelerator_gives_the_fields_of_the_cpu(raft_small: RaftFlow) -> None:
    first, second = moved(2, 1)
    expected = raft_small(first, second)
    there = flow_estimator(RAFT)
    there.to(torch.device("cuda"))
    found = there(first.cuda(), second.cuda())
    assert found.is_cuda
    assert (found.cpu() - expected).abs().max() < 1e-2 * expected.abs().max()
    assert torch.equal(found, there(first.cuda(), second.cuda()))


def test_raft_refuses_what_is_too_small(raft_small: RaftFlow) -> None:
    with pytest.raises(UsageError, match="at least 128"):
        flow_estimator(replace(RAFT, size=112))
    with pytest.raises(ValueError, match="at least 128"):
        raft_small(*moved(0, 0, 112, 160))


def test_raft_weights_come_from_a_seed_or_a_file_and_are_named_by_their_hash(
    raft_small: RaftFlow, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    assert flow_estimator(RAFT).facts == raft_small.facts
    other = flow_estimator(replace(RAFT, raft_weights="random:1"))
    assert torch.equal(torch.get_rng_state(), before)
    assert other.facts["weights"] != raft_small.facts["weights"]
    file = tmp_path / "raft.pth"
    torch.save(raft("raft_small", "random:1").state_dict(), file)
    assert flow_estimator(replace(RAFT, raft_weights=f"file:{file}")).facts == other.facts
    with pytest.raises(IntegrityError, match="does not fit"):
        raft("raft_large", f"file:{file}")
    with pytest.raises(MissingError, match="no weight file"):
        raft("raft_small", f"file:{tmp_path / 'none.pth'}")


@pytest.mark.parametrize("weights", ["random:x", "random", "timm:raft", "file:", ""])
def test_raft_weights_of_no_known_kind_are_a_usage_error(weights: str) -> None:
    with pytest.raises(UsageError, match=r"random:SEED, file:PATH or torchvision:NAME|whole number as seed"):
        raft("raft_small", weights)


def test_published_raft_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An unknown name, no connection, and the file in torch's own cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match="C_T_V2"):
        raft("raft_small", "torchvision:C_T_V3")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(MissingError, match="could not be fetched: no connection"):
        raft("raft_small", "torchvision:default")
    cached = tmp_path / "checkpoints" / "raft_small_C_T_V2-01064c6d.pth"
    cached.parent.mkdir()
    state = raft("raft_small", "random:5").state_dict()
    torch.save(state, cached)
    for name in ("default", "C_T_V2"):
        loaded = raft("raft_small", f"torchvision:{name}").state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


# Fields


def field_of(*shape: int, seed: int = 0, scale: float = 10.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_storage_is_within_half_a_step_and_keeps_zero() -> None:
    field = field_of(4, 2, 9, 11, scale=100).clamp(-511, 511)
    kept = stored(field)
    assert kept.dtype == torch.int16
    assert (pixels(kept) - field).abs().max() <= 1 / 128
    assert not stored(torch.zeros(1, 2, 3, 3)).any()
    assert torch.equal(stored(pixels(kept)), kept)


def test_storage_saturates_alike_on_both_sides_and_refuses_what_is_no_number() -> None:
    assert stored(torch.tensor([1e9, -1e9, 511.99, -512.0]).reshape(1, 4, 1)).flatten().tolist() == [
        32767,
        -32767,
        32767,
        -32767,
    ]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="infinite or not a number"):
            stored(torch.full((2, 1, 1), bad))


def test_flip_mirrors_columns_and_negates_only_u() -> None:
    field = torch.arange(2 * 2 * 3, dtype=torch.float32).reshape(1, 2, 2, 3)
    assert flip(field)[0, 0].tolist() == [[-2.0, -1.0, -0.0], [-5.0, -4.0, -3.0]]
    assert flip(field)[0, 1].tolist() == [[8.0, 7.0, 6.0], [11.0, 10.0, 9.0]]


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_flip_twice_is_nothing_and_goes_before_or_after_storage(seed: int) -> None:
    field = field_of(2, 2, 5, 7, seed=seed, scale=400)
    assert torch.equal(flip(flip(field)), field)
    assert torch.equal(flip(stored(field)), stored(flip(field)))


@pytest.mark.parametrize("size", [(20, 30), (40, 60), (80, 120), (7, 200), (40, 120)])
def test_resize_scales_the_values_with_the_grid(size: tuple[int, int]) -> None:
    """Against OpenCV: by area where a side shrinks, linear where it grows."""
    field = field_of(3, 2, 40, 60)
    made = resize(field, *size)
    assert made.shape == (3, 2, *size)
    for frame, got in zip(field.numpy(), made.numpy(), strict=True):
        for number, factor in ((0, size[1] / 60), (1, size[0] / 40)):
            plane = frame[number]
            how = [cv2.INTER_AREA if new < old else cv2.INTER_LINEAR for new, old in zip(size, (40, 60), strict=True)]
            plane = cv2.resize(plane, (60, size[0]), interpolation=how[0])
            plane = cv2.resize(plane, (size[1], size[0]), interpolation=how[1])
            np.testing.assert_allclose(got[number], plane * factor, atol=2e-4)


def test_resize_of_a_constant_field_is_constant_and_same_size_is_itself() -> None:
    field = torch.tensor([3.0, -2.0])[:, None, None].expand(2, 40, 60)
    for height, width in ((80, 120), (13, 17), (40, 61)):
        made = resize(field, height, width)
        assert torch.allclose(made[0], torch.tensor(3.0 * width / 60), atol=1e-4)
        assert torch.allclose(made[1], torch.tensor(-2.0 * height / 40), atol=1e-4)
    assert resize(field, 40, 60) is field


@pytest.mark.parametrize("name", sorted(RESIZED))
@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (97, 181), (128, 160), (64, 64)])
def test_the_field_shows_the_same_place_as_the_transformed_frame(name: str, height: int, width: int) -> None:
    """A frame whose grey is its column (then row) number goes through the pixel transform, a field of those numbers through `square`."""
    if name not in TRANSFORMS.names():
        pytest.skip(f"no transform {name} here")
    size = 56
    for axis in (0, 1):
        length = (height, width)[axis]
        ramp = torch.linspace(0, 255, length).reshape((-1, 1) if axis == 0 else (1, -1)).expand(height, width)
        frame = ramp.round().to(torch.uint8)[None, ..., None].repeat(1, 1, 1, 3)
        shown = TRANSFORMS.get(name)(frame, size, None)[0, ..., 0].float()
        field = square(torch.stack([ramp, ramp])[None], height, width, name, size)[0, 0]
        field = field / (resized(name, height, width, size)[1] / width)
        assert (shown - field)[4:-4, 4:-4].abs().max() < 2.5


def test_the_geometry_of_the_card() -> None:
    assert resized("gslta-eval", 240, 320, 224) == (256, 341)
    assert box("gslta-eval", 240, 320, 224) == (16, 58)
    assert resized("clip-fsar-eval", 240, 320, 224) == (256, 256)
    assert box("clip-fsar-eval", 240, 320, 224) == (16, 16)
    assert resized("centre-crop", 320, 240, 112) == (149, 112)
    assert box("centre-crop", 320, 240, 112) == (18, 0)
    with pytest.raises(UsageError, match="evaluation transform"):
        resized("gslta-train", 240, 320, 224)


# Colours


def test_the_wheel_is_torchvisions_on_one_frame() -> None:
    from torchvision.utils import flow_to_image

    field = field_of(2, 40, 50, scale=5.0)
    ours, theirs = flow_image(field, scale="per_frame_max"), flow_to_image(field)
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01


def test_a_frame_is_coloured_the_same_alone_and_beside_others() -> None:
    field = torch.stack([field_of(2, 20, 20), field_of(2, 20, 20, seed=1) * 10, torch.zeros(2, 20, 20)])
    for style in ("wheel", "uvm", "uv"):
        for scale in ("fixed", "per_frame_max"):
            together = flow_image(field, style, scale)
            assert together.shape == (3, 3, 20, 20)
            assert together.dtype == torch.uint8
            for one, alone in zip(field, together, strict=True):
                assert torch.equal(flow_image(one, style, scale), alone)


def test_still_frames_are_white_and_directions_have_the_wheels_colours() -> None:
    assert (flow_image(torch.zeros(2, 8, 8)) == 255).all()
    assert (flow_image(torch.zeros(2, 8, 8), scale="per_frame_max") == 255).all()
    fast = 20 / 224 * 8
    for (u, v), strong, weak in (((1, 0), 0, 2), ((-1, 0), 2, 0), ((0, 1), 0, 2), ((0, -1), 2, 0)):
        colour = flow_image(torch.tensor([u * fast, v * fast])[:, None, None].expand(2, 8, 8) * 0.999)[:, 0, 0].int()
        assert colour[strong] > colour[weak] + 60, (u, v, colour)


def test_the_fixed_scale_shows_speed_and_the_scale_by_frame_hides_it() -> None:
    field = field_of(2, 30, 30, scale=1.0)
    assert torch.equal(flow_image(field, scale="per_frame_max"), flow_image(field / 64, scale="per_frame_max"))
    slow, fast = flow_image(field / 64).float().mean(), flow_image(field).float().mean()
    assert slow > fast + 10


def test_beyond_full_speed_the_colour_is_darker() -> None:
    direction = torch.tensor([0.6, 0.8])[:, None, None].expand(2, 224, 224)
    at, beyond = flow_image(direction * 19.999)[:, 0, 0].float(), flow_image(direction * 21)[:, 0, 0].float()
    assert torch.allclose(beyond, at * 0.75, atol=1.5)


def test_the_plain_channels() -> None:
    field = torch.tensor([20.0, -40.0])[:, None, None].expand(2, 224, 224)
    assert flow_image(field, "uv")[:, 0, 0].tolist() == [255, 0, 128]
    slow = torch.tensor([5.0, 0.0])[:, None, None].expand(2, 224, 224)
    assert flow_image(slow, "uvm")[:, 0, 0].tolist() == [round(255 * 0.625), 128, round(255 * 0.25 / 2**0.5)]


def test_colouring_takes_float_fields_and_known_names() -> None:
    with pytest.raises(UsageError, match="float fields"):
        flow_image(torch.zeros(2, 4, 4, dtype=torch.int16))
    with pytest.raises(UsageError, match="flow picture style 'weel'; known: uv, uvm, wheel"):
        flow_image(torch.zeros(2, 4, 4), "weel")  # type: ignore[arg-type]
