"""Mistakes that the golden cases of second-moment poolings notice: in the code, and in a setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from heads import moments
from heads.moments import EPSILON, BdcPooling, by_trace, flattened, trace


def unbiased(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred @ centred.transpose(-1, -2) / (x.shape[-1] - 1)


def not_centred(x: Tensor) -> Tensor:
    return x @ x.transpose(-1, -2) / x.shape[-1]


def true_derivative(matrix: Tensor, backward: str, epsilon: float) -> Tensor:
    return by_trace(matrix, "autograd", epsilon)


def no_epsilon(matrix: Tensor, backward: str, epsilon: float) -> Tensor:
    return by_trace(matrix, "published", 0.0)


def steps(matrix: Tensor, iterations: int, backward: str, epsilon: float, *, new_y: bool, compensate: float) -> Tensor:
    """As it should be, but for a step that takes the new Y already (`new_y`), or another compensation."""
    eye3 = 3 * torch.eye(matrix.shape[-1])
    normed = by_trace(matrix, backward, epsilon)
    z = (eye3 - normed) / 2
    y = normed @ z
    for _ in range(iterations - 2):
        step = (eye3 - z @ y) / 2
        y = y @ step
        z = ((eye3 - z @ y) / 2 if new_y else step) @ z
    return (trace(matrix) + compensate).sqrt() * (y @ (eye3 - z @ y) / 2)


def new_y_inside(matrix: Tensor, iterations: int, backward: str, epsilon: float) -> Tensor:
    return steps(matrix, iterations, backward, epsilon, new_y=True, compensate=0.0)


def compensated_with_epsilon(matrix: Tensor, iterations: int, backward: str, epsilon: float) -> Tensor:
    return steps(matrix, iterations, backward, epsilon, new_y=False, compensate=epsilon)


def column_by_column(matrix: Tensor) -> Tensor:
    column, row = torch.tril_indices(*matrix.shape[-2:])
    return matrix[..., row, column]


def no_diagonal(matrix: Tensor) -> Tensor:
    row, column = torch.triu_indices(*matrix.shape[-2:])
    return torch.where(row == column, 0, matrix[..., row, column])


def squared_distances(x: Tensor) -> Tensor:
    product = x @ x.transpose(-1, -2)
    size = product.diagonal(dim1=-2, dim2=-1)
    return F.relu(size[..., :, None] + size[..., None, :] - 2 * product)


def centred_doubly(root: Tensor) -> Tensor:
    return root - root.mean(-1, keepdim=True) - root.mean(-2, keepdim=True) + root.mean((-2, -1), keepdim=True)


def no_grand_mean(x: Tensor, temperature: Tensor, epsilon: float = EPSILON) -> Tensor:
    root = (temperature.exp() * squared_distances(x) + epsilon).sqrt()
    return root - root.mean(-1, keepdim=True) - root.mean(-2, keepdim=True)


def plain_temperature(x: Tensor, temperature: Tensor, epsilon: float = EPSILON) -> Tensor:
    return centred_doubly((temperature.abs() * squared_distances(x) + epsilon).sqrt())


def centred_channels(x: Tensor, temperature: Tensor, epsilon: float = EPSILON) -> Tensor:
    return moments_brownian(x - x.mean(-1, keepdim=True), temperature, epsilon)


def without_relu(self: BdcPooling, maps: Tensor) -> Tensor:
    x = flattened(maps, self.channels)
    assert self.reduce is not None
    return moments_brownian(self.reduce[:2](x.unsqueeze(-1)).squeeze(-1), self.temperature, self.epsilon)


moments_brownian = moments.brownian
SMALL_TRACE = "mpncov/iter3_small_trace"

MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "an unbiased covariance": ("mpncov/iter3_3x16x5x7", moments, "covariance", unbiased),
    "a covariance about zero": ("mpncov/iter3_3x16x5x7", moments, "covariance", not_centred),
    "the true derivative": (SMALL_TRACE, moments, "by_trace", true_derivative),
    "a trace without epsilon": (SMALL_TRACE, moments, "by_trace", no_epsilon),
    "compensation with epsilon": (SMALL_TRACE, moments, "newton_schulz_root", compensated_with_epsilon),
    "the new Y inside a step": ("mpncov/iter5_2x20x6x6", moments, "newton_schulz_root", new_y_inside),
    "the triangle column by column": ("mpncov/iter3_3x16x5x7", moments, "upper_triangle", column_by_column),
    "the triangle without its diagonal": ("bdc/no_reduce_24", moments, "upper_triangle", no_diagonal),
    "no grand mean": ("bdc/no_reduce_24", moments, "brownian", no_grand_mean),
    "a temperature that is no exponent": ("bdc/no_reduce_24", moments, "brownian", plain_temperature),
    "channels centred": ("bdc/reduce_640_32", moments, "brownian", centred_channels),
    "a reduction without ReLU": ("bdc/train_reduce_64_20", BdcPooling, "matrix", without_relu),
}


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("mpncov/iter3_2x64x7x7_rank_deficient", {"iterations": 4}),
    ("mpncov/iter5_2x20x6x6", {"iterations": 2}),
    (SMALL_TRACE, {"backward": "autograd"}),
    (SMALL_TRACE, {"trace_epsilon": 1e-6}),
    ("bdc/no_reduce_24", {"sqrt_epsilon": 1e-3}),
    ("bdc/train_reduce_64_20", {"batch_norm": "running"}),
]
