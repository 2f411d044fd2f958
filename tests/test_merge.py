"""Merging: parts become the store of one run, byte for byte; other stores are joined row by row; nothing wrong goes through."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stores
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.features import FeatureStore
from cache.ledger import Entry
from cache.medium import Finding
from cache.merge import left_out, merge
from cache.rows import Outcome, Row
from cache.store import create, open_store
from cache.zarr_blocks import ZarrMedium
from fsar_cache.errors import IntegrityError, MissingError, UsageError

COUNT = 45
SPEC = stores.spec_of()
DATA = stores.values(COUNT, SPEC)
BACKENDS = ("zarr", "hdf5", "zarr-zstd")


def make(
    path: Path, backend: str = "zarr", count: int = COUNT, block_rows: int = 8, dataset: str = "set"
) -> FeatureStore:
    return create(path, SPEC, stores.rows_of(count), dataset=dataset, backend=backend, block_rows=block_rows)


def some(
    path: Path, rows: Iterable[int], data: np.ndarray = DATA, block_rows: int = 8, failed: Iterable[int] = ()
) -> Path:
    """A finished store of some of the rows."""
    chosen, everyone = list(rows), stores.rows_of(COUNT)
    store = create(path, SPEC, [everyone[r] for r in chosen], dataset="set", block_rows=block_rows)
    with store.writer() as writer:
        for block in store.missing():
            here = chosen[slice(*store.block_range(block))]
            writer.write_block(block, data[here], [stores.outcome_of(r, failed) for r in here], {"host": path.name})
    return path


def parts_of(folder: Path, backend: str, count: int = 3) -> list[Path]:
    """What `count` runs leave that share one row table: part i has written the blocks i, i + count, ..."""
    paths = []
    for i in range(count):
        store = make(folder / f"part{i}", backend)
        store.plan([Row("late", "c", "test")])
        stores.write(store, np.concatenate([DATA, DATA[:1]]), range(i, store.blocks, count), failed=[5, 44])
        paths.append(store.path)
    return paths


def whole_run(path: Path, backend: str) -> FeatureStore:
    store = make(path, backend)
    store.plan([Row("late", "c", "test")])
    stores.write(store, np.concatenate([DATA, DATA[:1]]), failed=[5, 44])
    return store


def rows_in(store: FeatureStore) -> dict[str, bytes | None]:
    """id -> features, None where there are none."""
    ok = store.ok
    return {row.id: store.read([n]).tobytes() if ok[n] else None for n, row in enumerate(store.rows)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_become_the_store_of_one_run(tmp_path: Path, backend: str) -> None:
    parts = parts_of(tmp_path, backend)
    before = [stores.contents(part) for part in parts]
    seen: list[tuple[int, int]] = []
    merged = merge(parts[::-1], tmp_path / "merged", lambda done, of: seen.append((done, of)))
    assert stores.contents(merged.path) == stores.contents(whole_run(tmp_path / "whole", backend).path)
    assert [stores.contents(part) for part in parts] == before
    assert seen == [(n, 7) for n in range(1, 8)]
    assert merged.verify() == []
    stamps = {p: p.stat().st_mtime_ns for p in merged.path.rglob("*") if p.name != "lock"}
    merge([*parts, parts[0]], merged.path)
    assert stamps == {p: p.stat().st_mtime_ns for p in merged.path.rglob("*") if p.name != "lock"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_are_linked_and_outlive_the_parts(tmp_path: Path, backend: str) -> None:
    parts = parts_of(tmp_path, backend)
    merged = merge(parts, tmp_path / "merged")
    blocks = [merged.medium.file_of(block) for block in range(merged.blocks)]  # type: ignore[attr-defined]
    assert {file.stat().st_nlink for file in blocks} == {2}
    for part in parts:
        store = open_store(part)
        for block in store.done:
            store.drop_block(block)
        shutil.rmtree(part)
    assert merged.verify() == []
    assert stores.contents(merged.path) == stores.contents(whole_run(tmp_path / "whole", backend).path)


def test_on_another_disk_blocks_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    merged = merge(parts_of(tmp_path, "zarr"), tmp_path / "merged")
    assert stores.contents(merged.path) == stores.contents(whole_run(tmp_path / "whole", "zarr").path)
    assert {file.stat().st_nlink for file in merged.path.rglob("c.*")} == {1}


def test_missing_blocks_stay_missing_until_their_part_comes(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, "zarr")
    merged = merge(parts[:2], tmp_path / "merged")
    assert merged.missing() == [2, 5]
    assert left_out(parts[:2], merged) == []
    assert merge(parts, merged.path).missing() == []
    assert stores.contents(merged.path) == stores.contents(whole_run(tmp_path / "whole", "zarr").path)


def test_other_stores_are_joined_row_by_row(tmp_path: Path) -> None:
    one = some(tmp_path / "one", range(20))
    two = some(tmp_path / "two", range(40, 10, -1), block_rows=4)
    merged = merge([one, two], tmp_path / "merged")
    assert [row.id for row in merged.rows] == [stores.rows_of(COUNT)[r].id for r in (*range(20), *range(40, 19, -1))]
    assert merged.missing() == []
    np.testing.assert_array_equal(merged.load(), DATA[[*range(20), *range(40, 19, -1)]])
    assert [merged.outcome(n) for n in (0, 20)] == [stores.outcome_of(0), stores.outcome_of(40)]
    entries = [merged.entry(block) for block in range(merged.blocks)]
    assert [entry.provenance for entry in entries if entry] == [{"host": "one"}] * 3 + [{"host": "two"}] * 3
    assert merged.verify() == []


@settings(max_examples=25, deadline=None)
@given(
    subsets=st.lists(
        st.tuples(st.sets(st.integers(0, 19), min_size=1), st.sampled_from([2, 3, 8])), min_size=1, max_size=4
    ),
    broken=st.sets(st.integers(0, 19), max_size=4),
)
def test_any_stores_give_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, subsets: list[tuple[set[int], int]], broken: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    paths = [
        some(folder / str(n), sorted(rows), block_rows=block_rows, failed=broken if n % 2 else ())
        for n, (rows, block_rows) in enumerate(subsets)
    ]
    got = rows_in(merge(paths, folder / "merged"))
    expected: dict[str, bytes | None] = {}
    for path in paths:
        for name, features in rows_in(open_store(path)).items():
            expected[name] = expected.get(name) or features
    assert got == expected
    assert rows_in(merge(paths, folder / "merged")) == expected


def test_features_go_before_failures(tmp_path: Path) -> None:
    one = some(tmp_path / "one", range(16), failed=[3, 9])
    two = some(tmp_path / "two", range(16), failed=[9, 12])
    merged = merge([one, two], tmp_path / "merged")
    assert np.flatnonzero(~merged.ok).tolist() == [9]
    np.testing.assert_array_equal(np.delete(merged.load(), 9, 0), np.delete(DATA[:16], 9, 0))
    assert merged.entry(0).provenance == {"merged": [{"host": "one"}, {"host": "two"}]}  # type: ignore[union-attr]
    assert merged.entry(1).provenance == {"host": "one"}  # type: ignore[union-attr]
    before = stores.contents(one)
    with pytest.raises(UsageError, match=r"failures of 1 clips .*clip-003") as caught:
        merge([two], one)
    assert "new folder" in str(caught.value.hint)
    assert stores.contents(one) == before


def test_finished_rows_of_an_unfinished_block_are_told(tmp_path: Path) -> None:
    make(tmp_path / "planned")
    with open_store(tmp_path / "planned") as planned:
        stores.write(planned, DATA, [0])
    half = some(tmp_path / "half", range(8, 12))
    merged = merge([tmp_path / "planned", half], tmp_path / "merged")
    assert merged.done == {0}
    assert left_out([tmp_path / "planned", half], merged) == [row.id for row in stores.rows_of(COUNT)[8:12]]
    rest = some(tmp_path / "rest", range(12, COUNT))
    assert merge([half, rest], merged.path).missing() == []
    assert left_out([half, rest], merged) != []  # a store object sees what others added after refresh
    merged.refresh()
    assert left_out([half, rest], merged) == []
    np.testing.assert_array_equal(merged.load(), DATA)


def test_an_unfinished_store_of_other_blocks_keeps_its_finished_rows(tmp_path: Path) -> None:
    first = some(tmp_path / "first", range(8))
    other = create(tmp_path / "other", SPEC, stores.rows_of(20), dataset="set", block_rows=5)
    stores.write(other, DATA, [0, 2])
    merged = merge([first, other.path], tmp_path / "merged")
    assert left_out([first, other.path], merged) == []
    done = {row.id for row, ok in zip(merged.rows, merged.ok, strict=True) if ok}
    assert done == {row.id for row in stores.rows_of(20)[:8] + stores.rows_of(20)[10:15]}
    assert len(merged.rows) == 20
    stores.write(other, DATA)
    assert merge([other.path], merged.path).missing() == []
    assert merged.dataset == "set"


def test_views_and_origins(tmp_path: Path) -> None:
    rows = [Row("a", "c", "train", 0, ""), Row("a", "c", "train", 1, ""), Row("b", "c", "train", 0, "b.mp4 (9 bytes)")]
    here = create(tmp_path / "here", SPEC, rows, dataset="set", block_rows=4)
    outcomes = [Outcome("failed", "no file"), Outcome("ok"), Outcome("ok")]
    with here.writer() as writer:
        writer.write_block(0, DATA[:3], outcomes)
    there = create(tmp_path / "there", SPEC, [Row("a", "d", "all", 0, "a.mp4 (5 bytes)")], dataset="set", block_rows=4)
    with there.writer() as writer:
        writer.write_block(0, DATA[:1], [Outcome("ok")])
    merged = merge([here.path, there.path], tmp_path / "merged")
    assert merged.rows == [Row("a", "c", "train", 0, "a.mp4 (5 bytes)"), *rows[1:]]
    np.testing.assert_array_equal(merged.load(), DATA[:3])


def origins(path: Path, rows: Iterable[int], size: int, status: str = "ok", rule: str = "") -> Path:
    """A store of one block whose clips are cut from files of `size` bytes."""
    chosen = [replace(stores.rows_of(COUNT)[r], origin=f"{r}.mp4 ({size} bytes){rule}") for r in rows]
    store = create(path, SPEC, chosen, dataset="set", block_rows=8)
    if status:
        with store.writer() as writer:
            writer.write_block(0, DATA[list(rows)], [Outcome(status, "" if status == "ok" else "why")] * len(chosen))
    return path


@pytest.mark.parametrize("other", ["ok", "", "views"])
@pytest.mark.parametrize("turned", [False, True])
def test_stores_of_different_videos_or_view_rules_are_refused(tmp_path: Path, other: str, turned: bool) -> None:
    one = origins(tmp_path / "one", range(4), 5, rule="; view by tsn and squash, seed 0" if other == "views" else "")
    rule = "; view by tsn and squash, seed 1" if other == "views" else ""
    two = origins(tmp_path / "two", range(2, 6), 5 if rule else 9, "ok" if rule else other, rule)
    with pytest.raises(IntegrityError, match=r"different files or by different rules.* features of 2 clips"):
        merge([two, one] if turned else [one, two], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_file_that_was_mended_after_it_failed_is_no_difference(tmp_path: Path) -> None:
    failed, fine = origins(tmp_path / "one", range(4), 5, "failed"), origins(tmp_path / "two", range(4), 9)
    merged = merge([failed, fine], tmp_path / "merged")
    assert merged.ok.all()
    assert {row.origin for row in merged.rows} == {f"{r}.mp4 (9 bytes)" for r in range(4)}


@pytest.mark.parametrize("backend", ["zarr", "zarr-zstd"])
def test_many_small_blocks_take_few_descriptors_and_one_check_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    count = 150
    spec, rows = stores.spec_of((2,)), stores.rows_of(count)
    data = stores.values(count, spec)
    small = create(tmp_path / "small", spec, rows, dataset="set", backend=backend, block_rows=1)
    stores.write(small, data)
    first = create(tmp_path / "big", spec, rows[:1], dataset="set", backend=backend, block_rows=100)
    stores.write(first, data)
    checked = checks(monkeypatch)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    try:
        merged = merge([first.path, small.path], tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(merged.load(merged.rows_of([row.id for row in rows])), data)
    assert {checked[file] for file in checked if small.path in file.parents} == {1}


def test_a_source_block_is_checked_once_whatever_blocks_it_goes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = some(tmp_path / "one", range(3), block_rows=2)
    two = some(tmp_path / "two", range(40), block_rows=40)
    checked = checks(monkeypatch)
    merged = merge([one, two], tmp_path / "merged")
    assert rows_in(merged) == rows_in(open_store(two))
    assert merged.blocks > 10
    assert {checked[file] for file in checked if two in file.parents} == {1}


def checks(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often the file of a block is compared with its checksum from now on."""
    checked: Counter[Path] = Counter()
    real = ZarrMedium.check

    def check(self: ZarrMedium, entry: Entry) -> Finding | None:
        checked[self.file_of(entry.block)] += 1
        return real(self, entry)

    monkeypatch.setattr(ZarrMedium, "check", check)
    return checked


