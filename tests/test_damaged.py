"""More than a hundred videos damaged at random places: none crashes or hangs a run, each ends with what is left or with its reason."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from PIL import Image

from cache.rows import Outcome, Row
from cache.store import open_store
from extract.backbone import build_backbone
from extract.clip import Decoded, Task
from extract.compute import Compute, Made, Slice
from extract.config import ExtractConfig, spec_of
from extract.pool import DecodePool, Failure
from extract.product import Product
from extract.run import extract
from splits.types import Part, Split, Video

N, SIZE, WANTED = 30, (96, 64), 6
LIMIT = 30.0
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "h264.mp4": ("libx264", {"bframes": 2, "options": {"movflags": "faststart"}}),
    "h264-long-gop.mkv": ("libx264", {"bframes": 3, "gop": 250}),
    "vp9.webm": ("libvpx-vp9", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "hevc.mp4": ("libx265", {"bframes": 2}),
}
KINDS = [*FILES, "frames", "frames.zip"]
WAYS = ("cut", "bit", "bits", "zeros")
SEEDS = range(4)


def spoil(data: bytes, way: str, rng: np.random.Generator) -> bytes:
    """`data` cut short, with one or forty bits flipped, or with a stretch of zeros, anywhere."""
    made = bytearray(data)
    if way == "cut":
        return data[: rng.integers(len(data))]
    if way == "zeros":
        start = int(rng.integers(len(data)))
        made[start : start + 300] = bytes(len(made[start : start + 300]))
        return bytes(made)
    for place in rng.integers(0, len(data) * 8, 1 if way == "bit" else 40):
        made[place // 8] ^= 1 << (place % 8)
    return bytes(made)


def write_sound(folder: Path) -> dict[str, Path]:
    """One sound video of each kind, of N numbered pictures."""
    made = {}
    for name, (codec, how) in FILES.items():
        made[name] = videos.write(folder / name, codec, N, size=SIZE, **how)
    made["frames"], made["frames.zip"] = folder / "frames", folder / "frames.zip"
    made["frames"].mkdir()
    with zipfile.ZipFile(made["frames.zip"], "w") as out:
        for i in range(N):
            image = made["frames"] / f"{i}.jpg"
            Image.fromarray(videos.picture(i, *SIZE)).save(image, quality=90)
            out.write(image, f"v/{image.name}")
    return made


def spoiled(sound: Path, way: str, seed: int, folder: Path) -> Path:
    """A damaged copy of a sound video; of a folder of frames every second image is damaged."""
    rng = np.random.default_rng([seed, WAYS.index(way), *sound.name.encode()])
    copy = folder / f"{way}{seed}-{sound.name}"
    if sound.is_dir():
        shutil.copytree(sound, copy)
        for image in sorted(copy.iterdir())[::2]:
            image.write_bytes(spoil(image.read_bytes(), way, rng))
    else:
        copy.write_bytes(spoil(sound.read_bytes(), way, rng))
    return copy


def clip_path(path: Path) -> Path:
    return path / "v" if path.suffix == ".zip" else path


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], Path]:
    """(kind, way, seed) -> a damaged video."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "sound").mkdir()
    sound = write_sound(folder / "sound")
    return {
        (kind, way, seed): spoiled(sound[kind], way, seed, folder) for kind in KINDS for way in WAYS for seed in SEEDS
    }


Ending = tuple[Any, ...]


def endings(paths: list[Path]) -> list[Ending]:
    """How each clip ends, in order: ("failed", reason) or ("ok", counts and a digest of the frames)."""
    with DecodePool(2, LIMIT) as many:
        got = dict(many.map(Task(clip_path(path), "uniform", WANTED) for path in paths))
    return [_ending(got[i]) for i in range(len(paths))]


