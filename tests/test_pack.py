"""One file to share: what comes out is what went in, and nothing that is cut, changed, foreign or hostile becomes a store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import stores

from cache.features import FeatureStore
from cache.folder import FolderMedium
from cache.gc import leftovers, sweep
from cache.ledger import line_of
from cache.pack import export
from cache.store import create, open_store, stores_under
from cache.unpack import unpack
from fsar_cache.errors import IntegrityError, MissingError, SpaceError, UsageError

COUNT = 21
SPEC = stores.spec_of()
DATA = stores.values(COUNT, SPEC)
BACKENDS = ("zarr", "hdf5", "zarr-zstd")


def make(path: Path, backend: str = "zarr", seed: int = 0, **fields: object) -> FeatureStore:
    """A store with two of three blocks, a failed clip, a rewritten block, a journal and a stray file."""
    spec = stores.spec_of(**fields)  # type: ignore[arg-type]
    store = create(path, spec, stores.rows_of(COUNT), dataset="set", backend=backend, block_rows=8)
    stores.write(store, DATA, [0, 1])
    store.drop_block(0)
    stores.write(store, stores.values(COUNT, SPEC, seed), [0], failed=[5])
    with store.writer() as writer:
        writer.journal(2).add(0, DATA[16:17], [stores.outcome_of(16)])
    (path / "notes.txt").write_text("mine")
    return store


def same(one: FeatureStore, other: FeatureStore) -> bool:
    """Whether two stores agree in everything a reader sees, and their blocks byte for byte."""
    rows = range(COUNT)
    assert isinstance(one.medium, FolderMedium)
    assert isinstance(other.medium, FolderMedium)
    return (
        (one.spec, one.dataset, one.backend, one.rows, one.done)
        == (other.spec, other.dataset, other.backend, other.rows, other.done)
        and [one.outcome(r) for r in rows] == [other.outcome(r) for r in rows]
        and all(one.entry(b) == other.entry(b) for b in one.done)
        and all(one.medium.file_of(b).read_bytes() == other.medium.file_of(b).read_bytes() for b in one.done)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_and_in_again(tmp_path: Path, backend: str) -> None:
    store = make(tmp_path / "stores" / "set" / "net-a", backend)
    told: list[tuple[int, int]] = []
    assert export(store.path, tmp_path / "a.zip", lambda done, of: told.append((done, of))) == [store.path]
    assert told[-1][0] == told[-1][1] > 0
    seen: list[tuple[int, int]] = []
    assert unpack(tmp_path / "a.zip", tmp_path / "new", lambda d, of: seen.append((d, of))) == [
        (tmp_path / "new/set/net-a", True)
    ]
    assert seen[-1][0] == seen[-1][1] > told[-1][1]
    copy = open_store(tmp_path / "new" / "set" / "net-a")
    assert same(store, copy)
    assert copy.verify() == []
    assert sorted(p.name for p in (tmp_path / "new" / "set").iterdir()) == ["net-a"]
    stamps = {p: p.stat().st_mtime_ns for p in copy.path.rglob("*")}
    assert unpack(tmp_path / "a.zip", tmp_path / "new") == [(copy.path, False)]
    assert stamps == {p: p.stat().st_mtime_ns for p in copy.path.rglob("*")}
    export(copy.path, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()
    stores.write(copy, DATA)
    np.testing.assert_array_equal(copy.load()[8:], DATA[8:])


def test_a_store_without_blocks(tmp_path: Path) -> None:
    for backend in BACKENDS:
        store = create(tmp_path / backend, SPEC, stores.rows_of(3), dataset="set", backend=backend)
        export(store.path, tmp_path / f"{backend}.zip")
        ((path, _),) = unpack(tmp_path / f"{backend}.zip", tmp_path / "new")
        copy = open_store(path)
        assert (copy.rows, copy.done, copy.verify()) == (store.rows, set(), [])


def test_other_tools_read_it(tmp_path: Path) -> None:
    store = make(tmp_path / "net-a")
    export(store.path, tmp_path / "a.zip")
    unzipped = tmp_path / "unzipped"
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.testzip() is None
        assert {info.compress_type for info in packed.infolist()} == {zipfile.ZIP_STORED}
        packed.extractall(unzipped)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=unzipped, check=True)
    files = {str(p.relative_to(unzipped)) for p in unzipped.rglob("*") if p.is_file()}
    small = {"store.json", "rows.json", "ledger.jsonl", "zarr.json", "features/zarr.json"}
    blocks = {"features/c.0.0.0", "features/c.1.0.0"}
    assert files == {"README.md", "package.json", "SHA256SUMS", *(f"net-a/{name}" for name in small | blocks)}
    np.testing.assert_array_equal(stores.other_reader(open_store(unzipped / "net-a"))[8:16], DATA[8:16])


def test_the_card_tells_what_is_inside(tmp_path: Path) -> None:
    store = make(tmp_path / "net-a")
    export(store.path, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        text = packed.read("README.md").decode()
    for told in (
        "# set",
        "## net-a",
        "| one row | 3 x 4 float32 |",
        "| rows | 21 (15 ok, 1 failed, 5 unfinished) |",
        "| format | zarr, 2 of 3 blocks of 8 rows |",
        SPEC.fingerprint,
        "- backbone: name net, weights abc",
        "- class 2/clip-005 é, view 0: broken file 5",
        '"host":"here"',
        "fsar-cache store import",
    ):
        assert told in text
    assert "pictures" not in text
    assert str(tmp_path) not in text


def test_the_stores_of_a_dataset_in_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "stores" / "set"
    made = [make(folder / name, cut=name) for name in ("block6", "pooled")]
    frames = create(folder / "frames", stores.spec_of((2, 2), "uint8", kind="frames"), stores.rows_of(2), dataset="set")
    stores.write(frames, np.ones((2, 2, 2), np.uint8))
    assert export(folder, tmp_path / "all.zip") == stores_under(folder)
    new = [path for path, _ in unpack(tmp_path / "all.zip", tmp_path / "new")]
    assert new == [tmp_path / "new" / "set" / name for name in ("block6", "frames", "pooled")]
    assert same(made[0], open_store(new[0]))
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        assert "hold pictures" in packed.read("README.md").decode()
    shutil.rmtree(new[1])
    assert [made for _, made in unpack(tmp_path / "all.zip", tmp_path / "new")] == [False, True, False]


def test_what_can_not_be_exported(tmp_path: Path) -> None:
    store = make(tmp_path / "a" / "net")
    with pytest.raises(MissingError, match="no store at"):
        export(tmp_path / "nowhere", tmp_path / "f.zip")
    create(tmp_path / "a" / "other", SPEC, stores.rows_of(2), dataset="others")
    with pytest.raises(UsageError, match="one dataset, not of others, set"):
        export(tmp_path / "a", tmp_path / "f.zip")
    make(tmp_path / "b" / "x" / "net")
    make(tmp_path / "b" / "y" / "net")
    with pytest.raises(UsageError, match="several of these stores are called 'net'"):
        export(tmp_path / "b", tmp_path / "f.zip")
    (tmp_path / "f.zip").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        export(store.path, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_text() == "mine"
    block = store.path / "features" / "c.1.0.0"
    good = block.read_bytes()
    for bad, message in (
        (good[:-1] + b"?", "block 1 is flipped"),
        (good[:-1], "block 1 is torn"),
        (None, "block 1 is missing"),
    ):
        block.unlink()
        if bad is not None:
            block.write_bytes(bad)
        with pytest.raises(IntegrityError, match=message) as caught:
            export(store.path, tmp_path / "g.zip")
        assert f"store verify {store.path} --mend" in str(caught.value.hint)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "f.zip"]
        block.write_bytes(good)


@pytest.fixture(scope="module")
def packed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    export(make(folder / "net-a").path, folder / "a.zip")
    return folder / "a.zip"


def test_any_flipped_bit_or_cut_is_found(packed_file: Path, tmp_path: Path) -> None:
    data = packed_file.read_bytes()
    original = open_store(packed_file.parent / "net-a")
    draws = np.random.default_rng(0)
    refused = 0
    for number in range(150):
        file = tmp_path / "b.zip"
        place = int(draws.integers(len(data)))
        wrong = (
            data[:place]
            if number % 5 == 0
            else data[:place] + bytes([data[place] ^ (1 << number % 8)]) + data[place + 1 :]
        )
        file.write_bytes(wrong)
        try:
            ((path, _),) = unpack(file, tmp_path / "new")
        except IntegrityError:
            refused += 1
            assert stores_under(tmp_path / "new") == []
            assert not list((tmp_path / "new").rglob("*.partial"))
            continue
        assert same(
            original, open_store(path)
        )  # a bit that means nothing: a date, an attribute, a word of the zip's own
        shutil.rmtree(tmp_path / "new")
    assert refused > 100


def rewritten(packed_file: Path, target: Path, change: Callable[[dict[str, bytes]], None], sums: bool = True) -> Path:
    """The packed file with other contents, and (as somebody could make it) with checksums that agree."""
    with zipfile.ZipFile(packed_file) as packed:
        files = {name: packed.read(name) for name in packed.namelist() if name != "SHA256SUMS" or not sums}
    change(files)
    if sums:
        lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
        files["SHA256SUMS"] = lines.encode()
    with zipfile.ZipFile(target, "w") as out:
        for name, data in files.items():
            out.writestr(name, data)
    return target


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "net-a/../../evil",
        "net-a/..",
        "net-a//evil",
        "net-a/a/b/c",
        "evil",
        "C:\\evil",
        "net-a/.hidden",
        "net-a/a\\b",
    ],
)
def test_names_that_lead_elsewhere_are_refused(packed_file: Path, tmp_path: Path, name: str) -> None:
    file = rewritten(packed_file, tmp_path / "b.zip", lambda files: files.update({name: b"x"}))
    with pytest.raises(IntegrityError, match="no file of a store"):
        unpack(file, tmp_path / "deep" / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.zip"]


@pytest.mark.parametrize("field", ["dataset", "name"])
@pytest.mark.parametrize("name", ["..", "../evil", "", ".hidden", "a/b", "/evil"])
def test_stores_that_want_to_lie_elsewhere_are_refused(
    packed_file: Path, tmp_path: Path, name: str, field: str
) -> None:
    def change(files: dict[str, bytes]) -> None:
        facts = json.loads(files["package.json"])
        (facts if field == "dataset" else facts["stores"][0])[field] = name
        files["package.json"] = json.dumps(facts).encode()

    with pytest.raises(IntegrityError):
        unpack(rewritten(packed_file, tmp_path / "b.zip", change), tmp_path / "deep" / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_folders_twins_and_compressed_files_are_refused(packed_file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed_file) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    link = zipfile.ZipInfo("net-a/link")
    link.external_attr = 0o120777 << 16
    extras: tuple[str | zipfile.ZipInfo, ...] = (link, "net-a/folder/", "net-a/rows.json", "README.md")
    for number, extra in enumerate(extras):
        file = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(file, "w") as out:
            for name, data in files.items():
                out.writestr(name, data)
            out.writestr(extra, b"/etc/passwd" if extra is link else b"")
        with pytest.raises(IntegrityError):
            unpack(file, tmp_path / "new")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "c.zip", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_foreign_and_other_formats(packed_file: Path, tmp_path: Path) -> None:
    def form(value: object) -> Callable[[dict[str, bytes]], None]:
        def change(files: dict[str, bytes]) -> None:
            files["package.json"] = json.dumps({**json.loads(files["package.json"]), "format": value}).encode()

        return change

    for value in (0, 2, "1", None):
        with pytest.raises(IntegrityError, match=rf"format {value!r}, this version reads 1"):
            unpack(rewritten(packed_file, tmp_path / "b.zip", form(value)), tmp_path / "new")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as out:
        out.writestr("holiday.txt", "sea")
    with pytest.raises(IntegrityError, match=r"no packed store: it has no package\.json"):
        unpack(tmp_path / "c.zip", tmp_path / "new")
    (tmp_path / "d.zip").write_text("no zip")
    for path, error, message in (
        (tmp_path / "d.zip", IntegrityError, "no packed store"),
        (tmp_path, IntegrityError, "no packed store"),
        (tmp_path / "e.zip", MissingError, "no file"),
    ):
        with pytest.raises(error, match=message):
            unpack(path, tmp_path / "new")
    for text in (b"[]", b"{", b'{"format": 1}', b'{"format": 1, "dataset": "d", "stores": [1]}'):
        with pytest.raises(IntegrityError, match="is damaged"):
            unpack(rewritten(packed_file, tmp_path / "b.zip", partial(replace, text=text)), tmp_path / "new")


def replace(files: dict[str, bytes], text: bytes) -> None:
    files["package.json"] = text


def sealed(text: bytes, old: bytes, new: bytes) -> bytes:
    """A sealed file with other contents and seals that agree."""
    from cache.sealed import seal, unseal

    lines = [unseal(line) for line in text.splitlines()]
    return b"".join(seal(json.loads(json.dumps(line).encode().replace(old, new))) for line in lines if line)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("store.json", b'"float32"', b'"object"'),
        ("store.json", b'"set"', b'"other"'),
        ("store.json", b'"zarr"', b'"memory"'),
        ("store.json", b'"zarr"', b'"sql"'),
        ("store.json", b'"block_rows": 8', b'"block_rows": "8"'),
        ("rows.json", b'"extents": [21]', b'"extents": [900]'),
        ("rows.json", b'"block_rows": 8', b'"block_rows": 4'),
        ("rows.json", b'"extents"', b'"intents"'),
        ("ledger.jsonl", b'"offset": 0', b'"offset": 99'),
        ("ledger.jsonl", b'"offset": 0', b'"offset": -8'),
        ("ledger.jsonl", b'"rows": 8', b'"rows": 800'),
        ("ledger.jsonl", b'"block": 1', b'"block": 2'),
        ("ledger.jsonl", b'"block": 1', b'"block": "1"'),
        ("ledger.jsonl", b'"failed"', b'"fooled"'),
        ("ledger.jsonl", b'"outcomes"', b'"income"'),
    ],
)
def test_stores_that_were_tampered_with_inside_are_refused(
    packed_file: Path, tmp_path: Path, name: str, old: bytes, new: bytes
) -> None:
    def change(files: dict[str, bytes]) -> None:
        before = files[f"net-a/{name}"]
        files[f"net-a/{name}"] = before.replace(old, new) if name == "store.json" else sealed(before, old, new)
        assert files[f"net-a/{name}"] != before

    with pytest.raises(IntegrityError):
        unpack(rewritten(packed_file, tmp_path / "b.zip", change), tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.*"))


def test_files_too_many_and_too_few_are_refused(packed_file: Path, tmp_path: Path) -> None:
    changes: list[Callable[[dict[str, bytes]], object]] = [
        lambda files: files.update({"net-a/features/c.2.0.0": b"x"}),
        lambda files: files.update({"net-a/journal": b"x"}),
        lambda files: files.pop("net-a/features/c.1.0.0"),
        lambda files: files.pop("net-a/rows.json"),
        lambda files: files.pop("net-a/store.json"),
    ]
    for change in changes:
        for sums in (True, False):
            with pytest.raises(IntegrityError):
                unpack(rewritten(packed_file, tmp_path / "b.zip", change, sums), tmp_path / "new")  # type: ignore[arg-type]
            assert stores_under(tmp_path / "new") == []


def test_another_store_in_the_way_stays(packed_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "set" / "net-a"

    def a_file() -> None:
        place.parent.mkdir()
        place.write_text("mine")

    preparations: tuple[Callable[[], object], ...] = (
        lambda: make(place, seed=1),
        lambda: make(place, cut="map"),
        lambda: place.mkdir(parents=True),
        a_file,
    )
    for prepare in preparations:
        prepare()
        before = stores.contents(place) if place.is_dir() else place.read_text()
        with pytest.raises(UsageError, match="is there already"):
            unpack(packed_file, tmp_path)
        assert before == (stores.contents(place) if place.is_dir() else place.read_text())
        shutil.rmtree(tmp_path / "set")


@pytest.mark.parametrize("kind", ["huge", "long", "right sizes", "garbage", "nothing"])
def test_a_made_up_compressed_block_is_refused(tmp_path: Path, kind: str) -> None:
    right = 8 * SPEC.row_bytes
    sizes = {"huge": (0xFFFFFFFF, 48), "long": (right, 1 << 20), "right sizes": (right, 48)}
    head = b"".join(n.to_bytes(4, "little") for n in (sizes[kind][0], 4, sizes[kind][1])) if kind in sizes else b""
    data = b"\2\1\1\4" + head + b"\xff" * 32 if head else kind.encode() * (kind == "garbage")
    store = make(tmp_path / "net-a", "zarr-zstd")
    export(store.path, tmp_path / "a.zip")

    def change(files: dict[str, bytes]) -> None:
        name = "net-a/features/c.1.0.0"
        entry = store.entry(1)
        assert entry is not None
        made = replace_fields(entry, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        files[name] = data
        lines = files["net-a/ledger.jsonl"].splitlines(keepends=True)
        files["net-a/ledger.jsonl"] = b"".join(line_of(made) if b'"block":1,' in line else line for line in lines)

    bad = rewritten(tmp_path / "a.zip", tmp_path / "bad.zip", change)
    with pytest.raises(IntegrityError, match="is no sound store"):
        unpack(bad, tmp_path / "new")
    assert stores_under(tmp_path / "new") == []
    assert leftovers(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["store.json", "rows.json", "ledger.jsonl", "package.json"])
def test_endless_brackets_are_refused(packed_file: Path, tmp_path: Path, name: str) -> None:
    def change(files: dict[str, bytes]) -> None:
        deep = b'{"a":' + b"[" * 100_000
        path = next(path for path in files if path.rpartition("/")[2] == name)
        line = deep + b',"crc32":"' + f"{zlib.crc32(deep + b'}'):08x}".encode() + b'"}\n'
        files[path] = deep if name in ("store.json", "package.json") else line

    bad = rewritten(packed_file, tmp_path / "bad.zip", change)
    with pytest.raises(IntegrityError):
        unpack(bad, tmp_path / "new")
    assert stores_under(tmp_path / "new") == []


@pytest.mark.parametrize("block", [-1, -2, 3])
def test_blocks_that_are_not_planned_are_refused(tmp_path: Path, block: int) -> None:
    store = make(tmp_path / "net-a", "hdf5")
    export(store.path, tmp_path / "a.zip")

    def change(files: dict[str, bytes]) -> None:
        entry = store.entry(1)
        assert entry is not None
        lines = files["net-a/ledger.jsonl"].splitlines(keepends=True)
        made = line_of(replace_fields(entry, block=block))
        files["net-a/ledger.jsonl"] = b"".join(made if b'"block":1,' in line else line for line in lines)
        files[f"net-a/blocks/{block:06d}.h5"] = files.pop("net-a/blocks/000001.h5")

    bad = rewritten(tmp_path / "a.zip", tmp_path / "bad.zip", change)
    with pytest.raises(IntegrityError, match=rf"rows of block {block}"):
        unpack(bad, tmp_path / "new")


def test_two_imports_at_once_make_one_store(packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = os.replace, []

    def late(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "new" / "set" / "net-a" and not done:
            done.append(target)
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: 4_000_000)
                assert unpack(packed_file, tmp_path / "new") == [(target, True)]
        real(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert unpack(packed_file, tmp_path / "new") == [(tmp_path / "new" / "set" / "net-a", False)]
    assert [path.name for path in (tmp_path / "new" / "set").iterdir()] == ["net-a"]
    assert open_store(tmp_path / "new" / "set" / "net-a").verify() == []


def test_another_store_that_comes_meanwhile_stays(
    packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, place = os.replace, tmp_path / "new" / "set" / "net-a"

    def late(source: Path, target: Path) -> None:
        if Path(target) == place and not place.exists():
            place.mkdir()
            (place / "thesis.txt").write_text("mine")
        real(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(UsageError, match="is there already, and it is not the store of this file"):
        unpack(packed_file, tmp_path / "new")
    assert [path.name for path in place.parent.rglob("*")] == ["net-a", "thesis.txt"]


def test_the_card_names_a_store_that_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "net-a")
    monkeypatch.chdir(store.path)
    export(Path("."), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert "\n## net-a\n" in packed.read("README.md").decode()


def test_a_small_disk_is_told_before(packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SpaceError, match="GB free"):
        unpack(packed_file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_killed_import_is_repeated_and_swept(tmp_path: Path) -> None:
    spec = stores.spec_of((1 << 18,))
    data = stores.values(40, spec)
    store = create(tmp_path / "a", spec, stores.rows_of(40), dataset="set", block_rows=8)
    stores.write(store, data)
    export(store.path, tmp_path / "a.zip")
    code = "import sys\nfrom pathlib import Path\nfrom cache.unpack import unpack\nunpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    new, root = tmp_path / "new", Path(__file__).parent.parent
    command = [sys.executable, "-c", code, str(tmp_path / "a.zip"), str(new)]
    with subprocess.Popen(command, cwd=root) as process:
        while not list(new.rglob("c.2.0")):
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGSTOP)
        assert stores_under(new) == []
        assert leftovers(new) == []
        os.kill(process.pid, signal.SIGKILL)
    assert stores_under(new) == []
    found = leftovers(new)
    assert len(found) == 1
    ((path, fresh),) = unpack(tmp_path / "a.zip", new)
    assert fresh
    assert stores.contents(path) == stores.contents(store.path)
    sweep(found)
    assert [p.name for p in path.parent.iterdir()] == ["a"]
