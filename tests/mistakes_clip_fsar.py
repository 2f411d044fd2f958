"""Mistakes that the golden cases of CLIP-FSAR notice: in the code, and in a setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import heads.clip_fsar
from heads.clip_fsar import ClipFsar
from heads.distances import similarity
from heads.episodes import class_means, query_losses
from heads.transformer import Block, Encoder


def text_in_front(encoder: Encoder, frames: Tensor, text: Tensor) -> Tensor:
    return encoder(torch.cat([text.unsqueeze(-2), frames], -2))[..., : frames.shape[-2], :]


def no_text(encoder: Encoder, frames: Tensor, text: Tensor) -> Tensor:
    return encoder(frames)


def as_if_a_query_had_text(self: ClipFsar, clips: Any, role: Any) -> dict[str, Tensor]:
    frames = clips["features"]
    text = clips["text"] if role == "support" else frames.mean(1)
    return {"frames": heads.clip_fsar.refine_with_text(self.context, frames, text)}


def without_epsilon(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    return similarity(a, b, 0.0)


def sums(logits: Tensor, labels: Tensor) -> Tensor:
    return query_losses(logits, labels) * labels.shape[1]


def without_scale(means: Tensor, text: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    return similarity(means, text, epsilon) + 0 * scale


def unit_text(means: Tensor, text: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    return similarity(F.normalize(means, dim=-1), F.normalize(text, dim=-1), epsilon) * scale


def summed(support: Tensor, average: Tensor) -> Tensor:
    return class_means(support, (average > 0).float())


def detached_means(support: Tensor, average: Tensor) -> Tensor:
    return class_means(support, average).detach()


def attended(self: Block, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    made = self.to_q(q), self.to_k(k), self.to_v(v)
    parts = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in made)
    return self.to_out(F.scaled_dot_product_attention(*parts, scale=scale).transpose(1, 2).flatten(2))


def fed(self: Block, y: Tensor, approximate: str = "none") -> Tensor:
    return y + self.narrow(F.gelu(self.widen(y), approximate=approximate))


def own_norms(self: Block, x: Tensor, keys: Any = None, values: Any = None) -> Tensor:
    plain = F.layer_norm(x, x.shape[-1:])
    return fed(self, x + attended(self, self.norm(x), plain, plain))


def residual_on_the_normed(self: Block, x: Tensor, keys: Any = None, values: Any = None) -> Tensor:
    n = self.norm(x)
    return fed(self, n + attended(self, n, n, n))


def scaled_by_the_whole_width(self: Block, x: Tensor, keys: Any = None, values: Any = None) -> Tensor:
    n = self.norm(x)
    return fed(self, x + attended(self, n, n, n, scale=x.shape[-1] ** -0.5))


def norm_before_the_feed_forward_part(self: Block, x: Tensor, keys: Any = None, values: Any = None) -> Tensor:
    n = self.norm(x)
    y = x + attended(self, n, n, n)
    return y + self.narrow(F.gelu(self.widen(self.norm(y))))


def tanh_gelu(self: Block, x: Tensor, keys: Any = None, values: Any = None) -> Tensor:
    n = self.norm(x)
    return fed(self, x + attended(self, n, n, n), "tanh")


ONE, FIVE, COMBINED, TRAIN = (
    f"clip_fsar/{name}"
    for name in (
        "eval_5way_1shot_d512",
        "eval_5way_5shot_d512",
        "eval_5way_1shot_d512_combine",
        "train_5way_1shot_d1024",
    )
)
MISTAKES: dict[str, tuple[str, Any, str, Any]] = {
    "text before the frames": (ONE, heads.clip_fsar, "refine_with_text", text_in_front),
    "no text": (FIVE, heads.clip_fsar, "refine_with_text", no_text),
    "a text token for queries": (ONE, ClipFsar, "encode", as_if_a_query_had_text),
    "nothing added to the norms": (ONE, heads.clip_fsar, "similarity", without_epsilon),
    "distances not divided by 8": (COMBINED, heads.clip_fsar, "VISUAL_SCALE", 1.0),
    "norms of their own for keys and values": (ONE, Block, "forward", own_norms),
    "residual on the normed queries": (ONE, Block, "forward", residual_on_the_normed),
    "attention scaled by the whole width": (ONE, Block, "forward", scaled_by_the_whole_width),
    "a norm before the feed-forward part": (ONE, Block, "forward", norm_before_the_feed_forward_part),
    "another GELU": (ONE, Block, "forward", tanh_gelu),
    "sums of clips as prototypes": (FIVE, heads.clip_fsar, "class_means", summed),
    "losses summed over clips": (TRAIN, heads.clip_fsar, "query_losses", sums),
    "class text without the learned scale": (TRAIN, heads.clip_fsar, "class_text_logits", without_scale),
    "features of unit length in the class text": (TRAIN, heads.clip_fsar, "class_text_logits", unit_text),
    "prototypes without gradient": (TRAIN, heads.clip_fsar, "class_means", detached_means),
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (ONE, {"otam_lambda": 0.1}),
    (ONE, {"cosine_epsilon": 0.02}),
    (ONE, {"single_direct": True}),
    (ONE, {"eval_text": True}),
    (ONE, {"combine": True}),
    (FIVE, {"merge_before": False}),
    (COMBINED, {"text_coff": None}),
    (COMBINED, {"text_coff": 0}),
    (COMBINED, {"combine": False}),
    (COMBINED, {"eval_text": True}),
    (TRAIN, {"use_classification": False}),
    (TRAIN, {"use_classification_value": 3.0}),
    (TRAIN, {"batch_size": 1}),
    (TRAIN, {"single_direct": True}),
]
