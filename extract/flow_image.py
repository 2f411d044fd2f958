"""Flow fields as three-channel pictures for image towers and eyes, made at use: after flips, crops and resizes of the field.

Source: the optical-flow card, "From field to a CLIP input"; the wheel is Middlebury's, as FlowNet2's visualiser draws it. Deviations
(the card's): a field's picture never depends on others of its batch, still pixels are white, the fastest pixel of a frame is not darkened.
"""

from __future__ import annotations

from functools import cache
from typing import get_args

import torch
from torch import Tensor

from extract.flow_settings import Scale, Style
from fsar_cache.errors import UsageError, unknown

REACH = 20 / 224
"""The radius of the scale "fixed", as a share of the picture's shorter side: 20 pixels at 224."""
ARCS = (15, 6, 4, 11, 13, 6)
"""Colours from red to yellow, green, cyan, blue, magenta and back to red."""


def flow_image(field: Tensor, style: Style = "wheel", scale: Scale = "fixed") -> Tensor:
    """Fields, float [..., 2, H, W] in pixels, as RGB pictures uint8 [..., 3, H, W] on the same device.

    style: "wheel" shows direction as hue and speed as saturation, white where nothing moves; "uvm" has channels u, v and speed, "uv" u, v
    and a constant half. scale: what counts as full speed R: "fixed" 20 px at 224 (in proportion to the shorter side), "per_frame_max" the
    fastest pixel of each frame, which hides how fast a clip is and shows the noise of a still one.
    """
    if not field.is_floating_point() or field.ndim < 3 or field.shape[-3] != 2:
        raise UsageError(
            f"a flow picture wants float fields [..., 2, H, W] in pixels, got {field.dtype} {list(field.shape)}"
        )
    for kind, name, known in (("style", style, get_args(Style)), ("scale", scale, get_args(Scale))):
        if name not in known:
            raise unknown(f"flow picture {kind}", name, known)
    u, v = field.unbind(-3)
    speed = (u.square() + v.square()).sqrt()
    if scale == "fixed":
        radius = speed.new_tensor(REACH * min(field.shape[-2:]))
    else:
        fastest = speed.amax((-2, -1), keepdim=True)
        radius = torch.where(fastest > 0, fastest, 1.0)
    if style == "wheel":
        return _wheel(u, v, speed / radius)
    third = speed / (radius * 2**0.5) if style == "uvm" else torch.full_like(speed, 0.5)
    channels = torch.stack([(u / radius + 1) / 2, (v / radius + 1) / 2, third], dim=-3)
    return (channels.clamp(0, 1) * 255).round().to(torch.uint8)


def _wheel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Hue from direction, white at r = 0, full colour at r = 1, three quarters as bright beyond; 8-bit by cutting."""
    place = (torch.atan2(-v, -u) / torch.pi + 1) / 2 * (sum(ARCS) - 1)
    low = place.floor()
    share = (place - low)[..., None]
    index = low.long()
    wheel = _colours().to(u)
    colour = (1 - share) * wheel[index] + share * wheel[(index + 1) % len(wheel)]
    r = r[..., None]
    shown = torch.where(r <= 1, 1 - r * (1 - colour), 0.75 * colour)
    return (shown * 255).floor().to(torch.uint8).movedim(-1, -3)


@cache
def _colours() -> Tensor:
    """The 55 colours of the wheel in [0, 1], [55, 3]: along each arc one channel rises to 1 or falls to 0, in whole 255ths."""
    corners = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 0)]
    rows = []
    for count, start, end in zip(ARCS, corners[:-1], corners[1:], strict=True):
        for step in range(count):
            moved = 255 * step // count
            rows.append([a + (moved if b > a else -moved if b < a else 0) for a, b in zip(start, end, strict=True)])
    return torch.tensor(rows, dtype=torch.float64) / 255
