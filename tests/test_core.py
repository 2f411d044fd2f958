"""The package everyone may import: errors, settings, draws, canonical text, whole files, the registry."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsar_cache import canonical, draws, errors, files, settings
from fsar_cache.registry import Registry


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    steps: int
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None
    on: bool = False


def test_settings_nest_and_convert() -> None:
    made = settings.build(Outer, {"steps": 3, "inner": {"rate": 1, "names": ["a"]}, "limit": None})
    assert made == Outer(3, inner=Inner(1.0, ("a",)))
    assert isinstance(made.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stepz": 3}, "steps"),
        ({"steps": 3, "inner": {"rat": 1}}, "rate"),
        ({"steps": "3"}, "steps must be int"),
        ({"steps": True}, "steps must be int"),
        ({"steps": 3, "on": 1}, "on must be bool"),
        ({"steps": 3, "mode": "fats"}, "fast"),
        ({"steps": 3, "inner": {"names": "ab"}}, "inner.names"),
        ({"steps": 3, "limit": "x"}, "limit must be"),
        ({}, "'steps' of Outer has no value"),
    ],
)
def test_settings_refuse_what_does_not_fit(values: dict[str, object], says: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        settings.build(Outer, values)
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_assignments_override_a_copy() -> None:
    values = {"train": {"steps": 1}}
    made = settings.override(values, ["train.steps=5", "train.lr=1e-3", "head=gslta", "names=['a', 'b']"])
    assert made == {"train": {"steps": 5, "lr": 1e-3}, "head": "gslta", "names": ["a", "b"]}
    assert values == {"train": {"steps": 1}}


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=3", "train.steps.x=1"])
def test_assignments_that_make_no_sense(text: str) -> None:
    with pytest.raises(errors.UsageError):
        settings.override({"train": {"steps": 1}}, [text])


def test_toml_errors_name_file_and_line(tmp_path: Path) -> None:
    bad = tmp_path / "r.toml"
    bad.write_text("a = 1\nb = = 2\n")
    with pytest.raises(errors.UsageError, match=r"r\.toml.*line 2"):
        settings.read_toml(bad)
    with pytest.raises(errors.MissingError):
        settings.read_toml(tmp_path / "none.toml")


def test_errors_survive_a_process_boundary_and_know_their_codes() -> None:
    for kind in (errors.UsageError, errors.MissingError, errors.IntegrityError, errors.SpaceError):
        back = pickle.loads(pickle.dumps(kind("what", hint="do this")))
        assert (type(back), back.message, back.hint) == (kind, "what", "do this")
        assert kind.exit_code in errors.EXIT_CODES


def test_registry_suggests_and_refuses_doubles() -> None:
    registry: Registry[int] = Registry("thing")
    registry.add("resnet18")(1)
    assert registry.get("resnet18") == 1
    with pytest.raises(errors.UsageError, match="unknown thing 'resnet81'") as caught:
        registry.get("resnet81")
    assert "resnet18" in str(caught.value.hint)
    with pytest.raises(ValueError, match="twice"):
        registry.add("resnet18")(2)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `plug_in` that registers a function, waits a moment, and imports `plug_in_needs`, which isn't there."""
    (tmp_path / "plug_in.py").write_text(
        "import test_core, time\n@test_core.PLUGGED.add('one')\ndef one(): ...\ntime.sleep(0.2)\n"
        "import plug_in_needs\n@test_core.PLUGGED.add('two')\ndef two(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_core", sys.modules[__name__])
    monkeypatch.setitem(globals(), "PLUGGED", Registry("thing", ("plug_in",)))
    yield tmp_path
    for name in ("plug_in", "plug_in_needs"):
        sys.modules.pop(name, None)


PLUGGED: Registry[object] = Registry("thing")


def test_a_failed_import_is_not_taken_for_an_empty_registry(plug_in: Path) -> None:
    looks: list[Callable[[], object]] = [PLUGGED.names, PLUGGED.names, lambda: PLUGGED.get("one")]
    for look in looks:
        with pytest.raises(ModuleNotFoundError, match="plug_in_needs"):
            look()
    (plug_in / "plug_in_needs.py").touch()
    importlib.invalidate_caches()
    assert PLUGGED.names() == ["one", "two"]
    with pytest.raises(ValueError, match="twice"):
        PLUGGED.add("one")(object())


def test_threads_find_a_registry_whole(plug_in: Path) -> None:
    (plug_in / "plug_in_needs.py").touch()
    importlib.invalidate_caches()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: PLUGGED.names(), range(4))) == [["one", "two"]] * 4


def test_differences_are_those_that_the_digest_sees() -> None:
    differ = [(1, 1.0), (True, 1), (0, False), (None, canonical.NOTHING), ([1], [1.0]), ([{"x": 1}], [{"x": True}])]
    for one, other in differ:
        here, there = ({"a": {} if v is canonical.NOTHING else {"f": v}} for v in (one, other))
        assert canonical.digest(here) != canonical.digest(there)
        assert canonical.differences(here, there) == [("a.f", one, other)]
        assert canonical.differences(here, here) == []
    assert canonical.differences({"a": 1}, {}) == [("a", 1, canonical.NOTHING)]
    assert repr(canonical.NOTHING) == "nothing"
    assert canonical.differences([{"x": 1, "y": 2}], [{"y": 2, "x": 1}]) == []


def test_canonical_text_ignores_order_and_refuses_objects() -> None:
    assert canonical.canonical({"b": (1, 2), "a": Inner()}) == '{"a":{"names":[],"rate":0.1},"b":[1,2]}'
    assert canonical.digest({"a": 1, "b": 2}) == canonical.digest({"b": 2, "a": 1})
    with pytest.raises(TypeError):
        canonical.canonical({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        canonical.canonical(float("nan"))
    assert canonical.differences({"a": {"x": 1}, "b": 2}, {"a": {"x": 3}, "b": 2}) == [("a.x", 1, 3)]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 50))
def test_bits_of_a_batch_are_the_bits_of_its_elements(key: int, start: int, count: int) -> None:
    index = np.arange(start, start + count)
    batch = draws.bits(key, index[:, None], np.arange(3))
    assert batch.shape == (count, 3)
    assert batch[-1, 2] == draws.bits(key, index[-1], 2)


def test_bits_look_uniform_and_independent() -> None:
    words = draws.bits(draws.key_of("test", 1), np.arange(20000)[:, None], np.arange(8))
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.002
    assert len(np.unique(words)) == words.size
    counts = np.bincount(draws.integers(words.ravel(), 10), minlength=10)
    assert (np.abs(counts - 16000) < 5 * np.sqrt(16000)).all()
    unit = words.astype(np.float64) / 2**64
    assert np.abs(np.corrcoef(unit.T) - np.eye(8)).max() < 0.03


def test_generators_depend_on_their_key_alone() -> None:
    one, two = draws.generator("a", 1).random(4), draws.generator("a", 1).random(4)
    assert (one == two).all()
    assert (one != draws.generator("a", 2).random(4)).all()


def test_a_whole_file_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"

    def fails() -> None:
        with files.whole_file(target) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert list(target.parent.iterdir()) == []
    with files.whole_file(target) as file:
        file.write(b"all")
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_full_disk_is_said_with_code_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.SpaceError) as caught, files.whole_file(tmp_path / "f") as file:
        file.write(b"x")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_splits_and_cache_load_without_torch() -> None:
    code = "import sys, splits.episodes, splits.datasets, cache.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
