"""TMAL: the card's oracles, every order of fusion against plain loops, what may reach a query, first gradients, errors and layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import Case, load, mismatch
from head_episodes import WAY, episodes, logits, make
from parity_clip_fsar import batch_of, branch
from parity_models import tensors
from torch import Tensor
from torch.nn import functional as F

from extract import clip_vit
from extract.backbone import Backbone
from extract.scaling import SCALINGS
from extract.weights import drawn
from fsar_cache.errors import IntegrityError, UsageError
from heads import ClipFsar, ClipFsarConfig, EpisodeBatch, Tmal, TmalConfig
from heads.base import Task
from heads.episodes import encode_clips
from heads.fusion import Fusion, sinusoid
from heads.published import load_published, to_published
from heads.tmal_config import ORDERS
from pipeline.model import adapted

GOLDEN = Path(__file__).resolve().parent / "golden" / "clip_fsar"
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stirred(head: Tmal, seed: int = 0) -> Tmal:
    """The head with every tensor drawn anew, so that nothing is zero or one by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return head


def tmal(**config: Any) -> Tmal:
    head = make("tmal", **config)
    assert isinstance(head, Tmal)
    return stirred(head)


# The card's mathematics by plain loops, clip by clip in float64.


def cos(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x.square().sum().sqrt() * y.square().sum().sqrt() + 0.01)


