"""ST-Adapter: arithmetic against plain loops, where it goes, what it is at first, published names; golden cases and their teeth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.golden import Case, load, mismatch
from parity import answers, ratios
from parity_clip import adapted as adapted_as_told
from torch import Tensor, nn

from extract import clip_vit
from extract.backbone import Backbone
from extract.clip_weights import published_names as tower_names
from extract.scaling import SCALINGS
from extract.weights import drawn
from fsar_cache.errors import UsageError
from heads.st_adapter import STAdapter, adapters, published_names

GOLDEN = Path(__file__).resolve().parent / "golden" / "st_adapter"
SLOTS = [f"block{i}.{place}" for i in range(12) for place in ("pre_attn", "pre_mlp")]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tower(side: int = 32) -> Backbone:
    net = drawn(lambda: clip_vit.blank_vit(side), 3)
    return clip_vit.vit_backbone(net, SCALINGS["clip"]).eval()


@pytest.fixture(scope="module")
def adapted() -> Backbone:
    """A tower of 5 tokens with the 24 adapters as they are at first."""
    backbone = tower()
    backbone.insert(adapters("24x384", backbone.slots))
    return backbone


def stirred(adapter: STAdapter, seed: int = 0) -> STAdapter:
    """The adapter with every tensor drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return adapter


def tokens(b: int, t: int, n: int, c: int, seed: int = 0) -> Tensor:
    return torch.randn(b, t, n, c, generator=torch.Generator().manual_seed(seed))


