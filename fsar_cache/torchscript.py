"""The tensors of a TorchScript archive, by the names they have as modules' attributes; its code is never loaded, let alone run.

Such an archive is a torch file whose objects are modules, their classes the archive's own code: here each is a table of its attributes.
"""

from __future__ import annotations

import pickle
from typing import Any

from torch import Tensor

from fsar_cache.inert_calls import Inert

_CODE = "__torch__"
"""How the names of an archive's own classes begin."""
_VISITS = 300_000
"""Values that are looked at in one archive; a description may hold one object under exponentially many names."""
_LENGTH = 1000
"""Characters of a dotted name."""


def is_module(value: Any) -> bool:
    """Whether this is an object of an archive's own classes."""
    return isinstance(value, Inert) and value.name.split(".")[0] == _CODE


def module_tensors(root: Any) -> dict[str, Tensor]:
    """Every tensor attribute of `root` and the modules in it, under its dotted name.

    Raises pickle.UnpicklingError where there are too many names to look at, or a very long one.
    """
    made: dict[str, Tensor] = {}
    visits = 0

    def collect(value: Any, name: str) -> None:
        nonlocal visits
        visits += 1
        if visits > _VISITS:
            raise pickle.UnpicklingError(f"the description names more than {_VISITS} values")
        if len(name) > _LENGTH:
            raise pickle.UnpicklingError(f"the description has a name of more than {_LENGTH} characters")
        if isinstance(value, Tensor):
            made[name] = value
        elif is_module(value) and isinstance(value.state, dict):
            for key, inner in value.state.items():
                collect(inner, f"{name}.{key}" if name else str(key))

    collect(root, "")
    return made
