"""Decoding on a GPU (nvdec) against PyAV: how far the pixels are apart, and the rates, on H.264 clips of three sizes.

    python bench/bench_nvdec.py --json

Makes the clips (150 frames, key frames every 50, B-frames), compares every fifth frame of one per size, then decodes eight uniform
frames per clip through the decode processes of an extraction, with one process and with several. Wants an NVIDIA GPU with PyNvVideoCodec
or torchcodec; each that is there is measured, else the benchmark says why it is skipped. Needs no torch unless torchcodec is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from extract.clip import Task
from extract.decoders import GPU_PIXELS, decode, usable
from extract.pool import DecodePool, Failure
from fsar_cache.errors import MissingError

SIZES = {"240p": (320, 240), "720p": (1280, 720), "1080p": (1920, 1080)}
FRAMES, T = 150, 8
CLOSE = 1.0
"""Mean grey levels of difference that still count as the same pictures."""


def write_clip(path: Path, size: tuple[int, int]) -> None:
    """A texture that moves by two pixels a frame, with noise on every fourth frame."""
    width, height = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), np.uint8)
    texture = coarse.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "veryfast", "x264-params": "log-level=none"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 50, 2
        for i in range(FRAMES):
            picture = texture[i : i + height, 2 * i : 2 * i + width].copy()
            if i % 4 == 0:
                picture ^= rng.integers(0, 8, picture.shape, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))


def difference(path: Path, decoder: str) -> dict[str, float]:
    """Of every fifth frame: the largest and the mean difference in grey levels, and the share of samples that differ."""

    def choose(n: int) -> NDArray[np.int64]:
        return np.arange(0, n, 5)

    off = np.abs(decode(path, choose, decoder=decoder).frames.astype(np.int16) - decode(path, choose).frames)
    return {"largest": float(off.max()), "mean": float(off.mean()), "share": float((off > 0).mean())}


def rate(paths: list[Path], decoder: str, workers: int) -> float:
    """Clips per second of `workers` decode processes, their start and first clip not counted."""
    tasks = [Task(path, "uniform", T, decoder=decoder) for path in paths]
    with DecodePool(workers, 120.0) as many:
        warm = list(many.map([tasks[0]] * 4 * workers))
        begin = time.perf_counter()
        got = list(many.map(tasks))
        seconds = time.perf_counter() - begin
    print(f"  {paths[0].stem} {decoder}, {workers} processes: {len(tasks) / seconds:.1f} clips/s", file=sys.stderr)
    lost = [result.reason for _, result in warm + got if isinstance(result, Failure)]
    if lost:
        sys.exit(f"{decoder}: {len(lost)} clips failed: {lost[0]}")
    return len(tasks) / seconds


def measure(folder: Path, name: str, decoders: list[str], clips: int, workers: list[int]) -> dict[str, Any]:
    """Differences and rates on clips of one size, each file with a name of its own so that none is known from before."""
    first = folder / f"{name}-0.mp4"
    write_clip(first, SIZES[name])
    paths = [first]
    for i in range(1, clips):
        paths.append(folder / f"{name}-{i}.mp4")
        os.link(first, paths[-1])
    return {
        "difference": {decoder: difference(first, decoder) for decoder in decoders},
        "clips_per_second": {
            decoder: {str(count): rate(paths, decoder, count) for count in workers} for decoder in ("pyav", *decoders)
        },
    }


def main() -> None:
    """Measure every size and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--clips", type=int, default=96, help="clips per size and rate (default 96)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8], help="decode processes (default 1 4 8)")
    given = parser.parse_args()
    decoders, why = [], []
    for name in GPU_PIXELS:
        try:
            decoders.append(usable(name))
        except MissingError as error:
            why.append(f"{name}: {error.message}")
    if not decoders:
        print(json.dumps({"skipped": "; ".join(why)}) if given.json else f"skipped: {'; '.join(why)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        detail = {name: measure(Path(folder), name, decoders, given.clips, given.workers) for name in SIZES}
    rows = [
        {
            "what": f"pixels of {decoder} - of pyav, mean, {name}",
            "value": found["difference"][decoder]["mean"],
            "unit": "grey levels",
            "reach": CLOSE,
            "better": "lower",
        }
        for name, found in detail.items()
        for decoder in decoders
    ]
    if given.json:
        json.dump({"rows": rows, "detail": detail, "missing": why}, sys.stdout, indent=1)
        print()
        return
    for name, found in detail.items():
        for decoder, off in found["difference"].items():
            share = f"{100 * off['share']:.2f} % of samples differ"
            print(f"{name}: {decoder} differs by {off['mean']:.4f} on average, at most {off['largest']:.0f}; {share}")
        for decoder, rates in found["clips_per_second"].items():
            print(f"{name}: {decoder}: " + ", ".join(f"{r:.1f} clips/s by {n}" for n, r in rates.items()))
    print("\n".join(why))


if __name__ == "__main__":
    main()
