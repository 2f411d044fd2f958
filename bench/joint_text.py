"""Frames and class names brought into one space on the synthetic world, as CLIP does for photographs: the fair test of heads with text.

    fsar-cache synth && fsar-cache extract synth    # once: videos, and the demo's features
    python bench/joint_text.py --seed 0             # some seconds; prints what text alone gets right, and the stores as settings

Weights drawn at random know no words, so text features of a drawn CLIP show the mechanics of a head and no more. Here two small networks
are trained on clips of source's training classes alone, by CLIP's symmetric contrastive loss:

    frames   [T, 512], pooled features of the demo, centred and scaled -> [T, D]: each frame with its two neighbours (which way things
             change is in no single frame) through LayerNorm, Linear, GELU, Dropout, Linear; a clip is the mean of its frames
    text     the two verbs of a class name: an embedding per verb and position, summed, LayerNorm, Linear -> [D]

Classes of target and far were never seen: their text is composed of verbs that were. What comes out is written as stores of one's own for
every domain: frame features of all clips, text of all classes, and (--flow) features of flow, trained onto the text as it is then.

Letters: B clips, T frames, C classes, D width of the joint space.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cache.imported import import_features
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from cache.store import create
from extract.clip_text import class_rows
from extract.config import ExtractConfig, store_path
from fsar_cache import places
from fsar_cache.draws import generator, key_of
from pipeline.assemble import Places, workshop
from pipeline.checkpoints import tensor_hash
from pipeline.normalise import Normaliser
from pipeline.recipe import Domain, load_recipe
from splits.datasets import open_split
from splits.synth_motion import VERBS, motion
from splits.types import Part, Split

DOMAINS = ("source", "target", "far")
VOCABULARY = tuple(verb for pair in VERBS for verb in pair)


@dataclass(frozen=True)
class Joint:
    """Sizes and training; each step sees one clip of every class. weight_decay is AdamW's."""

    seed: int = 0
    width: int = 128
    hidden: int = 256
    steps: int = 300
    lr: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.5


class Frames(nn.Module):
    """Pooled features [B, T, 512] to [B, T, D], each frame seen with its neighbours (the first and the last are their own)."""

    def __init__(self, inputs: int, config: Joint) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(3 * inputs),
            nn.Linear(3 * inputs, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.width),
        )

    def forward(self, clips: Tensor) -> Tensor:
        """See the class."""
        before, after = torch.cat([clips[:, :1], clips[:, :-1]], 1), torch.cat([clips[:, 1:], clips[:, -1:]], 1)
        made: Tensor = self.layers(torch.cat([before, clips, after], -1))
        return made


class Text(nn.Module):
    """Classes as verbs int64 [C, 2] to [C, D]: an embedding per verb and position, summed."""

    def __init__(self, config: Joint) -> None:
        super().__init__()
        self.words = nn.Embedding(2 * len(VOCABULARY), config.hidden)
        self.out = nn.Sequential(nn.LayerNorm(config.hidden), nn.Linear(config.hidden, config.width))

    def forward(self, verbs: Tensor) -> Tensor:
        """See the class."""
        made: Tensor = self.out(self.words(verbs + torch.tensor([0, len(VOCABULARY)])).sum(1))
        return made


class Pair(nn.Module):
    """Both networks and the temperature, whose logarithm starts where CLIP's does."""

    def __init__(self, inputs: int, config: Joint) -> None:
        super().__init__()
        self.frames, self.text = Frames(inputs, config), Text(config)
        self.scale = nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))

    def logits(self, clips: Tensor, verbs: Tensor) -> Tensor:
        """Scaled cosines [B, C] of clips [B, T, 512] and classes [C, 2]."""
        return self.scale.exp() * cosines(self.frames(clips), self.text(verbs))


def cosines(frames: Tensor, text: Tensor) -> Tensor:
    """[B, C] of the mean of a clip's frames [B, T, D] and text [C, D]."""
    return F.normalize(frames.mean(1), dim=-1) @ F.normalize(text, dim=-1).T


def verbs_of(names: tuple[str, ...]) -> Tensor:
    """The verbs of class names as int64 [C, 2]; UsageError for a name that is no motion."""
    for name in names:
        motion(name)
    return torch.tensor([[VOCABULARY.index(verb) for verb in name.split("-")] for name in names])


