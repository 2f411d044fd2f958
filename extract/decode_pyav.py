"""Decoding with PyAV: from key frames where the file's time stamps are sound, else sequentially from its start."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from numpy.typing import NDArray

from extract.decoders import DECODERS, Choose, Decoded, Span, chosen
from extract.probe import DecodeError, Probe, open_video, reason, remembered, scan, seconds

Picture = NDArray[np.uint8]


@DECODERS.add("pyav")
def decode_pyav(path: Path, choose: Choose, span: Span) -> Decoded:
    """Decode with PyAV; exact on every file that decodes sequentially."""
    container, stream = open_video(path)
    with container:
        probe = remembered(path, lambda: scan(path, container, stream))
        made = None if probe.odd else _by_index(container, stream, probe, choose, span)
    try:
        return made or _sequentially(probe, choose, span)
    except MemoryError:
        raise  # PyAV's is an FFmpegError too
    except (av.error.FFmpegError, OSError) as error:
        raise DecodeError(f"{path.name}: {reason(error)}") from error


def _by_index(
    container: InputContainer, stream: av.VideoStream, probe: Probe, choose: Choose, span: Span
) -> Decoded | None:
    """The wanted frames, found by time stamp; None at the first sign that the file isn't what its packets promise."""
    picked = probe.pts[chosen(choose, span.positions(probe.times, probe.path.name))]
    wanted = np.unique(picked)
    groups = probe.keys[np.searchsorted(probe.keys, wanted, "right") - 1]
    kept: dict[int, Picture] = {}
    try:
        for key in np.unique(groups):
            run = _run(container, stream, int(key), {int(p) for p in wanted[groups == key]})
            if run is None:
                return None
            kept |= run
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError):
        return None
    return _decoded([kept[int(p)] for p in picked], probe, len(probe.pts), 0)


def _run(container: InputContainer, stream: av.VideoStream, key: int, wanted: set[int]) -> dict[int, Picture] | None:
    """The frames with the time stamps `wanted`, decoded from the key frame at `key`; None where one is damaged or doesn't come."""
    container.seek(key, stream=stream)
    kept: dict[int, Picture] = {}
    waiting = set(wanted)
    skips = (
        stream.codec_context.name == "h264"
    )  # its non-reference pictures serve no other: skipping them changes nothing
    for number, packet in enumerate(container.demux(stream)):
        if number == 0 and (packet.pts is None or packet.pts > key):
            return None
        if skips:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        waiting.discard(packet.pts)
        frames = packet.decode()
        if not waiting and packet.size:
            frames += stream.codec_context.decode(None)
        for frame in frames:
            if frame.is_corrupt and (frame.pts is None or frame.pts >= key):
                return None
            if frame.pts in wanted:
                kept[frame.pts] = _rgb(frame)
        if not waiting:
            break
    return kept if len(kept) == len(wanted) else None


def _sequentially(probe: Probe, choose: Choose, span: Span) -> Decoded:
    """The wanted frames of a decode from the first packet on.

    The packets' count and time stamps are a guess at those of the frames. Where it was right one pass does, else a second one follows.
    """
    guess: set[int] = set()
    with suppress(DecodeError):
        guess |= set(_picked(list(probe.pts) + [None] * (probe.packets - len(probe.pts)), probe, choose, span))
    kept, stamps, damage = _pass(probe.path, guess)
    if not stamps:
        raise DecodeError(f"{probe.path.name}: no frame could be decoded; {probe.packets} packets, {damage} refused")
    picked = _picked(stamps, probe, choose, span)
    if not kept.keys() >= set(picked):
        kept, _, _ = _pass(probe.path, set(picked))
    return _decoded([kept[i] for i in picked], probe, len(stamps), damage)


def _picked(stamps: list[int | None], probe: Probe, choose: Choose, span: Span) -> list[int]:
    """Positions of the wanted frames among frames with these time stamps; where one is missing, the frame rate gives the times."""
    known = np.array(sorted(p for p in stamps if p is not None), np.int64)
    if len(known) == len(stamps):
        times = seconds(known, probe.time_base)
    elif probe.rate > 0:
        times = np.arange(len(stamps)) / probe.rate
    elif span == Span():
        times = np.arange(len(stamps), dtype=np.float64)  # in order is all that matters
    else:
        raise DecodeError(f"{probe.path.name}: has no times to cut by: frames without time stamps and no frame rate")
    made: list[int] = chosen(choose, span.positions(times, probe.path.name)).tolist()
    return made


def _pass(path: Path, wanted: set[int]) -> tuple[dict[int, Picture], list[int | None], int]:
    """Decode all of `path`: the frames at positions `wanted`, every frame's time stamp, and how many were damaged or refused."""
    container, stream = open_video(path)
    kept: dict[int, Picture] = {}
    stamps: list[int | None] = []
    damage = 0
    with container:
        for frame in _every_frame(container, stream, path.name):
            if frame is None or frame.is_corrupt:
                damage += 1
            if frame is not None:
                if len(stamps) in wanted:
                    kept[len(stamps)] = _rgb(frame)
                stamps.append(frame.pts)
    return kept, stamps, damage


def _every_frame(container: InputContainer, stream: av.VideoStream, name: str) -> Iterator[av.VideoFrame | None]:
    """Every frame in the order a sequential decode gives them; None for each packet that the decoder refuses.

    Refused packets at either end shorten the video. One between others would shift the numbers of all later frames: DecodeError.
    """
    packets = container.demux(stream)
    begun, refused = False, 0  # refused: the number of the first packet refused after one was accepted
    for number in itertools.count(1):
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except (av.error.FFmpegError, OSError):
            packet = None  # unreadable from here on, as in a truncated file: only what the decoder still holds remains
        last = packet is None or not packet.size
        try:
            frames = stream.codec_context.decode(None if last else packet)
        except av.error.EOFError:
            return
        except MemoryError:
            raise
        except av.error.FFmpegError:
            refused = refused or number * begun
            yield None
            frames = []
        else:
            begun = True
            if refused and not last:
                raise DecodeError(
                    f"{name}: damaged: packet {refused} can't be decoded, later ones can: frames are lost"
                )
        yield from frames
        if last:
            return


def _rgb(frame: av.VideoFrame) -> Picture:
    """A decoded frame as RGB, uint8 [H, W, 3], turned and mirrored as its display matrix says (in steps of 90 degrees)."""
    picture = cast(Picture, frame.to_ndarray(format="rgb24", threads=1))
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    # The point (x, y) goes to (a x + c y, b x + d y), in steps of 90 degrees.
    a, b, _, c, d = np.frombuffer(memoryview(cast(SideData, matrix)), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _decoded(pictures: list[Picture], probe: Probe, decoded: int, damage: int) -> Decoded:
    sizes = sorted({p.shape for p in pictures})
    if len(sizes) > 1:
        raise DecodeError(f"{probe.path.name}: the picture size changes from {sizes[0][1::-1]} to {sizes[-1][1::-1]}")
    return Decoded(np.stack(pictures), decoded, probe.claimed, damage, probe.duration)
