"""Files of named tensors, read without executing anything from them: safetensors, torch files old and new, TorchScript archives."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.inert_calls import DTYPES, Inert, printable
from fsar_cache.torch_files import read_torch_file, room_for
from fsar_cache.torchscript import is_module, module_tensors

WRAPPERS = ("model_state_dict", "state_dict", "model_state", "model", "module", "state")
"""Keys under which training scripts keep a network's tensors, in the order in which they are looked for."""

_LENGTH = 1000
"""Characters of a tensor's name."""


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    tensors: by name, on the CPU; wrapper: the key they stand under, "" at the top level; other: the rest of the top level; skipped: names
    in the table of tensors whose values are none; stubs: classes and functions that the file names and that were not loaded.
    """

    tensors: Mapping[str, Tensor]
    wrapper: str
    other: Mapping[str, Any]
    skipped: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()


def read_tensor_file(path: Path) -> TensorFile:
    """Read `path`: the tensors of the first of `WRAPPERS` that holds any, else those of the top level; they must be plain ones.

    MissingError without the file; IntegrityError for a damaged file, or one where no table of tensors can be reached without running code.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"no weight file or checkpoint {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        whole, strange = read_torch_file(path)
        stubs = tuple(sorted(name for name in strange if not name.startswith("__torch__.")))
        if is_module(whole):
            return TensorFile(_required(module_tensors(whole), whole, path), "", {}, (), stubs)
    except IntegrityError:
        raise
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            f"{path} is no torch file of plain tensors: {error}",
            hint="its author can write a file that needs nothing else: safetensors.torch.save_file(state_dict, PATH)",
        ) from error
    except Exception as error:  # foreign bytes make the reader raise nearly anything
        reason = (str(error).splitlines() or [""])[0][:200]
        raise IntegrityError(f"{path} can't be read as a torch file: {type(error).__name__}: {reason}") from error
    return _split(whole, stubs, path)


def _read_safetensors(path: Path) -> TensorFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(_required(tensors, tensors, path), "", dict(file.metadata() or {}))
    except SafetensorError as error:
        raise IntegrityError(f"{path} is no whole safetensors file: {error}") from error


def _split(whole: Any, stubs: tuple[str, ...], path: Path) -> TensorFile:
    """Tensors and the rest of what a file held."""
    top = _table(whole)
    wrapper = next((key for key in WRAPPERS if _tensors(_table(top.get(key)))), "")
    table = _table(top[wrapper]) if wrapper else top
    tensors = _required(_tensors(table), whole, path)
    # what lies beside a bare table of tensors may be anything, and is `other`
    aside = [(n, v) for n, v in table.items() if not isinstance(v, Tensor) and (wrapper or isinstance(v, Inert))]
    skipped = tuple(
        printable(f"{name} ({value.name})" if isinstance(value, Inert) else str(name)) for name, value in aside
    )
    other = {str(key): value for key, value in top.items() if key != wrapper and not isinstance(value, Tensor | Inert)}
    return TensorFile(tensors, wrapper, other, skipped, stubs)


def _table(value: Any) -> Mapping[Any, Any]:
    """The items of a table, also of one whose class is not known; none of anything else."""
    if isinstance(value, Inert):
        return value.items
    return value if isinstance(value, Mapping) else {}


def _tensors(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a table by name."""
    return {str(name): value for name, value in table.items() if isinstance(value, Tensor)}


def _required(tensors: dict[str, Tensor], whole: Any, path: Path) -> dict[str, Tensor]:
    """The tensors; IntegrityError that says what the file holds where there are none."""
    if tensors:
        _require_plain(tensors, path)
        return tensors
    if isinstance(whole, Inert):
        raise IntegrityError(
            f"{path} holds no table of tensors but an object, {whole.name}",
            hint="objects are not made from files; its author can save its state_dict() instead",
        )
    if not isinstance(whole, Mapping):
        raise IntegrityError(f"{path} holds a {type(whole).__name__}, not a table of tensors")
    raise IntegrityError(
        f"{path} holds no tensors; its keys are {printable(', '.join(map(str, whole)))[:200] or 'none'}"
    )


def _require_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    """IntegrityError for names that can't be shown, numbers that no network has, and tensors that repeat values to fill memory."""
    for name, tensor in tensors.items():
        if not name.isprintable() or len(name) > _LENGTH:
            raise IntegrityError(f"{path} holds a tensor whose name is no name: {printable(name)[:80]!r}")
        if tensor.dtype not in DTYPES.values():
            raise IntegrityError(
                f"{path}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, no type of plain weights"
            )
    if (whole := sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())) > room_for(path):
        raise IntegrityError(
            f"{path} would unpack to tensors of {whole / 1e9:.1f} GB: they repeat the values of a far smaller file"
        )
