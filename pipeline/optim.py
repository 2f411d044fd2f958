"""Optimizers and schedules by their published names; a schedule is a pure function of the iteration, so resume needs no state of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from pipeline.recipe import Train


def optimizer_of(train: Train, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer over the parameters that take gradients; settings it doesn't name are the framework's defaults."""
    wanted = [p for p in parameters if p.requires_grad]
    if train.optimizer == "adam":
        return torch.optim.Adam(wanted, lr=train.lr, weight_decay=train.weight_decay)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(wanted, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.SGD(wanted, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum)


def rate_at(train: Train, iteration: int) -> float:
    """The learning rate of the optimizer step after `iteration` (counted from 1)."""
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 + math.cos(math.pi * (iteration - 1) / train.iterations))
    passed = sum(iteration > milestone for milestone in train.milestones)
    return train.lr * train.gamma**passed
