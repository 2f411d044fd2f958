"""Files of tensors in every form: read to the bit, wrapped or bare, and nothing of them ever runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fsar_cache.errors import FsarError, IntegrityError, MissingError
from fsar_cache.inert import read_inert
from fsar_cache.tensor_files import WRAPPERS, read_tensor_file


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(3))
        self.conv = nn.Conv2d(2, 3, 1).half()


class Net(nn.Module):
    """Parameters and buffers of several dtypes, views of one storage, an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = Inner()
        self.proj = nn.Parameter(torch.randn(4, 6, generator=generator))
        whole = torch.arange(20, dtype=torch.float64)
        self.register_buffer("tail", whole[8:].reshape(3, 4))
        self.register_buffer("turned", whole.reshape(4, 5).t())
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.blocks = nn.Sequential(nn.Linear(6, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.blocks(x @ self.proj)
        return made


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


@pytest.mark.parametrize("form", ["script", "trace", "zip", "legacy", "safetensors"])
def test_every_form_gives_the_same_tensors(tmp_path: Path, form: str) -> None:
    net = Net()
    path = tmp_path / f"w.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "script":
        torch.jit.script(net).save(str(path))
    elif form == "trace":
        torch.jit.trace(net, torch.zeros(1, 4)).save(str(path))
    elif form == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    found = read_tensor_file(path)
    assert same(dict(found.tensors), net.state_dict())
    assert found.wrapper == ""
    assert not any(tensor.requires_grad for tensor in found.tensors.values())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_opened_and_named(tmp_path: Path, wrapper: str) -> None:
    torch.save({"epoch": 3, "args": Namespace(lr=1.0), wrapper: {"a": torch.ones(2)}}, tmp_path / "c.pth")
    found = read_tensor_file(tmp_path / "c.pth")
    assert same(dict(found.tensors), {"a": torch.ones(2)})
    assert found.wrapper == wrapper
    assert found.other == {"epoch": 3}
    assert found.stubs == ("argparse.Namespace",)


def test_a_wrapper_without_tensors_is_passed_over(tmp_path: Path) -> None:
    torch.save({"state": {0: {"step": 1}}, "model": {"a": torch.ones(2)}, "b": torch.zeros(1)}, tmp_path / "c.pth")
    assert read_tensor_file(tmp_path / "c.pth").wrapper == "model"
    torch.save({"state": {}, "b": torch.zeros(1)}, tmp_path / "bare.pth")
    assert list(read_tensor_file(tmp_path / "bare.pth").tensors) == ["b"]


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"iteration": 3, "model_state_dict": {}}])
def test_without_tensors_it_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(IntegrityError, match="tensors"):
        read_tensor_file(tmp_path / "c.pth")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"none\.pt"):
        read_tensor_file(tmp_path / "none.pt")


def archive(path: Path, described: bytes, storage: bytes = b"") -> None:
    """A file that looks like a TorchScript archive."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("w/data.pkl", described)
        made.writestr("w/constants.pkl", pickle.dumps(()))
        made.writestr("w/data/0", storage)


GLOBAL = {
    "class": b"c__torch__\nNet\n",
    "view": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "parameter": b"ctorch._utils\n_rebuild_parameter\n",
    "tag": b"ctorch.jit._pickle\nrestore_type_tag\n",
}


@pytest.mark.parametrize("what", GLOBAL)
@pytest.mark.parametrize("slots", [False, True])
def test_what_a_file_sets_on_shared_names_does_not_outlive_it(tmp_path: Path, what: str, slots: bool) -> None:
    state = b"(dVproj\nI7\ns"
    put = GLOBAL[what] + (b"N" + state + b"\x86" if slots else state) + b"b0"
    archive(tmp_path / "evil.pt", b"\x80\x02" + put + GLOBAL["class"] + b")\x81.")
    with pytest.raises(IntegrityError):
        read_tensor_file(tmp_path / "evil.pt")
    described = io.BytesIO(b"\x80\x02" + GLOBAL[what] + b".")
    assert not hasattr(read_inert(described, lambda _: None)[0], "proj")


def test_objects_under_exponentially_many_names_are_refused(tmp_path: Path) -> None:
    shared = b"\x80\x02" + GLOBAL["class"] + b"q\x00)\x81q\x01"
    for level in range(1, 60):
        fields = b"".join(b"V" + name + b"\nh" + bytes([level]) + b"s" for name in (b"a", b"b"))
        shared += b"0h\x00)\x81(d" + fields + b"bq" + bytes([level + 1])
    archive(tmp_path / "w.pt", shared + b".")
    with pytest.raises(IntegrityError):
        read_tensor_file(tmp_path / "w.pt")


class Described(pickle.Pickler):
    """Writes what a TorchScript archive would say of one tensor of two float32 numbers."""

    def persistent_id(self, obj: object) -> object:
        return ("storage", torch.FloatStorage, "0", "cpu", 2) if obj is Ellipsis else None


class Rebuilt:
    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(1, (2,), (1,)), (0, (3,), (1,)), (0, (2,), (2,)), (-1, (1,), (1,)), (0, (2,), (-1,)), (2, (1,), (0,))],
)
def test_a_tensor_outside_its_bytes_is_refused(
    tmp_path: Path, offset: int, size: tuple[int], stride: tuple[int]
) -> None:
    stream = io.BytesIO()
    Described(stream, 2).dump(Rebuilt(..., offset, size, stride, False, None))
    archive(tmp_path / "w.pt", stream.getvalue(), bytes(8))
    with pytest.raises(IntegrityError, match="no torch file"):
        read_tensor_file(tmp_path / "w.pt")


@pytest.mark.parametrize("form", ["script", "zip", "safetensors"])
def test_damage_is_an_error_or_nothing(tmp_path: Path, form: str) -> None:
    """Torn and flipped files, at many places: an error of ours, never another; what a TorchScript archive gives is right or refused."""
    net, path = Net(), tmp_path / f"w.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "script":
        torch.jit.script(net).save(str(path))
    elif form == "zip":
        torch.save(net.state_dict(), path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 20)):
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError, match="w"):
            read_tensor_file(path)
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            found = dict(read_tensor_file(path).tensors)
        except FsarError:
            continue
        if form == "script":
            assert same(found, net.state_dict()), place