def norm(x: Tensor, state: State, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    wide = q.shape[1] // heads
    out = torch.zeros_like(q)
    for t in range(len(q)):
        for h in range(heads):
            part = slice(h * wide, (h + 1) * wide)
            weight = torch.stack([q[t, part] @ key[part] for key in k]) / wide**0.5
            weight = weight.exp() / weight.exp().sum()
            out[t, part] = sum(w * value[part] for w, value in zip(weight, v, strict=True))
    return out


def by_gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def transformer(x: Tensor, state: State, c: TmalConfig) -> Tensor:
    """G of B6."""
    for i in range(c.transformer_depth):
        w = {name.removeprefix(f"context.layers.{i}."): t for name, t in state.items()}
        n = norm(x, w, "norm")
        mixed = attention(n @ w["to_q.weight"].T, n @ w["to_k.weight"].T, n @ w["to_v.weight"].T, c.heads)
        h = mixed @ w["to_out.weight"].T + w["to_out.bias"] + x
        inner = by_gelu(h @ w["widen.weight"].T + w["widen.bias"])
        x = inner @ w["narrow.weight"].T + w["narrow.bias"] + h
    return x


def waves(tokens: Tensor) -> Tensor:
    made = torch.zeros_like(tokens)
    for t in range(len(tokens)):
        for i in range(tokens.shape[1]):
            angle = t / 10000 ** ((i - i % 2) / tokens.shape[1])
            made[t, i] = math.cos(angle) if i % 2 else math.sin(angle)
    return made


def fusion(x: Tensor, m: Tensor, state: State, stream: str, c: TmalConfig) -> Tensor:
    """F of B3."""
    w = {name.removeprefix(f"fusion.{stream}."): t for name, t in state.items()}
    own, other = norm(x, w, "norm_x"), norm(m, w, "norm_m")
    placed = stream == "flow" and c.flow_pos == "sinusoid"
    own_at, other_at = (own + waves(own), other + waves(other)) if placed else (own, other)
    kv = c.text_kv if stream == "text" else c.flow_kv
    keys, values = (other_at, other) if kv == "ctx" else (torch.cat([own_at, other_at]), torch.cat([own, other]))
    q, k, v = (t @ w[f"attn.{name}.weight"].T for t, name in ((own_at, "to_q"), (keys, "to_k"), (values, "to_v")))
    h = x + attention(q, k, v, c.heads) @ w["attn.to_out.0.weight"].T + w["attn.to_out.0.bias"]
    inner = by_gelu(h @ w["ff.net.0.weight"].T + w["ff.net.0.bias"])
    return h + inner @ w["ff.net.3.weight"].T + w["ff.net.3.bias"]


def fused(x: Tensor, text: Tensor | None, flow: Tensor | None, state: State, c: TmalConfig) -> Tensor:
    def by_text(x: Tensor) -> Tensor:
        return x if text is None else fusion(x, text, state, "text", c)

    def by_flow(x: Tensor) -> Tensor:
        return x if flow is None or c.flow_encoder == "none" else fusion(x, flow, state, "flow", c)

    match c.fusion_order:
        case "text_then_flow":
            return by_flow(by_text(x))
        case "flow_then_text":
            return by_text(by_flow(x))
        case "parallel":
            return by_text(x) + by_flow(x) - x
        case "text":
            return by_text(x)
        case "flow":
            return by_flow(x)
        case _:
            return x


def otam_loops(d: Tensor, s: float = 0.5) -> Tensor:
    """B7: zero columns on both sides, row 0 a running sum, three-way soft minima in the first and last column only."""

    def soft(*a: Tensor) -> Tensor:
        return -s * torch.stack([(-x / s).exp() for x in a]).sum().log()

    rows, columns = d.shape
    padded = F.pad(d, (1, 1))
    table: list[list[Tensor]] = [[torch.zeros((), dtype=d.dtype)] for _ in range(rows)]
    for m in range(1, columns + 2):
        table[0].append(table[0][-1] + padded[0, m])
    for r in range(1, rows):
        for m in range(1, columns + 2):
            before, up, left = table[r - 1][m - 1], table[r - 1][m], table[r][m - 1]
            ends = m in (1, columns + 1)
            table[r].append(padded[r, m] + (soft(before, up, left) if ends else soft(before, left)))
    return table[-1][-1]


def distance(q: Tensor, p: Tensor) -> Tensor:
    table = torch.stack([torch.stack([1 - cos(a, b) for b in p]) for a in q])
    return otam_loops(table) + otam_loops(table.T)


def query_text(x: Tensor, texts: Tensor, c: TmalConfig) -> Tensor | None:
    if c.query_text == "none":
        return None
    if c.query_text == "all":
        return texts
    share = torch.stack([c.soft_text_scale * cos(x.mean(0), text) for text in texts]).softmax(0)
    return sum(p * text for p, text in zip(share, texts, strict=True))[None]  # type: ignore[index]


def by_loops(head: Tmal, batch: EpisodeBatch, e: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Minus the distances [Q, W] of episode e; the means of its fused clips, supports first; the logits by flow alone."""
    c = head.config
    state = {name: tensor.double() for name, tensor in head.state_dict().items()}
    assert batch.task.class_text is not None
    texts = batch.task.class_text[e].double()
    s, q = (clips["features"][e].double() for clips in (batch.support, batch.query))
    none = [None] * 99
    sf, qf = (clips["flow"][e].double() if "flow" in clips else none for clips in (batch.support, batch.query))
    labels = batch.task.support_labels[e].tolist()
    each = [fused(x, texts[n][None], f, state, c) for x, n, f in zip(s, labels, sf, strict=False)]

    def refined(x: Tensor, n: int) -> Tensor:
        if not c.prototype_text:
            return transformer(x, state, c)
        return transformer(torch.cat([x, texts[n][None]]), state, c)[:-1]

    prototypes, flows = [], []
    for n in range(len(texts)):
        mine = [i for i, label in enumerate(labels) if label == n]
        if not c.merge_before:
            prototypes.append(torch.stack([refined(each[i], n) for i in mine]).mean(0))
        elif c.fuse_before_merge:
            prototypes.append(refined(torch.stack([each[i] for i in mine]).mean(0), n))
        else:
            mean = s[mine].mean(0)
            flow = sf[mine].mean(0) if isinstance(sf, Tensor) else None
            prototypes.append(refined(fused(mean, texts[n][None], flow, state, c), n))
        if c.aux_flow_weight:
            flows.append(transformer(torch.stack([sf[i] for i in mine]).mean(0), state, c))
    asked = [fused(x, query_text(x, texts, c), f, state, c) for x, f in zip(q, qf, strict=False)]
    found = torch.stack([torch.stack([-distance(transformer(x, state, c), p) for p in prototypes]) for x in asked])
    alone = [torch.stack([-distance(transformer(f, state, c), p) for p in flows]) for f in qf] if flows else []
    return found, torch.stack([x.mean(0) for x in [*each, *asked]]), torch.stack(alone) if alone else found


KINDS: list[dict[str, Any]] = [{"fusion_order": order} for order in ORDERS] + [
    {"fusion_order": order, **rest}
    for order, rest in (
        ("flow_then_text", {"query_text": "all", "flow_pos": "sinusoid", "flow_kv": "self+ctx"}),
        ("parallel", {"query_text": "none", "merge_before": False}),
        ("text_then_flow", {"query_text": "none", "prototype_text": False, "flow_pos": "sinusoid"}),
        ("text_then_flow", {"text_kv": "ctx", "fuse_before_merge": False, "soft_text_scale": 3.0}),
        ("parallel", {"flow_encoder": "none", "transformer_depth": 2}),
        ("flow_then_text", {"flow_encoder": "none", "merge_before": False}),
    )
]


@pytest.mark.parametrize("config", KINDS, ids=lambda c: " ".join(map(str, c.values())))
def test_logits_agree_with_plain_loops(config: dict[str, Any]) -> None:
    head = tmal(**config)
    batch = episodes(2, shots=(1, 2, 1), queries=1, head=head)
    got = logits(head, batch)
    torch.testing.assert_close(got[1].double(), by_loops(head, batch, 1)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("seen", ["backbone", "fused"])
@pytest.mark.parametrize("order", ["text_then_flow", "flow", "parallel"])
def test_losses_are_the_cards(seen: str, order: str) -> None:
    head = tmal(fusion_order=order, class_text_from=seen, aux_flow_weight=0.5, class_text_weight=3.0)
    batch = episodes(1, shots=(1, 1, 1), queries=1, head=head)
    out = head.train()(batch, 1)
    found, means, alone = by_loops(head, batch)
    labels = batch.query_labels[0]
    if seen == "backbone":
        means = torch.cat([clips["features"][0].double().mean(1) for clips in (batch.support, batch.query)])
    assert batch.source_text is not None
    scale = head.scale.double()
    classes = torch.stack([torch.stack([scale * cos(m, t) for t in batch.source_text.double()]) for m in means])
    real = torch.cat([batch.support_class[0], batch.query_class[0]])
    want = {
        "match": (F.cross_entropy(found, labels) / 4, 1.0),
        "class_text": (F.cross_entropy(classes.squeeze(-1), real) / 4, 3.0),
        "flow": (F.cross_entropy(alone, labels) / 4, 0.5),
    }
    assert out.losses.keys() == want.keys()
    for name, (value, weight) in want.items():
        torch.testing.assert_close(out.losses[name][0].double(), value, rtol=1e-4, atol=1e-5)
        assert out.losses[name][1] == weight


def test_flow_alone_trains_the_transformer() -> None:
    head = tmal(fusion_order="none", aux_flow_weight=1.0)
    value, _ = head(episodes(1, head=head), 1).losses["flow"]
    value.backward()  # type: ignore[no-untyped-call]
    learnt = {
        name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert learnt == {"context"}


# Oracles 1 and 2: against CLIP-FSAR's golden cases.


def golden_head(case: Case, **config: Any) -> Tmal:
    """A head with the case's weights; its fusions as the settings make them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = Tmal(
            TmalConfig(
                dim=int(case.config["dim"]),
                class_text_weight=case.config["use_classification_value"],
                eval_mode=branch(case),
                text_exponent=case.config["text_coff"] or 0.9,
                out_dropout=0.0,
                ff_dropout=0.0,
                **{"merge_before": case.config["merge_before"], **config},
            )
        )
    names, weights = head.published_layout().names, tensors(case.weights)
    assert weights.keys() <= set(names.values())
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if names[name] in weights:
                parameter.copy_(weights[names[name]])
    return head.train(case.mode == "train")


def with_flow(case: Case, seed: int = 0) -> EpisodeBatch:
    """The case as a batch, with flow of frames drawn at will."""
    batch = batch_of(case, tensors(case.inputs), {})
    generator = torch.Generator().manual_seed(seed)

    def flowing(clips: Any) -> dict[str, Tensor]:
        return {**clips, "flow": torch.randn(clips["features"].shape, generator=generator)}

    return replace(batch, support=flowing(batch.support), query=flowing(batch.query))


def worst(case: Case, head: Tmal) -> float:
    return mismatch(case, {"logits": logits(head, with_flow(case))[0].numpy()})["logits"]


EVAL = ("eval_5way_1shot_d512", "eval_5way_5shot_d512", "eval_5way_1shot_d512_combine")


@pytest.mark.parametrize("name", EVAL)
@pytest.mark.parametrize(
    "config",
    [
        *({"fusion_order": order} for order in ORDERS),
        {"query_text": "all", "flow_pos": "sinusoid", "flow_kv": "self+ctx"},
        {"fusion_order": "none", "flow_encoder": "none"},
    ],
    ids=lambda c: " ".join(c.values()),
)
def test_oracles_1_and_2_a_zero_fusion_is_clip_fsar(name: str, config: dict[str, Any]) -> None:
    case = load(GOLDEN / name)
    assert worst(case, golden_head(case, **config)) < 1


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "none"])
def test_oracle_1_has_teeth(order: str) -> None:
    case = load(GOLDEN / EVAL[1])
    assert worst(case, golden_head(case, fusion_order=order, fusion_init="default")) > 100


