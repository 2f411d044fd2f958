"""Decoding on a GPU as far as it goes without one: frame choice, colours and refusals, with libraries played by a CPU decoder.

What only a GPU can tell (whether NVDEC's pictures are the CPU's) is measured by bench/bench_nvdec.py.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import videos

from cache.spec import FeatureSpec
from extract import decode_nvdec
from extract.decode_pyav import decode_pyav
from extract.decoders import Span, decode, pixels_of, usable
from extract.probe import DecodeError
from fsar_cache.errors import MissingError

N, SIZE = 45, (128, 96)
COLOURS = {
    "untagged": {},
    "bt709": {"codec_options": {"x264-params": "log-level=none:colormatrix=bt709:colorprim=bt709:transfer=bt709"}},
    "full range": {"pixels": "yuvj420p"},
}


def planar(path: Path) -> list[np.ndarray]:
    """Every picture as it is coded, uint8 [H * 3/2, W]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def nv12(picture: np.ndarray) -> np.ndarray:
    """The same samples as the GPU hands them out: the two chroma planes interleaved."""
    height = picture.shape[0] * 2 // 3
    u, v = np.split(picture[height:].ravel(), 2)
    return np.concatenate([picture[:height].ravel(), np.stack([u, v], 1).ravel()])


class FakePyNvVideoCodec(ModuleType):
    """The part of the package that is used: frames in host memory, repeated indices given once, as the real one does."""

    OutputColorType = SimpleNamespace(NATIVE="native", RGB="rgb")
    asked: list[list[int]]
    lost = 0
    error: Exception | None = None

    def SimpleDecoder(self, path: str, *, gpu_id: int, use_device_memory: bool, output_color_type: str) -> Any:  # noqa: N802
        assert isinstance(path, str)
        assert (gpu_id, use_device_memory, output_color_type) == (0, False, "native")
        return FakeReader(self, [nv12(p) for p in planar(Path(path))])


class FakeReader:
    def __init__(self, owner: FakePyNvVideoCodec, data: list[np.ndarray]) -> None:
        self.owner, self.data = owner, data

    def __len__(self) -> int:
        return len(self.data) - self.owner.lost

    def get_batch_frames_by_index(self, indices: list[int]) -> list[Any]:
        assert all(isinstance(i, int) for i in indices)
        if self.owner.error is not None:
            raise self.owner.error
        self.owner.asked.append(indices)
        return [FakeFrame(self.data[i]) for i in sorted(set(indices))]


class FakeFrame:
    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def framesize(self) -> int:
        return self.data.nbytes

    def GetPtrToPlane(self, plane: int) -> int:  # noqa: N802
        assert plane == 0
        return self.data.ctypes.data_as(ctypes.c_void_p).value or 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakePyNvVideoCodec:
    monkeypatch.setattr(decode_nvdec, "require_gpu", lambda: None)
    fake = FakePyNvVideoCodec("PyNvVideoCodec")
    fake.asked = []
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", fake)
    return fake


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return lambda suffix=".mp4", codec="libx264", **how: videos.write(
        tmp_path / f"clip{suffix}", codec, N, size=how.pop("size", SIZE), **how
    )


@pytest.mark.parametrize("colours", COLOURS)
def test_frames_and_colours_are_the_cpus_where_the_gpu_decodes_the_same(
    colours: str, gpu: FakePyNvVideoCodec, write: Callable[..., Path]
) -> None:
    path = write(bframes=2, **COLOURS[colours])
    for wanted in ([0, 3, 3, 44], [40, 7, 20], [44]):
        got = decode(path, lambda n, w=wanted: np.array(w), decoder="nvdec")
        truth = decode_pyav(path, lambda n, w=wanted: np.array(w), Span())
        assert np.array_equal(got.frames, truth.frames)
        assert (got.decoded, got.claimed, got.corrupt, got.duration) == (N, N, 0, truth.duration)
        assert gpu.asked.pop() == sorted({0, *wanted})  # nothing else is decoded or converted