def train(clips: Tensor, labels: np.ndarray, names: tuple[str, ...], config: Joint, known: Pair | None = None) -> Pair:
    """Both networks trained on clips [n, T, 512] (normalised) with labels [n] of the classes `names`; a function of its arguments alone.

    known: a trained pair whose text is kept, so that only frames are trained, of another kind of clips.
    """
    verbs, rng = verbs_of(names), generator("joint clips", config.seed)
    mine = [np.flatnonzero(labels == label) for label in range(len(names))]
    truth = torch.arange(len(names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of("joint weights", config.seed) % 2**63)
        pair = Pair(clips.shape[-1], config).train()
        if known is not None:
            pair.text, pair.scale = known.text, known.scale
        trained = [p for p in pair.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, config.lr, weight_decay=config.weight_decay)
        for _ in range(config.steps):
            logits = pair.logits(clips[[int(rng.choice(each)) for each in mine]], verbs)
            loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return pair.eval().requires_grad_(False)


def zero_shot(frames: Tensor, text: Tensor, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """What text alone gets right, in percent, of clips [n, T, D] of the classes `names` with text [C, D].

    "all" classes at once with its "chance"; "pairs": a class or its reversal, chance 50; "half" and "pairs half": of the 95 % intervals
    over clips.
    """
    score, truth = cosines(frames, text).numpy(), labels
    back = np.array([names.index(motion(name).reverse.name) for name in names])
    row = np.arange(len(truth))
    right = {"all": score.argmax(1) == truth, "pairs": score[row, truth] > score[row, back[truth]]}
    found = {"chance": 100 / len(names)}
    for name, half in (("all", "half"), ("pairs", "pairs half")):
        share = right[name].mean()
        found |= {name: 100 * share, half: 196 * float(np.sqrt(share * (1 - share) / len(truth)))}
    return {name: round(float(value), 2) for name, value in found.items()}


def store_features(split: Split, frames: dict[str, np.ndarray], about: str, name: str = "joint") -> Path:
    """The store of frame features [T, D] by clip id, made by the import of features of one's own."""
    rows = [Row(video.id, video.label, part.name) for part in split.parts.values() for video in part.videos]
    with tempfile.TemporaryDirectory() as folder:
        for clip, array in frames.items():
            np.save(Path(folder) / f"{clip}.npy", array)
        made = import_features(
            Path(folder), rows, lambda spec: store_path(places.stores(), split.name, spec),
            dataset=split.name, name=name, about=about,
        )  # fmt: skip
    return made.path


def store_text(split: Split, text: Text, config: Joint, about: str) -> Path:
    """The store of text features [D] of every class, one row per class as an extraction of text makes it."""
    rows = class_rows(split, ExtractConfig(kind="text"))
    made = {"name": "joint", "weights": "unknown", "about": about}
    spec = FeatureSpec("text", {}, {}, {"prompt": "{}"}, made, "text", (config.width,), "float32")
    with create(store_path(places.stores(), split.name, spec), spec, rows, dataset=split.name) as store:
        with store.writer() as writer:
            for block in store.missing():
                names = tuple(row.id for row in store.rows[slice(*store.block_range(block))])
                writer.write_block(block, text(verbs_of(names)).numpy(), [Outcome("ok")] * len(names), {})
        return store.path


Parts = dict[str, list[tuple[Part, Tensor]]]
"""Domain -> its partitions, each with features [n, T, 512]."""


def fetch(recipe: str, *, flow: bool = False) -> Parts:
    """All clips of every domain, normalised by source's training clips: the recipe's features, or the flow beside them."""
    found: Parts = {}
    with workshop(load_recipe(recipe), Places(places.stores())) as shop:
        for domain in DOMAINS:
            found[domain] = []
            for part in open_split(f"synth-{domain}").parts:
                source = shop.open(Domain(f"synth-{domain}", part), part).source
                rows = source.beside.flow if flow else source
                count = len(source.part.videos)
                clips = rows.fetch(np.arange(count), training=False, keys=np.zeros(count, np.uint64))
                found[domain].append((source.part, clips))
    clips = found["source"][0][1]
    normaliser = Normaliser("centre-source-std", clips.shape[-1])
    normaliser.fit([clips])
    return {domain: [(part, normaliser(clips)) for part, clips in parts] for domain, parts in found.items()}


def bring(there: Parts, pair: Pair, name: str, about: str) -> tuple[dict[str, dict[str, float]], dict[str, Path]]:
    """Zero-shot accuracies by partition, and the stores of the frames by domain."""
    right, stores = {}, {}
    for domain, parts in there.items():
        arrays: dict[str, np.ndarray] = {}
        for part, clips in parts:
            frames, text = pair.frames(clips), pair.text(verbs_of(part.classes))
            right[f"{domain}/{part.name}"] = zero_shot(frames, text, part.labels, part.classes)
            arrays |= dict(zip(part.ids, frames.numpy(), strict=True))
        stores[domain] = store_features(open_split(f"synth-{domain}"), arrays, about, name)
    return right, stores


def make(config: Joint, *, flow: bool = False) -> dict[str, Any]:
    """Train, measure, and write the stores of every domain; returns what the recipe settings that name them are, and zero-shot accuracies.

    flow: also bring the flow features of recipe tmal into the space, with the text as it is.
    """
    there = fetch("demo")
    part, clips = there["source"][0]
    pair = train(clips, part.labels, part.classes, config)
    weights = tensor_hash(pair.state_dict())[:8]
    about = f"frames and verbs of synth-source/train in one space, seed {config.seed}, weights {weights}"
    right, frames = bring(there, pair, "joint", about)
    text = [store_text(open_split(f"synth-{domain}"), pair.text, config, about) for domain in DOMAINS]
    found = {"settings": asdict(config), "about": about, "zero_shot": right}
    stores = {"store": frames["source"].name, "text_store": text[0].name}
    if flow:
        moves = fetch("tmal", flow=True)
        seen = train(moves["source"][0][1], part.labels, part.classes, config, known=pair)
        flowing, paths = bring(moves, seen, "joint-flow", f"flow; {about}, {tensor_hash(seen.state_dict())[:8]}")
        found["zero_shot"] |= {f"flow, {where}": row for where, row in flowing.items()}
        stores["flow_store"] = paths["source"].name
    return found | {"stores": stores}


def main() -> None:
    """Make and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--flow", action="store_true", help="also flow features; fsar-cache extract synth --recipe tmal made them"
    )
    given = parser.parse_args()
    found = make(Joint(seed=given.seed), flow=given.flow)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for where, row in found["zero_shot"].items():
        print(f"{where:20} {row['all']:5.1f} ± {row['half']:.1f} (chance {row['chance']:.1f})", end="   ")
        print(f"a class or its reversal {row['pairs']:5.1f} ± {row['pairs half']:.1f} (chance 50)")
    print(*(f"--set 'features.{name}=\"{store}\"'" for name, store in found["stores"].items()))


if __name__ == "__main__":
    main()
