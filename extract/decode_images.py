"""Videos that were kept as folders of extracted frames: frame i is the i-th image by the number in its name.

Pixels: RGB as Pillow decodes the file, its EXIF rotation ignored, as published readers of frame folders do. Only chosen images are read.
"""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from extract.decoders import DECODERS, Choose, Decoded, Span, chosen
from extract.probe import DecodeError, reason
from splits import frames
from splits.words import listed

FLOW = re.compile(r"(flow_)?[xy]_?#")
"""Series of images that hold optical flow beside the frames, by their names with # for each number; they are no frames."""
NUMBER = re.compile(r"(\d+)")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Kinds of pictures that become RGB without loss of range; 16-bit ones would be cut off at 255."""


@DECODERS.add("images")
def decode_images(path: Path, choose: Choose, span: Span) -> Decoded:
    """The chosen images of the folder `path` (DATA.zip/FOLDER: of a folder in a zip).

    Decoded.decoded: images in the folder; corrupt: 0, a damaged image ends the clip; claimed and duration: -1, nothing says.
    Raises DecodeError where there is no such folder, no image in it, or no order among them; for spans (images have no times); for a
    chosen image that can't be decoded or has another size than the first.
    """
    if not frames.means_folder(path):
        raise DecodeError(f"{path.name}: no folder of images", hint="use --decoder auto for video files")
    if span != Span():
        raise DecodeError(f"{path.name}: a folder of images has no times to cut by")
    try:
        names = in_order(frames.image_names(path), path.name)
    except OSError as error:
        raise DecodeError(f"{path.name}: can't be read: {reason(error)}") from error
    picked = chosen(choose, np.arange(len(names)))
    pictures: dict[int, NDArray[np.uint8]] = {}
    for i in sorted(set(picked.tolist())):
        size = next(iter(pictures.values())).shape[1::-1] if pictures else None
        pictures[i] = _picture(path, names[i], size)
    return Decoded(np.stack([pictures[i] for i in picked.tolist()]), len(names), -1, 0, -1.0)


def in_order(names: list[str], where: str) -> list[str]:
    """The images of one numbered series by their numbers (9 before 10, leading zeros don't count); images of optical flow are left out.

    DecodeError (about the folder `where`) where there is none, more than one series, or two images of one number.
    """
    series: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for name in names:
        parts = NUMBER.split(name.rpartition(".")[0])
        series.setdefault("#".join(parts[::2]), []).append((tuple(map(int, parts[1::2])), name))
    series = {shape: numbered for shape, numbered in series.items() if not FLOW.fullmatch(shape)}
    if not series:
        raise DecodeError(f"{where}: no image in it")
    if len(series) > 1:
        raise DecodeError(f"{where}: images of {len(series)} kinds of names, so no order: {listed(sorted(series), 4)}")
    ((_, numbered),) = series.items()
    numbered.sort()
    for (number, name), (following, other) in itertools.pairwise(numbered):
        if number == following:
            raise DecodeError(f"{where}: {name} and {other} have the same number")
    return [name for _, name in numbered]


def _picture(path: Path, name: str, size: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """One image as RGB, uint8 [H, W, 3]; DecodeError where it isn't of `size` (W, H)."""
    where = f"{path.name}/{name}"
    try:
        data = frames.read(path, name)
        with Image.open(io.BytesIO(data)) as image:
            if size is not None and image.size != size:
                raise DecodeError(f"{where}: is {image.size[0]}x{image.size[1]}, the first image {size[0]}x{size[1]}")
            if image.mode not in MODES:
                raise DecodeError(f"{where}: not an 8-bit picture (mode {image.mode})")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (MemoryError, DecodeError):
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(f"{where}: {'not an image' if data else 'the file is empty'}") from error
    except Exception as error:  # a damaged file makes Pillow's readers raise whatever they stumble over
        raise DecodeError(f"{where}: can't be decoded: {reason(error)}") from error
