"""`fsar-cache store`: the commands that list, check, join, clear and share, on small stores."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores

from cache.features import FeatureStore
from cache.store import create, open_store
from pipeline import cli

COUNT = 21
SPEC = stores.spec_of()
DATA = stores.values(COUNT, SPEC)
Fsar = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fsar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fsar:
    """Run a command among stores of the test's own: (exit code, stdout, stderr)."""
    for name in ("VIDEOS", "STORES", "RUNS"):
        monkeypatch.setenv(f"FSAR_{name}", str(tmp_path / name.lower()))

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def make(path: Path, blocks: list[int] | None = None, **fields: Any) -> FeatureStore:
    spec = stores.spec_of(**fields)
    store = create(path, spec, stores.rows_of(COUNT), dataset="set", block_rows=8)
    stores.write(store, stores.values(COUNT, spec), blocks, failed=[5])
    return store


def test_several_kinds_in_one_place(tmp_path: Path, fsar: Fsar) -> None:
    folder = tmp_path / "stores" / "set"
    features, frames = make(folder / "net-pooled"), make(folder / "frames", kind="frames", cut="frames", dtype="uint8")
    text = make(folder / "net-text", kind="text", cut="text")
    code, out, _ = fsar("store", "ls")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["frames", "pooled", "text"]
    rows = json.loads(fsar("store", "ls", folder, "--json")[1])
    assert [row["kind"] for row in rows] == ["frames", "features", "text"]
    assert [f["spec"]["kind"] for f in json.loads(fsar("store", "info", folder, "--json")[1])] == [
        r["kind"] for r in rows
    ]
    assert json.loads(fsar("store", "info", text.path, "--json")[1])["spec"]["kind"] == "text"
    assert fsar("store", "info", folder)[1].count("fingerprint: ") == 3
    code, out, err = fsar("store", "verify", folder)
    assert (code, out, err.count("3 blocks are sound")) == (0, "", 3)
    for store, block in ((features, "c.1.0.0"), (frames, "c.0.0.0")):
        file = store.path / "features" / block
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    code, out, err = fsar("store", "verify", folder)
    assert code == 4
    assert [line.split(": ")[:3] for line in out.splitlines()] == [
        [str(frames.path), "block 0", "flipped"],
        [str(features.path), "block 1", "flipped"],
    ]
    for store in (features, frames):
        assert f"store verify {store.path} --mend" in " ".join(err.split())
    code, out, _ = fsar("store", "verify", folder, "--json")
    assert (code, [(f["store"], f["block"]) for f in json.loads(out)]) == (
        4,
        [(str(frames.path), 0), (str(features.path), 1)],
    )
    assert fsar("store", "verify", folder, "--mend")[0] == 0
    code, out, err = fsar("store", "verify", folder)
    assert (code, out, err.count("2 blocks are sound, 1 are not written yet")) == (0, "", 2)


@pytest.mark.parametrize(
    "words", [["ls"], ["info"], ["verify"], ["export", "f.zip"], ["gc"], ["convert", "copy"], ["merge", "t"]]
)
def test_a_place_that_is_not_there(tmp_path: Path, fsar: Fsar, words: list[str]) -> None:
    code, out, err = fsar("store", words[0], tmp_path / "nowhere", *(tmp_path / word for word in words[1:]))
    assert (code, out) == (3, "")
    assert "nowhere" in "".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_empty_places_are_no_mistake(tmp_path: Path, fsar: Fsar) -> None:
    assert fsar("store", "ls")[:2] == (0, "")
    assert fsar("store", "ls", tmp_path)[:2] == (0, "")
    assert fsar("store", "gc")[:2] == (0, "")
    assert json.loads(fsar("store", "gc", "--json")[1]) == []