def test_one_shot_is_the_same_merged_before_or_after_and_five_are_not() -> None:
    one, five = (load(GOLDEN / name) for name in EVAL[:2])
    assert worst(one, golden_head(one, merge_before=True)) < 1
    assert worst(five, golden_head(five, merge_before=False)) > 1


def test_training_with_a_zero_fusion_is_clip_fsars() -> None:
    case = load(GOLDEN / "train_5way_1shot_d1024")
    head = golden_head(case)
    out = head(with_flow(case), 1)
    values = {"logits": out.logits[0], "class_logits": out.shows["class_logits"][0], "loss": out.loss}
    values |= {f"loss_{name}": 4 * value for name, (value, _) in out.losses.items()}
    found = mismatch(case, {name: value.detach().numpy() for name, value in values.items()})
    assert {name: ratio for name, ratio in found.items() if name in values and ratio >= 1} == {}
    assert len(values) == 5
    out.loss.backward()  # type: ignore[no-untyped-call]
    names = head.published_layout().names
    norms = {f"grad_norm/{names[n]}": p.grad.norm().numpy() for n, p in head.named_parameters() if p.grad is not None}
    ratios = {name: ratio for name, ratio in mismatch(case, norms).items() if name in norms}
    assert ratios.keys() == {name for name in case.outputs if name.startswith("grad_norm/head.")}
    assert len(ratios) == 6
    assert max(ratios.values()) < 1


