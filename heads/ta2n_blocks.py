"""The two stages of TA2N: a predicted warp in time (TTM), and attention in time with predicted windows in space (ACM).

Li and others, "TA2N: Two-Stage Action Alignment Network for Few-Shot Action Recognition", AAAI 2022. Letters besides those of
`heads.base`: N classes, M queries (of one episode), C channels of the maps, D width of attention, P = H*H pixels, O = 128. Maps are
float32, time first [B, T, C, H, H], except where a module is called alone: [B, C, T, H, H], as its authors have it.

The first convolution of ACM's offset network sees support and query maps side by side. It is split into what depends on the support,
on the query, and on the attended query vectors. These last are constant over pixels, so with zero padding their convolution takes
3 x 3 values only (first, inner, last row by first, inner, last column), and it is linear in them: attention mixes what the query gave once.
The nine windows of a frame are the products of three windows by row and three by column, and so is their average.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Parts = dict[str, Tensor]
"""What stage 2 needs of clips, {name: [B, ...]}: see `ACM.support_parts` and `ACM.query_parts`."""

OFFSET_CHANNELS = 128
OFFSET_LIMIT = 0.75
PERTURBATION = 0.2


def time_warp(maps: Tensor, theta: Tensor) -> Tensor:
    """Maps [B, T, ...] read at times a*u + b of theta [B, 2], u = -1..1 from the first to the last frame; zeros beyond these."""
    frames = maps.shape[1]
    time = torch.linspace(-1, 1, frames, device=maps.device, dtype=maps.dtype)
    place = (theta[:, :1] * time + theta[:, 1:] + 1) / 2 * (frames - 1)
    below = place.detach().floor()
    late = (place - below).unsqueeze(-1)
    before = torch.arange(frames, device=maps.device) == below.unsqueeze(-1)
    after = torch.arange(frames, device=maps.device) == below.unsqueeze(-1) + 1
    return torch.bmm(before * (1 - late) + after * late, maps.flatten(2)).view(maps.shape)


def windows(offsets: Tensor, side: int, steps: Tensor) -> Tensor:
    """Pixel weights [..., P], summing to 1, around offsets [..., (x, y)]: the mean of the windows at all pairs of `steps` [k] from there.

    A window is 1 where both coordinates, shifted by the offset, lie within (-1, 1), and falls to 0 over one pixel outside.
    """
    grid = torch.linspace(-1, 1, side, device=offsets.device, dtype=offsets.dtype)
    beyond = (offsets[..., None, None] + steps[:, None] + grid).abs() - 1
    mask = torch.where(beyond < 0, torch.ones_like(beyond), F.relu(1 - beyond * (side - 1) / 2))
    x, y = (mask / mask.sum(-1, keepdim=True)).mean(-2).unbind(-2)
    return (y.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def frame_cosines(x: Tensor, y: Tensor) -> Tensor:
    """The sum over frames of 1 - cosine, [..., T, F] and [..., T, F] -> [...]; norms floored at 1e-12, so a zero frame costs 1."""
    return (1 - (F.normalize(x, dim=-1) * F.normalize(y, dim=-1)).sum(-1)).sum(-1)


def timewise_cos(x: Tensor, y: Tensor) -> Tensor:
    """Distances [N, M] of aligned pairs [N, M, C, T, ...]: per frame 1 - cosine over channels and pixels, summed over frames."""
    return frame_cosines(x.movedim(3, 2).flatten(3), y.movedim(3, 2).flatten(3))


class TTM(nn.Module):
    """Temporal transformation: reads every clip at a scaled and shifted time that it predicts from the clip."""

    def __init__(self, dim: tuple[int, int] = (64, 64)) -> None:
        super().__init__()
        self.locnet = nn.Sequential(
            nn.Conv3d(dim[0], 64, 3, padding=1),
            nn.BatchNorm3d(64),
            nn.MaxPool3d(2),
            nn.ReLU(),
            nn.Conv3d(64, 128, 3, padding=1),
            nn.BatchNorm3d(128),
            nn.MaxPool3d(2),
            nn.ReLU(),
            nn.AdaptiveMaxPool3d(1),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, 2),
            nn.Tanh(),
        )
        with torch.no_grad():
            self.locnet.get_parameter("12.weight").zero_()
            self.locnet.get_parameter("12.bias").copy_(torch.tensor([2.0, 0.0]))

    def theta(self, maps: Tensor) -> Tensor:
        """Scale and shift of time [B, 2], each in -1..1, of maps [B, T, C, H, H]."""
        theta: Tensor = self.locnet(maps.transpose(1, 2))
        return theta

    def forward(self, support: Tensor, query: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Warped maps of one batch of clips [B, C, T, H, H], or of two (two passes, as batch norms in training see them)."""
        if query is not None:
            return self._warp(support), self._warp(query)
        return self._warp(support)

    def _warp(self, clips: Tensor) -> Tensor:
        maps = clips.transpose(1, 2)
        return time_warp(maps, self.theta(maps)).transpose(1, 2)


