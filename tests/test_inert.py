"""Files that name classes and functions: nothing of them is imported, made or called, and the tensors are read all the same."""

from __future__ import annotations

import argparse
import collections
import copyreg
import enum
import functools
import io
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsar_cache.errors import FsarError, IntegrityError
from fsar_cache.inert import read_inert
from fsar_cache.inert_calls import Inert
from fsar_cache.tensor_files import TensorFile, read_tensor_file

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.steps": torch.tensor(7)}


class Meter:
    """As training scripts keep: its tensors must not count as weights."""

    def __init__(self) -> None:
        self.values = [torch.ones(2), 0.5]


class Config(dict[str, Any]):
    """A dict whose items are attributes, as yacs and others have it."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Scale(enum.Enum):
    DYNAMIC = 1


class LossScaler:
    def __init__(self) -> None:
        self.cur_scale, self.mode = 2.0**16, Scale.DYNAMIC

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("it was made")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., type]]:
    """Gives a class the name of a module that is not installed once the file is written."""
    made: list[str] = []

    def name(kind: type, module: str) -> type:
        monkeypatch.setattr(kind, "__module__", module)
        parts = module.split(".")
        for i in range(len(parts)):
            whole = ".".join(parts[: i + 1])
            sys.modules.setdefault(whole, types.ModuleType(whole))
            made.append(whole)
        setattr(sys.modules[module], kind.__name__, kind)
        return kind

    yield name
    for module in made:
        sys.modules.pop(module, None)


def written(path: Path, whole: Any, form: str = "zip") -> Path:
    torch.save(whole, path, _use_new_zipfile_serialization=form == "zip")
    return path


def has_state(found: TensorFile) -> bool:
    return found.tensors.keys() == STATE.keys() and all(torch.equal(found.tensors[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_training_scripts_leave_beside_weights_is_named_and_not_loaded(
    tmp_path: Path, form: str, foreign: Callable[..., type]
) -> None:
    scaler = foreign(LossScaler, "deepspeed.runtime.fp16.loss_scaler")
    config = foreign(Config, "yacs.config")
    whole = {
        "module": STATE,
        "epoch": 12,
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu")),
        "cfg": config(MODEL=config(DEPTH=1)),
        "scaler": scaler(),
        "mode": foreign(Scale, "apex.amp").DYNAMIC,  # type: ignore[attr-defined]
        "best": np.float64(0.7),
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "order": collections.OrderedDict(a=1),
        "counts": collections.Counter("aab"),
        "schedule": functools.partial(max, 3),
        "meter": Meter(),
        "queue": collections.deque([1, 2], 5),
        "seen": {1, 2},
        "dtype": torch.float16,
    }
    path = written(tmp_path / "c.pt", whole, form)
    for module in ("deepspeed.runtime.fp16.loss_scaler", "yacs.config", "apex.amp"):
        del sys.modules[module]
    found = read_tensor_file(path)
    assert has_state(found)
    assert found.wrapper == "module"
    assert found.skipped == ()
    assert set(found.stubs) >= {
        "argparse.Namespace",
        "yacs.config.Config",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "apex.amp.Scale",
        "functools.partial",
        "test_inert.Meter",
        "collections.deque",
        "torch.float16",
    }
    assert any("scalar" in name for name in found.stubs)
    assert found.other["epoch"] == 12
    assert found.other["history"] == {"loss": [1.0]}
    assert found.other["counts"] == {"a": 2, "b": 1}
    assert not any(isinstance(value, Inert) for value in found.other.values())
    assert "deepspeed.runtime.fp16.loss_scaler" not in sys.modules, "nothing is imported"


def test_a_table_of_an_unknown_class_is_a_table(tmp_path: Path, foreign: Callable[..., type]) -> None:
    kind = foreign(Config, "somewhere.tables")
    found = read_tensor_file(written(tmp_path / "c.pt", kind(state_dict=kind(STATE))))
    assert has_state(found)
    assert found.stubs == ("somewhere.tables.Config",)


def test_an_object_among_the_tensors_is_left_out_and_named(tmp_path: Path) -> None:
    whole = {"model": {**STATE, "scaler": LossScaler(), "steps": 3}}
    found = read_tensor_file(written(tmp_path / "c.pt", whole))
    assert has_state(found)
    assert found.skipped == ("scaler (test_inert.LossScaler)", "steps")
    bare = read_tensor_file(written(tmp_path / "bare.pt", whole["model"]))
    assert has_state(bare)
    assert bare.skipped == ("scaler (test_inert.LossScaler)",)
    assert bare.other == {"steps": 3}


def test_a_whole_module_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        read_tensor_file(written(tmp_path / "c.pt", nn.Linear(2, 3)))
    assert "state_dict" in str(caught.value.hint)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_of_every_kind_are_those_that_torch_reads(tmp_path: Path, form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    net = nn.BatchNorm1d(3)
    whole = {
        "view": base[1:3, ::2],
        "turned": base.t(),
        "shared": base,
        "parameter": nn.Parameter(torch.randn(3, generator=generator)),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "nothing": torch.empty(0, 3),
        "repeated": torch.ones(1).expand(5),
        **{str(t): torch.ones(3).to(t) for t in (torch.float16, torch.bfloat16, torch.int16, torch.uint8, torch.bool)},
        **net.state_dict(),
    }
    path = written(tmp_path / "w.pt", whole, form)
    wanted = torch.load(path, weights_only=True)
    found = read_tensor_file(path)
    assert found.tensors.keys() == wanted.keys()
    assert not found.stubs
    for name, tensor in wanted.items():
        assert torch.equal(found.tensors[name], tensor), name
        assert found.tensors[name].dtype == tensor.dtype
        assert not found.tensors[name].requires_grad


def test_a_module_state_with_its_versions_is_plain(tmp_path: Path) -> None:
    found = read_tensor_file(written(tmp_path / "w.pt", nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()))
    assert not found.stubs
    assert not found.skipped
    assert len(found.tensors) == 7


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None, items: Any = None) -> None:
        self.whole = (function, arguments, state, None, items)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.whole


def traps(mark: Path) -> dict[str, Any]:
    """What runs code on a careless reader: makes the folder `mark`."""
    text = f"__import__('os').mkdir({str(mark)!r})"
    return {
        "os": Calls(os.mkdir, str(mark)),
        "system": Calls(os.system, f"mkdir {mark}"),
        "eval": Calls(eval, text),
        "exec": Calls(exec, text),
        "nested": [{"deep": (Calls(eval, text),)}],
        "in arguments": Calls(str, Calls(eval, text)),
        "partial": Calls(functools.partial(os.mkdir), str(mark)),
        "state": Calls(Setter, state={"path": str(mark)}),
        "items": Calls(Setter, items=iter([("path", str(mark))])),
    }


class Setter(dict[str, Any]):
    """Its state and its items run code."""

    def __setstate__(self, state: Any) -> None:
        os.mkdir(state["path"])

    def __setitem__(self, key: str, value: Any) -> None:
        os.mkdir(value)


TRAPS = tuple(traps(Path("x")))


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_code_never_runs_and_the_tensors_are_read(tmp_path: Path, name: str, form: str) -> None:
    mark = tmp_path / "ran"
    path = written(tmp_path / "c.pt", {"model_state_dict": STATE, "extra": traps(mark)[name]}, form)
    found = read_tensor_file(path)
    assert has_state(found)
    assert found.stubs
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap would have worked"


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_code_in_the_place_of_a_tensor_or_of_the_table_never_runs(tmp_path: Path, name: str, form: str) -> None:
    mark = tmp_path / "ran"
    trap = traps(mark)[name]
    found = read_tensor_file(written(tmp_path / "in.pt", {"state_dict": {**STATE, "trap": trap}}, form))
    assert has_state(found)
    assert found.skipped[0].startswith("trap")
    for whole in (trap, {"model_state_dict": trap}):
        with pytest.raises(IntegrityError):
            read_tensor_file(written(tmp_path / "only.pt", whole, form))
    assert not mark.exists()


def zipped(path: Path, described: bytes) -> Path:
    """A torch file with one storage of 8 bytes, described so."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("w/data.pkl", described)
        made.writestr("w/data/0", bytes(8))
    return path


