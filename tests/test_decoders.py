"""Every decoder returns the frames of a plain sequential decode, on every kind of file it accepts, or says why it doesn't."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract import decode_pyav, decoders
from extract.decoders import DECODERS, decode, usable
from extract.probe import DecodeError, open_video, probe
from extract.sampling import SAMPLING
from fsar_cache.errors import MissingError, UsageError

SMALL = (128, 96)
N = 45


@dataclass(frozen=True)
class Kind:
    """How to make a kind of file; the frame numbers it holds; whether decord is exact on it and the packets' time stamps are sound."""

    suffix: str
    make: Callable[[Path], Path]
    numbers: tuple[int, ...] = tuple(range(N))
    decord: bool = True
    sound: bool = True


def kind(
    suffix: str, codec: str = "libx264", frames: int = N, *, decord: bool = True, sound: bool = True, **how
) -> Kind:
    hidden = how.pop("numbers", None)
    how.setdefault("size", SMALL)
    numbers = tuple(range(frames)) if hidden is None else tuple(hidden)
    return Kind(suffix, lambda path: videos.write(path, codec, frames, **how), numbers, decord and sound, sound)


B = {"bframes": 2, "gop": 15}
OPEN = {"x264-params": "scenecut=0:log-level=none:open-gop=1:bframes=3:b-pyramid=normal"}
KINDS = {
    "h264 no B": kind(".mp4", gop=12),
    "h264 B": kind(".mp4", **B),
    "h264 B pyramid, long gop": kind(".mp4", bframes=5, gop=250),
    "h264 open gop": kind(".mp4", gop=10, bframes=3, codec_options=OPEN, decord=False),
    "h264 key frames only": kind(".mp4", gop=1),
    "h264 fragmented": kind(".mp4", **B, options={"movflags": "frag_keyframe+empty_moov"}),
    "h264 faststart": kind(".mp4", **B, options={"movflags": "faststart"}),
    "h264 five seconds late": kind(".mp4", **B, pts=lambda i: i + 125),
    "h264 matroska": kind(".mkv", **B),
    "h264 variable rate": kind(".mp4", **B, pts=lambda i: i * 40 + i * i % 31, ticks=1000),
    "h264 4:4:4, odd size": kind(".mp4", pixels="yuv444p", size=(129, 97), decord=False),
    "h264 10 bit": kind(".mp4", pixels="yuv420p10le", decord=False),
    "h264 edit list": kind(".mp4", **B, rewrite=videos.late(7, 15), numbers=range(22, N), sound=False),
    "h264 negative time": kind(
        ".mkv",
        **B,
        rewrite=videos.late(7, 15),
        options={"avoid_negative_ts": "disabled"},
        numbers=range(15, N),
        sound=False,
    ),
    "h264 transport stream": kind(".ts", **B, sound=False),
    "h264 raw": kind(".h264", **B, sound=False),
    "hevc open gop": kind(".mp4", "libx265", bframes=3, decord=False),
    "hevc": kind(".mp4", "libx265", bframes=3, codec_options={"x265-params": "log-level=none:open-gop=0"}),
    "vp9 webm": kind(".webm", "libvpx-vp9", gop=20),
    "vp9 webm alt-ref": kind(
        ".webm",
        "libvpx-vp9",
        gop=40,
        codec_options={"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"},
    ),
    "vp9 webm odd size": kind(".webm", "libvpx-vp9", size=(127, 95), decord=False),
    "mpeg4 avi": kind(".avi", "mpeg4"),
    "mpeg4 avi B": kind(".avi", "mpeg4", bframes=2, sound=False),
    "mpeg4 avi packed B": kind(".avi", "mpeg4", bframes=1, rewrite=videos.packed, sound=False),
    "mpeg4 mp4 B": kind(".mp4", "mpeg4", bframes=2, decord=False),
    "mpeg2 program stream": kind(".mpg", "mpeg2video", bframes=2, sound=False),
    "motion jpeg avi": kind(".avi", "mjpeg", pixels="yuvj420p", sound=False),
    "one frame": kind(".mp4", frames=1),
    "one frame avi": kind(".avi", "mpeg4", frames=1),
    "two frames webm": kind(".webm", "libvpx-vp9", frames=2),
    "five frames": kind(".mp4", frames=5, bframes=2),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return cache(lambda name: KINDS[name].make(folder / (name.replace(" ", "-") + KINDS[name].suffix)))


@cache
def reference(path: Path) -> list[tuple[float | None, np.ndarray]]:
    """(time, upright RGB picture) of every frame that PyAV's own loop gives, up to the first error."""
    made = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        try:
            for frame in container.decode(stream):
                made.append((frame.time, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)))
        except av.error.FFmpegError:
            pass
    return made


