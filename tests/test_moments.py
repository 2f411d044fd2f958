"""Second moments against plain loops and exact roots, their derivatives, and what happens where there is nothing to measure."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import load, mismatch
from parity import answers
from torch import Tensor

from fsar_cache.errors import UsageError
from heads import BdcPooling, CovariancePooling
from heads.moments import brownian, covariance, newton_schulz_root, upper_triangle

GOLDEN = Path(__file__).resolve().parent / "golden"


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(shape))


def slow_root(sigma: np.ndarray, n: int) -> np.ndarray:
    """One matrix, in the words of the card."""
    tau, one = sum(sigma[i, i] for i in range(len(sigma))), np.eye(len(sigma))
    a = sigma / (tau + 1e-5)
    if n == 1:
        return math.sqrt(tau) * a @ (3 * one - a) / 2
    y, z = a @ (3 * one - a) / 2, (3 * one - a) / 2
    for _ in range(n - 2):
        w = (3 * one - z @ y) / 2
        y, z = y @ w, w @ z
    return math.sqrt(tau) * y @ (3 * one - z @ y) / 2


def slow_brownian(x: np.ndarray, t: float) -> np.ndarray:
    d = len(x)
    e = np.array([[math.sqrt(math.exp(t) * ((x[i] - x[j]) ** 2).sum() + 1e-5) for j in range(d)] for i in range(d)])
    return np.array([[e[i, j] - e[i].mean() - e[:, j].mean() + e.mean() for j in range(d)] for i in range(d)])


def test_covariance_is_the_biased_one() -> None:
    x = drawn(2, 3, 5, 11) + 4
    for b, k in np.ndindex(2, 3):
        np.testing.assert_allclose(covariance(x)[b, k], np.cov(x[b, k], bias=True), rtol=1e-12)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("backward", ["published", "autograd"])
def test_root_equals_the_slow_one(iterations: int, backward: str) -> None:
    sigma = covariance(drawn(3, 6, 9))
    got = newton_schulz_root(sigma, iterations, backward)
    np.testing.assert_allclose(got, [slow_root(each.numpy(), iterations) for each in sigma], rtol=1e-12)


def test_root_approaches_the_exact_one() -> None:
    sigma = covariance(drawn(2, 5, 40))
    values, vectors = torch.linalg.eigh(sigma)
    exact = vectors @ torch.diag_embed(values.sqrt()) @ vectors.transpose(-1, -2)
    off = [(newton_schulz_root(sigma, n) - exact).norm().item() for n in (1, 3, 5, 15)]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-4 < off[1]  # epsilon stays


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_the_true_derivative_is_true(iterations: int) -> None:
    x = drawn(2, 4, 6, scale=0.02).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: newton_schulz_root(covariance(x), iterations, "autograd"), (x,))


def derivatives(x: Tensor, weight: Tensor, **form: Any) -> Tensor:
    x = x.clone().requires_grad_()
    (newton_schulz_root(covariance(x), 3, **form) * weight).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize(("scale", "least", "most"), [(3.0, 1e-9, 1e-6), (1e-2, 1e-4, 1e-1)])
def test_the_published_derivative_is_off_by_epsilon_over_trace(scale: float, least: float, most: float) -> None:
    x, weight = drawn(1, 6, 9, scale=scale), drawn(1, 6, 6, seed=1)
    true, published = (derivatives(x, weight, backward=form) for form in ("autograd", "published"))
    off = (true - published).norm() / true.norm()
    assert least < off < most
    trace = covariance(x).diagonal(dim1=-2, dim2=-1).sum()
    assert 0.05 < off / (1e-5 / trace) < 20
    small = {"epsilon": 1e-30}
    torch.testing.assert_close(*(derivatives(x, weight, backward=b, **small) for b in ("autograd", "published")))


def test_the_published_derivative_is_that_of_another_function() -> None:
    """Of one with the same value here, whose normalised matrix changes as S / trace does, without epsilon."""
    sigma, g = covariance(drawn(5, 8, scale=0.01)), drawn(5, 5, seed=2)
    here, there = sigma.clone().requires_grad_(), sigma.clone().requires_grad_()
    root = newton_schulz_root(here, 3)
    (root * g).sum().backward()
    t, one = there.trace(), torch.eye(5)
    a = sigma / (sigma.trace() + 1e-5) + there / t - sigma / sigma.trace()
    y, z = a @ (3 * one - a) / 2, (3 * one - a) / 2
    w = (3 * one - z @ y) / 2
    y, z = y @ w, w @ z
    other = t.sqrt() * y @ (3 * one - z @ y) / 2
    (other * g).sum().backward()
    torch.testing.assert_close(other, root, rtol=1e-12, atol=0)
    torch.testing.assert_close(here.grad, there.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backward", ["published", "autograd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_variance_root_and_gradient_are_zero(backward: str, dtype: torch.dtype) -> None:
    x = drawn(4, 5, 7).to(dtype)
    x[1] = 3.25
    x[2] = 1e-21 * x[2]
    x = x.requires_grad_()
    root = newton_schulz_root(covariance(x), 3, backward)
    assert torch.isfinite(root).all()
    assert (root[1] == 0).all()
    (grad,) = torch.autograd.grad(root.sum() + root[..., 0, 1].sum(), x)
    assert torch.isfinite(grad).all()
    assert (grad[1] == 0).all()
    alone = x[3:].detach().requires_grad_()
    own = newton_schulz_root(covariance(alone), 3, backward)
    (own.sum() + own[..., 0, 1].sum()).backward()
    torch.testing.assert_close(grad[3:], alone.grad)


def test_upper_triangle_is_row_by_row() -> None:
    m = drawn(2, 4, 4)
    want = [m[:, i, j] for i in range(4) for j in range(i, 4)]
    assert torch.equal(upper_triangle(m), torch.stack(want, -1))


def test_brownian_equals_the_slow_one_and_its_derivative_is_true() -> None:
    x, t = drawn(3, 5, 8), torch.tensor([[-1.3]], dtype=torch.float64)
    got = brownian(x, t)
    np.testing.assert_allclose(got, [slow_brownian(each.numpy(), -1.3) for each in x], rtol=1e-9, atol=1e-12)
    assert got.sum(-1).abs().max() < 1e-12
    assert torch.autograd.gradcheck(brownian, (x[:1, :3].requires_grad_(), t.requires_grad_()))


def test_order_of_positions_does_not_matter() -> None:
    x = drawn(2, 5, 12).float()
    for pool in (CovariancePooling(), BdcPooling(5)):
        torch.testing.assert_close(pool(x[..., torch.randperm(12)]), pool(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pool(x.view(2, 5, 3, 4)), pool(x))


@pytest.mark.parametrize("channels", [3, 8])
def test_poolings_have_their_sizes_and_keep_a_batch_of_one(channels: int) -> None:
    x = drawn(1, channels, 3, 4).float()
    for pool, size in ((CovariancePooling(), channels), (BdcPooling(channels), channels), (BdcPooling(channels, 5), 5)):
        assert pool.eval()(x).shape == (1, size * (size + 1) // 2)
        assert pool.matrix(x).shape == (1, size, size)
    assert list(CovariancePooling().parameters()) == []


def test_poolings_start_as_the_card_says() -> None:
    pool = BdcPooling(640, 64, places=25)
    assert pool.temperature.item() == pytest.approx(math.log(1 / (2 * 25)))
    assert pool.reduce is not None
    weight = pool.reduce[0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)  # fan-out
    assert BdcPooling(640, 640).reduce is None
    published = pool.published_names()
    assert published.keys() == pool.state_dict().keys()
    assert set(published.values()) == set(load(GOLDEN / "bdc" / "reduce_640_32").weights)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CovariancePooling(0), "at least one Newton-Schulz iteration"),
        (lambda: CovariancePooling(epsilon=0.0), "epsilon > 0"),
        (lambda: CovariancePooling(backward="publisht"), "derivative of the matrix root 'publisht'"),
        (lambda: newton_schulz_root(torch.eye(2)[None], 3, "true"), "derivative of the matrix root 'true'"),
        (lambda: BdcPooling(0), "sizes of at least 1"),
        (lambda: BdcPooling(4, 0), "sizes of at least 1"),
        (lambda: BdcPooling(4, places=0), "0 places"),
        (lambda: BdcPooling(4, epsilon=0.0), "epsilon > 0"),
        (lambda: BdcPooling(4)(torch.rand(2, 5, 6)), r"\[batch, 4, positions...\] .* got \[2, 5, 6\]"),
        (lambda: BdcPooling(4)(torch.rand(2, 4)), r"got \[2, 4\]"),
        (lambda: CovariancePooling()(torch.rand(2, 4, 0)), r"got \[2, 4, 0\]"),
    ],
)
def test_mistakes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("name", ["train_reduce_64_20", "reduce_640_32"])
def test_batch_norms_of_a_case_are_as_its_config_says(name: str) -> None:
    case = load(GOLDEN / "bdc" / name)
    other = replace(case, mode={"train": "eval", "eval": "train"}[case.mode])
    assert max(mismatch(other, answers(other)).values()) <= 1
