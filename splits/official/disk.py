"""A dataset as it lies on disk: its folder, its annotation files, and where each clip's file is."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fsar_cache.errors import MissingError
from splits.official.annotated import Annotated, counted, spelled
from splits.official.catalog import Official, official
from splits.official.files import Files, is_as_then, stem, walk
from splits.official.names import NAMING
from splits.types import Video

GENERIC = (
    "train.csv",
    "val.csv",
    "validate.csv",
    "validation.csv",
    "labels.json",
    "train.json",
    "validation.json",
    "test.json",
)
"""Names of annotation files that could be any dataset's, so they are not looked for beside the dataset's folder."""


class Reader(Protocol):
    """What the module of each dataset has. It may have more: `rank` of a path (of several files of one clip the lowest is used), `resolver`
    (where a list's entries mean clips in another way than by `key`), RELEASES of the annotation.
    """

    def key(self, name: str, /) -> str | None:
        """What a file or an entry of a list with this name is found by; None where it is no clip's."""

    def expected(self, entry: str, label: str, /) -> str:
        """Where a clip's file should be, below the dataset's folder."""

    def annotated(self, disk: OnDisk, which: str | None, /) -> Annotated:
        """The clips as the owners have them."""


class OnDisk:
    """One dataset under a folder of videos.

    root: its folder, also where it isn't there; official: its facts; files: what was found; paths: clip id -> path of its file below root
    (for RareAct also YouTube id -> path of a full video); notes: what was seen on the way; strays: those of them that harm nobody.
    """

    def __init__(self, facts: Official, root: Path, beside: Path, files: Files) -> None:
        self.official, self.root, self.files = facts, root, files
        self._beside = beside
        module: Any = importlib.import_module(f"splits.official.{facts.name}")
        self._reader: Reader = module
        self.labels = {spelled(name): name for name in facts.classes}
        self.paths, self.notes = self._indexed()
        self._annotations: dict[str | None, Annotated] = {}
        inside = [self._beside, *self._annotation_files()]
        self.stamp = [*files.stamp, *((str(path), os.stat(path).st_mtime_ns) for path in inside if path.exists())]

    @property
    def exists(self) -> bool:
        """Whether its folder is there."""
        return bool(self.files.stamp)

    def annotation(self, which: str | None = None) -> Annotated:
        """What the owners say of the clips; which: of several annotations, None the usual one. MissingError without its files."""
        if which not in self._annotations:
            self._annotations[which] = self._reader.annotated(self, which)
        return self._annotations[which]

    def clips(self, entries: Sequence[tuple[str, str]]) -> list[Video | None]:
        """The clips that a list's entries (name, class) mean, None for what is no name of a clip of this dataset.

        A clip whose file isn't there has the path that is expected. RareAct's names are found in the owners' table (MissingError without).
        """
        resolver = getattr(self._reader, "resolver", None)
        found: Callable[[str, str], Video | None]
        found = resolver(self, {entry for entry, _ in entries}) if resolver else self._found
        return [found(entry, label) for entry, label in entries]

    def _found(self, entry: str, label: str) -> Video | None:
        clip = self._reader.key(entry)
        return None if clip is None else self.video(clip, label, self.paths.get(clip) or self.expected(entry, label))

    def expected(self, entry: str, label: str) -> str:
        """Where the file of a list's entry should be."""
        path = self._reader.expected(entry, label)
        first, _, rest = path.partition("/")
        return rest if first.lower() == self.root.name.lower() else path

    @property
    def releases(self) -> tuple[str | None, ...]:
        """The annotations that are there, as `annotation` takes them; the usual one where the owners have but one."""
        known: tuple[str, ...] = getattr(self._reader, "RELEASES", ())
        return tuple(which for which in known if self.file(f"{which}train") is not None) or (None,)

    def clip(self, entry: str, label: str) -> Video | None:
        """The clip that one entry means; `clips` finds many at once."""
        return self.clips([(entry, label)])[0]

    def file(self, role: str) -> Path | None:
        """The annotation file (or folder) of this role, None where there is none."""
        for name in self.official.annotations[role]:
            found = self.files.named.get(name.lower())
            if found:
                return self.root / found[0]
            beside = self._beside / name
            if name not in GENERIC and beside.exists():
                return beside
        return None

    def require_file(self, *roles: str) -> list[Path]:
        """The files of all these roles; MissingError naming those that are not there."""
        there = {role: self.file(role) for role in roles}
        absent = [self.official.annotations[role][0] for role, path in there.items() if path is None]
        if absent:
            raise MissingError(
                f"{self.official.title}: no {' and no '.join(absent)} in {self.root}{self._words()}",
                hint=f"get it: {self.official.get[0]}",
            )
        return [path for path in there.values() if path is not None]

    def video(self, clip: str, label: str, path: str) -> Video:
        """A whole file as a clip."""
        return Video(clip, label, path, source=NAMING[self.official.name].source_of(clip))

    def nothing_there(self) -> MissingError:
        """The error for a dataset of which nothing is there: what is expected where, and how to get it."""
        found = f"{self.root} has no video of it" if self.exists else self._why_not()
        get = "".join(f"\n  {line}" for line in self.official.get)
        return MissingError(
            f"{self.official.title} is not there: {found}{self._words()}\nhow to get it:{get}",
            hint="the folder of datasets is moved by --videos PATH or FSAR_VIDEOS=PATH",
        )

    def _why_not(self) -> str:
        """What is in the place of the dataset's folder."""
        try:
            names = [each.name for each in os.scandir(self._beside) if each.name.lower() in self.official.folders]
        except OSError as error:
            return f"can't read {self._beside}: {error.strerror}"
        if not names:
            return f"no folder {' or '.join(self.official.folders[:3])} in {self._beside}"
        place = self._beside / names[0]
        return f"{place} is a link to nowhere" if place.is_symlink() and not place.exists() else f"{place} is no folder"

    def _words(self) -> str:
        return "\nexpected:" + "".join(f"\n  {line}" for line in self.official.layout)

    def _annotation_files(self) -> list[Path]:
        """Every annotation file that is there, those inside annotation folders too."""
        found = [path for role in self.official.annotations if (path := self.file(role)) is not None]
        inside = [file for path in found if path.is_dir() for file in sorted(path.iterdir())]
        return found + inside

    def _indexed(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Clip -> path; of several files of one clip the first: video files before frames, in the order that the dataset's module says."""
        key, rank = self._reader.key, getattr(self._reader, "rank", None)
        videos = sorted(self.files.videos, key=rank) if rank else self.files.videos
        paths: dict[str, str] = {}
        again: list[str] = []
        extra: list[str] = []
        for path in (*videos, *self.files.frames):
            clip = key(stem(path))
            if clip is None:
                extra.append(path)
            elif paths.setdefault(clip, path) is not path:
                again.append(f"{path} ({paths[clip]} is used)")
        notes = counted("file", "beside another one of the same clip, not used", again)
        self.strays = counted("video file", "with a name that is no clip's, not used", extra)
        return paths, notes + self.strays + self._several_annotations()

    def _several_annotations(self) -> tuple[str, ...]:
        """A note of annotation files that are not read because another one of their name is nearer to the top."""
        notes: tuple[str, ...] = ()
        for role, names in self.official.annotations.items():
            there = [path for name in names for path in self.files.named.get(name.lower(), ())]
            notes += counted("file", f"for {role} beside {there[0]}, not used" if there else "", there[1:])
        return notes


def candidates(facts: Official, videos: Path) -> list[Path]:
    """The folders of this dataset under the folder of videos, in the order in which its names are known."""
    try:
        there = sorted(entry.name for entry in os.scandir(videos) if entry.is_dir())
    except OSError:
        return []
    return [videos / name for wanted in facts.folders for name in there if name.lower() == wanted]


_FOUND: dict[tuple[str, Path], tuple[Path, OnDisk]] = {}


def find(name: str, videos: Path) -> OnDisk:
    """The dataset `name` under the folder of videos; the one found before, as long as no folder of it changed.

    Where nothing is there its `exists` is False. With several folders of the dataset's names the first is used, and noted.
    """
    videos = Path(os.path.abspath(videos))
    facts = official(name)
    roots = candidates(facts, videos)
    root = roots[0] if roots else videos / facts.folders[0]
    held = _FOUND.get((name, videos))
    if held is not None and held[0] == root and held[1].exists == bool(roots) and is_as_then(held[1].stamp):
        return held[1]
    id_of, classes = NAMING[name].id_of, {spelled(each) for each in facts.classes}
    wanted = {each.lower() for names in facts.annotations.values() for each in names}
    files = (
        walk(root, wanted, lambda each: id_of(each) is not None and spelled(each) not in classes) if roots else Files()
    )
    made = OnDisk(facts, root, videos, files)
    if len(roots) > 1:
        made.notes += (
            f"several folders could be {facts.title}; {roots[0]} is used, not {', '.join(map(str, roots[1:]))}",
        )
    _FOUND[name, videos] = (root, made)
    return made
