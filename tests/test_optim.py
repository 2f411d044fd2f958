"""Schedules against the cards' tables and the framework's own schedulers; optimizers: groups, exemptions, resume."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from extract.backbone import build_backbone
from fsar_cache.errors import UsageError
from pipeline.checkpoints import Checkpoint, pack_state, unpack_model, unpack_training
from pipeline.optim import epoch_at, optimizer_of, rate_at
from pipeline.recipe import Train, load_recipe

CLIP_FSAR = {
    "hmdb51": (1e-5, 1e-6, 700, 5000, (1399, 2099)),
    "kinetics100": (1e-5, 5e-6, 250, 5000, (749, 1249)),
    "ssv2-full": (5e-5, 1e-5, 4000, 30000, (7999, 11999)),
    "ssv2-small": (5e-5, 2e-5, 2000, 30000, (3999, 5999)),
    "ucf101": (2e-6, 1e-7, 600, 3000, (1199, 1799)),
}
"""Card clip_fsar: base rate, start of the warm-up, S, tasks per process, last iterations (from 0) at the base rate and at a tenth of it."""
PROCESSES = 4


@pytest.mark.parametrize("dataset", CLIP_FSAR)
def test_clip_fsar_has_the_rates_that_its_card_says_were_used(dataset: str) -> None:
    base, start, s, tasks, (whole, tenth) = CLIP_FSAR[dataset]
    train = load_recipe(f"clip-fsar-{dataset}-1shot").train
    assert (train.lr, train.iterations, train.tasks_per_batch) == (base, PROCESSES * tasks, 16)

    def rate(i: int) -> float:
        """In iteration i (from 0) of one of the processes: the same for the episode of each of them."""
        found = {rate_at(train, PROCESSES * i + process + 1) for process in range(PROCESSES)}
        assert len(found) == 1
        return found.pop()

    for i in (0, 1, s // 2, s - 1):
        assert rate(i) == pytest.approx(start + (base - start) * i / s)
    assert rate(s - 1) < base
    for i, share in ((s, 1), (whole, 1), (whole + 1, 0.1), (tenth, 0.1), (tenth + 1, 0.01), (tasks - 1, 0.01)):
        assert rate(i) == pytest.approx(base * share), i


def test_a_training_may_end_within_its_warm_up() -> None:
    """A short trial of a published recipe."""
    train = load_recipe("clip-fsar-hmdb51-1shot", ["train.iterations=40"]).train
    assert rate_at(train, 40) == pytest.approx(1e-6 + 9e-6 * 9 / 700)


def test_clip_fsar_counted_plainly_runs_half_as_fast() -> None:
    train = load_recipe("clip-fsar-hmdb51-1shot", ["train.epoch_counting=plain"]).train
    assert [rate_at(train, 4 * 700 * n + 1) for n in (1, 3, 4, 6)] == pytest.approx([1e-5, 1e-5, 1e-6, 1e-7])


@pytest.mark.parametrize(
    ("target", "share"), [("hmdb51", 0.71), ("ssv2", 0.71), ("diving48", 0.79), ("ucf101", 0.79), ("rareact", 0.57)]
)
def test_tamt_stops_in_the_middle_of_its_cosine(target: str, share: float) -> None:
    """Card tamt: stepped per epoch over 80 epochs to 1e-7, so the last epoch still runs at 0.57 to 0.79 of the rate."""
    train = load_recipe(f"tamt-kinetics-{target}-5shot").train
    assert rate_at(train, train.iterations) / train.lr == pytest.approx(share, abs=0.005)
    for epoch in range(round(train.epochs)):
        first, last = epoch * train.steps_iter + 1, (epoch + 1) * train.steps_iter
        card = 1e-7 + (train.lr - 1e-7) * (1 + math.cos(math.pi * epoch / 80)) / 2
        assert rate_at(train, first) == rate_at(train, last) == pytest.approx(card)


def torch_rates(
    lr: float, steps: int, made: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
) -> list[float]:
    """The rates of a framework scheduler at the first `steps` steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = made(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_agree_with_the_frameworks_where_it_has_them() -> None:
    cosine = Train(schedule="cosine", iterations=240, steps_iter=3, t_max=80, eta_min=1e-4, lr=0.01)
    theirs = torch_rates(0.01, 80, lambda o: lr_scheduler.CosineAnnealingLR(o, 80, eta_min=1e-4))
    assert [rate_at(cosine, 3 * e + k) for e in range(80) for k in (1, 3)] == pytest.approx(
        [rate for rate in theirs for _ in (1, 3)]
    )
    steps = Train(schedule="steps", iterations=40, steps_iter=2, milestones=(4, 9), gamma=0.3, lr=0.5)
    theirs = torch_rates(0.5, 20, lambda o: lr_scheduler.MultiStepLR(o, [4, 9], 0.3))
    assert [rate_at(steps, 2 * e + 1) for e in range(20)] == pytest.approx(theirs)
    both = Train(schedule="cosine", iterations=50, warmup=10, warmup_lr=0.02, lr=0.2)
    theirs = torch_rates(
        0.2,
        50,
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1, total_iters=10), lr_scheduler.CosineAnnealingLR(o, 40)],
            [10],
        ),
    )
    assert [rate_at(both, i) for i in range(1, 51)] == pytest.approx(theirs)


