"""Use one head alone, on features of your own: no store, no recipe, no command line.

    python examples/one_head.py

A head first encodes clips, each for itself, then matches the encoded clips of episodes:

    from heads import Otam, OtamConfig, Task

    head = Otam(OtamConfig(otam_lambda=0.5)).eval()
    support = head.encode({"features": x}, "support")          # x [S, T, D] -> {"frames": [S, T, D]}
    query = head.encode({"features": y}, "query")              # y [Q, T, D]
    support, query = {"frames": support["frames"][None]}, {"frames": query["frames"][None]}      # E episodes; here E = 1
    logits = head.match(support, query, Task(way, labels[None])).logits[0]                       # [Q, way]

Labels are integers in 0..way-1, in any order, with any number of shots per class. Encode a clip once and match it in as many episodes
as you like. To train, call the head itself on an `EpisodeBatch`: it gives logits and losses, `.loss` is what `backward` is called on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from heads import EpisodeBatch, EpisodeShape, Gslta, GsltaConfig, Head, Otam, ProtoNet, Task

WAY, SHOT, QUERIES, FRAMES, DIM, CLASSES = 5, 5, 3, 8, 512, 12


def clips(classes: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Random features [..., T, D] of clips of these classes: a motion per class, plus noise."""
    motion = np.random.default_rng(7).standard_normal((CLASSES, FRAMES, DIM))
    noise = np.random.default_rng(seed).standard_normal((*classes.shape, FRAMES, DIM))
    return {"features": torch.from_numpy(np.maximum(motion[classes] + 1.5 * noise, 0)).float()}


def evaluate(head: Head) -> float:
    """Accuracy on one episode of 5 classes, encoded clip by clip, then matched."""
    labels, truth = np.repeat(np.arange(WAY), SHOT), np.repeat(np.arange(WAY), QUERIES)
    with torch.inference_mode():
        support = head.eval().encode(clips(labels, seed=1), "support")
        query = head.encode(clips(truth, seed=2), "query")
        task = Task(WAY, torch.from_numpy(labels)[None])
        out = head.match({k: v[None] for k, v in support.items()}, {k: v[None] for k, v in query.items()}, task)
    return float((out.logits[0].argmax(-1) == torch.from_numpy(truth)).float().mean())


def episode(head: Head, step: int) -> EpisodeBatch:
    """One training episode of random classes; its random choices come from `head.draw`, given a generator."""
    rng = np.random.default_rng(step)
    chosen = rng.choice(CLASSES, WAY, replace=False)
    labels, truth = (
        rng.permutation(np.repeat(np.arange(WAY), SHOT)),
        rng.permutation(np.repeat(np.arange(WAY), QUERIES)),
    )
    draws = head.draw(EpisodeShape(WAY, SHOT, QUERIES, 10, FRAMES, truth), rng)

    def one(x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)[None]

    return EpisodeBatch(
        Task(WAY, one(labels), {name: one(draw) for name, draw in draws.items()}),
        clips(chosen[labels][None], seed=100 + step),
        clips(chosen[truth][None], seed=200 + step),
        query_labels=one(truth),
        support_class=one(chosen[labels]),
        query_class=one(chosen[truth]),
        unlabelled=clips(rng.integers(0, CLASSES, (1, 10)), seed=300 + step),
    )


def train(head: Head, iterations: int) -> None:
    """Plain training: forward, the teacher's move, backward, step."""
    optimizer = torch.optim.Adam([p for p in head.parameters() if p.requires_grad], lr=3e-4)
    head.train()
    for step in range(1, iterations + 1):
        out = head(episode(head, step), step)
        head.after_forward(step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        print(f"iteration {step} loss {out.loss.item():.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    gslta = Gslta(GsltaConfig(class_num=CLASSES))
    train(gslta, iterations=16)
    for head in (ProtoNet(ProtoNet.Config()), Otam(Otam.Config()), gslta):
        print(f"{type(head).__name__} accuracy {evaluate(head):.2f}")
