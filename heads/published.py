"""Checkpoints of others: loaded strictly under their published names, and written back.

A head that has a published layout offers `published_layout()`; a checkpoint is then split into the head's tensors, its adapters', the
backbone's (prefix removed) and the rest, which nothing reads but which is kept for saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from fsar_cache.errors import IntegrityError
from fsar_cache.tensor_files import read_tensor_file
from heads.base import HEADS
from heads.published_resnet import CHILDREN, numbered_resnet, to_numbered_resnet


@dataclass(frozen=True)
class Layout:
    """How a published checkpoint names things.

    names: this head's tensor -> published key. backbone: prefixes of the backbone's keys, the first is the one written by default.
    unused: patterns of keys that are never read (they may be absent, and are kept where present). wrapper: the key under which the
    tensors stand; counter: the one of how far training went. aliases: key under which a tensor stands a second time -> this head's
    tensor; where the two differ this one counts. adapters: tensor of an adapter inside the backbone, "block10.beside_mlp.NAME" ->
    published key. computed: key of a tensor that is saved but computed -> what it must be. numbered: the backbone is written as
    numbered children of a ResNet.
    """

    names: Mapping[str, str]
    backbone: tuple[str, ...]
    unused: tuple[str, ...]
    wrapper: str = "model_state_dict"
    counter: str = "iteration"
    aliases: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, Tensor] = field(default_factory=dict)
    numbered: bool = False


@dataclass(frozen=True)
class Rest:
    """What a published checkpoint holds beside the head, and what is needed to write it as it was.

    backbone: under its own names (a ResNet's are torchvision's); unused: tensors that nothing reads, under published keys; prefix: the
    backbone's; adapters: by this project's names; numbered: see `Layout`; absent: keys that the file did without though the layout has
    them; dtypes: key -> name of the type it had where that is not the head's.
    """

    backbone: Mapping[str, Tensor]
    unused: Mapping[str, Tensor]
    prefix: str
    adapters: Mapping[str, Tensor] = field(default_factory=dict)
    numbered: bool = False
    absent: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)


class Publishable(Protocol):
    """A head with a published checkpoint layout."""

    def published_layout(self) -> Layout:
        """Names of this head's tensors in published checkpoints."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As nn.Module's."""
        ...


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a .safetensors or torch checkpoint, and whatever plain values it holds beside them (iteration).

    Errors as `fsar_cache.tensor_files.read_tensor_file` has them; pickled code is never executed.
    """
    found = read_tensor_file(path)
    return dict(found.tensors), dict(found.other)


def load_published(head: Publishable, tensors: Mapping[str, Tensor], where: str = "the checkpoint") -> Rest:
    """Copy a published checkpoint's tensors into `head`, strictly; returns what belongs to adapters and backbone and what nothing reads.

    IntegrityError naming keys: one that the head needs is missing, one is known to nobody, a shape differs, or one that is computed has
    other values. Nothing is copied then.
    """
    layout = head.published_layout()
    rest = split_published(head, tensors, where)
    own, given = head.state_dict(), _values(layout, tensors)
    problems = [
        f"{key} is {list(given[key].shape)}, the head has {list(own[name].shape)}"
        for name, key in layout.names.items()
        if given[key].shape != own[name].shape
    ]
    problems += [
        f"{key} is not what it is computed to be"
        for key, value in layout.computed.items()
        if key in tensors
        and not (tensors[key].shape == value.shape and torch.allclose(tensors[key].float(), value, atol=1e-5))
    ]
    _refuse(head, where, problems)
    with torch.no_grad():
        for name, key in layout.names.items():
            own[name].copy_(given[key])
    return rest


def split_published(head: Publishable, tensors: Mapping[str, Tensor], where: str = "the checkpoint") -> Rest:
    """What of a published checkpoint is not the head's own; only names are looked at, so the head may have other sizes.

    IntegrityError naming keys that are missing or unknown; it says so where the file holds a backbone alone and the head has tensors.
    """
    layout = head.published_layout()
    own = head.state_dict()
    given = _values(layout, tensors)
    mine = [*layout.names.values(), *layout.adapters.values()]
    known = {*mine, *layout.aliases, *layout.computed}
    if layout.names and not any(key in given for key in layout.names.values()):
        raise IntegrityError(
            f"{where} holds none of the {len(layout.names)} tensors of {type(head).__name__} (no {next(iter(layout.names.values()))}): "
            "it may hold a backbone alone",
            hint="a backbone is used by its file: --weights file:PATH with --backbone NAME, in extract, train and eval",
        )
    unused = {k: v for k, v in tensors.items() if k not in known and any(fnmatchcase(k, p) for p in layout.unused)}
    rest = [k for k in tensors if k not in known and k not in unused]
    prefix = _prefix(rest, layout)
    backbone = {k[len(prefix) :]: tensors[k] for k in rest if k.startswith(prefix)}
    numbered = any(key.partition(".")[0] in CHILDREN for key in backbone)
    problems = [f"missing {key}" for key in mine if key not in given]
    problems += [f"unknown {key}" for key in rest if not key.startswith(prefix)]
    unused |= {key: tensors[key] for key in layout.computed if key in tensors}
    _refuse(head, where, problems)
    dtypes = {
        key: str(tensor.dtype).removeprefix("torch.")
        for key, tensor in tensors.items()
        if key in (*mine, *layout.aliases) and tensor.dtype != _dtype(own, layout, key)
    }
    return Rest(
        {numbered_resnet(key) if numbered else key: tensor for key, tensor in backbone.items()},
        unused,
        prefix,
        {name: given[key] for name, key in layout.adapters.items()},
        numbered,
        tuple(key for key in (*mine, *layout.aliases, *layout.computed) if key not in tensors),
        dtypes,
    )


