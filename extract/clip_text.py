"""Class names through CLIP's text tower, and the store that keeps one feature per class.

Source: the method card of CLIP-FSAR ("CLIP towers"). The tower is frozen and runs in float32 on the CPU, one prompt at a time, so that a
feature depends on its own prompt alone. K prompts, D channels of the joint space (1024 with clip_rn50, 512 with clip_vit_b16).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache.features import FeatureStore
from cache.medium import require_durable
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create
from extract.clip_weights import config_of, filled
from extract.config import ExtractConfig, store_path
from extract.machine import machine_type
from extract.prepare import is_wanted, require_space
from extract.run import Summary
from extract.weights import weight_hash
from fsar_cache.errors import Interrupted, UsageError, unknown
from splits.types import Split


class TextTower:
    """A text tower of open_clip, `net`, with its tokenizer; backbone: the image tower it belongs to."""

    def __init__(self, backbone: str, net: nn.Module) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        config = config_of(backbone)
        self._net = net.eval()
        self._tokenizer: Any = SimpleTokenizer()
        self._length = int(config["text_cfg"]["context_length"])
        self.dim = int(config["embed_dim"])
        self.facts = {"name": backbone, "weights": weight_hash(net)}

    def tokens(self, prompt: str) -> Tensor:
        """int64 [1, 77]: start token, the prompt's tokens, end token, zeros; UsageError for a prompt that is too long."""
        ids = [self._tokenizer.sot_token_id, *self._tokenizer.encode(prompt), self._tokenizer.eot_token_id]
        if len(ids) > self._length:
            raise UsageError(
                f"the prompt {prompt!r} is {len(ids)} tokens long, CLIP's text tower takes {self._length}",
                hint="shorten the class name or the prompt",
            )
        return torch.tensor([ids + [0] * (self._length - len(ids))])

    def encode(self, tokens: Tensor) -> Tensor:
        """Features float32 [n, D] of tokens [n, 77], not normalised: LayerNorm at the end token (the largest id), times the projection."""
        with torch.inference_mode():
            made: Tensor = self._net(tokens)
        return made


def blank_text(config: dict[str, Any]) -> nn.Module:
    """open_clip's text tower of a configuration (12 layers, width 512, 8 heads, causal), its tensors drawn as open_clip draws them."""
    from open_clip.transformer import QuickGELU, TextTransformer

    net: nn.Module = TextTransformer(**config["text_cfg"], output_dim=config["embed_dim"], act_layer=QuickGELU)
    return net


def text_tower(backbone: str, weights: str) -> TextTower:
    """The text tower that belongs to the image tower `backbone`. Errors as `extract.clip_weights.filled` has them."""
    return TextTower(backbone, filled(backbone, weights, "text", lambda: blank_text(config_of(backbone)))[0])


def encode_prompts(weights: str, backbone: str, prompts: Sequence[str]) -> Tensor:
    """float32 [K, D]: the text feature of each prompt, not normalised. Errors as `extract.clip_weights.filled` has them."""
    tower = text_tower(backbone, weights)
    made = [tower.encode(tower.tokens(prompt)) for prompt in prompts]
    return torch.cat(made) if made else torch.empty(0, tower.dim)


def prompt_for(template: str, name: str) -> str:
    """The template with the class name in place of its {}; UsageError unless it holds exactly one."""
    if template.count("{}") != 1:
        raise UsageError(
            f"the prompt {template!r} must hold {{}} once, where the class name goes",
            hint="for example 'a photo of {}'",
        )
    return template.replace("{}", name)


def class_rows(split: Split, config: ExtractConfig) -> list[Row]:
    """One row per class that the settings ask for, id and label its name; a class of several partitions stands in the first of them.

    UsageError for a partition or class that the dataset doesn't have.
    """
    for partition in config.partitions:
        split.part(partition)
    rows: dict[str, Row] = {}
    for part in split.parts.values():
        for name in part.classes:
            row = Row(name, name, part.name)
            if is_wanted(config, row):
                rows.setdefault(name, row)
    for name in config.classes:
        if name not in rows:
            raise unknown(f"class of {split.name}", name, {c for part in split.parts.values() for c in part.classes})
    return list(rows.values())


def text_spec(tower: TextTower, prompt: str) -> FeatureSpec:
    """The identity of a text store: no frame has touched it, so it names no decoder and no sampling."""
    return FeatureSpec(
        kind="text",
        decoder={},
        sampling={},
        transform={"prompt": prompt, "tokenizer": "clip-bpe"},
        backbone=tower.facts,
        cut="text",
        shape=(tower.dim,),
        dtype="float32",
    )


def extract_text(split: Split, config: ExtractConfig, folder: Path, *, stop: threading.Event | None = None) -> Summary:
    """Make the text features of the classes of `split` that are not there yet, in the store that the settings name under `folder`.

    A store of kind "text" with one row per class name. Once `stop` is set the block in hand is left unfinished and Interrupted is
    raised. UsageError for a backbone that is no CLIP, a prompt without its {} or too long; else errors as `cache.store.create`'s.
    """
    began = time.perf_counter()
    prompt_for(config.prompt, "")
    require_durable(config.backend)
    if config.part != (1, 1):
        raise UsageError("text features are not made in parts: a class list takes seconds", hint="leave out --part")
    tower = text_tower(config.backbone, config.weights)
    spec, rows = text_spec(tower, config.prompt), class_rows(split, config)
    for row in rows:
        tower.tokens(prompt_for(config.prompt, row.id))
    path = store_path(folder, split.home, spec)
    if not config.force:
        require_space(path, len(rows) * spec.row_bytes)
    with create(
        path, spec, rows, dataset=split.home, backend=config.backend, block_rows=config.block_rows or None
    ) as store:
        there = int(store.ok[store.rows_of([row.id for row in rows])].sum())
        made = _fill(store, tower, config, stop or threading.Event())
    seconds = time.perf_counter() - began
    return Summary(path, len(rows), [], [], made, there, seconds, made / seconds, 0.0)


def _fill(store: FeatureStore, tower: TextTower, config: ExtractConfig, stop: threading.Event) -> int:
    """Write every missing block; the number of rows made."""
    made = 0
    by = text_provenance(config.weights)
    with store.writer() as writer:
        for block in store.missing():
            names = [row.id for row in store.rows[slice(*store.block_range(block))]]
            features = []
            for name in names:
                if stop.is_set():
                    raise Interrupted(
                        f"stopped with {made} classes of {store.dataset} done",
                        hint="repeat the same command to go on from here",
                    )
                features.append(tower.encode(tower.tokens(prompt_for(config.prompt, name))))
            writer.write_block(block, torch.cat(features).numpy(), [Outcome("ok")] * len(names), by)
            made += len(names)
    return made


def text_provenance(weights: str) -> dict[str, Any]:
    """What makes a block, beside what its fingerprint says: versions, machine type, the name of the weights."""
    return {
        "packages": {name: version(name) for name in ("fsar-cache", "torch", "open_clip_torch")},
        "device": machine_type(torch.device("cpu")),
        "weights": weights,
    }
