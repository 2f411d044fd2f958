"""A process that extracts a toy split, for tests that kill it: argv = clips, stores, backend. Prints how many clips are done."""

from __future__ import annotations

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


def config(backend: str) -> ExtractConfig:
    return ExtractConfig(size=64, frames=4, workers=2, block_rows=8, backend=backend, device="cpu")


def main() -> int:
    torch.set_num_threads(1)
    progress.EVERY = 0.0
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    clips, folder, backend = sys.argv[1:]
    try:
        summary = extract(
            split_of(Path(clips), list(range(COUNT))),
            config(backend),
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
