"""Flow fields that other tools left in folders, brought into a store as if they had been computed here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cache.features import FeatureStore
from cache.medium import Array
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create
from extract.config import store_path
from extract.flow_field import square, stored
from extract.flow_files import Field, flo_files, image_pairs, read_flo, read_pair
from extract.geometry import resized
from extract.sampling import SAMPLING
from fsar_cache.canonical import plain
from fsar_cache.errors import FailedVideosError, IntegrityError, MissingError
from splits.types import Split, Video


@dataclass(frozen=True)
class FlowImport:
    """What is known of the fields, and how they are brought to rows int16 [frames, 2, size, size].

    format: "flo" files or "tsn" pairs of images; bound, snap_zero: of images, see `flow_files.decode_levels`. name: of the tool that made
    them, for the store's name; about: a free remark on the making. frame_height, frame_width: of the frames whose central part the
    fields cover, on the same grid (some tools crop to multiples of 64); 0: the fields cover whole frames.
    frames, sampling: which fields stand for a clip: of a clip of n fields, and so n + 1 frames, the rule chooses frames; the last frame
    takes the last field. size, transform: as for frames.
    """

    format: Literal["flo", "tsn"]
    name: str = "imported"
    about: str = ""
    frames: int = 8
    size: int = 224
    sampling: str = "gslta-test"
    transform: str = "gslta-eval"
    bound: float = 20.0
    snap_zero: bool = True
    frame_height: int = 0
    frame_width: int = 0

    def __post_init__(self) -> None:
        if self.format not in ("flo", "tsn"):
            raise ValueError(f"format must be flo or tsn, got {self.format!r}")
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name must be letters, digits, _ and -, got {self.name!r}")
        if self.frames < 1 or self.size < 8 or not 0 < self.bound < math.inf:
            raise ValueError(
                f"frames, size and bound are {self.frames}, {self.size}, {self.bound}; least: 1, 8, above 0"
            )
        if min(self.frame_height, self.frame_width) < (1 if self.frame_height or self.frame_width else 0):
            raise ValueError(
                f"frame_height and frame_width go together, got {self.frame_height} and {self.frame_width}"
            )

    def spec(self) -> FeatureSpec:
        """The identity of the store; UsageError for a rule that draws and for a transform without known geometry."""
        SAMPLING.get(self.sampling)(self.frames, self.frames, None)
        resized(self.transform, self.size, self.size, self.size)
        codes = {"bound": self.bound, "snap_zero": self.snap_zero} if self.format == "tsn" else {}
        return FeatureSpec(
            kind="flow",
            decoder={"contract": "unknown"},
            sampling={"rule": self.sampling, "frames": self.frames, "pair": "next_native", "stride": 1},
            transform={"name": self.transform, "size": self.size, "frame": [self.frame_height, self.frame_width]},
            backbone={"name": self.name, "weights": "unknown", "about": self.about, "format": self.format, **codes},
            cut="flow",
            shape=(self.frames, 2, self.size, self.size),
            dtype="int16",
        )


@dataclass(frozen=True)
class FlowImported:
    """What came of an import: the store, clips with fields, (id, reason) of those without, and folders that belong to no clip."""

    path: Path
    ok: int
    failed: list[tuple[str, str]]
    strange: list[Path]


def import_flow(
    source: Path, split: Split, folder: Path, settings: FlowImport, *, backend: str = "zarr", max_failures: float = 0.02
) -> FlowImported:
    """Import the fields under `source` of every clip of `split` into the store that the settings name under `folder`.

    A clip's fields are in the folder named by its id, else by its video's path without extension. Blocks that are written are left alone,
    so a killed import goes on when repeated. Raises MissingError where no clip has fields (nothing is written) and FailedVideosError
    where more than `max_failures` of the clips have none that can be read.
    """
    spec = settings.spec()
    clips = [(part.name, video) for part in split.parts.values() for video in part.videos]
    places = {video.id: _place(source, video) for _, video in clips}
    if not any(place.is_dir() for place in places.values()):
        raise MissingError(
            f"no clip of {split.name} has a folder of flow fields under {source}; the first would be {next(iter(places.values()), source)}",
            hint="one folder per clip, named by its id or by its video's path without extension",
        )
    rows = [Row(video.id, video.label, part) for part, video in clips]
    with create(store_path(folder, split.home, spec), spec, rows, dataset=split.home, backend=backend) as store:
        _write(store, places, settings)
        known = {video.id for _, video in clips}
        failed = [(row["id"], row["reason"]) for row in store.failures() if row["id"] in known]
        path = store.path
    if len(failed) > max_failures * len(clips):
        shown = "".join(f"\n  {name}: {reason}" for name, reason in failed[:10])
        raise FailedVideosError(
            f"{len(failed)} of {len(clips)} clips have no flow that can be read ({max_failures:.1%} may):{shown}",
            hint=f"mend them, remove {path} and repeat, or allow more: --max-failures {math.ceil(100 * len(failed) / len(clips)) / 100:g}",
        )
    return FlowImported(path, len(clips) - len(failed), failed, _strange(source, set(places.values())))


def _place(source: Path, video: Video) -> Path:
    """Where a clip's fields are, or should be."""
    own = source / video.id
    other = (source / video.path).with_suffix("")
    return other if other.is_dir() and not own.is_dir() else own


