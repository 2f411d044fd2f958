"""The joint space of clips and class names, on constructed clips in which every verb has a direction of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import joint_text
from joint_text import Joint

from cache.store import open_store
from fsar_cache.errors import FsarError
from splits.synth_motion import CLASSES
from splits.types import Part, Split, Video

T, D, EACH = 8, 24, 6
SMALL = Joint(width=16, hidden=64, steps=80, dropout=0.1)
SEEN, UNSEEN = CLASSES["source"]["train"], CLASSES["target"]["test"]


def clips(names: tuple[str, ...], seed: int) -> tuple[Tensor, np.ndarray]:
    """Clips [n, 8, 24] of the classes: four noisy frames of each verb, in order; a verb looks another way as first and as second."""
    looks = torch.from_numpy(np.random.default_rng(0).standard_normal((24, D))).float()
    labels = np.repeat(np.arange(len(names)), EACH)
    frames = looks[joint_text.verbs_of(names) + torch.tensor([0, 12])].repeat_interleave(4, 1)[labels]
    noise = np.random.default_rng(seed).standard_normal(frames.shape)
    return frames + 0.5 * torch.from_numpy(noise).float(), labels


def pair_of(config: Joint = SMALL) -> joint_text.Pair:
    return joint_text.train(*clips(SEEN, 1), SEEN, config)


def test_text_of_classes_never_seen_is_composed_of_their_verbs():
    pair = pair_of()
    unseen, labels = clips(UNSEEN, 2)
    frames, text = pair.frames(unseen), pair.text(joint_text.verbs_of(UNSEEN))
    found = joint_text.zero_shot(frames, text, labels, UNSEEN)
    assert found["all"] - found["half"] > 60 > 5 * found["chance"]
    assert found["pairs"] > 90
    wrong = joint_text.zero_shot(frames, text.roll(4, 0), labels, UNSEEN)
    assert wrong["all"] < 30


def test_training_is_a_function_of_its_arguments_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    few = Joint(width=16, hidden=32, steps=3)
    first, again, other = pair_of(few), pair_of(few), pair_of(Joint(seed=1, width=16, hidden=32, steps=3))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.text.words.weight, other.text.words.weight)
    assert not first.training


def test_another_kind_of_clips_is_trained_onto_text_that_stays():
    pair = pair_of()
    moves, labels = clips(SEEN, 4)
    seen = joint_text.train(-2 * moves[..., :20], labels, SEEN, SMALL, known=pair)
    assert all(torch.equal(a, b) for a, b in zip(seen.text.parameters(), pair.text.parameters(), strict=True))
    others, truth = clips(UNSEEN, 5)
    found = joint_text.zero_shot(
        seen.frames(-2 * others[..., :20]), pair.text(joint_text.verbs_of(UNSEEN)), truth, UNSEEN
    )
    assert found["all"] - found["half"] > 40


def test_the_neighbours_of_the_first_and_last_frame_are_themselves():
    frames = joint_text.Frames(2, Joint(dropout=0.0)).eval()
    seen = []
    frames.layers[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    frames(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]))
    assert seen[0][0].tolist() == [[1, 2, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 5, 6]]


def test_what_text_gets_right_is_counted_among_all_classes_and_between_reversals():
    names = ("grow-split", "merge-shrink", "open-topple", "rise-close")
    text = torch.eye(4)
    clip = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0.9, 0], [0, 0, 0.5, 0.6], [0.9, 0, 0.1, 0.2]])[:, None]
    found = joint_text.zero_shot(clip, text, np.arange(4), names)
    assert found == {"chance": 25, "all": 50, "half": 49, "pairs": 75, "pairs half": 42.44}


def test_a_class_that_is_no_motion_is_refused():
    with pytest.raises(FsarError, match="jump"):
        joint_text.verbs_of(("grow-split", "jump-split"))


def test_features_and_text_become_stores_that_hold_them(empty_place):
    names = ("grow-split", "merge-shrink")
    videos = tuple(Video(f"{name}{i}", name, "") for name in names for i in range(3))
    split = Split("toy", empty_place, {"train": Part("train", names, videos)})
    frames = {v.id: np.random.default_rng(i).random((T, 16), np.float32) for i, v in enumerate(videos)}
    text = joint_text.Pair(D, SMALL).eval().requires_grad_(False).text
    with open_store(joint_text.store_features(split, frames, "a test")) as store:
        assert store.spec.kind == "features"
        assert store.spec.backbone["name"] == "joint"
        assert store.spec.shape == (T, 16)
        assert np.array_equal(store.load(store.rows_of(list(frames))), np.stack(list(frames.values())))
    with open_store(joint_text.store_text(split, text, SMALL, "a test")) as store:
        assert store.spec.kind == "text"
        held = store.load(store.rows_of(list(names)))
    assert np.array_equal(held, text(joint_text.verbs_of(names)).numpy())
