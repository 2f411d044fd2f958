"""GSLTA's training: mixing, teacher, draws, losses and switches, against slow loops and one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import load
from head_episodes import DIM, FRAMES, WAY, episodes, make, one
from parity import answers
from parity_models import norms
from torch import Tensor

from fsar_cache.errors import UsageError
from heads.base import EpisodeBatch, EpisodeShape, Task
from heads.gslta import Gslta
from heads.mixing import mix_frames


def gslta(**config: Any) -> Gslta:
    head = make("gslta", **config)
    assert isinstance(head, Gslta)
    return head.train()


def shape(labels: np.ndarray) -> EpisodeShape:
    return EpisodeShape(WAY, 2, len(labels) // WAY, 4, FRAMES, labels)


def slow_mix(x: np.ndarray, pool: np.ndarray, index: str) -> np.ndarray:
    """One clip, word by word: the best pair, a frame replaced, a row struck out, once more."""
    frames, width = len(x), len(pool)
    sim = np.array([[a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.01) for b in pool] for a in x])
    y = x.copy()
    for _ in range(2):
        best = int(sim.argmax())
        row, column = best // width, best % width
        if index == "published":
            y[row - 1] = pool[column - 1]
            sim[row - 1, :] = 0.0
        else:
            y[row] = pool[column]
            sim[row, :] = -np.inf
    assert y.shape == (frames, x.shape[1])
    return 0.8 * x + 0.2 * y


@pytest.mark.parametrize("index", ["published", "intended"])
@pytest.mark.parametrize("signed", [False, True])
def test_mixing_equals_the_slow_words(index: str, signed: bool) -> None:
    rng = np.random.default_rng(3)
    x, pool = rng.standard_normal((2, 20, 4, 3)), rng.standard_normal((2, 6, 3))
    if not signed:
        x, pool = np.abs(x), np.abs(pool)
    got = mix_frames(torch.from_numpy(x), torch.from_numpy(pool), share=0.2, index=index, epsilon=0.01).numpy()
    want = np.stack([[slow_mix(clip, pool[e], index) for clip in x[e]] for e in range(2)])
    np.testing.assert_allclose(got, want, rtol=1e-12)
    changed = (np.abs(got - x).max(-1) > 1e-9).sum(-1)
    assert set(changed.ravel()) <= ({1} if index == "published" and not signed else {1, 2})
    if index == "intended":
        assert (changed == 2).all()


def test_mixing_passes_gradients_to_clips_and_pool() -> None:
    x, pool = (torch.rand(1, 2, 4, 3, dtype=torch.float64), torch.rand(1, 6, 3, dtype=torch.float64))
    x.requires_grad_(), pool.requires_grad_()
    mix_frames(x, pool, share=0.2, index="published", epsilon=0.01).sum().backward()
    assert (x.grad == 1).sum() == 2 * 3 * 3  # three untouched frames per clip
    assert x.grad.min().item() == pytest.approx(0.8)
    assert pool.grad.sum().item() == pytest.approx(2 * 3 * 0.2)


@pytest.mark.parametrize(("every", "mixed"), [(2, [False, True, False, True]), (1, [True] * 4), (0, [False] * 4)])
def test_mixing_schedule(every: int, mixed: list[bool]) -> None:
    batch, head = episodes(1), gslta(sfme_every=every)
    for step, expected in enumerate(mixed, start=1):
        out = head(batch, step)
        assert torch.equal(out.shows["mixed_support"], batch.support["features"]) is not expected
        assert torch.equal(out.shows["mixed_query"], batch.query["features"]) is not expected


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def disturb(head: Gslta) -> None:
    with torch.no_grad():
        for parameter in head.student.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)))


def test_the_teacher_starts_as_a_copy_and_follows_slowly() -> None:
    batch, head = episodes(1), gslta(ema_momentum=0.9)
    assert not same(head.teacher, head.student)
    head(batch, 1)
    assert same(head.teacher, head.student)
    disturb(head)
    before = [p.clone() for p in head.teacher.parameters()]
    head(batch, 2)
    head.after_forward(2)
    for old, new, student in zip(before, head.teacher.parameters(), head.student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)


def test_before_start_cross_only_the_supervised_loss_counts() -> None:
    batch, head = episodes(1), gslta(start_cross=2)
    before = [p.clone() for p in head.teacher.parameters()]
    for step in (1, 2):
        out = head(batch, step)
        head.after_forward(step)
        assert {name: weight for name, (_, weight) in out.losses.items() if weight} == {"supervised": 1.0}
        torch.testing.assert_close(out.loss, out.losses["supervised"][0])
        assert out.losses["self"][0] == out.losses["cross"][0] == 0
        assert all(torch.equal(a, b) for a, b in zip(before, head.teacher.parameters(), strict=True))
    out = head(batch, 3)
    assert same(head.teacher, head.student)
    assert [weight for _, weight in out.losses.values()] == [1.0, 1.0, 0.1, 0.05, 0.05]


@pytest.mark.parametrize(("switch", "copied"), [("copy", True), ("keep", False)])
def test_teacher_on_resume(switch: str, copied: bool) -> None:
    batch, head = episodes(1), gslta(teacher_on_resume=switch)
    head(batch, 17)
    assert same(head.teacher, head.student) is copied
    disturb(head)
    head(batch, 18)
    assert not same(head.teacher, head.student)


def test_the_teacher_takes_no_gradient_and_may_move_before_backward() -> None:
    batch, head = episodes(1), gslta()
    x = batch.query["features"].clone().requires_grad_()
    out = head(replace(batch, query={"features": x}), 2)
    head.after_forward(2)
    out.loss.backward()
    assert torch.isfinite(x.grad).all()
    assert all(p.grad is None for p in head.teacher.parameters())
    assert all(p.grad is not None for part in (head.student, head.decoder, head.class_layer) for p in part.parameters())


def slow_losses(head: Gslta, batch: EpisodeBatch) -> dict[str, float]:
    """One episode at an odd iteration, clip by clip in float64, from the definitions."""

    def alone(part: Any, x: Tensor) -> Tensor:
        out: Tensor = part(x[None])[0]
        return out

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return -head.align(a[None, None], b[None, None]).flatten()[0]

    def cross_entropy(logits: Tensor, label: int) -> float:
        return float(torch.logsumexp(logits, 0) - logits[label])

    s, q, u = (c["features"][0] for c in (batch.support, batch.query, batch.unlabelled or {}))
    labels, truth = batch.task.support_labels[0].tolist(), batch.query_labels[0].tolist()
    z_s, z_q = [alone(head.student, x) for x in s], [alone(head.student, x) for x in q]
    p = [torch.stack([z for z, label in zip(z_s, labels, strict=True) if label == c]).mean(0) for c in range(WAY)]
    scores = [torch.stack([distance(z, p[c]) for c in range(WAY)]) for z in z_q]
    sources = [*batch.support_class[0].tolist(), *batch.query_class[0].tolist()]
    losses = dict.fromkeys(("supervised", "meta", "reconstruction", "self", "cross"), 0.0)
    for z, label in zip([*z_s, *z_q], sources, strict=True):
        losses["supervised"] += cross_entropy(head.class_layer(head.class_norm(z.mean(0))), label)
    for score, label in zip(scores, truth, strict=True):
        losses["meta"] += cross_entropy(score, label)
    for x in u:
        losses["reconstruction"] += float(((alone(head.decoder, alone(head.student, x)) - x) ** 2).sum()) / DIM / len(u)
    subs, mates = batch.task.draws["sub_query"][0].tolist(), batch.task.draws["cross_partner"][0].tolist()
    for i, score in enumerate(scores):
        for name, j in (("self", i), ("cross", mates[i])):
            for sub in subs:
                local = alone(head.teacher, q[j][sub])
                u_local = torch.stack([distance(local, p[c]) for c in range(WAY)])
                losses[name] -= float((score.softmax(0) * u_local.log_softmax(0)).sum()) / len(scores)
    return losses


@pytest.mark.parametrize("scaling", ["published", "per_task"])
@pytest.mark.parametrize("directions", [1, 2])
@torch.no_grad()
def test_losses_equal_the_slow_sums(scaling: str, directions: int) -> None:
    batch = episodes(1, shots=(1, 3, 2))
    head = gslta(loss_scaling=scaling, otam_directions=directions, tasks_per_batch=4).double()
    double = {k: {"features": getattr(batch, k)["features"].double()} for k in ("support", "query", "unlabelled")}
    batch = replace(batch, **double)
    disturb(head)
    out = head(batch, 3)
    divided = ("supervised", "meta") if scaling == "published" else tuple(out.losses)
    for name, want in slow_losses(head, batch).items():
        assert out.losses[name][0].item() == pytest.approx(want / (4 if name in divided else 1)), name
    weights = {"supervised": 1.0, "meta": 1.0, "reconstruction": 0.1, "self": 0.05, "cross": 0.05}
    assert {name: weight for name, (_, weight) in out.losses.items()} == weights


def test_draws_are_subsequences_and_mates() -> None:
    labels = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1])
    head = gslta()
    seen = np.zeros((9, 9), dtype=int)
    for seed in range(300):
        draws = head.draw(shape(labels), np.random.default_rng(seed))
        assert draws.keys() == {"sub_query", "cross_partner"}
        subs = [tuple(sub) for sub in draws["sub_query"].tolist()]
        assert len(set(subs)) == 4
        assert set(subs) <= set(combinations(range(FRAMES), 3))
        seen[np.arange(9), draws["cross_partner"]] += 1
    assert (seen[labels[:, None] != labels] == 0).all()
    assert (np.diag(seen) == 0).all()
    mates = seen[(labels[:, None] == labels) & ~np.eye(9, dtype=bool)]
    assert (np.abs(mates - 150) < 45).all()  # each of two mates half the time: more than 5 standard deviations
    twice = [head.draw(shape(labels), np.random.default_rng(7)) for _ in range(2)]
    assert all(np.array_equal(twice[0][k], twice[1][k]) for k in twice[0])


def test_one_query_per_class_is_an_error_unless_nothing_needs_a_mate() -> None:
    with pytest.raises(UsageError, match="at least 2 queries per class, class 0 has 1"):
        gslta().draw(shape(np.arange(3)), np.random.default_rng(0))
    head = gslta(weight_self=0.0, weight_cross=0.0)
    assert head.draw(shape(np.arange(3)), np.random.default_rng(0)) == {}
    assert torch.isfinite(head(episodes(1, queries=1), 1).loss)


def test_too_many_subsequences_are_refused() -> None:
    with pytest.raises(UsageError, match="11 different subsequences of 3 out of 5 frames, but there are 10"):
        gslta(sub_seq_num=11).draw(shape(np.arange(3).repeat(2)), np.random.default_rng(0))


def with_draws(batch: EpisodeBatch, **draws: Tensor) -> EpisodeBatch:
    return replace(batch, task=Task(WAY, batch.task.support_labels, {**batch.task.draws, **draws}))


def test_bad_training_episodes_are_refused() -> None:
    batch = episodes(1)
    labels, mates = batch.query_labels, batch.task.draws["cross_partner"]
    stranger = (labels[0] != labels[0, 0]).nonzero()[0].expand(1, labels.shape[1])
    nan = torch.full_like(batch.support["features"][:, :4], float("nan"))
    bad = {
        "needs the draws sub_query and cross_partner": replace(batch, task=Task(WAY, batch.task.support_labels)),
        "another query of the same class": with_draws(batch, cross_partner=stranger),
        "cross_partner must name another": with_draws(batch, cross_partner=torch.arange(mates.shape[1])[None]),
        "draw cross_partner must lie": with_draws(batch, cross_partner=mates + 100),
        "draw sub_query must lie in 0..4": with_draws(batch, sub_query=batch.task.draws["sub_query"] + 5),
        "source classes of support clips must lie in 0..6": replace(batch, support_class=batch.support_class + 7),
        "source classes of query clips must lie in 0..6": replace(batch, query_class=-batch.query_class),
        "unlabelled features with NaN": replace(batch, unlabelled={"features": nan}),
        "unlabelled target clips": replace(batch, unlabelled=None),
    }
    for message, episode in bad.items():
        with pytest.raises(UsageError, match=message.replace(".", r"\.")):
            gslta()(episode, 1)


def test_training_without_unlabelled_clips_when_nothing_needs_them() -> None:
    batch = replace(episodes(1), unlabelled=None)
    out = gslta(sfme_every=0, weight_reconstruction=0.0)(batch, 2)
    assert torch.isfinite(out.loss)
    assert out.losses["reconstruction"][0] == 0


def test_wrong_features_say_what_was_expected() -> None:
    clip = torch.rand(2, 8, 2048)
    with pytest.raises(UsageError, match="Gslta needs features of 5x16 per clip, got 8x2048"):
        gslta().encode({"features": clip}, "support")


def test_dropout_acts_in_training_only_and_follows_the_seed() -> None:
    batch, head = one(episodes(1), 0), gslta(out_dropout=0.2, ff_dropout=0.05)

    def loss(seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            out: Tensor = head(batch, 2).loss.detach()
        return out

    head.teacher_started = True
    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    head.eval()
    assert loss(1) == loss(2)


def test_norms_of_large_gradients_are_exact() -> None:
    """In float32 the squares of a million entries add up to half a golden tolerance of error."""
    grad = torch.randn(2048, 512, generator=torch.Generator().manual_seed(0))
    want = float(np.sqrt(np.square(grad.numpy().astype(np.float64)).sum()))
    assert float(norms({"grad/decoder.weight": grad})["grad_norm/decoder.weight"]) == pytest.approx(want, rel=1e-12)


def test_a_case_without_distillation_needs_no_mates() -> None:
    case = load(Path(__file__).parent / "golden/gslta/train_sfme")
    config = case.config | {"loss_weights": case.config["loss_weights"] | {"self": 0, "cross": 0}}
    inputs = {name: array for name, array in case.inputs.items() if name != "cross_partner"}
    got = answers(replace(case, config=config, inputs=inputs))
    np.testing.assert_allclose(got["logits"], case.outputs["logits"], rtol=1e-4, atol=1e-5)
    three = {"supervised": 1.0, "meta": 1.0, "reconstruction": 0.1}
    want = sum(weight * case.outputs[f"loss/{name}"] for name, weight in three.items())
    np.testing.assert_allclose(got["loss/total"], want, rtol=1e-5)
