"""Scores of time warps and alignment paths against what is known of clips: errors in seconds, overlaps, correlations, with intervals.

Warps (TA2N) are scored by the window of each clip that they read, against the action's start and duration; paths between two clips by where
they take a frame of one clip in the other, against the frame's place in the action. Intervals are percentile bootstraps over clips, or over
pairs of clips no clip of which is in two pairs.

Letters: n clips or pairs, T frames of a clip (Tq, Ts of a pair).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.sampling import SAMPLING

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Action:
    """When a clip's action happens and which moments its frames show, in seconds: start, duration, times [T]."""

    start: float
    duration: float
    times: Floats


def action_of(line: Mapping[str, Any], rule: str, frames: int) -> Action:
    """The action of one line of truth.jsonl, seen at `frames` frames that the sampling rule takes."""
    times = SAMPLING.get(rule)(int(line["frames"]), frames, None) / float(line["fps"])
    return Action(float(line["start"]), float(line["duration"]), times)


def bootstrap(count: int, statistic: Callable[[Ints], float], rng: np.random.Generator) -> Score:
    """`statistic` of all of `count` things, with the percentile interval over resamples of them (it gets their numbers [count])."""
    again = [statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return Score(statistic(np.arange(count)), float(low), float(high))


def mean_score(values: Floats, rng: np.random.Generator) -> Score:
    """The mean of [n]."""
    return bootstrap(len(values), lambda at: float(values[at].mean()), rng)


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's; 0 where one of the two doesn't vary, as a constant predicts nothing."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 1e-12 else 0.0


def window_seconds(theta: Floats, times: Floats) -> tuple[Floats, Floats]:
    """Begin and end [n] in seconds of what warps read: theta [n, 2] = (a, b) reads from b - |a| to b + |a|; times [n, T].

    -1 and 1 are the first and the last frame, so a window may reach beyond the clip's frames; a < 0 reads it backwards.
    """
    first, last = times[:, 0], times[:, -1]
    middle, half = (first + last) / 2, (last - first) / 2
    a, b = np.abs(theta[:, 0]), theta[:, 1]
    return middle + half * (b - a), middle + half * (b + a)


def overlap(begin: Floats, end: Floats, start: Floats, stop: Floats) -> Floats:
    """Intersection over union [n] of the spans begin..end and start..stop."""
    shared = np.maximum(0.0, np.minimum(end, stop) - np.maximum(begin, start))
    whole = (end - begin) + (stop - start) - shared
    return np.asarray(np.where(whole > 0, shared / np.where(whole > 0, whole, 1.0), 0.0))


def score_windows(theta: Floats, actions: Sequence[Action], rng: np.random.Generator) -> dict[str, Any]:
    """Windows of `theta` [n, 2] against the actions, beside two baselines that are the same for every clip.

    By name ("head"; "whole clip": every frame; "centred": in the middle, as long as the mean action): "centre" and "width", mean
    absolute errors in seconds, and "overlap" with the action. For the head also "centre correlation" (of the window's and the action's
    distance from the clip's middle), "width correlation", and "backwards", the share of windows with a < 0.
    """
    times = np.stack([action.times for action in actions])
    start = np.array([action.start for action in actions])
    length = np.array([action.duration for action in actions])
    middle, half = (times[:, 0] + times[:, -1]) / 2, (times[:, -1] - times[:, 0]) / 2
    usual = length.mean() / 2
    windows = {
        "head": window_seconds(theta, times),
        "whole clip": (middle - half, middle + half),
        "centred": (middle - usual, middle + usual),
    }
    found: dict[str, Any] = {}
    for name, (begin, end) in windows.items():
        found[name] = {
            "centre": mean_score(np.abs((begin + end) / 2 - start - length / 2), rng),
            "width": mean_score(np.abs(end - begin - length), rng),
            "overlap": mean_score(overlap(begin, end, start, start + length), rng),
        }
    begin, end = windows["head"]
    moved, truly = (begin + end) / 2 - middle, start + length / 2 - middle
    found["head"] |= {
        "centre correlation": bootstrap(len(theta), lambda at: correlation(moved[at], truly[at]), rng),
        "width correlation": bootstrap(len(theta), lambda at: correlation((end - begin)[at], length[at]), rng),
        "backwards": float((theta[:, 0] < 0).mean()),
    }
    return found


def path_times(path: Floats, times: Floats) -> Floats:
    """Where a path [Tq, Ts] takes each row: the mean of the columns' times [Ts] under the row's weights; NaN for a row without any."""
    weight = path.sum(1)
    return np.asarray(np.where(weight > 0, path @ times / np.where(weight > 0, weight, 1.0), np.nan))


def true_times(query: Action, support: Action) -> Floats:
    """The moment [Tq] of the support clip that shows the same phase of the action as each query frame; NaN before and after the action."""
    phase = (query.times - query.start) / query.duration
    inside = (phase > 0) & (phase < 1)
    moments: Floats = np.where(inside, support.start + phase * support.duration, np.nan)
    return moments


def pair_columns(path: Floats, query: Action, support: Action) -> Floats:
    """One row per query frame within the action, [m, 5]: where truth, path, identity, nothing and the nearest frame take it, in seconds.

    identity: the frame of the same number (Tq = Ts); nothing: the middle of the support's frames; nearest frame: to the truth, the
    least error that a path of one frame per frame could have.
    """
    truth = true_times(query, support)
    near = support.times[np.abs(np.nan_to_num(truth)[:, None] - support.times).argmin(1)]
    still = np.full(len(truth), support.times.mean())
    columns = np.stack([truth, path_times(path, support.times), support.times, still, near], 1)
    return columns[np.isfinite(truth)]


def score_paths(
    paths: Sequence[Floats], queries: Sequence[Action], supports: Sequence[Action], rng: np.random.Generator
) -> dict[str, Any]:
    """Paths [T, T] between two clips of one class, query frames along rows, scored in both directions (n pairs, none with a common clip).

    By name ("head", "identity", "middle", "nearest frame"): the mean absolute error in seconds over a pair's frames within the action,
    mean over pairs. "shift": the correlation of the path's and the truth's distance from identity, over all frames, pairs resampled;
    "shift of middle": the same of the middle, which is above 0 because early frames are mapped later and late ones earlier than identity.
    """
    each = []
    for path, query, support in zip(paths, queries, supports, strict=True):
        found = np.concatenate([pair_columns(path, query, support), pair_columns(path.T, support, query)])
        each.append(found[np.isfinite(found).all(1)])
    if any(not len(rows) for rows in each):
        raise ValueError("a pair has no frame within the action that its path covers")
    error = np.stack([np.abs(rows[:, 1:] - rows[:, :1]).mean(0) for rows in each])
    names = ("head", "identity", "middle", "nearest frame")
    made: dict[str, Any] = {name: mean_score(error[:, i], rng) for i, name in enumerate(names)}

    def shift(column: int) -> Score:
        def of(at: Ints) -> float:
            rows = np.concatenate([each[i] for i in at])
            return correlation(rows[:, column] - rows[:, 2], rows[:, 0] - rows[:, 2])

        return bootstrap(len(each), of, rng)

    return made | {"shift": shift(1), "shift of middle": shift(3)}


def disjoint_pairs(labels: Ints, rng: np.random.Generator) -> Ints:
    """Pairs [n, 2] of clips with the same label, drawn so that no clip is in two of them; an odd one is left over."""
    made = []
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        made.append(mine[: len(mine) // 2 * 2].reshape(-1, 2))
    return np.concatenate(made)


def warped(action: Action, theta: Floats) -> Action:
    """The action seen at the moments that a warp (a, b) reads instead of the clip's frames."""
    first, last = action.times[0], action.times[-1]
    place = theta[0] * np.linspace(-1, 1, len(action.times)) + theta[1]
    return replace(action, times=(first + last) / 2 + (last - first) / 2 * place)
