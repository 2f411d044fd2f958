"""UCF101: the file's name says class and group; the owners' lists, where they are there, say which files there should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fsar_cache.errors import MissingError
from splits.official.annotated import Annotated, counted, read_text, refuse, spelled
from splits.official.names import NAMING, ucf_class
from splits.types import Video

if TYPE_CHECKING:
    from splits.official.disk import OnDisk

key = NAMING["ucf101"].id_of
_LISTS = (("train", "trainlist01.txt"), ("test", "testlist01.txt"))


def expected(entry: str, label: str) -> str:
    """Where the clip's file should be."""
    return f"UCF-101/{label}/{entry}.avi"


def annotated(disk: OnDisk, which: str | None) -> Annotated:
    """The files of the owners' first split ("split1"), which lists every file; without their lists the files that are there."""
    folder = disk.require_file("split1")[0] if which == "split1" else disk.file("split1")
    if folder is None:
        return _of_files(disk)
    clips: dict[str, Video] = {}
    partitions: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    for part, name in _LISTS:
        if not (folder / name).is_file():
            raise MissingError(f"no {name} in {folder}", hint=f"get it: {disk.official.get[0]}")
        twice = []
        for video in _listed(folder / name, disk):
            if video.id in clips:
                twice.append(video.id)
            else:
                clips[video.id], partitions[video.id] = video, part
        notes += counted("line", f"of {name} for a clip that has one already, not used", twice)
    notes += counted("file", "absent from the owners' lists, not used", sorted(set(disk.paths) - set(clips)))
    return Annotated(clips, partitions, f"{folder.name}, split 1", notes)


def _listed(file: Path, disk: OnDisk) -> list[Video]:
    """The clips of one list; UsageError naming every bad line."""
    made: list[Video] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        folder, _, name = words[0].rpartition("/")
        stem = name.rsplit(".", 1)[0]
        label = disk.labels.get(spelled(folder))
        found = disk.clip(stem, label or "")
        if label is None or found is None or spelled(ucf_class(stem) or "") != spelled(label):
            bad.append((number, f"no <Class>/v_<Class>_gNN_cNN.avi: {line[:100]!r}"))
        else:
            made.append(found)
    refuse(file, bad)
    return made


def _of_files(disk: OnDisk) -> Annotated:
    clips: dict[str, Video] = {}
    strange: list[str] = []
    for name, path in disk.paths.items():
        label = disk.labels.get(spelled(ucf_class(name) or ""))
        if label is None:
            strange.append(path)
        else:
            clips[name] = disk.video(name, label, path)
    if not clips:
        raise disk.nothing_there()
    notes = counted("file", "of a class unknown to UCF101, not used", strange)
    return Annotated(clips, dict.fromkeys(clips, "all"), "the files' names", notes)
