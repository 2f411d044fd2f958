"""Never lost, never wrong: killed writers, full disks, torn, flipped, missing and strange bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import stores

from cache.features import FeatureStore
from cache.journal import FileJournal
from cache.ledger import Entry, read_ledger
from cache.medium import Finding, Medium
from cache.sealed import seal, unseal
from cache.store import create, open_store
from fsar_cache.errors import IntegrityError, MissingError, SpaceError
from pipeline.cli import main

ROOT = Path(__file__).parent.parent
SPEC = stores.spec_of()
COUNT = 29
DATA = stores.values(COUNT, SPEC)
FAILED = [5, 12]
SYSTEM_CALLS = ("open", "write", "pwrite", "fsync", "replace", "unlink", "ftruncate", "mkdir")

backends = pytest.mark.parametrize("backend", ["hdf5", "zarr", "zarr-zstd"])
killed = pytest.mark.parametrize("backend", ["hdf5", "zarr", pytest.param("zarr-zstd", marks=pytest.mark.slow)])


def extract(path: Path, backend: str, batch: int = 3, count: int = COUNT) -> None:
    """What an extraction does: make or open the store, and for every missing block fill a journal, then write the block."""
    store = create(path, SPEC, stores.rows_of(count), dataset="set", backend=backend, block_rows=8)
    with store.writer() as writer:
        for block in store.missing():
            first, last = store.block_range(block)
            journal = writer.journal(block)
            array = np.empty((last - first, *SPEC.shape), np.float32)
            outcomes = [stores.outcome_of(row, FAILED) for row in range(first, last)]
            for start in range(0, last - first, batch):
                end = min(start + batch, last - first)
                if start in journal.batches:
                    array[start:end], outcomes[start:end], _ = journal.batches[start]
                else:
                    array[start:end] = DATA[first + start : first + end]
                    journal.add(start, array[start:end], outcomes[start:end])
            writer.write_block(block, array, outcomes, {"weights": "seeded:7"})


def require_true(path: Path) -> None:
    """Whatever was killed: the store opens or says it is not made yet; finished rows are right, all others known as unfinished."""
    try:
        store = open_store(path)
    except MissingError:
        return
    for block in range(store.blocks):
        first, last = store.block_range(block)
        rows = np.arange(first, last)
        if block in store.done:
            assert [store.outcome(r) for r in rows] == [stores.outcome_of(r, FAILED) for r in rows]
            fine = rows[store.ok[rows]]
            assert set(rows) - set(fine) == set(rows) & set(FAILED)
            np.testing.assert_array_equal(store.read(fine), DATA[fine])
        else:
            assert not store.ok[rows].any()
            with pytest.raises(IntegrityError, match="unfinished"):
                store.read(rows)
    assert {finding.kind for finding in store.verify()} <= {"extra", "torn"}


def in_child(action: Callable[[], None]) -> int:
    """Start `action` in a forked process; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        action()
        status = 0
    finally:
        os._exit(status)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip waiting for the disk, where only a kill is tested: what a killed process wrote is in the kernel's hands."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def whole(tmp_path: Path) -> Callable[..., dict[str, object]]:
    """The contents of a store that was written without interruption."""

    def uninterrupted(backend: str, count: int = COUNT) -> dict[str, object]:
        extract(tmp_path / f"whole-{backend}", backend, count=count)
        return stores.contents(tmp_path / f"whole-{backend}")

    return uninterrupted


@killed
def test_killed_at_random_instants(tmp_path: Path, backend: str, whole: Callable[..., dict[str, object]]) -> None:
    rng, kills = random.Random(backend), 0
    expected = whole(backend)
    for attempt in range(200):
        path = tmp_path / f"store-{attempt}"
        for _ in range(100):
            child = in_child(lambda path=path: extract(path, backend, 1))
            time.sleep(rng.uniform(0, 0.04))
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, -signal.SIGKILL)
            require_true(path)
            if code == 0:
                break
            kills += 1
        else:
            extract(path, backend, 1)
        assert stores.contents(path) == expected
        if kills >= 25:
            break
    assert kills >= 25


