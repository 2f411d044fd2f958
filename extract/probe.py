"""A cheap look at a video file: its packets are read, nothing is decoded.

Tells how many frames a sequential decode should give and when they are shown, and collects the reasons (`odd`) why a file's time
stamps can't be trusted to find frame i without decoding everything before it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from fsar_cache.errors import FsarError
from splits.frames import images, is_folder

Ints = NDArray[np.int64]
Seconds = NDArray[np.float64]

INDEXED = ("mov", "matroska", "avi")
"""Containers whose packets carry dependable time stamps and key-frame flags."""
ONE_TO_ONE = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""Codecs of which every packet of a sound file gives one frame."""
PLACEHOLDER = 20
"""MPEG-4 packets in AVI of fewer bytes are placeholders: of a dropped frame, or of a B-frame packed with its neighbour."""


class DecodeError(FsarError):
    """A video that gives no frames; the message names the file (without its folder) and the reason in one line."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(" ".join(message.split()), hint=hint)


@dataclass(frozen=True, eq=False)
class Probe:
    """What a file's container says.

    path; container and codec: FFmpeg's names; width, height: as stored, before rotation; pixels: FFmpeg's pixel format;
    rate: frames per second (0: unknown); claimed: frames the container claims (-1: it doesn't say); packets: video packets in the
    file, hidden ones included; pts: time stamps of the shown packets, sorted, in units of time_base; keys: those of key frames;
    leading: pictures shown before the key frame that precedes them in the file, so that they need the group before (open groups);
    duration: seconds (-1: unknown); odd: why frames can't be found by time stamp, empty for a sound file.
    """

    path: Path
    container: str
    codec: str
    width: int
    height: int
    pixels: str
    rate: float
    time_base: Fraction
    claimed: int
    packets: int
    pts: Ints
    keys: Ints
    leading: int
    duration: float
    odd: tuple[str, ...]

    @property
    def times(self) -> Seconds:
        """Seconds from the first shown frame to each shown frame, float64 [n]."""
        return seconds(self.pts, self.time_base)


def seconds(pts: Ints, time_base: Fraction) -> Seconds:
    """Seconds after the first of the sorted time stamps, float64 like `pts`; the nearest float to each exact quotient."""
    first = pts[0] if len(pts) else 0
    made: Seconds = (pts - first) * time_base.numerator / np.float64(time_base.denominator)
    return made


def open_video(path: Path) -> tuple[InputContainer, av.VideoStream]:
    """The opened file and its video stream, set to decode with one thread.

    Raises DecodeError where there is no file, no known container, or no video in it.
    """
    try:
        if not path.is_file():
            raise DecodeError(f"{path.name}: no such file")
        if path.stat().st_size == 0:
            raise DecodeError(f"{path.name}: the file is empty")
        container = av.open(f"file:{os.fspath(path)}", metadata_errors="replace")
    except MemoryError:
        raise  # PyAV's is an FFmpegError too, and says nothing about the file
    except (av.error.FFmpegError, OSError) as error:
        raise DecodeError(f"{path.name}: not a readable video: {reason(error)}") from error
    stream = container.streams.best("video")
    attached = stream is not None and stream.disposition & av.stream.Disposition.attached_pic
    if not isinstance(stream, av.VideoStream) or attached or container.format.name == "tty":
        kinds = ", ".join(sorted({s.type for s in container.streams if s is not stream}))
        container.close()
        raise DecodeError(f"{path.name}: no video stream in it, only {kinds or 'text or pictures'}")
    if stream.codec_context is None:
        container.close()
        raise DecodeError(f"{path.name}: there is no decoder for its codec")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


def file_size(path: Path | str) -> int:
    """Bytes of a video file, or of all images of a folder of frames, on disk or in a zip; -1 where there is none, or it can't be read."""
    try:
        if ".zip" not in os.fspath(path).lower():  # asked for every clip: most are plain files, which one look tells
            seen = os.stat(path)
            if not stat.S_ISDIR(seen.st_mode):
                return seen.st_size
        if is_folder(Path(path)):
            found = images(Path(path))
            return sum(found.values()) if found else -1
        return os.stat(path).st_size
    except OSError:
        return -1


def reason(error: BaseException) -> str:
    """One line that says what an FFmpeg or system error means."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def probe(path: Path) -> Probe:
    """Read every packet of `path`, decode none; a file looked at a moment ago that hasn't changed since is not read again.

    Raises DecodeError for a file that is missing, empty, not a video, or has no video packet.
    """
    container, stream = open_video(path)
    with container:
        return remembered(path, lambda: scan(path, container, stream))


_SEEN: dict[tuple[Path, int, int], Probe] = {}
_KEPT = 8


def remembered(path: Path, read: Callable[[], Probe]) -> Probe:
    """The probe of the file from one of the last calls, if its size and time of change are the same; else what `read` gives.

    Many clips may be spans of one long file: each would read all its packets again.
    """
    facts = path.stat()
    key = (path, facts.st_size, facts.st_mtime_ns)
    _SEEN[key] = seen = _SEEN.pop(key, None) or read()
    for oldest in list(_SEEN)[:-_KEPT]:
        _SEEN.pop(oldest, None)
    return seen


def scan(path: Path, container: InputContainer, stream: av.VideoStream) -> Probe:
    """The probe of an opened file; leaves the container at its end."""
    packets, broken = _packets(container, stream)
    if not packets:
        raise DecodeError(f"{path.name}: no video packet could be read{': ' if broken else ''}{broken}")
    shown = [p for p in packets if not p.discard]
    context = stream.codec_context
    kind, codec, claimed = container.format.name.split(",")[0], context.codec.canonical_name, stream.frames or -1
    odd = [f"damaged: {broken}"] * bool(broken) + list(_oddities(packets, kind, codec, claimed))
    return Probe(
        path=path,
        container=kind,
        codec=codec,
        width=context.width,
        height=context.height,
        pixels=context.pix_fmt or "unknown",
        rate=float(stream.average_rate or stream.guessed_rate or 0),
        time_base=stream.time_base or Fraction(1, 1000),
        claimed=claimed,
        packets=len(packets),
        pts=np.array(sorted(p.pts for p in shown if p.pts is not None), np.int64),
        keys=np.array(sorted(p.pts for p in shown if p.key and p.pts is not None), np.int64),
        leading=_leading(shown),
        duration=_duration(container, stream),
        odd=tuple(odd),
    )


class _Seen(NamedTuple):
    """What is kept of a packet."""

    pts: int | None
    dts: int | None
    key: bool
    discard: bool
    corrupt: bool
    size: int


def _packets(container: InputContainer, stream: av.VideoStream) -> tuple[list[_Seen], str]:
    """All packets in file order, and why reading ended before the end of the file ("" where it didn't)."""
    seen: list[_Seen] = []
    try:
        for p in container.demux(stream):
            if p.size:
                seen.append(_Seen(p.pts, p.dts, p.is_keyframe, p.is_discard, p.is_corrupt, p.size))
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        return seen, reason(error)
    return seen, ""


def _leading(shown: list[_Seen]) -> int:
    count, key = 0, None
    for packet in shown:
        if packet.key:
            key = packet.pts
        elif packet.pts is not None and key is not None and packet.pts < key:
            count += 1
    return count


def _oddities(packets: list[_Seen], container: str, codec: str, claimed: int) -> Iterator[str]:
    """Why the time stamps of these packets don't say which frame is the i-th."""
    if container not in INDEXED:
        yield f"container {container} has no dependable time stamps"
    if codec not in ONE_TO_ONE:
        yield f"codec {codec} is not known to give one frame per packet"
    if any(p.corrupt for p in packets):
        yield "the container flags damaged packets"
    shown = [p for p in packets if not p.discard]
    if len(shown) < len(packets):
        yield f"an edit list hides {len(packets) - len(shown)} frames"
    if claimed not in (-1, len(packets)):
        yield f"the container claims {claimed} frames and holds {len(packets)}"
    pts = [p.pts for p in shown if p.pts is not None]
    if len(pts) < len(shown):
        yield "packets without a time stamp"
        return
    if len(set(pts)) < len(pts):
        yield "two frames have one time stamp"
    if pts and min(pts) < 0:
        yield "negative time stamps"
    if pts and (not shown[0].key or min(pts) < pts[0]):
        yield "pictures before the first key frame"
    if container == "avi" and any(p.pts != p.dts or p.size < PLACEHOLDER for p in shown):
        yield "AVI with B-frames or placeholders has no true time stamps"


def _duration(container: InputContainer, stream: av.VideoStream) -> float:
    """Seconds the video lasts by its container's word; -1 where it doesn't say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else -1.0


def doubts(seen: Probe, codecs: Collection[str]) -> Iterator[str]:
    """Why a decoder that finds frames by number, and knows `codecs`, might give other ones or other pixels than a sequential decode."""
    yield from seen.odd
    if seen.codec not in codecs:
        yield f"codec {seen.codec}"
    if seen.leading:
        yield "open groups of pictures"
    if seen.pixels not in ("yuv420p", "yuvj420p"):
        yield f"pixel format {seen.pixels}"
    if seen.width % 2 or seen.height % 2:
        yield f"odd picture size {seen.width}x{seen.height}"
