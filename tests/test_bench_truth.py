"""Scores of warps and paths on constructed clips whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import truth_scores as truth
from truth_scores import Action

T = 8


def clip(start: float, duration: float, length: float = 2.4) -> Action:
    return Action(start, duration, np.linspace(0.05, length - 0.05, T))


def clips(count: int, seed: int = 0) -> list[Action]:
    rng = np.random.default_rng(seed)
    return [clip(rng.uniform(0.1, 0.5), rng.uniform(0.9, 1.7), rng.uniform(2.2, 2.8)) for _ in range(count)]


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def theta_of(action: Action) -> tuple[float, float]:
    """The warp that reads exactly the action."""
    first, last = action.times[0], action.times[-1]
    half = (last - first) / 2
    return action.duration / 2 / half, (action.start + action.duration / 2 - (first + last) / 2) / half


def perfect_path(query: Action, support: Action) -> np.ndarray:
    """The path whose rows lead to the very moment (between two frames) of the same phase."""
    found = np.zeros((T, T))
    for row, time in enumerate(query.times):
        moment = support.start + (time - query.start) / query.duration * support.duration
        place = np.clip(np.interp(moment, support.times, np.arange(T)), 0, T - 1)
        low = min(int(place), T - 2)
        found[row, low : low + 2] = (low + 1 - place, place - low)
    return found


def test_frames_of_a_clip_are_at_the_times_that_the_rule_takes():
    made = truth.action_of({"frames": 42, "fps": 20, "start": 0.3, "duration": 1.0, "id": "x"}, "gslta-test", 8)
    assert made.times[0] == 1 / 20
    assert made.times[-1] == 40 / 20
    assert (made.start, made.duration) == (0.3, 1.0)


def test_the_identity_warp_reads_from_the_first_frame_to_the_last_and_a_backward_one_the_same_span():
    times = np.array([[0.0, 1.0, 2.0]] * 3)
    begin, end = truth.window_seconds(np.array([[1.0, 0.0], [0.5, 0.5], [-0.5, 0.5]]), times)
    assert begin.tolist() == [0.0, 1.0, 1.0]
    assert end.tolist() == [2.0, 2.0, 2.0]


def test_overlap_of_spans():
    made = truth.overlap(*(np.array(x) for x in ([0.0, 0, 0, 1], [2.0, 1, 1, 1], [1.0, 2, 0, 1], [3.0, 3, 1, 1])))
    assert made.tolist() == [pytest.approx(1 / 3), 0, 1, 0]


def test_warps_that_read_exactly_the_action_are_without_error():
    actions = clips(60)
    found = truth.score_windows(np.array([theta_of(a) for a in actions]), actions, rng())
    head = found["head"]
    assert head["centre"].value == pytest.approx(0, abs=1e-12)
    assert head["width"].value == pytest.approx(0, abs=1e-12)
    assert head["overlap"].value == pytest.approx(1)
    assert head["centre correlation"].value == pytest.approx(1)
    assert head["width correlation"].value == pytest.approx(1)
    assert head["backwards"] == 0
    assert found["whole clip"]["width"].low > 0.5
    assert found["centred"]["centre"].value == pytest.approx(found["whole clip"]["centre"].value)
    assert found["centred"]["overlap"].low > found["whole clip"]["overlap"].high


def test_a_warp_that_is_the_same_for_all_clips_scores_as_its_baseline_and_correlates_with_nothing():
    actions = [clip(a.start, a.duration) for a in clips(50)]
    found = truth.score_windows(np.tile([1.0, 0.0], (50, 1)), actions, rng())
    assert found["head"]["overlap"].value == pytest.approx(found["whole clip"]["overlap"].value)
    assert found["head"]["centre correlation"].value == 0


def test_warps_that_move_the_wrong_way_correlate_negatively():
    actions = clips(60)
    theta = np.array([theta_of(a) for a in actions]) * [1, -1]
    found = truth.score_windows(theta, actions, rng())["head"]
    assert found["centre correlation"].high < -0.9
    assert found["centre"].value > 0.1


def test_a_frame_is_mapped_by_its_phase_of_the_action():
    query, support = Action(1.0, 1.0, np.array([0.5, 1.25, 1.5, 2.5])), Action(0.0, 2.0, np.arange(4.0))
    assert truth.true_times(query, support).tolist()[1:3] == [0.5, 1.0]
    assert np.isnan(truth.true_times(query, support)[[0, 3]]).all()


def test_a_path_leads_to_the_weighted_mean_of_moments_and_an_empty_row_nowhere():
    made = truth.path_times(np.array([[1.0, 1.0], [0.0, 3.0], [0.0, 0.0]]), np.array([0.0, 2.0]))
    assert made[:2].tolist() == [1.0, 2.0]
    assert np.isnan(made[2])


def pairs(count: int) -> tuple[list[Action], list[Action]]:
    made = clips(2 * count, seed=3)
    return made[:count], made[count:]


def test_perfect_paths_are_nearly_without_error_and_beat_every_baseline():
    queries, supports = pairs(40)
    # rows of one path are right in one direction only, so each direction is tried with a path of its own
    for first, second in ((queries, supports), (supports, queries)):
        each = [truth.pair_columns(perfect_path(q, s), q, s) for q, s in zip(first, second, strict=True)]
        error = np.abs(np.concatenate(each)[:, 1:] - np.concatenate(each)[:, :1]).mean(0)
        assert error[0] < 1e-9
        assert error[3] < 0.1 < error[1] < error[2]


def test_paths_with_the_right_shift_score_above_identity_and_identity_scores_as_itself():
    queries, supports = pairs(40)
    paths = [perfect_path(q, s) + perfect_path(s, q).T for q, s in zip(queries, supports, strict=True)]
    found = truth.score_paths(paths, queries, supports, rng())
    assert found["head"].high < found["identity"].low
    assert found["shift"].low > 0.8
    assert found["shift of middle"].high < found["shift"].low
    same = truth.score_paths([np.eye(T)] * 40, queries, supports, rng())
    assert same["head"].value == pytest.approx(same["identity"].value)
    assert same["shift"].value == 0


def test_paths_of_shuffled_pairs_correlate_with_nothing():
    queries, supports = pairs(60)
    others = clips(60, seed=9)
    wrong = [perfect_path(a, b) + perfect_path(b, a).T for a, b in zip(others, reversed(others), strict=True)]
    found = truth.score_paths(wrong, queries, supports, rng())
    assert found["head"].low > found["identity"].value
    assert found["shift"].low < 0.15


def test_a_pair_whose_path_covers_nothing_is_refused():
    queries, supports = pairs(2)
    with pytest.raises(ValueError, match="covers"):
        truth.score_paths([np.zeros((T, T))] * 2, queries, supports, rng())


def test_intervals_come_from_the_generator_and_shrink_with_more_clips():
    values = np.random.default_rng(0).normal(5, 1, 400)
    few, many = truth.mean_score(values[:25], rng()), truth.mean_score(values, rng())
    assert truth.mean_score(values, rng()) == many
    assert many.low < many.value < many.high
    assert (many.high - many.low) == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (few.high - few.low) > 2.5 * (many.high - many.low)


def test_pairs_are_disjoint_and_of_one_class():
    labels = np.repeat([4, 7, 9], [5, 6, 2])
    made = truth.disjoint_pairs(labels, rng())
    assert len(made) == 6
    assert len(np.unique(made)) == 12
    assert (labels[made[:, 0]] == labels[made[:, 1]]).all()


def test_a_path_that_knows_nothing_scores_as_the_middle():
    queries, supports = pairs(40)
    found = truth.score_paths([np.ones((T, T))] * 40, queries, supports, rng())
    assert found["head"].value == pytest.approx(found["middle"].value)
    assert found["shift"].value == pytest.approx(found["shift of middle"].value)


def test_a_warped_clip_shows_the_moments_that_the_warp_reads():
    action = Action(0.3, 1.0, np.linspace(0.0, 2.0, 5))
    assert truth.warped(action, np.array([0.5, 0.25])).times.tolist() == [0.75, 1.0, 1.25, 1.5, 1.75]
    assert truth.warped(action, np.array([-1.0, 0.0])).times.tolist() == [2.0, 1.5, 1.0, 0.5, 0.0]
    begin, end = truth.window_seconds(np.array([[0.5, 0.25]]), action.times[None])
    assert (begin[0], end[0]) == (0.75, 1.75)
