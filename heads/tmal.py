"""TMAL: a CLIP tower with temporal adapters, its frames fused with class text and optical flow, then CLIP-FSAR's matching.

"Boosting Few-Shot Action Recognition via Time-enhanced Multimodal Adaptation Learning" (2024, under review when last seen). Its authors
published no code, weights or equations: the parts are ST-Adapter (heads.st_adapter) and CLIP-FSAR (heads.clip_fsar) as published; how they
are joined is this project's design, and docs/methods/tmal.md says of every statement which it is.

Consumes features [T, D] per clip (CLIP ViT-B/16: D = 512, not normalised), features of its flow pictures [T, D]
(`extract.flow_features`), and text [D] per class. Per clip (`encode`): all of a support clip but what follows the averaging; a query's
fusion with flow where that comes before the text. Per episode (`match`): a query's text is a mixture over the episode's classes, so its
fusion with text and what follows are paid for every query of every episode; and with `merge_before` the transformer of the W class
means. `query_text = "none"` leaves nothing of a query to `match`. Not built: fusion of patch tokens, flow through adapted towers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError
from heads import st_adapter
from heads.alignment import otam_both, soft_path
from heads.base import HEADS, Clips, EpisodeBatch, Head, HeadOutput, Needs, Role, Task
from heads.clip_fsar import (
    VISUAL_SCALE,
    class_text_logits,
    class_text_losses,
    refine_with_text,
    refiner,
    source_text,
    text_probabilities,
)
from heads.distances import frame_distances, similarity
from heads.episodes import averaging, class_means, class_text, encode_clips, finite, query_losses, require_pair
from heads.fusion import Fusion
from heads.published import Layout
from heads.tmal_config import BLOCKS, TmalConfig
from heads.transformer import published_names


@HEADS.add("tmal")
class Tmal(Head):
    """Frames fused with text and flow, then CLIP-FSAR's transformer and alignment."""

    Config = TmalConfig
    without_adapters = "head_config.adapter=none"
    bn_passes = "separate"
    config: TmalConfig

    def __init__(self, config: TmalConfig) -> None:
        super().__init__(config)
        self.context = refiner(config)
        self.scale = nn.Parameter(torch.full((1,), config.class_text_scale_init))
        self.fusion = nn.ModuleDict({step: self._fusion(step) for step in config.steps})

    def _fusion(self, step: str) -> Fusion:
        c = self.config
        return Fusion(
            c.dim,
            c.heads,
            c.mlp_dim,
            keys=c.text_kv if step == "text" else c.flow_kv,
            init=c.fusion_init,
            out_dropout=c.out_dropout,
            ff_dropout=c.ff_dropout,
            positions=step == "flow" and c.flow_pos == "sinusoid",
        )

    @property
    def needs(self) -> Needs:
        """Pooled features [seq_len, dim], a support clip's class text [dim], and features of flow [seq_len, dim] if any part reads them."""
        c = self.config
        flow = {"flow": (c.seq_len, c.dim)} if c.reads_flow else {}
        return Needs({"features": (c.seq_len, c.dim), "text": (c.dim,), **flow})

    def adapters(self, slots: Sequence[str]) -> dict[str, nn.Module]:
        """ST-Adapters for the tower's blocks, by slot; {} with adapter = "none". UsageError where the backbone has no such slots."""
        c = self.config
        if c.adapter == "none":
            return {}
        if not any(slot.endswith(".pre_mlp") for slot in slots):
            raise UsageError(
                f"tmal puts {c.adapter} adapters into a CLIP ViT, and this backbone has no place for them",
                hint="train without: --set head_config.adapter=none",
            )
        act: st_adapter.Act = c.adapter_act  # type: ignore[assignment]
        return st_adapter.adapters(c.adapter, slots, layers=c.adapter_layers, act=act)

    def fused(self, frames: Tensor, streams: Clips, steps: Sequence[str]) -> Tensor:
        """Frames [..., T, D] fused with the streams that `steps` name, "text" [..., M, D] and "flow" [..., T, D]."""
        if self.config.fusion_order == "parallel":
            changes = [self.fusion[step](frames, streams[step]) - frames for step in steps]
            return torch.stack([frames, *changes]).sum(0)
        for step in steps:
            frames = self.fusion[step](frames, streams[step])
        return frames

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """{"frames": [B, T, D]}, as far as they can be worked out for a clip alone, and what is still needed of it.

        "flow" [B, T, D] where its fusion is still to come; "raw" [B, D], the mean of a query's frames before any fusion, where its text
        or `eval_mode` reads it; "fused" [B, D], the mean after all fusions, where the class-text loss does.
        """
        self.check(clips, role)
        if role == "support":
            return self._encode_support(clips)
        c = self.config
        early, late = c.query_steps
        x = self.fused(clips["features"], clips, early)
        made = {"frames": x, **({"flow": clips["flow"]} if "flow" in late else {})} if late else self._refined(x)
        if c.eval_mode != "visual" or ("text" in late and c.query_text == "soft"):
            made["raw"] = clips["features"].mean(1)
        return made

    def _encode_support(self, clips: Clips) -> dict[str, Tensor]:
        c, x, text = self.config, clips["features"], clips["text"]
        if not c.fuse_before_merge:
            return {"frames": x, **({"flow": clips["flow"]} if "flow" in c.steps else {})}
        x = self.fused(x, {**clips, "text": text.unsqueeze(1)}, c.steps)
        return self._with_mean({"frames": x if c.merge_before else self._prototype(x, text)}, x)

    def _with_mean(self, codes: dict[str, Tensor], fused: Tensor) -> dict[str, Tensor]:
        return codes | {"fused": fused.mean(-2)} if self.config.class_text_from == "fused" else codes

    def _refined(self, fused: Tensor) -> dict[str, Tensor]:
        """A query's last step: the transformer, by itself."""
        return self._with_mean({"frames": self.context(fused)}, fused)

    def _prototype(self, fused: Tensor, text: Tensor) -> Tensor:
        """The transformer over a support clip's or class's frames [..., T, D], with its text [..., D] as one more token."""
        made: Tensor = (
            refine_with_text(self.context, fused, text) if self.config.prototype_text else self.context(fused)
        )
        return made

    def finished(self, query: Clips, text: Tensor) -> Clips:
        """Encoded queries [E, Q, ...] with the steps that need the episode's class text [E, W, D] done."""
        c = self.config
        late = c.query_steps[1]
        if not late:
            return query
        if c.query_text == "soft":
            share = F.softmax(c.soft_text_scale * similarity(query["raw"], text, c.cosine_epsilon), -1)
            context = (share @ text).unsqueeze(2)
        else:
            context = text.unsqueeze(1).expand(-1, query["frames"].shape[1], -1, -1)
        return {**query, **self._refined(self.fused(query["frames"], {**query, "text": context}, late))}

    def prototypes(self, support: Clips, text: Tensor, task: Task) -> Tensor:
        """Class prototypes [E, W, T, D] from support codes [E, S, ...] and class text [E, W, D]."""
        c, average = self.config, averaging(task, support["frames"])
        means = {name: class_means(code, average) for name, code in support.items() if name in ("frames", "flow")}
        x = means["frames"]
        if not c.fuse_before_merge:
            x = self.fused(x, {**means, "text": text.unsqueeze(2)}, c.steps)
        return self._prototype(x, text) if c.merge_before else x

    def costs(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """Frame distances 1 - cosine: [E, Q, Tq, D], [E, W, Ts, D] -> [E, Q, W, Tq, Ts]."""
        return frame_distances(query, prototypes, lambda a, b: 1 - similarity(a, b, self.config.cosine_epsilon))

    def align(self, table: Tensor) -> Tensor:
        """Alignment distances, both directions: [..., Tq, Ts] -> [...]."""
        return otam_both(table, self.config.otam_lambda)

    def distances(self, support: Clips, query: Clips, text: Tensor, task: Task) -> Tensor:
        """Alignment distances [E, Q, W] of support codes and finished queries."""
        return finite(self, self.align(self.costs(query["frames"], self.prototypes(support, text, task))))

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] of encoded clips, by `eval_mode` as CLIP-FSAR has it: alignment, text, or both mixed."""
        require_pair(self, support["frames"], query["frames"], same_frames=True)
        c, text = self.config, class_text(self, task, self.config.dim)
        distances = self.distances(support, self.finished(query, text), text, task)
        if c.eval_mode == "visual":
            return HeadOutput(-distances)
        textual = text_probabilities(query["raw"], text, self.scale)
        if c.eval_mode == "text":
            return HeadOutput(finite(self, textual))
        visual = F.softmax((VISUAL_SCALE - distances) / VISUAL_SCALE, -1)
        return HeadOutput(finite(self, textual**c.text_exponent * visual ** (1 - c.text_exponent)))

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Losses "match", "class_text" and "flow" (if it has a weight), means over clips / tasks_per_batch, summed over the episodes.

        Logits are minus the distances, whatever `eval_mode` says; shows class_logits [E, S+Q, C].
        """
        del step
        c = self.config
        support = encode_clips(self, batch.support, "support")
        coded = encode_clips(self, batch.query, "query")
        require_pair(self, support["frames"], coded["frames"], same_frames=True)
        text, source = class_text(self, batch.task, c.dim), source_text(self, batch, c.dim)
        query = self.finished(coded, text)
        logits = -self.distances(support, query, text, batch.task)
        if c.class_text_from == "fused":
            means = torch.cat([support["fused"], query["fused"]], 1)
        else:
            means = torch.cat([clips["features"].mean(2) for clips in (batch.support, batch.query)], 1)
        class_logits = class_text_logits(means, source, self.scale, c.cosine_epsilon)
        values = {
            "match": (query_losses(logits, batch.query_labels), 1.0),
            "class_text": (class_text_losses(class_logits, batch), c.class_text_weight),
        }
        if c.aux_flow_weight:
            values["flow"] = (query_losses(self._flow_logits(batch), batch.query_labels), c.aux_flow_weight)
        losses = {name: (each.mean(1).sum() / c.tasks_per_batch, weight) for name, (each, weight) in values.items()}
        return HeadOutput(logits, losses, {"class_logits": class_logits})

    def _flow_logits(self, batch: EpisodeBatch) -> Tensor:
        """Logits by the flow stream alone: averaged clips and queries through the transformer (nothing else of it learns), no text."""
        flow = batch.support["flow"]
        means = class_means(flow, averaging(batch.task, flow))
        return -self.align(self.costs(self.context(batch.query["flow"]), self.context(means)))

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """Each query against each class prototype, one episode: cost and path [Q, W, Tq, Ts]."""
        text = class_text(self, task, self.config.dim)
        cost = self.costs(self.finished(query, text)["frames"], self.prototypes(support, text, task))[0]
        return {"cost": cost, "path": soft_path(cost, self.align)}

    def published_layout(self) -> Layout:
        """Keys of this project's own layout (nobody published one): CLIP-FSAR's, `text_fusion`, `flow_fusion`, and ST-Adapter's."""
        names = {"scale": "head.scale"} | published_names(self.context, "context", "head.context2")
        for name in self.fusion.state_dict():
            stream, _, rest = name.partition(".")
            names[f"fusion.{name}"] = f"head.{stream}_fusion.{rest}"
        return Layout(
            names,
            (PREFIX,),
            (f"{PREFIX}fc.*",),
            wrapper="model_state",
            counter="epoch",
            adapters=self.published_adapters(),
        )

    def published_adapters(self) -> Mapping[str, str]:
        """Name of each tensor of the adapters in ViT-B/16, "block0.pre_mlp.fc1.weight" -> its key among the backbone's."""
        slots = [f"block{i}.{place}" for i in range(BLOCKS) for place in ("pre_attn", "pre_mlp")]
        with torch.device("meta"):
            made = self.adapters(slots)
        return {name: PREFIX + key for name, key in st_adapter.published_names(made).items()}


PREFIX = "head.backbone."
"""Of the tower's keys."""
