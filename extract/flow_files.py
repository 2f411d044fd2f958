"""Flow fields that other tools left: Middlebury .flo files, and pairs of 8-bit grey images (x and y) as two-stream tool chains write them.

A clip is a folder with one field per pair of neighbouring frames, in natural numeric order: 00001.flo, 00002.flo, ... or flow_x_00001.jpg
with flow_y_00001.jpg (also x_00001.jpg with y_00001.jpg; jpg, jpeg or png). Source: the optical-flow card, "File formats to read".
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.files import whole_file

Field = NDArray[np.float32]
MAGIC = b"PIEH"
UNKNOWN = 1e7
"""Larger components in a .flo file mean that the flow is not known there."""
_IMAGE = re.compile(r"(?:flow_)?([xy])_?(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)


def read_flo(path: Path) -> Field:
    """The field of a .flo file, float32 [2, H, W] in pixels, NaN where it is not known; IntegrityError where the file is not whole."""
    data = path.read_bytes()
    if data[:4] != MAGIC or len(data) < 12:
        raise IntegrityError(f"{path} is no .flo file: it begins with {data[:4]!r}, not {MAGIC!r}")
    width, height = struct.unpack("<ii", data[4:12])
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise IntegrityError(f"{path} is damaged: {len(data)} bytes can't be a field of {width} x {height}")
    field = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        field[:, ~(np.abs(field) <= UNKNOWN).all(0)] = np.nan
    return field


def write_flo(path: Path, field: Field) -> None:
    """Write float32 [2, H, W], whole or not at all; NaN becomes the mark for unknown flow."""
    _, height, width = field.shape
    values = np.where(np.isnan(field), 1e9, field).astype("<f4").transpose(1, 2, 0)
    with whole_file(path) as file:
        file.write(MAGIC + struct.pack("<ii", width, height) + values.tobytes())


def decode_levels(levels: NDArray[np.uint8], bound: float, snap_zero: bool = True) -> Field:
    """8-bit codes to pixels: 0 is -bound, 255 is bound; float32 of the same shape.

    No code means exactly 0: a still picture was written as 127 or 128 (the tools differ), +-bound / 255. snap_zero makes both 0.
    """
    field = levels.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)
    if snap_zero:
        field[(levels == 127) | (levels == 128)] = 0
    return field


def read_pair(x: Path, y: Path, bound: float, snap_zero: bool = True) -> Field:
    """The field of two grey images, float32 [2, H, W] in pixels; IntegrityError where they can't be read or differ in size."""
    import cv2

    levels = []
    for path in (x, y):
        found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE) if path.stat().st_size else None
        if found is None:
            raise IntegrityError(f"{path} is no image that can be read")
        levels.append(found.astype(np.uint8))
    if levels[0].shape != levels[1].shape:
        raise IntegrityError(f"{x} and {y} differ in size: {levels[0].shape} and {levels[1].shape}")
    return decode_levels(np.stack(levels), bound, snap_zero)


def flo_files(folder: Path) -> list[Path]:
    """The .flo files of a clip's folder by the last number in their names; MissingError where there is none."""
    found = sorted(folder.glob("*.flo"), key=lambda p: (_number(p.stem), p.name))
    if not found:
        raise MissingError(f"no .flo file in {folder}")
    return found


def image_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The (x, y) images of a clip's folder by number; MissingError where there is none, IntegrityError where one lacks its partner."""
    sides: dict[str, dict[int, Path]] = {"x": {}, "y": {}}
    for path in folder.iterdir() if folder.is_dir() else ():
        named = _IMAGE.fullmatch(path.name)
        if named:
            sides[named[1].lower()][int(named[2])] = path
    alone = sorted(sides["x"].keys() ^ sides["y"].keys())
    if alone:
        raise IntegrityError(f"flow image number {alone[0]} in {folder} has only one of its two directions")
    if not sides["x"]:
        raise MissingError(f"no pair of flow images (flow_x_00001.jpg, flow_y_00001.jpg) in {folder}")
    return [(sides["x"][number], sides["y"][number]) for number in sorted(sides["x"])]


def _number(stem: str) -> int:
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else -1