def test_parts_are_merged_and_cleared_away(tmp_path: Path, fsar: Fsar) -> None:
    folder = tmp_path / "stores" / "set"
    parts = [make(folder / f"net.part-{i + 1}-of-3", [i]).path for i in range(3)]
    code, out, err = fsar("store", "merge", *parts[:2], folder / "net")
    assert (code, out) == (0, f"{folder / 'net'}\n")
    assert "15 of 21 rows have features, in 2 of 3 blocks" in err
    assert "1 blocks are in none of the stores" in err
    told = json.loads(fsar("store", "merge", *parts, folder / "net", "--json")[1])
    empty: dict[str, list[str]] = {"missing_blocks": [], "left_out": [], "damaged": []}
    assert told == {"path": str(folder / "net"), "rows": 21, "ok": 20, **empty}
    shutil.rmtree(parts[2])
    code, out, err = fsar("store", "gc")
    assert (code, [line.split("  ")[0] for line in out.splitlines()]) == (0, [str(part) for part in parts[:2]])
    assert "--yes removes them" in err
    assert all(part.exists() for part in parts[:2])
    code, out, _ = fsar("store", "gc", folder, "--yes", "--json")
    assert (code, [(one["path"], one["removed"]) for one in json.loads(out)]) == (
        0,
        [(str(part), True) for part in parts[:2]],
    )
    assert [path.name for path in folder.iterdir()] == ["net"]
    assert fsar("store", "verify", folder / "net")[:2] == (0, "")


def test_finished_clips_that_are_left_out_are_said(tmp_path: Path, fsar: Fsar) -> None:
    make(tmp_path / "one", [0])
    two = create(tmp_path / "two", SPEC, stores.rows_of(COUNT)[8:12], dataset="set", block_rows=8)
    stores.write(two, DATA)
    code, _, err = fsar("store", "merge", tmp_path / "one", tmp_path / "two", tmp_path / "merged")
    assert code == 0
    assert "4 clips wait for the rest of their blocks: class 2/clip-008 é, " in err


def test_damaged_ledgers_of_sources_are_said(tmp_path: Path, fsar: Fsar) -> None:
    store = make(tmp_path / "one")
    ledger = store.path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"block":2', b'"block":7'))
    said = f"1 lines of the ledger of {store.path} are damaged"
    code, _, err = fsar("store", "merge", store.path, tmp_path / "merged")
    assert (code, said in " ".join(err.split())) == (0, True)
    assert said in json.loads(fsar("store", "merge", store.path, tmp_path / "merged", "--json")[1])["damaged"][0]
    code, _, err = fsar("store", "export", store.path, tmp_path / "one.zip")
    assert (code, said in " ".join(err.split())) == (0, True)
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert "| damaged lines of its ledger | 1; " in packed.read("README.md").decode()
    make(tmp_path / "two")
    assert "damaged" not in fsar("store", "merge", tmp_path / "two", tmp_path / "sound")[2]


def test_one_damaged_store_does_not_hide_the_others(tmp_path: Path, fsar: Fsar) -> None:
    folder = tmp_path / "stores" / "set"
    names = ("a", "b", "c")
    for name in names:
        make(folder / name)
    for name in ("a", "b"):
        (folder / name / "store.json").write_text("[" * 100_000)
    left = folder / "c" / ".rows.json.7.partial"
    left.touch()
    for words in (("ls",), ("info", folder), ("verify", folder), ("gc",), ("gc", "--yes")):
        code, out, err = fsar("store", *words)
        assert code == 4, words
        assert all(str(folder / name / "store.json") in "".join(err.split()) for name in ("a", "b"))
        assert str(folder / "c") in out + err
    assert not left.exists()
    assert "c: 3 blocks are sound" in fsar("store", "verify", folder)[2]
    assert [row["path"] for row in json.loads(fsar("store", "ls", "--json")[1])] == [str(folder / "c")]


def test_a_store_without_its_blocks_is_told(tmp_path: Path, fsar: Fsar) -> None:
    store = make(tmp_path / "one")
    shutil.rmtree(store.path / "features")
    code, out, err = fsar("store", "verify", store.path)
    assert (code, out.count("missing: ")) == (4, 3)
    assert "3 of 3 blocks" in " ".join(err.split())


