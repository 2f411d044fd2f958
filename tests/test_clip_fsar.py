"""CLIP-FSAR: against slow loops, its invariances, its start, what gets a gradient, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import draw, weight_spec
from head_episodes import WAY, episodes, logits, make
from slow_clip import cos, cross_entropy, fsar_distances, softmax
from torch import Tensor

from fsar_cache.errors import IntegrityError, UsageError
from heads import ClipFsar, ClipFsarConfig
from heads.base import EpisodeBatch
from heads.clip_fsar import refine_with_text
from heads.episodes import encode_clips
from heads.published import load_published, to_published


def head_of(**config: Any) -> ClipFsar:
    """A small head with drawn weights, so that norms and biases matter."""
    head = make("clip_fsar", **config)
    assert isinstance(head, ClipFsar)
    with torch.no_grad():
        for name, p in head.named_parameters():
            p.copy_(torch.from_numpy(draw(name, weight_spec(name, tuple(p.shape)), "slow")))
        head.scale.fill_(1.7)
    return head.eval()


def small(batch: EpisodeBatch, size: float = 0.05) -> EpisodeBatch:
    """The same with small features and text, where what is added to norms shows."""
    text = batch.source_text
    assert text is not None
    assert batch.task.class_text is not None
    shrunk = {role: {k: clip * size for k, clip in getattr(batch, role).items()} for role in ("support", "query")}
    task = replace(batch.task, class_text=batch.task.class_text * size)
    return replace(batch, **shrunk, task=task, source_text=text * size)


def plain(batch: EpisodeBatch) -> dict[str, np.ndarray]:
    """The one episode of a batch as numpy."""
    support, query = batch.support, batch.query
    every = {"support": support["features"], "texts": support["text"], "query": query["features"]}
    return {name: x[0].double().numpy() for name, x in every.items()} | {"labels": batch.task.support_labels[0].numpy()}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"merge_before": True},
        {"merge_before": True, "single_direct": True, "transformer_depth": 2},
        {"heads": 4, "transformer_depth": 3},
    ],
    ids=str,
)
def test_distances_against_loops(config: dict[str, Any]) -> None:
    head, batch = head_of(**config), small(episodes(1, shots=(1, 3, 2), head=make("clip_fsar")))
    given = plain(batch)
    want = fsar_distances(head, given["support"], given["texts"], given["labels"], given["query"])
    np.testing.assert_allclose(-logits(head, batch)[0].numpy(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [{"eval_mode": "text"}, {"eval_mode": "combine", "text_exponent": 0.3}], ids=str)
def test_text_scores_against_loops(config: dict[str, Any]) -> None:
    """The text's cosine is the plain one: on small features anything added to the norms would show."""
    head, batch = head_of(**config), small(episodes(1, head=make("clip_fsar")))
    given = plain(batch)
    distances = fsar_distances(head, given["support"], given["texts"], given["labels"], given["query"])
    assert batch.task.class_text is not None
    text = batch.task.class_text[0].double().numpy()
    scale = head.scale.item()
    p = np.array([softmax(scale * np.array([cos(x.mean(0), t, added=0.0) for t in text])) for x in given["query"]])
    v = np.array([softmax((8 - row) / 8) for row in distances])
    want = p if config["eval_mode"] == "text" else p**0.3 * v**0.7
    np.testing.assert_allclose(logits(head, batch)[0].numpy(), want, rtol=1e-4)


def test_losses_against_loops() -> None:
    head = head_of(class_text_weight=3.0, tasks_per_batch=8).train()
    batch = small(episodes(1, shots=(2, 1, 3), head=head))
    given, out = plain(batch), head(batch, 1)
    distances = fsar_distances(head, given["support"], given["texts"], given["labels"], given["query"])
    labels = batch.query_labels[0].tolist()
    match = np.mean([cross_entropy(-d, label) for d, label in zip(distances, labels, strict=True)]) / 8
    assert batch.source_text is not None
    text = batch.source_text.double().numpy()
    clips = [*given["support"], *given["query"]]
    classes = [*batch.support_class[0].tolist(), *batch.query_class[0].tolist()]
    scores = np.array([[head.scale.item() * cos(x.mean(0), t) for t in text] for x in clips])
    class_text = np.mean([cross_entropy(s, real) for s, real in zip(scores, classes, strict=True)]) / 8
    np.testing.assert_allclose(out.shows["class_logits"][0].detach().numpy(), scores, rtol=1e-4)
    got = {name: (value.item(), weight) for name, (value, weight) in out.losses.items()}
    assert got["match"] == (pytest.approx(match, rel=1e-4), 1.0)
    assert got["class_text"] == (pytest.approx(class_text, rel=1e-4), 3.0)
    assert out.loss.item() == pytest.approx(match + 3 * class_text, rel=1e-4)


