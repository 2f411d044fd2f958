"""Arrays of others, one per clip: .npy files in a folder, or an HDF5 file; nothing pickled is ever loaded."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np

from cache.medium import Array
from fsar_cache.errors import IntegrityError, MissingError

Facts = tuple[tuple[int, ...], str]
"""Shape, and name of the dtype whatever its byte order."""


class Arrays(AbstractContextManager["Arrays"]):
    """Named arrays; `ids` are the names of all."""

    ids: set[str]

    @abc.abstractmethod
    def facts(self, name: str) -> Facts:
        """Shape and dtype of an array, which is not read for it; IntegrityError where its file is damaged."""

    @abc.abstractmethod
    def read(self, name: str) -> Array:
        """The array; IntegrityError where its file is damaged."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def open_arrays(path: Path) -> Arrays:
    """The arrays at `path`, to be used in a `with` block: of a folder the files ID.npy, in subfolders where an id has slashes; of an HDF5
    file all datasets by their names, or the rows of the dataset "features" named by the dataset "ids".

    Raises MissingError where nothing is at `path`, IntegrityError where it is neither or two arrays have one name.
    """
    if path.is_dir():
        return _NpyFolder(path)
    if not path.exists():
        raise MissingError(f"there is no {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise IntegrityError(f"{path} is neither a folder of .npy files nor a sound HDF5 file: {error}") from error
    try:
        table = isinstance(file.get("features"), h5py.Dataset) and isinstance(file.get("ids"), h5py.Dataset)
        return _Hdf5Table(path, file) if table else _Hdf5Datasets(path, file)
    except BaseException:
        file.close()
        raise


class _NpyFolder(Arrays):
    def __init__(self, path: Path) -> None:
        self._path = path
        self.ids = {file.relative_to(path).as_posix().removesuffix(".npy") for file in path.rglob("*.npy")}

    def _open(self, name: str) -> Array:
        file = self._path / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, BadZipFile) as error:
            raise IntegrityError(f"the array of {name!r} can't be read: {file}: {error}") from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise IntegrityError(f"the array of {name!r} can't be read: {file} is an .npz file by its content")
        return array

    def facts(self, name: str) -> Facts:
        array = self._open(name)
        return array.shape, array.dtype.name

    def read(self, name: str) -> Array:
        return np.array(self._open(name))


class _Hdf5(Arrays):
    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path, self._file = path, file
        self._sets: dict[str, Any] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self, name: str, dataset: h5py.Dataset, place: Any) -> Array:
        try:
            return np.asarray(dataset[place])
        except OSError as error:
            raise IntegrityError(f"the array of {name!r} in {self._path} can't be read: {error}") from error


class _Hdf5Datasets(_Hdf5):
    def __init__(self, path: Path, file: h5py.File) -> None:
        super().__init__(path, file)

        def take(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                self._sets[name] = item

        file.visititems(take)
        self.ids = set(self._sets)

    def facts(self, name: str) -> Facts:
        return self._sets[name].shape, self._sets[name].dtype.name

    def read(self, name: str) -> Array:
        return self._read(name, self._sets[name], ())


class _Hdf5Table(_Hdf5):
    def __init__(self, path: Path, file: h5py.File) -> None:
        super().__init__(path, file)
        self._features = file["features"]
        given = np.asarray(file["ids"][()]).tolist()
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in given]
        if len(names) != (self._features.shape or (0,))[0]:
            raise IntegrityError(f"{path} has {len(names)} ids for features of shape {self._features.shape}")
        self._places = {name: place for place, name in enumerate(names)}
        if len(self._places) < len(names):
            twice = next(name for place, name in enumerate(names) if self._places[name] != place)
            raise IntegrityError(f"{path} has features of {twice!r} twice")
        self.ids = set(names)

    def facts(self, name: str) -> Facts:
        return self._features.shape[1:], self._features.dtype.name

    def read(self, name: str) -> Array:
        return self._read(name, self._features, self._places[name])
