"""The small temporal transformer of GSLTA: one layer norm shared by query, key and value, none before the feed-forward part."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and feed-forward, both with a residual onto their un-normalised input: [N, T, D] -> [N, T, D]."""

    def __init__(
        self, dim: int, heads: int, dim_head: int, mlp_dim: int, out_dropout: float, ff_dropout: float
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)
        self.widen = nn.Linear(dim, mlp_dim)
        self.narrow = nn.Linear(mlp_dim, dim)
        self.out_dropout = nn.Dropout(out_dropout)
        self.ff_dropout = nn.Dropout(ff_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over the frames of each clip, then the feed-forward part (exact GELU)."""
        n = self.norm(x)
        q, k, v = (to(n).unflatten(2, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = x + self.out_dropout(self.to_out(attended))
        out: Tensor = y + self.ff_dropout(self.narrow(self.ff_dropout(F.gelu(self.widen(y)))))
        return out


class Encoder(nn.Module):
    """`depth` blocks, no positional encoding, no final norm: [..., T, D] -> [..., T, D]."""

    def __init__(
        self, *, depth: int, dim: int, heads: int, dim_head: int, mlp_dim: int, out_dropout: float, ff_dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(dim, heads, dim_head, mlp_dim, out_dropout, ff_dropout) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """All leading axes are clips."""
        y = x.flatten(0, -3)
        for layer in self.layers:
            y = layer(y)
        return y.view(x.shape)
