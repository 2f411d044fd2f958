"""Planning an extraction of 250,000 videos, and sampling episodes from them: a made-up Kinetics-400 listing of empty files.

    python bench/bench_planning.py          # a line per figure
    python bench/bench_planning.py --json

Planning: from nothing known of the disk to the plan (annotation read, folder walked, every file looked at, nothing decoded), the backbone
loaded beforehand. Memory: peak of the process that plans, against the same process with a fiftieth of the videos.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VIDEOS, FEW = 250_000, 5_000
EPISODES = 10_000


def listing(folder: Path, videos: int) -> None:
    """Kinetics as its largest public copy lies on disk: train.csv, val.csv, and flat folders of files."""
    from splits.official.catalog import official

    classes = official("kinetics").classes
    (folder / "kinetics" / "annotations").mkdir(parents=True)
    border = int(videos * 0.925)
    for part, numbers in (("train", range(border)), ("val", range(border, videos))):
        (folder / "kinetics" / part).mkdir()
        with (folder / "kinetics" / "annotations" / f"{part}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for number in numbers:
                video, start = f"video_{number:05x}", number % 300
                rows.writerow([classes[number % len(classes)], video, start, start + 10, part])
                name = folder / "kinetics" / part / f"{video}_{start:06d}_{start + 10:06d}.mp4"
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY))


def planned(folder: Path) -> dict[str, Any]:
    """Seconds and peak memory (bytes) of planning what is under `folder`, in this process."""
    from extract.config import ExtractConfig, backbone_of
    from extract.plan import plan
    from splits.datasets import open_split
    from splits.episodes import EpisodeSampler
    from splits.types import Protocol

    config = ExtractConfig(size=112)
    backbone_of(config)
    began = time.perf_counter()
    split = open_split("kinetics", folder)
    opened = time.perf_counter()
    made = plan(split, config, folder / "stores")
    ended = time.perf_counter()
    protocol = Protocol(5, 5, 1, EPISODES)
    sampler = EpisodeSampler(split.part("train"), protocol, 1, split_hash=split.hash)
    sampler.episodes(0, EPISODES)
    sampled = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "clips": made.clips,
        "open_s": opened - began,
        "plan_s": ended - opened,
        "sample_s": sampled - ended,
        "peak_bytes": peak,
    }


def measure() -> dict[str, Any]:
    """Plan a large and a small listing, each in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for name, videos in (("many", VIDEOS), ("few", FEW)):
            listing(Path(place) / name, videos)
            command = [sys.executable, __file__, "--plan", str(Path(place) / name)]
            found[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    many, few = found["many"], found["few"]
    rows = [
        (f"planning an extraction of {VIDEOS:,} videos", many["open_s"] + many["plan_s"], "s", 5.0),
        (f"sampling {EPISODES:,} episodes from them", many["sample_s"], "s", 1.0),
        (f"memory of planning them, against {FEW:,} videos", many["peak_bytes"] / few["peak_bytes"], "x", 1.5),
    ]
    names = ("what", "value", "unit", "reach", "better")
    return {"rows": [dict(zip(names, (*row, "lower"), strict=True)) for row in rows], "detail": found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        print(json.dumps(planned(args.plan)))
        return
    made = measure()
    if args.json:
        print(json.dumps(made))
        return
    for row in made["rows"]:
        print(f"{row['what']:<60} {row['value']:8.3g} {row['unit']} (reach {row['reach']:g})")


if __name__ == "__main__":
    main()
