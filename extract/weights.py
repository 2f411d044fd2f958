"""Where a backbone's weights come from: "random:SEED", "timm:NAME" or "file:PATH"; always loaded strictly, named by a hash."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.backbone import Scaling
from extract.scaling import SCALINGS, scaling_of
from fsar_cache.errors import IntegrityError, MissingError, UsageError, unknown

CLASSIFIER = ("fc.weight", "fc.bias")
"""Entries of a weight file that are no part of the frame network and may be there."""


def network(arch: str, weights: str) -> tuple[nn.Module, Scaling]:
    """The timm network `arch` without classifier and pooling, filled with `weights`, and the scaling that belongs to them.

    Errors: UsageError for a malformed `weights`, MissingError where they can't be had, IntegrityError where they don't fit.
    """
    source, colon, name = weights.partition(":")
    if not colon or not name or source not in ("random", "timm", "file"):
        raise UsageError(
            f"weights {weights!r} are not random:SEED, timm:NAME or file:PATH", hint="for example --weights random:0"
        )
    if source == "random":
        return _blank(arch, _seed(name)), SCALINGS["unit"]
    if source == "file":
        path, scaling = Path(name), SCALINGS["unit"]
    else:
        path, scaling = _published(arch, name)
    net = _blank(arch, 0)
    load_strictly(net, read_tensors(path), str(path))
    return net, scaling


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise UsageError(f"weights 'random:{text}' need a whole number as seed", hint="for example random:0")
    return int(text)


def _blank(arch: str, seed: int) -> nn.Module:
    """The network with weights drawn from `seed` (Kaiming normal, fan-out; batch norm 1 and 0); the global state stays untouched."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net: nn.Module = timm.create_model(arch, pretrained=False, num_classes=0, global_pool="", zero_init_last=False)
    return net


def load_strictly(net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill `net` from `tensors` (timm's names, which are torchvision's); IntegrityError for any name or shape that doesn't fit."""
    given = {name: tensor for name, tensor in tensors.items() if name not in CLASSIFIER}
    wanted = net.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} is {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise IntegrityError(
            f"{where} does not fit the network: {'; '.join(problems[:3])}{more}",
            hint="the file must hold this backbone's tensors under torchvision's names (conv1.weight, layer1.0...)",
        )
    net.load_state_dict(given, strict=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or torch file, on the CPU; no pickled code is ever executed."""
    if not path.is_file():
        raise MissingError(f"no weight file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the reader raise nearly anything
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise IntegrityError(f"{path} is no torch file of plain tensors: {why}") from error
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        held = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else type(found).__name__
        raise IntegrityError(
            f"{path} is no table of tensors (it holds {held})",
            hint="save the backbone's state_dict() itself, not a whole training checkpoint",
        )
    return dict(found)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path} is no whole safetensors file: {error}") from error
    return tensors


def _published(arch: str, name: str) -> tuple[Path, Scaling]:
    """The file of timm's published weights `name` ("resnet18.a1_in1k" or only the tag), from the local cache or downloaded."""
    import timm
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    known = timm.list_pretrained(f"{arch}.*")
    full = name if "." in name else f"{arch}.{name}"
    if full not in known:
        raise unknown(f"timm weights of {arch}", name, known)
    facts: Any = timm.get_pretrained_cfg(full)
    cached = try_to_load_from_cache(facts.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached), scaling_of(facts.mean, facts.std)
    hint = "connect to the network once, or use weights you have: --weights file:PATH (random:0 for untrained ones)"
    if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
        raise MissingError(
            f"the weights timm:{full} are not on this machine and their server can't be reached", hint=hint
        )
    try:
        path = Path(hf_hub_download(facts.hf_hub_id, "model.safetensors"))
    except Exception as error:  # the client's failures have no common base class
        raise MissingError(f"the weights timm:{full} could not be fetched: {error}", hint=hint) from error
    return path, scaling_of(facts.mean, facts.std)


def _reachable(address: str) -> bool:
    """Whether a web server answers within seconds (the download client alone would retry for most of a minute)."""
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def weight_hash(net: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor of `net`, in the order of their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
