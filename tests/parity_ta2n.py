"""How TA2N's golden cases are run: inputs generated as the case says, each part alone or the whole head, cached parts as in evaluation."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_models import Values, accuracy, clips, encoded, losses, tensors

from fsar_cache.errors import IntegrityError, UsageError, unknown
from heads.base import EpisodeBatch, Task
from heads.published import load_published
from heads.ta2n import Ta2n, Ta2nConfig
from heads.ta2n_blocks import timewise_cos

PARTS = ("ttm", "acm", "full")
SWITCHES = ("first_stage", "second_stage", "perturb_eval", "dist_norm", "loss_reduction", "tasks_per_batch")
KNOWN = {
    *("dim", "seq_len", "size", "way", "shot", "generated", "part", "slices", "heavy", "decays", "batch_norm"),
    *("dropout", "grad_slices", "running_after", "note", "perturb_decay_every", *SWITCHES),
}
RESTING = {"train": False, "batch": False, "eval": True, "running": True}
"""Whether batch norms rest, by what a case calls their mode in training."""
COARSE = (slice(None), slice(None, None, 32), slice(None), slice(None, None, 3), slice(None, None, 3))


def made(recipe: dict[str, Any], name: str) -> Tensor:
    """The clips that `config.generated` describes, verified against its check."""
    one = recipe[name]
    shape, labels = one["shape"], np.asarray(one["labels"])
    base = np.random.RandomState(one["base_seed"]).standard_normal((one["way"], *shape[1:3], 1, 1))
    noise = np.random.RandomState(one["seed"]).standard_normal(shape)
    x = np.maximum(0, one["mix"][0] * base[labels] + one["mix"][1] * noise).astype(np.float32)
    want, first = one["check"]["sum"], one["check"]["first_positive"]
    if abs(x.sum(dtype=np.float64) - want) > 1e-6 * abs(want) or not np.allclose(
        x[x > 0][: len(first)], first, rtol=1e-6
    ):
        raise IntegrityError(f"generated {name} differs from the case's check")
    return torch.from_numpy(x)


def built(case: Case) -> Ta2n:
    """The case's head with its weights under their published keys; weights that a partial case lacks stay as they were made.

    Weights of a stage that is off have no place, as in the published code.
    """
    config = case.config
    strange = sorted(config.keys() - KNOWN)
    if strange:
        print(f"note: {case.path}: config entries without effect here: {', '.join(strange)}", file=sys.stderr)
    stages = {"first_stage": config["part"] != "acm", "second_stage": config["part"] != "ttm"}
    switches = stages | {name: config[name] for name in SWITCHES if name in config}
    head = Ta2n(
        Ta2nConfig(
            dim=config["dim"][0],
            hidden=config["dim"][1],
            seq_len=config["seq_len"],
            way=config["way"],
            dropout=float(config.get("dropout", 0.0)),
            **switches,
        )
    )
    names = head.published_layout().names
    given = {key: head.state_dict()[name] for name, key in names.items()} if config["part"] != "full" else {}
    given |= {
        key: weight for key, weight in tensors(case.weights).items() if key in names.values() or not _idle(key, head)
    }
    load_published(head, given, where=str(case.path))
    for _ in range(int(config.get("decays", 0))):
        head.align.decay()
    head.train(case.mode == "train")
    if (mode := config.get("batch_norm", "train")) not in RESTING:
        raise unknown("mode of batch norms", mode, RESTING)
    if RESTING[mode]:
        for module in head.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    return head


def _idle(key: str, head: Ta2n) -> bool:
    stages = {"align.firststage.": head.align.firststage, "align.secondstage.": head.align.secondstage}
    return any(key.startswith(prefix) and stage is None for prefix, stage in stages.items())


def run_ttm(head: Ta2n, support: Tensor, query: Tensor) -> Values:
    stage = head.align.firststage
    assert stage is not None
    values: Values = {}
    thetas: list[Tensor] = []
    stage.locnet.register_forward_hook(lambda module, given, made: thetas.append(made))
    both = stage(support, query)
    for name, theta, warped in zip(("support", "query"), thetas, both, strict=True):
        values[f"theta_{name}"] = theta
        values[name] = warped
        values[f"{name}_frame_energy"] = warped.square().mean((1, 3, 4))
    return values


def run_acm(head: Ta2n, support: Tensor, query: Tensor) -> Values:
    stage = head.align.secondstage
    assert stage is not None
    s, q = support.transpose(1, 2), query.transpose(1, 2)
    attended = stage.attend(stage.support_parts(s), stage.query_parts(q))[1]
    pairs, offsets = stage(support, query)
    return {
        "support_projected": (s + stage.support_parts(s)["value"][..., None, None]).transpose(1, 2),
        "query_aligned": (q + attended[..., None, None]).transpose(2, 3),
        "offsets": offsets,
        **pair_values(pairs),
    }


def pair_values(pairs: Tensor) -> Values:
    support, query = pairs.chunk(2, 2)
    distances = timewise_cos(support, query)
    return {"pairs": pairs, "distances": distances, "logits": -distances.T[None]}


def by_time(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def run_full(head: Ta2n, support: Tensor, query: Tensor, labels: Tensor, way: int) -> Values:
    """Evaluation: clips encoded one role at a time and matched as an episode; pairs, offsets and thetas as the module alone gives them."""
    task, align = Task(way, labels[None]), head.align
    codes = encoded(head, by_time(support), "support"), encoded(head, by_time(query), "query")
    ((s, q),) = head._episodes(*codes, task)
    align.shot = len(support) // way
    pairs, offsets, seen = align(support, query, vis=True)
    values = seen["first"] | {
        "pairs": pairs,
        "logits": head.match(*codes, task).logits,
        "distances": head._distances(s, q),
    }
    values["prototype"] = s["map"].transpose(1, 2).view(way, -1, *support.shape[2:])
    return values if offsets is None else values | {"offsets": offsets}


def watch(head: Ta2n, shown: Values) -> None:
    """Keep what passes between the steps of the head's forward pass, which batch norms in training let run only once."""
    distances, acm = head._distances, head.align.secondstage

    def seen_distances(support: Values, query: Values) -> Tensor:
        s, q = (
            by_time(part["map"]).unflatten(-1, (math.isqrt(part["map"].shape[-1]), -1)) for part in (support, query)
        )
        shown["prototype"] = s
        if acm is None:
            shown["pairs"] = torch.cat(torch.broadcast_tensors(s.unsqueeze(1), q), 2)
        shown["distances"] = distances(support, query)
        return shown["distances"]

    head._distances = seen_distances  # type: ignore[method-assign]
    if acm is not None:
        align = acm.align

        def seen_align(support: Values, query: Values) -> tuple[Tensor, Tensor, Tensor]:
            s, q, offsets = align(support, query)
            shown["pairs"] = torch.cat([s, q], -1).transpose(2, 3)[..., None, None]
            shown["offsets"] = offsets.flatten(0, 1)
            return s, q, offsets

        acm.align = seen_align  # type: ignore[method-assign]