def method_of(layout: Layout, tensors: Mapping[str, Tensor]) -> str | None:
    """The registered head whose checkpoint this looks like; None where none does, or where it may be the one of `layout`.

    It looks like a head's where all marks of its layout are there and no key is foreign to it; the one with the most marks counts.
    """
    if _looks(layout, tensors) == len(_marks(layout)) > 0:
        return None
    seen: dict[str, int] = {}
    for name in HEADS:
        kind = HEADS.get(name)
        if hasattr(kind, "published_layout"):
            with torch.random.fork_rng(devices=[]):
                head = kind(kind.Config())
            seen[name] = _looks(cast(Publishable, head).published_layout(), tensors)
    best = max(seen, key=lambda name: seen[name], default="")
    return best if seen.get(best) else None


def _looks(layout: Layout, tensors: Mapping[str, Tensor]) -> int:
    """How many marks of the layout these keys have: all of them, or 0 where one lacks or a key is foreign to it."""
    marks = _marks(layout)
    there = {mark for mark in marks if any(key == mark or key.startswith(f"{mark}.") for key in tensors)}
    own = (*(f"{mark}." for mark in marks), *layout.backbone)
    known = {*marks, *layout.adapters.values(), *layout.aliases, *layout.computed}
    foreign = (k for k in tensors if k not in known and not k.startswith(own))
    strange = any(not any(fnmatchcase(key, pattern) for pattern in layout.unused) for key in foreign)
    return 0 if strange or there != marks else len(marks)


def _marks(layout: Layout) -> set[str]:
    """What the head's published keys begin with, up to their first number: the same for every depth and size."""
    return {".".join(takewhile(lambda part: not part.isdigit(), key.split("."))) for key in layout.names.values()}


def _values(layout: Layout, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by key; where another key repeats one, the repetition's."""
    return {**tensors, **{layout.names[name]: tensors[key] for key, name in layout.aliases.items() if key in tensors}}


def _dtype(own: Mapping[str, Tensor], layout: Layout, key: str) -> torch.dtype:
    """The type that this project holds the tensor of a published key in."""
    ours = {**{theirs: name for name, theirs in layout.names.items()}, **layout.aliases}
    return own[ours[key]].dtype if key in ours else torch.float32


def _refuse(head: Publishable, where: str, problems: list[str]) -> None:
    """IntegrityError that names the first of the problems, if there are any."""
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise IntegrityError(
            f"{where} does not fit {type(head).__name__}: {'; '.join(problems[:5])}{more}",
            hint="set the head's sizes (depth, class_num, dim, ...) as the checkpoint has them",
        )


def _prefix(keys: list[str], layout: Layout) -> str:
    """The longest backbone prefix that these keys use, else the default; none for a bare backbone and a head without tensors."""
    used = [p for p in layout.backbone if any(k.startswith(p) for k in keys)]
    return max(used, key=len, default=layout.backbone[0] if layout.names else "")


def to_published(head: Publishable, rest: Rest) -> dict[str, Tensor]:
    """The whole state under published keys: the inverse of `load_published`."""
    layout, own = head.published_layout(), head.state_dict()
    tensors = {key: own[name].detach().clone() for name, key in layout.names.items()}
    tensors |= {key: rest.adapters[name] for name, key in layout.adapters.items() if name in rest.adapters}
    tensors |= {key: own[name].detach().clone() for key, name in layout.aliases.items()}
    tensors |= layout.computed
    spelt = to_numbered_resnet if rest.numbered else str
    tensors |= {rest.prefix + spelt(name): value for name, value in rest.backbone.items()}
    tensors |= {key: tensors[key].to(getattr(torch, dtype)) for key, dtype in rest.dtypes.items()}
    return {key: tensor for key, tensor in (tensors | dict(rest.unused)).items() if key not in rest.absent}
