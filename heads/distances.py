"""Distances between vectors and between the frames of clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Callable[[Tensor, Tensor], Tensor]
"""[..., N, D] and [..., M, D] to [..., N, M]."""


def similarity(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    """a.b / (|a||b| + epsilon) of all pairs: [..., N, D], [..., M, D] -> [..., N, M]; epsilon is added, it is no floor."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=-1).unsqueeze(-1) * torch.linalg.vector_norm(b, dim=-1).unsqueeze(
        -2
    )
    return torch.matmul(a, b.transpose(-1, -2)) / (norms + epsilon)


def cosine(a: Tensor, b: Tensor, floor: float = 1e-12) -> Tensor:
    """The plain cosine of all pairs, norms floored: [..., N, D], [..., M, D] -> [..., N, M]; 0 for a zero vector."""
    return torch.matmul(F.normalize(a, dim=-1, eps=floor), F.normalize(b, dim=-1, eps=floor).transpose(-1, -2))


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||^2 of all pairs, from the differences (no cancellation): [..., N, D], [..., M, D] -> [..., N, M]."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def frame_distances(query: Tensor, reference: Tensor, metric: Metric) -> Tensor:
    """Distances of all frames of all pairs of clips.

    query [E, Q, Tq, D], reference [E, R, Ts, D] -> [E, Q, R, Tq, Ts]; `metric` gives distances (not similarities).
    """
    table = metric(query.flatten(1, 2), reference.flatten(1, 2))
    return table.reshape(len(query), *query.shape[1:3], *reference.shape[1:3]).transpose(2, 3)
