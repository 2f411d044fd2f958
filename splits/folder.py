"""The dataset kind `folder`: class folders of videos, PATH/CLASS/VIDEO or PATH/{train,val,test}/CLASS/VIDEO.

Which of the two it is shows in the folders: train, val or test that hold folders are partitions, any other folder of the root holds
the videos of a class (also a class that is called "train"). Hidden entries and files of other kinds don't count; links are followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fsar_cache.console import warn
from fsar_cache.errors import MissingError, UsageError
from splits.datasets import DATASETS, Dataset, make_parts
from splits.types import Split, Video
from splits.words import is_text, listed

EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
PARTITIONS = ("train", "val", "test")
_LAYOUT = "wanted: CLASS/VIDEO or {train,val,test}/CLASS/VIDEO; videos end in " + " ".join(EXTENSIONS)


def load_folder(name: str, root: Path) -> Split:
    """The split of the class folders under `root`; without partitions all clips are in the part "all".

    A clip's id is its path below `root` without the extension; files that differ in nothing else keep it.
    Empty class folders and folders that belong nowhere are left out with a warning; MissingError where nothing is left.
    """
    if not root.is_dir():
        raise MissingError(f"{root} is not a folder", hint=f"for a list of clips: csv:{root}")
    folders, _ = _entries(root)
    partitions = [n for n in PARTITIONS if n in folders and _entries(root / n)[0]]
    if partitions:
        others = [n for n in folders if n not in partitions]
        if others:
            warn(
                f"{root}: left out {listed(others)}: only train, val and test are partitions, and only with class folders in them"
            )
        clips = [(p, v) for p in partitions for v in _class_videos(root, f"{p}/")]
    else:
        clips = [("all", v) for v in _class_videos(root, "")]
    if not clips:
        raise MissingError(f"{root} has no class folder with videos in it", hint=_LAYOUT)
    return Split(name, root, make_parts(clips), {"kind": "folder"})


def _class_videos(root: Path, prefix: str) -> Iterator[Video]:
    """The videos of every class folder in `root/prefix`, sorted by class, then by file name."""
    empty = []
    for label in _entries(root / prefix)[0]:
        _, files = _entries(root / prefix / label)
        videos = [f for f in files if os.path.splitext(f)[1].lower() in EXTENSIONS]
        if not videos:
            empty.append(label)
        for file, stem in zip(videos, _ids(videos), strict=True):
            path = f"{prefix}{label}/{file}"
            if not is_text(path):
                raise UsageError(
                    f"the name {path!r} in {root} has control characters or bytes that are no text",
                    hint="rename it, or list the clips in a csv",
                )
            yield Video(f"{prefix}{label}/{stem}", label, path)
    if empty:
        warn(f"{root / prefix}: no videos lie directly in {listed(empty)}; left out. {_LAYOUT}")


def _ids(files: list[str]) -> list[str]:
    """File names without extension where that stays unique and isn't another file's name, else in full."""
    stems = [os.path.splitext(f)[0] for f in files]
    count, names = Counter(stems), set(files)
    return [s if count[s] == 1 and s not in names else f for s, f in zip(stems, files, strict=True)]


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of everything else in `folder` (broken links too: they are listed clips), sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            seen = [(e.name, e.is_dir()) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise MissingError(f"can't read the folder {folder}: {error.strerror}") from error
    return sorted(n for n, is_dir in seen if is_dir), sorted(n for n, is_dir in seen if not is_dir)


DATASETS.add("folder")(
    Dataset(
        load_folder, "class folders of videos: PATH/CLASS/VIDEO or PATH/{train,val,test}/CLASS/VIDEO", takes_path=True
    )
)
