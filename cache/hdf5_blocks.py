"""The HDF5 backend: one file per block, with one contiguous, unfiltered, little-endian, aligned dataset "features".

Such a dataset is the raw array at a known offset, so the same reader maps it; h5py and any HDF5 tool open the file. A file is
built in RAM and written whole, because a killed writer leaves an open HDF5 file unreadable.
"""

# ruff: noqa: D102 - what the methods promise stands in cache.medium and cache.folder

from __future__ import annotations

import io

import h5py

from cache.folder import FolderMedium
from cache.medium import BACKENDS, Array
from cache.table import RowTable

_PAGE = 4096


@BACKENDS.add("hdf5")
class Hdf5Medium(FolderMedium):
    """Files BLOCK.h5; attributes of the dataset: fingerprint and block."""

    folder_name = "blocks"

    def file_name(self, block: int) -> str:
        return f"{block:06d}.h5"

    def contents(self, block: int, array: Array) -> tuple[list[memoryview], int]:
        image = io.BytesIO()
        with h5py.File(image, "w", alignment_threshold=1024, alignment_interval=_PAGE) as file:
            features = file.create_dataset("features", data=array, dtype=self.header.dtype, track_times=False)
            features.attrs["fingerprint"] = self.header.spec.fingerprint
            features.attrs["block"] = block
            offset = int(features.id.get_offset())
        return [image.getbuffer()], offset

    def describe(self, table: RowTable) -> dict[str, bytes]:
        return {}
