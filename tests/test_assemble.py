"""Opening what a recipe names: stores whose clips are not the dataset's any more are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import worlds

from cache.store import open_store, stores_under
from fsar_cache.errors import IntegrityError
from pipeline.assemble import workshop


def test_features_of_a_file_that_has_changed_since_are_refused(tmp_path: Path) -> None:
    world = worlds.make_world(tmp_path)
    (path,) = stores_under(world.places.stores / "source")
    clip = "source-train-0-0"
    with open_store(path) as store:
        store.plan([replace(row, origin=f"{row.id}.mp4 (5 bytes)") for row in store.rows])
    with workshop(world.recipe(), world.places) as shop:
        (tmp_path / f"{clip}.mp4").write_bytes(b"12345")
        shop.training()
        (tmp_path / f"{clip}.mp4").write_bytes(b"123456")
        with pytest.raises(IntegrityError, match=rf"(?s)1 clips.*{clip}.mp4 \(5 bytes\) then, {clip}.mp4 \(6 bytes\) now"):
            shop.training()
