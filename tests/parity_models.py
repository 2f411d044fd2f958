"""How golden cases are run: a head from its config and drawn weights, its inputs through it, out come all values it has.

Here what all heads share, and the runners of ProtoNet, OTAM and GSLTA; each other method has a file parity_METHOD.py.

A runner returns full tensors under the names that golden outputs use ("logits", "loss/meta", "grad/KEY", "grad_in/NAME", "sfme/query"),
where KEY is the published key of a weight, as the case has it; parity.py slices them as the case says.
The clips of a case carry no episode axis: E = 1 is added here and removed again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case

from extract.backbone import BACKBONES, Backbone
from extract.resnet import trunk
from extract.weights import load_strictly
from fsar_cache.errors import UsageError
from heads.alignment import otam, otam_both, soft_dtw, soft_dtw_padded
from heads.base import HEADS, EpisodeBatch, Head, HeadOutput, Task
from heads.episodes import averaging, class_means
from heads.gslta import Gslta
from heads.otam import SETTINGS_OF, Otam
from heads.published import load_published

Values = dict[str, Tensor]

TOLD_ELSEWHERE = {
    *("way", "shot", "queries_per_class", "unlabelled", "iteration", "note", "axes", "output_slices", "output_notes"),
    *("unused_keys", "image_size", "image_range", "backbone", "teacher", "sfme", "loss_weights", "dropout"),
    *("divided_by_tasks_per_batch", "layer_norm", "dist_norm", "single_direction", "single_direct", "otam_directions"),
}
"""Config entries that describe the case, that show in the inputs, or that a runner translates itself."""
SPELLINGS = {
    "protonet": {"cos_eps": "cosine_epsilon", "seq_len": "note", "dim": "note"},
    "otam": {"lambda": "otam_lambda", "cos_eps": "cosine_epsilon", "seq_len": "note", "dim": "note"},
    "gslta": {"lambda": "otam_lambda", "cosine_epsilon": "cos_eps"},
}


def build(case: Case, idle: Iterable[str] = (), **derived: Any) -> Head:
    """The case's head: settings by name from its config but for `idle` ones, `derived` ones on top, in the case's mode."""
    kind = HEADS.get(case.method)
    known = {field.name for field in dataclasses.fields(kind.Config)}
    named = {SPELLINGS[case.method].get(key, key): value for key, value in case.config.items()}
    known -= set(idle)
    strange = sorted(named.keys() - known - TOLD_ELSEWHERE)
    if strange:
        print(f"note: {case.path}: config entries without effect here: {', '.join(strange)}", file=sys.stderr)
    settings = {name: value for name, value in (named | derived).items() if name in known}
    head = kind(kind.Config(**settings))
    return head.train(case.mode == "train")


def single(config: dict[str, Any]) -> bool:
    """Whether a case aligns in one direction only, in any of the spellings."""
    return bool(
        config.get("single_direction") or config.get("single_direct") or int(config.get("otam_directions", 2)) == 1
    )


def tensors(arrays: dict[str, np.ndarray]) -> Values:
    return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def clips(features: Tensor) -> dict[str, Tensor]:
    return {"features": features[None]}


def encoded(head: Head, features: Tensor, role: Any) -> dict[str, Tensor]:
    return {name: code[None] for name, code in head.encode({"features": features}, role).items()}


def way(case: Case) -> int:
    return int(case.config.get("way", int(case.inputs["support_labels"].max()) + 1))


def gradients(total: Tensor, leaves: Values, prefix: str) -> Values:
    """d total / d leaf under prefix + name; zeros where the total doesn't depend on a leaf."""
    if not leaves:
        return {}
    grads = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {
        prefix + name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }


def norms(grads: Values) -> Values:
    """Norms of gradients "grad/KEY" as "grad_norm/KEY"; summed in float64, since float32 is 6e-5 off for a million squares."""
    return {name.replace("/", "_norm/", 1): grad.double().norm() for name, grad in grads.items()}


def all_gradients(total: Tensor, features: Values, learnt: Values) -> Values:
    """Gradients to the inputs, in both spellings of their outputs, and to weights {published key: parameter}; and their norms."""
    inner = gradients(total, features, "")
    spelt = {prefix + name: grad for name, grad in inner.items() for prefix in ("grad_in/", "grad/in/")}
    whole = spelt | gradients(total, learnt, "grad/")
    return whole | norms(whole)


def losses(out: HeadOutput) -> Values:
    """Every loss by name, as the head gives it (divided by tasks per batch where it does so), and their weighted sum."""
    each = {prefix + name: value for name, (value, _) in out.losses.items() for prefix in ("loss/", "loss_")}
    return each | {"loss/total": out.loss, "loss_total": out.loss, "total": out.loss}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).float().mean()


