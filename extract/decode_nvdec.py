"""Decoding on an NVIDIA GPU (NVDEC), through PyNvVideoCodec ("nvdec") or torchcodec ("nvdec-torchcodec"), for sound files.

Their pixels are contracts of their own, so their stores never mix with those of CPU decoders: PyNvVideoCodec's pictures come as NV12 and
become RGB the way PyAV does it, torchcodec's are converted on the GPU by its own rule. The GPU is the first visible one
(CUDA_VISIBLE_DEVICES says which).
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray

from extract.decode_pyav import decode_pyav
from extract.decoders import DECODERS, Choose, Decoded, Span, chosen, usable
from extract.probe import DecodeError, doubts, open_video, probe, reason
from fsar_cache.errors import MissingError

Picture = NDArray[np.uint8]
Read = Callable[[Path, list[int]], tuple[int, list[Picture]]]
"""(file, positions of frames, sorted, each once) -> frames in the file by the library's count, those pictures [H, W, 3]."""

HINT = "use --decoder auto"
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""What NVDEC decodes of the codecs that give one frame per packet; older GPUs lack some, and then it gives up on the file."""
CLOSE = 6.0
"""Mean grey levels by which a file's first picture may differ from the CPU's; other frames, turned ones or other colours differ by more."""


def require_gpu() -> None:
    """MissingError without the NVIDIA driver, its video library, or a GPU."""
    count = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        raise MissingError(
            f"nvdec needs the NVIDIA driver with its video library: {reason(error)}", hint=HINT
        ) from error
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise MissingError("nvdec needs an NVIDIA GPU: the driver finds none", hint=HINT)


@DECODERS.add("nvdec")
def decode_nvdec(path: Path, choose: Choose, span: Span) -> Decoded:
    """Decode on the GPU through PyNvVideoCodec; see `decode_on_gpu`."""
    return decode_on_gpu(path, choose, span, "nvdec", _by_pynvvideocodec)


@DECODERS.add("nvdec-torchcodec")
def decode_torchcodec(path: Path, choose: Choose, span: Span) -> Decoded:
    """Decode on the GPU through torchcodec; see `decode_on_gpu`."""
    return decode_on_gpu(path, choose, span, "nvdec-torchcodec", _by_torchcodec)


def decode_on_gpu(path: Path, choose: Choose, span: Span, decoder: str, read: Read) -> Decoded:
    """The frames that `read` gives, for the decoder of that name; damaged ones can't be told.

    Refuses (DecodeError) files whose frame i isn't known for sure, and those whose first picture isn't about the CPU's.
    """
    seen = probe(path)
    why = list(doubts(seen, CODECS))
    if why:
        raise DecodeError(f"{path.name}: nvdec is not exact on this file: {'; '.join(why)}", hint=HINT)
    picked = chosen(choose, span.positions(seen.times, path.name))
    wanted = sorted({0, *picked.tolist()})
    usable(decoder)
    try:
        count, pictures = read(path, wanted)
    except (MemoryError, DecodeError):
        raise
    except Exception as error:  # the libraries raise plain Exceptions of their own making
        raise DecodeError(f"{path.name}: nvdec gave up: {reason(error)}", hint=HINT) from error
    if (count, len(pictures)) != (len(seen.pts), len(wanted)):
        gave = f"finds {count} frames and gave {len(pictures)} of {len(wanted)}"
        raise DecodeError(f"{path.name}: nvdec {gave}, the file shows {len(seen.pts)}", hint=HINT)
    _require_first(path, pictures[0])
    kept = dict(zip(wanted, pictures, strict=True))
    return Decoded(np.stack([kept[i] for i in picked.tolist()]), len(seen.pts), seen.claimed, 0, seen.duration)


def _require_first(path: Path, first: Picture) -> None:
    """Refuse the file where its first picture is not about what the CPU decodes: turned by a rotation tag, other colours."""
    truth = decode_pyav(path, lambda n: np.zeros(1, np.int64), Span()).frames[0]
    off = np.abs(first.astype(np.int16) - truth).mean() if first.shape == truth.shape else np.inf
    if off > CLOSE:
        raise DecodeError(f"{path.name}: nvdec is not exact on this file: its first picture differs", hint=HINT)


def _by_pynvvideocodec(path: Path, wanted: list[int]) -> tuple[int, list[Picture]]:
    nvc = importlib.import_module("PyNvVideoCodec")
    reader = nvc.SimpleDecoder(
        str(path), gpu_id=0, use_device_memory=False, output_color_type=nvc.OutputColorType.NATIVE
    )
    container, stream = open_video(path)
    with container:
        context = stream.codec_context
        width, height = context.width, context.height
        colours = {"colorspace": context.colorspace, "color_range": context.color_range}
    pictures = []
    for frame in reader.get_batch_frames_by_index(wanted):
        size = height * 3 // 2 * width
        if frame.framesize() != size:
            raise DecodeError(f"{path.name}: nvdec gave {frame.framesize()} bytes for a picture of {size}", hint=HINT)
        data = np.frombuffer(ctypes.string_at(frame.GetPtrToPlane(0), size), np.uint8)
        pictures.append(rgb_of_nv12(data.reshape(-1, width), pixels=str(context.pix_fmt), **colours))
    return len(reader), pictures


def rgb_of_nv12(data: Picture, *, pixels: str, colorspace: int, color_range: int) -> Picture:
    """The picture in the NV12 rows `data` [H * 3/2, W] as RGB [H, W, 3], by the conversion PyAV uses for planar pictures of `pixels`."""
    height, width = data.shape[0] * 2 // 3, data.shape[1]
    chroma = data[height:].reshape(-1, 2)
    planar = np.concatenate([data[:height].ravel(), chroma[:, 0], chroma[:, 1]]).reshape(-1, width)
    frame = av.VideoFrame.from_ndarray(planar, format=pixels)
    frame.colorspace, frame.color_range = colorspace, color_range
    return cast(Picture, frame.to_ndarray(format="rgb24", threads=1))


def _by_torchcodec(path: Path, wanted: list[int]) -> tuple[int, list[Picture]]:
    decoders = importlib.import_module("torchcodec.decoders")
    reader = decoders.VideoDecoder(str(path), dimension_order="NHWC", device="cuda", seek_mode="exact")
    frames = reader.get_frames_at(indices=wanted).data.cpu().numpy()
    if getattr(reader, "cpu_fallback", False):
        raise DecodeError(f"{path.name}: the GPU doesn't decode this file", hint=HINT)
    return len(reader), list(frames)