def test_gc_says_what_it_removed_before_an_error(tmp_path: Path, fsar: Fsar) -> None:
    parts = [make(tmp_path / f"net.part-{i + 1}-of-2", [i, i + 2][: 2 - i]).path for i in range(2)]
    assert fsar("store", "merge", *parts, tmp_path / "net")[0] == 0
    file = tmp_path / "net" / "features" / "c.0.0.0"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + b"?")
    code, out, err = fsar("store", "gc", tmp_path, "--yes")
    assert code == 4
    assert [line.split("  ")[0] for line in out.splitlines()] == [str(parts[1])]
    assert "block 0 of " in err
    assert [part.exists() for part in parts] == [True, False]


def test_a_copy_in_memory_is_refused(tmp_path: Path, fsar: Fsar) -> None:
    store = make(tmp_path / "one")
    code, out, err = fsar("store", "convert", store.path, tmp_path / "copy", "--backend", "memory")
    assert (code, out) == (2, "")
    assert "the memory backend keeps nothing on disk" in err


def test_linked_folders_are_looked_into_once(tmp_path: Path, fsar: Fsar) -> None:
    store = make(tmp_path / "disk" / "set" / "net")
    (tmp_path / "stores" / "own").mkdir(parents=True)
    (tmp_path / "stores" / "linked").symlink_to(tmp_path / "disk" / "set")
    (tmp_path / "stores" / "again").symlink_to(tmp_path / "disk" / "set")
    (store.path.parent / "loop").symlink_to(tmp_path / "stores")
    (tmp_path / "stores" / "own" / "loop").symlink_to(tmp_path / "stores")
    found = json.loads(fsar("store", "ls", "--json")[1])
    assert [row["path"] for row in found] == [str(tmp_path / "stores" / "again" / "net")]
    own = make(tmp_path / "stores" / "set" / "net")
    (tmp_path / "stores" / "alias").symlink_to(tmp_path / "stores" / "set")
    found = json.loads(fsar("store", "ls", "--json")[1])
    assert [row["path"] for row in found] == [str(tmp_path / "stores" / "again" / "net"), str(own.path)]


