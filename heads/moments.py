"""Second moments of feature maps: covariance and its square root, and Brownian distance covariance, each also as a pooling of its own.

iSQRT-COV (Li, Xie, Wang, Gao, CVPR 2018) and DeepBDC (Xie, Long, Lv, Wang, Li, CVPR 2022). Source: the method card of TAMT. Ours: a clip
without any variance has root and gradient 0 (the published derivative divides by its trace), and a batch of one keeps its batch axis (the
published pooling loses it).
B maps, C channels, M positions of a map; maps are [B, C, ...] with any axes of positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown

BACKWARDS = ("published", "autograd")
EPSILON = 1e-5
"""Added, unless told otherwise, to a trace before it divides, and to squared Brownian distances before their root."""


def covariance(x: Tensor) -> Tensor:
    """The biased covariance over positions, [..., C, M] -> [..., C, C]."""
    centred = x - x.mean(-1, keepdim=True)
    return centred @ centred.transpose(-1, -2) / x.shape[-1]


def upper_triangle(matrix: Tensor) -> Tensor:
    """The upper triangle with its diagonal, row by row, [..., C, C] -> [..., C (C + 1) / 2]."""
    row, column = torch.triu_indices(*matrix.shape[-2:], device=matrix.device)
    return matrix[..., row, column]


class _ByTrace(torch.autograd.Function):
    """S / (trace S + epsilon), whose published derivative leaves epsilon out: G / trace - I <G, S> / trace^2."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(matrix)
        return matrix / (trace(matrix) + epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (matrix,) = ctx.saved_tensors
        size = trace(matrix)
        inverse = torch.where(size < torch.finfo(size.dtype).tiny, torch.inf, size).reciprocal()
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        along = (gradient * matrix).sum((-2, -1), keepdim=True)
        return gradient * inverse - eye * (along * inverse * inverse), None


def trace(matrix: Tensor) -> Tensor:
    """[..., C, C] -> [..., 1, 1]."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def by_trace(matrix: Tensor, backward: str, epsilon: float) -> Tensor:
    """The matrix over its trace + epsilon, with the published or the true derivative; UsageError for another `backward`."""
    if backward not in BACKWARDS:
        raise unknown("derivative of the matrix root", backward, BACKWARDS)
    if backward == "autograd":
        return matrix / (trace(matrix) + epsilon)
    normed: Tensor = _ByTrace.apply(matrix, epsilon)
    return normed


def newton_schulz_root(
    matrix: Tensor, iterations: int = 3, backward: str = "published", epsilon: float = EPSILON
) -> Tensor:
    """The approximate square root of symmetric non-negative matrices [..., C, C] by Newton-Schulz steps; 0 where the trace is 0.

    The matrix is first divided by its trace + epsilon, the result multiplied by the root of the trace alone. `backward`: "autograd" is the
    true derivative, "published" takes epsilon for 0 in it (they differ by about epsilon / trace).
    """
    eye3 = 3 * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    normed = by_trace(matrix, backward, epsilon)
    z = (eye3 - normed) / 2
    y = normed @ z
    for _ in range(iterations - 2):
        step = (eye3 - z @ y) / 2
        y, z = y @ step, step @ z
    if iterations > 1:
        y = y @ (eye3 - z @ y) / 2
    size = trace(matrix)
    return torch.where(size > 0, torch.where(size > 0, size, 1).sqrt(), 0) * y


def brownian(x: Tensor, temperature: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Brownian distance covariance of channels, [..., C, M] -> [..., C, C]: the roots of their squared distances, doubly centred.

    Squared distances are multiplied by exp(temperature), and epsilon is added. The positions of a channel are not centred.
    """
    product = x @ x.transpose(-1, -2)
    size = product.diagonal(dim1=-2, dim2=-1)
    squared = F.relu(size[..., :, None] + size[..., None, :] - 2 * product)
    root = (temperature.exp() * squared + epsilon).sqrt()
    return root - root.mean(-1, keepdim=True) - root.mean(-2, keepdim=True) + root.mean((-2, -1), keepdim=True)


def flattened(maps: Tensor, channels: int | None = None) -> Tensor:
    """Maps [B, C, ...] as [B, C, M]; UsageError unless there are positions and, where told, so many channels."""
    if maps.ndim < 3 or 0 in maps.shape[1:] or channels not in (None, maps.shape[1]):
        want = f"maps [batch, {channels or 'channels'}, positions...] with at least one of each"
        raise UsageError(f"second moments are taken of {want}, got {list(maps.shape)}")
    return maps.flatten(2)


class CovariancePooling(nn.Module):
    """The square root of each map's covariance (iSQRT-COV); no parameters. Maps [B, C, ...] -> [B, C (C + 1) / 2]."""

    def __init__(self, iterations: int = 3, backward: str = "published", epsilon: float = EPSILON) -> None:
        super().__init__()
        if iterations < 1 or epsilon <= 0:
            raise UsageError(
                f"a matrix root takes at least one Newton-Schulz iteration and epsilon > 0, got {iterations} and {epsilon}"
            )
        if backward not in BACKWARDS:
            raise unknown("derivative of the matrix root", backward, BACKWARDS)
        self.iterations, self.backward_form, self.epsilon = iterations, backward, epsilon

    def matrix(self, maps: Tensor) -> Tensor:
        """The whole roots, [B, C, C]."""
        return newton_schulz_root(covariance(flattened(maps)), self.iterations, self.backward_form, self.epsilon)

    def forward(self, maps: Tensor) -> Tensor:
        """Their upper triangles, row by row, with the diagonal."""
        return upper_triangle(self.matrix(maps))


class BdcPooling(nn.Module):
    """Deep BDC: channels reduced by a 1x1 convolution, batch norm and ReLU, then their Brownian distance covariance.

    Maps [B, channels, ...] -> [B, D (D + 1) / 2], D = reduce_to or, without reduction (None, or equal to channels), channels. places: the
    positions of a map, from which the learned temperature starts, log(1 / (2 places)).
    """

    def __init__(self, channels: int, reduce_to: int | None = None, places: int = 49, epsilon: float = EPSILON) -> None:
        super().__init__()
        if min(channels, places, channels if reduce_to is None else reduce_to) < 1:
            raise UsageError(f"BdcPooling needs sizes of at least 1, got {channels}, {reduce_to} and {places} places")
        if epsilon <= 0:
            raise UsageError(f"BdcPooling needs epsilon > 0 (the root has no derivative at 0), got {epsilon}")
        self.channels, self.epsilon = channels, epsilon
        self.temperature = nn.Parameter(torch.full((1, 1), -math.log(2 * places)))
        self.reduce: nn.Sequential | None = None
        if reduce_to not in (None, channels):
            convolution = nn.Conv2d(channels, reduce_to, 1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.reduce = nn.Sequential(convolution, nn.BatchNorm2d(reduce_to), nn.ReLU())

    def matrix(self, maps: Tensor) -> Tensor:
        """The whole matrices, [B, D, D]."""
        x = flattened(maps, self.channels)
        if self.reduce is not None:
            x = self.reduce(x.unsqueeze(-1)).squeeze(-1)
        return brownian(x, self.temperature, self.epsilon)

    def forward(self, maps: Tensor) -> Tensor:
        """Their upper triangles, row by row, with the diagonal."""
        return upper_triangle(self.matrix(maps))

    def published_names(self) -> dict[str, str]:
        """Name of each tensor -> its published key (conv_dr_block.0.weight, ...)."""
        return {name: name.replace("reduce.", "conv_dr_block.", 1) for name in self.state_dict()}
