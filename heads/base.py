"""What a head is: encode one clip, match clips of an episode, and (in training) losses over whole episodes.

Letters, everywhere in this package: B clips, E episodes, W way, K shots, S = W*K support clips, Q query clips of an episode,
U unlabelled clips, T frames, D channels. Features are float32 unless said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fsar_cache.errors import UsageError
from fsar_cache.registry import Registry

Clips = Mapping[str, Tensor]
"""One tensor per kind, same leading axes: [B, ...] for `encode`, [E, S or Q, ...] in episodes.

Kinds: "features" (of frames), "flow" (of the pictures of optical flow), "text" (a clip's own class text [D], of supports only: nobody knows
a query's).
"""
Role = Literal["support", "query", "unlabelled"]


@dataclass(frozen=True)
class Needs:
    """What a head consumes: kinds of features, and the shape of one clip (None = any), e.g. {"features": (8, 512)}.

    at: where in the backbone its features leave: "pooled" [T, D], "map" [T, C, H, W] (the last map of every frame) or "tokens" [T, N, C]
    (what leaves the last block of a transformer).
    """

    kinds: Mapping[str, tuple[int | None, ...]]
    at: Literal["pooled", "map", "tokens"] = "pooled"


@dataclass(frozen=True)
class EpisodeShape:
    """The sizes of one training episode, for `Head.draw`; query_labels [Q] are the episode's labels."""

    way: int
    shot: int
    queries: int
    unlabelled: int
    frames: int
    query_labels: np.ndarray


@dataclass(frozen=True)
class Task:
    """What `match` knows of the episodes beside features: way, support_labels int64 [E, S] in 0..way-1, draws {name: [E, ...]}.

    class_text: float32 [E, W, D], the text feature of each class of the episodes, for heads that need the kind "text".
    """

    way: int
    support_labels: Tensor
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    class_text: Tensor | None = None

    def to(self, device: torch.device) -> Task:
        """The same on another device."""
        text = None if self.class_text is None else self.class_text.to(device)
        draws = {name: draw.to(device) for name, draw in self.draws.items()}
        return Task(self.way, self.support_labels.to(device), draws, text)


@dataclass(frozen=True)
class EpisodeBatch:
    """E training episodes with features gathered.

    support, query: {kind: [E, S, ...]}, {kind: [E, Q, ...]}; unlabelled: {kind: [E, U, ...]} or None; query_labels int64 [E, Q] in
    0..way-1; support_class, query_class int64 [E, S], [E, Q]: the source classes (0..number of training classes - 1); source_text: float32
    [C, D], the text feature of every training class, for heads that need the kind "text".
    """

    task: Task
    support: Clips
    query: Clips
    query_labels: Tensor
    support_class: Tensor
    query_class: Tensor
    unlabelled: Clips | None = None
    source_text: Tensor | None = None

    def episodes(self) -> list[EpisodeBatch]:
        """The batch as E batches of one episode each."""
        return [self._one(slice(e, e + 1)) for e in range(len(self.query_labels))]

    def _one(self, at: slice) -> EpisodeBatch:
        def cut(clips: Clips) -> Clips:
            return {kind: clip[at] for kind, clip in clips.items()}

        text = None if self.task.class_text is None else self.task.class_text[at]
        return EpisodeBatch(
            Task(self.task.way, self.task.support_labels[at], cut(self.task.draws), text),
            cut(self.support),
            cut(self.query),
            self.query_labels[at],
            self.support_class[at],
            self.query_class[at],
            None if self.unlabelled is None else cut(self.unlabelled),
            self.source_text,
        )


@dataclass(frozen=True)
class HeadOutput:
    """logits float32 [E, Q, W]; losses {name: (scalar, weight)}; shows: extras for reports and tests (alignment tables, mixed features)."""

    logits: Tensor
    losses: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    shows: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def loss(self) -> Tensor:
        """The weighted sum of the losses: what `backward` is called on. Heads divide by tasks per batch where their card says so."""
        return torch.stack([value * weight for value, weight in self.losses.values()]).sum()


class Head(nn.Module):
    """Base of all heads; a subclass sets `Config` (a frozen dataclass) and implements `encode` and `match`."""

    Config: ClassVar[type[Any]]
    bn_passes: ClassVar[Literal["joint", "separate"]] = "joint"
    """How a backbone in training mode sees an episode: all clips at once, or support, query and unlabelled one after the other."""
    role_matters: ClassVar[bool] = True
    """Whether `encode` uses the role; False lets evaluation encode each clip once for both roles."""
    any_shot: ClassVar[bool] = True
    """Whether what was trained at some number of shots can be evaluated at any other."""
    without_adapters: ClassVar[str | None] = None
    """The setting with which the head puts nothing into the backbone ("head_config.adapter=none"); None for a head that has no adapters."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def needs(self) -> Needs:
        """Kinds and clip shapes this head consumes."""
        raise NotImplementedError

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """Encode clips [B, ...] independently of any episode; returns {name: [B, ...]}."""
        raise NotImplementedError

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Compare encoded clips: support {name: [E, S, ...]}, query {name: [E, Q, ...]}; logits [E, Q, W], no losses."""
        raise NotImplementedError

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Train on whole episodes: logits and named losses. `step` counts training iterations from 1."""
        raise NotImplementedError

    def draw(self, shape: EpisodeShape, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Every random choice of one training episode, except dropout; {} where there is none."""
        del shape, rng
        return {}

    def match_draw(self, shape: EpisodeShape, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Every random choice of `match` in one evaluation episode, into `Task.draws`; {} where there is none."""
        del shape, rng
        return {}

    def adapters(self, slots: Sequence[str]) -> dict[str, nn.Module]:
        """Fresh modules to be trained inside the backbone, by slot ("block10.beside_mlp"); slots: those it has. {} for none.

        They go into the part of the backbone after the cut, and everything else of that part is frozen; they are no part of this module.
        """
        del slots
        return {}

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take what the file of a pre-trained backbone holds for the head, under the file's names; nothing unless a head says otherwise."""
        del weights

    def after_forward(self, step: int) -> None:
        """Called after the forward pass of every training iteration, before backward (momentum teachers)."""

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """What the report draws for one episode (E = 1) of encoded clips, e.g. "cost" [Q, W, Tq, Ts] and "path"; {} if nothing."""
        del support, query, task
        return {}

    def check(self, clips: Clips, role: Role) -> None:
        """Raise UsageError naming head, expected and got, for a missing kind, a wrong clip shape or NaN features (clips [..., *clip]).

        Text is asked of supports only.
        """
        for kind, shape in self.needs.kinds.items():
            name = type(self).__name__
            if kind == "text" and role != "support":
                continue
            if kind not in clips:
                raise UsageError(f"{name} needs {role} features of kind {kind!r}, got {sorted(clips)}")
            got = tuple(clips[kind].shape)[-len(shape) :]
            if len(got) < len(shape) or any(want not in (None, have) for want, have in zip(shape, got, strict=True)):
                want = "x".join("any" if n is None else str(n) for n in shape)
                raise UsageError(
                    f"{name} needs {kind} of {want} per clip, got {'x'.join(map(str, got))}",
                    hint=f"take other features, or set the head's sizes as these have them{self._example(kind, got)}",
                )
            if not torch.isfinite(clips[kind]).all():
                raise UsageError(
                    f"{name} got {role} {kind} with NaN or infinite values",
                    hint="check the store: fsar-cache store verify",
                )

    def _example(self, kind: str, got: tuple[int, ...]) -> str:
        """The setting that makes the head as wide as features of shape `got` per clip, where there is one and it isn't so yet."""
        shape = self.needs.kinds[kind]
        axis = -3 if self.needs.at == "map" else -1
        if kind != "features" or not hasattr(self.config, "dim") or len(got) < len(shape) or shape[axis] == got[axis]:
            return ""
        return f", e.g. --set head_config.dim={got[axis]}"


HEADS: Registry[type[Head]] = Registry(
    "head",
    (
        "heads.ta2n",
        "heads.protonet",
        "heads.otam",
        "heads.gslta",
        "heads.clip_fsar",
        "heads.clip_mdmf",
        "heads.tamt",
        "heads.tmal",
        "heads.trx",
    ),
)
