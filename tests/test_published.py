"""Published checkpoints: read without running their code, loaded strictly under both prefixes, written back unchanged."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from golden.golden import load
from head_episodes import make
from published_files import CASES, D, resnet18
from safetensors.torch import save_file
from torch import Tensor

from fsar_cache.errors import IntegrityError, MissingError
from heads.clip_mdmf import ClipMdmf
from heads.gslta import Gslta
from heads.published import load_published, read_checkpoint, to_published
from heads.trx import Trx

GOLDEN = Path(__file__).resolve().parent / "golden"


def gslta() -> Gslta:
    head = make("gslta")
    assert isinstance(head, Gslta)
    return head


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A small head's state as a published file has it, backbone and unused tensors included."""
    generator = torch.Generator().manual_seed(4)
    head = gslta()
    own = head.state_dict()
    tensors = {
        key: torch.randn(own[name].shape, generator=generator) for name, key in head.published_layout().names.items()
    }
    tensors |= {f"backbone.resnet.{k}": torch.randn(3, 2) for k in ("conv1.weight", "layer1.0.bn1.bias")}
    tensors |= {k: torch.randn(2) for k in ("scale", "backbone.resnet.fc.weight", "mappingNet.0.bias")}
    return tensors


def wrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.replace("backbone.resnet.", "backbone.module.resnet."): v for k, v in tensors.items()}


@pytest.mark.parametrize("several_devices", [False, True])
def test_load_and_write_back(published: dict[str, Tensor], several_devices: bool) -> None:
    tensors = wrapped(published) if several_devices else published
    head = gslta()
    rest = load_published(head, tensors)
    assert torch.equal(head.student.layers[0].narrow.weight, tensors["student_encoder.layers.0.1.net.3.weight"])
    assert torch.equal(head.teacher.layers[0].norm.bias, tensors["inner_teacher.layers.0.0.norm.bias"])
    assert torch.equal(head.class_layer.weight, tensors["classification_layer.1.weight"])
    assert set(rest.backbone) == {"conv1.weight", "layer1.0.bn1.bias"}
    assert {key.rsplit("resnet.", 1)[-1] for key in rest.unused} == {"scale", "fc.weight", "mappingNet.0.bias"}
    again = to_published(head, rest)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_unused_tensors_and_the_backbone_may_be_absent(published: dict[str, Tensor]) -> None:
    head = gslta()
    keys = set(head.published_layout().names.values())
    rest = load_published(head, {key: value for key, value in published.items() if key in keys})
    assert not rest.backbone
    assert not rest.unused


def test_every_tensor_of_the_head_has_a_published_key() -> None:
    head = gslta()
    layout = head.published_layout()
    assert layout.names.keys() == head.state_dict().keys()
    assert len(set(layout.names.values())) == len(layout.names)


def test_the_golden_key_list_is_the_layout() -> None:
    case = load(GOLDEN / "gslta" / "e2e_resnet18_64px")
    head = Gslta(Gslta.Config())
    rest = load_published(head, {key: torch.from_numpy(value) for key, value in case.weights.items()})
    assert len(rest.backbone) == 120  # 20 convolutions and 20 batch norms of 5 tensors
    assert "fc.weight" not in rest.backbone
    assert len(head.state_dict()) + len(rest.backbone) + len(rest.unused) == len(case.weights)


