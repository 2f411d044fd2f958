"""What `gc` finds, what it leaves alone, and that nothing it removes is missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stores

from cache.features import FeatureStore
from cache.folder import FolderMedium
from cache.gc import leftovers, sweep
from cache.lock import exclusive
from cache.merge import merge
from cache.rows import Row
from cache.store import create, open_store, stores_under
from fsar_cache.errors import IntegrityError, MissingError, UsageError

COUNT = 21
SPEC = stores.spec_of()
DATA = stores.values(COUNT, SPEC)


def make(path: Path, backend: str = "zarr") -> FeatureStore:
    return create(path, SPEC, stores.rows_of(COUNT), dataset="set", backend=backend, block_rows=8)


def file_of(store: FeatureStore, block: int) -> Path:
    assert isinstance(store.medium, FolderMedium)
    return store.medium.file_of(block)


def littered(path: Path, backend: str) -> tuple[FeatureStore, list[Path]]:
    """A store with blocks 0 and 1, a journal of block 2, and four leftovers."""
    store = make(path, backend)
    stores.write(store, DATA, [0, 1])
    with store.writer() as writer:
        writer.journal(2).add(0, DATA[16:18], [stores.outcome_of(r) for r in (16, 17)])
    left = [
        store.path / ".rows.json.123.partial",
        file_of(store, 0).with_name(f".{file_of(store, 1).name}.123.partial"),
        store.path / "journal" / "000001.journal",
        file_of(store, 2),
    ]
    for size, file in enumerate(left):
        file.write_bytes(b"x" * size)
    return store, left


@pytest.mark.parametrize("backend", ["zarr", "hdf5", "zarr-zstd"])
def test_what_killed_writers_left_is_found_and_nothing_else_goes(tmp_path: Path, backend: str) -> None:
    store, left = littered(tmp_path / "stores" / "a", backend)
    expected = {name: data for name, data in stores.contents(store.path).items() if store.path / name not in left}
    found = leftovers(tmp_path)
    assert [(one.path, one.bytes) for one in found] == [(file, size) for size, file in enumerate(left)]
    assert all(file.exists() for file in left)
    assert leftovers(store.path) == found
    assert sweep(found) == found
    assert stores.contents(store.path) == expected
    assert leftovers(tmp_path) == []
    with store.writer() as writer:
        assert list(writer.journal(2).batches) == [0]
    stores.write(store, DATA)
    assert store.verify() == []


def test_a_store_at_work_is_left_alone(tmp_path: Path) -> None:
    store, left = littered(tmp_path / "a", "zarr")
    found = leftovers(tmp_path)
    with store.writer():
        left[2].write_bytes(b"")
        assert leftovers(tmp_path) == []
        with pytest.raises(UsageError, match=f"process {os.getpid()} on "):
            sweep(found)
        assert left[2].exists()


def test_what_became_useful_meanwhile_stays(tmp_path: Path) -> None:
    store, _ = littered(tmp_path / "a", "zarr")
    found = leftovers(tmp_path)
    stores.write(store, DATA)
    sweep(found)
    assert store.verify() == []
    np.testing.assert_array_equal(store.load(), DATA)


def test_files_stay_where_the_ledger_is_damaged(tmp_path: Path) -> None:
    store = make(tmp_path / "a")
    stores.write(store, DATA)
    ledger = store.path / "ledger.jsonl"
    good = ledger.read_bytes()
    ledger.write_bytes(good.replace(b'"block":1', b'"block":7'))
    assert leftovers(tmp_path) == []
    ledger.write_bytes(good)
    assert open_store(store.path).verify() == []


@pytest.mark.parametrize("steps", range(7))
def test_a_half_made_store_goes_whole(tmp_path: Path, steps: int) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\nimport stores\nfrom cache.store import create\n"
        "left = int(sys.argv[1])\n"
        "def hook(event, args):\n"
        "    global left\n"
        "    if event == 'os.rename' or (event == 'open' and (args[2] or 0) & os.O_CREAT):\n"
        "        left -= 1\n"
        "        if left < 0: os._exit(9)\n"
        "sys.addaudithook(hook)\n"
        "create(Path(sys.argv[2]), stores.spec_of(), stores.rows_of(3), dataset='set')"
    )
    path, root = tmp_path / "deep" / "a", Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(steps), str(path)], cwd=root, check=False)
    assert done.returncode == 9
    with exclusive(path / "lock"):
        assert leftovers(tmp_path) == []
    found = leftovers(tmp_path)
    assert [one.path for one in found] == [path]
    sweep(found)
    assert not path.exists()
    assert path.parent.exists()


def test_folders_of_other_things_are_no_stores(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for name in ("lock", "thesis.txt", "rows.json"):
        (tmp_path / "work" / name).write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "daemon").mkdir()
    (tmp_path / "daemon" / "lock").write_text("123")
    old, fresh = tmp_path / ".a.zip.12.partial", tmp_path / ".b.zip.12.partial"
    for file in (old, fresh, tmp_path / "notes.partial"):
        file.write_text("12345")
        os.utime(file, (time.time() - 7200,) * 2)
    os.utime(fresh)
    found = leftovers(tmp_path)
    assert [(one.path, one.bytes) for one in found] == [(old, 5)]
    sweep(found)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".b.zip.12.partial",
        "daemon",
        "empty",
        "notes.partial",
        "work",
    ]
    with pytest.raises(MissingError, match="no folder"):
        leftovers(tmp_path / "nowhere")


def test_interrupted_imports_and_removals_are_no_stores_and_go(tmp_path: Path) -> None:
    store = make(tmp_path / ".a.12.partial")
    assert stores_under(tmp_path) == []
    with store.writer():
        assert leftovers(tmp_path) == []
    found = leftovers(tmp_path)
    assert [one.path for one in found] == [store.path]
    sweep(found)
    assert list(tmp_path.iterdir()) == []


def parts_of(folder: Path) -> list[FeatureStore]:
    parts = []
    for i in range(3):
        part = make(folder / f"net-pooled-abc.part-{i + 1}-of-3")
        stores.write(part, DATA, [i])
        parts.append(part)
    return parts


def test_parts_go_once_a_merged_store_holds_them(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    assert leftovers(tmp_path) == []
    merged = merge([part.path for part in parts[:2]], tmp_path / "net-pooled-abc")
    found = leftovers(tmp_path)
    assert [one.path for one in found] == [part.path for part in parts[:2]]
    assert all(str(merged.path) in one.why for one in found)
    own = [file for file in parts[0].path.rglob("*") if file.is_file() and not file.name.startswith("c.")]
    assert found[0].bytes == sum(file.stat().st_size for file in own), "linked blocks free nothing"
    with parts[1].writer() as writer:
        writer.journal(2).add(0, DATA[16:17], [stores.outcome_of(16)])
    assert [one.path for one in leftovers(tmp_path)] == [parts[0].path]
    sweep(found)
    assert [path.name for path in stores_under(tmp_path)] == [merged.path.name, *(p.path.name for p in parts[1:])]
    assert merged.verify() == []


def test_an_empty_part_goes_with_the_others(tmp_path: Path) -> None:
    parts = [make(tmp_path / f"net.part-{i}-of-2") for i in (1, 2)]
    stores.write(parts[0], DATA)
    assert leftovers(tmp_path) == []
    merge([part.path for part in parts], tmp_path / "net")
    assert [one.path for one in leftovers(tmp_path)] == [part.path for part in parts]


def test_copies_that_are_no_parts_stay(tmp_path: Path) -> None:
    store = make(tmp_path / "a")
    stores.write(store, DATA)
    shutil.copytree(store.path, tmp_path / "b")
    assert leftovers(tmp_path) == []
    other = create(tmp_path / "c.part-1-of-2", SPEC, [Row("x", "c", "t")], dataset="set", block_rows=8)
    stores.write(other, DATA)
    assert leftovers(tmp_path) == []


def test_a_part_stays_while_the_merged_store_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(tmp_path)
    merged = merge([part.path for part in parts], tmp_path / "net-pooled-abc")
    file = file_of(merged, 1)
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + b"?")
    with pytest.raises(IntegrityError, match=r"block 1 of .*net-pooled-abc is flipped"):
        sweep([one for one in leftovers(tmp_path) if one.path == parts[1].path])
    assert parts[1].verify() == []
