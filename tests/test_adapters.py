"""Adapters that a head brings into the backbone: they alone are trained, the backbone they were built from stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from worlds import make_world

from cache.spec import FeatureSpec
from extract.clip_vit import blank_vit, vit_backbone
from extract.scaling import SCALINGS
from fsar_cache.errors import UsageError
from heads.protonet import ProtoNet
from heads.st_adapter import adapters
from pipeline.model import adapted, build_model


@pytest.fixture(scope="module")
def tower() -> Any:
    """A CLIP ViT for 32 pixels, the last four blocks of it enough for these tests."""
    return vit_backbone(blank_vit(32), SCALINGS["clip"]).eval()


def late(slots: Sequence[str]) -> dict[str, nn.Module]:
    """ST-Adapters before the MLPs of the last two blocks."""
    made = adapters("12x384", slots)
    return {slot: made[slot] for slot in ("block10.pre_mlp", "block11.pre_mlp")}


def test_a_head_s_adapters_are_trained_and_nothing_else(tower: Any) -> None:
    modules = late(tower.slots)
    made = adapted(tower, modules, "block10")
    trained = {id(p) for p in made.parameters() if p.requires_grad}
    assert trained == {id(p) for module in modules.values() for p in module.parameters()}
    tokens = torch.randn(1, 3, 5, 768, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.tail_of("block10")(tokens), tower.tail_of("block10")(tokens))  # the identity at first
    made.tail_of("block10")(tokens).square().sum().backward()
    assert modules["block10.pre_mlp"].conv.weight.grad.abs().sum() > 0  # type: ignore[operator, union-attr]
    assert all(p.grad is None for p in tower.parameters())
    assert any("adapters.pre_mlp.fc1" in name for name in made.tail_of("block10").state_dict())


def test_the_backbone_they_came_from_has_none(tower: Any) -> None:
    adapted(tower, late(tower.slots), "frames")
    assert not any("adapters" in name for name in tower.state_dict())
    adapted(tower, late(tower.slots), "frames")  # so that a second model can be built of it


def test_adapters_before_the_cut_or_nowhere_are_refused(tower: Any) -> None:
    with pytest.raises(UsageError, match="adapter in block10, which lies before the cut 'block11'"):
        adapted(tower, late(tower.slots), "block11")
    with pytest.raises(UsageError, match="block12"):
        adapted(tower, {"block12.pre_mlp": nn.Identity()}, "block10")


def test_a_model_takes_them_from_its_head(tower: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProtoNet, "adapters", lambda self, slots: late(slots), raising=False)
    recipe = make_world(tmp_path).recipe("features.cut=block10", head="protonet")
    spec = FeatureSpec("features", {}, {}, {}, {}, "block10", (8, 5, 768), "float16")
    model, again = (build_model(recipe, tower, spec, 3) for _ in range(2))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all(".adapters.pre_mlp." in name for name in names)
    for (name, one), (_, two) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, two), name  # drawn from the training seed
