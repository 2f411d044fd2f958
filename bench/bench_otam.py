"""Two heads against their plain forms, at 5-way 5-shot (OTAM at 1-shot too), 1 query per class: OTAM's recursion and TRX's tuples.

    python bench/bench_otam.py         # a line per figure
    python bench/bench_otam.py --json

OTAM: both directions for 32 episodes of 8 frames at once, against a double loop over the cells of the table, which does the pairs of one
episode at a time and takes the published exponentials. TRX ([8, 2048], pairs and triples, width 1152): encoding the clips of an episode,
against the same with every tuple laid out; matching 32 episodes by runs, against all at once. The values of both forms must agree. What
counts is the median over rounds of the ratio of times on one thread, as matching runs (many of them), and the most bytes of tensors alive
beside what was given.
"""

from __future__ import annotations

import argparse
import json
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import heads.trx
from heads.alignment import otam_both
from heads.base import Task
from heads.trx import Trx, TrxConfig, TupleEncoder

EPISODES, WAY, SHOT, FRAMES, DIM, SMOOTHING = 32, 5, 5, 8, 2048, 0.1
Work = Callable[[], Any]


def cells(table: Tensor) -> Tensor:
    """OTAM's distances in one direction, cell after cell, by the published exponentials: [pairs, Tq, Ts] -> [pairs]."""
    d = F.pad(table, (1, 1))
    rows, columns = d.shape[1:]
    c = torch.zeros_like(d)
    for m in range(1, columns):
        c[:, 0, m] = d[:, 0, m] + c[:, 0, m - 1]
    for row in range(1, rows):
        for m in range(1, columns):
            before = torch.exp(-c[:, row - 1, m - 1] / SMOOTHING) + torch.exp(-c[:, row, m - 1] / SMOOTHING)
            if m in (1, columns - 1):
                before = before + torch.exp(-c[:, row - 1, m] / SMOOTHING)
            c[:, row, m] = d[:, row, m] - SMOOTHING * torch.log(before)
    return c[:, -1, -1]


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and still alive; `most` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation; what it makes counts unless it shares the memory of an argument."""
        given = {a.untyped_storage()._cdata for a in torch.utils._pytree.tree_leaves(args) if isinstance(a, Tensor)}
        made = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given | self.known.keys():
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        self.known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.now -= self.known.pop(key)

        weakref.finalize(storage, gone)


def alive_mb(work: Work) -> float:
    """The most MiB of tensors alive while `work` runs, beside what it starts from."""
    with Alive() as alive:
        work()
    return alive.most / 2**20


def times(plain: Work, ours: Work, rounds: int) -> dict[str, float]:
    """Median seconds of both, taken in turn, and the median of the ratios plain / ours."""
    found: list[list[float]] = []
    for _ in range(rounds + 1):  # the first one warms up
        found.append([])
        for work in (plain, ours):
            start = time.perf_counter()
            work()
            found[-1].append(time.perf_counter() - start)
    each = np.array(found[1:])
    return {
        "plain": float(np.median(each[:, 0])),
        "ours": float(np.median(each[:, 1])),
        "ratio": float(np.median(each[:, 0] / each[:, 1])),
    }


def otam(rounds: int, shot: int) -> dict[str, float]:
    """Tables [episodes, queries, supports, T, T]."""
    table = torch.rand(EPISODES, WAY, WAY * shot, FRAMES, FRAMES, generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        each = [one.flatten(0, 1) for one in table]
        return torch.stack([(cells(d) + cells(d.transpose(1, 2))).view(WAY, WAY * shot) for d in each])

    def ours() -> Tensor:
        return otam_both(table, SMOOTHING)

    torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=1e-4)
    return times(plain, ours, rounds)


def laid_out(head: Trx, x: Tensor) -> list[Tensor]:
    """Keys and values of clips [B, T, D] from tuples of features [B, L, w*D]."""
    made = []
    for encoder in head.transformers:
        assert isinstance(encoder, TupleEncoder)
        tuples = (x + encoder.pe[:FRAMES])[:, encoder.tuples].flatten(2)
        made += [encoder.norm_k(encoder.k_linear(tuples)), F.linear(tuples, encoder.v_linear.weight)]
    return made


def trx(rounds: int) -> dict[str, dict[str, float]]:
    """Encoding, and matching."""
    torch.manual_seed(0)
    head = Trx(TrxConfig(dim=DIM, seq_len=FRAMES)).eval()
    x = torch.rand(WAY * (SHOT + 1), FRAMES, DIM)

    def encode() -> list[Tensor]:
        return list(head.encode({"features": x}, "support").values())

    for ours, plain in zip(encode(), laid_out(head, x), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    encoding = times(lambda: laid_out(head, x), encode, rounds)
    encoding |= {"plain_mb": alive_mb(lambda: laid_out(head, x)), "ours_mb": alive_mb(encode)}
    code = head.encode({"features": x}, "support")
    support, query = (
        {name: each[part].expand(EPISODES, *[-1] * 3).clone() for name, each in code.items()}
        for part in (slice(WAY * SHOT), slice(WAY * SHOT, None))
    )
    task = Task(WAY, torch.arange(WAY).repeat_interleave(SHOT).expand(EPISODES, -1))

    def match() -> Tensor:
        return head.match(support, query, task).logits

    def at_once() -> Tensor:
        kept, heads.trx.CHUNK_BYTES = heads.trx.CHUNK_BYTES, 2**40
        try:
            return match()
        finally:
            heads.trx.CHUNK_BYTES = kept

    torch.testing.assert_close(match(), at_once(), rtol=1e-4, atol=1e-4)
    matching = times(at_once, match, max(1, rounds // 3))
    return {"encoding": encoding, "matching": matching | {"plain_mb": alive_mb(at_once), "ours_mb": alive_mb(match)}}


def table(found: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    """What was measured beside its reach."""
    encoding, matching = found["encoding"], found["matching"]
    bound = heads.trx.CHUNK_BYTES / 2**20
    rows = (
        (f"OTAM, double loop / ours, {EPISODES} 1-shot episodes", found["otam, 1-shot"]["ratio"], "x", 50.0, "higher"),
        (f"OTAM, double loop / ours, {EPISODES} 5-shot episodes", found["otam, 5-shot"]["ratio"], "x", 50.0, "higher"),
        ("TRX encoding, tuples laid out / ours", encoding["ratio"], "x", 3.0, "higher"),
        (
            "TRX encoding, memory, tuples laid out / ours",
            encoding["plain_mb"] / encoding["ours_mb"],
            "x",
            1.5,
            "higher",
        ),
        (f"TRX matching, {EPISODES} episodes, memory", matching["ours_mb"], "MiB", bound, "lower"),
        ("TRX matching, by runs / all at once", 1 / matching["ratio"], "x", 1.1, "lower"),
    )
    return [dict(zip(("what", "value", "unit", "reach", "better"), row, strict=True)) for row in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--rounds", type=int, default=9, help="how often each form is timed (default 9)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {f"otam, {shot}-shot": otam(given.rounds, shot) for shot in (1, SHOT)} | trx(given.rounds)
    rows = table(found)
    if given.json:
        print(json.dumps({"rows": rows, "detail": found}))
        return
    for name, each in found.items():
        print(f"{name}:", "  ".join(f"{key} {value:.4g}" for key, value in each.items()))
    for row in rows:
        print(
            f"{row['what']:50} {row['value']:.3g} {row['unit']} (reach {row['reach']:.3g}, {row['better']} is better)"
        )


if __name__ == "__main__":
    main()