class ACM(nn.Module):
    """Action coordination: re-reads a query in the support's time, then pools both through mirrored windows in space."""

    decays: Tensor

    def __init__(self, dim: tuple[int, int] = (2048, 2048)) -> None:
        super().__init__()
        channels, width = dim
        self.keynet = nn.Conv1d(channels, width, 1, bias=False)
        self.querynet = nn.Conv1d(channels, width, 1, bias=False)
        self.valuenet = nn.Conv1d(channels, channels, 1, bias=False)
        self.mvnet = nn.Sequential(
            nn.Conv3d(2 * channels, OFFSET_CHANNELS, 3, padding=1),
            nn.BatchNorm3d(OFFSET_CHANNELS),
            nn.MaxPool3d((1, 2, 2)),
            nn.ReLU(),
            nn.Conv3d(OFFSET_CHANNELS, OFFSET_CHANNELS, 3, padding=1),
            nn.BatchNorm3d(OFFSET_CHANNELS),
            nn.MaxPool3d((1, 2, 2)),
            nn.ReLU(),
            nn.AdaptiveMaxPool3d((None, 1, 1)),
            nn.Flatten(2),
            nn.Conv1d(OFFSET_CHANNELS, 64, 1),
            nn.ReLU(),
            nn.Conv1d(64, 2, 1),
            nn.Tanh(),
        )
        nn.init.zeros_(self.mvnet.get_parameter("12.weight"))
        nn.init.zeros_(self.mvnet.get_parameter("12.bias"))
        self.register_buffer("decays", torch.zeros((), dtype=torch.int64), persistent=False)
        self.perturb_eval = True
        """Whether evaluation averages nine windows too, and does not take only the one in their middle."""

    def decay(self) -> None:
        """Halve the distance of the eight perturbed windows from the middle one; it starts at 0.2, and no weight file holds it."""
        self.decays += 1

    def support_parts(self, maps: Tensor) -> Parts:
        """Of [B, T, C, H, H]: key [B, T, D], value [B, T, C], and taps [B, T, 3, O, P]: the convolution's, one for each kernel time."""
        mean = maps.mean((3, 4))
        value = F.linear(mean, self.valuenet.weight[..., 0])
        lifted = maps + value[..., None, None]
        return {
            "key": F.linear(mean, self.keynet.weight[..., 0]),
            "value": value,
            "taps": self._taps(lifted, self._kernel()[:, : maps.shape[2]]),
        }

    def query_parts(self, maps: Tensor) -> Parts:
        """Of [B, T, C, H, H]: query [B, T, D], value [B, T, C], query_half [B, O, T, P] (convolved), border [B, T, 3, O, 9] (of value)."""
        mean = maps.mean((3, 4))
        value = F.linear(mean, self.valuenet.weight[..., 0])
        kernel = self._kernel()[:, maps.shape[2] :]
        rows = torch.stack([kernel[..., 1:, :].sum(-2), kernel.sum(-2), kernel[..., :-1, :].sum(-2)], -2)
        places = torch.stack([rows[..., 1:].sum(-1), rows.sum(-1), rows[..., :-1].sum(-1)], -1).flatten(-2)
        return {
            "query": F.linear(mean, self.querynet.weight[..., 0]),
            "value": value,
            "query_half": in_time(self._taps(maps, kernel)),
            "border": torch.einsum("btc,ocdk->btdok", value, places),
        }

    def _kernel(self) -> Tensor:
        return self.mvnet.get_parameter("0.weight")

    def _taps(self, maps: Tensor, kernel: Tensor) -> Tensor:
        """Convolution in space of maps [B, T, C, H, H] with each time of a kernel [O, C, 3, 3, 3]: [B, T, 3, O, P]."""
        each = F.conv2d(maps.flatten(0, 1), kernel.permute(2, 0, 1, 3, 4).flatten(0, 1), padding=1)
        return each.view(*maps.shape[:2], 3, len(kernel), -1)

    def scores(self, support: Parts, query: Parts) -> Tensor:
        """What attention is the softmax of, over query time: [N, M, T, T], support frames along rows."""
        width = support["key"].shape[-1]
        return torch.einsum("nxd,myd->nmxy", support["key"], query["query"]) / math.sqrt(width)

    def attend(self, support: Parts, query: Parts) -> tuple[Tensor, Tensor]:
        """Attention [N, M, T, T], and the attended query vectors [N, M, T, C], to be added to every pixel of the query's maps."""
        attention = F.softmax(self.scores(support, query), -1)
        return attention, torch.einsum("nmxy,myc->nmxc", attention, query["value"])

    def offsets(self, attention: Tensor, support: Parts, query: Parts) -> Tensor:
        """Offsets [N, M, T, (x, y)] of all pairs, within +-0.75, before perturbation."""
        classes, queries, frames = attention.shape[:3]
        shifted = F.pad(attention, (0, 0, 1, 1)).unfold(2, 3, 1)
        bordering = torch.einsum("nmtyd,mydok->nmotk", shifted, query["border"])
        side = math.isqrt(query["map"].shape[-1])
        place = torch.tensor([0] + [1] * (side - 2) + [2], device=attention.device)
        attended = bordering.index_select(-1, (3 * place.unsqueeze(-1) + place).flatten())
        half = support["support_half"] + self.mvnet.get_parameter("0.bias")[:, None, None]
        first = half.unsqueeze(1) + query["query_half"] + attended
        moved: Tensor = self.mvnet[1:](first.view(-1, OFFSET_CHANNELS, frames, side, side))
        return OFFSET_LIMIT * moved.transpose(1, 2).reshape(classes, queries, frames, 2)

    def steps(self, like: Tensor) -> Tensor:
        """Where windows lie beside the offset, on either axis: three places, or the middle one."""
        places = [-1.0, 0.0, 1.0] if self.training or self.perturb_eval else [0.0]
        return torch.tensor(places, device=like.device, dtype=like.dtype) * (PERTURBATION * 0.5**self.decays)

    def align(self, support: Parts, query: Parts) -> tuple[Tensor, Tensor, Tensor]:
        """Aligned support and query vectors [N, M, T, C], and offsets [N, M, T, 2], of all pairs.

        support: map [N, T, C, P], key, value, support_half [N, O, T, P]; query: map [M, T, C, P], query, value, query_half, border.
        """
        attention, attended = self.attend(support, query)
        offsets = self.offsets(attention, support, query)
        side, steps = math.isqrt(query["map"].shape[-1]), self.steps(offsets)
        s = torch.einsum("nmtp,ntcp->nmtc", windows(offsets, side, steps), support["map"])
        q = torch.einsum("nmtp,mtcp->nmtc", windows(-offsets, side, steps), query["map"])
        return s + support["value"].unsqueeze(1), q + attended, offsets

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs [N, M, 2C, T, 1, 1], support half first, and offsets [N*M, T, 2], of maps [N, C, T, H, H] and [M, C, T, H, H]."""
        support, query = support.transpose(1, 2), query.transpose(1, 2)
        s = {"map": support.flatten(3), **self.support_parts(support)}
        s["support_half"] = in_time(s["taps"])
        a, b, offsets = self.align(s, {"map": query.flatten(3), **self.query_parts(query)})
        return torch.cat([a, b], -1).transpose(2, 3)[..., None, None], offsets.flatten(0, 1)


def in_time(taps: Tensor) -> Tensor:
    """The convolution in space and time from its taps: [B, T, 3, O, P] -> [B, O, T, P], zeros beyond the clip."""
    padded = F.pad(taps, (0, 0, 0, 0, 0, 0, 1, 1))
    return (padded[:, :-2, 0] + padded[:, 1:-1, 1] + padded[:, 2:, 2]).transpose(1, 2)