@killed
@pytest.mark.usefixtures("no_sync")
def test_killed_before_and_inside_every_system_call(
    tmp_path: Path, backend: str, whole: Callable[..., dict[str, object]]
) -> None:
    """The writer kills itself at its first, second, third ... call that changes the disk; writes stop half way."""
    expected = whole(backend, 13)
    for instant in range(1000):
        path = tmp_path / f"store-{instant}"

        def act(instant: int = instant, path: Path = path) -> None:
            kill_at(instant)
            extract(path, backend, count=13)

        _, status = os.waitpid(in_child(act), 0)
        require_true(path)
        extract(path, backend, count=13)
        assert stores.contents(path) == expected
        assert not open_store(path).verify()
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert instant > 40


def kill_at(instant: int) -> None:
    """Make this process kill itself at its `instant`-th call of SYSTEM_CALLS."""
    left = [instant]

    def deadly(real: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                if name in ("write", "pwrite"):
                    handle, data, *place = given
                    real(handle, data[: len(data) // 2], *place)  # type: ignore[index, arg-type]
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        return call

    for name in SYSTEM_CALLS:
        setattr(os, name, deadly(getattr(os, name), name))


@pytest.fixture
def store(tmp_path: Path, backend: str) -> FeatureStore:
    extract(tmp_path / "store", backend)
    return open_store(tmp_path / "store")


def block_file(store: FeatureStore, block: int) -> Path:
    return store.path / (f"features/c.{block}.0.0" if store.backend.startswith("zarr") else f"blocks/{block:06d}.h5")


def mend(store: FeatureStore) -> None:
    """What `verify` is for: forget what it names, extract again."""
    for finding in store.verify():
        if finding.block is not None:
            store.drop_block(finding.block)
    extract(store.path, store.backend)
    assert open_store(store.path).verify() == []


@backends
def test_every_flipped_byte_is_found(store: FeatureStore) -> None:
    before = {p: p.read_bytes() for p in (block_file(store, b) for b in range(store.blocks))}
    for block in (1, store.blocks - 1):
        file = block_file(store, block)
        good = file.read_bytes()
        for place in range(0, len(good), 61):
            file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            assert [(f.block, f.kind) for f in store.verify([block])] == [(block, "flipped")]
    assert [(f.block, f.kind) for f in store.verify()] == [(1, "flipped"), (store.blocks - 1, "flipped")]
    mend(store)
    assert before == {p: p.read_bytes() for p in before}


@backends
def test_missing_torn_and_extra_files_are_named_and_mended(store: FeatureStore) -> None:
    before = {p: p.read_bytes() for p in (block_file(store, b) for b in range(store.blocks))}
    block_file(store, 0).unlink()
    os.truncate(block_file(store, 1), 100)
    with block_file(store, 3).open("ab") as file:
        file.write(b"more")
    stray = block_file(store, 0).parent / "holiday.jpg"
    stray.write_bytes(b"")
    fresh = open_store(store.path)
    for block, text in ((0, "missing"), (1, "torn"), (3, "torn")):
        first, last = store.block_range(block)
        for read in (fresh.read, fresh.load):
            with pytest.raises(IntegrityError, match=f"block {block} is {text}") as caught:
                read([row for row in range(first, last) if row not in FAILED])
            assert f"store verify {store.path} --mend" in str(caught.value.hint)
    found = fresh.verify()
    assert [(f.block, f.kind) for f in found] == [(0, "missing"), (1, "torn"), (3, "torn"), (None, "extra")]
    assert "holiday.jpg" in found[3].detail
    stray.unlink()
    mend(fresh)
    assert before == {p: p.read_bytes() for p in before}


@backends
def test_a_block_without_its_ledger_line_counts_for_nothing(store: FeatureStore) -> None:
    ledger = store.path / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([lines[0], lines[1].replace(b'"block":1', b'"block":2'), *lines[2:-1], lines[-1][:40]]))
    fresh = open_store(store.path)
    assert fresh.missing() == [1, 3]
    found = [(f.block, f.kind) for f in fresh.verify()]
    assert found == [(None, "torn"), (None, "torn"), (1, "extra"), (3, "extra")]
    assert fresh.info()["damaged_ledger_lines"] == [2, 4]
    require_true(store.path)
    extract(store.path, store.backend)
    assert open_store(store.path).verify() == []
    assert sorted(ledger.read_bytes().splitlines(keepends=True)) == sorted(lines)


@backends
def test_verify_reports_nothing_of_a_writer_at_work(store: FeatureStore) -> None:
    """Seen by a reader of before: newer blocks, a block between rename and ledger line, a half ledger line, a file aside, a journal."""
    reader = open_store(store.path)
    more = stores.rows_of(COUNT + 20)
    data = stores.values(COUNT + 20, SPEC)
    store.plan(more)
    stores.write(store, data, [4])
    new = block_file(store, 5)
    with store.writer() as writer:
        writer.journal(6).add(0, data[:2], [stores.outcome_of(row) for row in range(2)])
        new.write_bytes(block_file(store, 4).read_bytes())
        aside = new.with_name(f".{new.name}.7.partial")
        aside.write_bytes(b"half")
        with (store.path / "ledger.jsonl").open("ab") as ledger:
            ledger.write(b'{"block":5,"rows"')
        assert reader.verify() == []
    assert [(f.block, f.kind) for f in open_store(store.path).verify()] == [(None, "torn"), (5, "extra")]
    with store.writer():
        pass
    assert not aside.exists()
    assert [(f.block, f.kind) for f in reader.verify()] == [(5, "extra")]


@backends
def test_verify_lets_a_writer_replace_blocks_meanwhile(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (0, 1):
        block_file(store, block).unlink()
    reader, real, met = open_store(store.path), type(store.medium).check, threading.Lock()

    def check(medium: Medium, entry: Entry) -> Finding | None:
        with met:
            if 0 in store.done:
                store.drop_block(0)
        return real(medium, entry)

    monkeypatch.setattr(type(store.medium), "check", check)
    assert [(f.block, f.kind) for f in reader.verify()] == [(1, "missing")]


@backends
def test_the_command_tells_damage_from_notes_and_mends_only_damage(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(*more: str) -> tuple[int, str, str]:
        code = main(["store", "verify", str(store.path), *more])
        return code, *capsys.readouterr()

    def bytes_of_blocks() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in map(partial(block_file, store), range(store.blocks))}

    before, ledger = bytes_of_blocks(), store.path / "ledger.jsonl"
    stray = block_file(store, 0).with_name("holiday.jpg")
    stray.write_bytes(b"")
    code, out, err = verify()
    assert (code, out) == (0, f"note: {stray} is no file of this store\n")
    assert "4 blocks are sound" in err
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:3], b"?" + lines[3]]))
    os.truncate(block_file(store, 1), 100)
    code, out, err = verify()
    assert code == 4
    assert [line.split(": ")[:2] for line in out.splitlines()] == [
        ["block 1", "torn"],
        ["ledger", "torn"],
        ["block 3", "note"],
        ["note", f"{stray} is no file of this store"],
    ]
    assert "1 of 3 blocks and 1 lines of the ledger are damaged" in err
    hint = (
        "repeat the extraction that made it: dataset set, backbone net, weights seeded:7, cut pooled, frames 8, size 64"
    )
    assert f"store verify {store.path} --mend, then {hint}" in err
    with store.writer():
        assert verify("--mend")[0] == 2
    ledger.write_bytes(b"".join([*lines[:3], b"?" + lines[3]]))
    code, out, err = verify("--mend", "--json")
    assert code == 0
    assert [finding["kind"] for finding in json.loads(out)] == ["torn", "torn", "extra", "extra"]
    assert "dropped 1 damaged blocks and 1 lines of the ledger" in err
    assert hint in err
    assert open_store(store.path).done == {0, 2}
    assert read_ledger(ledger).damaged == []
    assert stray.exists()
    code, _, err = verify()
    assert (code, "2 blocks are sound, 2 are not written yet" in err) == (0, True)
    extract(store.path, store.backend)
    assert bytes_of_blocks() == before


