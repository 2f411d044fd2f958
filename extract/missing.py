"""Clips whose files are not there: listed beside the stores, told, and refused where they are too many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from cache.features import FeatureStore
from cache.rows import Row
from extract.config import ExtractConfig
from fsar_cache.console import warn
from fsar_cache.errors import MissingError
from fsar_cache.files import whole_file
from splits.types import Split
from splits.words import listed

SHOWN = 3
"""How many names a warning lists."""


def absent_rows(rows: Sequence[Row], store: FeatureStore | None = None) -> list[str]:
    """Ids of the rows that have neither a file nor features in `store`, each once, in order."""
    bare = [row for row in rows if not row.origin]
    if store is not None and bare:
        ok = store.ok
        numbers = store.numbers_of(bare).tolist()
        bare = [row for row, number in zip(bare, numbers, strict=True) if number < 0 or not ok[number]]
    return list(dict.fromkeys(row.id for row in bare))


def list_of(path: Path, split: Split) -> Path:
    """Where the missing clips of the split are listed: beside the store at `path` and all others of the dataset, which share the list."""
    return path.with_name(f"{split.name}.missing.txt")


def note_absent(split: Split, path: Path, asked: Collection[str], absent: Collection[str]) -> Path:
    """Note that of the clips `asked` for those `absent` have no file; what is listed of the split's other clips stays.

    The list has a line per clip: id, tab, path where its file is expected. It goes where nothing is missing.
    """
    file = list_of(path, split)
    wanted = {*absent, *(_ids_in(file) - frozenset(asked))}
    if not wanted:
        if file.exists():
            file.unlink()
        return file
    if wanted == _ids_in(file):
        return file
    videos = (video for part in split.parts.values() for video in part.videos if video.id in wanted)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as out:
        out.write(
            "".join(f"{video.id}\t{split.root / video.path}\n" for video in videos).encode("utf-8", "surrogateescape")
        )
    return file


def _ids_in(file: Path) -> set[str]:
    """The ids in a list; none where there is no list."""
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {line.partition("\t")[0] for line in text.split("\n") if line}


def too_many(absent: int, clips: int, config: ExtractConfig) -> bool:
    """Whether an extraction is refused because so many of its clips have no file."""
    return not config.skip_missing and absent > config.max_failures * clips


def require_files(
    split: Split, config: ExtractConfig, path: Path, rows: Sequence[Row], absent: Sequence[str], *, working: bool
) -> None:
    """List and tell the clips without files. working: whether there is anything to do.

    MissingError where no file of the dataset is there and something is to do, or more are missing than may fail.
    """
    asked = {row.id for row in rows}
    if not absent:
        note_absent(split, path, asked, absent)
        return
    clips = len(asked)
    first = next(video for part in split.parts.values() for video in part.videos if video.id == absent[0])
    if working and not any(row.origin for row in rows):  # a wrong folder: no list
        raise MissingError(
            f"none of the {clips} clips of {split.name} has its file: there is no {split.root / first.path}",
            hint="check where the videos are (--videos FOLDER, or FSAR_VIDEOS); nothing was written",
        )
    file = note_absent(split, path, asked, absent)
    told = (
        f"the files of {len(absent)} of {clips} clips of {split.name} are not there: {listed(absent, SHOWN)} "
        f"({split.root / first.path}); all are listed in {file}"
        + (f", and told by: fsar-cache split missing {split.name}" if split.dataset else "")
    )
    if too_many(len(absent), clips, config):
        raise MissingError(
            f"{told}; {config.max_failures:.1%} may be missing, so nothing was decoded",
            hint="bring the files, or extract the other clips: --skip-missing",
        )
    warn(f"{told}; they have no features until their files appear")
