"""TAMT beside its golden cases: slow loops, what is trained, drop path, metrics, joint batch norms, published names, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import load
from head_episodes import WAY, episodes, logits, make, one
from parity_tamt import build
from torch import Tensor, nn
from worlds import make_world

from cache.spec import FeatureSpec
from extract.backbone import Backbone, build_backbone
from extract.videomae import Block
from fsar_cache.errors import IntegrityError, UsageError
from heads import Tamt, TamtConfig
from heads.base import EpisodeBatch, Task
from heads.moments import covariance, newton_schulz_root
from heads.published import load_published, to_published
from heads.taa import Taa
from heads.tamt import GlobalTemporal, temporal_groups
from pipeline.model import build_model

GOLDEN = Path(__file__).resolve().parent / "golden" / "tamt"
SLOTS = [f"block{i}.beside_mlp" for i in range(12)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("videomae_vit_s", "random:0").eval()


pytestmark = pytest.mark.usefixtures("one_thread")  # sizes here are small: threads would only wait for each other


def tamt(**config: Any) -> Tamt:
    head = make("tamt", **config)
    assert isinstance(head, Tamt)
    return head


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor drawn anew, running statistics too."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
            elif tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=rng) + (tensor.ndim == 1))
    return module


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_adapter_equals_loops() -> None:
    taa, x = stirred(Taa(8)).eval().double(), tokens(1, 4, 3, 8).double()
    assert isinstance(taa, Taa)
    n = taa.norm
    g = x[0].mean(1)  # [T, C]
    for t in range(4):
        inner = []
        for k in range(2):
            total = sum(taa.reduce.weight[k, :, u + 1] @ g[t + u] for u in (-1, 0, 1) if 0 <= t + u < 4)
            normed = (total - n.running_mean[k]) / (n.running_var[k] + 1e-5).sqrt() * n.weight[k] + n.bias[k]
            inner.append(max(normed, torch.zeros(())))
        for c in range(8):
            gamma = 1 / (1 + torch.exp(-sum(taa.scale.weight[c, k, 0] * inner[k] for k in range(2))))
            beta = sum(taa.shift.weight[c, k, 0] * inner[k] for k in range(2))
            want = x[0, t, :, c] * gamma + 0.1 * beta
            torch.testing.assert_close(taa(x)[0, t, :, c], want)


@pytest.mark.parametrize("aligned", [False, True])
def test_global_temporal_branch_equals_flat_indices(aligned: bool) -> None:
    """In the card's words: place f // (T C), channel (f // T) mod C, step f mod T of flat index f; or every value where it came from."""
    steps, places, width = 4, 3, 6
    branch, x = stirred(GlobalTemporal(width, aligned=aligned)), tokens(2, steps, places, width)
    assert isinstance(branch, GlobalTemporal)
    got = branch(x).reshape(2, steps * places, width)
    for b, j, c in np.ndindex(2, steps * places, width):
        f = width * j + c
        space, channel, time = f // (steps * width), f // steps % width, f % steps
        if aligned:
            space, channel, time = j % places, c, j // places
        near = [(u, x[b, time + u, space, channel]) for u in (-1, 0, 1) if 0 <= time + u < steps]
        want = sum(branch.conv.weight[channel, 0, u + 1] * value for u, value in near) + branch.conv.bias[channel]
        torch.testing.assert_close(got[b, j, c], want)


def test_groups_take_steps_in_turn() -> None:
    b, channels, steps, groups = 2, 3, 8, 4
    x = tokens(b, channels, steps, 5)
    made = temporal_groups(x, groups)
    assert made.shape == (8, 6, 5)
    for clip, k, c, a in np.ndindex(b, groups, channels, 2):
        assert torch.equal(made[clip * groups + k, c * 2 + a], x[clip, c, 4 * a + k])


