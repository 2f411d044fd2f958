"""How the synthetic world looks: three domains, and the frames of a clip from its truth.

Nothing drawn here depends on the class except the actor's pose: colours, textures, background, bystanders, camera and noise
come from draws of the same distributions for every class of a domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fsar_cache.draws import generator
from splits.synth_motion import BLOOM, OPEN, SIZE, SPLIT, STRETCH, TURN, VERBS, WORLD, Clip, motion

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_MARGIN = 12  # pixels of background around the picture, so that the camera can shake
_GRAINS = 8  # noise images per clip; frames use them shifted by random amounts
_SUBPIXEL = 4  # binary digits of the polygons' coordinates


@dataclass(frozen=True)
class Look:
    """What tells one domain from another.

    width, height in pixels; backdrop and actor: the range of brightness (0..255); tint: factors of red, green and blue;
    grid: cells across the background's blotches; stripes: contrast of the actor's stripes (0..1); blur: standard deviation in pixels;
    noise: standard deviation in grey levels; shake: pixels per frame; codec and options as FFmpeg calls them.
    """

    width: int
    height: int
    fps: int
    suffix: str
    codec: str
    options: Mapping[str, str]
    backdrop: tuple[float, float]
    actor: tuple[float, float]
    tint: tuple[float, float, float]
    grid: int
    stripes: float
    blur: float
    noise: float
    shake: float


LOOKS: Mapping[str, Look] = {
    "source": Look(
        width=160,
        height=128,
        fps=20,
        suffix=".mp4",
        codec="libx264",
        # mbtree off: with it x264's bytes vary from run to run (7 of 54 encodes, with AVX-512 only)
        options={"preset": "veryfast", "crf": "23", "g": "24", "bf": "2", "mbtree": "0"},
        backdrop=(30, 80),
        actor=(150, 220),
        tint=(0.9, 1.0, 1.1),
        grid=3,
        stripes=0.25,
        blur=0.0,
        noise=4.0,
        shake=0.3,
    ),
    "target": Look(
        width=176,
        height=144,
        fps=25,
        suffix=".webm",
        codec="libvpx-vp9",
        options={"deadline": "realtime", "cpu-used": "8", "b": "300k", "g": "50"},
        backdrop=(60, 120),
        actor=(170, 240),
        tint=(1.15, 1.0, 0.8),
        grid=9,
        stripes=0.5,
        blur=0.8,
        noise=8.0,
        shake=0.7,
    ),
    "far": Look(
        width=192,
        height=128,
        fps=15,
        suffix=".avi",
        codec="mpeg4",
        options={"qscale": "5", "g": "12", "bf": "2"},
        backdrop=(150, 220),
        actor=(30, 90),
        tint=(1.0, 1.1, 0.9),
        grid=5,
        stripes=0.35,
        blur=0.0,
        noise=6.0,
        shake=0.5,
    ),
}
"""One look per domain: dark and clear, brownish and grainy, dark actors on bright paper."""


def outlines(pose: Floats, radius: float, tilt: float) -> list[tuple[Floats, Floats]]:
    """The one or two bodies of an actor around (0, 0): outer and inner outline of each, [48, 2] in pixels."""
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    wave = 1 + 0.45 * pose[BLOOM] * np.cos(5 * angle)
    aspect = np.sqrt(1.3 + 1.7 * pose[STRETCH])
    body = np.stack([wave * np.cos(angle) * aspect, wave * np.sin(angle) / aspect], axis=1)
    scale = radius * (0.5 + 0.7 * pose[SIZE]) * (1 - 0.2 * pose[SPLIT])
    heading = tilt + np.pi / 2 * pose[TURN]
    spin = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    apart = np.array([0.0, 1.5 * scale * pose[SPLIT]]) @ spin
    outer = scale * body @ spin
    places = [apart, -apart] if pose[SPLIT] > 0 else [apart]
    return [(outer + place, 0.75 * pose[OPEN] * outer + place) for place in places]


def _cover(shape: tuple[int, int], bodies: list[tuple[Floats, Floats]], x: float, y: float) -> Image:
    """How much of each pixel the bodies at (x, y) cover, uint8 [H, W] in 0..255."""
    whole = np.zeros(shape, np.uint8)
    for outer, inner in bodies:
        one = np.zeros(shape, np.uint8)
        for points, value in ((outer, 255), (inner, 0)):
            fixed = np.round((points + np.array([x, y])) * (1 << _SUBPIXEL)).astype(np.int32)
            if np.any(points != points[0]):
                cv2.fillPoly(one, [fixed], value, cv2.LINE_AA, _SUBPIXEL)
        np.maximum(whole, one, out=whole)
    return whole


def _over(below: Image, above: Image, cover: Image) -> Image:
    """`above` laid over `below` where `cover` says so; uint8 [H, W, 3]."""
    weight = cover[..., None].astype(np.uint16)
    return ((below * (255 - weight) + above * weight + 127) // 255).astype(np.uint8)


def _colour(rng: np.random.Generator, span: tuple[float, float], tint: tuple[float, float, float]) -> Floats:
    """A random colour of a brightness in `span`, [3] in 0..255 (not clipped)."""
    hue = rng.uniform(0.75, 1.25, 3)
    brightness = rng.uniform(*span)
    return np.asarray(brightness * np.array(tint) * hue / hue.mean())


def _blotches(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> NDArray[np.float32]:
    """A smooth random surface [H, W, 1], about -1..1."""
    coarse = rng.uniform(-1, 1, (cells, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)[..., None]


def _stripes(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Stripes of random direction and width, [H, W, 1] in -1..1."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    direction, width, phase = rng.uniform((0.0, 5.0, 0.0), (np.pi, 10.0, 6.3))
    return np.asarray(np.sin((np.cos(direction) * columns + np.sin(direction) * rows) / width * 6.3 + phase)[..., None])


def _bystander(rng: np.random.Generator, look: Look) -> tuple[list[tuple[Floats, Floats]], float, float]:
    """Bodies and place (x, y) of something that looks like an actor and does nothing."""
    radius = rng.uniform(0.08, 0.14) * look.height
    bodies = outlines(rng.uniform(0, 1, len(VERBS)), radius, rng.uniform(0, np.pi))
    return bodies, rng.uniform(0, look.width), rng.uniform(0, look.height)


def _backdrop(rng: np.random.Generator, look: Look) -> Image:
    """The scene without actor, with a margin on every side: blotches and two faint bystanders that stand still."""
    shape = (look.height + 2 * _MARGIN, look.width + 2 * _MARGIN)
    ground = _colour(rng, look.backdrop, look.tint) + 18 * _blotches(rng, shape, look.grid)
    scene = np.clip(ground, 0, 255).astype(np.uint8)
    for _ in range(2):
        bodies, x, y = _bystander(rng, look)
        colour = np.clip(_colour(rng, look.backdrop, look.tint), 0, 255).astype(np.uint8)
        scene = _over(scene, colour, _cover(shape, bodies, x + _MARGIN, y + _MARGIN))
    return scene


def _walk(rng: np.random.Generator, frames: int, step: float) -> NDArray[np.int64]:
    """A shaking camera: whole-pixel offsets [frames, 2] within the margin."""
    path = np.cumsum(rng.normal(0, step, (frames, 2)), axis=0)
    return np.asarray(np.clip(np.round(path - path.mean(axis=0)), -_MARGIN, _MARGIN), np.int64)


def draw(seed: int, domain: str, clip: Clip) -> Iterator[Image]:
    """The frames of a clip, uint8 [height, width, 3] RGB, `clip.frames` of them; a pure function of its arguments."""
    look = LOOKS[domain]
    rng = generator("synth-look", WORLD, seed, domain, clip.id)
    shape = (look.height, look.width)
    scene = _backdrop(rng, look)
    skin = _colour(rng, look.actor, look.tint) * (1 + look.stripes * 0.5 * _stripes(rng, shape))
    actor = np.clip(skin, 0, 255).astype(np.uint8)
    rest = rng.uniform((0.35, 0.0, 0.2, 0.0, 0.0, 0.0), (0.65, 0.0, 0.5, 0.15, 0.2, 0.2))
    tilt, radius = rng.uniform(-0.2, 0.2), rng.uniform(0.17, 0.21) * look.height
    drift = rng.uniform(-0.04, 0.04, 2) * look.height
    passer = _bystander(rng, look)
    passing = rng.uniform(-0.15, 0.15, 2) * look.height
    faint = np.clip(_colour(rng, look.backdrop, look.tint), 0, 255).astype(np.uint8)
    camera = _walk(rng, clip.frames, look.shake)
    grains = rng.normal(0, look.noise, (_GRAINS, *shape, 1)).astype(np.int16)
    shifts = rng.integers(0, (_GRAINS, look.height, look.width), (clip.frames, 3))

    progress = clip.progress()
    seconds = np.arange(clip.frames) / clip.fps - (clip.start + clip.duration / 2)
    for i, pose in enumerate(motion(clip.label).poses(progress, rest)):
        dx, dy = camera[i]
        frame = scene[_MARGIN + dy : _MARGIN + dy + look.height, _MARGIN + dx : _MARGIN + dx + look.width]
        x, y = passer[1:] + passing * seconds[i] - camera[i]
        frame = _over(frame, faint, _cover(shape, passer[0], x, y))
        x, y = np.array([clip.x * look.width, clip.y * look.height]) + drift * seconds[i] - camera[i]
        frame = _over(frame, actor, _cover(shape, outlines(pose, radius, tilt), x, y))
        if look.blur:
            frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), look.blur), np.uint8)
        which, down, right = shifts[i]
        grain = np.roll(grains[which], (down, right), (0, 1))
        yield np.clip(frame + grain, 0, 255).astype(np.uint8)
