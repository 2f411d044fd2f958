"""CLIP-MDMF: against slow loops, its draws, who gets a gradient, its start, what it refuses, and its published checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import draw, load, mismatch, weight_spec
from head_episodes import WAY, episodes, logits, make
from parity import answers
from slow_clip import cos, cross_entropy, distilled, mdmf
from torch import Tensor

from fsar_cache.errors import IntegrityError, UsageError
from heads import ClipMdmf, ClipMdmfConfig
from heads.base import EpisodeBatch, EpisodeShape, HeadOutput
from heads.episodes import encode_clips
from heads.published import load_published, to_published


def head_of(**config: Any) -> ClipMdmf:
    """A small head with drawn weights, so that norms and biases matter."""
    head = make("clip_mdmf", **config)
    assert isinstance(head, ClipMdmf)
    with torch.no_grad():
        for name, p in head.named_parameters():
            p.copy_(torch.from_numpy(draw(name, weight_spec(name, tuple(p.shape)), "slow")))
        head.scale.fill_(1.7)
    return head.eval()


def given(batch: EpisodeBatch) -> tuple[np.ndarray, ...]:
    """Support, texts, labels and query of a batch of one episode as numpy."""
    support, labels = batch.support, batch.task.support_labels[0].numpy()
    x, texts, query = (
        clip[0].double().numpy() for clip in (support["features"], support["text"], batch.query["features"])
    )
    return x, texts, labels, query


def prompted(batch: EpisodeBatch, classes: list[int]) -> EpisodeBatch:
    """The batch with these classes' texts as prompts; small features, where what is added to norms shows."""
    draws = {"prompt_class": torch.tensor([classes] * len(batch.query_labels))}
    clips = {role: {**(c := getattr(batch, role)), "features": c["features"] * 0.2} for role in ("support", "query")}
    return replace(batch, task=replace(batch.task, draws=draws), **clips)


def matched(head: ClipMdmf, batch: EpisodeBatch) -> HeadOutput:
    with torch.inference_mode():
        codes = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
        return head.match(*codes, batch.task)


CHOSEN = [2, 0, 1, 1, 0, 2]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"t_compare_token": "text", "transformer_depth": 2},
        {"single_direct": True, "is_pps": False, "heads": 4},
    ],
    ids=str,
)
def test_match_against_loops(config: dict[str, Any]) -> None:
    head = head_of(**config)
    batch = prompted(episodes(1, shots=(1, 3, 2), head=head), CHOSEN)
    want, out = mdmf(head, *given(batch), CHOSEN), matched(head, batch)
    np.testing.assert_allclose(out.logits[0].numpy(), want["logits"], rtol=1e-4, atol=1e-4)
    for name in ("dist_up", "dist_down", "prompt_prob", "conf"):
        np.testing.assert_allclose(out.shows[name][0].numpy(), want[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_losses_against_loops() -> None:
    head = head_of(lambdas=(0.5, 2.0, 3.0), tasks_per_batch=8, dist_condition=(0, 1)).train()
    batch = prompted(episodes(1, shots=(2, 1, 3), head=head, seed=1), CHOSEN)
    batch = replace(batch, query_labels=batch.query_labels.roll(1, 1))  # some wrong, so that there is a loss
    want, out = mdmf(head, *given(batch), CHOSEN), head(batch, 1)
    assert batch.source_text is not None
    text = batch.source_text.double().numpy()
    scores = np.array([[head.scale.item() * cos(x, t) for t in text] for x in want["kept"]])
    classes = [*batch.support_class[0].tolist(), *batch.query_class[0].tolist()]
    np.testing.assert_allclose(out.shows["class_logits"][0].detach().numpy(), scores, rtol=1e-4, atol=1e-6)
    labels = batch.query_labels[0].tolist()
    expected = {
        "class_text": sum(cross_entropy(s, real) for s, real in zip(scores, classes, strict=True)),
        "match": sum(cross_entropy(s, label) for s, label in zip(want["logits"], labels, strict=True)),
        "distill": distilled(want, (0, 1), "bid"),
    }
    assert min(expected.values()) > 0.05
    weights = {"class_text": 0.5, "match": 2.0, "distill": 3.0}
    for name, (value, weight) in out.losses.items():
        assert value.item() == pytest.approx(expected[name] / 8, rel=1e-3)
        assert weight == weights[name]
    assert out.loss.item() == pytest.approx(sum(expected[k] / 8 * weights[k] for k in expected), rel=1e-3)


def shape(queries: int) -> EpisodeShape:
    return EpisodeShape(WAY, 1, queries, 0, 8, np.arange(queries) % WAY)


def test_prompts_are_drawn_by_their_probabilities() -> None:
    head = head_of()
    probability = torch.tensor([[0.5, 0.2, 0.3]]).expand(1, 1000, 3)
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    task = replace(episodes(1, head=head).task, draws={"prompt_uniform": grid[None]})
    counts = head.prompt_class(probability, task)[0].bincount(minlength=3)
    assert counts.tolist() == [500, 200, 300]
    edges = torch.tensor([[0.0, 1 - 2**-53, 0.0, 1 - 2**-53]], dtype=torch.float64)
    sure = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4], [0.3, 0.3, 0.4]]])
    assert head.prompt_class(sure, replace(task, draws={"prompt_uniform": edges})).tolist() == [[1, 1, 0, 2]]


