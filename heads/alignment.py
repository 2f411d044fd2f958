"""Soft alignments of two frame sequences: OTAM's recursion and soft-DTW, in log space, vectorised over all pairs.

A smooth minimum with temperature s is sm(a, b, ..) = -s log(sum exp(-a/s)). Both recursions run on the gains -d/s, where it is a plain
log-sum-exp: the same numbers as the published exponentials wherever those are finite, and finite everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LAST_COLUMNS = ("three_term", "two_term")


def otam(distances: Tensor, smoothing: float, last_column: str = "three_term") -> Tensor:
    """OTAM's cumulative distance in one direction: [..., Tq, Ts] -> [...].

    The reference's frames (columns) may start and end anywhere along the query's rows: a zero column lies on each side. Columns
    2..Ts have no vertical step, so a whole column follows from the one before; only the first one is run row by row. In the closing
    zero column, "three_term" lets every row of column Ts reach the end (twice, but for the last row: once from its own row, once from
    the next); "two_term" has no vertical step there, so only the last two rows do.
    """
    gains = (distances / -smoothing).movedim((-1, -2), (0, 1))
    columns, rows = gains.shape[:2]
    top = gains[:, 0].cumsum(0)
    first = [top[0]]
    twice = torch.full_like(top[0], math.log(2.0))
    for row in range(1, rows):
        first.append(gains[0, row] + torch.logaddexp(first[-1], twice))
    column = torch.stack(first)
    for m in range(1, columns):
        column = torch.cat([top[m : m + 1], gains[m, 1:] + torch.logaddexp(column[:-1], column[1:])])
    if rows == 1:
        return column[0] * -smoothing
    if last_column == "two_term":
        return torch.logaddexp(column[-2], column[-1]) * -smoothing
    weights = column.new_full((rows,), math.log(2.0))
    weights[-1] = 0.0
    return torch.logsumexp(column + weights.view(-1, *[1] * (column.ndim - 1)), 0) * -smoothing


def otam_both(distances: Tensor, smoothing: float, *, single: bool = False, last_column: str = "three_term") -> Tensor:
    """OTAM's distance: the sum of both directions, or only query frames along rows if `single`; [..., Tq, Ts] -> [...]."""
    forward = otam(distances, smoothing, last_column)
    return forward if single else forward + otam(distances.transpose(-1, -2), smoothing, last_column)


def soft_dtw(distances: Tensor, gamma: float) -> Tensor:
    """The classical soft-DTW value, both end points fixed: [..., N, M] -> [...]; runs by anti-diagonals, gradient by autograd."""
    gains = (distances / -gamma).movedim((-2, -1), (0, 1))
    n, m = gains.shape[:2]
    nothing = torch.full_like(gains[0, 0], -torch.inf).unsqueeze(0)
    before, last = nothing, gains[0, :1]
    begin_before, begin_last = 0, 0
    for diagonal in range(1, n + m - 1):
        begin, end = max(0, diagonal - m + 1), min(diagonal, n - 1) + 1
        rows = torch.arange(begin, end, device=gains.device)
        across = _rows(before, begin_before, begin - 1, end - 1, nothing)
        down = _rows(last, begin_last, begin - 1, end - 1, nothing)
        along = _rows(last, begin_last, begin, end, nothing)
        here = gains[rows, diagonal - rows] + torch.logsumexp(torch.stack([across, down, along]), 0)
        before, begin_before, last, begin_last = last, begin_last, here, begin
    return last[0] * -gamma


def _rows(part: Tensor, begin: int, low: int, high: int, nothing: Tensor) -> Tensor:
    """Rows low..high-1 of a diagonal of which `part` holds the rows from `begin` on; what it doesn't hold is unreachable."""
    wanted = part[max(low - begin, 0) : max(high - begin, 0)]
    ahead = min(max(begin - low, 0), high - low)
    behind = high - low - ahead - wanted.shape[0]
    pieces = [nothing.expand(ahead, *nothing.shape[1:]), wanted, nothing.expand(behind, *nothing.shape[1:])]
    return torch.cat(pieces)


def soft_dtw_padded(distances: Tensor, gamma: float) -> Tensor:
    """Soft-DTW with one zero row before and after the first sequence (free ends for it): [..., N, M] -> [...]."""
    return soft_dtw(F.pad(distances, (0, 0, 1, 1)), gamma)


def soft_path(distances: Tensor, align: Callable[[Tensor], Tensor]) -> Tensor:
    """How much each cell takes part in the alignment: the gradient of `align` w.r.t. its distances, same shape, values >= 0."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = distances.detach().clone().requires_grad_()
        (path,) = torch.autograd.grad(align(leaf).sum(), leaf)
    return path
