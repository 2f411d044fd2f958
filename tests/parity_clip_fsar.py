"""How golden cases of CLIP-FSAR are run; what they share with those of its descendants: text by real class, and gradients in part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_models import SPELLINGS, Values, accuracy, build, encoded, gradients, norms, tensors, way

from heads.base import EpisodeBatch, Head, Task
from heads.clip_fsar import ClipFsar, class_text_logits
from heads.episodes import averaging, class_means
from heads.published import load_published

SPELLINGS["clip_fsar"] = {
    "use_classification_value": "class_text_weight",
    "batch_size": "tasks_per_batch",
    **dict.fromkeys(("frames", "head_only", "eval_text", "combine", "text_coff"), "note"),
}


def text_of(case: Case, given: Values) -> Tensor:
    """The text features that the case's mode uses."""
    return given["text_features_train" if case.mode == "train" else "text_features_test"]


def task_of(case: Case, given: Values, draws: Values) -> Task:
    """The case's episode, E = 1: class text is the mean over a class's clips."""
    text, labels = text_of(case, given), given["support_labels"][None]
    each = text[given["real_support_labels"]][None]
    return Task(way(case), labels, draws, class_means(each, averaging(Task(way(case), labels), each)))


def batch_of(case: Case, given: Values, draws: Values) -> EpisodeBatch:
    """The case as a training batch."""
    text = text_of(case, given)
    return EpisodeBatch(
        task_of(case, given, draws),
        {"features": given["support_features"][None], "text": text[given["real_support_labels"]][None]},
        {"features": given["query_features"][None]},
        given["target_labels"][None],
        given["real_support_labels"][None],
        given["real_target_labels"][None],
        source_text=text,
    )


def codes(case: Case, head: Head, given: Values) -> tuple[Values, Values]:
    """Encoded support and query, E = 1."""
    clips = {"features": given["support_features"], "text": text_of(case, given)[given["real_support_labels"]]}
    support = {name: code[None] for name, code in head.encode(clips, "support").items()}
    return support, encoded(head, given["query_features"], "query")


def parted(name: str, grad: Tensor) -> Tensor:
    """What cases keep of a gradient: 16 channels of an input's, 8 rows and 64 columns of a matrix's, 256 entries of a vector's."""
    if name.startswith("grad_in/"):
        return grad[..., :16]
    return grad[:256] if grad.ndim == 1 else grad.flatten(1)[:8, :64]


def partial_gradients(total: Tensor, given: Values, head: Any) -> Values:
    """Parts and norms of the gradients to features and to all weights, by published key."""
    features = {name: given[name] for name in ("support_features", "query_features")}
    weights = {key: head.get_parameter(name) for name, key in head.published_layout().names.items()}
    whole = gradients(total, features, "grad_in/") | gradients(total, weights, "grad/")
    return norms(whole) | {name: parted(name, grad) for name, grad in whole.items()}


def branch(case: Case) -> str:
    """eval_mode from the published switches; text is asked first."""
    if case.config.get("eval_text"):
        return "text"
    return "combine" if case.config.get("combine") else "visual"


def run_clip_fsar(case: Case) -> Values:
    head = build(
        case, eval_mode=branch(case), text_exponent=case.config.get("text_coff") or 0.9, out_dropout=0.0, ff_dropout=0.0
    )
    assert isinstance(head, ClipFsar)
    given = tensors(case.inputs)
    load_published(head, tensors(case.weights), where=str(case.path))
    if case.mode == "eval":
        support, query = codes(case, head, given)
        means = torch.cat([given[f"{role}_features"].mean(1) for role in ("support", "query")])[None]
        class_logits = class_text_logits(means, text_of(case, given), head.scale, head.config.cosine_epsilon)
        return {
            "logits": head.match(support, query, task_of(case, given, {})).logits[0],
            "class_logits": class_logits[0],
        }
    for role in ("support", "query"):
        given[f"{role}_features"].requires_grad_()
    out = head(batch_of(case, given, {}), 1)
    values = {"logits": out.logits[0], "loss": out.loss, **{k: v[0] for k, v in out.shows.items()}}
    values |= {f"loss_{name}": value * head.config.tasks_per_batch for name, (value, _) in out.losses.items()}
    values["accuracy"] = accuracy(values["logits"], given["target_labels"])
    return values | partial_gradients(out.loss, given, head)


RUNNERS = {"clip_fsar": run_clip_fsar}