def test_draws_come_from_the_given_generator_in_training_as_in_evaluation() -> None:
    head = head_of()
    one, again = (head.match_draw(shape(7), np.random.default_rng(5)) for _ in range(2))
    trained = head.draw(shape(7), np.random.default_rng(5))
    assert one.keys() == {"prompt_uniform"}
    assert one["prompt_uniform"].shape == (7,)
    np.testing.assert_array_equal(one["prompt_uniform"], again["prompt_uniform"])
    np.testing.assert_array_equal(one["prompt_uniform"], trained["prompt_uniform"])
    for config in ({"prompt_selection": "argmax"}, {"is_pps": False}):
        quiet = head_of(**config)
        assert (
            quiet.draw(shape(7), np.random.default_rng(5)) == quiet.match_draw(shape(7), np.random.default_rng(5)) == {}
        )


def test_a_given_class_wins_and_the_most_probable_needs_no_draw() -> None:
    sampling, best = head_of(), head_of(prompt_selection="argmax")
    batch = episodes(1, head=sampling)
    bare = replace(batch, task=replace(batch.task, draws={}))
    probable = matched(best, bare).shows["prompt_prob"].argmax(-1)
    both = replace(batch.task, draws={**batch.task.draws, "prompt_class": probable})
    torch.testing.assert_close(logits(sampling, replace(batch, task=both)), logits(best, bare))
    other = replace(batch.task, draws={"prompt_class": (probable + 1) % WAY})
    assert (logits(sampling, replace(batch, task=other)) - logits(best, bare)).abs().max() > 1e-3


def test_without_prompts_no_draw_matters() -> None:
    head, batch = head_of(is_pps=False), episodes(1, head=head_of())
    bare = replace(batch, task=replace(batch.task, draws={}))
    assert torch.equal(logits(head, batch), logits(head, bare))


@pytest.mark.parametrize(("direction", "teacher", "student"), [("up2down", "down", "up"), ("down2up", "up", "down")])
def test_directions_are_the_reverse_of_their_names(direction: str, teacher: str, student: str) -> None:
    """And a detached teacher gets nothing, a published one does."""
    for detach in (True, False):
        head = head_of(
            lambdas=(0, 0, 1), dist_direction=direction, dist_condition=(0, 0), detach_teacher=detach
        ).train()
        head(episodes(1, head=head), 1).loss.backward()
        moved = {
            view: getattr(head, f"fusion_{view}").layers[0].to_v.weight.grad.abs().max() > 0 for view in ("up", "down")
        }
        assert moved == {student: True, teacher: not detach}


def test_the_default_losses_leave_the_scale_without_gradient() -> None:
    head = head_of().train()
    out = head(episodes(1, head=head), 1)
    assert {name: weight for name, (_, weight) in out.losses.items()} == {
        "class_text": 0.0,
        "match": 1.0,
        "distill": 1.0,
    }
    out.loss.backward()
    assert head.scale.grad is not None
    assert head.scale.grad.item() == 0
    rest = {name: p for name, p in head.named_parameters() if name != "scale"}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in rest.values())


