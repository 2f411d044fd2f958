"""Sampling rules against slow readings of the cards, and against their own bounds for every length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sampling import SAMPLING
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError

RANDOM = ("gslta-train", "tamt", "clip-fsar")
CENTRES = ("tamt-centre", "clip-fsar-centre")


def rng_of(name: str, seed: int) -> np.random.Generator | None:
    return generator("test", seed) if name in RANDOM else None


def gslta_reading(n: int, frames: int, start: int, end: int) -> list[int]:
    """The card, word by word, for given ends."""
    if n == frames:
        return list(range(n))
    if end - start < frames:
        start, end = 0, n - 1
    return [int(v) for v in np.linspace(start, end, num=frames)]


@given(n=st.integers(1, 400), frames=st.integers(1, 40), name=st.sampled_from(SAMPLING.names()), seed=st.integers(0, 9))
def test_every_rule_stays_inside_and_never_goes_back(n: int, frames: int, name: str, seed: int) -> None:
    got = SAMPLING.get(name)(n, frames, rng_of(name, seed))
    assert got.shape == (frames,)
    assert got.dtype == np.int64
    assert got.min() >= 0
    assert got.max() < n
    assert (np.diff(got) >= 0).all()
    if n == frames:
        assert got.tolist() == list(range(n))


@given(n=st.integers(1, 300), frames=st.integers(1, 32))
def test_gslta_test_reads_like_the_card(n: int, frames: int) -> None:
    assert SAMPLING.get("gslta-test")(n, frames, None).tolist() == gslta_reading(n, frames, 1, n - 2)


@pytest.mark.parametrize(
    ("n", "frames"), [(8, 8), (9, 8), (10, 8), (11, 8), (14, 8), (18, 8), (60, 8), (40, 16), (3, 8), (1, 8)]
)
def test_gslta_train_draws_both_ends_evenly(n: int, frames: int) -> None:
    room = min(5, int((n - frames) / 2))
    if room < 1:
        possible = {tuple(gslta_reading(n, frames, 0, n - 1))}
    else:
        ends = [(a, b) for a in range(room + 1) for b in range(n - 1 - room, n)]
        possible = {tuple(gslta_reading(n, frames, a, b)) for a, b in ends}
    seen = [tuple(SAMPLING.get("gslta-train")(n, frames, generator("g", i)).tolist()) for i in range(2000)]
    assert set(seen) == possible
    if (
        room == 5
    ):  # 36 pairs of ends, all alike: chi-squared with 35 degrees of freedom stays below 74 but once in 10,000
        counts = np.array([seen.count(p) for p in possible])
        if len(possible) == 36:
            assert ((counts - 2000 / 36) ** 2 / (2000 / 36)).sum() < 74


def test_known_values() -> None:
    assert SAMPLING.get("gslta-test")(100, 8, None).tolist() == [1, 14, 28, 42, 56, 70, 84, 98]
    assert SAMPLING.get("gslta-test")(10, 8, None).tolist() == [0, 1, 2, 3, 5, 6, 7, 9]
    assert SAMPLING.get("gslta-test")(3, 8, None).tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert SAMPLING.get("uniform")(100, 8, None).tolist() == [0, 14, 28, 42, 56, 70, 84, 99]
    assert SAMPLING.get("segments")(100, 8, None).tolist() == [6, 18, 31, 43, 56, 68, 81, 93]
    assert SAMPLING.get("tamt-centre")(100, 8, None).tolist() == [6, 18, 30, 42, 54, 66, 78, 90]
    assert SAMPLING.get("clip-fsar-centre")(5, 8, None).tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert SAMPLING.get("segments")(5, 8, None).tolist() == [0, 0, 1, 2, 2, 3, 4, 4]


def test_random_segments_cover_each_segment() -> None:
    drawn = np.stack([SAMPLING.get("segments")(80, 8, generator("s", i)) for i in range(1000)])
    for i in range(8):
        assert set(drawn[:, i]) == set(range(10 * i, 10 * i + 10))


def tamt_choices(n: int, frames: int) -> list[set[int]]:
    """The tamt card: what each of the frames may be."""
    seg = n // frames
    if seg == 0:
        return [{n - 1}] * frames
    return [{i * seg + r for r in range(seg - 2)} if seg > 2 else {i * seg} for i in range(frames)]


def clip_fsar_choices(n: int, frames: int) -> list[set[int]]:
    """The clip_fsar card: any frame of each segment of n // frames; too short a clip: even repetition, ours."""
    seg = n // frames
    return [{i * seg + r for r in range(seg)} if seg else {int(i * n / frames)} for i in range(frames)]


@pytest.mark.parametrize(("name", "choices"), [("tamt", tamt_choices), ("clip-fsar", clip_fsar_choices)])
@pytest.mark.parametrize(
    ("n", "frames"), [(1, 16), (15, 16), (16, 16), (31, 16), (32, 16), (47, 16), (48, 16), (95, 16), (43, 8)]
)
def test_random_segment_rules_draw_what_the_cards_say_and_each_alike(
    name: str, choices: Callable[[int, int], list[set[int]]], n: int, frames: int
) -> None:
    drawn = np.stack([SAMPLING.get(name)(n, frames, generator("seg", i)) for i in range(600)])
    for place, possible in zip(drawn.T, choices(n, frames), strict=True):
        counts = np.array([np.count_nonzero(place == frame) for frame in possible])
        assert counts.sum() == 600
        expected = 600 / len(possible)
        assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_segments_are_drawn_one_by_one() -> None:
    """The places inside two segments are independent: their correlation over 2000 draws stays within five deviations of zero."""
    for name in ("tamt", "clip-fsar"):
        drawn = np.stack([SAMPLING.get(name)(160, 16, generator("i", i)) for i in range(2000)])
        found = np.corrcoef(drawn.T)[np.triu_indices(16, 1)]
        assert np.abs(found).max() < 5 / np.sqrt(2000)


@given(n=st.integers(1, 400), frames=st.integers(1, 40), name=st.sampled_from(CENTRES))
def test_centres_are_the_middle_of_what_the_random_rule_chooses_from(n: int, frames: int, name: str) -> None:
    for middle, possible in zip(SAMPLING.get(name)(n, frames, None), clip_fsar_choices(n, frames), strict=True):
        assert middle in possible
        assert abs(middle - np.mean(list(possible))) <= 0.5


@pytest.mark.parametrize("name", RANDOM)
def test_one_key_one_draw(name: str) -> None:
    once, again, other = (SAMPLING.get(name)(90, 8, generator("k", i)) for i in (3, 3, 4))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_mistakes_are_named() -> None:
    for name in RANDOM:
        with pytest.raises(UsageError, match=f"'{name}' is random and needs a generator"):
            SAMPLING.get(name)(30, 8, None)
    for name in ("gslta-test", "uniform", *CENTRES):
        with pytest.raises(UsageError, match="deterministic and takes no generator"):
            SAMPLING.get(name)(30, 8, generator("x"))
    for n, frames in ((0, 8), (30, 0)):
        for name in SAMPLING:
            with pytest.raises(UsageError, match="at least one frame"):
                SAMPLING.get(name)(n, frames, rng_of(name, 0))
    with pytest.raises(UsageError, match="unknown frame sampling rule 'unifrom'") as caught:
        SAMPLING.get("unifrom")
    assert caught.value.hint == "did you mean 'uniform'?"
