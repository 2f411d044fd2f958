"""Golden cases of TAMT: from pixels, or from the tokens that enter block 10, to scores, loss, gradients and running statistics.

The backbone, its adapters and the head get a case's weights as a published checkpoint gives them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_models import Values, gradients, tensors

from extract.backbone import Backbone, build_backbone
from extract.videomae import trunk
from extract.weights import load_strictly
from heads import moments
from heads.base import EpisodeBatch, HeadOutput, Task
from heads.published import load_published
from heads.tamt import Tamt, TamtConfig

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@lru_cache
def blank() -> Backbone:
    """Drawn once, to be copied."""
    return build_backbone("videomae_vit_s", "random:0")


def build(case: Case) -> tuple[Tamt, dict[str, nn.Module], Backbone]:
    """The case's head, its adapters by slot, and the backbone that holds them, with the drawn weights, in the case's mode of batch norms.

    Cases from tokens have weights from block 10 on only; the blocks before it are left as they were drawn.
    """
    config = case.config
    settings = {name: config[name] for name in TamtConfig.__dataclass_fields__ if name in config}
    settings |= {"adapter_blocks": tuple(config["adapter_blocks"]), "adapter_drop_path": config["drop_path"]}
    head = Tamt(TamtConfig(dim=config["embed_dim"], **settings))
    backbone = copy.deepcopy(blank())
    given = tensors(case.weights)
    found = load_published(head, given, str(case.path))
    rest, own = dict(found.backbone), found.adapters
    adapters = head.adapters(backbone.slots)
    for slot, adapter in adapters.items():
        parts = {name.removeprefix(f"{slot}."): value for name, value in own.items() if name.startswith(f"{slot}.")}
        adapter.load_state_dict(parts, strict=True)
    net = trunk(backbone)
    load_strictly(net, (net.state_dict() if config["kind"] == "from_tokens" else {}) | rest, str(case.path))
    backbone.requires_grad_(False).insert(adapters)
    training = config["batch_norm"] == "batch"
    return head.train(training), adapters, backbone.train(training)


def frames(case: Case) -> Tensor:
    """The case's clips as the stage after scaling gets them, float32 [B, T, 3, S, S]."""
    small = case.inputs["clips_u8"].reshape(-1, *case.inputs["clips_u8"].shape[2:])
    times = case.config["image_size"] // small.shape[-1]
    big = small.repeat(times, axis=-1).repeat(times, axis=-2).astype(np.float64)
    scaled = (big / 255 - MEAN[:, None, None, None]) / STD[:, None, None, None]
    return torch.from_numpy(scaled.astype(np.float32)).transpose(1, 2)


def drawn_tokens(case: Case) -> Tensor:
    """The tokens that a case without pixels starts from, float32 [B, 8, h*w, C], as its config describes them."""
    config, rng = case.config, np.random.RandomState(case.config["token_seed"])
    each = config["shots"] + config["queries"]
    noise = rng.standard_normal((config["ways"] * each, config["tokens"], config["embed_dim"]))
    proto = rng.standard_normal((config["ways"], 8, config["embed_dim"]))
    steps = np.arange(config["tokens"]) // (config["tokens"] // 8)
    shared = proto.repeat(each, axis=0)[:, steps]
    tokens = config["token_scale"] * (1.5 * noise + config["token_class_scale"] * shared)
    return torch.from_numpy(tokens.astype(np.float16).astype(np.float32)).unflatten(1, (8, -1))


def entering_block10(case: Case, backbone: Backbone) -> Tensor:
    if case.config["kind"] == "from_tokens":
        return drawn_tokens(case)
    x = frames(case)
    for stage in backbone.stages[1 : backbone.cuts["block10"]]:
        x = stage(x)
    return x


def watched(head: Tamt) -> dict[str, list[Tensor]]:
    """What will stand here after the head has run: x1, y, the covariances, their roots, x2 and z, pass by pass."""
    seen: dict[str, list[Tensor]] = {name: [] for name in ("x1", "y", "cov", "sqrtm", "x2", "z")}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen[name].append(made)

        return hook

    for name, part in (("x1", head.first_norm), ("y", head.second_norm), ("x2", head.elstc.project)):
        part.register_forward_hook(keep(name))
    root, moments_of = head.elstc.pool.matrix, head._moments

    def matrix(maps: Tensor) -> Tensor:
        seen["cov"].append(moments.covariance(maps))
        seen["sqrtm"].append(root(maps))
        return seen["sqrtm"][-1]

    def both(tokens: Tensor) -> Tensor:
        seen["z"].append(moments_of(tokens))
        return seen["z"][-1]

    head.elstc.pool.matrix, head._moments = matrix, both  # type: ignore[method-assign]
    return seen