def slow_moments(head: Tamt, x: Tensor) -> Tensor:
    """z of one clip [T, N, C], group by group."""
    e, c = head.elstc, head.config
    y = head.second_norm(x + head.temporal(x[None])[0])
    for reduce, norm in ((e.reduce1, e.norm1), (e.reduce2, e.norm2)):
        y = y @ reduce.weight[:, :, 0, 0].T
        y = torch.relu((y - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias)
    roots = []
    for k in range(c.covariance_groups):
        steps = range(k, c.steps, c.covariance_groups)
        rows = [y[t, :, channel] for channel in range(c.reduce_dims[1]) for t in steps]
        roots.append(newton_schulz_root(covariance(torch.stack(rows)), c.newton_schulz_iterations))
    m = torch.stack(roots)[None]
    m = torch.relu(e.norm4(e.reduce4(torch.relu(e.norm3(e.reduce3(m))))))
    return head.first_norm(x.flatten(0, 1).mean(0)) + m.flatten() @ e.project.weight.T + e.project.bias


@pytest.mark.parametrize("places", [1, 9])
def test_encoding_equals_the_slow_one(places: int) -> None:
    head = tamt(steps=8, covariance_groups=4, reduce_dims=(12, 5)).eval()
    stirred(head)
    x = tokens(3, 8, places, 16)
    with torch.no_grad():
        got = head.encode({"features": x}, "support")["moments"]
        torch.testing.assert_close(got, torch.stack([slow_moments(head, clip) for clip in x]), rtol=1e-4, atol=1e-4)


def test_order_of_places_matters_only_to_the_published_layout() -> None:
    x, order = tokens(2, 5, 9, 16), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    for layout, same in (("aligned", True), ("published", False)):
        head = tamt(global_temporal_layout=layout).eval()
        a, b = (head.encode({"features": clip}, "query")["moments"] for clip in (x, x[:, :, order]))
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5) is same
    adapter = stirred(Taa(16)).eval()
    torch.testing.assert_close(adapter(x[:, :, order]), adapter(x)[:, :, order])


