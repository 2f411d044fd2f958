"""Make a csv dataset of time spans: every video of a folder becomes a class, every stretch of a few seconds a clip.

    python examples/time_spans.py FOLDER spans.csv
    fsar-cache extract csv:spans.csv --max-failures 0.1
    fsar-cache eval --head protonet --target csv:spans.csv --shot 1

Long recordings with one action each turn into a few-shot dataset this way, without cutting a file. A damaged file may lose some clips or
all: extraction names each, with its reason, in the table of failures, and the others are used. A file that can't be opened at all is listed
as one whole clip of the class "unreadable". To leave a file out altogether, name it without its extension:

    python examples/time_spans.py FOLDER whole.csv --skip decord_corrupted
    fsar-cache extract csv:whole.csv
    fsar-cache eval --head protonet --target csv:whole.csv --shot 1

Of the clips that the tests use, decord_corrupted.mp4 (half of its spans are damaged) and av1.mkv show the same colour bars, which no method
can tell apart: with both the accuracy is about 84 %, without the damaged one about 100 %.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Collection
from pathlib import Path

from extract.probe import DecodeError, probe

SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov"}
FIELDS = ("id", "class", "path", "start", "end")


def spans(file: Path, most: int, longest: float) -> list[dict[str, object]]:
    """At most `most` equal stretches of one video, none over `longest` seconds; none for a video with fewer than 8 frames a stretch."""
    try:
        seen = probe(file)
    except DecodeError:
        return [{"id": file.stem, "class": "unreadable", "path": file.resolve(), "start": "", "end": ""}]
    if seen.packets < 8 * most:
        return []
    length = min(seen.duration / most, longest)
    starts = [i * (seen.duration - length) / max(1, most - 1) for i in range(most)]
    return [
        {
            "id": f"{file.stem}-{i}",
            "class": file.stem,
            "path": file.resolve(),
            "start": round(s, 3),
            "end": round(s + length, 3),
        }
        for i, s in enumerate(starts)
    ]


def write(folder: Path, target: Path, most: int = 4, longest: float = 2.0, skip: Collection[str] = ()) -> int:
    """Write the list of the videos in `folder`, but those whose names without extension are in `skip`; returns how many clips it has."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.stem not in skip)
    rows = [row for file in files for row in spans(file, most, longest)]
    with target.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--most", type=int, default=4, help="clips per video")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds per clip")
    parser.add_argument(
        "--skip", metavar="NAME", action="append", default=[], help="a file to leave out; can be repeated"
    )
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"there is no folder {args.folder}")
    strange = set(args.skip) - {p.stem for p in args.folder.iterdir()}
    if strange:
        parser.error(f"--skip {min(strange)}: {args.folder} has no such file")
    if args.most < 1:
        parser.error("--most must be at least 1")
    count = write(args.folder, args.list, args.most, args.longest, args.skip)
    print(f"{count} clips in {args.list}")


if __name__ == "__main__":
    main()