def episode(case: Case, tokens: Tensor) -> tuple[EpisodeBatch, Tensor]:
    """One episode of clips laid out (way, shots then queries), and the case's place of each clip of it, supports first."""
    ways, shots, queries = (case.config[name] for name in ("ways", "shots", "queries"))
    place = torch.arange(len(tokens)).view(ways, shots + queries)
    s, q = place[:, :shots].flatten(), place[:, shots:].flatten()
    labels = torch.arange(ways).repeat_interleave(shots)[None], torch.arange(ways).repeat_interleave(queries)[None]
    clips = {"features": tokens[s][None]}, {"features": tokens[q][None]}
    return EpisodeBatch(Task(ways, labels[0]), *clips, labels[1], *labels), torch.cat([s, q])


def run_tamt(case: Case) -> Values:
    """Every output of a case, clips in its order; gradients are of 1000 times the loss."""
    head, adapters, backbone = build(case)
    passes = watched(head)
    with torch.set_grad_enabled("gradients" in case.config):
        at10 = entering_block10(case, backbone)
        at12 = backbone.tail_of("block10", "block12")(at10)
        batch, place = episode(case, at12)
        out = head(batch, 1)
    seen = {name: torch.cat(each) for name, each in passes.items()}
    seen |= {name: seen[name].unflatten(0, (-1, head.config.covariance_groups)) for name in ("cov", "sqrtm")}
    seen = {name: value[place.argsort()] for name, value in seen.items()}
    every = at10[0, ..., 0].numel() // 14
    values = {
        **{f"tokens{i}_slice": x.flatten(1, 2)[:, ::every, ::32] for i, x in ((10, at10), (12, at12))},
        "tokens10_norm": at10.flatten(2).norm(dim=-1),
        "x1": seen["x1"],
        "y_slice": seen["y"].flatten(1, 2)[:, ::every, ::32],
        "y_norm": seen["y"].flatten(2).norm(dim=-1),
        "cov_slice": seen["cov"].flatten(0, 1)[:, ::16, ::16],
        "sqrtm_slice": seen["sqrtm"].flatten(0, 1)[:, ::16, ::16],
        "sqrtm_norm": seen["sqrtm"].flatten(0, 1).norm(dim=(1, 2)),
        "x2": seen["x2"],
        "z": seen["z"].unflatten(0, (batch.task.way, -1)),
        "scores": out.logits[0],
        "loss": out.loss,
    }
    return values | learnt(case, head, adapters, out)


def learnt(case: Case, head: Tamt, adapters: dict[str, nn.Module], out: HeadOutput) -> Values:
    """Gradients by published key, sliced as the case says, their norms, and the running statistics after the step."""
    published = head.published_layout().names | head.published_adapters()
    held = {**dict(head.named_parameters()), **dict(head.named_buffers())}
    for slot, adapter in adapters.items():
        own = {**dict(adapter.named_parameters()), **dict(adapter.named_buffers())}
        held |= {f"{slot}.{name}": tensor for name, tensor in own.items()}
    given = {published[name]: tensor for name, tensor in held.items()}
    weights = {key: tensor for key, tensor in given.items() if isinstance(tensor, nn.Parameter)}
    buffers = {f"buffer/{key}": tensor for key, tensor in given.items() if key not in weights}
    if "gradients" not in case.config:
        return buffers
    whole = gradients(1000 * out.loss, weights, "")
    slices = case.config["gradients"]["slices"]
    values = {f"grad/{key}": grad[part(slices.get(key, ["all"]))] for key, grad in whole.items()}
    return buffers | values | {f"grad_norm/{key}": grad.norm() for key, grad in whole.items()}


def part(texts: list[str]) -> tuple[slice, ...]:
    """The slices that texts such as "0:96:8" and "all" mean, of the first axes."""
    return tuple(slice(*(int(n) for n in text.split(":"))) if text != "all" else slice(None) for text in texts)


RUNNERS = {"tamt": run_tamt}
