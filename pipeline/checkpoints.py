"""Checkpoints: tensors and what belongs to them in one safetensors file that appears whole, with a readable JSON copy beside it.

The facts live in the header of the safetensors file too, and that copy counts: a process killed between the two files loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fsar_cache.canonical import canonical, plain
from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.files import whole_file, write_json


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors ("model.*", "optimizer.*", "gradient.*") and facts about them (iteration, recipe, features, best so far)."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix` and a dot, without it."""
        start = len(prefix) + 1
        return {name[start:]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix + ".")}


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order of name."""
    made = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        made.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write `<folder>/<name>.safetensors` and `.json`, each whole or not at all; returns the path of the first."""
    held = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    facts = {**plain(dict(facts)), "sha256": tensor_hash(held)}
    path = folder / f"{name}.safetensors"
    with whole_file(path) as file:
        file.write(save(held, metadata={"facts": canonical(facts)}))
    write_json(path.with_suffix(".json"), facts)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check its bytes; MissingError where there is none, IntegrityError where it is damaged."""
    if not path.is_file():
        raise MissingError(f"no checkpoint {path}", hint="train first, or name another checkpoint of the run")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise IntegrityError(f"{path} is not a whole safetensors file: {error}", hint=_OTHER) from error
    if "facts" not in header:
        raise IntegrityError(f"{path} was not written by fsar-cache train: its header holds no facts", hint=_OTHER)
    facts = json.loads(header["facts"])
    if tensor_hash(tensors) != facts["sha256"]:
        raise IntegrityError(
            f"{path} is damaged: its tensors don't have the checksum {facts['sha256'][:12]}...", hint=_OTHER
        )
    return Checkpoint(tensors, facts)


_OTHER = "use another checkpoint of the same run, or train again in a new run folder"


def pack_state(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """All that training needs to go on: model state, gradients summed so far, optimizer state, each under its parameter's name."""
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    if optimizer is None:
        return tensors
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            tensors[f"gradient.{name}"] = parameter.grad
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer.{name}/{key}"] = torch.as_tensor(value)
    return tensors


def unpack_model(checkpoint: Checkpoint, model: nn.Module, where: str) -> None:
    """Load the model state, strictly: IntegrityError that names missing, extra and misshapen tensors."""
    have, want = checkpoint.under("model"), model.state_dict()
    wrong = [f"missing {key}" for key in want if key not in have]
    wrong += [f"unknown {key}" for key in have if key not in want]
    wrong += [
        f"{key}: {tuple(have[key].shape)} where the recipe makes {tuple(want[key].shape)}"
        for key in want
        if key in have and have[key].shape != want[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise IntegrityError(f"{where} does not fit the recipe's model: {'; '.join(wrong[:3])}{more}")
    model.load_state_dict(have)


def unpack_training(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore gradients and optimizer state; the model state must be loaded already."""
    gradients, states = checkpoint.under("gradient"), checkpoint.under("optimizer")
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].to(parameter.device) if name in gradients else None
        state = {key.rpartition("/")[2]: value for key, value in states.items() if key.rpartition("/")[0] == name}
        if state:
            # Adam keeps its step count on the CPU, whatever device its moments are on
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
