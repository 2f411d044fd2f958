"""TRX against loops written down from its definition, its bound on memory, its dropout, and what must not matter."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from golden.golden import load, mismatch
from head_episodes import DIM, FRAMES, WAY, episodes, logits, make
from mistakes_trx import FIVE, ONE, attending
from parity import answers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import heads.trx
from fsar_cache.errors import IntegrityError, UsageError
from heads import EpisodeBatch, Otam, ProtoNet, Task, Trx, TrxConfig
from heads.episodes import encode_clips
from heads.published import load_published, to_published
from heads.published_resnet import numbered_resnet, to_numbered_resnet
from heads.trx import TupleEncoder, attend, position_code, shots_by_class

GOLDEN = Path(__file__).resolve().parent / "golden"


pytestmark = pytest.mark.usefixtures("one_thread")  # sizes here are small: threads would only wait for each other


def trx(**config: Any) -> Trx:
    head = make("trx", **config)
    assert isinstance(head, Trx)
    with torch.no_grad():
        for encoder in head.transformers:
            encoder.norm_k.weight.uniform_(0.3, 0.8, generator=torch.Generator().manual_seed(3))
            encoder.norm_k.bias.normal_(generator=torch.Generator().manual_seed(4))
    return head


def slow_codes(encoder: TupleEncoder, clip: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Key and value of every tuple of a clip [T, D], laid out whole."""
    coded = clip.copy()
    for t, i in np.ndindex(*clip.shape):
        angle = t * 10000.0 ** (-(i - i % 2) / clip.shape[1])
        coded[t, i] += 0.1 * (math.cos(angle) if i % 2 else math.sin(angle))
    weights = {name: p.detach().numpy() for name, p in encoder.named_parameters()}
    made = []
    for chosen in combinations(range(len(clip)), size):
        whole = np.concatenate([coded[t] for t in chosen])
        key = weights["k_linear.weight"] @ whole + weights["k_linear.bias"]
        key = (key - key.mean()) / np.sqrt(key.var() + 1e-5) * weights["norm_k.weight"] + weights["norm_k.bias"]
        made.append((key, weights["v_linear.weight"] @ whole + weights["v_linear.bias"]))
    return made


def slow_logits(head: Trx, support: np.ndarray, labels: list[int], query: np.ndarray, way: int) -> np.ndarray:
    """One episode, query by query, class by class, tuple by tuple."""
    total = np.zeros((len(query), way))
    for encoder, size in zip(head.transformers, head.config.temp_set, strict=True):
        assert isinstance(encoder, TupleEncoder)
        shots = [slow_codes(encoder, clip, size) for clip in support]
        for q, clip in enumerate(query):
            asked = slow_codes(encoder, clip, size)
            for c in range(way):
                known = [pair for pairs, label in zip(shots, labels, strict=True) if label == c for pair in pairs]
                distance = 0.0
                for key, value in asked:
                    scores = np.array([key @ other / math.sqrt(len(key)) for other, _ in known])
                    weights = np.exp(scores - scores.max())
                    prototype = sum(w * v for w, (_, v) in zip(weights / weights.sum(), known, strict=True))
                    distance += ((value - prototype) ** 2).sum()
                total[q, c] -= distance / len(asked)
    return total / len(head.config.temp_set)


@pytest.mark.parametrize("temp_set", [(2, 3), (1,), (5, 2)])
def test_it_equals_loops_over_tuples(temp_set: tuple[int, ...]) -> None:
    head = trx(temp_set=temp_set).double()
    batch = episodes(count=2, shots=(1, 3, 2))
    batch = replace(batch, **{r: {"features": getattr(batch, r)["features"].double()} for r in ("support", "query")})
    got = logits(head, batch)
    for e in range(2):
        s, q = (getattr(batch, role)["features"][e].numpy() for role in ("support", "query"))
        want = slow_logits(head, s, batch.task.support_labels[e].tolist(), q, WAY)
        np.testing.assert_allclose(got[e].numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("case", [ONE, FIVE])
def test_the_plain_attention_of_the_mistakes_is_right_without_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads.trx, "attend", attending())
    found = load(GOLDEN / case)
    assert max(mismatch(found, answers(found)).values()) <= 1