def matching(case: Case, head: Head, given: Values, learnt: Values | None = None) -> Values:
    """A head that is trained by matching alone: logits, and in training losses and gradients; "loss" is not divided by tasks per batch."""
    task = Task(way(case), given["support_labels"][None])
    if case.mode == "eval":
        support, query = encoded(head, given["support"], "support"), encoded(head, given["query"], "query")
        return {"logits": head.match(support, query, task).logits[0]}
    features = {name: given[name].requires_grad_() for name in ("support", "query")}
    labels = given["query_labels"][None]
    classes = torch.zeros_like(task.support_labels), torch.zeros_like(labels)
    batch = EpisodeBatch(task, clips(features["support"]), clips(features["query"]), labels, *classes)
    out = head(batch, 1)
    values = {"logits": out.logits[0], "loss": out.loss * head.config.tasks_per_batch, **losses(out)}
    values["accuracy"] = accuracy(values["logits"], given["query_labels"])
    return values | all_gradients(out.loss, features, learnt or {})


def run_protonet(case: Case) -> Values:
    norm = {key: "norm_layer." + key.rsplit(".", 1)[-1] for key in case.weights if ".norm_layer." in f".{key}"}
    wanted = case.config.get(
        "layer_norm", case.config.get("dist_norm", bool(norm))
    )  # off, published weights are there but unused
    head = build(case, layer_norm=way(case) if wanted else 0)
    learnt: Values = {}
    if wanted:
        if norm:
            head.load_state_dict({name: torch.from_numpy(case.weights[key]) for key, name in norm.items()})
        names = norm or {f"protypicalNet.norm_layer.{leaf}": f"norm_layer.{leaf}" for leaf in ("weight", "bias")}
        learnt = {key: head.get_parameter(name) for key, name in names.items()}
    given = tensors(case.inputs)
    values = matching(case, head, given, learnt)
    average = averaging(Task(way(case), given["support_labels"][None]), given["support"][None])
    return values | {"prototype": class_means(given["support"].detach().mean(1)[None], average)[0]}


def run_otam(case: Case) -> Values:
    if any(name.startswith("dists") for name in case.inputs):
        return run_recursion(case)
    config, metric = case.config, str(case.config.get("frame_metric", "cosine"))
    idle = {
        name for variant, names in SETTINGS_OF.items() if variant != config.get("variant", "otam") for name in names
    }
    if single(config):
        idle.add("combination")
    metric = "squared_euclidean" if "euclid" in metric else metric
    head = build(case, idle, single_direction=single(config), frame_metric=metric)
    assert isinstance(head, Otam)
    given = tensors(case.inputs)
    table = head.frame_distances(given["query"][None], given["support"][None])[0]
    if head.config.variant == "soft_dtw":
        return matching(case, head, given) | soft_dtw_parts(head, table)
    smoothing, last = head.config.otam_lambda, head.config.last_column
    return matching(case, head, given) | {
        "frame_distances": table,
        "cum_query_to_support": otam(table, smoothing, last),
        "cum_support_to_query": otam(table.transpose(-1, -2), smoothing, last),
        "distances": head.align(table),
    }


def soft_dtw_parts(head: Otam, table: Tensor) -> Values:
    """The pieces of a soft-DTW case, whose tables are [support, query, T_s, T_q]; a direction is named by what is padded first."""
    table, gamma = table.permute(1, 0, 3, 2), head.config.gamma
    return {
        "frame_distances": table,
        "support_to_query": soft_dtw_padded(table, gamma),
        "query_to_support": soft_dtw_padded(table.transpose(-1, -2), gamma),
        "distances": head.align(table),
        "unpadded_soft_dtw": soft_dtw(table, gamma),
    }


def run_recursion(case: Case) -> Values:
    """The alignment alone on given distance tables dists0, dists1, ...: each direction, their sum, its gradient."""
    smoothing = float(case.config.get("otam_lambda", case.config.get("lambda", 0.0)))
    last = str(case.config.get("last_column", "three_term"))
    values: Values = {}
    for name, table in tensors(case.inputs).items():
        number = name.removeprefix("dists")
        table.requires_grad_()
        total = otam_both(table, smoothing, single=single(case.config), last_column=last)
        values[f"query_to_support{number}"] = otam(table, smoothing, last)
        values[f"support_to_query{number}"] = otam(table.transpose(-1, -2), smoothing, last)
        values[f"sum{number}"] = total
        values |= gradients(total.sum(), {name: table}, "grad_in/")
    return values


