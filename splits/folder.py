"""The dataset kind `folder`: class folders of videos, PATH/CLASS/VIDEO or PATH/{train,val,test}/CLASS/VIDEO, on disk or in a zip.

Which of the two it is shows in the folders: train, val or test that hold class folders are partitions, any other folder of the root holds
the videos of a class (also a class that is called "train"). VIDEO is a video file, or a folder with images in it and no video: its
extracted frames. Hidden entries and files of other kinds don't count; links are followed. PATH may be a zip of such frame folders, or a
folder inside one; a video file in a zip can't be read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from fsar_cache.console import warn
from fsar_cache.errors import MissingError, UsageError
from splits import frames
from splits.datasets import DATASETS, Dataset, make_parts
from splits.types import Split, Video
from splits.words import is_text, listed

PARTITIONS = ("train", "val", "test")
_LAYOUT = (
    f"wanted: CLASS/VIDEO or {{train,val,test}}/CLASS/VIDEO; videos end in {' '.join(frames.VIDEOS)} "
    f"or are folders of images that end in {' '.join(frames.IMAGES)}"
)


def load_folder(name: str, root: Path) -> Split:
    """The split of the class folders under `root`; without partitions all clips are in the part "all".

    A clip's id is its path below `root` without a file's extension; files that differ in nothing else keep it.
    Empty class folders and folders that belong nowhere are left out with a warning; MissingError where nothing is left.
    """
    if root.is_file() and root.suffix.lower() == ".zip" and not frames.is_folder(root):
        raise MissingError(f"{root} can't be read as a zip: it is damaged or cut short", hint="pack or fetch it again")
    if not frames.is_folder(root):
        raise MissingError(f"{root} is not a folder", hint=f"for a list of clips: csv:{root}")
    folders, _ = _entries(root)
    partitions = [n for n in PARTITIONS if n in folders and _holds_classes(root / n)]
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


def _holds_classes(folder: Path) -> bool:
    """Whether a folder lies in `folder` that isn't the frames of a video."""
    return any(not _is_frames(folder / name) for name in _entries(folder)[0])


def _class_videos(root: Path, prefix: str) -> Iterator[Video]:
    """The videos of every class folder in `root/prefix`, sorted by class, then by name."""
    empty = []
    for label in _entries(root / prefix)[0]:
        folders, others = _entries(root / prefix / label)
        files = [f for f in others if f.lower().endswith(frames.VIDEOS) and not frames.in_zip(root)]
        names = {f: f for f in folders if _is_frames(root / prefix / label / f)}
        names.update(zip(files, _ids(files, names), strict=True))
        if not names:
            empty.append(label)
        for name in sorted(names):
            path = f"{prefix}{label}/{name}"
            if not is_text(path):
                raise UsageError(
                    f"the name {path!r} in {root} has control characters or bytes that are no text",
                    hint="rename it, or list the clips in a csv",
                )
            yield Video(f"{prefix}{label}/{names[name]}", label, path)
    if empty:
        warn(f"{root / prefix}: no videos lie directly in {listed(empty)}; left out. {_LAYOUT}")


def _ids(files: list[str], folders: Collection[str] = ()) -> list[str]:
    """File names without extension where that stays unique and isn't another file's or folder's name, else in full."""
    stems = [os.path.splitext(f)[0] for f in files]
    count, names = Counter(stems), {*files, *folders}
    return [s if count[s] == 1 and s not in names else f for s, f in zip(stems, files, strict=True)]


def _is_frames(folder: Path) -> bool:
    files = _entries(folder)[1]
    return any(f.lower().endswith(frames.IMAGES) for f in files) and not any(
        f.lower().endswith(frames.VIDEOS) for f in files
    )


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of everything else in `folder` (broken links too: they are listed clips), sorted, hidden ones left out."""
    try:
        return frames.entries(folder)
    except OSError as error:
        raise MissingError(f"can't read the folder {folder}: {error.strerror}") from error


DATASETS.add("folder")(
    Dataset(
        load_folder,
        "class folders of videos or extracted frames: PATH/CLASS/VIDEO or PATH/{train,val,test}/CLASS/VIDEO",
        takes_path=True,
    )
)