def test_shots_choose_the_metric() -> None:
    few, more, uneven = (episodes(1, shots=shots, head=tamt()) for shots in ((1, 1, 1), (2, 2, 2), (1, 1, 2)))
    inner, squared, chosen = (tamt(metric=m) for m in ("inner_product", "neg_sq_l2", "by_shot"))
    assert torch.equal(logits(chosen, few), logits(inner, few))
    for batch in (more, uneven):
        assert torch.equal(logits(chosen, batch), logits(squared, batch))
        z = {role: squared.encode({"features": getattr(batch, role)["features"][0]}, "query") for role in ROLES}
        labels = batch.task.support_labels[0]
        means = torch.stack([z["support"]["moments"][labels == c].mean(0) for c in range(WAY)])
        gap = z["query"]["moments"][:, None] - means
        torch.testing.assert_close(logits(squared, batch)[0], -gap.square().sum(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits(inner, batch)[0], z["query"]["moments"] @ means.T, rtol=1e-4, atol=1e-4)


ROLES = ("support", "query")


def test_batch_norms_see_support_and_query_together() -> None:
    batch, head = episodes(1, head=tamt()), tamt().train()
    head(batch, 1)
    alone = tamt().train()
    both = torch.cat([batch.support["features"], batch.query["features"]], 1)[0]
    alone.encode({"features": both}, "support")
    for (name, one_pass), (_, want) in zip(head.named_buffers(), alone.named_buffers(), strict=True):
        torch.testing.assert_close(one_pass, want, msg=name)
    assert head.elstc.norm1.num_batches_tracked == 1
    three = episodes(3, head=tamt())
    together, turns = tamt().train(), tamt().train()
    together(three, 1)
    for e in range(3):
        turns(one(three, e), 1)
    assert all(torch.equal(a, b) for a, b in zip(together.buffers(), turns.buffers(), strict=True))
    assert together.elstc.norm1.num_batches_tracked == 3
    several = tamt().eval()
    outs = several(three, 1), [several(one(three, e), 1) for e in range(3)]
    torch.testing.assert_close(outs[0].logits, torch.cat([out.logits for out in outs[1]]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outs[0].loss, sum(out.loss for out in outs[1]))


def test_loss_is_divided_by_tasks_per_batch() -> None:
    batch = episodes(1, head=tamt())
    whole, quarter = (tamt(tasks_per_batch=n).train()(batch, 1).loss for n in (1, 4))
    torch.testing.assert_close(whole, 4 * quarter)


def test_bdc_in_the_place_of_the_root_learns_its_temperature() -> None:
    batch, head = episodes(1, head=tamt()), tamt(second_moment="bdc", bdc_places=16).train()
    head(batch, 1).loss.backward()
    temperature = head.elstc.pool.temperature
    assert temperature.item() == pytest.approx(-np.log(32))  # type: ignore[operator]
    assert temperature.grad.abs().item() > 0  # type: ignore[union-attr, operator]
    plain = tamt().eval()
    assert not torch.equal(logits(head, batch), logits(plain, batch))


def test_places_without_variance_train() -> None:
    """One place, or dead channels, have no covariance; codes and gradients stay finite."""
    head = tamt().train()
    batch = episodes(1, head=head)
    first = {role: {"features": getattr(batch, role)["features"][:, :, :, :1].clone()} for role in ROLES}
    for role in ROLES:
        first[role]["features"].requires_grad_()
    head(replace(batch, **first), 1).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    assert all(torch.isfinite(clips["features"].grad).all() for clips in first.values())


def test_initial_weights_are_the_frameworks() -> None:
    head = Tamt(TamtConfig())
    adapters = head.adapters(SLOTS)
    bound = {"elstc.reduce1": 384, "elstc.reduce2": 128, "elstc.reduce3": 36, "elstc.project": 4096, "temporal.conv": 3}
    for name, fan in bound.items():
        weight = head.get_parameter(f"{name}.weight")
        assert weight.abs().max().item() <= fan**-0.5
        if weight.numel() > 1000:
            assert weight.std().item() == pytest.approx((3 * fan) ** -0.5, rel=0.05)
    x = tokens(1, 8, 4, 384)
    gap = adapters["block10.beside_mlp"].eval()(x) - 0.5 * x
    assert gap.abs().mean() < 0.1, "about half of what it gets, at first"


def test_as_many_numbers_are_trained_as_published() -> None:
    head = Tamt(TamtConfig())
    modules = [head, *head.adapters(SLOTS).values()]
    unused = 416  # of a part of the adapters that nothing reads
    assert sum(p.numel() for module in modules for p in module.parameters()) == 2_003_584 - unused


def test_adapters_go_where_the_config_says() -> None:
    assert list(tamt().adapters(SLOTS)) == ["block10.beside_mlp", "block11.beside_mlp"]
    assert tamt(adapter_blocks=()).adapters([]) == {}
    rates = {slot: taa.drop_path for slot, taa in tamt(adapter_blocks=(0, 4, 11)).adapters(SLOTS).items()}
    assert rates == pytest.approx({"block0.beside_mlp": 0, "block4.beside_mlp": 0.4 / 11, "block11.beside_mlp": 0.1})
    off = tamt(adapter_drop_path=0.0).adapters(SLOTS)
    assert [taa.drop_path for taa in off.values()] == [0.0, 0.0]
    for slots in ([], ["block0.pre_mlp"], SLOTS[:11]):
        with pytest.raises(UsageError, match=r"no slot block1[01].beside_mlp") as caught:
            tamt().adapters(slots)
        assert "videomae_vit_s" in (caught.value.hint or "")


def test_an_adapter_brings_its_block_s_drop_path() -> None:
    """Attention, MLP and adapter are dropped each on its own; here the first is silent, the other two add different things."""
    block = Block(64)
    nn.init.zeros_(block.attn.proj.weight)
    nn.init.zeros_(block.attn.proj.bias)
    block.adapters["beside_mlp"] = adapter = Taa(64, drop_path=0.25)
    block.train()
    adapter.eval()
    x = tokens(4000, 1, 1, 64)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        normed = block.norm2(x)
        mlp, beside = block.mlp(normed), adapter(normed)
        made = (block(x) - x) * 0.75
        torch.testing.assert_close(block.eval()(x) - x, mlp + beside, rtol=1e-4, atol=1e-5)
    seen = {}
    for name, what in (("both", mlp + beside), ("mlp", mlp), ("beside", beside), ("none", 0 * mlp)):
        seen[name] = (made - what).abs().amax((1, 2, 3)) < 1e-4
    assert sum(each.float() for each in seen.values()).eq(1).all()
    share = {name: each.float().mean().item() for name, each in seen.items()}
    assert share == pytest.approx({"both": 9 / 16, "mlp": 3 / 16, "beside": 3 / 16, "none": 1 / 16}, abs=0.03)


def test_a_model_trains_adapters_and_head_from_block_10(backbone: Backbone, tmp_path: Path) -> None:
    """The pipeline's model of two blocks: all of the adapters and the head get gradients, nothing else is trained."""
    recipe = make_world(tmp_path).recipe("features.cut=block10", "features.normalise=none", head="tamt")
    spec = FeatureSpec("features", {}, {}, {}, {}, "block10", (8, 4, 384), "float16")
    model = build_model(recipe, backbone, spec, 3).train()
    assert len(model.tail) == 2  # type: ignore[arg-type]
    x = tokens(6, 8, 4, 384)
    clips = model.episode_features({"support": x[:4], "query": x[4:]})
    labels = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1]])
    batch = EpisodeBatch(Task(2, labels[0]), clips["support"], clips["query"], labels[1], *labels)
    torch.manual_seed(0)
    model.head(batch, 1).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name.startswith("head.") or ".adapters." in name), name
    assert [block._drop_rate() for block in model.tail] == pytest.approx([1 / 11, 0.1])  # type: ignore[union-attr]


