"""Videos kept as folders of extracted frames, on disk or inside a zip: FOLDER/img_00001.jpg or DATA.zip/FOLDER/img_00001.jpg.

A path into a zip is written as if the zip were a folder; DATA.zip itself is its top folder. Hidden entries don't count. Every process
that reads a zip first reads its table of contents: about ten seconds and 0.7 GB of memory per million frames, so larger ones are better
unpacked. Zips stay open, as long as they hold a million entries together: a dataset over several larger ones is read slowly.
"""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Suffixes of frames, in small letters or capitals."""

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
"""Suffixes of video files, likewise."""

Below = dict[str, zipfile.ZipInfo | None]
"""What lies directly in a folder of a zip: the entry of each file, None for each folder."""


@dataclass(frozen=True)
class Archive:
    """A zip held open, and what lies in each of its folders ("" is the top)."""

    zip: zipfile.ZipFile
    folders: dict[str, Below]


_OPEN: dict[tuple[Path, int, int], Archive] = {}
_KEPT, _HELD = 64, 1_000_000
"""How many zips are kept open at most, and how many entries of them in memory (the last zip is kept whatever its size)."""


def archive(path: Path) -> Archive:
    """The zip at `path`, the one from before if its size and time of change are the same.

    OSError where it can't be read or is no zip.
    """
    facts = path.stat()
    key = (path, facts.st_size, facts.st_mtime_ns)
    known = _OPEN.pop(key, None)
    _OPEN[key] = opened = known or _read(path)
    if known is None:
        _close_oldest()
    return opened


def _close_oldest() -> None:
    """Close the zips that are one too many, the longest unused first."""
    held = sum(len(one.zip.infolist()) for one in _OPEN.values())
    while len(_OPEN) > 1 and (len(_OPEN) > _KEPT or held > _HELD):
        oldest = _OPEN.pop(next(iter(_OPEN)))
        held -= len(oldest.zip.infolist())
        oldest.zip.close()


def _read(path: Path) -> Archive:
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as error:
        raise OSError(errno.EINVAL, f"{path.name} is no readable zip: {error}") from error
    folders: dict[str, Below] = {"": {}}
    for entry in file.infolist():
        folder, _, name = entry.filename.rpartition("/")
        below = _folder(folders, folder)
        if name:
            below[name] = entry
    return Archive(file, folders)


def _folder(folders: dict[str, Below], name: str) -> Below:
    """What lies in the folder `name`, which is made with those above it where it isn't there: a zip needn't list its folders."""
    new = []
    while name not in folders:
        new.append(name)
        name = name.rpartition("/")[0]
    for inner in reversed(new):
        parent, _, last = inner.rpartition("/")
        folders[parent][last] = None
        folders[inner] = {}
        name = inner
    return folders[name]


def in_zip(path: Path) -> tuple[Path, str] | None:
    """The zip that `path` leads into and the folder inside it; None for a path that leads into none."""
    if ".zip" not in os.fspath(path).lower():  # asked for every file: most paths need no look at their parts
        return None
    for here in (path, *path.parents):
        if here.suffix.lower() == ".zip" and os.path.isfile(here):
            inner = path.relative_to(here).as_posix()
            return here, "" if inner == "." else inner
    return None


def means_folder(path: Path) -> bool:
    """Whether `path` is a folder, or leads into a file that calls itself a zip, whatever is there."""
    return os.path.isdir(path) or in_zip(path) is not None


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder, or leads to one in a zip; False too for what can't be read."""
    try:
        where = in_zip(path)
        return os.path.isdir(path) if where is None else where[1] in archive(where[0]).folders
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Whether there is a video at `path`: a file, or a folder that holds an image, on disk or in a zip."""
    if not means_folder(path):
        return os.path.isfile(path)
    try:
        return bool(image_names(path))
    except OSError:
        return False


def entries(path: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of everything else in a folder, sorted. OSError where it isn't there or can't be read."""
    where = in_zip(path)
    if where is None:
        with os.scandir(path) as found:
            seen = [(e.name, e.is_dir()) for e in found if not e.name.startswith(".")]
    else:
        seen = [(name, e is None) for name, e in _inside(where).items() if not name.startswith(".")]
    return sorted(n for n, is_dir in seen if is_dir), sorted(n for n, is_dir in seen if not is_dir)


def image_names(path: Path) -> list[str]:
    """Names of the images directly in a folder, in no order. OSError where it isn't there or can't be read."""
    where = in_zip(path)
    found = os.listdir(path) if where is None else _inside(where)
    return [name for name in found if _is_image(name)]


def images(path: Path) -> dict[str, int]:
    """The images directly in a folder and their bytes, in no order. OSError where it isn't there or can't be read."""
    where = in_zip(path)
    if where is None:
        with os.scandir(path) as found:
            return {e.name: e.stat().st_size for e in found if _is_image(e.name)}
    return {name: e.file_size for name, e in _inside(where).items() if e is not None and _is_image(name)}


def read(path: Path, name: str) -> bytes:
    """The bytes of the file `name` in a folder. OSError where that fails, also where a zip's checksum doesn't hold."""
    where = in_zip(path)
    if where is None:
        return (path / name).read_bytes()
    entry = _inside(where).get(name)
    if entry is None:
        raise FileNotFoundError(errno.ENOENT, f"not in {where[0].name}")
    try:
        return archive(where[0]).zip.read(entry)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, ValueError, EOFError) as error:
        raise OSError(errno.EIO, f"can't be read from {where[0].name}: {error}") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.startswith(".")


def _inside(where: tuple[Path, str]) -> Below:
    file, inner = where
    below = archive(file).folders.get(inner)
    if below is None:
        raise FileNotFoundError(errno.ENOENT, f"no folder {inner!r} in {file.name}")
    return below