def run_train(case: Case, head: Ta2n, given: Values) -> Values:
    """One training step's forward pass, its gradients, and the running statistics after it."""
    support, query = given["support"].requires_grad_(), given["query"].requires_grad_()
    labels = given["query_labels"][None]
    shown: Values = {}
    watch(head, shown)
    task = Task(case.config["way"], given["support_labels"][None])
    classes = torch.zeros_like(task.support_labels), torch.zeros_like(labels)
    out = head(EpisodeBatch(task, clips(by_time(support)), clips(by_time(query)), labels, *classes), 1)
    values = {**losses(out), "logits": out.logits, "loss": out.loss * head.config.tasks_per_batch, **shown}
    values |= {name: theta[0] for name, theta in out.shows.items()}
    values["accuracy"] = accuracy(out.logits[0], given["query_labels"])
    names = head.published_layout().names
    leaves = {names[name]: p for name, p in head.named_parameters()} | {"in/support": support, "in/query": query}
    grads = torch.autograd.grad(out.loss, list(leaves.values()), allow_unused=True)
    for (key, leaf), grad in zip(leaves.items(), grads, strict=True):
        values[f"grad/{key}"] = torch.zeros_like(leaf) if grad is None else grad
    return values


def after(head: Ta2n) -> Values:
    """The state after a step's forward pass, running statistics among it, by published key."""
    state = head.state_dict()
    return {f"after/{key}": state[name].clone() for name, key in head.published_layout().names.items()}


def index(text: str) -> tuple[Any, ...]:
    from parity import slices

    return slices(text)


def cut(case: Case, values: Values) -> Values:
    """The values under the names of the case's outputs: "X_part" is a coarse grid of X, "grad/KEY" cut and "grad_norm/KEY" the norm."""
    found, rules = dict(values), case.config.get("grad_slices", {})
    for name in case.outputs:
        whole = name.removesuffix("_part")
        if name.startswith("grad_norm/") and f"grad/{name[10:]}" in values:
            found[name] = values[f"grad/{name[10:]}"].norm()
        elif name in values and name.startswith("grad/") and name[5:] in rules:
            found[name] = values[name][index(rules[name[5:]])]
        elif name.endswith("_part") and whole in values:
            found[name] = values[whole][_rule(case, whole, values[whole])]
    return found


def _rule(case: Case, name: str, value: Tensor) -> tuple[Any, ...]:
    """What a part is of: by the case's own texts, such as "pairs[:, :, ::16] of [N, M, 2C, T, 1, 1]", the coarse grid unless named."""
    texts = case.config.get("slices", {})
    text = texts.get(f"{name}_part") or texts.get("part")
    found = re.match(r"\w+\[(.*?)\]", text or "")
    if text and not found:
        raise UsageError(f"slice {text!r} of a case is not understood")
    rule = index(found[1]) if found else COARSE
    if len(rule) > value.ndim:
        raise UsageError(f"{name} has {value.ndim} axes, its slice {text!r} more")
    return rule


def run_ta2n(case: Case) -> Values:
    config = case.config
    if config["part"] not in PARTS:
        raise UsageError(f"unknown part {config['part']!r} of TA2N, known: {', '.join(PARTS)}")
    given = tensors(case.inputs)
    for name in ("support", "query"):
        given.setdefault(name, made(config["generated"], name) if name not in given else given[name])
    if "support_labels" not in given:
        given["support_labels"] = torch.arange(config["way"]).repeat_interleave(config["shot"])
    head = built(case)
    if config["part"] == "full" and case.mode == "train":
        values = run_train(case, head, given)
    elif config["part"] == "full":
        values = run_full(head, given["support"], given["query"], given["support_labels"], config["way"])
    else:
        values = {"ttm": run_ttm, "acm": run_acm}[config["part"]](head, given["support"], given["query"])
    return cut(case, values | after(head) if case.mode == "train" else values)


RUNNERS = {"ta2n": run_ta2n}
