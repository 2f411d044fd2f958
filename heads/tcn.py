"""A causal temporal convolution network: three residual blocks of weight-normalised convolutions with growing dilation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 3
DILATIONS = (1, 2, 4)


class CausalConv(nn.Module):
    """A convolution that sees the present and the past only, weight-normalised per output channel: [B, D, T] -> [B, D, T].

    The weight is weight_g * weight_v / |weight_v|, the norm over input channels and kernel; it starts as torch's Conv1d does.
    """

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        plain = nn.Conv1d(dim, dim, KERNEL)
        assert plain.bias is not None
        self.dilation = dilation
        self.weight_v = nn.Parameter(plain.weight.detach().clone())
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(self.weight_v.detach(), dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(plain.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Zeros stand for the time before the clip."""
        weight = self.weight_v * (self.weight_g / torch.linalg.vector_norm(self.weight_v, dim=(1, 2), keepdim=True))
        past = F.pad(x, ((KERNEL - 1) * self.dilation, 0))
        return F.conv1d(past, weight, self.bias, dilation=self.dilation)


class CausalBlock(nn.Module):
    """relu(x + f(x)), f two causal convolutions, each with ReLU and element-wise dropout behind it."""

    def __init__(self, dim: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = CausalConv(dim, dilation)
        self.conv2 = CausalConv(dim, dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, T] -> [B, D, T]."""
        inner = self.dropout(F.relu(self.conv1(x)))
        return F.relu(x + self.dropout(F.relu(self.conv2(inner))))


class Tcn(nn.Module):
    """Blocks with dilations 1, 2, 4: at each time step of [B, T, D] what the past says; the last one has seen 29 steps."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CausalBlock(dim, dilation, dropout) for dilation in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        y = x.transpose(1, 2)
        for block in self.blocks:
            y = block(y)
        return y.transpose(1, 2)
