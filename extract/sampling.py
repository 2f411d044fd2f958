"""Which frames of a clip stand for it: named rules from the number of frames n to T indices.

A clip of fewer than T frames repeats some of them under every rule (published readers drop such clips); indices never decrease.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fsar_cache.errors import UsageError
from fsar_cache.registry import Registry

Ints = NDArray[np.int64]
Rule = Callable[[int, int, np.random.Generator | None], Ints]
SAMPLING: Registry[Rule] = Registry("frame sampling rule", (__name__,))
"""name -> rule(n, frames, rng): int64 [frames], in [0, n).

Pass rng = None for evaluation; rules that draw insist on a generator, deterministic ones refuse it, "segments" takes either.
Every rule depends on n alone: CLIP-FSAR's rule for Kinetics, which goes by the frame rate, is not here.
"""


def _check(name: str, n: int, frames: int, rng: np.random.Generator | None, draws: bool | None) -> None:
    if n < 1 or frames < 1:
        raise UsageError(f"sampling {name!r} wants at least one frame of at least one, got {frames} of {n}")
    if draws is True and rng is None:
        raise UsageError(
            f"sampling {name!r} is random and needs a generator", hint="evaluate with gslta-test or uniform"
        )
    if draws is False and rng is not None:
        raise UsageError(f"sampling {name!r} is deterministic and takes no generator")


def _spread(start: int, end: int, frames: int) -> Ints:
    """`frames` points from start to end inclusive, cut to integers."""
    return np.linspace(start, end, frames).astype(np.int64)


def _widened(start: int, end: int, n: int, frames: int) -> Ints:
    """GSLTA: the whole clip where the span from start to end is too short for `frames` steps."""
    return _spread(0, n - 1, frames) if end - start < frames else _spread(start, end, frames)


@SAMPLING.add("gslta-test")
def gslta_test(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """The test rule of GSLTA, TRX, TA2N and CLIP-MDMF: from frame 1 to frame n-2, the whole clip where that is too short."""
    _check("gslta-test", n, frames, rng, draws=False)
    return np.arange(n, dtype=np.int64) if n == frames else _widened(1, n - 2, n, frames)


@SAMPLING.add("gslta-train")
def gslta_train(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """The training rule of GSLTA, TRX, TA2N and CLIP-MDMF: both ends drawn, each up to min(5, (n - frames) / 2) frames inwards."""
    _check("gslta-train", n, frames, rng, draws=True)
    assert rng is not None
    if n == frames:
        return np.arange(n, dtype=np.int64)
    room = min(5, (n - frames) // 2)
    if room < 1:
        return _spread(0, n - 1, frames)
    start = int(rng.integers(0, room, endpoint=True))
    end = int(rng.integers(n - 1 - room, n - 1, endpoint=True))
    return _widened(start, end, n, frames)


@SAMPLING.add("uniform")
def uniform(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """Evenly from the first frame to the last: the rule of the OTAM and ProtoNet baselines (baselines card), in training too."""
    _check("uniform", n, frames, rng, draws=False)
    return _spread(0, n - 1, frames)


@SAMPLING.add("segments")
def segments(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """TSN: one frame from each of equal segments: its centre, or with a generator any of it."""
    _check("segments", n, frames, rng, draws=None)
    edges = np.arange(frames + 1, dtype=np.int64) * n // frames
    if rng is None:
        return (2 * np.arange(frames, dtype=np.int64) + 1) * n // (2 * frames)
    return rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1), dtype=np.int64)


def _starts(n: int, frames: int) -> Ints:
    """Where segments of n // frames frames begin (the last n % frames frames belong to none); a short clip's frames spread evenly."""
    place = np.arange(frames, dtype=np.int64)
    return place * n // frames if n < frames else place * (n // frames)


@SAMPLING.add("tamt")
def tamt(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """The TAMT rule, published for training and testing alike: a random frame of each segment, but never its last two.

    Segments have n // frames frames; of segments of one or two the first frame is taken. A shorter clip gives its last frame
    throughout, as published (source: tamt card).
    """
    _check("tamt", n, frames, rng, draws=True)
    assert rng is not None
    if n < frames:
        return np.full(frames, n - 1, np.int64)
    return _starts(n, frames) + rng.integers(0, max(n // frames - 2, 1), frames)


@SAMPLING.add("clip-fsar")
def clip_fsar(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """The CLIP-FSAR rule for HMDB, UCF and SSv2, published for training and testing alike: a random frame of each segment.

    Segments have n // frames frames (source: clip_fsar card). The card leaves shorter clips open: here their frames are repeated evenly.
    """
    _check("clip-fsar", n, frames, rng, draws=True)
    assert rng is not None
    return _starts(n, frames) + rng.integers(0, max(n // frames, 1), frames)


@SAMPLING.add("tamt-centre")
@SAMPLING.add("clip-fsar-centre")
def segment_middles(n: int, frames: int, rng: np.random.Generator | None) -> Ints:
    """The middle of each segment of "tamt" and "clip-fsar": the deterministic view both cards propose instead of the published draws.

    Unlike "segments" it leaves out the last n % frames frames, as the random rules do; the frames of a shorter clip are repeated evenly.
    """
    _check("tamt-centre or clip-fsar-centre", n, frames, rng, draws=False)
    return _starts(n, frames) + n // frames // 2