def pictures(path: Path) -> np.ndarray:
    return np.stack([picture for _, picture in reference(path)])


def choices(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {
        "all": np.arange(n),
        "uniform": SAMPLING.get("gslta-test")(n, 8, None),
        "random with repeats": rng.integers(0, n, 16),
        "last": np.array([n - 1]),
        "backwards": np.arange(n)[::-7].copy(),
    }


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_every_kind(name: str, decoder: str, clip: Callable[[str], Path]) -> None:
    path, truth = clip(name), np.array(KINDS[name].numbers)
    if decoder == "decord" and not KINDS[name].decord:
        with pytest.raises(DecodeError, match="decord is not exact on this file"):
            decode(path, np.arange, decoder=decoder)
        return
    for pattern, wanted in choices(len(truth)).items():
        asked: list[int] = []

        def choose(n: int, wanted: np.ndarray = wanted, asked: list[int] = asked) -> np.ndarray:
            asked.append(n)
            return wanted

        got = decode(path, choose, decoder=decoder)
        assert videos.numbers_of(got.frames) == truth[wanted].tolist(), pattern
        assert np.array_equal(got.frames, pictures(path)[wanted]), pattern
        assert asked[-1] == got.decoded == len(truth)
        assert got.claimed in (-1, len(truth)) or "edit list" in name
        assert got.corrupt == 0
        assert got.frames.flags.c_contiguous


@pytest.mark.parametrize("name", KINDS)
def test_sound_files_are_read_by_index_and_no_others(
    name: str, clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(name)
    seen = probe(path)
    assert (seen.odd == ()) == KINDS[name].sound, seen.odd
    passes = []
    real = decode_pyav._pass
    monkeypatch.setattr(decode_pyav, "_pass", lambda *a: passes.append(a) or real(*a))
    for _ in range(2):  # the second time the packets are not read again, which is what fills some containers' indices
        assert np.array_equal(
            decode(path, lambda n: np.array([n // 2])).frames[0], pictures(path)[len(pictures(path)) // 2]
        )
        assert bool(passes) != KINDS[name].sound


@pytest.mark.parametrize("name", ["h264 open gop", "hevc open gop", "mpeg4 mp4 B", "mpeg4 avi", "vp9 webm alt-ref"])
def test_each_frame_alone(name: str, clip: Callable[[str], Path]) -> None:
    """Leading pictures of an open group need the group before; a decode that starts too late would give another picture."""
    for i in range(N):
        assert np.array_equal(decode(clip(name), lambda n, i=i: np.array([i])).frames[0], pictures(clip(name))[i])


def test_a_seek_that_lands_too_late_is_noticed(clip: Callable[[str], Path]) -> None:
    class Late:
        """A container whose seeks end at the next key frame."""

        def seek(self, offset: int, *, stream: av.VideoStream) -> None:
            container.seek(int(keys[keys > offset][0]), stream=stream)

        def demux(self, stream: av.VideoStream) -> Iterator[av.Packet]:
            for packet in container.demux(stream):
                fed.append(packet.pts)
                yield packet

    fed: list[int | None] = []
    path = clip("h264 open gop")
    keys = probe(path).keys
    leading = int(probe(path).pts[np.searchsorted(probe(path).pts, keys[1]) - 1])
    container, stream = open_video(path)
    with container:
        assert decode_pyav._run(Late(), stream, int(keys[0]), {leading}) is None
        assert fed == [keys[1]]  # nothing was decoded from there
        assert decode_pyav._run(container, stream, int(keys[0]), {leading}) is not None


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codec=st.sampled_from(["libx264 .mp4", "libx264 .mkv", "mpeg4 .avi", "mpeg4 .mp4", "libvpx-vp9 .webm"]),
    frames=st.integers(1, 40),
    gop=st.integers(1, 40),
    bframes=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_any_group_structure(codec: str, frames: int, gop: int, bframes: int, seed: int, tmp_path: Path) -> None:
    name, suffix = codec.split()
    bframes = 0 if name == "libvpx-vp9" else bframes
    path = videos.write(
        tmp_path / f"{name}-{frames}-{gop}-{bframes}{suffix}", name, frames, gop=gop, bframes=bframes, size=(96, 64)
    )
    wanted = np.random.default_rng(seed).integers(0, frames, 6)
    assert videos.numbers_of(decode(path, lambda n: wanted).frames) == wanted.tolist()


# Spans --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "h264 B",
        "h264 five seconds late",
        "h264 variable rate",
        "h264 edit list",
        "mpeg4 avi packed B",
        "h264 transport stream",
        "vp9 webm",
    ],
)
@pytest.mark.parametrize("span", [(0.0, 0.4), (0.32, 0.6), (0.5, None), (None, 0.21), (0.041, 0.081)])
def test_spans_count_from_the_first_frame(
    name: str, span: tuple[float | None, float | None], clip: Callable[[str], Path]
) -> None:
    path = clip(name)
    times = np.sort([time for time, _ in reference(path)])
    low, high = span[0] or 0.0, span[1] or np.inf
    inside = np.flatnonzero((times - times[0] >= low - 1e-9) & (times - times[0] < high - 1e-9))
    asked: list[int] = []
    got = decode(path, lambda n: asked.append(n) or np.arange(n), start=span[0], end=span[1])
    assert asked[-1] == len(inside)
    assert np.array_equal(got.frames, pictures(path)[inside])
    assert got.decoded == len(times)


def test_frame_rate_gives_times_where_the_file_has_none(clip: Callable[[str], Path]) -> None:
    path = clip("h264 raw")
    rate = probe(path).rate
    got = decode(path, np.arange, start=10 / rate, end=20 / rate)
    assert videos.numbers_of(got.frames) == list(range(10, 20))


def test_a_span_without_times_and_rate_is_refused(clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip("h264 raw")
    blind = dataclasses.replace(probe(path), rate=0.0)
    monkeypatch.setattr(decode_pyav, "remembered", lambda *_: blind)
    with pytest.raises(DecodeError, match="has no times to cut by"):
        decode(path, np.arange, start=0.0, end=2.0)
    assert videos.numbers_of(decode(path, np.arange).frames) == list(range(N))


def test_spans_of_one_file_read_its_packets_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scans = videos.write(tmp_path / "long.mp4", frames=N, size=SMALL), []
    real = decode_pyav.scan
    monkeypatch.setattr(decode_pyav, "scan", lambda *a: scans.append(a[0]) or real(*a))
    for first in (0, 10, 20, 30):
        got = decode(path, np.arange, start=first / 25, end=(first + 10) / 25)
        assert videos.numbers_of(got.frames) == list(range(first, first + 10))
    assert len(scans) == 1
    videos.write(path, frames=7, size=SMALL)  # another file under the name is another file
    assert videos.numbers_of(decode(path, np.arange).frames) == list(range(7))
    assert len(scans) == 2


def test_want_of_memory_is_no_fault_of_the_file(clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise av.error.MemoryError(12, "Cannot allocate memory")

    monkeypatch.setattr(decoders, "has_room", lambda: False)
    monkeypatch.setattr(decode_pyav, "_rgb", full)
    for name in ("h264 B", "h264 raw"):  # by index, and sequentially
        with pytest.raises(MemoryError):
            decode(clip(name), np.arange)
    monkeypatch.setattr(av, "open", full)
    with pytest.raises(MemoryError):
        decode(clip("h264 B"), np.arange)


def test_a_header_that_asks_for_absurd_memory_is_the_files_fault(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", frames=5, size=SMALL, options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    data[data.index(b"avc1", data.index(b"stsd")) - 4] = 0x10  # the size of what describes the coding
    path.write_bytes(data)
    with pytest.raises(MemoryError), av.open(str(path)):
        pass
    with pytest.raises(DecodeError, match="asks for more memory than any video needs: damaged"):
        decode(path, np.arange)


def test_a_machine_without_memory_has_no_room() -> None:
    code = (
        "import resource; from extract.decoders import has_room; assert has_room();"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 27),) * 2); assert not has_room()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_empty_span(decoder: str, clip: Callable[[str], Path]) -> None:
    with pytest.raises(DecodeError, match=r"no frame in the span \[7, 9\) s; the last frame is at 1.760 s"):
        decode(clip("h264 B"), np.arange, decoder=decoder, start=7, end=9)


# Orientation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)]
)
def test_display_matrix_turns_and_mirrors(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    a, b, c, d = matrix
    path = videos.write(tmp_path / "turned.mp4", frames=4, size=SMALL, matrix=matrix)
    stored = pictures(videos.write(tmp_path / "stored.mp4", frames=4, size=SMALL))
    height, width = stored.shape[1:3]
    y, x = np.mgrid[:height, :width]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
    expected = np.zeros((4, shown_y.max() + 1, shown_x.max() + 1, 3), np.uint8)
    expected[:, shown_y, shown_x] = stored
    assert np.array_equal(decode(path, np.arange).frames, expected)
    if a * d - b * c == 1:  # a pure rotation, which PyAV names and decord applies
        assert np.array_equal(pictures(path), expected)
        assert np.array_equal(decode(path, np.arange, decoder="decord").frames, expected)
    else:
        with pytest.raises(DecodeError, match="its first picture differs"):
            decode(path, np.arange, decoder="decord")


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "codec", "how"),
    [
        (".mp4", "libx264", {**B, "options": {"movflags": "faststart"}}),
        (".avi", "mpeg4", {}),
        (".webm", "libvpx-vp9", {}),
    ],
)
def test_truncated_files_give_what_is_left(suffix: str, codec: str, how: dict, tmp_path: Path) -> None:
    path = videos.cut(videos.write(tmp_path / f"cut{suffix}", codec, N, size=SMALL, **how), 0.6)
    left = reference(path)
    got = decode(path, np.arange)
    assert N * 0.3 < got.decoded < N * 0.8
    numbers = videos.numbers_of(got.frames)[:-2]  # the last of them may be half a picture
    assert numbers == list(range(len(numbers)))
    assert np.array_equal(got.frames[: len(left)], [p for _, p in left])
    assert got.claimed == (-1 if suffix == ".webm" else N)
    assert got.corrupt == (0 if suffix == ".webm" else 1)
    if suffix != ".webm":
        with pytest.raises(DecodeError, match="the container claims 45 frames"):
            decode(path, np.arange, decoder="decord")


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4"), (".webm", "libvpx-vp9")])
def test_flipped_bytes_are_seen_or_end_the_clip(
    suffix: str, codec: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lost, seen = [], 0
    sound = videos.write(
        tmp_path / f"sound{suffix}",
        codec,
        N,
        size=SMALL,
        options={"movflags": "faststart"} if suffix == ".mp4" else None,
    )
    for seed in range(12):
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes(sound.read_bytes())
        videos.damage(path, 0.0005, seed)
        try:
            got = decode(path, np.arange)
        except DecodeError as error:
            lost.append(error.message)
            continue
        seen += got.corrupt > 0
        assert got.decoded == len(reference(path)) or not reference(path)
        assert np.array_equal(got.frames, pictures(path))
        if got.corrupt == 0 and suffix != ".webm":  # VP9 has nothing to tell damage by but an impossible stream
            assert np.abs(got.frames[: N // 3].astype(int) - pictures(sound)[: N // 3]).max() == 0
    assert all("damaged" in message for message in lost)
    assert seen + len(lost) >= (3 if suffix == ".webm" else 6)
    assert capfd.readouterr() == ("", "")


def test_damage_elsewhere_does_not_hinder_a_clip_found_by_index(tmp_path: Path) -> None:
    sound = videos.write(tmp_path / "sound.mp4", frames=N, size=SMALL, gop=5, options={"movflags": "faststart"})
    path = tmp_path / "damaged.mp4"
    path.write_bytes(sound.read_bytes())
    videos.damage(path, 0.01)
    got = decode(path, np.arange, start=0, end=0.4)
    assert videos.numbers_of(got.frames) == list(range(10))
    assert got.corrupt == 0


def bad_files(folder: Path) -> dict[str, Path]:
    """Files that hold no decodable video, by what is wrong with them."""
    made = {
        name: folder / name
        for name in ("empty.mp4", "missing.mp4", "text.mp4", "text.txt", "random.avi", "folder.mp4", "tone.mp4")
    }
    made["empty.mp4"].write_bytes(b"")
    made["text.mp4"].write_text("not a video\n" * 40)
    made["text.txt"].write_text("not a video\n" * 40)
    made["random.avi"].write_bytes(np.random.default_rng(0).bytes(9000))
    made["folder.mp4"].mkdir()
    with av.open(made["tone.mp4"], "w") as output:
        stream = output.add_stream("aac", rate=48000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 48000
        output.mux(stream.encode(tone))
        output.mux(stream.encode(None))
    coded = videos.write(folder / "coded.mp4", frames=5, size=SMALL).read_bytes()
    for name, code in (("unknown codec.mp4", b"zzzz"), ("wrong codec.mp4", b"mjp2")):
        made[name] = folder / name
        made[name].write_bytes(coded.replace(b"avc1", code))
    made["no index.mp4"] = videos.cut(videos.write(folder / "no index.mp4", frames=20, size=SMALL), 0.6)
    made["stub.avi"] = videos.cut(videos.write(folder / "stub.avi", "mpeg4", 20, size=SMALL), 0.09)
    return made


@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_files_without_video(decoder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = {
        "empty.mp4": "the file is empty",
        "missing.mp4": "no such file",
        "text.mp4": "not a readable video: Invalid data",
        "text.txt": "no video stream in it, only text or pictures",
        "random.avi": "not a readable video: Invalid data",
        "tone.mp4": "no video stream in it, only audio",
        "folder.mp4": "no image in it",
        "unknown codec.mp4": "there is no decoder for its codec",
        "wrong codec.mp4": "no frame could be decoded; 5 packets, 5 refused" if decoder == "auto" else "codec jpeg2000",
        "no index.mp4": "not a readable video: Invalid data",
        "stub.avi": "not a readable video: Invalid data",
    }
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(DecodeError) as caught:
            decode(path, np.arange, decoder=decoder)
        message = caught.value.message
        assert caught.value.exit_code == 3
        assert message.startswith(f"{path.name}: ")
        assert words[name] in message.removeprefix(f"{path.name}: ")
        assert "\n" not in message
        assert str(tmp_path) not in message
    assert capfd.readouterr() == ("", "")


def test_a_picture_size_that_changes(tmp_path: Path) -> None:
    parts = [
        videos.write(tmp_path / f"{i}.h264", frames=5, size=size).read_bytes()
        for i, size in enumerate([SMALL, (96, 64)])
    ]
    path = tmp_path / "joined.h264"
    path.write_bytes(b"".join(parts))
    assert decode(path, lambda n: np.array([0, 1])).frames.shape == (2, 96, 128, 3)
    with pytest.raises(DecodeError, match="picture size changes from"):
        decode(path, np.arange)


# The interface ------------------------------------------------------------------------------------------------------


def test_a_wrong_choice_is_a_bug_of_the_caller(clip: Callable[[str], Path]) -> None:
    for bad in ([45], [-1], [], [[1]], [0.5]):
        for decoder in ("pyav", "decord"):
            with pytest.raises(ValueError, match="a choice"):
                decode(clip("h264 B"), lambda n, bad=bad: np.array(bad), decoder=decoder)


def test_auto_is_pyav(clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setitem(DECODERS._members, "pyav", lambda *a: called.append(a) or decode_pyav.decode_pyav(*a))
    assert len(decode(clip("h264 B"), np.arange).frames) == N
    assert len(called) == 1


def test_unknown_decoder(clip: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="unknown decoder 'pyaw'"):
        decode(clip("h264 B"), np.arange, decoder="pyaw")


def test_decord_not_installed(clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingError, match="decord can't be imported"):
        decode(clip("h264 B"), np.arange, decoder="decord")
    with pytest.raises(MissingError, match="decord can't be imported") as caught:
        usable("decord")
    assert "--decoder auto" in str(caught.value.hint)
    assert usable("auto") == usable("pyav") == "pyav"
    assert len(decode(clip("h264 B"), np.arange).frames) == N


def test_decoding_needs_no_torch() -> None:
    code = "import sys, extract.sampling; from extract.decoders import DECODERS; DECODERS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_probe(clip: Callable[[str], Path]) -> None:
    seen = probe(clip("h264 B"))
    assert (seen.container, seen.codec, seen.width, seen.height, seen.pixels) == ("mov", "h264", 128, 96, "yuv420p")
    assert (seen.rate, seen.claimed, seen.packets, seen.duration) == (25, N, N, N / 25)
    assert np.allclose(seen.times, np.arange(N) / 25)
    assert len(seen.keys) == 3
    assert probe(clip("h264 edit list")).odd[0] == "an edit list hides 7 frames"


# Real files ---------------------------------------------------------------------------------------------------------

SHARED = {
    "k400_demo.mp4": (280, True), "mm_test.avi": (164, False), "pancake.mkv": (310, True), "av1.mkv": (125, False), "tiny.mp4": (32, True),
    "rot0.mov": (3, True), "rot90.mov": (3, True), "h265.mp4": (10, False),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_real_files(name: str, shared_folder: Path) -> None:
    path, (frames, decord) = shared_folder / "clips" / name, SHARED[name]
    truth = pictures(path)
    assert len(truth) == frames
    for wanted in [c for p, c in choices(frames).items() if p != "all"]:
        assert np.array_equal(decode(path, lambda n, w=wanted: w).frames, truth[wanted])
        if decord:
            assert np.array_equal(decode(path, lambda n, w=wanted: w, decoder="decord").frames, truth[wanted])
    if not decord:
        with pytest.raises(DecodeError, match="not exact"):
            decode(path, np.arange, decoder="decord")


def test_upright_and_turned_show_one_scene(shared_folder: Path) -> None:
    upright, turned = (decode(shared_folder / "clips" / f"rot{angle}.mov", np.arange).frames for angle in (0, 90))
    assert upright.shape[1:3] == (320, 568)
    assert turned.shape[1:3] == (568, 320)


@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_broken_stream(decoder: str, shared_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DecodeError, match=r"frames are lost|gave up"):
        decode(
            shared_folder / "clips" / "decord_corrupted.mp4",
            lambda n: np.linspace(0, n - 1, 8).astype(int),
            decoder=decoder,
        )
    assert capfd.readouterr() == ("", "")
