"""What every backend must do: one suite over all that are registered, with numpy, zarr-python and h5py as the judges."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import stores
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.convert import convert
from cache.features import FeatureStore
from cache.medium import BACKENDS
from cache.rows import Outcome, Row
from cache.store import create, default_block_rows, open_store, stores_under
from fsar_cache.errors import IntegrityError, MissingError, UsageError

COUNT = 21
SPEC = stores.spec_of()
DATA = stores.values(COUNT, SPEC)
FOLDERS = ("hdf5", "zarr", "zarr-zstd")


@pytest.fixture(params=BACKENDS.names())
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(path: Path, backend: str, count: int = COUNT, **more: object) -> FeatureStore:
    given = {"dataset": "set", "backend": backend, "block_rows": stores.BLOCK_ROWS, **more}
    return create(path, SPEC, stores.rows_of(count), **given)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path, backend: str) -> FeatureStore:
    """A finished store whose row 5 failed."""
    made = make(tmp_path / "store", backend)
    stores.write(made, DATA, failed=[5])
    return made


def test_reads_what_was_written(store: FeatureStore) -> None:
    rows = np.array([20, 0, 7, 8, 7, 19, 1])
    for got in (store.read(rows), store.load(rows), store.read(rows.tolist()), store.read(rows.astype(np.uint8))):
        assert got.dtype == np.float32
        assert got.flags.writeable
        np.testing.assert_array_equal(got, DATA[rows])
    everything = store.load()
    assert np.isnan(everything[5]).all()
    np.testing.assert_array_equal(np.delete(everything, 5, 0), np.delete(DATA, 5, 0))
    assert store.read([]).shape == (0, *stores.SHAPE)
    assert store.load([]).shape == (0, *stores.SHAPE)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 29), max_size=40), start=st.integers(0, 29), length=st.integers(0, 30))
def test_any_rows_equal_numpy_indexing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], start: int, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-rows"
    data = stores.values(30, SPEC)
    made = create(path, SPEC, stores.rows_of(11), dataset="set", block_rows=4)
    made.plan(stores.rows_of(30))
    stores.write(made, data)
    for chosen in (rows, list(range(30))[start : start + length], sorted(rows)):
        np.testing.assert_array_equal(made.read(chosen), data[np.array(chosen, int)])
        np.testing.assert_array_equal(made.load(chosen), data[np.array(chosen, int)])


def test_facts(store: FeatureStore, backend: str) -> None:
    assert (store.blocks, store.block_rows, store.backend, store.dataset) == (3, 8, backend, "set")
    assert [store.block_range(b) for b in range(3)] == [(0, 8), (8, 16), (16, 21)]
    assert store.done == {0, 1, 2}
    assert store.missing() == []
    assert store.rows == stores.rows_of(COUNT)
    assert np.flatnonzero(~store.ok).tolist() == [5]
    assert [store.outcome(r) for r in range(COUNT)] == [stores.outcome_of(r, [5]) for r in range(COUNT)]
    assert store.rows_of([store.rows[3].id, "nobody", store.rows[20].id]).tolist() == [3, -1, 20]
    assert store.rows_of([store.rows[3].id], view=1).tolist() == [-1]
    info = store.info()
    assert (info["rows"], info["ok"], info["failed"], info["unfinished"]) == (21, 20, 1, 0)
    assert info["failures"] == [{"id": store.rows[5].id, "view": 0, "reason": "broken file 5"}]
    assert info["made_by"][0]["blocks"] == 3
    assert store.verify() == []


def test_rows_without_features_are_refused_by_name(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "store", backend)
    stores.write(store, DATA, [0], failed=[5])
    assert store.missing() == [1, 2]
    assert store.outcome(9) is None
    for read in (store.read, store.load):
        with pytest.raises(IntegrityError, match=r"clip-005 é' \(broken file 5\)"):
            read([1, 5])
        with pytest.raises(IntegrityError, match=r"clip-005.*clip-008.*unfinished.*clip-011.*and 9 more"):
            read(range(COUNT))
    with pytest.raises(IntegrityError, match="unfinished"):
        store.load()
    with pytest.raises(UsageError, match=r"rows 0\.\.20, not 21"):
        store.read([3, 21])
    with pytest.raises(UsageError, match="not -1"):
        store.read([-1])
    for wrong in ([0.5], [[1, 2]], [True], 3):
        with pytest.raises(UsageError, match="row numbers"):
            store.read(wrong)


def test_an_id_that_became_another_clip_is_refused_once_it_has_features(tmp_path: Path, backend: str) -> None:
    def rows(span: str) -> list[Row]:
        return [Row("a", "c", "all"), Row("b", "c", "all", origin=f"b.mp4 (9 bytes, {span})")]

    store = create(tmp_path / "store", SPEC, rows("0 to 1 s"), dataset="set", backend=backend)
    store.plan(rows("0 to 2 s"))  # nothing is extracted yet: the new span is what will be
    outcomes = [Outcome("ok"), Outcome("ok")]
    with store.writer() as writer:
        writer.write_block(0, stores.values(2, SPEC, 1), outcomes)
    store.plan(rows("0 to 2 s"))
    store.plan([Row("b", "renamed", "all"), Row("a", "c", "all", origin="a.mp4 (5 bytes)")])
    assert [r.origin for r in store.rows] == ["a.mp4 (5 bytes)", "b.mp4 (9 bytes, 0 to 2 s)"]
    for look in (store.require_origins, store.plan):
        with pytest.raises(
            IntegrityError, match=r"1 clips.*\n  b: b.mp4 \(9 bytes, 0 to 2 s\) then.*0 to 3 s\) now"
        ) as caught:
            look(rows("0 to 3 s"))
        assert "csv:PATH#ALIAS" in str(caught.value.hint)
    before = store.rows
    store.require_origins([*rows("0 to 2 s"), Row("new", "c", "all", origin="new.mp4 (1 bytes)")])
    assert store.rows == before
    store.drop_block(0)
    store.plan(rows("0 to 3 s"))


def trial_rows(**origins: str) -> list[Row]:
    """Eight clips a..h in blocks of two, each with its file unless `origins` say otherwise."""
    return [Row(name, "c", "all", origin=origins.get(name, f"{name}.mp4 (9 bytes)")) for name in "abcdefgh"]


@pytest.fixture
def trial(tmp_path: Path, backend: str) -> FeatureStore:
    """Blocks: a, b | c failed (no file), d | e absent, f | g failed (its file is there), h | i unfinished."""
    rows = trial_rows(c="")
    store = create(tmp_path / "trial", SPEC, rows, dataset="set", backend=backend, block_rows=2)
    outcomes = {"c": Outcome("failed", "no file"), "e": Outcome("absent"), "g": Outcome("failed", "truncated")}
    with store.writer() as writer:
        for block, names in ((0, "ab"), (1, "cd"), (2, "ef")):
            told = [outcomes.get(name, Outcome("ok")) for name in names]
            writer.write_block(block, stores.values(2, SPEC, block), told)
    store.plan([*rows, Row("i", "c", "all")])
    with store.writer() as writer:
        writer.write_block(3, stores.values(2, SPEC, 3), [outcomes["g"], Outcome("ok")])
    return store


def test_absent_rows_have_no_features_and_are_no_failures(trial: FeatureStore, backend: str) -> None:
    assert np.flatnonzero(~trial.ok).tolist() == [2, 4, 6, 8]
    assert [row["id"] for row in trial.failures()] == ["c", "g"]
    facts = trial.info()
    assert [facts[name] for name in ("rows", "ok", "failed", "absent", "unfinished")] == [9, 5, 2, 1, 1]
    assert trial.outcome(4) == Outcome("absent")
    with pytest.raises(IntegrityError, match=r"'e' \(absent\)"):
        trial.read([4])
    if backend != "memory":
        with open_store(trial.path) as again:
            assert (again.info(), again.outcome(4)) == (facts, Outcome("absent"))
    with trial.writer() as writer:
        writer.write_block(4, DATA[:1], [Outcome("absent")])
    assert np.isnan(trial.load()[[2, 4, 6, 8]]).all()
    trial.drop_block(4)
    with trial.writer() as writer, pytest.raises(UsageError, match="not 'gone'"):
        writer.write_block(4, DATA[:1], [Outcome("gone")])


def test_which_blocks_are_tried_again(trial: FeatureStore) -> None:
    def without(name: str, **origins: str) -> list[Row]:
        return [row for row in trial_rows(**origins) if row.id != name]

    assert trial.retry_blocks(without("e", c="")) == []
    assert trial.retry_blocks(trial_rows(c="")) == [2]
    assert trial.retry_blocks(without("e")) == [1]
    assert trial.retry_blocks(without("e", c="", g="g.mp4 (10 bytes)")) == [3]
    assert trial.retry_blocks(without("e", c="", g="")) == []
    assert trial.retry_blocks(without("e", c=""), failed=True) == [1, 3]
    assert trial.retry_blocks(without("c"), failed=True) == [2, 3]
    assert trial.retry_blocks(trial_rows(d="", f="", a=""), failed=True) == [3], "d and f couldn't be made again"
    assert trial.retry_blocks([], failed=True) == []
    assert trial.retry_blocks([Row("i", "c", "all", origin="i.mp4"), Row("new", "c", "all")], failed=True) == []
    trial.drop_block(2)
    assert trial.retry_blocks(trial_rows(c="")) == []


def test_damaged_files_are_told(tmp_path: Path, backend: str) -> None:
    counts = {  # decoded, claimed, corrupt
        "fine": (100, 100, 0),
        "header off by two": (98, 100, 0),
        "long, header off by 2 %": (980, 1000, 0),
        "more than claimed": (120, 100, 0),
        "unknown": (-1, -1, 0),
        "nothing claimed": (100, -1, 0),
        "not decoded to the end": (-1, 100, 0),
        "bad frame": (100, 100, 1),
        "cut": (97, 100, 0),
        "long and cut": (979, 1000, 0),
        "failed": (0, 100, 3),
    }
    rows = [Row(name, "c", "all") for name in counts]
    store = create(tmp_path / "s", SPEC, rows, dataset="set", backend=backend, block_rows=4)
    told = [Outcome("failed" if name == "failed" else "ok", "", *count) for name, count in counts.items()]
    with store.writer() as writer:
        for block in range(store.blocks):
            first, last = store.block_range(block)
            writer.write_block(block, DATA[first:last], told[first:last])
    expected = [
        {"id": name, "view": 0, "decoded": counts[name][0], "claimed": counts[name][1], "corrupt": counts[name][2]}
        for name in ("bad frame", "cut", "long and cut")
    ]
    assert store.damaged() == expected
    assert (store.info()["damaged"], store.info()["first_damaged"]) == (3, expected)


def test_growing_starts_new_blocks_and_moves_nothing(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "store", backend)
    stores.write(store, DATA)
    before = {} if backend == "memory" else stores.contents(store.path)
    more = [Row(r.id, "renamed", "test", r.view) for r in stores.rows_of(4)] + [
        Row(f"new {i}", "c", "test", view=i % 2) for i in range(11)
    ]
    if backend == "memory":
        store.plan(more)
    else:
        store = create(store.path, SPEC, more, dataset="set", backend=backend)
    assert [store.block_range(b) for b in range(store.blocks)] == [(0, 8), (8, 16), (16, 21), (21, 29), (29, 32)]
    assert store.missing() == [3, 4]
    assert store.rows[2] == more[2]
    assert store.rows[4] == stores.rows_of(5)[4]
    assert store.rows_of(["new 1", "new 3"], view=1).tolist() == [22, 24]
    data = np.concatenate([DATA, stores.values(11, SPEC, 1)])
    stores.write(store, data)
    np.testing.assert_array_equal(store.load(), data)
    if backend != "memory":
        after = stores.contents(store.path)
        assert {n for n in before if before[n] != after[n]} <= {"rows.json", "ledger.jsonl", "features/zarr.json"}
        np.testing.assert_array_equal(stores.other_reader(store), data)


def test_creating_twice_changes_nothing(tmp_path: Path) -> None:
    for backend in FOLDERS:
        store = make(tmp_path / backend, backend)
        stores.write(store, DATA)
        before = {p: p.stat().st_mtime_ns for p in store.path.rglob("*")}
        again = make(tmp_path / backend, backend)
        assert again.done == {0, 1, 2}
        assert before == {p: p.stat().st_mtime_ns for p in store.path.rglob("*")}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8"])
@pytest.mark.parametrize("folder_backend", FOLDERS)
def test_other_readers_see_the_same_numbers(tmp_path: Path, folder_backend: str, dtype: str) -> None:
    spec = stores.spec_of((2, 300), dtype)
    data = stores.values(COUNT, spec)
    store = create(tmp_path / "s", spec, stores.rows_of(COUNT), dataset="set", backend=folder_backend, block_rows=8)
    stores.write(store, data, failed=[5])
    seen = stores.other_reader(store)
    assert seen.dtype == np.dtype(dtype)
    expected = data.copy()
    expected[5] = np.nan if spec.dtype.startswith("float") else 0
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(open_store(store.path).load(), expected)
    assert store.read([1]).dtype == np.dtype(dtype)


def test_blocks_that_do_not_fit_are_refused(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "store", backend)
    good, fine = DATA[:8], [Outcome("ok")] * 8
    with store.writer() as writer:
        for array, outcomes in ((DATA[:7], fine), (good, fine[:7]), (good.astype("f8"), fine), (good[:, :2], fine)):
            with pytest.raises(UsageError, match=r"block 0 .* takes \(8, 3, 4\) float32"):
                writer.write_block(0, array, outcomes)
        with pytest.raises(UsageError, match=r"blocks 0\.\.2, not 3"):
            writer.write_block(3, good, fine)
        assert store.done == set()
        writer.write_block(0, np.asfortranarray(good), fine)
        with pytest.raises(UsageError, match="written already"):
            writer.write_block(0, good, fine)
        with pytest.raises(UsageError, match="written already"):
            writer.journal(0)
    with pytest.raises(UsageError, match="inside its `with`"):
        writer.write_block(1, good, fine)
    np.testing.assert_array_equal(store.read(range(8)), good)


def test_written_arrays_are_copies(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "store", backend)
    given = DATA[:8].copy()
    with store.writer() as writer:
        writer.write_block(0, given, [stores.outcome_of(r, [2]) for r in range(8)])
    np.testing.assert_array_equal(given, DATA[:8])
    given[:] = 0
    np.testing.assert_array_equal(store.read([0, 7]), DATA[[0, 7]])
    store.read([0])[:] = 1
    np.testing.assert_array_equal(store.read([0]), DATA[[0]])


def test_journal_survives_its_writer(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "store", backend)
    outcomes = [stores.outcome_of(r, [2]) for r in range(8)]
    with store.writer() as writer:
        journal = writer.journal(0)
        assert journal.batches == {}
        journal.add(0, DATA[0:3], outcomes[0:3])
        journal.add(6, DATA[6:8], outcomes[6:8], key="video of 9 bytes")
        with pytest.raises(UsageError, match="not in a block of 8"):
            journal.add(7, DATA[:2], outcomes[:2])
        with pytest.raises(UsageError, match="doesn't fit"):
            journal.add(3, DATA[3:5].astype("f2"), outcomes[3:5])
    assert store.info()["journalled_blocks"] == [0]
    with store.writer() as writer:
        batches = writer.journal(0).batches
        assert sorted(batches) == [0, 6]
        assert [batches[first].key for first in (0, 6)] == ["", "video of 9 bytes"]
        for first, (array, told, _) in batches.items():
            np.testing.assert_array_equal(array, DATA[first : first + len(array)])
            assert told == outcomes[first : first + len(array)]
        writer.write_block(0, DATA[:8], outcomes)
    assert store.info()["journalled_blocks"] == []


def test_wrong_requests_say_what_to_do(tmp_path: Path) -> None:
    store = make(tmp_path / "s", "zarr")
    rows = stores.rows_of(2)
    other = stores.spec_of(transform={"name": "squash", "size": 96})
    with pytest.raises(IntegrityError, match=r"transform\.size: 64 in .*, 96 in the settings") as caught:
        create(store.path, other, rows, dataset="set")
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match="holds dataset 'set', not 'others'"):
        create(store.path, SPEC, rows, dataset="others")
    with pytest.raises(UsageError, match="is zarr, hdf5 was asked"):
        create(store.path, SPEC, rows, dataset="set", backend="hdf5")
    with pytest.raises(UsageError, match="8 rows per block, 16 were"):
        create(store.path, SPEC, rows, dataset="set", block_rows=16)
    with pytest.raises(UsageError, match="unknown store 'zar'") as caught_name:
        create(tmp_path / "n", SPEC, rows, dataset="set", backend="zar")
    assert caught_name.value.hint == "did you mean 'zarr'?"
    with pytest.raises(UsageError, match="clip 'a', view 1, stands twice"):
        create(tmp_path / "n", SPEC, [Row("a", "c", "t", 1)] * 2, dataset="set")
    with pytest.raises(UsageError, match=r"no store for rows of .* complex64"):
        create(tmp_path / "n", stores.spec_of(dtype="complex64"), rows, dataset="set")
    with pytest.raises(UsageError, match="at least 1"):
        create(tmp_path / "n", SPEC, rows, dataset="set", block_rows=0)
    assert not (tmp_path / "n").exists()


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"other things \('thesis.txt'\)"):
        make(tmp_path / "work", "zarr")
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        make(tmp_path / "file", "zarr")
    for place in ("work", "nowhere"):
        with pytest.raises(MissingError, match="no store at"):
            open_store(tmp_path / place)


def test_half_made_and_damaged_stores(tmp_path: Path) -> None:
    path = tmp_path / "s"
    make(path, "zarr")
    header = (path / "store.json").read_text()
    (path / "store.json").unlink()
    with pytest.raises(MissingError, match="half-made"):
        open_store(path)
    stores.write(make(path, "zarr"), DATA)
    (path / "store.json").unlink()
    with pytest.raises(IntegrityError, match=r"written blocks but no store\.json"):
        make(path, "zarr")
    for wrong, message in (
        (header[:50], "not valid JSON"),
        (header.replace('"pooled"', '"map"'), "the spec has fingerprint"),
        (header.replace('"format": 1', '"format": 9'), "store format 9"),
        (header.replace('"dataset"', '"dota"'), "lacks a field"),
        (header.replace('"cut"', '"cat"'), "lacks a field"),
    ):
        (path / "store.json").write_text(wrong)
        with pytest.raises(IntegrityError, match=message):
            open_store(path)
    (path / "store.json").write_text(header)
    np.testing.assert_array_equal(open_store(path).load(), DATA)
    table = path / "rows.json"
    table.write_bytes(table.read_bytes().replace(b"clip-004", b"clip-204"))
    with pytest.raises(IntegrityError, match=r"row table .* is damaged"):
        open_store(path)
    table.unlink()
    with pytest.raises(IntegrityError, match=r"row table .* is missing"):
        open_store(path)


def test_stores_under(tmp_path: Path) -> None:
    made = [make(tmp_path / name, "zarr").path for name in ("a/x", "a/y", "b")]
    (tmp_path / "c").mkdir()
    assert stores_under(tmp_path) == made
    assert stores_under(made[0]) == [made[0]]
    assert stores_under(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("row_bytes", "rows", "expected"),
    [
        (8192, 10**6, 2048),
        (16384, 10**6, 1024),
        (301056, 10**6, 32),
        (1605632, 10**6, 8),
        (10**9, 100, 8),
        (1, 10**6, 4096),
        (8192, 100, 256),
        (8192, 1, 256),
        (8192, 0, 256),
        (8192, 257, 512),
        (301056, 1, 32),
        (1605632, 1, 8),
    ],
)
def test_default_block_rows(row_bytes: int, rows: int, expected: int) -> None:
    assert default_block_rows(row_bytes, rows) == expected


def test_a_second_writer_is_refused(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "store", backend)
    with store.writer(), pytest.raises(UsageError, match="another writer has the"), store.writer():
        pass
    if backend != "memory":
        with store.writer(), pytest.raises(UsageError, match=f"process {os.getpid()} on "):
            create(store.path, SPEC, stores.rows_of(30), dataset="set", backend=backend)
        assert len(open_store(store.path).rows) == COUNT
    stores.write(store, DATA)


def test_a_dead_writer_blocks_nobody(tmp_path: Path) -> None:
    store = make(tmp_path / "s", "zarr")
    code = (
        "import sys, time; from pathlib import Path; from cache.store import open_store\n"
        "with open_store(Path(sys.argv[1])).writer():\n print('held', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", code, store.path], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"process {process.pid} on "):
            stores.write(store, DATA)
        process.kill()
    stores.write(store, DATA)
    np.testing.assert_array_equal(store.load(), DATA)


def test_a_reader_sees_new_and_rewritten_blocks_after_refresh(tmp_path: Path) -> None:
    for backend in FOLDERS:
        store = make(tmp_path / backend, backend)
        reader = open_store(store.path)
        stores.write(store, DATA)
        assert reader.done == set()
        reader.refresh()
        np.testing.assert_array_equal(reader.read(range(COUNT)), DATA)
        store.drop_block(1)
        assert store.missing() == [1]
        with pytest.raises(IntegrityError, match="unfinished"):
            store.read([9])
        stores.write(store, -DATA)
        np.testing.assert_array_equal(reader.read([9]), DATA[[9]])  # the map of the old file stays valid
        reader.refresh()
        np.testing.assert_array_equal(reader.read([9, 3]), [-DATA[9], DATA[3]])


def test_more_blocks_than_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "s"
    data = stores.values(120, SPEC)
    stores.write(create(path, SPEC, stores.rows_of(120), dataset="set", block_rows=1), data)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))\n"
        "import numpy as np; from pathlib import Path; from cache.store import open_store\n"
        "s = open_store(Path(sys.argv[1])); r = np.random.default_rng(0).permutation(120)\n"
        "assert (s.read(r) == s.load()[r]).all(); print(float(s.read(r).astype('f8').sum()))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(data.astype("f8").sum())


def test_threads_read_while_maps_come_and_go(tmp_path: Path) -> None:
    data = stores.values(60, SPEC)
    for backend in FOLDERS:
        store = create(tmp_path / backend, SPEC, stores.rows_of(60), dataset="set", backend=backend, block_rows=2)
        stores.write(store, data)
        store._maps._limit = 3
        chosen = [np.random.default_rng(seed).integers(0, 60, 50) for seed in range(80)]
        with ThreadPoolExecutor(8) as pool:
            for rows, got in zip(chosen, pool.map(store.read, chosen), strict=True):
                np.testing.assert_array_equal(got, data[rows])
        store.close()
        np.testing.assert_array_equal(store.read([7]), data[[7]])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read(tmp_path: Path, method: str) -> None:
    store = make(tmp_path / "s", "hdf5")
    stores.write(store, DATA)
    store.read([0])
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(store.read, ([4, 20],)), DATA[[4, 20]])


def test_pickling(tmp_path: Path) -> None:
    store = make(tmp_path / "s", "zarr")
    stores.write(store, DATA)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).load(), DATA)
    with pytest.raises(UsageError, match="memory store"):
        pickle.dumps(make(tmp_path / "m", "memory"))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("zarr", "hdf5"),
        ("hdf5", "zarr"),
        ("memory", "zarr"),
        ("zarr", "memory"),
        ("zarr", "zarr-zstd"),
        ("zarr-zstd", "hdf5"),
    ],
)
def test_conversion_keeps_every_byte(tmp_path: Path, start: str, end: str) -> None:
    store = make(tmp_path / "one", start, count=13)
    store.plan(stores.rows_of(COUNT))
    stores.write(store, DATA, [0, 2, 1], failed=[5])
    seen: list[tuple[int, int]] = []
    copy = convert(store, tmp_path / "two", end, lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert copy.spec == store.spec
    assert (copy.done, copy.rows, copy.missing()) == (store.done, store.rows, store.missing())
    np.testing.assert_array_equal(copy.ok, store.ok)
    rows = np.flatnonzero(store.ok)
    assert copy.read(rows).tobytes() == store.read(rows).tobytes()
    assert [copy.outcome(r) for r in range(COUNT)] == [store.outcome(r) for r in range(COUNT)]
    assert copy.entry(0).provenance == store.entry(0).provenance  # type: ignore[union-attr]
    if start != "memory" and end != "memory":
        stores.write(store, DATA)
        convert(store, tmp_path / "two", end)
        back = convert(copy.path, tmp_path / "three", start)
        assert {k: v for k, v in stores.contents(back.path).items() if "ledger" not in k} == {
            k: v for k, v in stores.contents(store.path).items() if "ledger" not in k
        }


def test_a_compressed_copy_is_smaller_and_checks_what_it_reads(tmp_path: Path) -> None:
    spec = stores.spec_of((64, 7, 7), "float16")
    data = np.maximum(stores.values(40, spec), 0)  # half zeros, like activations
    store = create(tmp_path / "s", spec, stores.rows_of(40), dataset="set", block_rows=16)
    stores.write(store, data)
    copy = convert(store, tmp_path / "cold", "zarr-zstd")
    again = convert(store, tmp_path / "again", "zarr-zstd")
    assert stores.contents(copy.path) == stores.contents(again.path)
    sizes = [sum(f.stat().st_size for f in s.path.rglob("c.*")) for s in (store, copy)]
    assert sizes[1] < 0.8 * sizes[0]
    np.testing.assert_array_equal(stores.other_reader(copy), data)
    assert not copy.medium.array(copy.entry(2)).flags.writeable  # type: ignore[arg-type]
    assert copy.verify() == []
    file = copy.path / "features" / "c.1.0.0.0"
    good = file.read_bytes()
    file.write_bytes(good[:99] + bytes([good[99] ^ 1]) + good[100:])
    fresh = open_store(copy.path)
    np.testing.assert_array_equal(fresh.read([0, 39]), data[[0, 39]])
    for look, rows in ((fresh.load, None), (fresh.read, [20]), (fresh.load, [16, 17])):
        with pytest.raises(IntegrityError, match="block 1 is flipped") as caught:
            look(rows)
        assert f"store verify {copy.path} --mend" in str(caught.value.hint)
    file.write_bytes(good[:-1])
    with pytest.raises(IntegrityError, match="block 1 is torn"):
        fresh.read([20])


def test_few_compressed_blocks_stay_unpacked(tmp_path: Path) -> None:
    data = stores.values(60, SPEC)
    store = create(tmp_path / "s", SPEC, stores.rows_of(60), dataset="set", backend="zarr-zstd", block_rows=2)
    stores.write(store, data)
    rows = np.random.default_rng(0).permutation(60)
    np.testing.assert_array_equal(store.read(rows), data[rows])
    assert len(store._maps._arrays) == 8


def test_conversion_refuses_damage_and_itself(tmp_path: Path) -> None:
    store = make(tmp_path / "s", "zarr")
    stores.write(store, DATA)
    with pytest.raises(UsageError, match="same folder"):
        convert(store, tmp_path / "s", "zarr")
    file = store.path / "features" / "c.1.0.0"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match=r"block 1 .* is flipped") as caught:
        convert(store, tmp_path / "t", "hdf5")
    assert f"store verify {store.path} --mend" in str(caught.value.hint)
    assert open_store(tmp_path / "t").done == {0}


def test_hdf5_files_do_not_depend_on_the_clock(tmp_path: Path) -> None:
    for name in ("one", "two"):
        stores.write(make(tmp_path / name, "hdf5"), DATA)
        time.sleep(1.1 if name == "one" else 0)
    assert stores.contents(tmp_path / "one") == stores.contents(tmp_path / "two")
