"""The vectorised recursions against double loops in float64 written down from their definitions, and their numerics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from heads.alignment import otam, otam_both, soft_dtw, soft_dtw_padded, soft_path
from heads.distances import cosine, frame_distances, similarity, squared_euclidean


def smooth_minimum(values: Sequence[float], s: float) -> float:
    low = min(values)
    return low if math.isinf(low) else low - s * math.log(sum(math.exp(-(v - low) / s) for v in values))


def slow_otam(d: np.ndarray, s: float, last: str) -> float:
    rows, columns = d.shape
    padded = np.zeros((rows, columns + 2))
    padded[:, 1:-1] = d
    c = np.zeros_like(padded)
    for m in range(1, columns + 2):
        c[0, m] = padded[0, m] + c[0, m - 1]
    for r in range(1, rows):
        for m in range(1, columns + 2):
            before = [c[r - 1, m - 1], c[r, m - 1]]
            if m == 1 or (m == columns + 1 and last == "three_term"):
                before.append(c[r - 1, m])
            c[r, m] = padded[r, m] + smooth_minimum(before, s)
    return float(c[-1, -1])


def slow_soft_dtw(d: np.ndarray, s: float) -> float:
    n, m = d.shape
    r = np.full((n + 1, m + 1), np.inf)
    r[0, 0] = 0.0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            r[i, j] = d[i - 1, j - 1] + smooth_minimum([r[i - 1, j - 1], r[i - 1, j], r[i, j - 1]], s)
    return float(r[n, m])


SHAPES = [(1, 1), (1, 4), (4, 1), (2, 2), (2, 5), (8, 8), (4, 8), (8, 3), (16, 16)]


def tables(shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(shape[0] * 31 + shape[1])
    return rng.uniform(0, 1.2, (2, 3, *shape))


def each(slow: Callable[[np.ndarray], float], d: np.ndarray) -> np.ndarray:
    return np.array([[slow(one) for one in row] for row in d])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smoothing", [0.05, 0.5])
@pytest.mark.parametrize("last", ["three_term", "two_term"])
def test_otam_equals_the_double_loop(shape: tuple[int, int], smoothing: float, last: str) -> None:
    d = tables(shape)
    want = each(lambda one: slow_otam(one, smoothing, last), d)
    np.testing.assert_allclose(otam(torch.from_numpy(d), smoothing, last).numpy(), want, rtol=1e-10, atol=1e-12)
    single = otam(torch.from_numpy(d).float(), smoothing, last)
    np.testing.assert_allclose(single.numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_soft_dtw_equals_the_double_loop(shape: tuple[int, int], gamma: float) -> None:
    d = tables(shape)
    want = each(lambda one: slow_soft_dtw(one, gamma), d)
    np.testing.assert_allclose(soft_dtw(torch.from_numpy(d), gamma).numpy(), want, rtol=1e-10, atol=1e-12)
    padded = each(lambda one: slow_soft_dtw(np.pad(one, ((1, 1), (0, 0))), gamma), d)
    np.testing.assert_allclose(soft_dtw_padded(torch.from_numpy(d), gamma).numpy(), padded, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (4, 5)])
def test_gradients_equal_finite_differences(shape: tuple[int, int]) -> None:
    d = torch.from_numpy(tables(shape)).requires_grad_()
    for align in (
        lambda x: otam(x, 0.3),
        lambda x: otam(x, 0.3, "two_term"),
        lambda x: otam_both(x, 0.3),
        lambda x: soft_dtw(x, 0.3),
        lambda x: soft_dtw_padded(x, 0.3),
    ):
        assert torch.autograd.gradcheck(align, (d,))


@pytest.mark.parametrize(("frames", "cost", "want"), [(8, 1.0, 7.2508), (16, 0.5, 6.6196)])
def test_values_printed_in_the_card(frames: int, cost: float, want: float) -> None:
    assert otam(torch.full((frames, frames), cost), 0.1).item() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("align", [otam, soft_dtw, soft_dtw_padded])
def test_long_and_costly_sequences_stay_finite(align: Callable[[torch.Tensor, float], torch.Tensor]) -> None:
    d = torch.full((32, 32), 2.0).requires_grad_()
    value = align(d, 0.01)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(d.grad).all()
    assert value.item() == pytest.approx(64.0, rel=0.05)  # at least 32 cells of cost 2 on every path


def test_a_vanishing_smoothing_finds_the_cheapest_path() -> None:
    d = torch.ones(4, 4)
    d[torch.arange(4), torch.arange(4)] = 0.0
    assert otam(d, 1e-3).item() == pytest.approx(0.0, abs=0.02)
    assert soft_dtw(d, 1e-3).item() == pytest.approx(0.0, abs=0.02)
    reversed_in_time = d.flip(-1)
    assert otam(reversed_in_time, 1e-3).item() > 1.5


def test_both_directions_are_summed_and_single_is_the_first() -> None:
    d = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1))
    one, other = otam(d, 0.2), otam(d.transpose(-1, -2), 0.2)
    torch.testing.assert_close(otam_both(d, 0.2), one + other)
    torch.testing.assert_close(otam_both(d, 0.2, single=True), one)
    assert not torch.allclose(one, other)


def test_the_path_is_a_distribution_over_cells_even_in_inference_mode() -> None:
    with torch.inference_mode():
        d = 1 - torch.eye(5).expand(2, 5, 5)
        path = soft_path(d, lambda x: soft_dtw(x, 0.01))
    assert (path >= 0).all()
    torch.testing.assert_close(path, torch.eye(5).expand(2, 5, 5), atol=1e-4, rtol=0)


def test_distances_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64)
    s = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64)
    s[0, 0, 0] = 0.0
    added = frame_distances(q, s, lambda a, b: 1 - similarity(a, b, 0.01))
    plain = frame_distances(q, s, lambda a, b: 1 - cosine(a, b))
    euclid = frame_distances(q, s, squared_euclidean)
    assert added.shape == (2, 3, 5, 4, 6)
    for e, i, j, t, u in np.ndindex(*added.shape):
        a, b = q[e, i, t].numpy(), s[e, j, u].numpy()
        norms = np.sqrt((a * a).sum() * (b * b).sum())
        assert added[e, i, j, t, u].item() == pytest.approx(1 - a @ b / (norms + 0.01))
        assert plain[e, i, j, t, u].item() == pytest.approx(1 - (a @ b / norms if norms else 0.0))
        assert euclid[e, i, j, t, u].item() == pytest.approx(((a - b) ** 2).sum())


def test_similarity_adds_epsilon_rather_than_flooring() -> None:
    small = torch.tensor([[0.1, 0.0]])
    assert similarity(small, small, 0.01).item() == pytest.approx(0.5)
