"""One comparison to look at: a query clip against the right class and the best wrong one, with frames, costs and alignment paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extract.clip import decode_clip, task_of
from fsar_cache.errors import FsarError, UsageError
from heads.base import Role
from pipeline.assemble import Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, unpack_model
from pipeline.evaluate import encode_batch, tasks
from pipeline.folder import CHECKPOINTS, read_config
from pipeline.model import Model
from pipeline.recipe import Domain
from pipeline.report_figures import data_uri
from pipeline.results import Evaluation
from pipeline.sources import FeatureSource
from splits.datasets import open_split
from splits.types import Episodes, Ints, Part, Protocol, Split

LOOKED_AT = 10
"""Episodes searched for a query that was recognised; the first query of all is shown where none was."""


def example_of(folder: Path, found: Evaluation, stores: Path) -> dict[str, Any]:
    """The example for an evaluation of the run in `folder`, made with the checkpoint that was evaluated; see `make_example`."""
    identity = found.identity
    recipe = read_config(folder)
    domain = replace(recipe.target, part=identity["part"])
    if open_split(domain.dataset).name != identity["dataset"]:
        return {
            "absent": f"The evaluation was made on {identity['dataset']}; only clips of the run's own target are shown."
        }
    with workshop(recipe, Places(stores)) as shop:
        model = shop.model(classes=1)
        if identity["checkpoint"]:
            path = folder / CHECKPOINTS / f"{identity['checkpoint']['name']}.safetensors"
            unpack_model(load_checkpoint(path), model, str(path))
        elif recipe.features.normalise != "none":
            source = shop.open(recipe.source, recipe.source.part)
            fit_normaliser(model, source.source, source.exclude)
        return make_example(shop, model, domain, Protocol(**identity["protocol"]), identity["seed"])


def make_example(shop: Workshop, model: Model, domain: Domain, protocol: Protocol, seed: int) -> dict[str, Any]:
    """The first recognised query of the first one-shot episodes of `domain`, as plain data for the report.

    {"query", "class", "correct", "aligned", "frames", "pairs": [{"class", "clip", "right", "probability", "frames", "cost", "path"}]};
    frames are picture URIs, cost and path [Tq, Ts] (only where the head aligns frames). {"absent": reason} where a clip can't be read.
    """
    source, sampler, _ = shop.evaluation(domain, replace(protocol, shot=1, query=1, episodes=LOOKED_AT), seed)
    episodes = sampler.episodes(0, LOOKED_AT)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            support = _encode(model, source, episodes.support, "support")
            query = _encode(model, source, episodes.query, "query")
            task = tasks(model.head, source, episodes, protocol.way, seed)
            logits = model.head.match(support, query, task(slice(None)).to(model.device)).logits
            right = (logits.argmax(-1).cpu().numpy() == episodes.query_labels).reshape(-1)
            at = int(np.argmax(right))
            episode, place = divmod(at, episodes.query.shape[1])
            one = task(slice(episode, episode + 1)).to(model.device)
            shown = model.head.show(_only(support, episode), _only(query, episode), one)
    except UsageError as error:
        return {"absent": f"One-shot episodes can't be shown: {error.message}"}
    finally:
        model.train(was_training)
    pair = _Picture(open_split(domain.dataset), source.part, shop, episodes, episode)
    try:
        return pair.describe(place, logits[episode, place].softmax(-1).cpu(), {k: v.cpu() for k, v in shown.items()})
    except FsarError as error:
        return {"absent": f"The clips of this comparison can't be shown: {error.message}"}


def _encode(model: Model, source: FeatureSource, positions: Ints, role: Role) -> dict[str, Tensor]:
    """Encoded clips {name: [E, clips, ...]} at positions [E, clips]."""
    codes = encode_batch(model, source, positions.ravel(), (role,))[role]
    return {name: code.reshape(*positions.shape, *code.shape[1:]) for name, code in codes.items()}


def _only(codes: dict[str, Tensor], episode: int) -> dict[str, Tensor]:
    return {name: code[episode : episode + 1] for name, code in codes.items()}


class _Picture:
    """Puts one query of an episode into words, frames and numbers."""

    def __init__(self, split: Split, part: Part, shop: Workshop, episodes: Episodes, episode: int) -> None:
        self._split, self._part, self._features = split, part, shop.recipe.features
        self._classes = episodes.classes[episode]
        self._support = dict(
            zip(episodes.support_labels[episode].tolist(), episodes.support[episode].tolist(), strict=True)
        )
        self._query = episodes.query[episode]
        self._labels = episodes.query_labels[episode]

    def describe(self, place: int, chances: Tensor, shown: dict[str, Tensor]) -> dict[str, Any]:
        """The plain data of `make_example` for query number `place`; chances [W]."""
        truth = int(self._labels[place])
        other = int(torch.where(torch.arange(len(chances)) == truth, -1.0, chances).argmax())
        clip = int(self._query[place])
        aligned = {"cost", "path"} <= shown.keys()
        pairs = []
        for label in (truth, other):
            support = self._support[label]
            pair = {
                "class": self._part.classes[self._classes[label]],
                "clip": self._part.ids[support],
                "right": label == truth,
                "probability": float(chances[label]),
                "frames": self._frames(support),
            }
            if aligned:
                pair |= {
                    name: np.round(shown[name][place, label].double().numpy(), 5).tolist() for name in ("cost", "path")
                }
            pairs.append(pair)
        return {
            "query": self._part.ids[clip],
            "class": self._part.classes[self._classes[truth]],
            "correct": int(chances.argmax()) == truth,
            "aligned": aligned,
            "frames": self._frames(clip),
            "pairs": pairs,
        }

    def _frames(self, position: int) -> list[str]:
        f = self._features
        task = task_of(self._split.root, self._part.videos[position], f.sampling, f.frames)
        return [data_uri(frame) for frame in decode_clip(task).frames]