def test_numbers_of_registered_classes_are_only_numbers(tmp_path: Path) -> None:
    """An extension code that this process knows, in the cache that pickle asks before anything else."""
    mark = tmp_path / "ran"
    copyreg.add_extension("os", "mkdir", 0x70)
    try:
        described = b"\x80\x02}(V" + b"extra\n" + b"\x82\x70" + b"V" + str(mark).encode() + b"\n\x85Ru."
        assert pickle.loads(described) == {"extra": None}
        assert mark.exists(), "the trap would have worked"
        mark.rmdir()
        with pytest.raises(IntegrityError, match="no tensors"):
            read_tensor_file(zipped(tmp_path / "c.pt", described))
    finally:
        copyreg.remove_extension("os", "mkdir", 0x70)
        copyreg.clear_extension_cache()
    assert not mark.exists()


@pytest.mark.parametrize(
    "described",
    [
        b"Pname\n.",  # a persistent id that is text
        b"(X\x06\x00\x00\x00modulecos\nsystem\nX\x01\x00\x00\x00aX\x01\x00\x00\x00btQ.",  # source code to compare, in the oldest files
        b"(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ.",  # of a class that is no storage
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x03tQ.",  # longer than it is
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\xfftQ.",
    ],
)
def test_what_is_no_storage_is_refused(tmp_path: Path, described: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"c\.pt"):
        read_tensor_file(zipped(tmp_path / "c.pt", b"\x80\x02" + described))


