"""TA2N as a module of its own: both stages, and the fusion of a class's shots between them.

`TA2N.forward` is what its authors call. The other methods are its steps, split by what a clip, a class and a pair allow, so that the
head (`heads.ta2n`) can do for every clip once what does not depend on the episode. Letters as in `heads.ta2n_blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError
from heads.ta2n_blocks import ACM, OFFSET_CHANNELS, TTM, Parts, in_time, time_warp

BLOCK_BYTES = 64 * 2**20
"""In evaluation, what the intermediate tensors of the pairs that are computed at once may take (one pair at least)."""
LEAST = 4
"""Frames and pixels along a side that two halving poolings leave something of."""
FUSED = ("map", "key", "value", "taps")
"""Parts of a shot that its class's fusion mixes in time; those that are there."""


class TA2N(nn.Module):
    """The alignment network as its authors use it: maps of grouped supports and of queries in, aligned pairs and offsets out.

    T: frames. shot: support clips per class. dim: channels of the maps and width of attention. first_stage, second_stage: True or False
    (None), or the class to build the stage with. UsageError for anything else.
    """

    def __init__(
        self,
        T: int = 8,  # noqa: N803 - its authors' name
        shot: int = 1,
        dim: tuple[int, int] = (64, 64),
        first_stage: bool | type[TTM] | None = True,
        second_stage: bool | type[ACM] | None = True,
    ) -> None:
        super().__init__()
        if T < LEAST or shot < 1 or min(dim) < 1:
            raise UsageError(f"TA2N needs T >= {LEAST}, shot >= 1 and positive dim, got {T}, {shot}, {tuple(dim)}")
        self.frames, self.shot, self.dim = T, shot, (dim[0], dim[1])
        self.firststage: TTM | None = _stage("first_stage", first_stage, TTM, self.dim)
        self.secondstage: ACM | None = _stage("second_stage", second_stage, ACM, self.dim)
        self.keynet_multi = nn.Conv1d(dim[0], dim[1], 1, bias=False)
        self.querynet_multi = nn.Conv1d(dim[0], dim[1], 1, bias=False)
        self.valuenet_multi = nn.Conv1d(dim[0], dim[0], 1, bias=False)

    def decay(self) -> None:
        """Halve the spread of the perturbed windows (see `ACM.decay`); does nothing without the second stage."""
        if self.secondstage is not None:
            self.secondstage.decay()

    def spatial_parameters(self) -> list[nn.Parameter]:
        """The parameters of the offset network, e.g. for a learning rate of their own."""
        return [] if self.secondstage is None else list(self.secondstage.mvnet.parameters())

    def warp(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Stage 1: maps [B, T, C, H, H] warped in time, and theta [B, 2]; unchanged and None without it."""
        if self.firststage is None:
            return maps, None
        theta = self.firststage.theta(maps)
        return time_warp(maps, theta), theta

    def projected(self, maps: Tensor) -> Tensor:
        """The value projection of several shots, at every pixel: [B, T, C, H, H] -> the same."""
        return self.valuenet_multi(maps.flatten(3).flatten(0, 1)).view(maps.shape)  # type: ignore[no-any-return]

    def shot_parts(self, maps: Tensor) -> Parts:
        """Of warped support maps [B, T, C, H, H]: what fuses the shots of a class, multi_key and multi_query [B, T, D]."""
        mean = maps.mean((3, 4))
        key, query = self.keynet_multi.weight[..., 0], self.querynet_multi.weight[..., 0]
        return {"multi_key": F.linear(mean, key), "multi_query": F.linear(mean, query)}

    def support_parts(self, maps: Tensor) -> Parts:
        """Of the (projected) maps [B, T, C, H, H] of supports or prototypes: map [B, T, C, P] and what stage 2 makes of it."""
        return {"map": maps.flatten(3)} | ({} if self.secondstage is None else self.secondstage.support_parts(maps))

    def query_parts(self, maps: Tensor) -> Parts:
        """Of the (projected) maps [B, T, C, H, H] of queries: map [B, T, C, P] and what stage 2 makes of it."""
        return {"map": maps.flatten(3)} | ({} if self.secondstage is None else self.secondstage.query_parts(maps))

    def fuse(self, shots: Parts) -> Parts:
        """Prototype parts [N, ...] from parts of shots [N, K, T, ...]: all shots re-read in the time of the first, and averaged.

        Everything that stage 2 makes of a support is linear in its (projected) map, so any part may be fused instead of the map.
        """
        key, query = shots["multi_key"], shots["multi_query"][:, 0]
        classes, count, frames, width = key.shape
        attention = F.softmax(torch.einsum("njxd,nyd->njxy", key, query) / math.sqrt(width), 2)
        mix = attention.permute(0, 3, 1, 2).flatten(2) / count
        return {
            name: torch.bmm(mix, part.flatten(1, 2).flatten(2)).view(classes, frames, *part.shape[3:])
            for name, part in shots.items()
            if name in FUSED
        }

    def paired(self, support: Parts, query: Parts, into: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """into(support vectors [n, m, T, C], query vectors, offsets [n, m, T, 2]) -> [n, m, ...] of all pairs, by stage 2: [N, M, ...].

        In evaluation it goes through blocks of pairs whose intermediate tensors stay within BLOCK_BYTES.
        """
        acm = self.secondstage
        if acm is None:
            raise UsageError("TA2N without its second stage aligns no pairs")
        classes, queries = len(support["map"]), len(query["map"])
        wide, high = (classes, queries) if self.training else self._block(support["map"], classes)
        rows = []
        for n in range(0, classes, wide):
            some = {name: part[n : n + wide] for name, part in support.items()}
            made = [
                into(*acm.align(some, {name: part[m : m + high] for name, part in query.items()}))
                for m in range(0, queries, high)
            ]
            rows.append(torch.cat(made, 1))
        return torch.cat(rows)

    def _block(self, maps: Tensor, classes: int) -> tuple[int, int]:
        """Classes and queries of a block of pairs."""
        _, frames, channels, pixels = maps.shape
        pair = maps.element_size() * frames * (5 * OFFSET_CHANNELS * pixels + 6 * channels + 16 * pixels)
        room = max(1, BLOCK_BYTES // pair)
        wide = min(classes, room)
        return wide, max(1, room // wide)

    def prototypes(self, shots: Parts) -> Parts:
        """What stage 2 needs of classes, from parts [N, K, ...] of their shots; of fused maps alone it is made here."""
        parts = self.fuse(shots) if "multi_key" in shots else {name: part[:, 0] for name, part in shots.items()}
        if self.secondstage is None:
            return parts
        if "key" not in parts:
            side = math.isqrt(parts["map"].shape[-1])
            parts |= self.secondstage.support_parts(parts["map"].view(*parts["map"].shape[:3], side, side))
        if "taps" in parts:
            parts["support_half"] = in_time(parts.pop("taps"))
        return parts

    def forward(self, support: Tensor, query: Tensor, vis: bool = False) -> tuple[Any, ...]:
        """Pairs and offsets of support maps [N*shot, C, T, H, H], grouped by class, and query maps [M, C, T, H, H].

        Pairs are [N, M, 2C, T, 1, 1], support half first (at full resolution, [N, M, 2C, T, H, H], without stage 2); offsets are
        [N*M, T, (x, y)] before perturbation (None without stage 2). With `vis` a third value, a dictionary by stage: "first" with
        theta_support [N*shot, 2] and theta_query [M, 2] (scale and shift of time), "second" with offset.
        """
        self._check(support, query)
        side = support.shape[-1]
        (s, theta_support), (q, theta_query) = self.warp(support.transpose(1, 2)), self.warp(query.transpose(1, 2))
        if self.shot > 1:
            made = {"map": self.projected(s).flatten(3), **self.shot_parts(s)}
            q = self.projected(q)
        else:
            made = self.support_parts(s)
        classes = self.prototypes({name: part.view(-1, self.shot, *part.shape[1:]) for name, part in made.items()})
        if self.secondstage is None:
            a, b = (classes["map"].unsqueeze(1), q.flatten(3).unsqueeze(0))
            both = torch.cat([a.expand(-1, len(q), -1, -1, -1), b.expand(len(a), -1, -1, -1, -1)], 3)
            pairs, offsets = both.view(*both.shape[:-1], side, side).transpose(2, 3), None
        else:
            found = self.paired(classes, self.query_parts(q), lambda *three: torch.cat(three, -1))
            pairs = found[..., :-2].transpose(2, 3)[..., None, None]
            offsets = found[..., -2:].flatten(0, 1)
        if not vis:
            return pairs, offsets
        first = {"theta_support": theta_support, "theta_query": theta_query}
        return (
            pairs,
            offsets,
            {
                "first": {} if theta_support is None else first,
                "second": {} if offsets is None else {"offset": offsets},
            },
        )

    def _check(self, support: Tensor, query: Tensor) -> None:
        want = f"[clips, {self.dim[0]}, {self.frames}, H, H] with H >= {LEAST}"
        for name, clips in (("support", support), ("query", query)):
            fits = clips.ndim == 5 and tuple(clips.shape[1:3]) == (self.dim[0], self.frames)
            if not fits or clips.shape[3] != clips.shape[4] or clips.shape[3] < LEAST or not len(clips):
                raise UsageError(f"TA2N needs {name} maps {want}, got {list(clips.shape)}")
        if support.shape[3] != query.shape[3] or len(support) % self.shot:
            raise UsageError(
                f"TA2N needs {self.shot} support clips of every class, and as many pixels in both, got support "
                f"{list(support.shape)}, query {list(query.shape)}"
            )


def _stage(name: str, given: Any, usual: Any, dim: tuple[int, int]) -> Any:
    """The stage that `given` asks for: none, the usual one, or one of the given class."""
    if given is None or given is False:
        return None
    if given is not True and not (isinstance(given, type) and issubclass(given, usual)):
        raise UsageError(f"TA2N {name} must be True, False, None or a class ({usual.__name__} or of it), got {given!r}")
    return (usual if given is True else given)(dim)
