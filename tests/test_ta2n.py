"""TA2N against a slow plain reading of its definition, its invariances, its modules alone, and what it refuses."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import load
from head_episodes import episodes, logits, make, one
from parity_ta2n import made, run_ta2n
from torch import Tensor, nn
from torch.nn import functional as F

import heads.ta2n_network
from fsar_cache.errors import IntegrityError, UsageError
from heads import ACM, TA2N, TTM, timewise_cos
from heads.base import EpisodeBatch, Task
from heads.episodes import encode_clips
from heads.published import load_published, to_published
from heads.ta2n import Ta2n
from heads.ta2n_blocks import time_warp, windows

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "ta2n"
CHANNELS, WIDTH, FRAMES, SIDE = 6, 4, 5, 5


pytestmark = pytest.mark.usefixtures("one_thread")  # sizes here are small: threads would only wait for each other


def head_of(**config: Any) -> Ta2n:
    head = make("ta2n", **config)
    assert isinstance(head, Ta2n)
    return head


def drawn(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with every tensor drawn anew, so that no zero or identity hides a step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                z = torch.randn(value.shape, generator=generator).to(value)
                wide = 3.0 if "net" in name and value.ndim == 3 else 1.0
                scale = wide * max(1, math.prod(value.shape[1:])) ** -0.5 if value.ndim > 1 else 0.3
                value.copy_(0.5 + z * z if "running_var" in name else z * scale)
    return module


def alone(shot: int = 1, seed: int = 1, **stages: Any) -> TA2N:
    network = drawn(TA2N(FRAMES, shot, (CHANNELS, WIDTH), **stages), seed).double()
    assert isinstance(network, TA2N)
    return network


def maps(count: int, seed: int, side: int = SIDE, channels: int = CHANNELS, frames: int = FRAMES) -> Tensor:
    x = np.random.default_rng(seed).standard_normal((count, channels, frames, side, side))
    return torch.from_numpy(np.maximum(x, 0))


# a slow plain reading: one clip, one pair, one window and one pixel at a time, whole tensors side by side, no split convolution


def slow_warp(stage: TTM, clips: Tensor) -> Tensor:
    """Through torch's sampler of pictures: every pixel of every channel is a picture of height 1, time along its width."""
    theta = stage.locnet(clips)
    frames, times = clips.shape[2], torch.linspace(-1, 1, clips.shape[2], dtype=clips.dtype)
    out = []
    for clip, (a, b) in zip(clips, theta, strict=True):
        grid = torch.stack([a * times + b, -torch.ones_like(times)], -1)[None, None]
        lines = clip.movedim(1, -1).reshape(1, -1, 1, frames)
        read = F.grid_sample(lines, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        out.append(read.view(*clip.shape[:1], *clip.shape[2:], frames).movedim(-1, 1))
    return torch.stack(out)


def slow_prototypes(network: TA2N, warped: Tensor) -> Tensor:
    shots = warped.view(-1, network.shot, *warped.shape[1:])
    found = []
    for mine in shots:
        reference = network.querynet_multi(mine[0].mean((2, 3))[None])[0]
        total = torch.zeros_like(mine[0])
        for shot in mine:
            key = network.keynet_multi(shot.mean((2, 3))[None])[0]
            value = torch.einsum("oc,cthw->othw", network.valuenet_multi.weight[..., 0], shot)
            for y in range(shot.shape[1]):
                share = torch.softmax(key.T @ reference[:, y] / math.sqrt(WIDTH), 0)
                total[:, y] = total[:, y] + sum(share[x] * value[:, x] for x in range(shot.shape[1]))
        found.append(total / len(mine))
    return torch.stack(found)


def slow_mask(ox: Tensor, oy: Tensor, side: int) -> Tensor:
    def m(v: Tensor) -> Tensor:
        return torch.ones_like(v) if v.abs() < 1 else (1 - (v.abs() - 1) * (side - 1) / 2).clamp(min=0)

    grid = [-1 + 2 * i / (side - 1) for i in range(side)]
    return torch.stack([torch.stack([m(g + oy) * m(h + ox) for h in grid]) for g in grid])


def slow_pool(x: Tensor, offsets: Tensor, spread: float) -> Tensor:
    """x [C, T, H, H] under the nine windows of every frame's offset: [C, T]."""
    columns = []
    for t, (ox, oy) in enumerate(offsets):
        nine = [(ox + spread * i, oy + spread * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        masks = [slow_mask(a, b, x.shape[-1]) for a, b in nine]
        weights = sum(mask / mask.sum() for mask in masks) / len(masks)
        columns.append((x[:, t] * weights).sum((1, 2)))
    return torch.stack(columns, 1)


def slow_pairs(network: TA2N, support: Tensor, query: Tensor, spread: float = 0.2) -> tuple[Tensor, Tensor]:
    assert network.firststage is not None
    acm = network.secondstage
    assert acm is not None
    s, q = slow_warp(network.firststage, support), slow_warp(network.firststage, query)
    if network.shot > 1:
        s = slow_prototypes(network, s)
        q = torch.stack([torch.einsum("oc,cthw->othw", network.valuenet_multi.weight[..., 0], one) for one in q])
    side_by_side, both = [], []
    for prototype in s:
        mean = prototype.mean((2, 3))[None]
        lifted = prototype + acm.valuenet(mean)[0][..., None, None]
        for clip in q:
            own = clip.mean((2, 3))[None]
            table = acm.keynet(mean)[0].T @ acm.querynet(own)[0] / math.sqrt(WIDTH)
            added = torch.softmax(table, 1) @ acm.valuenet(own)[0].T
            read = clip + added.T[..., None, None]
            both.append((lifted, read))
            side_by_side.append(torch.cat([lifted, read]))
    offsets = 0.75 * acm.mvnet(torch.stack(side_by_side)).transpose(1, 2)
    vectors = [
        torch.cat([slow_pool(a, o, spread), slow_pool(b, -o, spread)]) for (a, b), o in zip(both, offsets, strict=True)
    ]
    return torch.stack(vectors).view(len(s), len(q), 2 * CHANNELS, FRAMES, 1, 1), offsets


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shot", [1, 3])
def test_it_equals_the_slow_words(shot: int, training: bool) -> None:
    fast, slow = alone(shot).train(training), alone(shot).train(training)
    support, query = maps(2 * shot, 1), maps(3, 2)
    with torch.no_grad():
        pairs, offsets = fast(support, query)
        want_pairs, want_offsets = slow_pairs(slow, support, query)
    assert want_offsets.abs().max() > 0.1
    torch.testing.assert_close(offsets, want_offsets)
    torch.testing.assert_close(pairs, want_pairs)
    for (name, a), b in zip(fast.state_dict().items(), slow.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("shot", [1, 2])
def test_gradients_equal_those_of_the_slow_words(shot: int) -> None:
    grads = []
    for pairs_of in (lambda n, s, q: n(s, q), slow_pairs):
        network = alone(shot)
        support, query = maps(2 * shot, 1).requires_grad_(), maps(2, 2).requires_grad_()
        a, b = pairs_of(network, support, query)[0].chunk(2, 2)
        timewise_cos(a, b).square().sum().backward()
        grads.append([support.grad, query.grad, *(p.grad for p in network.parameters())])
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("side", [4, 6, 7, 8, 14])
def test_sides_of_maps(side: int) -> None:
    network = alone()
    with torch.no_grad():
        pairs, offsets = network.eval()(maps(2, 1, side), maps(2, 2, side))
        want_pairs, want_offsets = slow_pairs(network, maps(2, 1, side), maps(2, 2, side))
    torch.testing.assert_close(pairs, want_pairs)
    torch.testing.assert_close(offsets, want_offsets)


def test_distances_are_sums_over_frames_of_one_minus_cosine() -> None:
    x, y = torch.randn(2, 3, 4, 5, 1, 1), torch.randn(2, 3, 4, 5, 1, 1)
    y[0, 0, :, 2] = 0
    want = (1 - F.cosine_similarity(x, y, dim=2)).sum((2, 3, 4))
    torch.testing.assert_close(timewise_cos(x, y), want)
    assert timewise_cos(x, torch.zeros_like(y))[1, 2] == 5
    wide = torch.randn(2, 3, 4, 5, 2, 2), torch.randn(2, 3, 4, 5, 2, 2)
    flat = [z.transpose(3, 2).reshape(2, 3, 5, 16).transpose(2, 3) for z in wide]
    torch.testing.assert_close(timewise_cos(*wide), timewise_cos(*flat))


def test_warps_that_are_known() -> None:
    x = torch.randn(3, FRAMES, 2, SIDE, SIDE, dtype=torch.float64)

    def warp(a: float, b: float) -> Tensor:
        return time_warp(x, torch.tensor([[a, b]] * 3, dtype=torch.float64))

    torch.testing.assert_close(warp(1, 0), x)
    torch.testing.assert_close(warp(-1, 0), x.flip(1))
    torch.testing.assert_close(warp(0, 0), x[:, 2:3].expand_as(x))
    torch.testing.assert_close(warp(1, 0.5), torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1))
    torch.testing.assert_close(warp(0.5, -0.25)[:, :2], torch.stack([(x[:, 0] + x[:, 1]) / 2, x[:, 1]], 1))
    torch.testing.assert_close(warp(0, -1.25)[:, 0], x[:, 0] / 2)
    assert not warp(0, 1.5).any()


def test_warps_and_windows_have_the_gradients_of_finite_differences() -> None:
    x = torch.randn(2, FRAMES, 2, 2, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([[0.83, 0.11], [-0.4, -0.37]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(time_warp, (x, theta))
    offsets = torch.tensor([[0.13, -0.31], [-0.7, 0.55]], dtype=torch.float64, requires_grad=True)
    steps = torch.tensor([-0.2, 0.0, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda o: windows(o, 7, steps), offsets)


def test_windows_sum_to_one_and_mirror() -> None:
    offsets = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0)) * 1.5 - 0.75
    steps = torch.tensor([-0.2, 0.0, 0.2])
    w = windows(offsets, 7, steps)
    torch.testing.assert_close(w.sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(windows(-offsets, 7, steps), w.flip(-1))
    right = windows(torch.tensor([0.75, 0.0]), 7, steps).view(7, 7)
    assert right[:, 0].sum() > 2 * right[:, -1].sum()  # the grid is moved right, so the window lies left
    torch.testing.assert_close(right, right.flip(0))


def test_at_the_start_it_zooms_in_slightly_and_looks_at_the_middle() -> None:
    network = TA2N(FRAMES, 1, (CHANNELS, WIDTH)).eval()
    pairs, offsets, seen = network(maps(2, 1).float(), maps(3, 2).float(), vis=True)
    torch.testing.assert_close(seen["first"]["theta_query"], torch.tensor([[0.9640276, 0.0]] * 3))
    assert seen["first"]["theta_support"].shape == (2, 2)
    assert torch.equal(offsets, torch.zeros(6, FRAMES, 2))
    assert torch.equal(seen["second"]["offset"], offsets)
    assert pairs.shape == (2, 3, 2 * CHANNELS, FRAMES, 1, 1)


def test_the_snippet_of_its_authors() -> None:
    """Word for word, but for the transfer to a GPU."""
    support = torch.rand(5, 2048, 8, 7, 7)
    query = torch.rand(5, 2048, 8, 7, 7)
    with torch.no_grad():
        ta2n = TA2N(T=8, shot=1, dim=(2048, 2048), first_stage=TTM, second_stage=ACM)
        pairs, offsets = ta2n(support, query)
        aligned_support, aligned_query = pairs[:, :, :2048, ...], pairs[:, :, 2048:, ...]
        dist = timewise_cos(aligned_support, aligned_query)
    assert pairs.shape == (5, 5, 4096, 8, 1, 1)
    assert offsets.shape == (25, 8, 2)
    assert aligned_support.shape == aligned_query.shape == (5, 5, 2048, 8, 1, 1)
    assert dist.shape == (5, 5)


def test_stages_alone() -> None:
    support, query = maps(2, 1), maps(3, 2)
    network = alone().eval()
    assert network.firststage is not None
    warped = network.firststage(support, query)
    assert isinstance(warped, tuple)
    for got, clips in zip(warped, (support, query), strict=True):
        torch.testing.assert_close(got, slow_warp(network.firststage, clips))
        assert torch.equal(got, network.firststage(clips))
    assert network.secondstage is not None
    pairs, offsets = network.secondstage(*warped)
    both = network(support, query)
    torch.testing.assert_close((pairs, offsets), both)


@pytest.mark.parametrize("off", [False, None])
def test_without_its_second_stage_pairs_are_whole_maps(off: bool | None) -> None:
    support, query = maps(4, 1), maps(3, 2)
    network = alone(2, second_stage=off).eval()
    pairs, offsets, seen = network(support, query, vis=True)
    assert offsets is None
    assert seen["second"] == {}
    assert network.firststage is not None
    s = slow_prototypes(network, slow_warp(network.firststage, support))
    torch.testing.assert_close(pairs[:, 1, :CHANNELS], s)
    q = torch.einsum("oc,mcthw->mothw", network.valuenet_multi.weight[..., 0], slow_warp(network.firststage, query))
    torch.testing.assert_close(pairs[1, :, CHANNELS:], q)


def test_stages_by_switch_and_by_class() -> None:
    both = TA2N(T=8, first_stage=TTM, second_stage=ACM)
    assert both.state_dict().keys() == TA2N(T=8, first_stage=True, second_stage=True).state_dict().keys()
    assert len(both.state_dict()) == 42
    assert not any("decays" in key for key in both.state_dict())
    neither = TA2N(T=8, first_stage=None, second_stage=False)
    assert set(neither.state_dict()) == {f"{name}net_multi.weight" for name in ("key", "query", "value")}
    assert neither.spatial_parameters() == []
    neither.decay()
    x = torch.rand(1, 64, 8, 4, 4)
    assert torch.equal(neither(x, x)[0], torch.cat([x, x], 1)[:, None])

    class Still(TTM):
        def theta(self, maps: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).expand(len(maps), 2)

    still = TA2N(T=8, first_stage=Still, second_stage=False)
    torch.testing.assert_close(still(x, x)[0], neither(x, x)[0])


def test_defaults_of_the_modules() -> None:
    assert TTM().locnet[0].in_channels == 64
    assert TA2N().dim == (64, 64)
    assert (ACM().keynet.in_channels, ACM().keynet.out_channels) == (2048, 2048)


def test_spatial_parameters_are_those_of_the_offset_network() -> None:
    network = TA2N()
    names = {name for name, p in network.named_parameters() if any(p is each for each in network.spatial_parameters())}
    assert names == {name for name, _ in network.named_parameters() if name.startswith("secondstage.mvnet.")}


def test_decay_halves_the_spread() -> None:
    support, query, network = maps(2, 1), maps(2, 2), alone().eval()
    for spread in (0.2, 0.1, 0.05):
        torch.testing.assert_close(network(support, query)[0], slow_pairs(network, support, query, spread)[0])
        network.decay()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TA2N(T=3), "T >= 4"),
        (lambda: TA2N(shot=0), "shot >= 1"),
        (lambda: TA2N(second_stage=TTM), "second_stage must be True, False, None or a class"),
        (lambda: TA2N(first_stage="ttm"), "first_stage must be True"),
        (
            lambda: TA2N(8)(torch.rand(1, 8, 64, 4, 4), torch.rand(1, 64, 8, 4, 4)),
            r"support maps \[clips, 64, 8, H, H\]",
        ),
        (lambda: TA2N(8)(torch.rand(1, 64, 8, 4, 4), torch.rand(1, 64, 8, 7, 5)), r"query maps .* \[1, 64, 8, 7, 5\]"),
        (lambda: TA2N(8)(torch.rand(1, 64, 8, 3, 3), torch.rand(1, 64, 8, 3, 3)), "H >= 4"),
        (lambda: TA2N(8)(torch.rand(1, 64, 8, 4, 4), torch.rand(1, 64, 8, 5, 5)), "as many pixels in both"),
        (lambda: TA2N(8, 2)(torch.rand(3, 64, 8, 4, 4), torch.rand(1, 64, 8, 4, 4)), "2 support clips of every class"),
        (lambda: TA2N(8)(torch.rand(0, 64, 8, 4, 4), torch.rand(1, 64, 8, 4, 4)), r"got \[0, 64"),
    ],
)
def test_what_the_module_alone_refuses(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


# the head


def ready(batch_of: dict[str, Any] | None = None, **config: Any) -> tuple[Ta2n, EpisodeBatch]:
    head = head_of(**config)
    drawn(head)
    return head, episodes(head=head, **(batch_of or {}))


def grouped(batch: EpisodeBatch) -> Tensor:
    """Support maps [N*K, C, T, H, H] of the one episode, in class order."""
    labels = batch.task.support_labels[0].tolist()
    order = [i for c in range(batch.task.way) for i, label in enumerate(labels) if label == c]
    return batch.support["features"][0, order].transpose(1, 2)


@pytest.mark.parametrize("shots", [(1, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize(
    "config", [{}, {"second_stage": False}, {"first_stage": False, "perturb_eval": False}], ids=str
)
def test_encode_and_match_equal_the_module_alone(shots: tuple[int, ...], config: dict[str, Any]) -> None:
    head, batch = ready({"count": 1, "shots": shots}, **config)
    got = logits(head, batch)
    head.align.shot = shots[0]
    with torch.no_grad():
        pairs, _ = head.align(grouped(batch), batch.query["features"][0].transpose(1, 2))
    torch.testing.assert_close(got[0], -timewise_cos(*pairs.chunk(2, 2)).T, rtol=1e-4, atol=1e-5)


def test_blocks_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head, batch = ready()
    whole, sizes = logits(head, batch), []
    align = ACM.align

    def counted(self: ACM, support: dict[str, Tensor], query: dict[str, Tensor]) -> Any:
        sizes.append(len(support["map"]) * len(query["map"]))
        return align(self, support, query)

    monkeypatch.setattr(ACM, "align", counted)
    for limit, most in ((1, 1), (500_000, 2), (1_500_000, 6)):
        sizes.clear()
        monkeypatch.setattr(heads.ta2n_network, "BLOCK_BYTES", limit)
        torch.testing.assert_close(logits(head, batch), whole)
        assert max(sizes) == most
        assert sum(sizes) == 2 * 3 * 6


def test_blocks_keep_within_their_bytes() -> None:
    """What one block of the published sizes allocates at once, counted by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    head = Ta2n(Ta2n.Config(dim=256, seq_len=8)).eval()
    with torch.inference_mode():
        support = {
            n: p[:1].expand(8, *p.shape[1:])
            for n, p in head.encode({"features": torch.rand(1, 8, 256, 7, 7)}, "support").items()
        }
        s = head.align.prototypes({n: p.unsqueeze(1) for n, p in head._path(support, False, "support").items()})
        q = head._path({n: p[:1].expand(9, *p.shape[1:]) for n, p in support.items()}, False, "query")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            head.align.paired(s, q, lambda a, b, _: (a * b).sum((2, 3)))
    held, peak = 0, 0
    for event in sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        held += event.nbytes()
        peak = max(peak, held)
    assert 0.2 * heads.ta2n_network.BLOCK_BYTES < peak <= heads.ta2n_network.BLOCK_BYTES


def test_the_first_shot_given_is_the_reference() -> None:
    head, batch = ready({"count": 1, "shots": (3, 3, 3)})

    def swapped(a: int, b: int) -> Tensor:
        places = (batch.task.support_labels[0] == 1).nonzero().flatten()
        order = torch.arange(9)
        order[places[[a, b]]] = places[[b, a]]
        return logits(head, replace(batch, support={"features": batch.support["features"][:, order]}))

    before = logits(head, batch)
    torch.testing.assert_close(swapped(1, 2), before, rtol=1e-5, atol=1e-6)
    assert (swapped(0, 1) - before).abs().max() > 1e-4


def test_supports_may_be_shuffled_if_the_first_of_each_class_stays_first() -> None:
    head, batch = ready({"count": 1})
    order = batch.task.support_labels[0].argsort(stable=True)
    for places in (order, order.view(3, 2)[[2, 0, 1]].flatten(), order.view(3, 2).T.flatten()):
        other = replace(
            batch,
            support={"features": batch.support["features"][:, places]},
            task=Task(3, batch.task.support_labels[:, places]),
        )
        torch.testing.assert_close(logits(head, other), logits(head, batch), rtol=1e-5, atol=1e-6)


def test_shots_decide_between_the_two_functions() -> None:
    head, _ = ready()
    for shots, name in (((1, 1, 1), "keynet"), ((2, 2, 2), "keynet_multi")):
        batch = episodes(1, shots, head=head)
        head.zero_grad()
        head.train()(batch, 1).loss.backward()
        used = {n for n, p in head.align.named_parameters() if p.grad is not None and p.grad.any()}
        assert ("keynet_multi.weight" in used) == (name == "keynet_multi")
        assert ("valuenet_multi.weight" in used) == (name == "keynet_multi")
        assert "secondstage.keynet.weight" in used


def test_the_shot_setting_halves_the_codes_and_refuses_the_rest() -> None:
    single, several = episodes(1, (1, 1, 1), head=head_of()), episodes(1, (2, 2, 2), head=head_of())
    for shot, fits, other in ((1, single, several), (2, several, single), (5, several, single)):
        head, both = drawn(head_of(shot=shot)), drawn(head_of())
        assert isinstance(head, Ta2n)
        assert isinstance(both, Ta2n)
        torch.testing.assert_close(logits(head, fits), logits(both, fits))
        sizes = [
            sum(code.numel() for code in each.encode({"features": fits.query["features"][0]}, "query").values())
            for each in (head, both)
        ]
        assert sizes[0] < 0.65 * sizes[1]
        for run in (lambda head=head, other=other: logits(head, other), lambda head=head, other=other: head(other, 1)):
            with pytest.raises(UsageError, match=f"shot = {shot} is not for episodes"):
                run()


@pytest.mark.parametrize(
    ("seen", "other", "hint"), [(1, 3, "train.shot=3, or evaluate with --shot 1"), (2, 1, "train.shot=1.*--shot N")]
)
def test_what_training_has_not_seen_is_refused_in_evaluation(seen: int, other: int, hint: str) -> None:
    head, batch = ready({"shots": (seen,) * 3})
    unseen = episodes(1, (other,) * 3, head=head)
    logits(head, unseen)  # a fresh head has recorded nothing
    head.eval()(unseen, 1)  # and evaluation records nothing
    assert head.trained.tolist() == [False, False]
    head.train()(batch, 1)
    again = head_of()
    again.load_state_dict(head.state_dict())
    for each in (head, again):
        assert torch.isfinite(logits(each, batch)).all()
        with pytest.raises(
            UsageError, match=f"Ta2n was trained with .* per class, this episode has {other}"
        ) as refused:
            logits(each, unseen)
        assert re.search(hint, refused.value.hint or "")
    again.train()(unseen, 2)  # training may go on with the other, and then both are known
    assert again.trained.tolist() == [True, True]
    for each in (batch, unseen):
        assert torch.isfinite(logits(again, each)).all()


def test_more_shots_than_in_training_are_of_the_same_function() -> None:
    head, batch = ready({"shots": (2, 2, 2)})
    head.train()(batch, 1)
    assert torch.isfinite(logits(head, episodes(1, (3, 3, 3), head=head))).all()


def test_published_files_say_nothing_of_shots() -> None:
    head = head_of()
    assert "trained" in head.state_dict()
    assert "trained" not in head.published_layout().names
    load_published(head, published(head, "resnet."))
    for shots in ((1, 1, 1), (2, 2, 2)):
        assert torch.isfinite(logits(head, episodes(1, shots, head=head))).all()


def test_unequal_shots_are_refused_with_their_numbers() -> None:
    head, batch = ready({"count": 1, "shots": (1, 3, 2)})
    for run in (lambda: logits(head, batch), lambda: head(batch, 1)):
        with pytest.raises(UsageError, match=r"same number of shots of every class, got \[\[1, 3, 2\]\]"):
            run()


def test_the_loss_is_the_sum_over_queries_over_tasks_per_batch() -> None:
    for reduction, factor in (("sum", 1.0), ("mean", 1 / 6)):
        head, batch = ready({"count": 1}, loss_reduction=reduction, tasks_per_batch=4)
        out = head.train()(batch, 1)
        want = F.cross_entropy(out.logits[0], batch.query_labels[0], reduction="sum") * factor / 4
        torch.testing.assert_close(out.loss, want)


def test_batch_norms_see_support_then_query_and_the_pairs_of_each_episode() -> None:
    head, batch = ready({"count": 2})
    state = {name: value.clone() for name, value in head.state_dict().items()}
    head.train()(batch, 1)
    together = {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(state)
    for e in range(2):
        head(one(batch, e), 1)
    counts = {name: int(value) for name, value in together.items() if name.endswith("num_batches_tracked")}
    assert {n: c - int(state[n]) for n, c in counts.items()} == {n: 4 if "first" in n else 2 for n in counts}
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, together[name])


def test_running_statistics_come_from_support_first() -> None:
    head, batch = ready({"count": 1})
    norm = head.align.firststage.locnet[1] if head.align.firststage else None
    assert isinstance(norm, nn.BatchNorm3d)
    seen: list[int] = []
    norm.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    head.train()(episodes(1, (3, 3, 3), head=head), 1)
    assert seen == [9, 6]
    del batch


def test_dropout_is_on_single_elements_in_training_only() -> None:
    head = head_of(dropout=0.5, first_stage=False)
    x = torch.ones(2, 5, 16, 4, 4)
    torch.testing.assert_close(head.eval().encode({"features": x}, "query")["map"], x.flatten(3))
    torch.manual_seed(0)
    dropped = head.train().encode({"features": x}, "query")["map"]
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < float((dropped == 0).float().mean()) < 0.6
    assert dropped.flatten(0, 2).var(1).min() > 0  # neither whole channels nor frames


def test_thetas_are_shown_as_they_were_used() -> None:
    head, batch = ready({"count": 2})
    codes = encode_clips(head.eval(), batch.support, "support"), encode_clips(head, batch.query, "query")
    shows = head.match(*codes, batch.task).shows
    assert head.align.firststage is not None
    for name, clips in (("support", batch.support), ("query", batch.query)):
        want = head.align.firststage.theta(clips["features"].flatten(0, 1)).view(2, -1, 2)
        torch.testing.assert_close(shows[f"theta_{name}"], want)
        assert head(batch, 1).shows[f"theta_{name}"].shape == want.shape
    assert head_of(first_stage=False)(batch, 1).shows == {}


def test_show_gives_attention_for_the_report() -> None:
    head, batch = ready({"count": 1})
    codes = encode_clips(head.eval(), batch.support, "support"), encode_clips(head, batch.query, "query")
    shown = head.show(*codes, batch.task)
    assert shown["cost"].shape == shown["path"].shape == (6, 3, 5, 5)
    torch.testing.assert_close(shown["path"].sum(2), torch.ones(6, 3, 5))  # every support frame reads the query once
    torch.testing.assert_close(shown["path"], torch.softmax(-shown["cost"], 2))
    plain = head_of(second_stage=False).eval()
    codes = encode_clips(plain, batch.support, "support"), encode_clips(plain, batch.query, "query")
    assert plain.show(*codes, batch.task) == {}


def test_dist_norm_is_a_layer_norm_over_the_classes() -> None:
    batch = episodes(head=head_of())
    head, plain = drawn(head_of(dist_norm=True)), drawn(head_of())
    assert isinstance(head, Ta2n)
    assert isinstance(plain, Ta2n)
    norm = head.norm_layer
    with torch.inference_mode():
        want = F.layer_norm(logits(plain, batch), (3,), norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(logits(head, batch), want)
    with pytest.raises(UsageError, match="dist_norm fixes the way at 5, got 3"):
        logits(head_of(dist_norm=True, way=5), batch)


def test_perturbation_decays_at_its_iterations_and_our_checkpoints_keep_it() -> None:
    head, batch = ready(perturb_decay_every=3)
    for step in range(1, 8):
        head.after_forward(step)
    acm = head.align.secondstage
    assert acm is not None
    assert int(acm.decays) == 2
    torch.testing.assert_close(acm.steps(torch.ones(())), torch.tensor([-0.05, 0.0, 0.05]))
    again, _ = ready(perturb_decay_every=3)
    assert (logits(again, batch) - logits(head, batch)).abs().max() > 1e-5
    again.load_state_dict(head.state_dict())
    assert torch.equal(logits(again, batch), logits(head, batch))
    never = head_of()
    never.after_forward(3)
    assert not int(never.state_dict()["align.secondstage.decays"])


def test_one_window_in_evaluation_if_asked_nine_in_training_always() -> None:
    acm = head_of(perturb_eval=False).align.secondstage
    assert acm is not None
    assert acm.eval().steps(torch.ones(())).tolist() == [0]
    assert len(acm.train().steps(torch.ones(()))) == 3


def published(head: Ta2n, prefix: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    own, names = head.state_dict(), head.published_layout().names
    tensors = {key: torch.rand(own[name].shape, generator=generator).to(own[name].dtype) for name, key in names.items()}
    return tensors | {f"{prefix}{k}": torch.rand(3) for k in ("conv1.weight", "layer4.2.bn3.running_var")}


@pytest.mark.parametrize("prefix", ["resnet.", "resnet.module."])
def test_published_checkpoints_go_in_and_out(prefix: str) -> None:
    head = head_of()
    tensors = published(head, prefix)
    assert sum(key.startswith("align.") for key in tensors) == 42
    head.align.decay()
    rest = load_published(head, tensors)
    assert set(rest.backbone) == {"conv1.weight", "layer4.2.bn3.running_var"}
    assert torch.equal(head.norm_layer.bias, tensors["protypicalNet.norm_layer.bias"])
    assert head.align.secondstage is not None
    assert torch.equal(head.align.secondstage.keynet.weight, tensors["align.secondstage.keynet.weight"])
    again = to_published(head, rest)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_a_published_checkpoint_of_another_way_is_refused() -> None:
    tensors = published(head_of(), "resnet.") | {"protypicalNet.norm_layer.weight": torch.ones(5)}
    with pytest.raises(IntegrityError, match=r"norm_layer.weight is \[5\], the head has \[3\]"):
        load_published(head_of(), tensors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss_reduction": "summ"}, "unknown ta2n loss_reduction"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"seq_len": 3}, "seq_len must be at least 4"),
        ({"way": 1}, "way must be at least 2"),
        ({"tasks_per_batch": 0}, "tasks_per_batch"),
        ({"hidden": -1}, "hidden must be at least 0"),
        ({"second_stage": False, "perturb_eval": False}, "would do nothing without second_stage"),
        ({"second_stage": False, "perturb_decay_every": 5}, "would do nothing without second_stage"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        head_of(**config)


def test_features_of_another_width_name_the_setting_that_fits_them() -> None:
    def hint_for(name: str, shape: tuple[int, ...]) -> str:
        with pytest.raises(UsageError, match="per clip, got") as refused:
            make(name).encode({"features": torch.rand(2, *shape)}, "query")
        return refused.value.hint or ""

    assert hint_for("ta2n", (5, 24, 7, 7)).endswith("e.g. --set head_config.dim=24")  # channels of maps, not their side
    assert hint_for("trx", (5, 24)).endswith("e.g. --set head_config.dim=24")
    for name, shape in (("ta2n", (9, 16, 7, 7)), ("ta2n", (5, 16)), ("otam", ())):
        assert "head_config" not in hint_for(name, shape)


@pytest.mark.parametrize("shape", [(7, 5), (3, 3)])
def test_maps_that_are_not_square_or_too_small_are_refused(shape: tuple[int, int]) -> None:
    head = head_of()
    with pytest.raises(UsageError, match=rf"square maps .* at least 4, got {shape[0]}x{shape[1]}"):
        head.encode({"features": torch.rand(2, 5, 16, *shape)}, "query")


def test_maps_of_different_sides_are_refused() -> None:
    head, batch = ready({"count": 1})
    smaller = replace(batch, query={"features": batch.query["features"].repeat(1, 1, 1, 1, 2, 2)})
    for run in (lambda: logits(head, smaller), lambda: head(smaller, 1)):
        with pytest.raises(UsageError, match="same side, got 16 and 64 pixels"):
            run()


def test_a_case_of_one_stage_runs_in_training_and_passes_each_batch_once() -> None:
    case = replace(load(GOLDEN / "ttm_alone"), mode="train")
    values, stage = run_ta2n(case), TTM((512, 512)).train()
    prefix = "align.firststage."
    stage.load_state_dict({k.removeprefix(prefix): torch.from_numpy(w) for k, w in case.weights.items()})
    for name in ("support", "query"):
        x = made(case.config["generated"], name)
        torch.testing.assert_close(values[name], stage(x))
        stage.locnet.eval()
        assert not torch.allclose(values[f"theta_{name}"], stage.theta(x.transpose(1, 2)), atol=1e-3)
        stage.locnet.train()
    for key, value in stage.state_dict().items():
        torch.testing.assert_close(values[f"after/{prefix}{key}"], value, msg=key)


def test_a_case_in_training_without_stage_2_shows_whole_pairs() -> None:
    case = load(GOLDEN / "train_3way_1shot")
    values = run_ta2n(replace(case, config=case.config | {"second_stage": False}))
    assert values["pairs"].shape == (3, 4, 1024, 8, 7, 7)
    torch.testing.assert_close(timewise_cos(*values["pairs"].chunk(2, 2)), values["distances"])


def test_a_case_with_an_unknown_mode_of_batch_norms_is_refused() -> None:
    case = load(GOLDEN / "ttm_alone")
    with pytest.raises(UsageError, match="unknown mode of batch norms 'batched'"):
        run_ta2n(replace(case, config=case.config | {"batch_norm": "batched"}))


def test_its_example_runs() -> None:
    script = ROOT / "examples" / "ta2n_alone.py"
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=ROOT, env=one_thread
    )
    assert (done.returncode, done.stderr) == (0, "")
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]
