"""The default backend: a Zarr v3 array "features", uncompressed, one chunk file per block.

A chunk file is the raw array, so blocks are read by memory map; any Zarr reader can open the folder. Row r of the store stands at
block * block_rows + place: only after rows were added to a store whose last block was short does that differ from r.
"""

# ruff: noqa: D102 - what the methods promise stands in cache.medium and cache.folder

from __future__ import annotations

import json
from typing import Any

import numpy as np

from cache.folder import FolderMedium
from cache.medium import BACKENDS, Array
from cache.table import RowTable


@BACKENDS.add("zarr")
class ZarrMedium(FolderMedium):
    """Chunk files c.BLOCK.0.0..., the last chunk padded with the fill value to its full size."""

    folder_name = "features"

    def file_name(self, block: int) -> str:
        return ".".join(["c", str(block), *("0" for _ in self.header.spec.shape)])

    def contents(self, block: int, array: Array) -> tuple[list[memoryview], int]:
        pieces = [array]
        short = self.header.block_rows - len(array)
        if short:
            pieces.append(np.full((short, *self.header.spec.shape), self.header.fill(), self.header.dtype))
        return [piece.reshape(-1).view(np.uint8).data for piece in pieces], 0

    def describe(self, table: RowTable) -> dict[str, bytes]:
        blocks = len(table.sizes)
        length = (blocks - 1) * table.block_rows + int(table.sizes[-1]) if blocks else 0
        facts = {"fingerprint": self.header.spec.fingerprint, "dataset": self.header.dataset}
        group = {"zarr_format": 3, "node_type": "group", "attributes": facts}
        return {"zarr.json": _json(group), f"{self.folder_name}/zarr.json": _json(self._array_metadata(length))}

    def codecs(self) -> list[dict[str, Any]]:
        """How a Zarr reader makes the array of a chunk from its file."""
        codec: dict[str, Any] = {"name": "bytes"}
        if self.header.dtype.itemsize > 1:
            codec["configuration"] = {"endian": "little"}
        return [codec]

    def _array_metadata(self, length: int) -> dict[str, Any]:
        spec, dtype = self.header.spec, self.header.dtype
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [length, *spec.shape],
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.header.block_rows, *spec.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if dtype.kind == "f" else 0,
            "codecs": self.codecs(),
            "attributes": {},
            "dimension_names": ["row", *(None for _ in spec.shape)],
            "storage_transformers": [],
        }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
