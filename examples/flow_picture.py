"""Draw what optical flow sees in one video: chosen frames above, the colour-coded motion from each to the next below.

    python examples/flow_picture.py VIDEO out.png
    python examples/flow_picture.py VIDEO out.png --estimator farneback --style uvm --scale per_frame_max

The colours are those that an image tower gets (docs/flow.md), on the scale that --scale names, except that --full sets the speed that
is shown in full colour: small motions are hard to see at the default of 20 pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from extract.clip import Task, decode_clip
from extract.config import ExtractConfig
from extract.flow_field import pixels
from extract.flow_image import REACH, flow_image
from extract.flow_product import FlowProduct
from extract.flow_settings import FlowSettings
from extract.transforms import TRANSFORMS


def main() -> None:
    """Decode the pairs, compute the fields as an extraction does, and write both rows as one PNG."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("video", type=Path)
    words.add_argument("picture", type=Path)
    words.add_argument("--estimator", default="dis_medium")
    words.add_argument("--style", default="wheel")
    words.add_argument("--scale", default="fixed")
    words.add_argument("--frames", type=int, default=8)
    words.add_argument("--side", type=int, default=112, help="pixels of each picture's side")
    words.add_argument("--full", type=float, default=20.0, help="speed in full colour, in pixels at 224")
    given = words.parse_args()
    config = ExtractConfig(
        kind="flow", frames=given.frames, size=given.side, device="cpu", flow=FlowSettings(estimator=given.estimator)
    )
    clip = decode_clip(Task(given.video, config.sampling, config.frames, follow=config.flow.stride))
    frames = torch.from_numpy(clip.frames)
    field = pixels(FlowProduct(config).clip(frames, given.video.name, 0))
    motion = flow_image(field * (REACH * 224 / given.full), given.style, given.scale).permute(0, 2, 3, 1)
    shown = TRANSFORMS.get(config.transform)(frames[::2], config.size, None)
    rows = [np.concatenate(list(row.numpy()), axis=1) for row in (shown, motion)]
    cv2.imwrite(str(given.picture), np.concatenate(rows)[..., ::-1])
    speed = field.square().sum(1).sqrt()
    print(
        f"{given.picture}: speed {speed.mean():.2f} px on average, {speed.max():.1f} px at most, on a grid of {given.side}"
    )


if __name__ == "__main__":
    main()
