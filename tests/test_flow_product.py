"""Flow through the extraction run: which frames are paired, what is stored, and that it depends on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from stores import contents

from cache.store import open_store
from extract.config import ExtractConfig
from extract.flow import flow_estimator
from extract.flow_field import pixels
from extract.flow_product import FlowProduct
from extract.flow_settings import FlowSettings
from extract.run import extract
from fsar_cache.errors import UsageError
from splits.types import Part, Split, Video

HEIGHT, WIDTH, SPEED = 128, 160, (2, 1)
CONFIG = ExtractConfig(kind="flow", frames=4, size=64, workers=1, device="cpu", max_failures=1.0)
LENGTHS = {"long": 16, "short": 3, "two": 2, "one": 1}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_clip(path: Path, frames: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    """A picture that moves by SPEED pixels a frame, to the right and downwards."""
    rng = np.random.default_rng(frames)
    drawn = sum(cv2.GaussianBlur(rng.normal(size=(height + 64, width + 64)), (0, 0), s) * s for s in (2, 4, 8))
    whole = np.clip(128 + 60 * drawn / drawn.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "4", "x264-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            top, left = 32 - SPEED[1] * i, 48 - SPEED[0] * i
            frame = np.ascontiguousarray(whole[top : top + height, left : left + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("moving")
    for name, frames in LENGTHS.items():
        write_clip(folder / f"{name}.mp4", frames)
    write_clip(folder / "tiny.mp4", 8, 24, 60)
    videos = tuple(Video(name, "move", f"{name}.mp4") for name in [*LENGTHS, "tiny"])
    return Split("moving", folder, {"train": Part("train", ("move",), videos)})


def rows_of(split: Split, config: ExtractConfig, folder: Path) -> tuple[torch.Tensor, dict[str, str]]:
    done = extract(split, config, folder)
    with open_store(done.path) as store:
        return torch.from_numpy(store.load()), dict(done.failed)


def plain_pairs(frames: int, sampling: list[int], settings: FlowSettings) -> list[tuple[int, int]]:
    """The pairs of the card, in words: a frame with the one `stride` later; the last with the pair that ends on it."""
    if settings.pair == "next_sampled":
        steps = list(pairwise(sampling))
        return [*steps, steps[-1]]
    return [
        (i, i + settings.stride) if i + settings.stride < frames else (frames - 1 - settings.stride, frames - 1)
        for i in sampling
    ]


@pytest.mark.parametrize("pair", ["next_native", "next_sampled"])
@pytest.mark.parametrize("stride", [1, 3])
def test_rows_are_what_a_plain_loop_over_the_pairs_gives(split: Split, tmp_path: Path, pair: str, stride: int) -> None:
    flow = FlowSettings(pair=pair, stride=stride)  # type: ignore[arg-type]
    rows, _ = rows_of(split, replace(CONFIG, flow=flow, sampling="uniform"), tmp_path)
    with av.open(str(split.root / "long.mp4")) as file:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    estimate = flow_estimator(flow)
    for t, (a, b) in enumerate(plain_pairs(16, [0, 5, 10, 15], flow)):
        field = estimate(frames[a][None], frames[b][None])[0].numpy()
        small = np.stack([cv2.resize(plane, (91, 73), interpolation=cv2.INTER_AREA) for plane in field])
        small *= np.array([91 / 160, 73 / 128], np.float32)[:, None, None]
        expected = small[:, 4:68, 14:78]  # the central 64 x 64 of 73 x 91, offsets 4.5 and 13.5 rounded to even
        assert np.abs(pixels(rows[0, t]).numpy() - expected).max() <= 1 / 128 + 1e-4


def test_the_motion_of_the_clip_is_stored_in_pixels_of_the_stored_grid(split: Split, tmp_path: Path) -> None:
    rows, _ = rows_of(split, CONFIG, tmp_path)
    assert rows.shape == (5, 4, 2, 64, 64)
    assert rows.dtype == torch.int16
    for t in range(4):
        u, v = pixels(rows[0, t])[:, 8:-8, 8:-8].flatten(1).median(1).values
        assert u == pytest.approx(SPEED[0] * 91 / 160, abs=0.1)
        assert v == pytest.approx(SPEED[1] * 73 / 128, abs=0.1)


def test_clips_too_short_for_a_pair_do_not_move_and_small_pictures_fail_alone(split: Split, tmp_path: Path) -> None:
    rows, failed = rows_of(split, replace(CONFIG, flow=FlowSettings(stride=2)), tmp_path)
    names = [*LENGTHS, "tiny"]
    moving = [bool(row.any()) for row in rows]
    assert dict(zip(names, moving, strict=True)) == {
        "long": True,
        "short": True,
        "two": True,
        "one": False,
        "tiny": False,
    }
    assert list(failed) == ["tiny"]
    assert "at least 32 pixels a side, got 24 x 60" in failed["tiny"]


@pytest.mark.parametrize("pair", ["next_native", "next_sampled"])
def test_a_clip_of_one_frame_is_still(split: Split, pair: str) -> None:
    product = FlowProduct(replace(CONFIG, frames=1, flow=FlowSettings(pair=pair)))  # type: ignore[arg-type]
    frames = torch.randint(0, 256, (1 + (pair == "next_native"), 64, 64, 3), dtype=torch.uint8)
    row = product.clip(frames[:1].expand(len(frames), -1, -1, -1), "x", 0)
    assert row.shape == (1, 2, 64, 64)
    assert not row.any()


def test_bytes_do_not_depend_on_workers_and_batches_and_a_second_run_makes_nothing(
    split: Split, tmp_path: Path
) -> None:
    one = extract(split, CONFIG, tmp_path / "a")
    other = extract(split, replace(CONFIG, workers=2, batch_clips=3), tmp_path / "b")
    assert one.path.name == other.path.name
    blocks = [
        {name: data for name, data in contents(done.path).items() if name.startswith("features/")}
        for done in (one, other)
    ]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) > 1
    again = extract(split, CONFIG, tmp_path / "a")
    assert (again.made, again.skipped) == (0, 5)


def test_large_frames_are_shrunk_first_and_the_field_has_the_stored_geometry() -> None:
    """The same motion seen at twice the size gives about the same row: it is computed at flow.size and stored on one grid."""
    product = FlowProduct(replace(CONFIG, flow=FlowSettings(size=128)))
    rng = np.random.default_rng(0)
    whole = cv2.GaussianBlur(rng.normal(size=(320, 384)), (0, 0), 5)
    whole = np.clip(128 + 60 * whole / whole.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    large = torch.from_numpy(np.stack([whole[32 - 2 * i : 288 - 2 * i, 32 - 4 * i : 352 - 4 * i] for i in (0, 1)] * 4))
    row = pixels(product.clip(large, "x", 0))
    u, v = row[0, :, 8:-8, 8:-8].flatten(1).median(1).values
    assert u == pytest.approx(4 * 91 / 320, abs=0.1)
    assert v == pytest.approx(2 * 73 / 256, abs=0.1)


def test_raft_runs_through_the_same_extraction(split: Split, tmp_path: Path) -> None:
    flow = FlowSettings(estimator="raft_small", raft_weights="random:0", raft_updates=1, pair="next_sampled")
    few = Split(split.name, split.root, {"train": Part("train", ("move",), split.parts["train"].videos[:1])})
    rows, failed = rows_of(few, replace(CONFIG, frames=2, flow=flow), tmp_path)
    assert not failed
    assert rows.shape == (1, 2, 2, 64, 64)
    assert rows.any()
    assert torch.equal(rows[0, 0], rows[0, 1])


def test_the_identity_holds_what_decides_bytes() -> None:
    spec = FlowProduct(CONFIG).spec
    assert (spec.kind, spec.cut, spec.dtype, spec.shape) == ("flow", "flow", "int16", (4, 2, 64, 64))
    assert spec.sampling == {"rule": "gslta-test", "frames": 4, "pair": "next_native", "stride": 1}
    assert spec.backbone["library"] == f"opencv {cv2.__version__}"
    assert spec.backbone["name"] == "dis_medium"
    assert spec.backbone["settings"]["variational_steps"] == 5
    changes = [{"estimator": "dis_fast"}, {"pair": "next_sampled"}, {"stride": 2}, {"size": 128}]
    prints = {FlowProduct(replace(CONFIG, flow=FlowSettings(**c))).spec.fingerprint for c in changes}  # type: ignore[arg-type]
    assert len(prints | {spec.fingerprint}) == 5
    alike = [FlowSettings(raft_updates=3), FlowSettings(raft_weights="random:9")]
    assert {FlowProduct(replace(CONFIG, flow=flow)).spec.fingerprint for flow in alike} == {spec.fingerprint}
    sampled = [FlowSettings(pair="next_sampled", stride=stride) for stride in (1, 2)]
    assert len({FlowProduct(replace(CONFIG, flow=flow)).spec.fingerprint for flow in sampled}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float16"}, "int16"),
        ({"precision": "bfloat16"}, "float32"),
        ({"transform": "gslta-train"}, "evaluation transform"),
        ({"sampling": "gslta-train"}, "generator"),
        ({"flow": FlowSettings(estimator="raft_large", size=64)}, "at least 128"),
    ],
)
def test_settings_that_flow_has_no_use_for_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FlowProduct(replace(CONFIG, **change))  # type: ignore[arg-type]