def test_colour_tags_matter(
    gpu: FakePyNvVideoCodec, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would pass without them."""
    path = write(**COLOURS["bt709"])
    real = decode_nvdec.rgb_of_nv12
    monkeypatch.setattr(decode_nvdec, "rgb_of_nv12", lambda data, **k: real(data, **{**k, "colorspace": 5}))
    got = decode(path, np.arange, decoder="nvdec").frames
    assert not np.array_equal(got, decode_pyav(path, np.arange, Span()).frames)


def test_spans_choose_the_same_frames(gpu: FakePyNvVideoCodec, write: Callable[..., Path]) -> None:
    path = write(pts=lambda i: i + 125)
    got = decode(path, lambda n: np.array([0, n - 1]), decoder="nvdec", start=0.4, end=1.0)
    assert videos.numbers_of(got.frames) == [10, 24]


@pytest.mark.parametrize(
    ("suffix", "codec", "how", "why"),
    [
        (".mp4", "libx264", {"pixels": "yuv444p"}, "pixel format yuv444p"),
        (".mp4", "libx264", {"pixels": "yuv420p10le"}, "pixel format yuv420p10le"),
        (".avi", "mpeg4", {"bframes": 2}, "AVI with B-frames"),
        (".ts", "libx264", {}, "container mpegts"),
        (".mp4", "mpeg1video", {}, "codec mpeg1video"),
    ],
)
def test_doubtful_files_are_refused(
    suffix: str, codec: str, how: dict[str, Any], why: str, gpu: FakePyNvVideoCodec, write: Callable[..., Path]
) -> None:
    with pytest.raises(DecodeError, match=f"nvdec is not exact on this file: .*{why}") as caught:
        decode(write(suffix, codec, **how), np.arange, decoder="nvdec")
    assert caught.value.hint == "use --decoder auto"
    assert gpu.asked == []


def test_turned_pictures_are_refused(gpu: FakePyNvVideoCodec, write: Callable[..., Path]) -> None:
    for matrix in ((0, 1, -1, 0), (-1, 0, 0, 1)):
        with pytest.raises(DecodeError, match="its first picture differs"):
            decode(write(matrix=matrix), np.arange, decoder="nvdec")


def test_what_the_library_gets_wrong_is_noticed(
    gpu: FakePyNvVideoCodec, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    gpu.lost = 1
    with pytest.raises(DecodeError, match="nvdec finds 44 frames and gave 45 of 45, the file shows 45"):
        decode(path, np.arange, decoder="nvdec")
    gpu.lost, gpu.error = 0, Exception("HW decoder faced error.\nRe-create instance.")
    with pytest.raises(DecodeError, match=r"clip.mp4: nvdec gave up: HW decoder faced error. Re-create instance."):
        decode(path, np.arange, decoder="nvdec")
    gpu.error = None
    monkeypatch.setattr(FakeFrame, "framesize", lambda self: 7)
    with pytest.raises(DecodeError, match="nvdec gave 7 bytes for a picture of 18432"):
        decode(path, np.arange, decoder="nvdec")


def test_torchcodec_is_asked_for_the_same(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    truth = decode_pyav(path, np.arange, Span()).frames

    class VideoDecoder:
        cpu_fallback = False

        def __init__(self, source: str, *, dimension_order: str, device: str, seek_mode: str) -> None:
            assert (source, dimension_order, device, seek_mode) == (str(path), "NHWC", "cuda", "exact")

        def __len__(self) -> int:
            return N

        def get_frames_at(self, *, indices: list[int]) -> Any:
            import torch

            return SimpleNamespace(data=torch.from_numpy(truth[indices]))

    fake = ModuleType("torchcodec.decoders")
    monkeypatch.setattr(decode_nvdec, "require_gpu", lambda: None)
    monkeypatch.setattr(fake, "VideoDecoder", VideoDecoder, raising=False)
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    got = decode(path, lambda n: np.array([9, 2, 9]), decoder="nvdec-torchcodec")
    assert np.array_equal(got.frames, truth[[9, 2, 9]])
    VideoDecoder.cpu_fallback = True
    with pytest.raises(DecodeError, match="the GPU doesn't decode this file"):
        decode(path, np.arange, decoder="nvdec-torchcodec")


# Without what it needs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["nvdec", "nvdec-torchcodec"])
def test_without_its_package(
    decoder: str, gpu: FakePyNvVideoCodec, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {"nvdec": "PyNvVideoCodec", "nvdec-torchcodec": "torchcodec"}[decoder]
    monkeypatch.setitem(sys.modules, package, None)
    for call in (lambda: usable(decoder), lambda: decode(write(), np.arange, decoder=decoder)):
        with pytest.raises(MissingError, match=f"{package} can't be imported") as caught:
            call()
        assert str(caught.value.hint) == f"pip install {package}, or use --decoder auto"


def test_without_a_driver_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    class Driver:
        def __init__(self, name: str) -> None:
            pass

        def cuInit(self, flags: int) -> int:  # noqa: N802
            return 100

    monkeypatch.setattr(decode_nvdec.ctypes, "CDLL", none)
    with pytest.raises(MissingError, match="needs the NVIDIA driver with its video library: libcuda"):
        usable("nvdec")
    monkeypatch.setattr(decode_nvdec.ctypes, "CDLL", Driver)
    with pytest.raises(MissingError, match="the driver finds none") as caught:
        usable("nvdec")
    assert (caught.value.exit_code, caught.value.hint) == (3, "use --decoder auto")


def test_its_stores_are_its_own() -> None:
    """Three contracts, known without a GPU; a store's fingerprint tells them apart."""
    specs = [
        FeatureSpec("features", pixels_of(name), {}, {}, {}, "pooled", (2, 4), "float32")
        for name in ("auto", "nvdec", "nvdec-torchcodec")
    ]
    assert len({spec.fingerprint for spec in specs}) == 3
