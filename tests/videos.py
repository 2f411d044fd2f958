"""Test clips whose frame number is drawn into the picture, so that which frame a decoder returned can be read off its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
BITS = 10
WIDTH, HEIGHT = 176, 144


def picture(number: int, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Pixels:
    """Frame `number` [height, width, 3]: moving texture, and BITS black or white cells across the top quarter, lowest bit left."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + number / 3), np.cos(y / 7 - number / 5), np.sin((x + y) / 13 + number / 2)]
    texture = np.stack([120 + 60 * w for w in waves], -1) + rng.normal(0, 6, (height, width, 3))
    cells = (number >> (np.arange(width) * BITS // width)) & 1
    texture[: height // 4] = (cells * 200 + 28)[None, :, None]
    return np.clip(texture, 0, 255).astype(np.uint8)


def number_of(frame: Pixels) -> int:
    """The number drawn into `frame` [H, W, 3] by `picture`."""
    height, width = frame.shape[:2]
    strip = frame[2 : height // 4 - 2].mean((0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return int(((strip[centres] > 128).astype(int) << np.arange(BITS)).sum())


def numbers_of(frames: Iterable[Pixels]) -> list[int]:
    """`number_of` every frame."""
    return [number_of(f) for f in frames]


_OPTIONS = {
    "libx264": {"preset": "veryfast", "x264-params": "scenecut=0:log-level=none"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def write(
    path: Path,
    codec: str = "libx264",
    frames: int = 60,
    *,
    rate: int = 25,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    bframes: int = 0,
    gop: int = 12,
    pts: Callable[[int], int] = lambda i: i,
    ticks: int | None = None,
    pixels: str = "yuv420p",
    matrix: tuple[int, int, int, int] | None = None,
    rewrite: Callable[[list[av.Packet]], list[av.Packet]] = list,
    codec_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    format: str | None = None,
    paint: Callable[[int, int, int], Pixels] = picture,
) -> Path:
    """Write `frames` numbered pictures to `path`; its suffix (or `format`) names the container.

    pts(i): time of frame i in units of 1/ticks s (ticks: the rate unless told). matrix: (a, b, c, d) of the display matrix, which shows the
    point (x, y) at (a x + c y, b x + d y). `rewrite` may change the list of packets (in coding
    order). options: the muxer's.
    """
    with av.open(path, "w", format=format, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=_OPTIONS.get(codec, {}) | (codec_options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], pixels
        context = stream.codec_context
        context.time_base = Fraction(1, ticks or rate)
        context.gop_size, context.max_b_frames, context.bit_rate, context.thread_count = gop, bframes, 1_000_000, 1
        if matrix is not None:
            a, b, c, d = (n * 65536 for n in matrix)
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        packets: list[av.Packet] = []
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(paint(i, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = pts(i), context.time_base
            packets += stream.encode(frame)
        for packet in rewrite(packets + list(stream.encode(None))):
            packet.stream = stream
            output.mux(packet)
    return path


def packed(packets: list[av.Packet]) -> list[av.Packet]:
    """MPEG-4 packets as XviD and DivX packed them for AVI: each B-frame travels with the frame before it, an empty one takes its place.

    Wants packets with at most one B-frame in a row. The user data after the header tells the decoder that the stream is packed.
    """
    made: list[av.Packet] = []
    ahead = iter([*packets[1:], None])
    rest = iter(packets)
    for packet in rest:
        following = next(ahead)
        body = bytes(packet)
        if packet.is_keyframe:
            header, vop, picture_data = body.partition(b"\x00\x00\x01\xb6")
            body = header + b"\x00\x00\x01\xb2DivX503b1393p" + vop + picture_data
        bodies = [body]
        if following is not None and following.pts < packet.pts:
            bodies = [body + bytes(next(rest)), b"\x00\x00\x01\xb6\x51\x7f"]
            next(ahead)
        for each in bodies:
            copy = av.Packet(each)
            copy.pts = copy.dts = len(made)
            copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe and each is bodies[0]
            made.append(copy)
    return made


def late(hidden: int, first: int) -> Callable[[list[av.Packet]], list[av.Packet]]:
    """A cut without re-encoding: the packets from the key frame of picture `first` on, `hidden` of whose frames lie before time 0."""

    def rewrite(packets: list[av.Packet]) -> list[av.Packet]:
        key = next(i for i, p in enumerate(packets) if p.pts == first and p.is_keyframe)
        for packet in packets[key:]:
            packet.pts, packet.dts = packet.pts - first - hidden, packet.dts - first - hidden
        return packets[key:]

    return rewrite


def damage(path: Path, share: float = 0.02, seed: int = 0) -> Path:
    """Invert `share` of the bytes in the second half of the file."""
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(data) // 2, len(data) * 9 // 10, int(len(data) * share)):
        data[place] ^= 0xFF
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep the first `share` of the file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
