"""The files of a folder of lists, and what their names say: which partition, and which files belong together."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fsar_cache.errors import MissingError, UsageError
from splits.frames import IMAGES, VIDEOS
from splits.published.grammars import WORDS

DEPTH = 2
"""How many folders down lists may lie."""
MOST = 2000
"""Files below a folder of lists; with more it is another folder that was named by mistake."""
_PASSED = (*VIDEOS, *IMAGES, ".zip", ".tar", ".gz", ".py", ".pyc", ".pth", ".pt", ".md")
_WORDS = "|".join(sorted(WORDS, key=len, reverse=True))
_WORD = re.compile(rf"(?<![a-z])(?:({_WORDS})(?![a-z])|({_WORDS})(?=list))")


def collect(path: Path) -> list[Path]:
    """The file itself, or the files in a folder and up to two below it, sorted; hidden ones, videos, images, programs don't count.

    MissingError where nothing is there; UsageError for a folder with too many files.
    """
    if not path.exists():
        raise MissingError(f"there is no {path}", hint="check the path")
    if not path.is_dir():
        return [path]
    files: list[Path] = []
    _collect(path, 0, files, path)
    return sorted(files)


def _collect(folder: Path, depth: int, files: list[Path], root: Path) -> None:
    try:
        with os.scandir(folder) as entries:
            seen = sorted((e.name, e.is_dir(), e.is_file()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise MissingError(f"can't read the folder {folder}: {error.strerror}", hint="check its permissions") from error
    for name, is_folder, is_file in seen:
        if is_folder and depth < DEPTH:
            _collect(folder / name, depth + 1, files, root)
        elif is_file and not name.lower().endswith(_PASSED):
            files.append(folder / name)
            if len(files) > MOST:
                raise UsageError(f"more than {MOST} files below {root}", hint="name the folder that holds the lists")


def word_of(path: Path) -> str:
    """The partition that a file's name says ("trainlist03" -> "train"), "" where it says none or several."""
    words = {WORDS[match[1] or match[2]] for match in _WORD.finditer(path.stem.lower())}
    return words.pop() if len(words) == 1 else ""


def group_of(path: Path) -> tuple[str, str]:
    """What files of one split have in common: the folder, and the name without its partition ("trainlist03" -> "list03")."""
    return str(path.parent), _WORD.sub("", path.stem.lower())
