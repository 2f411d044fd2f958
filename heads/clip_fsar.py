"""CLIP-FSAR: prototypes modulated by the text of their class, aligned frame by frame; trained with a video-text loss beside.

X. Wang and others, "CLIP-guided Prototype Modulating for Few-shot Action Recognition", IJCV 132(6), 2024, arXiv 2303.02982. Consumes
features [T, D] per clip (any T; D = 512 for CLIP's ViT-B/16, 1024 for its RN50; not normalised) and text [D] per class. A small
transformer refines a query's frames by themselves, and a support clip's together with its class's text; a query is scored by its OTAM
distance (both directions, smoothing 0.5) to the frame-wise mean of a class.

With `merge_before` (the published 5-shot way) clips are averaged before the transformer, so that support codes are the frames as they
are and `match` pays W passes of the transformer per episode. Differs from the published code in nothing but in what belongs to
the process: shots in training and in evaluation, learning-rate position, weight decay and frame sampling are the recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown
from heads.alignment import otam_both, soft_path
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.distances import cosine, frame_distances, similarity
from heads.episodes import (
    averaging,
    class_means,
    class_text,
    encode_clips,
    finite,
    query_losses,
    require_labels,
    require_pair,
)
from heads.published import Layout
from heads.transformer import Encoder, published_names

EVAL_MODES = ("visual", "combine", "text")
VISUAL_SCALE = 8.0
"""The visual probabilities of a combined score are softmax((8 - distance) / 8): 8 frames as published, whatever T is."""


@dataclass(frozen=True)
class ClipFsarConfig:
    """Sizes, losses and switches, as published.

    merge_before: average a class's clips before the transformer. single_direct: align query frames along rows only. eval_mode: score by
    alignment ("visual"), by text ("text") or by text^a visual^(1-a) with a = text_exponent ("combine"). use_classification: the
    video-text loss, of weight class_text_weight (published: 1.2 HMDB, 1.5 Kinetics and UCF, 3.0 SSv2); its logits are multiplied by a
    learned scale that starts at class_text_scale_init. tasks_per_batch divides both losses.
    """

    dim: int = 512
    heads: int = 8
    mlp_dim: int = 2048
    transformer_depth: int = 1
    merge_before: bool = False
    single_direct: bool = False
    otam_lambda: float = 0.5
    cosine_epsilon: float = 0.01
    eval_mode: str = "visual"
    text_exponent: float = 0.9
    use_classification: bool = True
    class_text_weight: float = 1.5
    class_text_scale_init: float = 1.0
    out_dropout: float = 0.2
    ff_dropout: float = 0.05
    tasks_per_batch: int = 4

    def __post_init__(self) -> None:
        if self.eval_mode not in EVAL_MODES:
            raise unknown("clip_fsar eval_mode", self.eval_mode, EVAL_MODES)
        check_refiner("clip_fsar", self)
        if not 0 < self.text_exponent <= 1:
            raise UsageError(
                f"clip_fsar text_exponent must lie in (0, 1], got {self.text_exponent}",
                hint="the published code's TEXT_COFF 0 means 0.9; for no text at all set eval_mode = 'visual'",
            )
        if self.class_text_weight < 0:
            raise UsageError(f"clip_fsar class_text_weight must not be negative, got {self.class_text_weight}")


def check_refiner(name: str, config: Any) -> None:
    """UsageError unless the sizes, dropouts and the smoothing of this head's config make sense."""
    for size in ("dim", "heads", "mlp_dim", "transformer_depth", "tasks_per_batch"):
        if getattr(config, size) < 1:
            raise UsageError(f"{name} {size} must be at least 1, got {getattr(config, size)}")
    if config.dim % config.heads:
        raise UsageError(f"{name} heads must divide dim, got {config.heads} heads for {config.dim} channels")
    if config.otam_lambda <= 0 or config.cosine_epsilon < 0:
        raise UsageError(
            f"{name} needs otam_lambda > 0 and cosine_epsilon >= 0, got {config.otam_lambda}, {config.cosine_epsilon}"
        )
    for dropout in (config.out_dropout, config.ff_dropout):
        if not 0 <= dropout < 1:
            raise UsageError(f"{name} dropouts must lie in [0, 1), got {dropout}")