@backends
def test_a_refresh_between_plan_and_block_of_a_writer(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a reader's looks at ledger and table, whichever comes first, a writer plans rows and writes their block."""
    reader, kind = open_store(store.path), type(store.medium)
    acted: list[str] = []

    def then_act(name: str) -> Callable[[Medium], object]:
        real = getattr(kind, name)

        def look(medium: Medium) -> object:
            seen = real(medium)
            if medium is reader.medium and not acted:
                acted.append(name)
                store.plan(stores.rows_of(COUNT + 8))
                stores.write(store, stores.values(COUNT + 8, SPEC))
            return seen

        return look

    for name in ("ledger", "load_table"):
        monkeypatch.setattr(kind, name, then_act(name))
    reader.refresh()
    assert acted
    np.testing.assert_array_equal(reader.read([COUNT - 1]), DATA[[COUNT - 1]])
    reader.refresh()
    assert reader.missing() == []


def test_reads_stay_right_in_the_middle_of_a_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create(tmp_path / "s", SPEC, stores.rows_of(COUNT), dataset="set", block_rows=8)
    stores.write(store, DATA)
    real, reads = Entry.failed.fget, []  # type: ignore[attr-defined]

    def failed(entry: Entry) -> object:
        """Asked of every block in turn by a refresh: the place to be another thread."""
        with ThreadPoolExecutor(1) as pool:
            reads.append(pool.submit(store.read, range(COUNT)).result(timeout=10))
        return real(entry)

    monkeypatch.setattr(Entry, "failed", property(failed))
    store.refresh()
    assert len(reads) >= 4
    for read in reads:
        np.testing.assert_array_equal(read, DATA)


@backends
def test_a_ledger_that_knows_more_than_the_table_is_refused(store: FeatureStore) -> None:
    old = (store.path / "rows.json").read_bytes()
    store.plan(stores.rows_of(COUNT + 8))
    stores.write(store, stores.values(COUNT + 8, SPEC))
    (store.path / "rows.json").write_bytes(old)
    with pytest.raises(IntegrityError, match="the ledger has 8 rows of block 4, the row table has 0"):
        open_store(store.path)


@backends
def test_files_that_vanish_while_a_store_is_measured(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.walk
    size = store.info()["bytes"]

    def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in real(folder):
            yield place, folders, [*names, "removed since"]

    monkeypatch.setattr(os, "walk", walk)
    assert store.info()["bytes"] == size
    assert size == sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())


def test_sealed_lines_survive_no_change() -> None:
    value = {"a": "é \u2028 ' , {", "b": [1, 2.5, None]}
    line = seal(value)
    assert unseal(line) == value
    for end in range(len(line) - 1):
        assert unseal(line[:end]) is None
    for place in range(len(line) - 1):
        for bit in range(8):
            assert unseal(line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]) is None


