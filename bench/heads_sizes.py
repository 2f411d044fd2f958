"""The published sizes of every head, for bench_heads.py: features, episodes of training, settings that are not the head's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One head at one size. shape: of a clip's features; shot, query, unlabelled: of training episodes, 5-way, as the card has them.

    text, flow: the head needs them too, as wide as the features. accelerator: only worth measuring there.
    """

    name: str
    head: str
    shape: tuple[int, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    shot: int = 5
    query: int = 5
    unlabelled: int = 0
    text: bool = False
    flow: bool = False
    accelerator: bool = False

    @property
    def width(self) -> int:
        """Channels: of maps [T, C, H, W] the second axis, else the last."""
        return self.shape[1] if len(self.shape) == 4 else self.shape[-1]


CASES: tuple[Case, ...] = (
    *(Case(f"protonet [8, {d}]", "protonet", (8, d)) for d in (512, 1024, 2048)),
    *(Case(f"otam [8, {d}]", "otam", (8, d)) for d in (512, 1024, 2048)),
    Case("gslta [8, 512]", "gslta", (8, 512), unlabelled=25),
    *(Case(f"trx [8, {d}]", "trx", (8, d)) for d in (512, 2048)),
    Case("ta2n [8, 512, 7, 7] 1-shot", "ta2n", (8, 512, 7, 7), shot=1),
    Case("ta2n [8, 512, 7, 7] 5-shot", "ta2n", (8, 512, 7, 7)),
    Case("ta2n [8, 2048, 7, 7] 1-shot", "ta2n", (8, 2048, 7, 7), shot=1, accelerator=True),
    *(Case(f"clip_fsar [8, {d}]", "clip_fsar", (8, d), shot=1, text=True) for d in (512, 1024)),
    *(Case(f"clip_mdmf [8, {d}]", "clip_mdmf", (8, d), text=True) for d in (512, 1024)),
    Case("tmal [8, 512]", "tmal", (8, 512), {"adapter": "none"}, shot=1, text=True, flow=True),
    Case("tamt [8, 49, 384]", "tamt", (8, 49, 384), query=12),
)