def refiner(config: Any) -> Encoder:
    """The transformer of a config with the fields dim, heads, mlp_dim, transformer_depth, out_dropout and ff_dropout."""
    return Encoder(
        depth=config.transformer_depth,
        dim=config.dim,
        heads=config.heads,
        dim_head=config.dim // config.heads,
        mlp_dim=config.mlp_dim,
        out_dropout=config.out_dropout,
        ff_dropout=config.ff_dropout,
    )


def refine_with_text(encoder: Encoder, frames: Tensor, text: Tensor) -> Tensor:
    """Frames [..., T, D] refined together with a text token [..., D] behind them, which is then dropped: [..., T, D].

    No gradient goes to the text.
    """
    tokens = torch.cat([frames, text.detach().unsqueeze(-2)], -2)
    refined: Tensor = encoder(tokens)
    return refined[..., : frames.shape[-2], :]


def class_text_logits(means: Tensor, text: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """Cosine (epsilon added) times scale of clips' mean frames [E, N, D] and the text of C classes [C, D]: [E, N, C]."""
    return similarity(means, text.detach(), epsilon) * scale


def class_text_losses(logits: Tensor, batch: EpisodeBatch) -> Tensor:
    """Cross-entropy [E, S+Q] of class-text logits [E, S+Q, C], supports first, under the clips' training classes."""
    return query_losses(logits, torch.cat([batch.support_class, batch.query_class], 1))


def source_text(head: Head, batch: EpisodeBatch, width: int) -> Tensor:
    """The text of all C training classes, float32 [C, width]; UsageError where it is absent, misshapen, not finite or lacks a class."""
    text = batch.source_text
    name, got = type(head).__name__, None if text is None else list(text.shape)
    if text is None or text.ndim != 2 or text.shape[1] != width:
        without = "; or set use_classification = false" if hasattr(head.config, "use_classification") else ""
        raise UsageError(
            f"{name} trains with a text feature of every training class, [classes, {width}], got {got or 'none'}",
            hint=f"text features of class names: fsar-cache extract DATASET --kind text{without}",
        )
    if not bool(torch.isfinite(text).all()):
        raise UsageError(f"{name} got text of training classes with NaN or infinite values")
    for labels, clips, what in (
        (batch.support_class, batch.support, "support"),
        (batch.query_class, batch.query, "query"),
    ):
        shape = tuple(clips["features"].shape[:2])
        require_labels(labels, shape, len(text), f"source classes of {what} clips")
    return text


def text_probabilities(mean: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """How probable each class is by its text: [E, Q, W] from means of query frames [E, Q, D] and class text [E, W, D].

    The softmax over classes of scale * plain cosine, nothing added to the norms.
    """
    return F.softmax(cosine(mean, text.detach(), floor=1e-8) * scale, -1)


@HEADS.add("clip_fsar")
class ClipFsar(Head):
    """Text-modulated class prototypes over frame features, compared by soft alignment."""

    Config = ClipFsarConfig
    bn_passes = "separate"
    config: ClipFsarConfig

    def __init__(self, config: ClipFsarConfig) -> None:
        super().__init__(config)
        self.context = refiner(config)
        self.scale = nn.Parameter(torch.full((1,), config.class_text_scale_init))

    @property
    def needs(self) -> Needs:
        """Pooled features [T, dim], any T; a support clip's class text [dim]."""
        return Needs({"features": (None, self.config.dim), "text": (self.config.dim,)})

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """{"frames": [B, T, D]}, refined: a query's by themselves, a support's with its text (left as they are by `merge_before`).

        Queries get "mean" [B, D] of their raw frames too where `eval_mode` reads it.
        """
        self.check(clips, role)
        frames = clips["features"]
        if role == "support":
            if self.config.merge_before:
                return {"frames": frames}
            return {"frames": refine_with_text(self.context, frames, clips["text"])}
        made = {"frames": self.context(frames)}
        return made if self.config.eval_mode == "visual" else made | {"mean": frames.mean(1)}

    def prototypes(self, support: Clips, task: Task) -> Tensor:
        """Class prototypes [E, W, T, D] from support codes; with `merge_before` this is where the transformer sees the text."""
        average = averaging(task, support["frames"])
        text = class_text(self, task, self.config.dim)
        means = class_means(support["frames"], average)
        return refine_with_text(self.context, means, text) if self.config.merge_before else means

    def costs(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """Frame distances 1 - cosine: [E, Q, Tq, D], [E, W, Ts, D] -> [E, Q, W, Tq, Ts]."""
        return frame_distances(query, prototypes, lambda a, b: 1 - similarity(a, b, self.config.cosine_epsilon))

    def align(self, table: Tensor) -> Tensor:
        """Alignment distances: [..., Tq, Ts] -> [...]."""
        return otam_both(table, self.config.otam_lambda, single=self.config.single_direct)

    def distances(self, support: Clips, query: Clips, task: Task) -> Tensor:
        """Alignment distances [E, Q, W] of encoded clips."""
        require_pair(self, support["frames"], query["frames"], same_frames=False)
        return finite(self, self.align(self.costs(query["frames"], self.prototypes(support, task))))

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] from {"frames": [E, S, T, D]} and {"frames": [E, Q, T, D]} (and "mean" [E, Q, D]), by `eval_mode`.

        Minus the distances; or products of probabilities, text^a visual^(1-a); or the text's probabilities.
        """
        mode, a = self.config.eval_mode, self.config.text_exponent
        distances = self.distances(support, query, task)
        if mode == "visual":
            return HeadOutput(-distances)
        textual = text_probabilities(query["mean"], class_text(self, task, self.config.dim), self.scale)
        if mode == "text":
            return HeadOutput(finite(self, textual))
        visual = F.softmax((VISUAL_SCALE - distances) / VISUAL_SCALE, -1)
        return HeadOutput(finite(self, textual**a * visual ** (1 - a)))

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Losses "match" and "class_text", means over clips / tasks_per_batch, summed over the episodes; shows class_logits.

        Logits are minus the distances, whatever `eval_mode` says.
        """
        del step
        c = self.config
        support, query = (
            encode_clips(self, batch.support, "support"),
            encode_clips(self, batch.query, "query"),
        )
        logits = -self.distances(support, query, batch.task)
        losses = {"match": (query_losses(logits, batch.query_labels).mean(1).sum() / c.tasks_per_batch, 1.0)}
        if not c.use_classification:
            return HeadOutput(logits, losses)
        text = source_text(self, batch, c.dim)
        means = torch.cat([clips["features"].mean(2) for clips in (batch.support, batch.query)], 1)
        class_logits = class_text_logits(means, text, self.scale, c.cosine_epsilon)
        class_loss = class_text_losses(class_logits, batch).mean(1).sum() / c.tasks_per_batch
        return HeadOutput(
            logits, losses | {"class_text": (class_loss, c.class_text_weight)}, {"class_logits": class_logits}
        )

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """Each query against each class prototype, one episode: cost and path [Q, W, Tq, Ts]."""
        cost = self.costs(query["frames"], self.prototypes(support, task))[0]
        return {"cost": cost, "path": soft_path(cost, self.align)}

    def published_layout(self) -> Layout:
        """The published checkpoint's keys."""
        names = {"scale": "head.scale"} | published_names(self.context, "context", "head.context2")
        return Layout(names, ("head.backbone.",), (), wrapper="model_state", counter="epoch")
