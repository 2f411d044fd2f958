"""Checkpoints of others: read without executing anything, loaded strictly under their published names, and written back.

A head that has a published layout offers `published_layout()`; a checkpoint is then split into the head's tensors, the backbone's (prefix
removed) and the rest, which nothing reads but which is kept for saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fsar_cache.errors import IntegrityError
from fsar_cache.tensor_files import read_tensor_file


@dataclass(frozen=True)
class Layout:
    """How a published checkpoint names things.

    names: this head's tensor -> published key. backbone: prefixes of the backbone's keys, the first is the one written by default.
    unused: patterns of keys that are never read (they may be absent, and are kept where present).
    """

    names: Mapping[str, str]
    backbone: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Rest:
    """What a published checkpoint holds beside the head: backbone tensors under their own names, unused ones under published keys."""

    backbone: Mapping[str, Tensor]
    unused: Mapping[str, Tensor]
    prefix: str


class Publishable(Protocol):
    """A head with a published checkpoint layout."""

    def published_layout(self) -> Layout:
        """Names of this head's tensors in published checkpoints."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As nn.Module's."""
        ...


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a .safetensors or torch checkpoint, and whatever else it holds (iteration, optimizer state).

    Errors as `fsar_cache.tensor_files.read_tensor_file` has them; pickled code is never executed.
    """
    found = read_tensor_file(path)
    return dict(found.tensors), dict(found.other)


def load_published(head: Publishable, tensors: Mapping[str, Tensor], where: str = "the checkpoint") -> Rest:
    """Copy a published checkpoint's tensors into `head`, strictly; returns what belongs to the backbone and what nothing reads.

    IntegrityError naming keys: one that the head needs is missing, one is known to nobody, or a shape differs. Nothing is copied then.
    """
    layout = head.published_layout()
    wanted = set(layout.names.values())
    unused = {k: v for k, v in tensors.items() if k not in wanted and any(fnmatchcase(k, p) for p in layout.unused)}
    rest = [k for k in tensors if k not in wanted and k not in unused]
    prefix = _prefix(rest, layout)
    backbone = {k[len(prefix) :]: tensors[k] for k in rest if k.startswith(prefix)}
    own = head.state_dict()
    problems = [f"missing {key}" for key in layout.names.values() if key not in tensors]
    problems += [f"unknown {key}" for key in rest if not key.startswith(prefix)]
    problems += [
        f"{key} is {list(tensors[key].shape)}, the head has {list(own[name].shape)}"
        for name, key in layout.names.items()
        if key in tensors and tensors[key].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise IntegrityError(
            f"{where} does not fit {type(head).__name__}: {'; '.join(problems[:5])}{more}",
            hint="set the head's sizes (depth, class_num, dim, ...) as the checkpoint has them",
        )
    with torch.no_grad():
        for name, key in layout.names.items():
            own[name].copy_(tensors[key])
    return Rest(backbone, unused, prefix)


def _prefix(keys: list[str], layout: Layout) -> str:
    """The longest backbone prefix that these keys use, else the default."""
    used = [p for p in layout.backbone if any(k.startswith(p) for k in keys)]
    return max(used, key=len, default=layout.backbone[0])


def to_published(head: Publishable, rest: Rest) -> dict[str, Tensor]:
    """The whole state under published keys: the inverse of `load_published`."""
    own = head.state_dict()
    tensors = {key: own[name].detach().clone() for name, key in head.published_layout().names.items()}
    tensors |= {rest.prefix + name: value for name, value in rest.backbone.items()}
    return tensors | dict(rest.unused)