def test_a_finished_cosine_stays_where_it_ended() -> None:
    train = Train(schedule="cosine", iterations=100, t_max=20, eta_min=1e-4)
    assert {rate_at(train, i) for i in range(21, 101)} == {1e-4}


def test_st_adapters_rule_warms_up_and_ends_at_nothing() -> None:
    train = load_recipe("tmal-hmdb51-1shot").train
    assert train.lr == pytest.approx(1e-3 * 120 / 256)
    assert [rate_at(train, i) / train.lr for i in (1, 351, 701)] == pytest.approx([0, 0.5, 1])
    assert 0 < rate_at(train, train.iterations) / train.lr < 1e-6


@given(
    schedule=st.sampled_from(["constant", "cosine", "steps"]),
    counting=st.sampled_from(["plain", "published"]),
    steps_iter=st.integers(1, 30),
    processes=st.sampled_from([1, 2, 4]),
    warmup=st.integers(0, 2),
    start=st.floats(0, 1),
)
def test_a_rate_rises_in_the_warm_up_and_never_after(
    schedule: str, counting: str, steps_iter: int, processes: int, warmup: int, start: float
) -> None:
    more = (
        {"milestones": (2, 3)} if schedule == "steps" else {"t_max": 3, "eta_min": 0.1} if schedule == "cosine" else {}
    )
    train = Train(
        iterations=4 * steps_iter * processes,
        schedule=schedule,  # type: ignore[arg-type]
        epoch_counting=counting,  # type: ignore[arg-type]
        steps_iter=steps_iter,
        processes=processes,
        tasks_per_batch=4,
        warmup=warmup,
        warmup_lr=start / 100 if warmup else 0.0,
        lr=1.0,
        **more,  # type: ignore[arg-type]
    )
    rates = [rate_at(train, i) for i in range(1, train.iterations + 1)]
    warm = [rate for i, rate in enumerate(rates, 1) if epoch_at(train, i) < warmup]
    assert warm == sorted(warm)
    after = rates[len(warm) :]
    assert after == sorted(after, reverse=True)
    assert not warm or warm[0] == pytest.approx(start / 100)
    assert all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["train.t_max=5"], "settings of the schedule 'cosine'"),
        (["train.eta_min=1e-6"], "settings of the schedule 'cosine'"),
        (["train.schedule=cosine", "train.eta_min=1"], "can't exceed lr"),
        (["train.warmup_lr=1e-6"], "no use without warmup"),
        (["train.warmup=120", "train.schedule=cosine"], "takes 120 epochs of the 120 that"),
        (["train.warmup=-1"], "warmup must not be negative"),
        (["train.steps_iter=0"], "steps_iter must be at least 1"),
        (["train.processes=3"], "no multiple of processes 3"),
        (["train.epoch_counting=publishd"], "did you mean 'published'"),
        (["train.optimizer=sgd", "train.betas=[0.9, 0.95]"], "betas are a setting of adam"),
        (["train.betas=[0.9, 1.0]"], "betas must lie in [0, 1)"),
        (["train.weight_decay=-0.1"], "weight_decay must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(sets: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("demo", sets)
    assert says in f"{caught.value.message} {caught.value.hint}"


class Net(nn.Module):
    """A layer, a norm, a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 4)
        self.bn1 = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, 4]."""
        made: torch.Tensor = self.frozen(self.bn1(self.layer(x)))
        return made


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_decay_spares_what_the_patterns_name(name: str) -> None:
    """With gradients of zero all that moves a weight is decay: SGD and AdamW shrink it by lr * decay, Adam makes a sign of it."""
    train = Train(optimizer=name, lr=0.1, weight_decay=0.5, no_decay=("*bn*", "*.bias"))  # type: ignore[arg-type]
    net = Net()
    before = {key: value.clone() for key, value in net.named_parameters()}
    optimizer = optimizer_of(train, net.named_parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for key, value in net.named_parameters():
        was = before[key]
        if key != "layer.weight":
            assert torch.equal(value, was), key
        elif name == "adam":
            assert torch.allclose(value, was - 0.1 * was.sign(), atol=1e-5)
        else:
            assert torch.allclose(value, was * (1 - 0.1 * 0.5))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.parameters() if p.requires_grad}


def test_without_exemptions_there_is_one_group_and_betas_arrive() -> None:
    optimizer = optimizer_of(Train(weight_decay=0.1, betas=(0.5, 0.6), optimizer="adamw"), Net().named_parameters())
    assert [(len(g["params"]), g["weight_decay"], g["betas"]) for g in optimizer.param_groups] == [(4, 0.1, (0.5, 0.6))]


@pytest.mark.parametrize("name", ["clip_rn50", "clip_vit_b16"])
def test_clip_fsar_spares_the_same_parameters_as_the_published_code(name: str) -> None:
    """Card clip_fsar: "bn" or "norm" in the name. The shortcut's batch norm and the ViT's layer norms are not caught and do decay."""
    train = load_recipe("clip-fsar-hmdb51-1shot").train
    parameters = dict(build_backbone(name, "random:0").tail_of("frames").named_parameters())
    _, *rest = optimizer_of(train, parameters.items()).param_groups
    spared = {key for key, p in parameters.items() if any(p is q for group in rest for q in group["params"])}
    assert all(".bn" in key for key in spared)
    norms = {key for key in parameters if ".ln_" in key or "downsample.1" in key}
    assert norms
    assert not norms & spared
    # the stem has 3 batch norms, each of 16 bottlenecks 3, weight and bias each
    assert len(spared) == (2 * (3 + 16 * 3) if name == "clip_rn50" else 0)


def test_an_optimizer_with_groups_goes_on_where_it_stopped() -> None:
    train = Train(optimizer="adam", lr=0.05, weight_decay=0.1, no_decay=("*bn*",), betas=(0.8, 0.9))
    inputs = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(5))

    def steps(net: Net, optimizer: torch.optim.Optimizer, batches: torch.Tensor) -> None:
        for batch in batches:
            optimizer.zero_grad()
            net(batch).square().sum().backward()
            optimizer.step()

    whole = Net()
    optimizer = optimizer_of(train, whole.named_parameters())
    steps(whole, optimizer, inputs[:3])
    held = Checkpoint({key: t.clone() for key, t in pack_state(whole, optimizer).items()}, {})
    steps(whole, optimizer, inputs[3:])
    resumed = Net()
    again = optimizer_of(train, resumed.named_parameters())
    unpack_model(held, resumed, "the test")
    unpack_training(held, resumed, again)
    steps(resumed, again, inputs[3:])
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["lr", "gamma", "weight_decay", "eta_min"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_settings_are_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        Train(**{name: value})  # type: ignore[arg-type]
