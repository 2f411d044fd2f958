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
from fsar_cache.errors import FsarError, IntegrityError, MissingError, UsageError

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
    merge([part.path for part in parts[:2]], tmp_path / "net-pooled-abc")
    assert leftovers(tmp_path) == [], "the merge isn't whole: extract may go on in any part"
    merged = merge([part.path for part in parts], tmp_path / "net-pooled-abc")
    found = leftovers(tmp_path)
    assert [one.path for one in found] == [part.path for part in parts]
    assert all(str(merged.path) in one.why for one in found)
    own = [file for file in parts[0].path.rglob("*") if file.is_file() and not file.name.startswith("c.")]
    assert found[0].bytes == sum(file.stat().st_size for file in own), "linked blocks free nothing"
    with parts[1].writer() as writer:
        writer.journal(2).add(0, DATA[16:17], [stores.outcome_of(16)])
    assert [one.path for one in leftovers(tmp_path)] == [parts[0].path, parts[2].path]
    sweep(found)
    assert [path.name for path in stores_under(tmp_path)] == [merged.path.name, parts[1].path.name]
    assert merged.verify() == []


def test_a_part_whose_own_work_is_not_done_stays(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    merge([part.path for part in parts], tmp_path / "net-pooled-abc")
    fresh = make(tmp_path / "net-pooled-abc.part-1-of-2")
    assert fresh.path not in [one.path for one in leftovers(tmp_path)]
    stores.write(fresh, DATA, [0])
    assert fresh.path not in [one.path for one in leftovers(tmp_path)]
    stores.write(fresh, DATA, [2])
    assert [one.path for one in leftovers(tmp_path)] == sorted([fresh.path, *(part.path for part in parts)])


def test_a_part_with_rows_that_the_merged_store_lacks_stays(tmp_path: Path) -> None:
    part = make(tmp_path / "net.part-1-of-2")
    stores.write(part, DATA, [0, 2])
    merged = make(tmp_path / "net")
    stores.write(merged, DATA)
    assert [one.path for one in leftovers(tmp_path)] == [part.path]
    part.plan([*stores.rows_of(COUNT), Row("late", "c", "train")])
    assert leftovers(tmp_path) == [], "block 3 is part 2's, but nobody has it yet"


def test_a_part_whose_ledger_is_damaged_stays(tmp_path: Path) -> None:
    part = make(tmp_path / "net.part-1-of-1")
    stores.write(part, DATA)
    ledger = part.path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"block":2', b'"block":7'))
    merged = merge([part.path], tmp_path / "net")
    assert leftovers(tmp_path) == []
    stores.write(merged, DATA)
    assert leftovers(tmp_path) == [], "the only copy of block 2 may be the one that a damaged line tells of"


def test_a_part_with_files_of_others_stays(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    merge([part.path for part in parts], tmp_path / "net-pooled-abc")
    (parts[0].path / "thesis.txt").write_text("mine")
    (parts[1].path / "features" / "thesis.txt").write_text("mine")
    assert [one.path for one in leftovers(tmp_path)] == [parts[2].path]


def test_a_part_does_not_hold_itself(tmp_path: Path) -> None:
    part = make(tmp_path / "net.part-1-of-1")
    stores.write(part, DATA)
    (tmp_path / "net").symlink_to(part.path.name)
    assert leftovers(tmp_path) == []


def test_folders_that_only_look_interrupted_stay(tmp_path: Path) -> None:
    for name in ("downloads.partial", ".thesis.12.partial", ".a.partial", "b.12.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    store = make(tmp_path / ".c.12.partial")
    (store.path / "features" / "thesis.txt").write_text("mine")
    (tmp_path / "stores.partial").mkdir()
    make(tmp_path / "stores.partial" / "a")
    fresh, old = tmp_path / ".d.12.partial", tmp_path / ".e.12.partial"
    for folder in (fresh, old):
        folder.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    assert [one.path for one in sweep(leftovers(tmp_path))] == [old]
    assert {path.name for path in tmp_path.rglob("thesis.txt")} == {"thesis.txt"}
    assert len(list(tmp_path.rglob("thesis.txt"))) == 5
    assert fresh.is_dir()


def test_files_that_only_look_partial_stay(tmp_path: Path) -> None:
    store, half = make(tmp_path / "a"), make(tmp_path / "half")
    (half.path / "store.json").unlink()
    mine = [store.path / ".thesis.partial", store.path / "thesis.12.partial", half.path / "thesis.partial"]
    for file in mine:
        file.write_text("mine")
    assert sweep(leftovers(tmp_path)) == []
    stores.write(store, DATA)
    assert all(file.exists() for file in mine)


def test_files_that_vanish_while_they_are_listed_are_no_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, left = littered(tmp_path / "stores" / "a", "zarr")
    half = make(tmp_path / "stores" / "half")
    (half.path / "store.json").unlink()
    old = tmp_path / "stores" / ".a.zip.12.partial"
    old.write_text("12345")
    os.utime(old, (time.time() - 7200,) * 2)
    real, doomed = Path.stat, {old, left[0], half.path / "rows.json"}
    assert {one.path for one in leftovers(tmp_path)} == {old, *left, half.path}

    def stat(path: Path, **how: bool) -> os.stat_result:
        if path in doomed:
            raise FileNotFoundError(path)
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    assert {one.path for one in leftovers(tmp_path)} == {*left[1:], half.path}


def test_damaged_stores_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    store, left = littered(tmp_path / "b", "zarr")
    damaged = make(tmp_path / "a")
    (damaged.path / "store.json").write_text("{")
    part = make(tmp_path / "net.part-1-of-1")
    stores.write(part, DATA)
    with pytest.raises(IntegrityError, match=r"a/store.json is not valid JSON"):
        leftovers(tmp_path)
    told: list[FsarError] = []
    found = leftovers(tmp_path, told.append)
    assert [one.path for one in found] == left
    assert len(told) == 1
    left[3].unlink()
    left[3].mkdir()
    assert [one.path for one in sweep(found, told.append)] == left[:3]
    assert "can't be removed" in told[1].message
    assert open_store(store.path).verify() != []


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