@pytest.mark.parametrize(
    "described",
    [
        b".",
        b"0.",
        b"t.",
        b"2.",
        b"R.",
        b"K\x01K\x02R.",
        b"K\x01}b.",
        b"K\x01K\x02a.",
        b"K\x01K\x02K\x03s.",
        b"h\x05.",
        b"\x97.",
        b"(",
        b"",
    ],
)
def test_a_broken_program_is_an_error(described: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError, LookupError)):
        read_inert(io.BytesIO(b"\x80\x02" + described), lambda _: None)


def test_keys_that_take_for_ever_are_dropped(tmp_path: Path) -> None:
    """A tuple of the same tuple twice, sixty levels deep: hashing it would never end."""
    doubled = b"K\x01" + b"2\x86" * 60
    assert read_inert(io.BytesIO(b"\x80\x02}" + doubled + b"K\x01s."), lambda _: None)[0] == {}


def test_every_way_to_name_and_make_things_is_inert() -> None:
    """Protocol 0's INST and OBJ, protocol 4's names from the stack, and calls with keywords."""
    programs = {
        b"(Vx\nios\nsystem\n.": "os.system",
        b"(cos\nsystem\nVx\no.": "os.system",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.": "os.system",
        b"cbuiltins\neval\n(V1\nt\x81.": "builtins.eval",
        b"cbuiltins\neval\n)}\x92.": "builtins.eval",
        b"c__main__\n<lambda>\n.": "__main__.<lambda>",
    }
    for program, name in programs.items():
        made, strange = read_inert(io.BytesIO(program), lambda _: None)
        assert isinstance(made, Inert)
        assert (made.name, strange) == (name, {name})


def test_sizes_beyond_the_storage_fill_no_memory(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="repeat the values"):
        read_tensor_file(zipped(tmp_path / "c.pt", b"\x80\x02}Vw\n" + tensor(b"J\xff\xff\xff\x7f") + b"s."))


def tensor(size: bytes) -> bytes:
    """A program that makes a tensor which repeats the first value of the storage `size` times."""
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x02tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + b"\x85K\x00\x85\x89NtR"


LONG = b"\x8b" + (2000).to_bytes(4, "little") + b"\x01" * 2000
GREEDY = {
    "a long number as a size": (b"}Vw\n" + tensor(LONG) + b"s.", "bits"),
    "a long number as a key": (b"}" + LONG + tensor(b"K\x01") + b"s.", "bits"),
    "a table copied without end": (
        b"}("
        + b"".join(b"V%d\nN" % i for i in range(3000))
        + b"uq\x010("
        + b"ccollections\nOrderedDict\nh\x01\x85R" * 2000
        + b"t.",
        "steps",
    ),
    "a size made of a tensor": (b"ctorch\nSize\n" + tensor(b"K\x01") + b"\x85R.", "no list"),
    "more axes than any tensor has": (
        b"}Vw\n"
        + tensor(b"K\x01").replace(b"K\x01\x85K\x00\x85", b"(" + b"K\x01" * 99 + b"t(" + b"K\x01" * 99 + b"t")
        + b"s.",
        "no size",
    ),
    "a name that drives a terminal": (b"}V\x1b[2Jw\n" + tensor(b"K\x01") + b"s.", "no name"),
}


@pytest.mark.parametrize("name", GREEDY)
def test_small_files_that_ask_for_much_are_refused(tmp_path: Path, name: str) -> None:
    described, why = GREEDY[name]
    with pytest.raises(IntegrityError, match=why):
        read_tensor_file(zipped(tmp_path / "c.pt", b"\x80\x02" + described))


def test_archives_that_unpack_to_far_more_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("w/data.pkl", b"\x80\x02}.")
        made.writestr("w/data/0", bytes(2**27))
    with pytest.raises(IntegrityError, match="unpack to"):
        read_tensor_file(tmp_path / "c.pt")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_damage_is_an_error_of_ours_or_nothing(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "c.pt", {"model": STATE, "extra": Meter()}, form)
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError, match=r"c\.pt"):
            read_tensor_file(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            found = read_tensor_file(path)
        except FsarError:
            continue
        assert all(isinstance(tensor, Tensor) for tensor in found.tensors.values())