def test_what_does_not_fit_is_named_and_nothing_is_copied(published: dict[str, Tensor]) -> None:
    key = "student_encoder.layers.0.0.fn.to_q.weight"
    bad = {
        f"missing {key}": {k: v for k, v in published.items() if k != key},
        "unknown student_encoder.layers.1.0.norm.weight": {
            **published,
            "student_encoder.layers.1.0.norm.weight": torch.ones(16),
        },
        r"classification_layer.1.weight is \[9, 16\], the head has \[7, 16\]": {
            **published,
            "classification_layer.1.weight": torch.ones(9, 16),
        },
    }
    for message, tensors in bad.items():
        head = gslta()
        before = {name: value.clone() for name, value in head.state_dict().items()}
        with pytest.raises(IntegrityError, match=message):
            load_published(head, tensors, "model.pt")
        assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_reading_a_whole_training_checkpoint(tmp_path: Path, published: dict[str, Tensor]) -> None:
    whole = {
        "iteration": 12000,
        "model_state_dict": OrderedDict(published),
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.001}]},
        "scheduler": {"milestones": Counter([10**6]), "gamma": 1},
    }
    torch.save(whole, tmp_path / "checkpoint12000.pt")
    tensors, other = read_checkpoint(tmp_path / "checkpoint12000.pt")
    assert tensors.keys() == published.keys()
    assert other["iteration"] == 12000
    assert other["scheduler"]["milestones"] == Counter([10**6])
    assert "model_state_dict" not in other


@pytest.mark.parametrize("form", ["bare", "legacy", "safetensors"])
def test_reading_bare_states(tmp_path: Path, published: dict[str, Tensor], form: str) -> None:
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        save_file(published, path, metadata={"note": "final"})
    else:
        torch.save(published, path, _use_new_zipfile_serialization=form == "bare")
    tensors, other = read_checkpoint(path)
    assert all(torch.equal(tensors[key], value) for key, value in published.items())
    assert other == ({"note": "final"} if form == "safetensors" else {})


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, published: dict[str, Tensor], name: str) -> None:
    path = tmp_path / name
    with pytest.raises(MissingError, match=name):
        read_checkpoint(path)
    if name.endswith("safetensors"):
        save_file(published, path)
    else:
        torch.save(published, path)
    whole = path.read_bytes()
    for content in (b"", b"no checkpoint at all\n", whole[: len(whole) // 2], whole[:200]):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=name):
            read_checkpoint(path)


@pytest.mark.parametrize("value", [[1, 2], {"iteration": 3}, torch.ones(2)])
def test_a_file_without_a_table_of_tensors_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(IntegrityError, match="tensors"):
        read_checkpoint(tmp_path / "model.pt")


def test_the_second_of_two_names_counts() -> None:
    """CLIP-MDMF's file has its causal convolutions twice; the published module ends with the later ones."""
    tensors = CASES["clip_mdmf"].tensors()
    key, again = "tcn.network.1.conv2.bias", "tcn.network.1.net.4.bias"
    head = ClipMdmf(ClipMdmf.Config(dim=D))
    rest = load_published(head, tensors | {again: torch.full((D,), 7.0)})
    assert torch.equal(head.state_dict()["tcn.blocks.1.conv2.bias"], torch.full((D,), 7.0))
    back = to_published(head, rest)
    assert back.keys() == tensors.keys()
    assert torch.equal(back[key], back[again])
    for gone in (key, again):
        alone = {name: tensor for name, tensor in tensors.items() if name != gone}
        rest = load_published(head, alone)
        assert torch.equal(head.state_dict()["tcn.blocks.1.conv2.bias"], tensors[key])
        assert to_published(head, rest).keys() == alone.keys(), "what a file did without is not added"
    neither = {name: tensor for name, tensor in tensors.items() if name not in (key, again)}
    with pytest.raises(IntegrityError, match=f"missing {key}"):
        load_published(head, neither)


@pytest.mark.parametrize("name", ["trx", "trx, several devices", "trx, the library"])
def test_numbered_children_are_read_and_written_under_every_prefix(name: str) -> None:
    tensors = CASES[name].tensors()
    head = Trx(Trx.Config(dim=D, trans_linear_out_dim=12))
    rest = load_published(head, tensors)
    assert rest.backbone.keys() == resnet18().keys()
    back = to_published(head, rest)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_a_backbone_alone_is_told_from_a_damaged_checkpoint(published: dict[str, Tensor]) -> None:
    head = gslta()
    alone = {key: tensor for key, tensor in published.items() if key.startswith("backbone.")}
    with pytest.raises(IntegrityError, match="backbone alone") as caught:
        load_published(head, alone)
    assert "--weights file:PATH" in str(caught.value.hint)
