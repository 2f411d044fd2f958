"""Golden cases of TRX.

Outputs beside those of every head: logits [1, Q, W] (a leading axis of one), logits_of_set_<w> of one cardinality alone; every 64th channel
of the position code and of gradients to the features. A case names the gradients that it holds a slice of under the weight's own key.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_models import accuracy, clips, encoded, gradients, losses, tensors, way

from heads.base import EpisodeBatch, Task
from heads.published import load_published
from heads.trx import Trx, TrxConfig

CHANNELS = 64
DESCRIBING = {"way", "shot", "pe", "grad_slices", "note"}
"""Config entries that describe the case and set nothing."""


def trx(case: Case) -> Trx:
    """The case's head with its drawn weights, in its mode; the case says none of what is computed (the position code)."""
    config = case.config
    named = {"out_dim": "trans_linear_out_dim", "d_out": "trans_linear_out_dim", "dropout": "trans_dropout"}
    settings = {named.get(key, key): value for key, value in config.items()} | {"temp_set": tuple(config["temp_set"])}
    known = TrxConfig.__dataclass_fields__
    if strange := sorted(settings.keys() - known - DESCRIBING):
        print(f"note: {case.path}: config entries without effect here: {', '.join(strange)}", file=sys.stderr)
    head = Trx(TrxConfig(**{name: settings[name] for name in known if name in settings}))
    load_published(head, tensors(case.weights), str(case.path))
    return head.train(case.mode == "train")


def run_trx(case: Case) -> dict[str, Tensor]:
    """Every value that the head has for the case."""
    head, given = trx(case), tensors(case.inputs)
    code = head.transformers[0].get_buffer("pe")
    values = {"position_code": code, "position_code_part": code[:, ::CHANNELS]}
    task = Task(way(case), given["support_labels"][None])
    if case.mode == "eval":
        with torch.no_grad():
            support, query = (encoded(head, given[role], role) for role in ("support", "query"))
            out = head.match(support, query, task)
    else:
        features = {role: given[role].requires_grad_() for role in ("support", "query")}
        labels = given["query_labels"][None]
        classes = torch.zeros_like(task.support_labels), torch.zeros_like(labels)
        out = head(EpisodeBatch(task, clips(features["support"]), clips(features["query"]), labels, *classes), 1)
        values |= losses(out) | {"loss": out.loss * head.config.tasks_per_batch}
        every = dict(head.named_parameters())
        learnt = {name: parameter for name, parameter in every.items() if parameter.requires_grad}
        unread = {f"grad/{name}": torch.zeros_like(every[name]) for name in every.keys() - learnt.keys()}
        leaves = learnt | {f"in/{role}": given[role] for role in features}
        values |= slices_of(case, unread | gradients(out.loss, leaves, "grad/"))
    if "query_labels" in given:
        values["accuracy"] = accuracy(out.logits[0], given["query_labels"])
    return values | {name: shown[0] for name, shown in out.shows.items()} | {"logits": out.logits}


def slices_of(case: Case, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients as the case holds them, and the norms of the whole ones; those without a gradient are zero."""
    from parity import slices  # not above: parity imports the runners

    norms = {name.replace("grad/", "grad_norm/", 1): gradient.norm() for name, gradient in gradients.items()}
    inner = {f"{name}_part": gradient[..., ::CHANNELS] for name, gradient in gradients.items() if "/in/" in name}
    rules = {f"grad/{key}": slices(rule) for key, rule in case.config.get("grad_slices", {}).items()}
    return {name: gradient[rules.get(name, ...)] for name, gradient in gradients.items()} | norms | inner


RUNNERS = {"trx": run_trx}