def test_merging_before_or_after_agree_for_one_shot() -> None:
    batch = episodes(head=make("clip_fsar"), shots=(1, 1, 1))
    after, before = logits(head_of(), batch), logits(head_of(merge_before=True), batch)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    more = episodes(head=make("clip_fsar"), shots=(3, 3, 3))
    assert (logits(head_of(), more) - logits(head_of(merge_before=True), more)).abs().max() > 1e-3


def test_attention_knows_no_positions() -> None:
    head, x = head_of(), episodes(head=make("clip_fsar")).support
    frames, text = x["features"][0], x["text"][0]
    refined = refine_with_text(head.context, frames, text)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(refine_with_text(head.context, frames[:, order], text), refined[:, order])
    first = head.context(torch.cat([text[:, None], frames], 1))[:, 1:]
    torch.testing.assert_close(first, refined)


def test_text_changes_supports_and_not_queries() -> None:
    head, batch = head_of(), episodes(head=make("clip_fsar"))
    other = {**batch.support, "text": batch.support["text"].flip(-1)}
    before, after = (encode_clips(head, clips, "support")["frames"] for clips in (batch.support, other))
    assert (before - after).abs().max() > 1e-3
    queries = [encode_clips(head, clips, "query")["frames"] for clips in (batch.support, other)]
    assert torch.equal(*queries)


def test_clips_of_other_lengths_are_aligned_and_trained_on() -> None:
    head = head_of()
    batch = episodes(head=head)
    short = replace(batch, query={"features": batch.query["features"][:, :, :3]})
    assert logits(head, short).shape == (2, 6, WAY)
    assert torch.isfinite(head.train()(short, 1).loss)


def test_the_start_is_the_published_one() -> None:
    head = ClipFsar(ClipFsarConfig(dim=512))
    assert head.scale.tolist() == [1.0]
    layer = head.context.layers[0]
    assert torch.equal(layer.norm.weight, torch.ones(512))
    assert layer.norm.eps == 1e-5
    assert layer.heads == 8
    assert layer.to_q.bias is layer.to_k.bias is layer.to_v.bias is None
    assert tuple(layer.widen.weight.shape) == (2048, 512)
    assert (layer.out_dropout.p, layer.ff_dropout.p) == (0.2, 0.05)
    assert 0.95 < layer.to_q.weight.abs().max() * 512**0.5 <= 1  # torch's own start of a linear layer
    assert ClipFsar(ClipFsarConfig(dim=16, class_text_scale_init=4.0)).scale.item() == 4.0


@pytest.mark.parametrize("merge_before", [False, True])
def test_text_gets_no_gradient_and_every_weight_one(merge_before: bool) -> None:
    head = head_of(merge_before=merge_before).train()
    batch = episodes(head=head)
    assert batch.source_text is not None
    assert batch.task.class_text is not None
    text = batch.support["text"].clone().requires_grad_()
    source, own = batch.source_text.clone().requires_grad_(), batch.task.class_text.clone().requires_grad_()
    task = replace(batch.task, class_text=own)
    head(replace(batch, support={**batch.support, "text": text}, task=task, source_text=source), 1).loss.backward()
    assert text.grad is source.grad is own.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


def test_without_class_text_the_scale_learns_nothing() -> None:
    head = head_of(use_classification=False).train()
    out = head(replace(episodes(head=head), source_text=None), 1)
    assert set(out.losses) == {"match"}
    out.loss.backward()
    assert head.scale.grad is None


def test_training_is_by_alignment_whatever_the_evaluation() -> None:
    batch = episodes(head=make("clip_fsar"))
    outs = [head_of(eval_mode=mode).train()(batch, 1) for mode in ("visual", "combine", "text")]
    assert all(torch.equal(out.logits, outs[0].logits) and torch.equal(out.loss, outs[0].loss) for out in outs)


def test_only_scores_with_text_carry_the_mean_frame() -> None:
    clips = {"features": episodes(head=make("clip_fsar")).query["features"][0]}
    assert head_of().encode(clips, "query").keys() == {"frames"}
    mean = head_of(eval_mode="combine").encode(clips, "query")["mean"]
    torch.testing.assert_close(mean, clips["features"].mean(1))


