"""The episode sampler: against a plain reference, by its properties and its distribution, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_cache.draws import bits
from fsar_cache.errors import UsageError
from splits.episodes import EpisodeSampler, published_walk, without_replacement
from splits.types import Episodes, Part, Protocol, Video

FIELDS = ("index", "classes", "support", "support_labels", "query", "query_labels", "unlabelled")


def part_of(sizes: Sequence[int], name: str = "train", shuffle: int | None = None) -> Part:
    """A partition whose class i has sizes[i] clips, in the order of classes or shuffled."""
    videos = [Video(f"{name}/{c}/{i}", f"c{c:04d}", f"{c}/{i}.mp4") for c, n in enumerate(sizes) for i in range(n)]
    if shuffle is not None:
        videos = [videos[i] for i in np.random.default_rng(shuffle).permutation(len(videos))]
    return Part(name, tuple(f"c{c:04d}" for c in range(len(sizes))), tuple(videos))


def same(one: Episodes, other: Episodes) -> bool:
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in FIELDS)


def chi_square(counts: np.ndarray) -> float:
    """Standard scores of the chi-square statistic of equally likely cells (about N(0, 1) for many cells)."""
    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (counts.size - 1)) / (2 * (counts.size - 1)) ** 0.5


# --- drawing without replacement


@settings(max_examples=60)
@given(st.integers(0, 2**63), st.integers(1, 40), st.data())
def test_draws_equal_popping_from_a_list(key: int, high: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, high))
    index = (np.array([[3], [8]]), np.array([[0, 1, 7]]))
    drawn = without_replacement(key, index, high, count)
    assert drawn.shape == (2, 3, count)
    for row, a in enumerate((3, 8)):
        for column, b in enumerate((0, 1, 7)):
            left = list(range(high))
            for i in range(count):
                word = int(bits(key, np.array(a), np.array(b), np.array(i)))
                assert drawn[row, column, i] == left.pop(word % len(left))


def test_draws_depend_on_their_own_index_and_bound_only() -> None:
    high = np.array([5, 9, 700, 10**9])
    drawn = without_replacement(1, (np.arange(4),), high, 5)
    for i, bound in enumerate(high):
        alone = without_replacement(1, (np.array([i]),), int(bound), 5)
        assert np.array_equal(alone[0], drawn[i])
    assert np.array_equal(np.sort(drawn[0]), np.arange(5))


def test_every_ordered_draw_is_equally_likely() -> None:
    drawn = without_replacement(7, (np.arange(60_000),), 5, 3)
    cells = np.bincount(drawn @ [25, 5, 1], minlength=125)
    allowed = [a * 25 + b * 5 + c for a in range(5) for b in range(5) for c in range(5) if len({a, b, c}) == 3]
    assert cells[allowed].sum() == 60_000
    assert abs(chi_square(cells[allowed])) < 4


# --- episodes


protocols = st.builds(
    Protocol, way=st.integers(2, 6), shot=st.integers(1, 4), query=st.integers(1, 3), unlabelled=st.integers(0, 6)
)


@settings(max_examples=80)
@given(protocols, st.integers(0, 2**40), st.integers(0, 10**9), st.data())
def test_episodes_are_sound(p: Protocol, seed: int, start: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(p.shot + p.query, 12), min_size=p.way, max_size=9))
    part, pool = part_of(sizes, shuffle=seed % 7), part_of([6, 3], "pool")
    exclude = data.draw(st.sets(st.sampled_from(part.ids), max_size=6))
    out = data.draw(st.sets(st.sampled_from(pool.ids), max_size=3))
    banned = {v for v, name in enumerate(part.ids) if name in exclude}
    kept = Counter(part.videos[v].label for v in range(len(part.videos)) if v not in banned)
    sampler_of = lambda: EpisodeSampler(  # noqa: E731
        part, p, seed, exclude=exclude, unlabelled=pool, exclude_unlabelled=out, split_hash="h"
    )
    if any(n < p.shot + p.query for n in kept.values()) or len(kept) < p.way:
        with pytest.raises(UsageError):
            sampler_of()
        return
    e = sampler_of().episodes(start, 9)
    assert len(e) == 9
    assert e.index.tolist() == list(range(start, start + 9))
    assert all(getattr(e, f).dtype == np.int64 for f in FIELDS)
    for i in range(9):
        classes, support, query, free = e.classes[i], e.support[i], e.query[i], e.unlabelled[i]
        assert len(set(classes)) == p.way
        assert len({*support, *query}) == p.way * (p.shot + p.query)
        assert np.array_equal(part.labels[support], classes[e.support_labels[i]])
        assert np.array_equal(part.labels[query], classes[e.query_labels[i]])
        assert np.array_equal(np.bincount(e.support_labels[i]), [p.shot] * p.way)
        assert np.array_equal(np.bincount(e.query_labels[i]), [p.query] * p.way)
        assert not banned & {*support.tolist(), *query.tolist()}
        assert len(set(free)) == p.unlabelled
        assert not out & {pool.ids[v] for v in free}


def test_any_slice_is_the_same_episodes() -> None:
    sampler = EpisodeSampler(
        part_of([8, 9, 10, 30], shuffle=1), Protocol(3, 2, 2, unlabelled=4), 5, unlabelled=part_of([9], "u")
    )
    whole = sampler.episodes(0, 10)
    assert same(sampler.episodes(3, 5), Episodes(*(getattr(whole, f)[3:8] for f in FIELDS)))
    for i in range(10):
        assert same(sampler.episodes(i, 1), Episodes(*(getattr(whole, f)[i : i + 1] for f in FIELDS)))
    assert len(sampler.episodes(4, 0)) == 0
    assert sampler.episodes(4, 0).support.shape == (0, 6)
    for bad in ((-1, 2), (0, -2)):
        with pytest.raises(UsageError, match="numbered from 0"):
            sampler.episodes(*bad)


_PRINT = """
import hashlib, json
from splits.episodes import EpisodeSampler
from splits.types import Part, Protocol, Video
part = Part("train", ("a", "b", "c"), tuple(Video(f"{c}{i}", c, "p") for c in "abc" for i in range(7)))
e = EpisodeSampler(part, Protocol(2, 2, 1, unlabelled=3), 11, exclude={"a1", "c6", "b0"}, unlabelled=part,
                   exclude_unlabelled={"a1", "c6", "b0"}, split_hash="s").episodes(5, 40)
