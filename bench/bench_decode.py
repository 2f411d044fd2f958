"""Decoding eight frames of a clip: our "auto" against the fastest exact decoder among decord, plain PyAV, OpenCV and torchcodec.

    python bench/bench_decode.py --json

Makes one file per kind (320x240, about 130 frames) and asks every decoder for the same eight uniform frames as RGB pictures, the way an
extraction does: the file is opened anew each time and its frames are not known from before. A decoder counts where it gives the pixels
of a plain sequential decode (OpenCV scales colours by its own rule: there it is enough that no pixel is far off). The figure is the rate
of "auto" relative to the fastest of them, from the minima of interleaved rounds, one thread each. torchcodec takes part where it can be
imported (it needs FFmpeg's libraries beside it), in its exact mode.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from extract import probe
from extract.clip import Task
from extract.decoders import decode
from extract.pool import DecodePool
from extract.sampling import SAMPLING

Pictures = NDArray[np.uint8]
WIDTH, HEIGHT, T = 320, 240, 8
KINDS: dict[str, tuple[str, str, int, int, dict[str, str]]] = {
    "H.264, GOP 12": (".mp4", "libx264", 130, 12, {"preset": "veryfast"}),
    "H.264, GOP 250": (".mp4", "libx264", 130, 250, {"preset": "veryfast", "x264-params": "scenecut=0"}),
    "VP9": (".webm", "libvpx-vp9", 100, 128, {"deadline": "realtime", "cpu-used": "8"}),
    "MPEG-4 avi": (".avi", "mpeg4", 150, 12, {}),
}
"""name -> (suffix, encoder, frames, group of pictures, the encoder's options)."""
FAR = 40
"""Grey levels by which OpenCV's conversion to RGB may differ at single pixels; the next frame of these clips differs by far more."""


def write_clip(path: Path, codec: str, frames: int, gop: int, options: dict[str, str]) -> None:
    """A moving texture with noise."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (80, 160, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.bit_rate = gop, 1_000_000
        for i in range(frames):
            picture = texture[i : i + HEIGHT, 3 * i : 3 * i + WIDTH].astype(np.int16)
            picture = (picture + rng.integers(-8, 9, picture.shape)).clip(0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))


def choose(n: int) -> NDArray[np.int64]:
    """The frames asked for."""
    return SAMPLING.get("uniform")(n, T, None)


def by_auto(path: Path, frames: int) -> Pictures:
    """Ours, as a decode process meets a new file."""
    probe._SEEN.clear()
    return decode(path, choose).frames


def by_decord(path: Path, frames: int) -> Pictures:
    """Decord's batch of frames."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    made: Pictures = reader.get_batch(choose(len(reader))).asnumpy()
    return made


def by_pyav(path: Path, frames: int) -> Pictures:
    """PyAV's own loop up to the last wanted frame, only wanted ones converted."""
    wanted = choose(frames).tolist()
    kept = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                kept[number] = frame.to_ndarray(format="rgb24", threads=1)
            if number == wanted[-1]:
                break
    return np.stack([kept[i] for i in wanted])


def by_opencv(path: Path, frames: int) -> Pictures:
    """OpenCV's grab of every frame up to the last wanted one, only wanted ones retrieved."""
    wanted = choose(frames).tolist()
    kept = []
    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for number in range(wanted[-1] + 1):
        reader.grab()
        if number in wanted:
            kept.append(cv2.cvtColor(reader.retrieve()[1], cv2.COLOR_BGR2RGB))
    reader.release()
    return np.stack(kept).astype(np.uint8)


def by_torchcodec(path: Path, frames: int) -> Pictures:
    """The frames torchcodec gives as one batch, after the scan of the packets by which it knows where frame i is."""
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    made: Pictures = reader.get_frames_at(choose(len(reader)).tolist()).data.numpy()
    return made


def torchcodec_loads() -> bool:
    """Whether torchcodec is there and finds FFmpeg's libraries."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


WAYS: dict[str, Callable[[Path, int], Pictures]] = {
    "auto": by_auto,
    "decord": by_decord,
    "pyav": by_pyav,
    "opencv": by_opencv,
    **({"torchcodec": by_torchcodec} if torchcodec_loads() else {}),
}


def exact(way: str, made: Pictures, truth: Pictures) -> bool:
    """Whether the pictures are those of the sequential decode."""
    off = np.abs(made.astype(np.int16) - truth)
    return made.shape == truth.shape and bool(off.max() <= FAR if way == "opencv" else off.max() == 0)


def measure(path: Path, frames: int, rounds: int) -> dict[str, Any]:
    """Least milliseconds per clip of every decoder over interleaved rounds, and whether it is exact on this file."""
    truth = by_pyav(path, frames)
    exactly = {name: exact(name, way(path, frames), truth) for name, way in WAYS.items()}
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            begin = time.perf_counter()
            way(path, frames)
            best[name] = min(best[name], 1000 * (time.perf_counter() - begin))
    others = {name: best[name] for name in WAYS if name != "auto" and exactly[name]}
    fastest = min(others, key=lambda name: others[name])
    print(f"  {path.name}: {best}", file=sys.stderr)
    return {
        "frames": frames,
        "milliseconds": best,
        "exact": exactly,
        "fastest_other": fastest,
        "ratio": best[fastest] / best["auto"],
    }


def two_processes(path: Path, rounds: int, clips: int = 120) -> dict[str, float]:
    """Clips per second of one and of two decode processes, the best of interleaved rounds, and their ratio."""
    tasks = [Task(path, "uniform", T)] * clips
    best = {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for count in best:
            with DecodePool(count) as pool:
                list(pool.map(tasks[: 4 * count]))
                begin = time.perf_counter()
                list(pool.map(tasks))
                best[count] = max(best[count], clips / (time.perf_counter() - begin))
    return {"one": best[1], "two": best[2], "ratio": best[2] / best[1]}


def main() -> None:
    """Measure every kind and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=40, help="interleaved rounds (default 40)")
    given = parser.parse_args()
    detail = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, (suffix, codec, frames, gop, options)) in enumerate(KINDS.items()):
            path = Path(folder) / f"{number}{suffix}"
            write_clip(path, codec, frames, gop, options)
            detail[kind] = measure(path, frames, given.rounds)
            if not detail[kind]["exact"]["auto"]:
                sys.exit(f"auto is not exact on {kind}")
        both = two_processes(Path(folder) / "0.mp4", 3)
    rows = [
        {
            "what": f"decode rate / fastest exact, {kind}",
            "value": found["ratio"],
            "unit": "x",
            "reach": 0.9,
            "better": "higher",
        }
        for kind, found in detail.items()
    ]
    rows.append(
        {"what": "two decode processes / one", "value": both["ratio"], "unit": "x", "reach": 1.6, "better": "higher"}
    )
    if given.json:
        json.dump({"rows": rows, "detail": {**detail, "two decode processes": both}}, sys.stdout, indent=1)
        print()
        return
    for kind, found in detail.items():
        times = ", ".join(
            f"{name} {found['milliseconds'][name]:.1f} ms{'' if found['exact'][name] else ' (not exact)'}"
            for name in WAYS
        )
        print(f"{kind}: {times}; {found['ratio']:.2f} x the rate of {found['fastest_other']}")
    print(f"two decode processes: {both['ratio']:.2f} x the rate of one")


if __name__ == "__main__":
    main()
