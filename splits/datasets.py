"""Datasets by name: `ssv2`, `kinetics100`, `synth-source`, `folder:PATH`, `csv:PATH#ALIAS` and whatever plugs in become splits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fsar_cache import places
from fsar_cache.errors import MissingError, UsageError, nearest
from fsar_cache.registry import Registry
from splits.frames import is_folder, is_there
from splits.types import Part, Split, Video

GROUPS = {"synth": ("synth-source", "synth-target", "synth-far")}
"""Short names that stand for several datasets."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_FIRST = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """A kind of dataset: called with the split's name and a root it returns the split.

    about: one line for lists. takes_path: True where users name it with a path (`folder:PATH`; that path is the root, absolute),
    False where it is a dataset of its own under the folder of videos (that folder is the root, the name is the registered one).
    """

    load: Callable[[str, Path], Split]
    about: str
    takes_path: bool = False

    def __call__(self, name: str, root: Path) -> Split:
        """The split called `name` that is found at `root`."""
        return self.load(name, root)


DATASETS: Registry[Dataset] = Registry(
    "dataset", ("splits.folder", "splits.csvfile", "splits.synth", "splits.published.register")
)


def known_datasets() -> list[tuple[str, str]]:
    """Every name a dataset can be given by, as users type it ("synth-far", "folder:PATH"), with one line about it."""
    kinds = [(kind, DATASETS.get(kind)) for kind in DATASETS]
    rows = [(f"{kind}:PATH" if d.takes_path else kind, d.about) for kind, d in kinds]
    rows += [(group, f"the datasets {', '.join(names)}") for group, names in GROUPS.items()]
    rows += [(name, "an imported list of your own") for name in _imported() if name not in DATASETS.names()]
    return sorted(rows)


def expand(name: str) -> list[str]:
    """The datasets a name stands for: the members of a group, else the name itself."""
    return list(GROUPS.get(name, (name,)))


def open_split(name: str, videos: Path | None = None) -> Split:
    """The split of the dataset `name`: a registered or imported name, `folder:PATH` or `csv:PATH`, these two with `#ALIAS` if wanted.

    videos: the folder of datasets, default `places.videos()`. UsageError for a name that means nothing, MissingError for data that
    isn't there. No video is opened; whether they exist is what `missing` tells.
    """
    require_known(name)
    kind, colon, rest = name.partition(":")
    dataset = _dataset(kind)
    if not dataset.takes_path:
        root = Path(os.path.abspath(videos or places.videos()))
        if colon:
            raise UsageError(
                f"{kind} takes no path, got {name!r}: it lies under {root}", hint="FSAR_VIDEOS moves that folder"
            )
        return dataset(kind, root)
    path, alias = _path_and_alias(kind, rest)
    return dataset(_split_name(alias, kind, path), path)


def require_known(name: str) -> None:
    """UsageError unless the name means one dataset; whether it is there is another question (`open_split`)."""
    if name in GROUPS:
        raise UsageError(f"{name!r} stands for several datasets", hint=f"name one of {', '.join(GROUPS[name])}")
    kind = name.partition(":")[0]
    if kind not in DATASETS.names() and not _goes_by(kind):
        raise _unknown(name, kind)


def _dataset(kind: str) -> Dataset:
    """The registered dataset of this name, else the imported list, or published split by another name, that goes by it."""
    if kind in DATASETS.names():
        return DATASETS.get(kind)
    from splits.published.make import open_published

    return Dataset(open_published, "an imported list")


def _goes_by(name: str) -> bool:
    """Whether a name is that of an imported list, or another name of a published split."""
    from splits.published.known import other_names

    return name in other_names() or name in _imported()


def _imported() -> list[str]:
    from splits.published.imported import imported_names

    return imported_names()


def missing(split: Split) -> list[Video]:
    """The clips whose file or folder of frames isn't there (or not to be seen), in the order of the split."""
    there: dict[str, bool] = {}
    absent = []
    for part in split.parts.values():
        for video in part.videos:
            if video.path not in there:
                there[video.path] = is_there(split.root / video.path)
            if not there[video.path]:
                absent.append(video)
    return absent


def make_parts(clips: Iterable[tuple[str, Video]]) -> dict[str, Part]:
    """Partitions from (partition name, clip) pairs: train, val, test first; classes sorted by name, clips in the order given."""
    groups: dict[str, list[Video]] = {}
    for name, video in clips:
        groups.setdefault(name, []).append(video)
    order = sorted(groups, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))
    return {n: Part(n, tuple(sorted({v.label for v in groups[n]})), tuple(groups[n])) for n in order}


def safe(name: str) -> bool:
    """Whether `name` may be a folder's name everywhere: letters, digits, `.`, `_`, `-`; at most 100, not led by `.` or `-`."""
    return _SAFE.fullmatch(name) is not None


def _path_and_alias(kind: str, rest: str) -> tuple[Path, str]:
    """The absolute path and the alias ("" where none is given) of `PATH#ALIAS`; a `#` inside a folder's name further up is no mark."""
    text, mark, alias = rest.rpartition("#")
    if not mark or "/" in alias:
        text, mark, alias = rest, "", ""
    if not text or (mark and not alias):
        raise UsageError(
            f"{kind!r} wants {kind}:PATH or {kind}:PATH#ALIAS, got {kind}:{rest}", hint=f"for example {kind}:data/mine"
        )
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if not os.path.exists(path) and not is_folder(path):
        whole = mark and os.path.exists(os.path.expanduser(rest))
        hint = f"what follows the last # is an alias: {kind}:{rest}#ALIAS" if whole else "check the path"
        raise MissingError(f"dataset {kind}:{rest}: there is no {path}", hint=hint)
    return path, alias


def _split_name(alias: str, kind: str, path: Path) -> str:
    """The split's name: the alias, else the folder's name or the file's stem; it names folders, so it must be safe and free."""
    name = alias or (path.name if path.is_dir() else path.stem)
    hint = f"give it another name: {kind}:{path}#ALIAS"
    if not safe(name):
        raise UsageError(
            f"a dataset can't be called {name!r}: letters, digits and . _ - only, at most 100, not led by . or -",
            hint=hint,
        )
    if name in GROUPS or name in DATASETS.names():
        raise UsageError(f"a dataset of yours can't be called {name!r}: that name is taken", hint=hint)
    return name


def _unknown(name: str, kind: str) -> UsageError:
    close = nearest(kind, [*DATASETS.names(), *GROUPS, *_imported()])
    hint = "for a list of your own clips: csv:LIST.csv, in a recipe with --set source.dataset=csv:LIST.csv (and target.dataset)"
    hint = f"did you mean {close!r}? Or {hint}" if close else hint
    if os.path.isdir(name):
        hint = f"for class folders: folder:{name}"
    elif os.path.isfile(name):
        hint = f"for a list of clips: csv:{name}"
    return UsageError(f"unknown dataset {name!r}; fsar-cache list datasets shows all", hint=hint)