def test_text_gets_no_gradient() -> None:
    head = head_of(lambdas=(1, 1, 1)).train()
    batch = episodes(head=head)
    assert batch.source_text is not None
    assert batch.task.class_text is not None
    text, source = batch.support["text"].clone().requires_grad_(), batch.source_text.clone().requires_grad_()
    own = batch.task.class_text.clone().requires_grad_()
    task = replace(batch.task, class_text=own)
    head(replace(batch, support={**batch.support, "text": text}, task=task, source_text=source), 1).loss.backward()
    assert text.grad is source.grad is own.grad is None


def test_the_start_is_the_published_one() -> None:
    head = ClipMdmf(ClipMdmfConfig(dim=64))
    conv = head.tcn.blocks[0].conv1
    weight = conv.weight_v * (conv.weight_g / conv.weight_v.norm(dim=(1, 2), keepdim=True))
    torch.testing.assert_close(weight, conv.weight_v)  # torch's own start of a convolution, whatever is normalised
    assert 0.95 < conv.weight_v.abs().max() * (64 * 3) ** 0.5 <= 1
    assert tuple(conv.weight_g.shape) == (64, 1, 1)
    assert head.scale.tolist() == [1.0]
    assert head.tcn.blocks[2].dropout.p == 0.1
    c = ClipMdmfConfig()
    assert (c.dist_condition, c.dist_direction, c.lambdas, c.tasks_per_batch) == ((1, 1), "bid", (0, 1, 1), 16)


def test_show_gives_both_views_whose_alignments_are_the_distances() -> None:
    head = head_of()
    batch = episodes(1, head=head)
    with torch.inference_mode():
        codes = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
        shown = head.show(*codes, batch.task)
    assert shown["cost"].shape == shown["path"].shape == (6, WAY, 8, 8)
    assert (shown["path"] >= 0).all()
    torch.testing.assert_close(head.align(shown["cost"]) + head.align(shown["cost_down"]), -logits(head, batch)[0])


def redrawn(batch: EpisodeBatch, **draws: Tensor) -> EpisodeBatch:
    return replace(batch, task=replace(batch.task, draws=draws))