def test_stores_go_out_and_in(tmp_path: Path, fsar: Fsar) -> None:
    folder = tmp_path / "stores" / "set"
    store, _ = make(folder / "net-pooled"), make(folder / "net-map", cut="map")
    file = tmp_path / "set.zip"
    code, out, err = fsar("store", "export", folder, file)
    assert (code, out) == (0, f"{file}\n")
    assert "2 stores, " in err
    assert fsar("store", "export", folder, file)[0] == 2
    assert json.loads(fsar("store", "export", store.path, tmp_path / "one.zip", "--json")[1])["stores"] == [
        str(store.path)
    ]
    expected = stores.contents(store.path)
    shutil.rmtree(store.path)
    code, out, err = fsar("store", "import", file)
    assert (code, out.splitlines()) == (0, [str(folder / name) for name in ("net-map", "net-pooled")])
    assert f"{folder / 'net-map'}: there already, nothing to do" in err
    assert f"{store.path}: imported" in err
    assert stores.contents(store.path) == expected
    told = json.loads(fsar("store", "import", tmp_path / "one.zip", tmp_path / "other", "--json")[1])
    assert told == [{"path": str(tmp_path / "other" / "set" / "net-pooled"), "new": True}]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code, out, err = fsar("store", "import", file, tmp_path / "third")
    assert (code, out) == (4, "")
    assert "hint: " in err


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A folder dataset of 60 clips whose videos were never copied here: the files are empty."""
    for i in range(60):
        file = tmp_path / "clips" / f"class {i % 3}" / f"clip-{i:02d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return f"folder:{tmp_path / 'clips'}#mine"


def test_features_of_others_become_a_store(tmp_path: Path, fsar: Fsar, dataset: str) -> None:
    given = tmp_path / "given"
    data: dict[str, np.ndarray] = {f"class {i % 3}/clip-{i:02d}": np.full((8, 16), i, np.float32) for i in range(59)}
    for name, array in (data | {"other/clip": np.zeros(3)}).items():
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(given / f"{name}.npy", array)
    words = ("store", "import-features", given, "--dataset", dataset, "--name", "i3d", "--about", "RGB, 2017")
    code, out, err = fsar(*words)
    assert code == 0
    store = open_store(Path(out.strip()))
    assert store.path.parent == tmp_path / "stores" / "mine"
    assert store.path.name.startswith("i3d-imported-")
    assert store.spec.backbone["about"] == "RGB, 2017"
    assert "59 of 60 clips of mine have features" in err
    assert "no features of 1 clips, they count as failed: class 2/clip-59" in err
    assert "1 names are no clips of mine, and were left out: other/clip" in err
    np.testing.assert_array_equal(store.read(store.rows_of(list(data))), np.stack(list(data.values())))
    assert {row.partition for row in store.rows} == {"all"}
    told = json.loads(fsar(*words, "--json")[1])
    assert told == {
        "path": str(store.path),
        "ok": 59,
        "failed": ["class 2/clip-59"],
        "strange": ["other/clip"],
        "waiting": [],
    }
    for wrong, code, says in (
        (("--max-failures", "0"), 5, "no features of 1 of 60"),
        (("--set", "size=8"), 2, "--kind flow"),
        (("--kind", "fow"), 2, "flow"),
        (("--name", "a/b"), 2, "a/b"),
        (("--backend", "zar"), 2, "'zarr'"),
        (("--backend", "memory"), 2, "keeps nothing on disk"),
        (("--backend", "memory", "--kind", "flow"), 2, "keeps nothing on disk"),
    ):
        got, out, err = fsar(*words, *wrong)
        assert (got, out) == (code, "")
        assert says in err
    assert fsar("store", "verify", store.path)[:2] == (0, "")


def test_arrays_that_are_not_taken_are_said(tmp_path: Path, fsar: Fsar, dataset: str) -> None:
    def given(folder: str, numbers: range) -> Path:
        for i in numbers:
            file = tmp_path / folder / f"class {i % 3}" / f"clip-{i:02d}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, np.full(4, i, np.float32))
        return tmp_path / folder

    words = ("--dataset", dataset, "--name", "i3d", "--max-failures", "0.99")
    assert fsar("store", "import-features", given("old", range(50)), *words)[0] == 0
    code, _, err = fsar("store", "import-features", given("new", range(50, 60)), *words)
    assert code == 0
    assert "10 of them have arrays, which were not taken" in err
    assert "old and new" in err
    code, _, err = fsar("store", "import-features", given("new", range(50)), *words)
    assert (code, "60 of 60 clips" in err, "not taken" in err) == (0, True, False)


def test_flow_of_others_becomes_a_store(tmp_path: Path, fsar: Fsar, dataset: str) -> None:
    from extract.flow_files import write_flo

    given = tmp_path / "given"
    for i in range(60):
        folder = given / f"class {i % 3}" / f"clip-{i:02d}"
        folder.mkdir(parents=True)
        for number in range(3):
            write_flo(folder / f"{number}.flo", np.full((2, 20, 30), i / 64 + number, np.float32))
    words = ("store", "import-features", given, "--dataset", dataset, "--name", "tvl1", "--kind", "flow")
    code, out, _ = fsar(*words, "--set", "format=flo", "--set", "frames=3", "--set", "size=16")
    assert code == 0
    store = open_store(Path(out.strip()))
    assert (store.spec.kind, store.spec.shape, store.spec.dtype) == ("flow", (3, 2, 16, 16), "int16")
    assert store.ok.all()
    code, out, err = fsar(*words, "--set", "format=png")
    assert (code, out) == (2, "")
    assert "format" in err