@pytest.mark.parametrize("copied", [False, True])
def test_a_block_that_changes_after_the_look_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    parts = parts_of(tmp_path, "zarr")
    file, link = open_store(parts[1]).medium.file_of(1), os.link  # type: ignore[attr-defined]

    def late(source: Path, target: Path) -> None:
        if source == file:
            data = file.read_bytes()
            file.unlink()
            file.write_bytes(data[:-1] + b"?")
        if copied:
            raise OSError(errno.EXDEV, "another disk")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(IntegrityError, match=r"block 1 of .*part1 is flipped"):
        merge(parts, tmp_path / "merged")
    assert open_store(tmp_path / "merged").verify() == []
    file.unlink()
    with pytest.raises(IntegrityError, match=r"block 1 of .*part1 is missing"):
        merge(parts, tmp_path / "merged")


def test_different_features_of_a_clip_are_refused_by_name(tmp_path: Path) -> None:
    one = some(tmp_path / "one", range(20))
    wrong = DATA.copy()
    wrong[[7, 12]] += 1
    two = some(tmp_path / "two", range(4, 20), wrong)
    with pytest.raises(
        IntegrityError, match=r"one and .*two have different features of 'class 1/clip-007 é'"
    ) as caught:
        merge([one, two], tmp_path / "merged")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "merged").exists()