def reframed(batch: EpisodeBatch, role: str) -> EpisodeBatch:
    clips = getattr(batch, role)
    return replace(batch, **{role: {**clips, "features": clips["features"][:, :, :5]}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (redrawn, r"needs the draw prompt_uniform \[2, 6\] in \[0, 1\), got none"),
        (lambda b: redrawn(b, prompt_uniform=torch.rand(2, 5)), r"prompt_uniform \[2, 6\] in \[0, 1\), got \[2, 5\]"),
        (lambda b: redrawn(b, prompt_uniform=torch.ones(2, 6)), "prompt_uniform"),
        (lambda b: redrawn(b, prompt_uniform=torch.full((2, 6), torch.nan)), "prompt_uniform"),
        (lambda b: redrawn(b, prompt_class=torch.full((2, 6), 3)), r"prompt_class .* must lie in 0\.\.2, got 3\.\.3"),
        (lambda b: redrawn(b, prompt_class=torch.zeros(2, 6)), "prompt_class .* must be integers"),
        (lambda b: reframed(b, "support"), "ClipMdmf needs 8x16 per clip, got 5 frames"),
        (lambda b: reframed(b, "query"), "ClipMdmf needs 8x16 per clip, got 5 frames"),
        (lambda b: replace(b, source_text=None), "text feature of every training class"),
        (lambda b: replace(b, query_class=b.query_class + 7), "source classes of query clips"),
    ],
)
def test_bad_episodes_are_refused(spoil: Any, message: str) -> None:
    head = head_of().train()
    with pytest.raises(UsageError, match=message):
        head(spoil(episodes(head=head)), 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dist_direction": "up2dwn"}, "unknown clip_mdmf dist_direction 'up2dwn'"),
        ({"prompt_selection": "random"}, "unknown clip_mdmf prompt_selection"),
        ({"t_compare_token": "frame1"}, "unknown clip_mdmf t_compare_token"),
        ({"dist_condition": (1, 2)}, "dist_condition must be two of 0 and 1"),
        ({"dist_condition": (1,)}, "dist_condition must be two of 0 and 1"),
        ({"lambdas": (1.0, 1.0)}, "lambdas must be three weights"),
        ({"lambdas": (0.0, -1.0, 1.0)}, "lambdas must be three weights, none negative"),
        ({"lambdas": (1.0, 1.0, 1.0), "use_classification": False}, "which use_classification = false turns off"),
        ({"tcn_dropout": 1.0}, "tcn_dropout"),
        ({"heads": 5}, "heads must divide dim"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make("clip_mdmf", **config)


def published() -> dict[str, Tensor]:
    """A drawn checkpoint as the method's authors write it, from the table of their keys, with a little of a backbone."""
    d = 16
    shapes: dict[str, tuple[int, ...]] = {"scale": (1,), "backbone.module.conv1.weight": (4, 3, 3, 3)}
    for fusion in ("context2", "context_local"):
        at = f"{fusion}.layers.0."
        shapes |= {f"{at}0.norm.{leaf}": (d,) for leaf in ("weight", "bias")}
        shapes |= {f"{at}0.fn.to_{part}.weight": (d, d) for part in "qkv"}
        shapes |= {f"{at}0.fn.to_out.0.weight": (d, d), f"{at}0.fn.to_out.0.bias": (d,)}
        shapes |= {f"{at}1.net.0.weight": (32, d), f"{at}1.net.0.bias": (32,)}
        shapes |= {f"{at}1.net.3.weight": (d, 32), f"{at}1.net.3.bias": (d,)}
    for n in ("1", "2", "11", "22"):
        shapes |= {f"context_conv{n}.weight": (d, d, 3), f"context_conv{n}.bias": (d,)}
    for block in range(3):
        for conv in ("conv1", "conv2"):
            at = f"tcn.network.{block}.{conv}."
            shapes |= {f"{at}weight_g": (d, 1, 1), f"{at}weight_v": (d, d, 3), f"{at}bias": (d,)}
    return {key: torch.from_numpy(draw(key, weight_spec(key, s), "layout")) for key, s in shapes.items()}


def test_published_checkpoints_go_in_and_out() -> None:
    head, tensors = head_of(), published()
    rest = load_published(head, tensors)
    assert rest.backbone.keys() == {"conv1.weight"}
    assert {key.split(".")[0] for key in rest.unused} == {"context_conv11", "context_conv22"}
    assert torch.equal(head.fusion_up.layers[0].to_q.weight, tensors["context2.layers.0.0.fn.to_q.weight"])
    assert torch.equal(head.fusion_down.layers[0].to_q.weight, tensors["context_local.layers.0.0.fn.to_q.weight"])
    again = to_published(head, rest)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    with pytest.raises(IntegrityError, match="missing scale"):
        load_published(head, {key: x for key, x in tensors.items() if key != "scale"})


def test_the_causal_network_stands_twice_in_a_checkpoint_and_the_second_counts() -> None:
    head, tensors = head_of(), published()
    second = {}
    for key, tensor in tensors.items():
        if key.startswith("tcn."):
            second[key.replace("conv1", "net.0").replace("conv2", "net.4")] = tensor + 1
    assert len(second) == 3 * 2 * 3
    again = to_published(head, load_published(head, tensors | second))
    assert again.keys() == tensors.keys() | second.keys()
    assert torch.equal(head.tcn.blocks[1].conv2.weight_g, second["tcn.network.1.net.4.weight_g"])
    for key in second:
        assert torch.equal(again[key], second[key])
        assert torch.equal(again[key.replace("net.0", "conv1").replace("net.4", "conv2")], second[key])
    with pytest.raises(IntegrityError, match=r"unknown tcn\.network\.3\.net\.0\.bias"):
        load_published(head, tensors | {"tcn.network.3.net.0.bias": torch.zeros(16)})


def test_a_case_without_class_text_is_run_whatever_its_weights_say(capsys: pytest.CaptureFixture[str]) -> None:
    """The published code takes such settings in evaluation, where no loss is made; and switches of CLIP-FSAR that it never reads."""
    case = load(Path(__file__).parent / "golden/clip_mdmf/eval_5way_1shot_d512")
    told = {"use_classification": False, "lambdas": [1, 1, 1], "merge_before": True, "text_coff": None}
    other = replace(case, config=case.config | told)
    assert max(mismatch(other, answers(other)).values()) <= 1
    assert "without effect" not in capsys.readouterr().err
