"""The inside of a worker of the engine "ray": what it is, and the slices it makes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.compute import Made, Slice
from extract.config import ExtractConfig, device_for
from extract.local import Clips, computed
from extract.prepare import origin_of
from extract.probe import file_size
from extract.product import Product, product_of
from fsar_cache.errors import MissingError
from splits.types import Split


@dataclass(frozen=True)
class Given:
    """What every worker of a run gets: the folder that the command was started in, what `computed` needs, and what it is made from.

    origins: by clip, what the command's machine sees of its file (`origin_of`).
    """

    folder: Path
    split: Split
    config: ExtractConfig
    clips: Clips
    batch_clips: int
    origins: Mapping[str, str]


def facts(config: ExtractConfig, product: Product, batch_clips: int) -> dict[str, Any]:
    """What must be equal on machines that make blocks of one store: the fingerprint and the provenance, but for the host."""
    from extract.run import provenance

    made_by = provenance(config, product, device_for(config), batch_clips)
    del made_by["host"]
    return {"fingerprint": product.spec.fingerprint, **made_by}


class Worker:
    """One process of the cluster with `workers` decode processes and a device of its own; its backbone is built once, by `ready`."""

    def __init__(self, given: Given, workers: int) -> None:
        with suppress(OSError):  # another machine may lack the folder; where it is there, relative paths mean the same
            os.chdir(given.folder)
        self._given, self._workers = given, workers

    def ready(self) -> tuple[str, dict[str, Any]]:
        """The name of the machine and its facts, once everything is built."""
        given = self._given
        self._product = product_of(given.config, given.split)
        return platform.node(), facts(given.config, self._product, given.batch_clips)

    def made(self, slices: list[Slice]) -> Iterator[Made]:
        """The slices, each as it is finished. Raises MissingError where a file is not here that the command saw, or another is."""
        given = self._given
        for name in dict.fromkeys(row.id for part in slices for row in part.rows if row.id in given.clips.videos):
            self._require_file(name)
        yield from computed(
            slices,
            self._product,
            given.clips,
            device_for(given.config),
            given.batch_clips,
            workers=self._workers,
            time_limit=given.config.time_limit,
        )

    def _require_file(self, name: str) -> None:
        """MissingError unless the clip's file is the one that the command's machine has; where that has none, it is not compared."""
        root, video, seen = self._given.clips.root, self._given.clips.videos[name], self._given.origins[name]
        here = origin_of(video, file_size(root / video.path)) if seen else ""
        if here != seen:
            what = f"another {root / video.path}: {here}" if here else f"no {root / video.path}"
            raise MissingError(
                f"{platform.node()} has {what}; the command's machine has {seen}",
                hint="the same videos must lie under the same path on all machines of the cluster",
            )
