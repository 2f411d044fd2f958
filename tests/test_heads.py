"""What every head promises, whatever its method: batches of episodes, order of clips, unequal shots, clear refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_episodes import DIM, EQUAL_SHOTS, FRAMES, IDS, SHOT_ORDER, VARIANTS, WAY, episodes, logits, make, one
from torch.nn import functional as F

from fsar_cache.errors import UsageError
from heads import Gslta, GsltaConfig, Otam, OtamConfig, ProtoNet, ProtoNetConfig
from heads.base import HEADS, EpisodeBatch, EpisodeShape, Head, Role, Task
from heads.episodes import encode_clips

ROOT = Path(__file__).resolve().parent.parent

BATCH = episodes()
every_variant = pytest.mark.parametrize(("name", "config"), VARIANTS, ids=IDS)
every_head = pytest.mark.parametrize("name", HEADS.names())


def test_all_heads_have_variants_here() -> None:
    assert {name for name, _ in VARIANTS} == set(HEADS.names())


def shots_of(name: str, *shots: int) -> tuple[int, ...]:
    return (2, 2, 2) if name in EQUAL_SHOTS else shots


@every_variant
def test_batched_episodes_equal_separate_ones(name: str, config: dict[str, Any]) -> None:
    head = make(name, **config)
    batch = episodes(count=3, shots=shots_of(name, 1, 3, 2), head=head)
    assert len(batch.task.support_labels.unique(dim=0)) > 1  # labels are shuffled differently in each episode
    together = logits(head, batch)
    alone = torch.cat([logits(head, one(batch, e)) for e in range(3)])
    assert together.shape == (3, 6, WAY)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_variant
def test_losses_and_gradients_of_a_batch_are_sums_over_its_episodes(name: str, config: dict[str, Any]) -> None:
    def gradient(parts: list[EpisodeBatch]) -> tuple[torch.Tensor, ...]:
        head = make(name, **config).train()
        totals, grads = torch.zeros(()), []
        for part in parts:
            x = part.query["features"].clone().requires_grad_()
            loss = head(replace(part, query={**part.query, "features": x}), 2).loss
            loss.backward()
            totals = totals + loss.detach()
            grads.append(x.grad)
        learnt = [p.grad for p in head.parameters() if p.grad is not None]
        assert (len(learnt) > 0) == any(True for _ in head.parameters())
        return totals, torch.cat(grads), *learnt

    batch = episodes(count=3, shots=shots_of(name, 1, 3, 2), head=make(name, **config))
    for got, want in zip(gradient([batch]), gradient([one(batch, e) for e in range(3)]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * max(1.0, want.abs().max().item()))


@every_variant
def test_order_of_support_and_names_of_classes_do_not_matter(name: str, config: dict[str, Any]) -> None:
    head = make(name, **config)
    batch = episodes(shots=(1, 1, 1) if name in SHOT_ORDER else (2, 2, 2), head=head)
    labels = batch.task.support_labels
    before = logits(head, batch)
    order = torch.tensor([4, 2, 0, 5, 1, 3][: labels.shape[1]] if labels.shape[1] == 6 else [2, 0, 1])
    shuffled = replace(
        batch,
        support={kind: clip[:, order] for kind, clip in batch.support.items()},
        task=replace(batch.task, support_labels=labels[:, order]),
    )
    torch.testing.assert_close(logits(head, shuffled), before, rtol=1e-4, atol=1e-5)
    renamed = torch.tensor([2, 0, 1])
    if "layer_norm" not in config and not batch.task.draws.keys() & {"prompt_uniform"}:
        text = batch.task.class_text
        task = replace(
            batch.task, support_labels=renamed[labels], class_text=text if text is None else text[:, [1, 2, 0]]
        )
        torch.testing.assert_close(logits(head, replace(batch, task=task))[..., renamed], before, rtol=1e-4, atol=1e-5)


@every_variant
@pytest.mark.parametrize("role", ["support", "query"])
def test_encoding_a_clip_does_not_depend_on_the_others(name: str, config: dict[str, Any], role: Role) -> None:
    head = make(name, **config).eval()
    clips = {kind: clip.flatten(0, 1) for kind, clip in getattr(episodes(head=head), role).items()}
    whole, count = head.encode(clips, role), len(clips["features"])
    for key, code in whole.items():
        assert len(code) == count
        each = [head.encode({k: clip[i : i + 1] for k, clip in clips.items()}, role)[key] for i in range(count)]
        torch.testing.assert_close(code, torch.cat(each), rtol=1e-5, atol=1e-6 * max(1.0, code.abs().max().item()))


@every_variant
def test_a_head_whose_role_does_not_matter_encodes_the_same_in_every_role(name: str, config: dict[str, Any]) -> None:
    head = make(name, **config).eval()
    clips = {kind: clip.flatten(0, 1) for kind, clip in episodes(head=head).support.items()}
    assert Head.role_matters
    codes = [head.encode(clips, role) for role in ("support", "query")]
    if not head.role_matters:
        assert all(torch.equal(code[key], codes[0][key]) for code in codes for key in codes[0])


@pytest.mark.parametrize(
    ("name", "config"), [each for each in VARIANTS if each[0] in {"protonet", "otam", "gslta"}], ids=str
)
def test_the_right_class_wins_on_clear_features(name: str, config: dict[str, Any]) -> None:
    rng = torch.Generator().manual_seed(5)
    means = torch.rand(WAY, FRAMES, DIM, generator=rng) * 4
    labels = torch.tensor([[2, 0, 1, 1, 0, 2]])
    batch = replace(
        episodes(1),
        support={"features": means[labels]},
        query={"features": means[labels] + 0.01},
        task=Task(WAY, labels),
    )
    assert torch.equal(logits(make(name, **config), batch).argmax(-1), labels)


@pytest.mark.parametrize("name", ["otam", "protonet"])
def test_unequal_shots_are_averaged_per_class(name: str) -> None:
    batch = episodes(1, shots=(1, 2, 4))
    head = make(name)
    got = logits(head, batch)[0]
    labels = batch.task.support_labels[0]
    for c in range(WAY):
        single = [
            logits(
                head,
                replace(
                    batch,
                    support={"features": batch.support["features"][:, [i] * WAY]},
                    task=Task(WAY, torch.arange(WAY)[None]),
                ),
            )[0, :, 0]
            for i in (labels == c).nonzero().flatten().tolist()
        ]
        torch.testing.assert_close(got[:, c], torch.stack(single).mean(0), rtol=1e-4, atol=1e-5)


def slow_prototypes(batch: EpisodeBatch) -> np.ndarray:
    x, labels = batch.support["features"][0].numpy(), batch.task.support_labels[0].numpy()
    return np.stack([np.mean([x[i] for i in range(len(x)) if labels[i] == c], axis=0) for c in range(WAY)])


def test_protonet_metrics_against_loops() -> None:
    batch = episodes(1, shots=(1, 2, 4))
    x, p = batch.query["features"][0].double().numpy(), slow_prototypes(batch).astype(float)
    for metric in ("euclidean", "cosine_prototype", "cosine_timewise"):
        got = logits(make("protonet", metric=metric), batch)[0]
        for i, c in np.ndindex(6, WAY):
            a, b = x[i].mean(0), p[c].mean(0)
            norms = np.linalg.norm(x[i], axis=1) * np.linalg.norm(p[c], axis=1)
            want = {
                "euclidean": -((a - b) ** 2).sum(),
                "cosine_prototype": a @ b / np.linalg.norm(a) / np.linalg.norm(b) - 1,
                "cosine_timewise": ((x[i] * p[c]).sum(1) / norms - 1).sum(),
            }[metric]
            assert got[i, c].item() == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_layer_norm_and_temperature() -> None:
    batch = episodes()
    plain = logits(make("protonet", metric="cosine_timewise"), batch)
    normed = logits(make("protonet", metric="cosine_timewise", layer_norm=WAY), batch)
    torch.testing.assert_close(normed, F.layer_norm(plain, (WAY,)))
    base, sharp = logits(make("protonet"), batch), logits(make("protonet", temperature=0.1), batch)
    torch.testing.assert_close(sharp, base * 10)


@pytest.mark.parametrize("name", ["otam", "protonet"])
def test_the_loss_is_the_mean_over_queries_over_tasks_per_batch(name: str) -> None:
    batch = episodes(1)
    want = F.cross_entropy(logits(make(name), batch)[0], batch.query_labels[0]) / 4
    torch.testing.assert_close(make(name, tasks_per_batch=4)(batch, 1).loss, want)


@pytest.mark.parametrize("name", ["otam", "gslta"])
def test_show_gives_tables_for_the_report(name: str) -> None:
    batch, head = episodes(1), make(name).eval()
    with torch.inference_mode():
        codes = [
            {"frames": head.encode({"features": c["features"][0]}, "query")["frames"][None]}
            for c in (batch.support, batch.query)
        ]
        shown = head.show(codes[0], codes[1], batch.task)
    assert shown["cost"].shape == shown["path"].shape == (6, WAY, FRAMES, FRAMES)
    assert (shown["path"] >= 0).all()
    if "shot" in shown:
        chosen = batch.task.support_labels[0][shown["shot"]]
        assert torch.equal(chosen, torch.arange(WAY).expand(6, WAY))


def test_otam_takes_clips_of_different_lengths_and_timewise_protonet_does_not() -> None:
    batch = episodes(1)
    short = replace(batch, query={"features": batch.query["features"][:, :, :3]})
    assert torch.isfinite(logits(make("otam"), short)).all()
    with pytest.raises(UsageError, match="as many support as query frames"):
        logits(make("protonet", metric="cosine_timewise"), short)


def relabelled(batch: EpisodeBatch, labels: torch.Tensor, way: int = WAY) -> EpisodeBatch:
    return replace(batch, task=replace(batch.task, support_labels=labels, way=way))


def refeatured(batch: EpisodeBatch, role: str, change: Callable[[torch.Tensor], torch.Tensor]) -> EpisodeBatch:
    clips = getattr(batch, role)
    return replace(batch, **{role: {**clips, "features": change(clips["features"])}})


def spoilt(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(clips: torch.Tensor) -> torch.Tensor:
        clips = clips.clone()
        clips[0, 1, 2, 3] = value
        return clips

    return change


def without_queries(batch: EpisodeBatch) -> EpisodeBatch:
    empty = {kind: clip[:, :0] for kind, clip in batch.query.items()}
    return replace(batch, query=empty, query_labels=batch.query_labels[:, :0], query_class=batch.query_class[:, :0])


BAD: dict[str, tuple[Callable[[EpisodeBatch], EpisodeBatch], str]] = {
    "support label too high": (
        lambda b: relabelled(b, b.task.support_labels + 1),
        r"support labels .* 0\.\.2, got 1\.\.3",
    ),
    "support label negative": (
        lambda b: relabelled(b, b.task.support_labels - 1),
        r"support labels .* 0\.\.2, got -1\.\.1",
    ),
    "support labels of another length": (
        lambda b: relabelled(b, b.task.support_labels[:, 1:]),
        "support labels .* shape",
    ),
    "support labels not integer": (lambda b: relabelled(b, b.task.support_labels.float()), "must be integers"),
    "a class without support": (
        lambda b: relabelled(b, b.task.support_labels.clamp(max=1)),
        "class 2 of episode 0 has no support",
    ),
    "way below the labels": (
        lambda b: relabelled(b, b.task.support_labels, WAY - 1),
        r"support labels .* 0\.\.1, got 0\.\.2|class of the episodes, .*2, ",
    ),
    "way above the labels": (
        lambda b: relabelled(b, b.task.support_labels, WAY + 1),
        "class 3 of episode 0 has no support clip .way 4|class of the episodes, .*4, ",
    ),
    "query label too high": (lambda b: replace(b, query_labels=b.query_labels + 1), "query labels"),
    "query labels of another length": (lambda b: replace(b, query_labels=b.query_labels[:, 1:]), "query labels"),
    "NaN in the support": (lambda b: refeatured(b, "support", spoilt(float("nan"))), "support features with NaN"),
    "infinity in the query": (
        lambda b: refeatured(b, "query", spoilt(float("inf"))),
        "query features with NaN or infinite",
    ),
    "no features": (
        lambda b: replace(b, query={"sound": b.query["features"]}),
        "needs query features of kind 'features'",
    ),
    "another width": (
        lambda b: refeatured(b, "query", lambda x: x[..., 1:]),
        "per clip, got|same width|same size|square",
    ),
    "no query": (without_queries, "at least one"),
}


@every_head
@pytest.mark.parametrize("what", BAD)
def test_bad_episodes_are_refused(name: str, what: str) -> None:
    head, (spoil, message) = make(name), BAD[what]
    with pytest.raises(UsageError, match=message):
        head(spoil(episodes(head=head)), 1)


@every_head
def test_text_is_asked_for_by_those_who_need_it(name: str) -> None:
    head = make(name).eval()
    if "text" not in head.needs.kinds:
        return
    batch = episodes(head=head)
    assert batch.task.class_text is not None
    with pytest.raises(UsageError, match=f"{type(head).__name__} needs a text feature of every class"):
        logits(head, replace(batch, task=replace(batch.task, class_text=batch.task.class_text[..., 1:])))
    with pytest.raises(UsageError, match=f"{type(head).__name__} needs support features of kind 'text'"):
        head.encode({k: clip.flatten(0, 1) for k, clip in batch.support.items() if k != "text"}, "support")
    with pytest.raises(UsageError, match="text"):
        head(replace(batch, source_text=None), 1)


@every_head
def test_nan_that_slipped_past_encoding_is_refused_by_match(name: str) -> None:
    head = make(name).eval()
    batch = episodes(head=head)
    support, query = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
    for code in support.values():
        if code.is_floating_point():
            code.data[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"logits are not finite \(training diverged\?\)"):
        head.match(support, query, batch.task)


@every_head
def test_nan_in_features_points_at_the_store(name: str) -> None:
    head = make(name)
    for what in ("NaN in the support", "infinity in the query"):
        with pytest.raises(UsageError, match="with NaN or infinite values") as caught:
            head(BAD[what][0](episodes(head=head)), 1)
        assert "store verify" in (caught.value.hint or "")


def test_weights_that_diverged_do_not_point_at_the_store() -> None:
    head = make("gslta")
    assert isinstance(head, Gslta)
    with torch.no_grad():
        head.student.layers[0].narrow.weight.fill_(float("nan"))
    for run in (lambda: head.train()(BATCH, 1), lambda: logits(head, BATCH)):
        with pytest.raises(UsageError, match="logits are not finite") as caught:
            run()
        assert "store" not in f"{caught.value.message} {caught.value.hint}"
        assert "learning rate" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("protonet", {"metric": "euclid"}, "did you mean|unknown protonet metric"),
        ("protonet", {"temperature": 0.0}, "temperature"),
        ("protonet", {"layer_norm": 5}, "cosine_timewise"),
        ("otam", {"last_column": "three"}, "three_term"),
        ("otam", {"otam_lambda": 0.0}, "otam_lambda > 0"),
        ("otam", {"frame_metric": "squared_euclidean"}, "frame_metric would do nothing: only variant 'soft_dtw'"),
        ("otam", {"gamma": 0.2, "zero_rows": False}, "gamma and zero_rows would do nothing"),
        ("otam", {"variant": "soft_dtw", "single_direction": True}, "single_direction would do nothing: only variant"),
        ("otam", {"variant": "soft_dtw", "otam_lambda": 0.5}, "otam_lambda would do nothing"),
        ("otam", {"variant": "soft_dtw", "last_column": "two_term"}, "last_column would do nothing"),
        ("otam", {"combination": "mean", "single_direction": True}, "combination = 'mean' would do nothing"),
        ("gslta", {"otam_directions": 3}, "1 or 2"),
        ("gslta", {"sfme_index": "puplished"}, "unknown gslta sfme_index"),
        ("gslta", {"depth": 0}, "depth must be at least 1"),
        ("gslta", {"ema_momentum": 1.5}, "ema_momentum"),
    ],
)
def test_bad_settings_are_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, **config)


def test_layer_norm_fixes_the_way() -> None:
    with pytest.raises(UsageError, match="fixes the way at 5, got 3"):
        logits(make("protonet", metric="cosine_timewise", layer_norm=5), BATCH)


@pytest.mark.parametrize("name", ["otam", "protonet"])
def test_heads_without_choices_draw_nothing(name: str) -> None:
    shape = EpisodeShape(3, 2, 2, 0, FRAMES, np.arange(3).repeat(2))
    assert make(name).draw(shape, np.random.default_rng(0)) == {}


def test_heads_are_imported_by_their_names() -> None:
    for name, kind, config in (
        ("protonet", ProtoNet, ProtoNetConfig),
        ("otam", Otam, OtamConfig),
        ("gslta", Gslta, GsltaConfig),
    ):
        assert HEADS.get(name) is kind
        assert kind.Config is config


def test_the_example_of_every_head_runs() -> None:
    """All registered heads, trained and evaluated on tensors alone."""
    script = ROOT / "examples" / "every_head.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    scores = {line.split()[0]: float(line.split("accuracy ")[1].split()[0]) for line in done.stdout.splitlines()}
    assert scores.keys() == set(HEADS.names())
    assert all(score > 0.6 for score in scores.values())
