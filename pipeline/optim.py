"""Optimizers and schedules by their published names; a schedule is a pure function of the iteration, so resume needs no state of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from pipeline.train_settings import Train


def optimizer_of(train: Train, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """The optimizer over the parameters that take gradients; settings it doesn't name are the framework's defaults.

    Parameters whose name fits a pattern of `no_decay` form a second group, with the same settings but without weight decay.
    """
    wanted = [(name, p) for name, p in named_parameters if p.requires_grad]
    spared = {name for name, _ in wanted if any(fnmatchcase(name, pattern) for pattern in train.no_decay)}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in wanted if name not in spared], "weight_decay": train.weight_decay},
        {"params": [p for name, p in wanted if name in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "adam":
        return torch.optim.Adam(groups, lr=train.lr, betas=train.betas)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas)
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)


def rate_at(train: Train, iteration: int) -> float:
    """The learning rate of the optimizer step after `iteration` (counted from 1)."""
    at = epoch_at(train, iteration)
    if at >= train.warmup:
        return _scheduled(train, at)
    return train.warmup_lr + (_scheduled(train, train.warmup) - train.warmup_lr) * at / train.warmup


def epoch_at(train: Train, iteration: int) -> float:
    """Where the schedule stands in `iteration` (counted from 1), in epochs from 0; published counting adds the whole epochs once more."""
    done = (iteration - 1) // train.processes
    plain = done / train.steps_iter
    return plain + done // train.steps_iter if train.epoch_counting == "published" else plain


def _scheduled(train: Train, at: float) -> float:
    """The rate of the schedule, without warm-up, `at` epochs after the start of training."""
    if train.schedule == "cosine":
        period = train.t_max or train.epochs - train.warmup
        share = min((math.floor(at) - train.warmup) / period, 1.0)
        return train.eta_min + (train.lr - train.eta_min) * 0.5 * (1 + math.cos(math.pi * share))
    passed = sum(at >= milestone for milestone in train.milestones)
    return train.lr * train.gamma**passed
