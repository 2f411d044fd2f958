"""The parts of CLIP-MDMF that know no episode: distillation between two views, and the causal network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_clip import distilled

from heads.tcn import Tcn
from heads.views import distillation, teaching_weights, weighted_mean


@pytest.mark.parametrize("direction", ["bid", "up2down", "down2up"])
@pytest.mark.parametrize("condition", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_distillation_against_loops(condition: tuple[int, int], direction: str) -> None:
    rng = np.random.default_rng(3)
    made = {"dist_up": rng.normal(0, 1, (12, 4)), "dist_down": rng.normal(0, 1, (12, 4)), "conf": rng.random((4, 12))}
    judged = np.stack([made["conf"][0] >= made["conf"][1], made["conf"][2] >= made["conf"][3]])
    assert judged.all(0).any()
    assert (~judged.any(0)).any()
    assert (judged.any(0) & ~judged.all(0)).any()  # queries of every kind
    shown = {name: torch.from_numpy(x)[None] for name, x in made.items()}
    for detach in (False, True):
        got = distillation(shown, condition, direction, detach)
        assert got.tolist() == [pytest.approx(distilled(made, condition, direction))]


def test_undecided_queries_teach_nothing_and_give_finite_gradients() -> None:
    conf = torch.tensor([[[0.6, 0.6], [0.5, 0.5], [0.4, 0.4], [0.5, 0.5]]])  # the text says up, the alignment down
    weights = teaching_weights(conf, (1, 1))
    assert not weights["up"].any()
    assert not weights["down"].any()
    up, down = (torch.randn(1, 2, 3, requires_grad=True) for _ in range(2))
    loss = distillation({"dist_up": up, "dist_down": down, "conf": conf}, (1, 1), "bid", False)
    assert loss.tolist() == [0.0]
    for grad in torch.autograd.grad(loss.sum(), (up, down)):
        assert torch.equal(grad, torch.zeros_like(grad))
    even = teaching_weights(conf.mean(1, keepdim=True).expand(1, 4, 2), (1, 1))
    assert even["up"].all()  # where both views are as sure, the up view is taken
    torch.testing.assert_close(weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])), torch.tensor(2.0))


def test_the_causal_network_sees_the_past_only_and_all_of_it() -> None:
    torch.manual_seed(0)
    net, x = Tcn(16, 0.0), torch.rand(1, 8, 16, requires_grad=True)
    for t in range(8):
        (grad,) = torch.autograd.grad(net(x)[:, t].sum(), x)
        assert (grad[0].abs().sum(-1) > 0).tolist() == [s <= t for s in range(8)]
