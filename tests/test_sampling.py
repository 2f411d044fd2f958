"""Sampling rules against slow readings of the cards, and against their own bounds for every length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sampling import SAMPLING
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError

RANDOM = ("gslta-train",)


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
    assert SAMPLING.get("segments")(5, 8, None).tolist() == [0, 0, 1, 2, 2, 3, 4, 4]


def test_random_segments_cover_each_segment() -> None:
    drawn = np.stack([SAMPLING.get("segments")(80, 8, generator("s", i)) for i in range(1000)])
    for i in range(8):
        assert set(drawn[:, i]) == set(range(10 * i, 10 * i + 10))


def test_one_key_one_draw() -> None:
    once, again = (SAMPLING.get("gslta-train")(90, 8, generator("k", 3)) for _ in range(2))
    assert np.array_equal(once, again)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="'gslta-train' is random and needs a generator"):
        SAMPLING.get("gslta-train")(30, 8, None)
    for name in ("gslta-test", "uniform"):
        with pytest.raises(UsageError, match="deterministic and takes no generator"):
            SAMPLING.get(name)(30, 8, generator("x"))
    for n, frames in ((0, 8), (30, 0)):
        for name in SAMPLING:
            with pytest.raises(UsageError, match="at least one frame"):
                SAMPLING.get(name)(n, frames, rng_of(name, 0))
    with pytest.raises(UsageError, match="unknown frame sampling rule 'unifrom'") as caught:
        SAMPLING.get("unifrom")
    assert caught.value.hint == "did you mean 'uniform'?"
