"""Colour jitter of a clip, as CLIP-FSAR trains with on Kinetics."""

from __future__ import annotations

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor


def jitter(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Grey, brightness, contrast, saturation and hue of uint8 [T, H, W, 3] changed, all frames alike; uint8 again.

    Grey (p 0.3, all channels the luminance) comes first, then the other four in random order: factors of brightness, contrast (about
    the frame's mean luminance) and saturation uniform in 0.5..1.5, hue turned by up to 0.25 of the circle. Works in float32 on [0, 1],
    clipped after each step, as the published code, and rounds once at the end (source: clip_fsar card).
    Draws: grey; order of the four; factors of brightness, contrast, saturation; hue.
    """
    grey = rng.random() < 0.3
    order = rng.permutation(4)
    brightness, contrast, saturation = rng.uniform(0.5, 1.5, 3).tolist()
    hue = rng.uniform(-0.25, 0.25)
    steps = (
        lambda x: tv.adjust_brightness(x, brightness),
        lambda x: tv.adjust_contrast(x, contrast),
        lambda x: tv.adjust_saturation(x, saturation),
        lambda x: tv.adjust_hue(x, hue),
    )
    planes = frames.permute(0, 3, 1, 2).float() / 255
    if grey:
        planes = tv.rgb_to_grayscale(planes, 3)
    for i in order:
        planes = steps[i](planes)
    return (planes * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