print(json.dumps([e.support[0].tolist(), e.query[0].tolist(), e.unlabelled[0].tolist(),
                  hashlib.sha256(b"".join(getattr(e, f).tobytes() for f in %r)).hexdigest()]))
"""


def test_episodes_are_the_same_in_every_process_and_release() -> None:
    made = [
        subprocess.run(
            [sys.executable, "-c", _PRINT % (FIELDS,)],
            env={**os.environ, "PYTHONHASHSEED": str(n)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in (1, 2)
    ]
    assert made[0] == made[1]
    assert json.loads(made[0]) == PINNED, (
        "published episodes changed: results of earlier releases can't be compared any more"
    )


PINNED = [[0, 9, 5, 8], [2, 10], [13, 14, 8], "2323b6ed0152f259d16cd95d613f47b9a7768305069a281f9fe1fac46ee29e79"]


def test_what_changes_episodes_and_what_does_not() -> None:
    part, pool = part_of([9] * 6), part_of([20], "pool")
    p = Protocol(4, 2, 1, episodes=10)

    def draw(**kwargs: object) -> Episodes:
        given_ = {"part": part, "protocol": p, "seed": 1, "split_hash": "h", **kwargs}
        return EpisodeSampler(**given_).episodes(0, 30)  # type: ignore[arg-type]

    base = draw()
    assert same(base, draw(protocol=Protocol(4, 2, 1, episodes=10_000)))
    assert same(base, draw(exclude={"somebody/elses/clip"}))
    assert same(base, draw(unlabelled=pool))
    assert same(base, draw(min_class="drop"))
    more = draw(protocol=Protocol(4, 2, 1, unlabelled=3), unlabelled=pool)
    assert np.array_equal(more.support, base.support)
    assert np.array_equal(more.query, base.query)
    fewer = draw(protocol=Protocol(4, 2, 1, unlabelled=3), unlabelled=pool, exclude_unlabelled={pool.ids[0]})
    assert np.array_equal(fewer.support, base.support)
    assert not np.array_equal(fewer.unlabelled, more.unlabelled)
    for change in (
        {"seed": 2},
        {"split_hash": "i"},
        {"exclude": {part.ids[3]}},
        {"protocol": Protocol(4, 1, 2)},
        {"part": part_of([9] * 6, "test")},
    ):
        assert not np.array_equal(draw(**change).query[:, :4], base.query)


def test_exclusion_hash_counts_only_clips_that_are_there() -> None:
    part, pool = part_of([9] * 6), part_of([20], "pool")

    def hash_of(exclude: Sequence[str] = (), unlabelled: Sequence[str] = ()) -> str:
        sampler = EpisodeSampler(
            part, Protocol(2, 1, 1), 0, exclude=exclude, unlabelled=pool, exclude_unlabelled=unlabelled
        )
        return sampler.exclusion_hash

    mine, theirs = [part.ids[0]], [pool.ids[0]]
    assert hash_of() == hash_of(["nobody"]) == hash_of(theirs, mine)
    assert hash_of(part.ids[:2]) == hash_of([part.ids[1], part.ids[0], "nobody"])
    assert len({hash_of(), hash_of(mine), hash_of((), theirs), hash_of(mine, theirs)}) == 4


def test_one_id_in_two_datasets_is_two_clips() -> None:
    """What failed in the unlabelled dataset is drawn from the labelled one, and the other way round."""
    part, pool = part_of([3, 3], "x"), part_of([6], "x")
    one = EpisodeSampler(part, Protocol(2, 1, 1, unlabelled=2), 1, unlabelled=pool, exclude_unlabelled={"x/0/0"})
    assert 0 in one.episodes(0, 200).support
    assert 0 not in one.episodes(0, 200).unlabelled
    other = EpisodeSampler(part, Protocol(2, 1, 1, unlabelled=2), 1, unlabelled=pool, exclude={"x/0/0"})
    assert 0 not in other.episodes(0, 200).support
    assert 0 in other.episodes(0, 200).unlabelled


def test_excluded_clips_are_never_drawn_and_all_others_are() -> None:
    part = part_of([4, 5, 6], shuffle=3)
    exclude = {part.ids[0], part.ids[7]}
    p = Protocol(2, 1, 1, unlabelled=2)
    e = EpisodeSampler(part, p, 1, exclude=exclude, unlabelled=part, exclude_unlabelled=exclude).episodes(0, 2000)
    usable = set(range(15)) - {0, 7}
    for drawn in (e.support, e.query, e.unlabelled):
        assert set(drawn.ravel().tolist()) == usable


def test_classes_and_clips_are_uniform_whatever_the_size() -> None:
    sizes = [3, 300, 30, 3, 50, 4]
    part = part_of(sizes, shuffle=2)
    e = EpisodeSampler(part, Protocol(2, 2, 1, unlabelled=2), 9, unlabelled=part).episodes(0, 40_000)
    pairs = np.bincount(e.classes @ [6, 1], minlength=36)[[a * 6 + b for a in range(6) for b in range(6) if a != b]]
    assert abs(chi_square(pairs)) < 4
    for drawn in (e.support, e.query):
        for c in range(6):
            counts = np.bincount(drawn[part.labels[drawn] == c], minlength=len(part.videos))[part.labels == c]
            assert abs(chi_square(counts)) < 4
    assert abs(chi_square(np.bincount(e.unlabelled.ravel(), minlength=len(part.videos)))) < 4


def walk(number: int, classes: Sequence[Sequence[int]]) -> int:
    """The published walk, word for word: subtract a class before comparing, compare with its size subtracted again."""
    through = 0
    for members in classes:
        through += len(members)
        if number < through + len(members):
            return members[number - through]
    raise AssertionError("the walk ends in a class")


@settings(max_examples=200)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 1))
def test_the_published_walk_equals_a_literal_one(sizes: list[int]) -> None:
    ends = np.cumsum(sizes)
    classes = [list(range(end - size, end)) for end, size in zip(ends.tolist(), sizes, strict=True)]
    numbers = np.arange(1, sum(sizes))
    assert published_walk(numbers, np.array(sizes)).tolist() == [walk(s, classes) for s in numbers.tolist()]


def test_published_unlabelled_sampling_walks_the_usable_clips_of_each_class() -> None:
    sizes = [5, 2, 7, 5]
    pool, out = part_of(sizes, "pool", shuffle=4), {"pool/2/3", "pool/0/0"}
    p = Protocol(2, 1, 1, unlabelled=6)
    made = {
        how: EpisodeSampler(
            part_of([4, 4]), p, 3, unlabelled=pool, exclude_unlabelled=out, unlabelled_sampling=how
        ).episodes(7, 50)
        for how in ("uniform", "published")
    }
    assert np.array_equal(made["uniform"].support, made["published"].support)
    usable = [i for i, name in enumerate(pool.ids) if name not in out]
    classes = [[i for i in usable if pool.labels[i] == c] for c in range(4)]
    sampler = EpisodeSampler(
        part_of([4, 4]), p, 3, unlabelled=pool, exclude_unlabelled=out, unlabelled_sampling="published"
    )
    numbers = 1 + without_replacement(sampler._key["unlabelled"], (np.arange(7, 57),), len(usable) - 1, 6)
    assert all(len(set(row)) == 6 for row in numbers.tolist())
    assert made["published"].unlabelled.tolist() == [[walk(s, classes) for s in row] for row in numbers.tolist()]
    assert np.array_equal(sampler.episodes(20, 3).unlabelled, made["published"].unlabelled[13:16])


def test_published_unlabelled_sampling_favours_the_first_class_and_forgets_the_last() -> None:
    pool = part_of([20] * 5, "pool")
    p = Protocol(2, 1, 1, unlabelled=4)
    e = EpisodeSampler(part_of([4, 4]), p, 3, unlabelled=pool, unlabelled_sampling="published").episodes(0, 5000)
    share = np.bincount(pool.labels[e.unlabelled].ravel(), minlength=5) / e.unlabelled.size
    assert share == pytest.approx([39 / 99, 20 / 99, 20 / 99, 20 / 99, 0], abs=0.01)


def test_order_of_support_and_query_says_nothing() -> None:
    e = EpisodeSampler(part_of([9] * 5), Protocol(3, 2, 2), 4).episodes(0, 45_000)
    for labels in (e.support_labels, e.query_labels):
        patterns, counts = np.unique(labels @ 3 ** np.arange(6), return_counts=True)
        assert len(patterns) == 90, "6! / (2! 2! 2!) orders"
        assert abs(chi_square(counts)) < 4
    assert abs(np.corrcoef(e.support_labels[:, 0], e.query_labels[:, 0])[0, 1]) < 4 / 45_000**0.5


# --- what is refused


@pytest.mark.parametrize(
    ("sizes", "protocol", "more", "says"),
    [
        ([9, 9, 9], Protocol(5, 1, 1), {}, ["need 5 classes", "has 3: c0000, c0001, c0002", "at most 3-way"]),
        ([9], Protocol(2, 1, 1), {}, ["has 1: c0000", "another partition"]),
        ([], Protocol(2, 1, 1), {}, ["has 0"]),
        (
            [9, 2, 9, 3],
            Protocol(2, 3, 1),
            {},
            ["need 4", "2 of 4", "c0001 (2), c0003 (3)", "at most 2", "--set target.min_class=drop leaves 2 classes"],
        ),
        ([9, 2, 9], Protocol(2, 3, 1), {"role": "source"}, ["--set source.min_class=drop leaves 2 classes"]),
        ([9, 2, 9], Protocol(3, 1, 1), {"exclude": {"train/1/0", "train/1/1"}}, ["has 2 (2 clips are excluded)"]),
        ([9, 2, 9, 3], Protocol(3, 3, 1), {"min_class": "drop"}, ["has 2", "c0001 (2), c0003 (3)", "at most 3"]),
        ([9, 2, 9, 3], Protocol(3, 3, 1), {}, ["at most 2"]),
        ([9, 1, 0], Protocol(2, 1, 1), {}, ["c0001 (1), c0002 (0)", "another partition, or add clips"]),
        ([9, 1, 0], Protocol(2, 1, 1), {"min_class": "drop"}, ["has 1", "another partition, or add clips"]),
        ([2] * 30, Protocol(5, 5, 1), {}, ["30 of 30", "c0007 (2) and 22 more"]),
        ([3, 3], Protocol(2, 2, 1), {"exclude": {"train/1/0"}}, ["1 clips are excluded", "c0001 (2)", "at most 2"]),
        ([9, 9], Protocol(2, 1, 1, unlabelled=3), {}, ["3 unlabelled", "no partition"]),
        (
            [9, 9],
            Protocol(2, 1, 1, unlabelled=3),
            {"unlabelled": part_of([2], "u")},
            ["'u' has 2 usable of 2", "at most 2"],
        ),
        (
            [9, 9],
            Protocol(2, 1, 1, unlabelled=3),
            {"unlabelled": part_of([3], "u"), "exclude_unlabelled": {"u/0/2"}},
            ["has 2 usable of 3"],
        ),
        (
            [9, 9],
            Protocol(2, 1, 1, unlabelled=3),
            {"unlabelled": part_of([3], "u"), "unlabelled_sampling": "published"},
            ["has 3 usable of 3", "at most 2"],
        ),
        ([9, 9], Protocol(2, 1, 1), {"unlabelled_sampling": "publishd"}, ["'publishd'", "uniform, published"]),
        ([9, 9], Protocol(2, 1, 1), {"min_class": "dorp"}, ["'dorp'", "refuse, drop"]),
    ],
)
def test_impossible_protocols_are_refused_up_front(
    sizes: list[int], protocol: Protocol, more: dict[str, object], says: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        EpisodeSampler(part_of(sizes), protocol, 0, **more)  # type: ignore[arg-type]
    for words in says:
        assert words in f"{caught.value.message} {caught.value.hint}"


def test_what_the_hint_promises_works() -> None:
    part = part_of([9, 2, 9, 3])
    EpisodeSampler(part, Protocol(4, 1, 1), 0).episodes(0, 5)
    EpisodeSampler(part, Protocol(3, 2, 1), 0, min_class="drop").episodes(0, 5)
    dropped = EpisodeSampler(part, Protocol(2, 3, 1), 0, min_class="drop").episodes(0, 200)
    assert set(dropped.classes.ravel().tolist()) == {0, 2}
    assert EpisodeSampler(part, Protocol(2, 3, 1), 0, min_class="drop").left_out == ("c0001", "c0003")


def test_a_class_without_any_usable_clip_is_left_out() -> None:
    part = part_of([4, 2, 4, 4])
    sampler = EpisodeSampler(part, Protocol(3, 1, 1), 0, exclude={"train/1/0", "train/1/1"})
    assert sampler.left_out == ("c0001",)
    assert set(sampler.episodes(0, 300).classes.ravel().tolist()) == {0, 2, 3}
    assert EpisodeSampler(part, Protocol(3, 1, 1), 0).left_out == ()
    with pytest.raises(UsageError, match="1 of 4 classes"):
        EpisodeSampler(part, Protocol(3, 1, 1), 0, exclude={"train/1/0"})


def test_ten_thousand_episodes_of_a_large_dataset_take_under_a_second() -> None:
    sizes = np.random.default_rng(0).integers(200, 1051, 400).tolist()
    part = part_of(sizes, shuffle=1)
    assert len(part.videos) > 240_000
    part.labels  # noqa: B018 - computed once per partition, not per sampler
    exclude = set(part.ids[::1000])

    def once() -> float:
        began = time.perf_counter()
        sampler = EpisodeSampler(
            part, Protocol(5, 5, 1, unlabelled=25), 1896, exclude=exclude, unlabelled=part, exclude_unlabelled=exclude
        )
        assert len(sampler.episodes(0, 10_000)) == 10_000
        return time.perf_counter() - began

    assert min(once() for _ in range(3)) < 1.0