def drawn_checkpoint() -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in load(GOLDEN / "eval_112_2w1s1q").weights.items()}


def test_published_layout_goes_round(backbone: Backbone) -> None:
    given, head = drawn_checkpoint(), Tamt(TamtConfig())
    assert len(given) == 268
    rest = load_published(head, given)
    inside = head.published_adapters()
    assert len(rest.unused) == 12 * 4 + 2 * 7
    assert {key.split(".")[0] for key in rest.backbone} == {"patch_embed", "blocks"}
    assert len(rest.backbone) == len(dict(backbone.named_parameters()))
    assert rest.adapters.keys() == inside.keys()
    for slot, adapter in head.adapters(SLOTS).items():
        for name, tensor in adapter.state_dict().items():
            assert given[inside[f"{slot}.{name}"]].shape == tensor.shape
    back = to_published(head, rest)
    assert back.keys() == given.keys()
    assert all(torch.equal(back[key], given[key]) for key in given)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("head2.weight"), "missing head2.weight"),
        (lambda t: t.update({"head3.weight": t["head2.weight"]}), "unknown head3.weight"),
        (lambda t: t.update({"head2.weight": t["head2.weight"][:5]}), r"head2.weight is \[5, 4096\]"),
    ],
)
def test_other_checkpoints_are_refused(spoil: Any, message: str) -> None:
    given, head = drawn_checkpoint(), Tamt(TamtConfig())
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    spoil(given)
    with pytest.raises(IntegrityError, match=message):
        load_published(head, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_bdc_has_no_published_layout() -> None:
    with pytest.raises(UsageError, match="second_moment = 'bdc'"):
        tamt(second_moment="bdc").published_layout()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metric": "euclidean"}, "unknown tamt metric 'euclidean'; known: .*neg_sq_l2"),
        ({"global_temporal_layout": "intended"}, "unknown tamt global_temporal_layout"),
        ({"second_moment": "cov"}, "unknown tamt second_moment"),
        ({"newton_schulz_backward": "auto"}, "unknown tamt newton_schulz_backward"),
        ({"newton_schulz_iterations": 0}, "newton_schulz_iterations must be at least 1, got 0"),
        ({"newton_schulz_epsilon": 0.0}, "newton_schulz_epsilon > 0"),
        ({"adapter_drop_path": 1.0}, "adapter_drop_path < 1"),
        ({"reduce_dims": (12, 0)}, "reduce_dims >= 1"),
        ({"dim": 2}, "dim >= 4"),
        ({"covariance_groups": 3}, "covariance_groups = 3 must divide the 5 tubelet steps"),
        ({"bdc_places": 4}, "bdc_places would do nothing with second_moment = 'elstc'"),
        (
            {"second_moment": "bdc", "newton_schulz_iterations": 5, "newton_schulz_backward": "autograd"},
            "newton_schulz_iterations and newton_schulz_backward would do nothing with second_moment = 'bdc'",
        ),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tamt(**config)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 16, 16), "Tamt needs features of 5xanyx16 per clip, got 4x16x16"),
        ((5, 16, 8), "got 5x16x8"),
        ((5, 16), "Tamt needs features of 5xanyx16"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tamt().encode({"features": torch.rand(2, *shape)}, "support")


def test_training_on_two_sizes_at_once_is_refused() -> None:
    batch = episodes(1, head=tamt())
    smaller = replace(batch, query={"features": batch.query["features"][:, :, :, :9]})
    with pytest.raises(UsageError, match="one size, got 16 support and 9 query tokens per step"):
        tamt().train()(smaller, 1)
    assert torch.isfinite(logits(tamt(), smaller)).all(), "codes of any size can be compared"


def test_a_case_may_set_whatever_the_head_has_a_setting_for() -> None:
    case = load(GOLDEN / "tokens_eval_112_2w2s1q")
    told = {"newton_schulz_backward": "autograd", "newton_schulz_epsilon": 1e-3, "drop_path": 0.2}
    head, adapters, _ = build(replace(case, config=case.config | told))
    assert (head.config.newton_schulz_backward, head.config.newton_schulz_epsilon) == ("autograd", 1e-3)
    assert adapters["block11.beside_mlp"].drop_path == pytest.approx(0.2)