def run_gslta(case: Case) -> Values:
    config = case.config
    given = tensors(case.inputs)
    sub = given["sub_query"].shape if "sub_query" in given else (10, 4)
    head = build(
        case,
        sub_seq_num=sub[0],
        sub_seq_len=sub[1],
        teacher_on_resume="keep" if teacher_given(case) else "copy",
        otam_directions=1 if single(config) else 2,
        out_dropout=0.0,
        ff_dropout=0.0,
        sfme_every=int(config.get("sfme_every", 2)) if config.get("sfme", True) else 0,
        loss_scaling=_scaling(config.get("divided_by_tasks_per_batch"), config.get("loss_scaling", "published")),
        **{f"weight_{name}": float(value) for name, value in config.get("loss_weights", {}).items()},
    )
    assert isinstance(head, Gslta)
    rest = load_published(head, tensors(case.weights), where=str(case.path))
    leaves = {name: given[name].requires_grad_() for name in ("support", "query", "unlabelled") if name in given}
    backbone = _backbone(case, dict(rest.backbone)) if config.get("backbone") else None
    features = {name: _pooled(backbone, x, head.config.seq_len) for name, x in leaves.items()}
    values = {f"features/{name}": x for name, x in features.items()}
    if case.mode == "eval":
        return values | matching(case, head, given | {name: x.detach() for name, x in features.items()})
    out = _train_gslta(case, head, given, features, values)
    learnt = {
        key: p for name, key in head.published_layout().names.items() if (p := head.get_parameter(name)).requires_grad
    }
    if backbone is not None:
        learnt |= {rest.prefix + name: p for name, p in trunk(backbone).named_parameters()}
    return values | all_gradients(out.loss, leaves, learnt)


def teacher_given(case: Case) -> bool:
    """Whether the teacher starts with the case's own weights (unless told otherwise), or as a copy of the student."""
    return bool(case.config.get("teacher", "given") == "given")


def _scaling(divided: Iterable[str] | None, named: str) -> str:
    """loss_scaling from the list of losses that a case divides by tasks per batch."""
    kinds = {frozenset(("supervised", "meta")): "published"}
    kinds[frozenset(("supervised", "meta", "reconstruction", "self", "cross"))] = "per_task"
    if divided is None:
        return named
    if frozenset(divided) not in kinds:
        raise UsageError(f"no loss_scaling divides just {sorted(divided)} by tasks per batch")
    return kinds[frozenset(divided)]


def _backbone(case: Case, weights: Values) -> Backbone:
    """The case's backbone with the drawn weights, in the case's mode."""
    backbone = BACKBONES.get(str(case.config["backbone"]))("random:0")
    load_strictly(trunk(backbone), weights, str(case.path))
    return backbone.train(case.mode == "train")


def _pooled(backbone: Backbone | None, x: Tensor, frames: int) -> Tensor:
    """Features as they are, or from images [videos*T, 3, H, W] in 0..1 (which the backbone's first stage makes of pixels)."""
    if backbone is None:
        return x
    x = x.view(-1, frames, *x.shape[-3:])
    for stage in backbone.stages[1:]:
        x = stage(x)
    return x


def _train_gslta(case: Case, head: Gslta, given: Values, features: Values, values: Values) -> HeadOutput:
    """One training iteration before its backward pass: forward and the teacher's move; adds to `values`."""
    step = int(case.config.get("iteration", 1))
    head.teacher_started = teacher_given(case)
    names = head.published_layout().names
    before = {names[k]: v.clone() for k, v in head.state_dict().items() if k.startswith("teacher.")}
    drawn = ("sub_query", "cross_partner")
    draws = {name: given[name][None] for name in drawn} if given.keys() >= set(drawn) else {}
    batch = EpisodeBatch(
        Task(way(case), given["support_labels"][None], draws),
        clips(features["support"]),
        clips(features["query"]),
        given["query_labels"][None],
        given["support_class"][None],
        given["query_class"][None],
        clips(features["unlabelled"]) if "unlabelled" in features else None,
    )
    out = head(batch, step)
    head.after_forward(step)
    values |= {"logits": out.logits[0], "class_logits": out.shows["class_logits"][0], "loss": out.loss, **losses(out)}
    values["accuracy"] = accuracy(values["logits"], given["query_labels"])
    values |= {f"sfme/{name}": out.shows[f"mixed_{name}"][0] for name in ("support", "query")}
    moved = 1 - head.config.ema_momentum
    after = {names[k]: v for k, v in head.state_dict().items() if k.startswith("teacher.")}
    values |= {f"ema_delta/{key}": (after[key] - start) / moved for key, start in before.items()}
    return out


RUNNERS: dict[str, Callable[[Case], Values]] = {"protonet": run_protonet, "otam": run_otam, "gslta": run_gslta}