def by_loops(adapter: STAdapter, x: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """The card's three steps, patch by patch in float64."""
    state = {name: tensor.double() for name, tensor in adapter.state_dict().items()}
    x = x.double()
    b, t, n, _ = x.shape
    side = int((n - 1) ** 0.5)
    low = (x[:, :, 1:] @ state["fc1.weight"].T + state["fc1.bias"]).reshape(b, t, side, side, -1)
    mixed = torch.zeros_like(low) + state["conv.bias"]
    reach = [range(-(k // 2), k // 2 + 1) for k in kernel]
    for i, j, k in torch.cartesian_prod(*(torch.arange(s) for s in (t, side, side))).tolist():
        for di in reach[0]:
            for dj in reach[1]:
                for dk in reach[2]:
                    if 0 <= i + di < t and 0 <= j + dj < side and 0 <= k + dk < side:
                        at = state["conv.weight"][:, 0, di - reach[0][0], dj - reach[1][0], dk - reach[2][0]]
                        mixed[:, i, j, k] += at * low[:, i + di, j + dj, k + dk]
    up = mixed.reshape(b, t, n - 1, -1) @ state["fc2.weight"].T + state["fc2.bias"]
    return torch.cat([x[:, :, :1], x[:, :, 1:] + up], 2)


@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 1, 1), (3, 3, 3), (1, 1, 3)])
def test_agrees_with_plain_loops(kernel: tuple[int, int, int]) -> None:
    adapter = stirred(STAdapter(6, 4, kernel))
    x = tokens(2, 4, 10, 6)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(adapter(x).double(), by_loops(adapter, x, kernel), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before), "the input stays as it was"


@pytest.mark.parametrize(
    ("act", "other"), [("gelu", nn.GELU()), ("quick_gelu", lambda x: x / (1 + (-1.702 * x).exp()))]
)
def test_an_activation_stands_after_the_convolution(act: str, other: Callable[[Tensor], Tensor]) -> None:
    adapter = stirred(STAdapter(6, 4, act=act))  # type: ignore[arg-type]
    plain = STAdapter(6, 4)
    plain.load_state_dict(adapter.state_dict())
    x = tokens(1, 3, 5, 6)
    inner: list[Tensor] = []
    plain.conv.register_forward_hook(lambda module, given, made: inner.append(made))
    with torch.no_grad():
        plain(x)
        up = plain.fc2(other(inner[0]).flatten(3).movedim(1, 3))
        torch.testing.assert_close(adapter(x)[:, :, 1:], x[:, :, 1:] + up)


def test_a_single_patch_can_be_trained() -> None:
    x = tokens(1, 3, 2, 6).requires_grad_()
    stirred(STAdapter(6, 4))(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_at_first_it_is_the_identity_and_only_three_tensors_learn() -> None:
    adapter = STAdapter(8, 4)
    x = tokens(2, 3, 5, 8)
    y = adapter(x)
    assert torch.equal(y, x)
    (y * tokens(2, 3, 5, 8, seed=1)).sum().backward()
    learns = {name for name, p in adapter.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learns == {"conv.weight", "conv.bias", "fc2.bias"}


def test_presets_have_the_published_sizes_and_places() -> None:
    every, late = adapters("24x384", SLOTS), adapters("12x384", SLOTS)
    assert list(every) == SLOTS
    assert list(late) == SLOTS[1::2]
    assert [sum(p.numel() for m in made.values() for p in m.parameters()) for made in (every, late)] == [
        14_220_288,
        7_110_144,
    ]
    assert list(adapters("24x384", SLOTS, channels=8, layers=2)) == SLOTS[-4:]


def test_what_cannot_be_built_is_refused() -> None:
    for arguments, text in (
        (("24x348", SLOTS), "24x384"),
        (("24x384", SLOTS[1::2]), "no slot block0.pre_attn"),
        (("24x384", ["block0.beside_mlp"]), "no slot block0.pre_attn"),
        (("12x384", []), "0 of the backbone's blocks"),
    ):
        with pytest.raises(UsageError, match=text):
            adapters(*arguments)  # type: ignore[arg-type]
    for layers in (0, 13):
        with pytest.raises(UsageError, match=f"not {layers}"):
            adapters("12x384", SLOTS, layers=layers)
    with pytest.raises(UsageError, match="odd"):
        STAdapter(4, 4, (2, 1, 1))
    with pytest.raises(UsageError, match="quick_gelu"):
        STAdapter(4, 4, act="quickgelu")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="square of patches, not 5"):
        STAdapter(6, 4)(tokens(1, 2, 6, 6))


def test_new_adapters_leave_the_tower_as_it_is_to_the_bit(adapted: Backbone) -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(adapted(pixels), tower()(pixels))


def test_frames_meet_in_the_adapters_and_the_last_one_is_dead() -> None:
    backbone = tower()
    made = adapters("12x384", backbone.slots, layers=2)
    for number, adapter in enumerate(made.values()):
        assert isinstance(adapter, STAdapter)
        stirred(adapter, number)
    pixels = torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    other = pixels.clone()
    other[:, 1] = 255 - other[:, 1]

    def moved() -> list[bool]:
        with torch.no_grad():
            return (backbone(pixels) - backbone(other)).abs().amax(2)[0].gt(0).tolist()

    assert moved() == [False, True, False, False]
    backbone.insert(made)
    assert moved() == [True, True, True, False], "block 10's adapter reaches one frame to each side"
    backbone(pixels).sum().backward()
    alive = {
        slot: max(p.grad.abs().max().item() for p in m.parameters() if p.grad is not None) for slot, m in made.items()
    }
    assert alive["block10.pre_mlp"] > 0
    assert alive["block11.pre_mlp"] == 0, "nothing reads the patches after the last attention"


def test_names_are_the_published_ones(adapted: Backbone, shared_folder: Path) -> None:
    """Those of the case's weights, both as the head lists them and as the tower with its adapters does."""
    case = json.loads((shared_folder / "golden/st_adapter/vit_b16_24x384_eval_32px/case.json").read_text())
    wanted = {name: tuple(spec["shape"]) for name, spec in case["weights"].items() if not name.startswith("fc.")}
    names = tower_names(adapted)
    shapes = {key: tuple(adapted.state_dict()[name].shape) for name, key in names.items()}
    assert shapes == wanted | {"proj": (768, 512)}
    keys = published_names(adapters("24x384", adapted.slots, channels=8))
    assert set(keys.values()) == {name for name in wanted if "adapter" in name}
    assert keys["block3.pre_mlp.fc1.weight"] == "transformer.resblocks.3.adapter_pre_mlp.fc1.weight"


def with_class_token(self: STAdapter, x: Tensor) -> Tensor:
    made = x + self.fc2(self.conv(self.fc1(x).movedim(3, 1)[..., None]).squeeze(4).movedim(1, 3))
    assert isinstance(made, Tensor)
    return made


def backwards_in_time(self: STAdapter, x: Tensor) -> Tensor:
    inner = self.fc1(x[:, :, 1:]).movedim(3, 1)[..., None]
    up = self.fc2(self.conv(inner.flip(2)).flip(2).squeeze(4).movedim(1, 3))
    return torch.cat([x[:, :, :1], x[:, :, 1:] + up], 2)


@pytest.mark.parametrize("mistake", [with_class_token, backwards_in_time], ids=lambda m: m.__name__)
@pytest.mark.parametrize("name", ["adapter_alone_train", "block_both_eval"])
def test_cases_notice_mistakes(mistake: Callable[..., Tensor], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load(GOLDEN / name)
    monkeypatch.setattr(STAdapter, "forward", mistake)
    assert max(mismatch(case, answers(case)).values()) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "vit_b16_24x384_eval_32px",
        "vit_b16_24x384_train_32px",
        "vit_b16_12x384_at_init_train_32px",
        "vit_b16_24x384_eval_224px",
    ],
)
def test_whole_towers_agree_with_their_cases(name: str, shared_folder: Path) -> None:
    table = ratios(shared_folder / "golden" / "st_adapter" / name)
    assert {output: ratio for output, ratio in table.items() if not ratio <= 1} == {}


def test_a_case_may_have_adapters_of_other_sizes_and_in_one_place() -> None:
    """Width, kernel, places and blocks come from the case, not from the published presets."""
    config = {"resolution": 32, "width": 768, "pre_attn": True, "pre_mlp": False}
    config |= {"adapter_layers": 2, "adapter_width": 8, "adapter_kernel": [3, 3, 3]}
    plain = tower()
    weights = {key: plain.get_parameter(name).detach().numpy() for name, key in tower_names(plain).items()}
    shapes = {"fc1.weight": (8, 768), "fc1.bias": (8,), "conv.weight": (8, 1, 3, 3, 3), "conv.bias": (8,)}
    shapes |= {"fc2.weight": (768, 8), "fc2.bias": (768,)}
    for block in (10, 11):
        at = f"transformer.resblocks.{block}.adapter_pre_attn."
        weights |= {at + name: np.full(shape, block, np.float32) for name, shape in shapes.items()}
    case = Case(GOLDEN, "st_adapter", "", config, "eval", weights, {}, {}, rtol=1e-4, atol=1e-5)
    found = {name: p for name, p in adapted_as_told(case).named_parameters() if ".adapters." in name}
    assert sorted(tuple(p.shape) for p in found.values()) == sorted([*shapes.values()] * 2)
    assert {float(p.detach().mean()) for p in found.values()} == {10.0, 11.0}