def test_tuples_are_all_combinations_in_lexicographic_order() -> None:
    for frames, size, count in ((8, 2, 28), (8, 3, 56), (8, 4, 70), (5, 5, 1), (3, 1, 3)):
        encoder = TupleEncoder(TrxConfig(dim=4, seq_len=frames, temp_set=(size,), trans_linear_out_dim=3), size)
        assert len(encoder.tuples) == count
        assert [tuple(each) for each in encoder.tuples.tolist()] == list(combinations(range(frames), size))


def test_projecting_each_frame_once_equals_projecting_every_tuple() -> None:
    head = trx(temp_set=(3,)).double()
    encoder = head.transformers[0]
    x = torch.rand(4, FRAMES, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    laid_out = (x + encoder.pe[:FRAMES])[:, encoder.tuples].flatten(2)
    assert laid_out.shape == (4, 10, 3 * DIM)
    code = head.eval().encode({"features": x}, "query")
    torch.testing.assert_close(code["k0"], encoder.norm_k(encoder.k_linear(laid_out)))
    torch.testing.assert_close(code["v0"] + encoder.v_linear.bias, encoder.v_linear(laid_out))


@pytest.mark.parametrize("dim", [6, 7, 1])
def test_position_code(dim: int) -> None:
    code = position_code(12, dim)
    for p, i in np.ndindex(12, dim):
        angle = p * 10000 ** (-2 * (i // 2) / dim)
        assert code[p, i].item() == pytest.approx(0.1 * (math.cos(angle) if i % 2 else math.sin(angle)), abs=1e-6)


def test_what_is_kept_but_not_used_has_no_influence_and_no_gradient() -> None:
    batch, head = episodes(1), trx().train()
    before = logits(head, batch)
    head.train()(batch, 1).loss.backward()
    idle = {n for n, p in head.named_parameters() if "norm_v" in n or n.endswith("v_linear.bias")}
    assert len(idle) == 6
    for name, parameter in head.named_parameters():
        assert (parameter.grad is None) == (name in idle), name
        assert name in idle or parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        for name in idle:
            head.get_parameter(name).fill_(7.0)
    assert torch.equal(logits(head, batch), before)


def test_shots_are_found_whatever_their_order_and_number() -> None:
    labels = torch.tensor([[2, 0, 2, 1, 2, 0], [0, 1, 2, 1, 1, 1]])
    member = F.one_hot(labels, 3).transpose(1, 2)
    places, held = shots_by_class(member / member.sum(-1, keepdim=True))
    assert places.shape == held.shape == (2, 3, 4)
    found = [[places[e, c][held[e, c]].tolist() for c in range(3)] for e in range(2)]
    assert found == [[[1, 5], [3], [0, 2, 4]], [[0], [1, 3, 4, 5], [2]]]


def with_support(batch: EpisodeBatch, clips: Tensor, labels: Tensor) -> EpisodeBatch:
    return replace(batch, support={"features": clips}, task=Task(WAY, labels))


def test_a_shot_that_comes_twice_changes_nothing_if_its_class_has_no_other() -> None:
    batch, head = episodes(1, shots=(1, 2, 1)), trx()
    x, labels = batch.support["features"], batch.task.support_labels
    lone = int((labels[0] == 2).nonzero())
    again = with_support(batch, torch.cat([x, x[:, [lone]]], 1), torch.cat([labels, labels[:, [lone]]], 1))
    torch.testing.assert_close(logits(head, again), logits(head, batch), rtol=1e-5, atol=1e-6)


def test_a_shot_more_leaves_the_logits_of_other_classes() -> None:
    batch, head = episodes(1, shots=(2, 2, 2)), trx()
    x, labels = batch.support["features"], batch.task.support_labels
    more = with_support(batch, torch.cat([x, x[:, :1] + 1], 1), torch.cat([labels, labels[:, :1]], 1))
    before, after, mine = logits(head, batch)[0], logits(head, more)[0], int(labels[0, 0])
    others = [c for c in range(WAY) if c != mine]
    torch.testing.assert_close(after[:, others], before[:, others], rtol=1e-5, atol=1e-6)
    assert (after[:, mine] - before[:, mine]).abs().min() > 1e-4


def test_time_matters() -> None:
    batch, head = episodes(1), trx()
    backwards = replace(batch, query={"features": batch.query["features"].flip(2)})
    assert (logits(head, backwards) - logits(head, batch)).abs().max() > 1e-3


def test_a_distance_of_exactly_zero_has_a_gradient_of_zero() -> None:
    """One tuple and one shot: what a query attends to is the shot's value itself, here its own."""
    k, v = torch.rand(2, 1, 2, 1, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    q_k, q_v = (code[:, :1] for code in (k, v))
    distances = attend(q_k, q_v, k, v.detach(), torch.ones(1, 2, 1, dtype=torch.bool))
    assert distances[0, 0, 0].item() == 0.0
    (gradient,) = torch.autograd.grad(distances[0, 0, 0], q_v, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(q_v))
    (other,) = torch.autograd.grad(distances[0, 0, 1], q_v)
    torch.testing.assert_close(other, 2 * (v[:, :1] - v[:, 1:]))


def test_gradients_equal_finite_differences() -> None:
    head = trx(temp_set=(2,), trans_linear_out_dim=4, seq_len=3, dim=3).double().train()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    y = torch.rand(1, 2, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    task = Task(2, torch.tensor([[1, 0, 1]]))

    def run(x: Tensor, y: Tensor) -> Tensor:
        support, query = (encode_clips(head, {"features": z}, "query") for z in (x, y))
        return head.match(support, query, task).logits

    assert torch.autograd.gradcheck(run, (x, y), fast_mode=True)


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors made inside that are alive, and the most there were."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.seen = {tensor.untyped_storage()._cdata: 0 for tensor in given}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.seen[key] = size
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.now -= self.seen.pop(key)

        weakref.finalize(storage, gone)


@pytest.mark.parametrize(("way", "shot", "queries"), [(5, 5, 5), (5, 1, 25), (2, 3, 40)])
def test_memory_of_matching_is_bounded(way: int, shot: int, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = trx(dim=8, seq_len=6, trans_linear_out_dim=64).eval()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(way).repeat_interleave(shot).expand(16, -1)
    with torch.inference_mode():
        support, query = (
            encode_clips(head, {"features": torch.rand(16, n, 6, 8, generator=generator)}, "query")
            for n in (way * shot, queries)
        )
        most, found = [], []
        for limit in (2**30, 2**21, 2**19):
            monkeypatch.setattr(heads.trx, "CHUNK_BYTES", limit)
            with Alive([*support.values(), *query.values()]) as alive:
                found.append(head.match(support, query, Task(way, labels)).logits)
            most.append(alive.most)
            torch.testing.assert_close(found[-1], found[0], rtol=1e-5, atol=1e-6)
        assert most[0] > 2**22, "all at once is far more"
        assert most[1] < 1.1 * 2**21
        assert most[2] < 1.1 * 2**19


def test_runs_of_episodes_and_queries_have_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, found = episodes(count=3, shots=(1, 3, 2)), []
    for limit in (2**30, 60_000, 1):
        monkeypatch.setattr(heads.trx, "CHUNK_BYTES", limit)
        head = trx().train()
        head(batch, 1).loss.backward()
        found.append([p.grad for p in head.parameters() if p.grad is not None])
    for some in found[1:]:
        torch.testing.assert_close(some, found[0], rtol=1e-4, atol=1e-6)


def test_each_cardinality_draws_its_own_dropout_once_for_supports_and_once_for_queries() -> None:
    head, masks = trx(trans_dropout=0.5).train(), []

    def keep(module: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
        masks.append((made != 0).detach())

    for encoder in head.transformers:
        encoder.dropout.register_forward_hook(keep)
    batch = episodes(2, shots=(2, 2, 2), queries=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = head(batch, 1).loss
        torch.manual_seed(1)
        assert torch.equal(head(batch, 1).loss, first)
        assert not torch.equal(head(batch, 1).loss, first)
    assert [len(mask) for mask in masks[:4]] == [
        12,
        12,
        12,
        12,
    ]  # two episodes, two cardinalities, supports and queries
    assert not any(torch.equal(a, b) for a, b in combinations(masks[:4], 2))
    assert all(0.4 < mask.float().mean() < 0.6 for mask in masks)
    masks.clear()
    logits(head, batch)
    assert all(mask.all() for mask in masks)


def test_losses_are_summed_or_averaged_over_queries() -> None:
    batch = episodes(2)
    cross = F.cross_entropy(logits(trx(), batch).flatten(0, 1), batch.query_labels.flatten(), reduction="sum")
    summed, averaged = trx(tasks_per_batch=4), trx(tasks_per_batch=4, loss_reduction="mean")
    torch.testing.assert_close(summed(batch, 1).loss, cross / 4)
    torch.testing.assert_close(averaged(batch, 1).loss, cross / 6 / 4)
    out = summed(batch, 1)
    torch.testing.assert_close(out.logits, (out.shows["logits_of_set_2"] + out.shows["logits_of_set_3"]) / 2)


def test_one_clip_of_one_frame_keeps_its_axes() -> None:
    head = trx(seq_len=1, temp_set=(1,)).eval()
    code = encode_clips(head, {"features": torch.rand(1, 1, 1, DIM)}, "support")
    assert code["k0"].shape == (1, 1, 1, 12)
    assert head.match(code, code, Task(1, torch.zeros(1, 1, dtype=torch.int64))).logits.shape == (1, 1, 1)


def test_large_scores_stay_finite() -> None:
    batch = episodes(1)
    head = trx()
    with torch.no_grad():
        head.transformers[0].norm_k.weight.fill_(1e3)
    loss = head.train()(batch, 1).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temp_set": ()}, "temp_set must hold different sizes"),
        ({"temp_set": (2, 2)}, "temp_set must hold different sizes"),
        ({"temp_set": (2, 6)}, "between 1 and seq_len = 5, got \\[2, 6\\]"),
        ({"temp_set": (0,)}, "between 1 and seq_len"),
        ({"trans_dropout": 1.0}, "trans_dropout"),
        ({"loss_reduction": "men"}, "unknown trx loss_reduction 'men'"),
        ({"trans_linear_out_dim": 0}, "trans_linear_out_dim must be at least 1"),
        ({"tasks_per_batch": 0}, "tasks_per_batch must be at least 1"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trx(**config)


def test_other_frames_or_widths_are_refused() -> None:
    for shape in ((8, DIM), (FRAMES, 2048)):
        with pytest.raises(UsageError, match=f"Trx needs features of 5x16 per clip, got {shape[0]}x{shape[1]}"):
            trx().encode({"features": torch.rand(2, *shape)}, "support")


def published(head: Trx, prefix: str) -> dict[str, Tensor]:
    """A file's tensors: drawn weights, position codes, a numbered backbone, and lists of tuples where it is the library's."""
    generator = torch.Generator().manual_seed(7)
    tensors = {name: torch.randn(value.shape, generator=generator) for name, value in head.state_dict().items()}
    for i, size in enumerate(head.config.temp_set):
        tensors[f"transformers.{i}.pe.pe"] = position_code(int(1.5 * FRAMES), DIM)[None]
        if prefix.startswith("backbone."):
            chosen = combinations(range(FRAMES), size)
            tensors |= {f"transformers.{i}.tuples.{j}": torch.tensor(each) for j, each in enumerate(chosen)}
    keys = ("0.weight", "1.running_var", "4.0.conv1.weight", "7.1.bn2.bias")
    return tensors | {prefix + key: torch.randn(2, 3, generator=generator) for key in keys}


@pytest.mark.parametrize("prefix", ["resnet.", "resnet.module.", "backbone.", "backbone.module."])
def test_published_files_of_every_spelling_are_read_and_written_back(prefix: str) -> None:
    head = trx()
    tensors = published(head, prefix)
    rest = load_published(head, tensors)
    assert torch.equal(head.transformers[1].norm_v.weight, tensors["transformers.1.norm_v.weight"])
    assert torch.equal(head.transformers[0].v_linear.bias, tensors["transformers.0.v_linear.bias"])
    assert set(rest.backbone) == {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer4.1.bn2.bias"}
    again = to_published(head, rest)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_a_position_code_of_another_making_is_refused_and_an_absent_one_is_not() -> None:
    head = trx()
    tensors = published(head, "resnet.")
    key = "transformers.1.pe.pe"
    for wrong in (tensors[key] * 10, tensors[key][:, 1:]):
        with pytest.raises(IntegrityError, match=key):
            load_published(head, tensors | {key: wrong})
    load_published(head, {name: value for name, value in tensors.items() if name != key})


def test_checkpoints_of_heads_without_tensors_hold_a_backbone() -> None:
    for head in (Otam(Otam.Config()), ProtoNet(ProtoNet.Config())):
        tensors = {"backbone.module.0.weight": torch.rand(2), "backbone.module.4.0.bn1.bias": torch.rand(2)}
        rest = load_published(head, tensors)
        assert set(rest.backbone) == {"conv1.weight", "layer1.0.bn1.bias"}
        assert to_published(head, rest).keys() == tensors.keys()
        with pytest.raises(IntegrityError, match="unknown transformers"):
            load_published(head, tensors | {"transformers.0.norm_k.bias": torch.rand(2)})


def test_a_protonet_with_a_norm_over_classes_reads_it() -> None:
    head = ProtoNet(ProtoNet.Config(metric="cosine_timewise", layer_norm=5))
    tensors = {f"protypicalNet.norm_layer.{leaf}": torch.rand(5) for leaf in ("weight", "bias")}
    rest = load_published(head, tensors | {"backbone.1.bias": torch.rand(3)})
    assert head.norm_layer is not None
    assert torch.equal(head.norm_layer.weight, tensors["protypicalNet.norm_layer.weight"])
    assert to_published(head, rest).keys() == {*tensors, "backbone.1.bias"}


def test_numbered_children_are_those_of_a_torchvision_resnet() -> None:
    net = torchvision.models.resnet18()
    numbered = list(nn.Sequential(*list(net.children())[:-1]).state_dict())
    named = [key for key in net.state_dict() if not key.startswith("fc.")]
    assert [numbered_resnet(key) for key in numbered] == named
    assert [to_numbered_resnet(key) for key in named] == numbered
    assert [numbered_resnet(key) for key in named] == named


def test_a_case_may_ask_for_gradients_of_what_is_never_read(capsys: pytest.CaptureFixture[str]) -> None:
    case = load(GOLDEN / "trx" / "train_5way_5shot_512")
    unread = [f"transformers.1.{name}" for name in ("v_linear.bias", "norm_v.weight", "norm_v.bias")]
    zeros = {f"grad/{key}": np.zeros(1152) for key in unread} | {f"grad_norm/{key}": np.zeros(()) for key in unread}
    other = replace(case, outputs=zeros, config=case.config | {"norm_values": True})
    assert set(mismatch(other, answers(other)).values()) == {0.0}
    assert "config entries without effect here: norm_values" in capsys.readouterr().err
