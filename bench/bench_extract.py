"""Extraction end to end on a CPU: wall time against (CPU-seconds of decoding alone + of the backbone alone) / cores.

    python bench/bench_extract.py --json

Makes H.264 clips (320x240, 60 frames), lists each several times, and extracts them with a random ResNet-18 into a fresh store. A round
measures decoding alone (one process, one clip after the other), the backbone alone (random pixels in batches like those of the run, as
many threads as cores) and the whole run from the call of `extract` to its return: starting processes, transforms, store and all. The
ratio is the median over the rounds. Other processes spoil it, so their share of the CPU is in the details, and the ratio in what they left.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import torch

from extract.clip import decode_clip, task_of
from extract.config import ExtractConfig, backbone_of, batch_clips_of
from extract.pool import cores
from extract.run import extract
from splits.types import Part, Split, Video

FILES, FRAMES = 40, 60
CASES = {"224 pixels": (224, 10), "112 pixels": (112, 25)}
"""name -> (size, how often each file is listed)."""


def write_clip(path: Path, seed: int) -> None:
    """A moving texture with noise."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (60, 100, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "veryfast", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(FRAMES):
            picture = texture[i : i + 240, 3 * i : 3 * i + 320].astype(np.int16)
            picture = (picture + rng.integers(-8, 9, picture.shape)).clip(0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))


def split_of(folder: Path, times: int) -> Split:
    """Every file of the folder as `times` clips."""
    files = sorted(path.name for path in folder.glob("*.mp4"))
    videos = tuple(Video(f"{i}/{name}", "clip", name) for i in range(times) for name in files)
    return Split("bench", folder, {"all": Part("all", ("clip",), videos)})


def decode_seconds(split: Split, config: ExtractConfig) -> float:
    """CPU-seconds of decoding every clip."""
    begin = time.process_time()
    for video in split.part("all").videos:
        decode_clip(task_of(split.root, video, config.sampling, config.frames))
    return time.process_time() - begin


def backbone_seconds(config: ExtractConfig, clips: int) -> float:
    """CPU-seconds of the backbone on as many clips, in batches like those of the run, one single-threaded thread per core."""
    head, count = backbone_of(config).head_of(config.cut), batch_clips_of(config, torch.device("cpu"))
    pixels = torch.randint(0, 256, (count, config.frames, config.size, config.size, 3), dtype=torch.uint8)
    batches = iter(range(clips // count))
    spent = []

    def work() -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            head(pixels)
            begin = time.thread_time()
            for _ in batches:
                head(pixels)
            spent.append(time.thread_time() - begin)

    threads = [threading.Thread(target=work) for _ in range(cores())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(spent)


def own_cpu() -> float:
    """CPU-seconds of this process and its ended children."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def machine_cpu() -> float:
    """CPU-seconds that the whole machine has been busy; 0 where the system doesn't say."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, path.read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + soft + steal) / 100


def measure(folder: Path, size: int, times: int, rounds: int) -> dict[str, float]:
    """Medians over interleaved rounds."""
    config, split = ExtractConfig(size=size, device="cpu"), split_of(folder, times)
    clips = len(split.part("all").videos)
    runs = []
    for _ in range(rounds):
        decode, backbone = decode_seconds(split, config), backbone_seconds(config, clips)
        with tempfile.TemporaryDirectory() as stores:
            begin, own, machine = time.perf_counter(), own_cpu(), machine_cpu()
            summary = extract(split, config, Path(stores))
            wall = time.perf_counter() - begin
            own, machine = own_cpu() - own, machine_cpu() - machine
        assert summary.made == clips
        others, ideal = max(0.0, machine - own) / (wall * cores()), (decode + backbone) / cores()
        runs.append(
            {
                "ratio": wall / ideal,
                "ratio_in_own_share": wall * (1 - others) / ideal,
                "cpu_ratio": own / (decode + backbone),
                "decode_cpu_seconds": decode,
                "backbone_cpu_seconds": backbone,
                "wall_seconds": wall,
                "own_cpu_seconds": own,
                "others_share_of_cpu": others,
                "videos_per_second": clips / wall,
            }
        )
        print(f"  {size} pixels: {runs[-1]}", file=sys.stderr)
    return {"clips": clips, **{name: statistics.median(run[name] for run in runs) for name in runs[0]}}


def main() -> None:
    """Measure every case and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for i in range(FILES):
            write_clip(Path(name) / f"{i:03d}.mp4", i)
        detail = {case: measure(Path(name), size, times, given.rounds) for case, (size, times) in CASES.items()}
    rows = [
        {
            "what": f"extraction wall / ideal, {case}",
            "value": found["ratio"],
            "unit": "x",
            "reach": 1.1,
            "better": "lower",
        }
        for case, found in detail.items()
    ]
    if given.json:
        json.dump({"rows": rows, "detail": detail}, sys.stdout, indent=1)
        print()
        return
    for case, found in detail.items():
        print(case, *(f"{key} {value:.3g}" for key, value in found.items()), sep="\n  ")


if __name__ == "__main__":
    main()