# Oracles 3 and 4: with the tower.


def tower() -> Backbone:
    net = drawn(lambda: clip_vit.blank_vit(32), 3)
    return clip_vit.vit_backbone(net, SCALINGS["clip"]).eval()


@pytest.fixture(scope="module")
def plain() -> Backbone:
    return tower()


def pixel_batch(backbone: Backbone, frames: int = 2) -> EpisodeBatch:
    """Two classes, one shot, one query each, of 32-pixel frames through the backbone, with gradients."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (4, frames, 32, 32, 3), dtype=torch.uint8, generator=generator)
    features, text = backbone(video), torch.randn(2, 512, generator=generator)
    flow, labels = torch.randn(4, frames, 512, generator=generator), torch.tensor([[0, 1]])
    support = {"features": features[None, :2], "flow": flow[None, :2], "text": text[None]}
    query = {"features": features[None, 2:], "flow": flow[None, 2:]}
    return EpisodeBatch(Task(2, labels, {}, text[None]), support, query, labels, labels, labels, source_text=text)


@pytest.mark.parametrize("adapter", ["12x384", "24x384"])
def test_oracle_3_a_fresh_tmal_is_clip_fsar_on_frozen_clip(plain: Backbone, adapter: str) -> None:
    torch.manual_seed(0)
    head = Tmal(TmalConfig(seq_len=2, adapter=adapter)).eval()
    made = head.adapters(plain.slots)
    assert len(made) == int(adapter[:2])
    backbone = adapted(plain, made, "frames").eval()
    with torch.no_grad():
        mine, theirs = pixel_batch(backbone), pixel_batch(plain)
    assert torch.equal(mine.query["features"], theirs.query["features"])
    other = ClipFsar(ClipFsarConfig(merge_before=True)).eval()
    other.context.load_state_dict(head.context.state_dict())
    for each in (theirs.support, theirs.query):
        each.pop("flow")  # type: ignore[attr-defined]
    torch.testing.assert_close(logits(head, mine), logits(other, theirs), rtol=1e-5, atol=1e-6)


def test_oracle_4_at_first_only_zero_linears_the_transformer_the_scale_and_three_tensors_of_adapters_learn(
    plain: Backbone,
) -> None:
    torch.manual_seed(0)
    head = Tmal(TmalConfig(seq_len=2, adapter="24x384", adapter_layers=2)).train()
    made = head.adapters(plain.slots)
    backbone = adapted(plain, made, "frames").eval()
    head(pixel_batch(backbone), 1).loss.backward()
    learnt = {n for n, p in head.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    fresh = {
        f"fusion.{stream}.{part}.{leaf}"
        for stream in ("text", "flow")
        for part in ("attn.to_out.0", "ff.net.3")
        for leaf in ("weight", "bias")
    }
    assert learnt == fresh | {"scale"} | {n for n, _ in head.named_parameters() if n.startswith("context.")}
    inside = {n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {n.partition(".adapters.")[2].partition(".")[2] for n in inside} == {"conv.weight", "conv.bias", "fc2.bias"}
    assert list(made) == ["block10.pre_attn", "block10.pre_mlp", "block11.pre_attn", "block11.pre_mlp"]
    living = {n.rpartition(".adapters.")[2].split(".")[0] + n.split(".")[1] for n in inside}
    assert living == {"pre_attn12", "pre_mlp12", "pre_attn13"}, "the last pre-MLP adapter is dead: stage 13 is block 11"


# Oracles 5 and 6: what the fusions can and can't see.


def block(**config: Any) -> Fusion:
    torch.manual_seed(0)
    how = {"keys": "ctx", "init": "default", "out_dropout": 0.0, "ff_dropout": 0.0} | config
    return Fusion(16, 2, 32, **how)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_oracle_5_attention_to_a_single_key_is_constant_and_its_queries_learn_nothing() -> None:
    x, m = rows(3, 5, 16), rows(3, 1, 16, seed=1)
    single = block()
    seen: list[Tensor] = []
    single.attn.register_forward_hook(lambda module, given, made: seen.append(made))
    single(x, m).square().sum().backward()
    assert (seen[0] - seen[0][:, :1]).abs().max() == 0
    for name in ("to_q", "to_k"):
        assert getattr(single.attn, name).weight.grad.abs().max() < 1e-6
    both = block(keys="self+ctx")
    both.attn.register_forward_hook(lambda module, given, made: seen.append(made))
    both(x, m).square().sum().backward()
    assert (seen[1] - seen[1][:, :1]).abs().max() > 1e-3
    assert both.attn.to_q.weight.grad is not None
    assert both.attn.to_q.weight.grad.abs().max() > 1e-3


def test_oracle_6_the_order_of_flow_counts_only_with_positions() -> None:
    for positions, counts in (("none", False), ("sinusoid", True)):
        head = tmal(flow_pos=positions)
        batch = episodes(head=head)
        before = logits(head, batch)
        order = torch.tensor([3, 0, 4, 1, 2])
        moved = {**batch.query, "flow": batch.query["flow"][:, :, order]}
        gap = (logits(head, replace(batch, query=moved)) - before).abs().max()
        assert bool(gap > 1e-3) == counts
        if not counts:
            assert gap < 2e-5
        gone = {**batch.query, "flow": torch.zeros_like(batch.query["flow"])}
        assert (logits(head, replace(batch, query=gone)) - before).abs().max() > 1e-2


def test_sinusoids_are_the_usual_ones() -> None:
    torch.testing.assert_close(sinusoid(5, 16, rows(1).double()), waves(torch.zeros(5, 16).double()))
    assert sinusoid(3, 5, rows(1)).shape == (3, 5)


def test_a_zero_fusion_is_the_identity_and_leaves_its_input_alone() -> None:
    x, m = rows(2, 3, 5, 16), rows(2, 3, 4, 16, seed=1)
    before = x.clone()
    assert torch.equal(block(init="zero", keys="self+ctx", positions=True)(x, m), x)
    assert torch.equal(x, before)
    assert not torch.equal(block()(x, m), x)


def test_a_fusion_takes_any_leading_axes() -> None:
    x, m = rows(2, 3, 5, 16), rows(2, 3, 4, 16, seed=1)
    made = block(keys="self+ctx", positions=True)
    torch.testing.assert_close(made(x, m)[1, 2], made(x[1, 2][None], m[1, 2][None])[0])


def test_dropouts_stand_where_clip_fsar_has_them() -> None:
    made = Tmal(TmalConfig(dim=16, mlp_dim=32, seq_len=5)).fusion["text"]
    found = {name: module.p for name, module in made.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {"attn.to_out.1": 0.2, "ff.net.2": 0.05, "ff.net.4": 0.05}


# A query's label stays unknown.


@pytest.mark.parametrize("order", ["text_then_flow", "flow_then_text", "parallel"])
def test_no_true_label_of_a_query_is_used(order: str) -> None:
    head = tmal(fusion_order=order).eval()
    batch = episodes(head=head)
    other = replace(batch, query_labels=(batch.query_labels + 1) % WAY, query_class=(batch.query_class + 2) % 7)
    assert torch.equal(head(batch, 1).logits, head(other, 1).logits)
    texted = {**batch.query, "text": rows(*batch.query["features"].shape[:2], 16)}
    assert torch.equal(logits(head, replace(batch, query=texted)), logits(head, batch))
    renamed = torch.tensor([2, 0, 1])
    assert batch.task.class_text is not None
    task = Task(WAY, renamed[batch.task.support_labels], {}, batch.task.class_text[:, [1, 2, 0]])
    torch.testing.assert_close(logits(head, replace(batch, task=task))[..., renamed], logits(head, batch))


def test_text_of_the_episodes_classes_reaches_a_query_and_of_others_does_not() -> None:
    head = tmal(prototype_text=False, soft_text_scale=1.0)
    batch = episodes(head=head)
    assert batch.task.class_text is not None
    moved = replace(batch, task=replace(batch.task, class_text=batch.task.class_text + rows(1, 3, 16)))
    assert (logits(head, moved) - logits(head, batch)).abs().max() > 1e-4
    silent = tmal(prototype_text=False, query_text="none")
    assert torch.equal(logits(silent, moved), logits(silent, batch))


def test_what_is_encoded_is_all_that_can_be() -> None:
    """Codes hold no more than matching needs; without text for queries nothing but frames is left to it."""
    names = {
        "text_then_flow": {"frames", "flow", "raw"},
        "flow_then_text": {"frames", "raw"},
        "flow": {"frames"},
        "none": {"frames"},
    }
    for order, wanted in names.items():
        head = tmal(fusion_order=order)
        batch = episodes(head=head)
        assert encode_clips(head, batch.query, "query").keys() == wanted
        assert encode_clips(head, batch.support, "support").keys() == {"frames"}
    head = tmal(query_text="none")
    assert encode_clips(head, episodes(head=head).query, "query").keys() == {"frames"}


# Errors, needs, layout.


def test_needs_follow_the_settings() -> None:
    both = {"features": (5, 16), "text": (16,)}
    for config, flows in (
        ({}, True),
        ({"fusion_order": "text"}, False),
        ({"fusion_order": "text", "aux_flow_weight": 0.1}, True),
        ({"flow_encoder": "none"}, False),
    ):
        needs = make("tmal", **config).needs
        assert needs.at == "pooled"
        assert needs.kinds == (both | {"flow": (5, 16)} if flows else both)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fusion_order": "text_than_flow"}, "unknown tmal fusion_order"),
        ({"flow_encoder": "clip_own_adapters"}, "unknown tmal flow_encoder"),
        ({"adapter": "12x348"}, "unknown tmal adapter"),
        ({"query_text": "true"}, "unknown tmal query_text"),
        ({"dim": 15}, "heads must divide dim"),
        ({"seq_len": 0}, "seq_len >= 1"),
        ({"adapter_layers": 13}, r"adapter_layers in 1\.\.12"),
        ({"soft_text_scale": -1.0}, "must not be negative"),
        ({"text_exponent": 0.0}, "text_exponent"),
        ({"fuse_before_merge": False, "merge_before": False}, "needs merge_before"),
        ({"fuse_before_merge": False, "class_text_from": "fused"}, "class_text_from = 'backbone'"),
        ({"fusion_order": "flow", "query_text": "all"}, "query_text would do nothing: there is no text"),
        ({"fusion_order": "text", "flow_pos": "sinusoid"}, "flow_pos would do nothing"),
        ({"flow_encoder": "none", "flow_kv": "self+ctx"}, "flow_kv would do nothing: there is no flow"),
        ({"flow_encoder": "none", "aux_flow_weight": 1.0}, "aux_flow_weight would do nothing"),
        ({"adapter": "none", "adapter_layers": 2}, "adapter_layers would do nothing"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make("tmal", **config)


def test_bad_episodes_are_refused() -> None:
    head = tmal()
    good = episodes(head=head)

    def without(clips: Any, kind: str) -> dict[str, Tensor]:
        return {name: clip for name, clip in clips.items() if name != kind}

    nan = {**good.query, "flow": good.query["flow"].clone().index_fill_(1, torch.tensor([1]), torch.nan)}
    bad = {
        r"Tmal needs query features of kind 'flow', got \['features'\]": replace(
            good, query=without(good.query, "flow")
        ),
        "Tmal needs support features of kind 'text'": replace(good, support=without(good.support, "text")),
        "Tmal got query flow with NaN": replace(good, query=nan),
        "Tmal needs flow of 5x16 per clip, got 4x16": replace(
            good, query={**good.query, "flow": good.query["flow"][:, :, 1:]}
        ),
        "Tmal needs a text feature of every class": replace(good, task=replace(good.task, class_text=None)),
        "text feature of every training class": replace(good, source_text=None),
        "source classes of query clips": replace(good, query_class=good.query_class + 90),
    }
    for message, batch in bad.items():
        with pytest.raises(UsageError, match=message):
            head(batch, 1)


def test_adapters_go_into_a_clip_vit_before_nothing_that_is_cached(plain: Backbone) -> None:
    head = make("tmal")
    with pytest.raises(UsageError, match="no place for them") as caught:
        head.adapters([])
    assert caught.value.hint == "train without: --set head_config.adapter=none"
    with pytest.raises(UsageError, match="no place for them"):
        head.adapters(["block10.beside_mlp"])
    assert make("tmal", adapter="none").adapters(plain.slots) == {}
    late = make("tmal", adapter_layers=1, adapter_act="gelu").adapters(plain.slots)
    assert [getattr(module, "act", "") for module in late.values()] == ["gelu"]
    adapted(plain, late, "block11")
    with pytest.raises(UsageError, match="before the cut 'pooled'"):
        adapted(plain, late, "pooled")


def test_the_layout_is_the_cards_and_comes_back_key_for_key() -> None:
    torch.manual_seed(0)
    head = Tmal(TmalConfig(adapter="24x384", adapter_layers=1))
    layout = head.published_layout()
    for stream in ("text", "flow"):
        sizes = {
            key: head.state_dict()[name].numel() for name, key in layout.names.items() if f"{stream}_fusion" in key
        }
        assert sum(sizes.values()) == 3_150_848
        assert f"head.{stream}_fusion.attn.to_out.0.bias" in sizes
        assert len(sizes) == 13
    assert layout.names["scale"] == "head.scale"
    assert "head.context2.layers.0.0.fn.to_q.weight" in layout.names.values()
    assert layout.names.keys() == head.state_dict().keys()
    places = head.published_adapters()
    assert len(places) == 12
    assert places["block11.pre_attn.fc1.weight"] == (
        "head.backbone.transformer.resblocks.11.adapter_pre_attn.fc1.weight"
    )
    made = {f"{slot}.{n}": t for slot, m in head.adapters(tower().slots).items() for n, t in m.state_dict().items()}
    assert made.keys() == places.keys()
    file = {key: torch.randn(head.state_dict()[name].shape) for name, key in layout.names.items()}
    file |= {places[name]: torch.randn(tensor.shape) for name, tensor in made.items()}
    file |= {"head.backbone.conv1.weight": torch.randn(3), "head.backbone.fc.weight": torch.randn(2)}
    rest = load_published(head, file)
    back = to_published(head, rest)
    assert back.keys() == file.keys()
    assert all(torch.equal(back[key], file[key]) for key in file)
    assert rest.backbone.keys() == {"conv1.weight"}
    del file["head.text_fusion.norm_m.bias"]
    with pytest.raises(IntegrityError, match=r"missing head\.text_fusion\.norm_m\.bias"):
        load_published(head, file)


def test_without_fusions_there_is_nothing_of_them() -> None:
    head = make("tmal", fusion_order="none", adapter="none")
    assert {name.split(".")[0] for name in head.state_dict()} == {"scale", "context"}
    assert head.published_layout().adapters == {}


def test_the_report_sees_what_is_matched() -> None:
    head = tmal().eval()
    batch = episodes(1, head=head)
    with torch.inference_mode():
        codes = [encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")]
        shown = head.show(*codes, batch.task)
    torch.testing.assert_close(-head.align(shown["cost"]), logits(head, batch)[0])
    assert shown["path"].shape == shown["cost"].shape == (6, WAY, 5, 5)
    assert np.isfinite(shown["path"].numpy()).all()


def test_missing_text_of_training_classes_is_refused_with_advice_that_can_be_followed() -> None:
    for method, has_switch in (("tmal", False), ("clip_fsar", True)):
        head = make(method)
        with pytest.raises(UsageError, match="text feature of every training class") as caught:
            head(replace(episodes(head=head), source_text=None), 1)
        assert caught.value.hint is not None
        assert ("use_classification" in caught.value.hint) is has_switch