def test_every_prefix_of_a_ledger_is_a_ledger(tmp_path: Path) -> None:
    extract(tmp_path / "s", "zarr")
    data = (tmp_path / "s" / "ledger.jsonl").read_bytes()
    cut = tmp_path / "cut"
    for end in range(0, len(data), 7):
        cut.write_bytes(data[:end])
        text = read_ledger(cut)
        assert sorted(text.entries) == list(range(data[:end].count(b"\n")))
        assert len(text.damaged) == (end > 0 and data[end - 1 : end] != b"\n")


@pytest.mark.usefixtures("no_sync")
def test_every_prefix_of_a_journal_is_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "j" / "000001.journal"
    ends = [0]
    outcomes = [stores.outcome_of(row) for row in range(8)]
    for first in (0, 3, 6):
        journal = FileJournal(path, 8, SPEC.shape, np.dtype("<f4"))
        journal.add(first, DATA[first : min(first + 3, 8)], outcomes[first : min(first + 3, 8)])
        ends.append(path.stat().st_size)
    data = path.read_bytes()
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        journal = FileJournal(path, 8, SPEC.shape, np.dtype("<f4"))
        assert sorted(journal.batches) == [0, 3, 6][: sum(e <= end for e in ends) - 1]
        if end % 100 == 0:
            journal.add(6, DATA[6:8], outcomes[6:8])
            assert path.stat().st_size == max(e for e in ends if e <= end) + ends[3] - ends[2]
            again = FileJournal(path, 8, SPEC.shape, np.dtype("<f4"))
            assert again.batches.keys() == journal.batches.keys()
            np.testing.assert_array_equal(again.batches[6][0], DATA[6:8])
    damaged = bytearray(data)
    damaged[ends[1] + 30] ^= 1
    path.write_bytes(damaged)
    assert sorted(FileJournal(path, 8, SPEC.shape, np.dtype("<f4")).batches) == [0]


