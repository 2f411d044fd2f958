"""A process that extracts a toy split, for tests that kill it; prints how many clips are done.

argv = clips, stores, backend, engine, number of the part, parts.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from pathlib import Path

import torch
from toy import split_of

from extract import progress
from extract.config import ExtractConfig
from extract.run import extract
from fsar_cache.errors import FsarError

COUNT = 21


def config(backend: str, engine: str = "local", part: tuple[int, int] = (1, 1)) -> ExtractConfig:
    made = ExtractConfig(size=64, frames=4, workers=2, block_rows=8, backend=backend, device="cpu", part=part)
    return dataclasses.replace(made, engine=engine)


def main() -> int:
    torch.set_num_threads(1)
    progress.EVERY = 0.0
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    clips, folder, backend, engine, number, parts = sys.argv[1:]
    try:
        summary = extract(
            split_of(Path(clips), list(range(COUNT))),
            config(backend, engine, (int(number), int(parts))),
            Path(folder),
            report=lambda now: print("done", now.done, flush=True),
            stop=stop,
        )
    except FsarError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("made", summary.made, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