def _ending(got: Decoded | Failure) -> Ending:
    if isinstance(got, Failure):
        return "failed", got.reason
    assert got.frames.dtype == np.uint8
    assert got.frames.shape[0] == WANTED
    return "ok", got.decoded, got.claimed, got.corrupt, hashlib.sha256(got.frames.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def first(damaged: dict[tuple[str, str, int], Path]) -> dict[tuple[str, str, int], Ending]:
    return dict(zip(damaged, endings(list(damaged.values())), strict=True))


def test_every_clip_ends_with_frames_or_one_line_that_says_why(first: dict[tuple[str, str, int], Ending]) -> None:
    assert len(first) >= 100
    for (kind, way, seed), ending in first.items():
        if ending[0] == "failed":
            reason = ending[1]
            assert reason, (kind, way, seed)
            assert "\n" not in reason
            # begins with the clip's name: neither of a lost process, nor of one over its limit, nor an error nobody thought of
            assert reason.startswith("v" if kind == "frames.zip" else f"{way}{seed}-{kind}"), reason
        else:
            assert 1 <= ending[1] <= N, (kind, way, seed)


def test_the_damage_is_felt(
    first: dict[tuple[str, str, int], Ending], damaged: dict[tuple[str, str, int], Path]
) -> None:
    folder = next(iter(damaged.values())).parent / "sound"
    whole = dict(zip(KINDS, endings([folder / kind for kind in KINDS]), strict=True))
    for kind in KINDS:
        assert whole[kind][:2] == ("ok", N)
        felt = [ending for (k, _, _), ending in first.items() if k == kind and ending != whole[kind]]
        assert len(felt) >= 8, (kind, len(felt))
    assert {"ok", "failed"} == {ending[0] for ending in first.values()}


def test_lost_frames_show_in_the_counts(first: dict[tuple[str, str, int], Ending]) -> None:
    for (kind, way, seed), ending in first.items():
        if ending[0] == "ok" and ending[1] < N and kind not in ("vp9.webm", "h264-long-gop.mkv"):  # these claim nothing
            _, decoded, claimed, corrupt, _ = ending
            assert corrupt > 0 or claimed > decoded, (kind, way, seed, ending)


def test_a_second_run_ends_the_same(
    damaged: dict[tuple[str, str, int], Path], first: dict[tuple[str, str, int], Ending]
) -> None:
    again = dict(zip(damaged, endings(list(damaged.values())), strict=True))
    assert again == first


class OnABrokenDevice(Product):
    """The step per clip fails, for `error`."""

    def __init__(self, error: Exception) -> None:
        self.spec = spec_of(ExtractConfig(cut="frames", size=8, frames=1), build_backbone("resnet18", "random:0"))
        self.clip_shape, self.clip_dtype, self._error = self.spec.shape, torch.uint8, error

    def to(self, device: torch.device) -> None: ...

    def task(self, root: Path, video: Video, view: int) -> Task:
        raise NotImplementedError

    def clip(self, frames: torch.Tensor, video: str, view: int) -> torch.Tensor:
        raise self._error

    def batch(self, clips: torch.Tensor) -> torch.Tensor:
        return clips


def test_an_error_of_the_device_is_not_the_clips() -> None:
    """It would be recorded for clip after clip; a picture that the transform can't take is that clip's own."""
    clip = Decoded(np.zeros((1, 8, 8, 3), np.uint8), 1, 1, 0, 1.0)

    def computed(error: Exception) -> list[Made]:
        with Compute(OnABrokenDevice(error), torch.device("cpu"), 1, threads=1) as compute:
            compute.put(compute.batch(Slice(0, 0, [Row("a", "c", "train")])), 0, clip)
            return list(compute.finished(wait=10.0))

    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        computed(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    ((outcome,),) = [made.outcomes for made in computed(RuntimeError("sizes don't match"))]
    assert outcome == Outcome("failed", "transform of [1, 8, 8, 3]: sizes don't match")


def split_of(paths: dict[tuple[str, str, int], Path]) -> Split:
    root = next(iter(paths.values())).parent
    listed = tuple(
        Video("-".join(map(str, key)), key[0], str(clip_path(path).relative_to(root))) for key, path in paths.items()
    )
    return Split("damaged", root, {"all": Part("all", tuple(sorted({v.label for v in listed})), listed)})


@pytest.fixture(scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_an_extraction_records_every_one_of_them(
    damaged: dict[tuple[str, str, int], Path], first: dict[tuple[str, str, int], Ending], tmp_path: Path
) -> None:
    config = ExtractConfig(
        cut="frames", size=32, frames=WANTED, sampling="uniform", workers=2, max_failures=1.0, time_limit=LIMIT
    )
    summary = extract(split_of(damaged), config, tmp_path)
    failed = {"-".join(map(str, key)): ending[1] for key, ending in first.items() if ending[0] == "failed"}
    assert dict(summary.failed) == failed
    assert summary.ok == len(damaged) - len(failed)
    with open_store(summary.path) as store:
        for number, ending in enumerate(first.values()):
            outcome = store.outcome(number)
            assert outcome is not None
            assert outcome.status == ending[0]
            if ending[0] == "ok":
                assert (outcome.decoded, outcome.claimed, outcome.corrupt) == ending[1:4]
            else:
                assert outcome.reason == ending[1]