@backends
@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize(("call", "step"), [("fsync", 5), ("pwrite", 2), ("write", 1)])
def test_no_space_at_any_call_leaves_nothing_half(
    tmp_path: Path, backend: str, call: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)
    for instant in range(0, 1000, step):
        path, left, refused = tmp_path / f"store-{instant}", [instant], False

        def full(*given: object, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            try:
                extract(path, backend)
            except SpaceError:
                refused = True
        assert not list(path.rglob("*.partial"))
        require_true(path)
        extract(path, backend)
        assert open_store(path).verify() == []
        np.testing.assert_array_equal(open_store(path).load()[13:], DATA[13:])
        if not refused:
            break
    assert instant >= 4


@backends
def test_a_writer_may_go_on_when_there_is_space_again(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create(tmp_path / "s", SPEC, stores.rows_of(COUNT), dataset="set", backend=backend, block_rows=8)
    real = os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[: len(data) // 2])

    with store.writer() as writer:
        for block in range(store.blocks):
            first, last = store.block_range(block)
            outcomes = [stores.outcome_of(row) for row in range(first, last)]
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", half)
                with pytest.raises(SpaceError, match=r"ledger\.jsonl"):
                    writer.write_block(block, DATA[first:last], outcomes)
            assert block not in store.done
            writer.write_block(block, DATA[first:last], outcomes)
    fresh = open_store(store.path)
    assert fresh.verify() == []
    np.testing.assert_array_equal(fresh.load(), DATA)


@backends
def test_a_really_full_disk(tmp_path: Path, backend: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        spec = stores.spec_of((64, 100))
        data = stores.values(64, spec)
        store = create(disk / "s", spec, stores.rows_of(64), dataset="set", backend=backend, block_rows=8)
        with pytest.raises(SpaceError, match="no space left while writing"):
            stores.write(store, data)
        fresh = open_store(disk / "s")
        assert fresh.done == set(range(len(fresh.done)))
        assert 2 <= len(fresh.done) < 8
        assert fresh.verify() == []
        np.testing.assert_array_equal(fresh.read(np.flatnonzero(fresh.ok)), data[fresh.ok])
        with fresh.writer() as writer, pytest.raises(SpaceError, match=r"7\.journal"):
            writer.journal(7).add(0, data[56:64], [stores.outcome_of(row) for row in range(56, 64)])
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        stores.write(fresh, data)
        np.testing.assert_array_equal(open_store(disk / "s").load(), data)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_killed_process_of_its_own(tmp_path: Path) -> None:
    """The same as the forked kills, once with a process that shares nothing with this one."""
    path = tmp_path / "s"
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, 'tests'); import test_store_crash as t\n"
        "print('ready', flush=True)\n"
        "t.extract(Path(sys.argv[1]), 'zarr', 1); time.sleep(9)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.03)
        process.kill()
    require_true(path)
    extract(path, "zarr", 1)
    extract(tmp_path / "t", "zarr", 1)
    assert stores.contents(path) == stores.contents(tmp_path / "t")
