"""What lies in a dataset's folder: video files, folders of extracted frames, files known by name; one walk, nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from fsar_cache.errors import MissingError
from splits.frames import IMAGES, VIDEOS

DEPTH = 5
"""How many folders down clips may lie."""
LOOK = 16
"""Entries of a folder among which an image must be, for a folder of frames."""


@dataclass
class Files:
    """Paths relative to the folder that was walked, with `/`, sorted.

    videos: video files; frames: folders of extracted frames; named: small name -> paths of the files and folders that were asked for by
    name, the least deep first; stamp: every folder that was read and when it was changed last; seen: their
    devices and inodes.
    """

    videos: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    named: dict[str, list[str]] = field(default_factory=dict)
    stamp: list[tuple[str, int]] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)


def walk(root: Path, wanted: Collection[str], is_clip: Callable[[str], bool]) -> Files:
    """Walk `root`; wanted: names, in small letters, of files and folders to note; is_clip: whether a folder's name may be a clip's.

    Hidden entries don't count, links are followed. A folder whose name may be a clip's and that begins with images holds the frames of
    that clip and isn't looked into further. MissingError for a folder that can't be read.
    """
    found = Files()
    _walk(root, "", 0, wanted, is_clip, found)
    found.videos.sort()
    found.frames.sort()
    for paths in found.named.values():
        paths.sort(key=lambda path: (path.count("/"), path))
    return found


def _walk(
    root: Path, below: str, depth: int, wanted: Collection[str], is_clip: Callable[[str], bool], found: Files
) -> None:
    here = root / below if below else root
    try:
        facts = os.stat(here)
        if (facts.st_dev, facts.st_ino) in found.seen:
            return  # a link to a folder that was walked already
        found.seen.add((facts.st_dev, facts.st_ino))
        found.stamp.append((str(here), facts.st_mtime_ns))
        with os.scandir(here) as entries:
            seen = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise MissingError(f"can't read the folder {here}: {error.strerror}") from error
    folders = []
    for name, is_folder in seen:
        path, small = f"{below}{name}", name.lower()
        if small in wanted:
            found.named.setdefault(small, []).append(path)
        if is_folder:
            folders.append(name)
        elif small.endswith(VIDEOS):
            found.videos.append(path)
    for name in sorted(folders):
        if is_clip(name) and _holds_images(here / name):
            found.frames.append(f"{below}{name}")
        elif depth + 1 < DEPTH:
            _walk(root, f"{below}{name}/", depth + 1, wanted, is_clip, found)


def _holds_images(folder: Path) -> bool:
    """Whether an image is among the first entries that the folder gives; no more is read of it."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGES) for entry in islice(entries, LOOK))
    except OSError:
        return False


def is_as_then(stamp: list[tuple[str, int]]) -> bool:
    """Whether the folders of a walk are unchanged: no entry of theirs came, went or was renamed."""
    try:
        return all(os.stat(folder).st_mtime_ns == then for folder, then in stamp)
    except OSError:
        return False


def stem(path: str) -> str:
    """A file's name without its last extension; a folder of frames has none, and no clip's name has a dot."""
    return path.rpartition("/")[2].rsplit(".", 1)[0]