def _write(store: FeatureStore, places: dict[str, Path], settings: FlowImport) -> None:
    with store.writer() as writer:
        for block in store.missing():
            first, last = store.block_range(block)
            array: Array = np.zeros((last - first, *store.spec.shape), store.dtype)
            outcomes = []
            for number, row in enumerate(store.rows[first:last]):
                if row.id not in places:
                    outcomes.append(Outcome("absent", "not in the dataset"))
                    continue
                try:
                    array[number], count = imported_clip(places[row.id], settings)
                    outcomes.append(Outcome("ok", "", count))
                except (IntegrityError, MissingError, ValueError) as error:
                    outcomes.append(Outcome("failed", " ".join(str(error).split())[:300]))
            writer.write_block(block, array, outcomes, {"imported": plain(settings)})


def imported_clip(folder: Path, settings: FlowImport) -> tuple[Array, int]:
    """The row of one clip's folder, int16 [frames, 2, size, size], and the number of frames its fields stand for.

    Pixels of unknown flow, and those outside a central part, count as unmoved. MissingError, IntegrityError for absent or damaged files.
    """
    readers = _readers(folder, settings)
    count = len(readers) + 1
    chosen = np.minimum(SAMPLING.get(settings.sampling)(count, settings.frames, None), len(readers) - 1)
    fields = {number: np.nan_to_num(readers[number](), nan=0.0) for number in sorted(set(chosen.tolist()))}
    sizes = {field.shape for field in fields.values()}
    if len(sizes) > 1:
        raise IntegrityError(f"the fields in {folder} differ in size: {sorted(s[1:] for s in sizes)}")
    clip = _whole(np.stack([fields[number] for number in chosen.tolist()]), settings)
    height, width = clip.shape[-2:]
    row = stored(square(torch.from_numpy(clip), height, width, settings.transform, settings.size))
    return row.numpy(), count


def _readers(folder: Path, settings: FlowImport) -> list[Callable[[], Field]]:
    if settings.format == "flo":
        return [partial(read_flo, path) for path in flo_files(folder)]
    return [partial(read_pair, *pair, settings.bound, settings.snap_zero) for pair in image_pairs(folder)]


def _whole(clip: Array, settings: FlowImport) -> Array:
    """Fields [T, 2, h, w] put back at the centre of their frames [T, 2, H, W]."""
    if not settings.frame_height:
        return clip
    inner, outer = clip.shape[-2:], (settings.frame_height, settings.frame_width)
    if inner[0] > outer[0] or inner[1] > outer[1]:
        raise IntegrityError(f"fields of {inner[0]} x {inner[1]} are no part of frames of {outer[0]} x {outer[1]}")
    made = np.zeros((*clip.shape[:2], *outer), clip.dtype)
    top, left = ((whole - part) // 2 for whole, part in zip(outer, inner, strict=True))
    made[..., top : top + inner[0], left : left + inner[1]] = clip
    return made


def _strange(source: Path, known: set[Path]) -> list[Path]:
    """Folders with files in them under `source` that are no clip's, sorted."""
    found = {path.parent for path in source.rglob("*") if path.is_file()}
    return sorted(found - known - {source})