def test_stores_that_do_not_belong_together(tmp_path: Path) -> None:
    one = make(tmp_path / "one").path
    other = create(tmp_path / "other", stores.spec_of(cut="map"), stores.rows_of(3), dataset="set").path
    with pytest.raises(IntegrityError, match=r"different features:\n  cut: 'pooled' in .*one, 'map' in .*other"):
        merge([one, other], tmp_path / "merged")
    with pytest.raises(IntegrityError, match=r"one holds the dataset 'set', .*others holds 'others'"):
        merge([one, make(tmp_path / "others", dataset="others").path], tmp_path / "merged")
    with pytest.raises(UsageError, match="into itself"):
        merge([one, make(tmp_path / "two").path], one)
    with pytest.raises(MissingError, match="no store at"):
        merge([one, tmp_path / "nowhere"], tmp_path / "merged")
    with pytest.raises(UsageError, match="nothing to merge"):
        merge([], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_damage_does_not_go_on(tmp_path: Path, backend: str) -> None:
    parts = parts_of(tmp_path, backend)
    with open_store(parts[1]) as part:
        file = part.medium.file_of(4)  # type: ignore[attr-defined]
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"block 4 of .*part1 is flipped") as caught:
        merge(parts, tmp_path / "merged")
    assert f"store verify {parts[1]} --mend" in str(caught.value.hint)
    merged = open_store(tmp_path / "merged")
    assert merged.done == {0, 1, 2, 3}
    assert merged.verify() == []
    file.write_bytes(good)
    merge(parts, merged.path)
    assert stores.contents(merged.path) == stores.contents(whole_run(tmp_path / "whole", backend).path)


def test_a_merge_killed_anywhere_is_repeated(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, "zarr")
    expected = stores.contents(whole_run(tmp_path / "whole", "zarr").path)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom cache.merge import merge\n"
        "left = int(sys.argv[1])\nevents = ('open', 'os.link', 'os.rename', 'os.remove', 'os.truncate')\n"
        "def hook(event, args):\n"
        "    global left\n"
        "    if event in events and (event != 'open' or (args[2] or 0) & os.O_WRONLY):\n"
        "        left -= 1\n"
        "        if left < 0: os._exit(9)\n"
        "sys.addaudithook(hook)\nmerge([Path(p) for p in sys.argv[3:]], Path(sys.argv[2]))"
    )
    root, target = Path(__file__).parent.parent, tmp_path / "merged"
    killed = 0
    for steps in (*range(0, 30, 3), 41, 77):
        shutil.rmtree(target, ignore_errors=True)
        command = [sys.executable, "-c", code, str(steps), str(target), *map(str, parts)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        killed += done.returncode == 9
        assert stores.contents(merge(parts, target).path) == expected, steps
    assert killed > 8
