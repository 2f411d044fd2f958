"""Where a backbone's weights come from: "random:SEED", "timm:NAME" or "file:PATH"; always loaded strictly, named by a hash."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.backbone import Scaling
from extract.scaling import SCALINGS, scaling_of
from fsar_cache.errors import IntegrityError, MissingError, UsageError, unknown
from fsar_cache.tensor_files import read_tensor_file

CLASSIFIER = ("fc.weight", "fc.bias")
"""Entries of a weight file that are no part of the frame network and may be there."""
_FORMS = {"random": "SEED", "timm": "NAME", "openclip": "NAME", "file": "PATH"}


def network(arch: str, weights: str) -> tuple[nn.Module, Scaling]:
    """The timm network `arch` without classifier and pooling, filled with `weights`, and the scaling that belongs to them.

    Errors: UsageError for a malformed `weights`, MissingError where they can't be had, IntegrityError where they don't fit.
    """

    def blank() -> nn.Module:
        """Kaiming normal, fan-out; batch norm 1 and 0."""
        import timm

        net: nn.Module = timm.create_model(arch, pretrained=False, num_classes=0, global_pool="", zero_init_last=False)
        return net

    source, name = source_of(weights, ("random", "timm", "file"))
    if source == "random":
        return drawn(blank, seed_of(name)), SCALINGS["unit"]
    path, scaling = (Path(name), SCALINGS["unit"]) if source == "file" else _published(arch, name)
    net = drawn(blank, 0)
    load_strictly(net, read_tensors(path), str(path))
    return net, scaling


def source_of(weights: str, known: Sequence[str]) -> tuple[str, str]:
    """The parts of "SOURCE:NAME"; UsageError unless the source is one of `known` and the name isn't empty."""
    source, _, name = weights.partition(":")
    if not name or source not in known:
        forms = [f"{each}:{_FORMS[each]}" for each in known]
        raise UsageError(
            f"weights {weights!r} are not {', '.join(forms[:-1])} or {forms[-1]}", hint="for example --weights random:0"
        )
    return source, name


def seed_of(text: str) -> int:
    """The seed of "random:SEED"; UsageError where it is no whole number."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise UsageError(f"weights 'random:{text}' need a whole number as seed", hint="for example random:0")
    return int(text)


def drawn(blank: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `blank` makes when torch's global generator begins at `seed`; that generator is then as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return blank()


def load_strictly(
    net: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    unused: Collection[str] = CLASSIFIER,
    layout: str = "torchvision's (conv1.weight, layer1.0...)",
) -> None:
    """Fill `net` from `tensors` but for the `unused` ones; IntegrityError for any name or shape that doesn't fit.

    layout: whose names these are, for the hint.
    """
    given = {name: tensor for name, tensor in tensors.items() if name not in unused}
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
            hint=f"the file must hold this backbone's tensors under the names that are {layout}",
        )
    net.load_state_dict(given, strict=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a weight file or checkpoint, on the CPU (see `fsar_cache.tensor_files`); no pickled code is ever executed."""
    return dict(read_tensor_file(path).tensors)


def _published(arch: str, name: str) -> tuple[Path, Scaling]:
    """The file of timm's published weights `name` ("resnet18.a1_in1k" or only the tag), from the local cache or downloaded."""
    import timm

    known = timm.list_pretrained(f"{arch}.*")
    full = name if "." in name else f"{arch}.{name}"
    if full not in known:
        raise unknown(f"timm weights of {arch}", name, known)
    facts: Any = timm.get_pretrained_cfg(full)
    return hub_file(facts.hf_hub_id, "model.safetensors", f"timm:{full}"), scaling_of(facts.mean, facts.std)


def hub_file(repository: str, file: str, weights: str) -> Path:
    """A file of the model hub, from its local cache or downloaded into it; MissingError where it can't be had.

    weights: what the user calls it, for the messages.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    hint = "connect to the network once, or use weights you have: --weights file:PATH (random:0 for untrained ones)"
    if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
        raise MissingError(
            f"the weights {weights} are not on this machine and their server can't be reached", hint=hint
        )
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the client's failures have no common base class
        raise MissingError(f"the weights {weights} could not be fetched: {error}", hint=hint) from error


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
