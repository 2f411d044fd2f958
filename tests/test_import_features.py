"""Features made elsewhere: what the files hold is what the store holds; what doesn't fit is refused with the clip's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest
import stores

from cache.imported import Imported, import_features
from cache.rows import Row
from cache.spec import FeatureSpec
from cache.store import open_store
from fsar_cache.errors import FailedVideosError, FsarError, IntegrityError, MissingError, UsageError

COUNT = 300
ROWS = [Row(f"class {i % 3}/clip-{i:03d} é", f"class {i % 3}", "train" if i % 2 else "test") for i in range(COUNT)]
DATA = np.random.default_rng(0).normal(size=(COUNT, 3, 4)).astype(np.float32)


def npy(folder: Path, chosen: Iterable[int] = range(COUNT), data: np.ndarray = DATA) -> Path:
    for i in chosen:
        file = folder / f"{ROWS[i].id}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, data[i])
    return folder


def hdf5_sets(folder: Path, chosen: Iterable[int] = range(COUNT), data: np.ndarray = DATA) -> Path:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "sets.h5", "w") as file:
        for i in chosen:
            file[ROWS[i].id] = data[i]
    return folder / "sets.h5"


def hdf5_table(folder: Path, chosen: Iterable[int] = range(COUNT), data: np.ndarray = DATA) -> Path:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "table.h5", "w") as file:
        names = list(chosen)[::-1]
        file.create_dataset("features", data=data[names], compression="gzip", chunks=True)
        file["ids"] = [ROWS[i].id for i in names]
    return folder / "table.h5"


Maker = Callable[..., Path]
MAKERS = pytest.mark.parametrize("make", [npy, hdf5_sets, hdf5_table])


def bring(source: Path, target: Path, rows: list[Row] = ROWS, **more: object) -> Imported:
    def place(spec: FeatureSpec) -> Path:
        return target / f"{spec.backbone['name']}-{spec.fingerprint[:8]}"

    given = {"dataset": "set", "name": "i3d", "about": "Kinetics, RGB", **more}
    return import_features(source, rows, place, **given)  # type: ignore[arg-type]


@MAKERS
def test_the_store_holds_what_the_files_hold(tmp_path: Path, make: Maker) -> None:
    told: list[tuple[int, int]] = []
    source = make(tmp_path / "given")
    came = bring(source, tmp_path / "stores", report=lambda done, of: told.append((done, of)))
    assert (came.ok, came.failed, came.strange) == (COUNT, [], [])
    assert told == [(1, 1)]
    store = open_store(came.path)
    np.testing.assert_array_equal(store.load(), DATA)
    assert store.rows == ROWS
    assert store.verify() == []
    spec = store.spec
    unknown = {"contract": "unknown"}
    assert (spec.kind, spec.shape, spec.dtype) == ("features", (3, 4), "float32")
    assert (spec.decoder, spec.sampling, spec.transform) == (unknown, unknown, unknown)
    assert spec.backbone == {"name": "i3d", "weights": "unknown", "about": "Kinetics, RGB"}
    before = stores.contents(store.path)
    assert bring(source, tmp_path / "stores") == came
    assert stores.contents(store.path) == before


@pytest.mark.parametrize("dtype", [">f4", "<f2", "f8", "u1", ">i2"])
def test_any_byte_order_and_layout(tmp_path: Path, dtype: str) -> None:
    data = np.abs(DATA[:5] * 9).astype(dtype)
    folder = tmp_path / "given"
    npy(folder, range(5), data)
    np.save(folder / f"{ROWS[3].id}.npy", np.asfortranarray(data[3]))
    store = open_store(bring(folder, tmp_path / "stores", ROWS[:5]).path)
    np.testing.assert_array_equal(store.load(), data)
    assert store.spec.dtype == np.dtype(dtype).name


@MAKERS
def test_clips_without_features_fail_and_are_filled_in_later(tmp_path: Path, make: Maker) -> None:
    most = [i for i in range(COUNT) if i not in (7, 260)]
    source = make(tmp_path / "given", most)
    extra = [*ROWS[:250], *ROWS[251:]]
    came = bring(source, tmp_path / "stores", extra)
    assert (came.ok, came.failed, came.strange) == (COUNT - 3, [ROWS[7].id, ROWS[260].id], [ROWS[250].id])
    store = open_store(came.path)
    assert store.failures()[0] == {"id": ROWS[7].id, "view": 0, "reason": f"no features in {source.name}"}
    again = bring(make(tmp_path / "given"), tmp_path / "stores")
    assert (again.path, again.ok, again.failed) == (came.path, COUNT, [])
    store.refresh()
    np.testing.assert_array_equal(store.load(store.rows_of([row.id for row in ROWS])), DATA)
    fewer = bring(source, tmp_path / "stores", max_failures=0.5)
    assert (fewer.ok, fewer.failed) == (COUNT, []), "what is stored stays"


def test_a_block_is_not_tried_again_at_the_cost_of_features(tmp_path: Path) -> None:
    rows = ROWS[:100]
    came = bring(npy(tmp_path / "one", range(99)), tmp_path / "stores", rows)
    again = bring(npy(tmp_path / "two", range(1, 100)), tmp_path / "stores", rows)
    assert (came.waiting, again.failed, again.waiting) == ([], [ROWS[99].id], [ROWS[99].id])
    np.testing.assert_array_equal(open_store(came.path).read(range(99)), DATA[:99])


@MAKERS
def test_too_few_features_write_nothing(tmp_path: Path, make: Maker) -> None:
    source = make(tmp_path / "given", range(10, COUNT))
    with pytest.raises(
        FailedVideosError, match=r"no features of 10 of 300 clips of set .*: class 0/clip-000 é, "
    ) as caught:
        bring(source, tmp_path / "stores")
    assert not (tmp_path / "stores").exists()
    share = float(str(caught.value.hint).rsplit(" ", 1)[1])
    assert bring(source, tmp_path / "stores", max_failures=share).ok == 290


@MAKERS
def test_other_features_of_the_same_name_are_refused(tmp_path: Path, make: Maker) -> None:
    came = bring(make(tmp_path / "one"), tmp_path / "stores")
    wrong = DATA.copy()
    wrong[17] += 1
    source = make(tmp_path / "two", range(COUNT), wrong)
    with pytest.raises(IntegrityError, match=r"other features of 'class 2/clip-017 é' than") as caught:
        bring(source, tmp_path / "stores")
    assert "--name" in str(caught.value.hint)
    assert bring(source, tmp_path / "stores", about="a second try").path != came.path


@pytest.mark.parametrize("value", [np.nan, np.inf])
@MAKERS
def test_numbers_that_are_none_are_refused_by_name(tmp_path: Path, make: Maker, value: float) -> None:
    wrong = DATA.copy()
    wrong[260, 1, 2] = value
    with pytest.raises(IntegrityError, match=r"'class 2/clip-260 é' holds NaN or infinity"):
        bring(make(tmp_path / "given", range(COUNT), wrong), tmp_path / "stores")
    came = bring(make(tmp_path / "given"), tmp_path / "stores")
    np.testing.assert_array_equal(open_store(came.path).load(), DATA)


def test_arrays_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    folder = npy(tmp_path / "given")
    for odd in (DATA[9].astype("f2"), DATA[9][:2], DATA[9].ravel()):
        np.save(folder / f"{ROWS[9].id}.npy", odd)
        with pytest.raises(IntegrityError, match=r"'class 0/clip-000 é' is 3x4 float32, 'class 0/clip-009 é' is "):
            bring(folder, tmp_path / "stores")
    for data in (np.float32(1), np.zeros((0, 3), "f4"), np.zeros(3, "c8"), np.zeros(3, bool), np.array(["a"])):
        for i in range(3):
            np.save(folder / f"{ROWS[i].id}.npy", data)
        with pytest.raises(FsarError, match="class 0/clip-000") as caught:
            bring(folder, tmp_path / "stores", ROWS[:3])
        assert isinstance(caught.value, UsageError | IntegrityError)
    assert not (tmp_path / "stores").exists()


def test_damaged_and_hostile_files(tmp_path: Path) -> None:
    folder = npy(tmp_path / "given")
    file = folder / f"{ROWS[4].id}.npy"
    good = file.read_bytes()
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    np.savez(tmp_path / "several.npz", a=DATA[4])
    others = [(tmp_path / name).read_bytes() for name in ("pickled.npy", "several.npz")]
    for bad in (good[:50], good[:-4], b"", b"no array at all", b"PK\3\4 no zip", *others):
        file.write_bytes(bad)
        with pytest.raises(IntegrityError, match=r"array of 'class 1/clip-004 é' can't be read"):
            bring(folder, tmp_path / "stores")
    table = hdf5_table(tmp_path / "given")
    data = table.read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.h5").write_text("no HDF5")
    for name in ("cut.h5", "text.h5"):
        with pytest.raises(IntegrityError, match="neither a folder"):
            bring(tmp_path / name, tmp_path / "stores")
    with pytest.raises(MissingError, match="there is no"):
        bring(tmp_path / "nowhere", tmp_path / "stores")
    assert not (tmp_path / "stores").exists()


def test_hdf5_tables_whose_ids_do_not_fit(tmp_path: Path) -> None:
    names = [row.id for row in ROWS[:5]]
    for ids, message in (
        (names[:4], "has 4 ids for features of shape"),
        ([*names[:4], names[0]], "'class 0/clip-000 é' twice"),
    ):
        with h5py.File(tmp_path / "t.h5", "w") as file:
            file["features"], file["ids"] = DATA[:5], ids
        with pytest.raises(IntegrityError, match=message):
            bring(tmp_path / "t.h5", tmp_path / "stores", ROWS[:5])


def test_features_of_another_dataset(tmp_path: Path) -> None:
    source = npy(tmp_path / "given")
    with pytest.raises(
        MissingError, match=r"features of no clip of set, whose first is 'x'; it has 'class 0/clip-000 é'"
    ):
        bring(source, tmp_path / "stores", [Row("x", "c", "all")])
    with pytest.raises(MissingError, match="features of no clip"):
        bring(tmp_path, tmp_path / "stores", [Row("given", "c", "all")])
    for name in ("", "../x", "a/b", "i3d rgb", ".x"):
        with pytest.raises(UsageError, match="the name"):
            bring(source, tmp_path / "stores", name=name)