def test_show_gives_tables_whose_alignment_is_the_distance() -> None:
    head, batch = head_of(merge_before=True), episodes(1, head=make("clip_fsar"))
    with torch.inference_mode():
        codes = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
        shown = head.show(*codes, batch.task)
    assert shown["cost"].shape == shown["path"].shape == (6, WAY, 5, 5)
    assert (shown["path"] >= 0).all()
    torch.testing.assert_close(head.align(shown["cost"]), -logits(head, batch)[0])


def without(batch: EpisodeBatch, **what: Any) -> EpisodeBatch:
    return replace(batch, **what)


def spoilt(text: Tensor | None) -> Tensor:
    assert text is not None
    text = text.clone()
    text[-1, 0] = float("nan")
    return text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: without(b, source_text=None), r"text feature of every training class, \[classes, 16\], got none"),
        (lambda b: without(b, source_text=b.source_text[:, 1:]), r"\[classes, 16\], got \[8, 15\]"),
        (lambda b: without(b, source_text=spoilt(b.source_text)), "training classes with NaN"),
        (lambda b: without(b, source_text=b.source_text[:3]), r"source classes of support clips must lie in 0\.\.2"),
        (lambda b: without(b, query_class=b.query_class + 7), r"source classes of query clips must lie in 0\.\.7"),
        (lambda b: without(b, query_class=b.query_class[:, 1:]), "source classes of query clips must have shape"),
        (lambda b: without(b, task=replace(b.task, class_text=None)), "every class of the episodes, .* got none"),
        (lambda b: without(b, support={"features": b.support["features"]}), "support features of kind 'text'"),
        (
            lambda b: without(b, support={**b.support, "text": b.support["text"] * torch.inf}),
            "support text with NaN or infinite",
        ),
        (lambda b: without(b, support={**b.support, "text": b.support["text"][..., 1:]}), "text of 16 per clip, got"),
    ],
)
def test_bad_text_is_refused(spoil: Any, message: str) -> None:
    head = head_of().train()
    with pytest.raises(UsageError, match=message):
        head(spoil(episodes(head=head)), 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eval_mode": "combined"}, "unknown clip_fsar eval_mode 'combined'"),
        ({"text_exponent": 0.0}, r"text_exponent must lie in \(0, 1\]"),
        ({"text_exponent": 1.5}, r"text_exponent must lie in \(0, 1\]"),
        ({"heads": 3}, "heads must divide dim, got 3 heads for 16 channels"),
        ({"transformer_depth": 0}, "transformer_depth must be at least 1"),
        ({"otam_lambda": 0.0}, "otam_lambda > 0"),
        ({"out_dropout": 1.0}, r"dropouts must lie in \[0, 1\)"),
        ({"class_text_weight": -1.0}, "class_text_weight must not be negative"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make("clip_fsar", **config)


def published(depth: int) -> dict[str, Tensor]:
    """A drawn checkpoint as the method's authors write it, with a little of a backbone."""
    block = {"norm.weight": (16,), "norm.bias": (16,), "to_out.0.weight": (16, 16), "to_out.0.bias": (16,)}
    block |= {f"to_{part}.weight": (16, 16) for part in "qkv"}
    shapes: dict[str, tuple[int, ...]] = {"head.scale": (1,), "head.backbone.conv1.weight": (4, 3, 3, 3)}
    for n in range(depth):
        at = f"head.context2.layers.{n}."
        shapes |= {at + ("0." if part.startswith("norm") else "0.fn.") + part: s for part, s in block.items()}
        shapes |= {f"{at}1.net.0.weight": (32, 16), f"{at}1.net.0.bias": (32,)}
        shapes |= {f"{at}1.net.3.weight": (16, 32), f"{at}1.net.3.bias": (16,)}
    return {key: torch.from_numpy(draw(key, weight_spec(key, shape), "layout")) for key, shape in shapes.items()}


def test_published_checkpoints_go_in_and_out() -> None:
    head = head_of(transformer_depth=2)
    tensors = published(2)
    rest = load_published(head, tensors)
    assert rest.backbone.keys() == {"conv1.weight"}
    assert torch.equal(head.context.layers[1].widen.weight, tensors["head.context2.layers.1.1.net.0.weight"])
    again = to_published(head, rest)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    with pytest.raises(IntegrityError, match=r"missing head\.context2\.layers\.1\.0\.norm"):
        load_published(head, published(1))
