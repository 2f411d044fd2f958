"""A process that extracts clips and prints how much memory it and its decode processes hold as it goes.

argv = folder of clips, folder of stores, number of clips (in turn over the files), bytes to keep per clip (0; more imitates a leak).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from extract import progress
from extract.config import ExtractConfig
from extract.run import extract
from splits.types import Part, Split, Video

PAGE = os.sysconf("SC_PAGE_SIZE")


def split_of(folder: Path, count: int) -> Split:
    """`count` clips, in turn over the files there."""
    files = sorted(path.name for path in folder.iterdir())
    videos = tuple(Video(f"{i:05d}", "c", files[i % len(files)]) for i in range(count))
    return Split("many", folder, {"train": Part("train", ("c",), videos)})


def resident() -> int:
    """Bytes of this process and its children in RAM, without the pages of mapped files (the kernel takes those back when it needs them)."""
    pids = [str(os.getpid())]
    for task in Path("/proc/self/task").iterdir():
        pids += (task / "children").read_text().split()
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        total += (int(fields[1]) - int(fields[2])) * PAGE
    return total


def main() -> None:
    torch.set_num_threads(1)
    progress.EVERY = 0.05
    clips, folder, count, leak = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    config = ExtractConfig(cut="frames", size=64, frames=4, workers=2, block_rows=64, device="cpu")
    kept: list[bytes] = []

    def report(now: progress.Progress) -> None:
        kept.append(os.urandom(leak * (now.done - sum(map(len, kept)) // leak)) if leak else b"")
        print(now.done, resident(), flush=True)

    made = extract(split_of(clips, count), config, folder, report=report)
    assert made.made == count


if __name__ == "__main__":
    main()
