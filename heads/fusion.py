"""Fusion of frames with another stream (text or flow): cross-attention and feed-forward that can start as the identity.

Source: the method card of TMAL, B3 and, for positions, its oracle 6. It is this project's design: the authors published no equations.
N clips, T frames, M tokens of the other stream, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KEYS = ("ctx", "self+ctx")
"""What frames attend to: the other stream, or themselves and the other stream."""
INITS = ("zero", "default")


def sinusoid(length: int, dim: int, like: Tensor) -> Tensor:
    """Positions [length, dim], transformers' usual ones: sines in even and cosines in odd channels, wavelengths 2 pi to 20000 pi."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)[:, None]
    wave = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=like.dtype) / dim)
    both = torch.stack([(place * wave).sin(), (place * wave).cos()], -1)
    return both.flatten(1)[:, :dim]


class Attention(nn.Module):
    """The projections of the attention; queries, keys and values without bias, the output with one, then dropout."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[N, T, D], [N, K, D], [N, K, D] to [N, T, D]."""
        n, dim = len(queries), queries.shape[-1]
        made = self.to_q(queries), self.to_k(keys), self.to_v(values)
        q, k, v = (each.reshape(n, -1, self.heads, dim // self.heads).transpose(1, 2) for each in made)
        out: Tensor = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Fusion(nn.Module):
    """F(x; m) = h + FFN(h) with h = x + Attention(LN x, keys): frames x [..., T, D] and other stream m [..., M, D] to [..., T, D].

    keys: "ctx" (LN m) or "self+ctx" (LN x, then LN m); the values are the same. positions: sinusoids are added to what queries and keys
    are projected from, in each stream from its own first token on; values and residual have none. Without them the order of m does
    nothing. init "zero": the last linears of both parts are 0, so F is the identity and only they get a gradient at first.
    Parts are named as published layouts of this project have them.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        *,
        keys: str,
        init: str,
        out_dropout: float,
        ff_dropout: float,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.keys, self.positions = keys, positions
        self.norm_x, self.norm_m = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, out_dropout)
        net = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(ff_dropout), nn.Linear(mlp_dim, dim), nn.Dropout(ff_dropout)
        )
        self.ff = nn.ModuleDict({"net": net})
        if init == "zero":
            for last in (self.attn.to_out[0], net[3]):
                for tensor in last.parameters():
                    nn.init.zeros_(tensor)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """All leading axes are clips, the same of x and m."""
        flat, other = x.flatten(0, -3), m.flatten(0, -3)
        values, own = self.norm_m(other), self.norm_x(flat)
        queries, keys = self._placed(own), self._placed(values)
        if self.keys == "self+ctx":
            keys, values = torch.cat([queries, keys], 1), torch.cat([own, values], 1)
        h = flat + self.attn(queries, keys, values)
        fused: Tensor = h + self.ff["net"](h)
        return fused.view(x.shape)

    def _placed(self, tokens: Tensor) -> Tensor:
        return tokens + sinusoid(tokens.shape[1], tokens.shape[2], tokens) if self.positions else tokens
