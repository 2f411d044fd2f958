"""How golden cases of CLIP-MDMF are run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_clip_fsar import batch_of, codes, partial_gradients, task_of
from parity_models import SPELLINGS, Values, accuracy, build, losses, tensors

from heads.clip_mdmf import ClipMdmf, ClipMdmfConfig
from heads.published import load_published
from heads.views import distillation

OF_CLIP_FSAR = ("merge_before", "eval_text", "combine", "text_coff", "use_classification_value")
"""Switches that the published code carries along from CLIP-FSAR and doesn't read."""
SPELLINGS["clip_mdmf"] = dict.fromkeys(("frames", "head_only", "alias_note", *OF_CLIP_FSAR), "note")
UNDROPPED = {"out_dropout": 0.0, "ff_dropout": 0.0, "tcn_dropout": 0.0}


def drawn(given: Values) -> Values:
    """The drawn class of each query, where the case has it."""
    return {"prompt_class": given["target_indices"][None]} if "target_indices" in given else {}


def run_clip_mdmf(case: Case) -> Values:
    _, *others = case.config.get("lambdas", ClipMdmfConfig.lambdas)
    off = {} if case.config.get("use_classification", True) else {"lambdas": (0.0, *others)}
    head = build(case, **UNDROPPED, **off)
    assert isinstance(head, ClipMdmf)
    c, given = head.config, tensors(case.inputs)
    load_published(head, tensors(case.weights), where=str(case.path))
    if case.mode == "train":
        for role in ("support", "query"):
            given[f"{role}_features"].requires_grad_()
    batch = batch_of(case, given, drawn(given))
    if case.mode == "train":
        out = head(batch, 1)
        shown = out.shows
    else:
        out = head.match(*codes(case, head, given), task_of(case, given, drawn(given)))
        assert batch.source_text is not None
        shown = {**out.shows, "class_logits": head.class_logits(batch, batch.source_text)}
    values = {"logits": out.logits[0]} | {name: value[0] for name, value in shown.items()}
    values["distill_loss"] = distillation(shown, c.dist_condition, c.dist_direction, c.detach_teacher)[0]
    if case.mode == "eval":
        return values
    values |= losses(out) | {"loss": out.loss, "accuracy": accuracy(values["logits"], given["target_labels"])}
    return values | partial_gradients(out.loss, given, head)


RUNNERS = {"clip_mdmf": run_clip_mdmf}
