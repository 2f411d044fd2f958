"""The small transformer of CLIP-FSAR and its kin: one layer norm shared by query, key and value, none before the feed-forward part."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and feed-forward, both with a residual onto their un-normalised input: queries [N, T, D] -> [N, T, D]."""

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

    def forward(self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """Attention of x [N, T, D] to itself or to keys and values [N, M, D], then the feed-forward part (exact GELU)."""
        n = self.norm(x)
        from_keys = n if keys is None else self.norm(keys)
        from_values = from_keys if values is None or values is keys else self.norm(values)
        made = self.to_q(n), self.to_k(from_keys), self.to_v(from_values)
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in made)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = x + self.out_dropout(self.to_out(attended))
        out: Tensor = y + self.ff_dropout(self.narrow(self.ff_dropout(F.gelu(self.widen(y)))))
        return out


class Encoder(nn.Module):
    """`depth` blocks, no positional encoding, no final norm: [..., T, D] -> [..., T, D].

    Keys and values [..., M, D] of their own are for the first block; the others attend to what they get.
    """

    def __init__(
        self, *, depth: int, dim: int, heads: int, dim_head: int, mlp_dim: int, out_dropout: float, ff_dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(dim, heads, dim_head, mlp_dim, out_dropout, ff_dropout) for _ in range(depth))

    def forward(self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """All leading axes are clips."""
        given = [None if t is None else t.flatten(0, -3) for t in (keys, values)]
        y = x.flatten(0, -3)
        for layer in self.layers:
            y = layer(y, *given)
            given = []
        return y.view(x.shape)


PUBLISHED_PARTS = {
    "norm": "0.norm",
    "to_q": "0.fn.to_q",
    "to_k": "0.fn.to_k",
    "to_v": "0.fn.to_v",
    "to_out": "0.fn.to_out.0",
    "widen": "1.net.0",
    "narrow": "1.net.3",
}
"""Part of a block -> what published checkpoints call it."""


def published_names(encoder: Encoder, ours: str, theirs: str) -> dict[str, str]:
    """Name of each of the encoder's tensors, "OURS.layers.0.to_q.weight" -> its published key, "THEIRS.layers.0.0.fn.to_q.weight"."""
    names = {}
    for name in encoder.state_dict():
        _, index, part, leaf = name.split(".")
        names[f"{ours}.{name}"] = f"{theirs}.layers.{index}.{PUBLISHED_PARTS[part]}.{leaf}"
    return names
