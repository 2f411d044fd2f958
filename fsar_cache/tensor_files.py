"""Files of named tensors, read without executing anything from them: safetensors, torch files old and new, TorchScript archives."""

from __future__ import annotations

import pickle
import warnings
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.torchscript import is_torchscript, read_torchscript

WRAPPERS = ("model_state_dict", "state_dict", "model_state", "model", "module", "state")
"""Keys under which training scripts keep a network's tensors, in the order in which they are looked for."""
_PLAIN: list[Any] = [Counter, OrderedDict, Namespace]
"""Classes that checkpoints hold beside tensors; they only hold values."""


@dataclass(frozen=True)
class TensorFile:
    """What a file holds. tensors: by name, on the CPU; wrapper: the key they stand under, "" at the top level; other: the rest."""

    tensors: Mapping[str, Tensor]
    wrapper: str
    other: Mapping[str, Any]


def read_tensor_file(path: Path) -> TensorFile:
    """Read `path`: the tensors of the first of `WRAPPERS` that holds any, else those of the top level; they must all be plain.

    MissingError without the file; IntegrityError for a damaged file, one without tensors, or one that asks for pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"no weight file or checkpoint {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        if is_torchscript(path):
            whole: Any = read_torchscript(path)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
                warnings.simplefilter("ignore", UserWarning)  # advice about how the file was pickled
                whole = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            f"{path} is no torch file of plain tensors: {_refused(str(error))}",
            hint="it is not loaded, as that could run code from the file; ask its author for a .safetensors file",
        ) from error
    except Exception as error:  # foreign bytes make the reader raise nearly anything
        reason = (str(error).splitlines() or [""])[0][:200]
        raise IntegrityError(f"{path} can't be read as a torch file: {type(error).__name__}: {reason}") from error
    return _split(whole, path)


def _refused(text: str) -> str:
    """The sentence of torch's long refusal that names what the file wanted to run."""
    named = [line.strip() for line in text.splitlines() if "GLOBAL" in line]
    return named[0][:300] if named else "it holds more than tensors and plain values, or is damaged"


def _read_safetensors(path: Path) -> TensorFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(tensors, "", dict(file.metadata() or {}))
    except SafetensorError as error:
        raise IntegrityError(f"{path} is no whole safetensors file: {error}") from error


def _split(whole: Any, path: Path) -> TensorFile:
    """Tensors and the rest of what a file held."""
    if not isinstance(whole, Mapping):
        raise IntegrityError(f"{path} holds a {type(whole).__name__}, not a table of tensors")
    wrapper = next((key for key in WRAPPERS if _tensors(whole.get(key))), "")
    tensors = _tensors(whole[wrapper] if wrapper else whole)
    if not tensors:
        raise IntegrityError(f"{path} holds no tensors; its keys are {', '.join(map(str, whole))[:200] or 'none'}")
    other = {str(key): value for key, value in whole.items() if key != wrapper and not isinstance(value, Tensor)}
    return TensorFile(tensors, wrapper, other)


def _tensors(table: Any) -> dict[str, Tensor]:
    """The tensors of a table by name; none where it is no table."""
    if not isinstance(table, Mapping):
        return {}
    return {str(name): value for name, value in table.items() if isinstance(value, Tensor)}
