"""Every head alone, on features of your own: no store, no recipe, no command line. What each one consumes, as tensors.

    python examples/every_head.py

A head first encodes clips, each for itself, then matches the encoded clips of episodes:

    from heads import Otam, OtamConfig, Task

    head = Otam(OtamConfig(otam_lambda=0.5)).eval()
    support = head.encode({"features": x}, "support")          # x [S, T, D] -> {"frames": [S, T, D]}
    query = head.encode({"features": y}, "query")              # y [Q, T, D]
    support, query = {"frames": support["frames"][None]}, {"frames": query["frames"][None]}      # E episodes; here E = 1
    logits = head.match(support, query, Task(way, labels[None])).logits[0]                       # [Q, way]

Labels are integers in 0..way-1, in any order, with any number of shots per class (the same for all where a head says so). Encode a clip
once and match it in as many episodes as you like.

A head says what it needs: `head.needs.kinds` are the kinds of features and the shape of one clip, `head.needs.at` where in a backbone they
leave: "pooled" [T, D], "map" [T, C, H, W] or "tokens" [T, N, C]. Heads that read class text get it in three places: each support clip's own
(`support["text"]`), that of the episode's classes (`Task.class_text`), and in training that of all training classes (`source_text`).
Training is a call on an `EpisodeBatch`; `.loss` is what `backward` is called on. Evaluation encodes clips once and then only matches them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from heads import (
    ClipFsar,
    ClipFsarConfig,
    ClipMdmf,
    ClipMdmfConfig,
    EpisodeBatch,
    EpisodeShape,
    Gslta,
    GsltaConfig,
    Head,
    Otam,
    OtamConfig,
    ProtoNet,
    ProtoNetConfig,
    Ta2n,
    Ta2nConfig,
    Tamt,
    TamtConfig,
    Task,
    Tmal,
    TmalConfig,
    Trx,
    TrxConfig,
)
from heads.episodes import encode_clips

WAY, SHOT, QUERIES, CLASSES, DIM = 3, 2, 2, 6, 64
HEADS: dict[str, Head] = {
    "protonet": ProtoNet(ProtoNetConfig(metric="euclidean")),
    "otam": Otam(OtamConfig()),
    "trx": Trx(TrxConfig(dim=DIM, trans_linear_out_dim=64, trans_dropout=0.0)),
    "gslta": Gslta(GsltaConfig(dim=DIM, class_num=CLASSES)),
    "ta2n": Ta2n(Ta2nConfig(dim=DIM, dropout=0.0)),
    "clip_fsar": ClipFsar(ClipFsarConfig(dim=DIM)),
    "clip_mdmf": ClipMdmf(ClipMdmfConfig(dim=DIM)),
    "tmal": Tmal(TmalConfig(dim=DIM, adapter="none")),
    "tamt": Tamt(TamtConfig(dim=DIM, adapter_blocks=())),
}
"""All heads, small; widths are those of your features."""
SHAPES = {"pooled": (8, DIM), "map": (8, DIM, 4, 4), "tokens": (8, 16, DIM)}


def clips(head: Head, classes: np.ndarray, seed: int, text: Tensor | None) -> dict[str, Tensor]:
    """Random clips of these classes, {kind: [*classes, ...]}: a pattern over time per class, plus noise. text: for supports."""
    noise, made = np.random.default_rng(seed), {}
    for kind in head.needs.kinds:
        if kind == "text":
            continue
        shape = SHAPES[head.needs.at] if kind == "features" else SHAPES["pooled"]
        patterns = np.random.default_rng(len(kind)).standard_normal((CLASSES, *shape))
        mixed = patterns[classes] + 0.5 * noise.standard_normal((*classes.shape, *shape))
        made[kind] = torch.from_numpy(np.maximum(mixed, 0)).float()
    if text is not None:
        made["text"] = text[torch.from_numpy(classes)]
    return made


def episode(head: Head, step: int) -> EpisodeBatch:
    """One episode of random classes, E = 1; its random choices come from the head, given a generator."""
    rng = np.random.default_rng(step)
    chosen = rng.choice(CLASSES, WAY, replace=False)
    labels, truth = np.repeat(np.arange(WAY), SHOT), np.repeat(np.arange(WAY), QUERIES)
    shape = EpisodeShape(WAY, SHOT, len(truth), 4, 8, truth)
    draws = {name: torch.from_numpy(draw)[None] for name, draw in head.draw(shape, rng).items()}
    text = None
    if "text" in head.needs.kinds:
        text = torch.from_numpy(np.random.default_rng(9).standard_normal((CLASSES, DIM))).float()
    return EpisodeBatch(
        Task(
            WAY, torch.from_numpy(labels)[None], draws, None if text is None else text[torch.from_numpy(chosen)][None]
        ),
        clips(head, chosen[labels][None], 100 + step, text),
        clips(head, chosen[truth][None], 200 + step, None),
        query_labels=torch.from_numpy(truth)[None],
        support_class=torch.from_numpy(chosen[labels])[None],
        query_class=torch.from_numpy(chosen[truth])[None],
        unlabelled=clips(head, rng.integers(0, CLASSES, (1, 4)), 300 + step, None),
        source_text=text,
    )


def train(head: Head, iterations: int) -> None:
    """Plain training: forward, the teacher's move where there is one, backward, step."""
    learnt = [p for p in head.parameters() if p.requires_grad]
    if not learnt:
        return
    optimizer = torch.optim.Adam(learnt, lr=3e-4)
    head.train()
    for step in range(1, iterations + 1):
        out = head(episode(head, step), step)
        head.after_forward(step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()


def accuracy(head: Head, episodes: int = 20) -> float:
    """Share of recognised queries: clips are encoded each for itself, then matched."""
    head.eval()
    right = []
    with torch.inference_mode():
        for index in range(episodes):
            batch = episode(head, 1000 + index)
            support, query = encode_clips(head, batch.support, "support"), encode_clips(head, batch.query, "query")
            shape = EpisodeShape(WAY, SHOT, WAY * QUERIES, 0, 8, batch.query_labels[0].numpy())
            draws = head.match_draw(shape, np.random.default_rng(index))
            task = replace(batch.task, draws={name: torch.from_numpy(draw)[None] for name, draw in draws.items()})
            logits = head.match(support, query, task).logits
            right.append((logits.argmax(-1) == batch.query_labels).float().mean().item())
    return float(np.mean(right))


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tensors this small are slower in several
    for name, head in HEADS.items():
        kinds = ", ".join(f"{kind} {list(shape)}" for kind, shape in head.needs.kinds.items())
        train(head, iterations=12)
        print(f"{name:<10} needs {kinds} at {head.needs.at}; accuracy {accuracy(head):.2f} (chance {1 / WAY:.2f})")
