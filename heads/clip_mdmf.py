"""CLIP-MDMF: two views of every clip, each fused with a text prompt, aligned, and taught by the more reliable of the two.

F. Guo and others, "Multi-view distillation based on multi-modal fusion for few-shot action recognition (CLIP-MDMF)", Knowledge-Based
Systems 304, 112539 (2024), arXiv 2401.08345. Consumes features [8, D] per clip (D = 1024 for CLIP's RN50, 512 for its ViT-B/16; not
normalised; 8 frames, no other number) and text [D] per class. The local ("up") view of a clip is two convolutions along time, the global
("down") one the last step of a causal network added to every frame; a transformer fuses each with the clip's text token. A query's text
is that of a class drawn by how well the class's text fits its frames. Logits are minus the sum of both views' OTAM distances.

A query's prompt depends on the episode, so `match` pays two passes of the transformer (9 tokens) per query; supports are fused once, in
`encode`. Differs from the published code: distillation is mutual and by both judgements unless set otherwise (its script: up2down,
[1, 0]), and two convolutions that nothing reads are left out. Text by class name, pixels and first step are the recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsar_cache.errors import UsageError, unknown
from heads.alignment import otam_both, soft_path
from heads.base import HEADS, Clips, EpisodeBatch, EpisodeShape, Head, HeadOutput, Needs, Role, Task
from heads.clip_fsar import check_refiner, class_text_logits, class_text_losses, refiner, source_text
from heads.distances import frame_distances, similarity
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
from heads.tcn import Tcn
from heads.transformer import published_names
from heads.views import DIRECTIONS, VIEWS, distillation, fuse, kept_means, prompt_scores

FRAMES = 8
"""The global context is one vector repeated for exactly this many frames."""
SHARPNESS = 200.0
"""What the scores of the classes' texts are multiplied by before the softmax."""
SELECTIONS = ("sample", "argmax")
TOKENS = ("frame0", "text")


@dataclass(frozen=True)
class ClipMdmfConfig:
    """Sizes, losses and switches; as published but for dist_direction and dist_condition (see the module).

    dist_condition: (use the text's judgement, use the alignment's), each 0 or 1. dist_direction, by the published names: "bid" both losses,
    "up2down" only that where the down view teaches, "down2up" only that where the up view teaches. lambdas: weights of the class-text,
    matching and distillation losses. t_compare_token: what the text's judgement compares, "frame0" as published or the "text" token.
    prompt_selection: "sample" by probability, or the most probable class ("argmax"). is_pps: give queries a prompt at all (else zeros).
    """

    dim: int = 1024
    heads: int = 8
    mlp_dim: int = 2048
    transformer_depth: int = 1
    is_pps: bool = True
    prompt_selection: str = "sample"
    single_direct: bool = False
    otam_lambda: float = 0.5
    cosine_epsilon: float = 0.01
    dist_condition: tuple[int, int] = (1, 1)
    dist_direction: str = "bid"
    t_compare_token: str = "frame0"
    detach_teacher: bool = False
    use_classification: bool = True
    lambdas: tuple[float, float, float] = (0.0, 1.0, 1.0)
    class_text_scale_init: float = 1.0
    out_dropout: float = 0.2
    ff_dropout: float = 0.05
    tcn_dropout: float = 0.1
    tasks_per_batch: int = 16

    def __post_init__(self) -> None:
        for name, known in (
            ("prompt_selection", SELECTIONS),
            ("dist_direction", DIRECTIONS),
            ("t_compare_token", TOKENS),
        ):
            if getattr(self, name) not in known:
                raise unknown(f"clip_mdmf {name}", getattr(self, name), known)
        check_refiner("clip_mdmf", self)
        if not 0 <= self.tcn_dropout < 1:
            raise UsageError(f"clip_mdmf tcn_dropout must lie in [0, 1), got {self.tcn_dropout}")
        if len(self.dist_condition) != 2 or any(use not in (0, 1) for use in self.dist_condition):
            raise UsageError(f"clip_mdmf dist_condition must be two of 0 and 1, got {self.dist_condition}")
        if len(self.lambdas) != 3 or min(self.lambdas) < 0:
            raise UsageError(f"clip_mdmf lambdas must be three weights, none negative, got {self.lambdas}")
        if self.lambdas[0] and not self.use_classification:
            raise UsageError(
                f"clip_mdmf lambdas[0] = {self.lambdas[0]} weighs the class-text loss, which use_classification = false turns off",
                hint="set lambdas[0] = 0 or use_classification = true",
            )


@HEADS.add("clip_mdmf")
class ClipMdmf(Head):
    """Local and global views, each fused with text, compared by soft alignment and distilled into each other."""

    Config = ClipMdmfConfig
    bn_passes = "separate"
    config: ClipMdmfConfig

    def __init__(self, config: ClipMdmfConfig) -> None:
        super().__init__(config)
        self.fusion_up, self.fusion_down = refiner(config), refiner(config)
        self.conv1 = nn.Conv1d(config.dim, config.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, padding=1)
        self.tcn = Tcn(config.dim, config.tcn_dropout)
        self.scale = nn.Parameter(torch.full((1,), config.class_text_scale_init))

    @property
    def needs(self) -> Needs:
        """Pooled features [8, dim]; a support clip's class text [dim]."""
        return Needs({"features": (FRAMES, self.config.dim), "text": (self.config.dim,)})

    def check(self, clips: Clips, role: Role) -> None:
        """As every head's; another number of frames than 8 is named first."""
        features = clips.get("features")
        if features is not None and features.ndim >= 2 and features.shape[-2] != FRAMES:
            raise UsageError(
                f"ClipMdmf needs {FRAMES}x{self.config.dim} per clip, got {features.shape[-2]} frames: the method is made for {FRAMES}",
                hint="extract with 8 frames per clip, or use clip_fsar, which takes any number",
            )
        super().check(clips, role)

    def encode(self, clips: Clips, role: Role) -> dict[str, Tensor]:
        """A support's views fused with its text: {"up", "down": [B, 9, D]}, the text token first.

        A query's, whose prompt only the episode knows: {"frames", "up", "down": [B, 8, D]}, not fused yet.
        """
        self.check(clips, role)
        frames = clips["features"]
        local = self.conv2(self.conv1(frames.transpose(1, 2))).transpose(1, 2)
        whole = self.tcn(frames)[:, -1:] + frames
        if role != "support":
            return {"frames": frames, "up": local, "down": whole}
        return self.fused({"frames": frames, "up": local, "down": whole}, clips["text"])

    def fused(self, clips: Clips, prompts: Tensor) -> dict[str, Tensor]:
        """Both views of clips {"frames", "up", "down": [..., 8, D]} with their prompts [..., D]: {"up", "down": [..., 9, D]}."""
        return {
            "up": fuse(self.fusion_up, prompts, clips["up"], clips["frames"]),
            "down": fuse(self.fusion_down, prompts, clips["down"], clips["frames"]),
        }

    def fit(self, frames: Tensor, text: Tensor) -> Tensor:
        """Cosine of frames [E, Q, T, D] and class text [E, W, D]: [E, Q, W, T]."""
        return similarity(text.detach().unsqueeze(1), frames, self.config.cosine_epsilon)

    def match_draw(self, shape: EpisodeShape, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """prompt_uniform float64 [Q] in [0, 1): where in the cumulated probabilities each query's prompt is; {} where none is drawn."""
        if not self.config.is_pps or self.config.prompt_selection == "argmax":
            return {}
        return {"prompt_uniform": rng.random(len(shape.query_labels))}

    def draw(self, shape: EpisodeShape, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """As `match_draw`: a prompt is drawn in training as in evaluation."""
        return self.match_draw(shape, rng)

    def prompt_class(self, probability: Tensor, task: Task) -> Tensor:
        """The class whose text each query gets, int64 [E, Q], from probabilities [E, Q, W] and the task's draws.

        "prompt_class" int64 [E, Q] is taken as it is; else the most probable, or the inverse of the cumulated probabilities at
        "prompt_uniform" float [E, Q]. UsageError where a draw is needed and absent, misshapen or out of range.
        """
        shape, way = probability.shape[:2], probability.shape[2]
        if "prompt_class" in task.draws:
            require_labels(task.draws["prompt_class"], tuple(shape), way, "draw prompt_class [episodes, queries]")
            return task.draws["prompt_class"].long()
        if self.config.prompt_selection == "argmax":
            return probability.argmax(-1)
        uniform = task.draws.get("prompt_uniform")
        if uniform is None or uniform.shape != shape or not bool(((uniform >= 0) & (uniform < 1)).all()):
            got = "none" if uniform is None else f"{list(uniform.shape)}"
            raise UsageError(
                f"ClipMdmf draws the class whose text a query gets and needs the draw prompt_uniform {list(shape)} in [0, 1), got {got}",
                hint="put what match_draw gives into the task's draws, or set prompt_selection = 'argmax'",
            )
        cumulated = probability.detach().double().cumsum(-1)
        reached = cumulated <= (uniform.double() * cumulated[..., -1]).unsqueeze(-1)
        return reached.sum(-1).clamp(max=way - 1)

    def align(self, table: Tensor) -> Tensor:
        """Alignment distances: [..., Tq, Ts] -> [...]."""
        return otam_both(table, self.config.otam_lambda, single=self.config.single_direct)

    def costs(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """Frame distances 1 - cosine without the text tokens: [E, Q, 9, D], [E, W, 9, D] -> [E, Q, W, 8, 8]."""
        epsilon = self.config.cosine_epsilon
        return frame_distances(query[:, :, 1:], prototypes[:, :, 1:], lambda a, b: 1 - similarity(a, b, epsilon))

    def views(self, support: Clips, query: Clips, task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Class prototypes {view: [E, W, 9, D]}, fused queries {view: [E, Q, 9, D]} and their prompts' probabilities [E, Q, W]."""
        require_pair(self, support["up"], query["frames"], same_frames=False)
        average = averaging(task, support["up"])
        text = class_text(self, task, self.config.dim)
        probability = F.softmax(SHARPNESS * prompt_scores(self.fit(query["frames"], text)), -1)
        if self.config.is_pps:
            chosen = self.prompt_class(probability, task)
            prompts = text.take_along_dim(chosen.unsqueeze(-1), 1)
        else:
            prompts = torch.zeros_like(query["frames"][:, :, 0])
        prototypes = {view: class_means(support[view], average) for view in VIEWS}
        return prototypes, self.fused(query, prompts), probability

    def match(self, support: Clips, query: Clips, task: Task) -> HeadOutput:
        """Logits [E, Q, W] from support {"up", "down": [E, S, 9, D]} and query {"frames", "up", "down": [E, Q, 8, D]}.

        Shows dist_up and dist_down [E, Q, W], prompt_prob [E, Q, W], and conf [E, 4, Q]: how sure the text's judgement is of the up
        and of the down view, and the alignment's of the up and of the down view.
        """
        prototypes, queries, probability = self.views(support, query, task)
        shows = {f"dist_{view}": self.align(self.costs(queries[view], prototypes[view])) for view in VIEWS}
        logits = finite(self, -(shows["dist_up"] + shows["dist_down"]))
        row = TOKENS[::-1].index(self.config.t_compare_token)
        textual = [
            similarity(queries[view][:, :, row], prototypes[view][:, :, row], self.config.cosine_epsilon)
            for view in VIEWS
        ]
        visual = [-shows[f"dist_{view}"] for view in VIEWS]
        conf = torch.stack([F.softmax(score, -1).amax(-1) for score in textual + visual], 1)
        return HeadOutput(logits, {}, shows | {"prompt_prob": probability, "conf": conf})

    def class_logits(self, batch: EpisodeBatch, text: Tensor) -> Tensor:
        """Class-text logits [E, S+Q, C] of raw features of each clip's four best frames under the text [C, D] of C classes.

        A support keeps the frames that fit its own text, a query those that fit the text of the class with the highest score.
        """
        support, query = batch.support["features"], batch.query["features"]
        own = similarity(batch.support["text"].unsqueeze(2), support, self.config.cosine_epsilon).squeeze(2)
        fit = self.fit(query, class_text(self, batch.task, self.config.dim))
        best = prompt_scores(fit).argmax(-1)[..., None, None]
        means = [kept_means(support, own), kept_means(query, fit.take_along_dim(best, 2).squeeze(2))]
        return class_text_logits(torch.cat(means, 1), text, self.scale, self.config.cosine_epsilon)

    def forward(self, batch: EpisodeBatch, step: int) -> HeadOutput:
        """Losses "class_text", "match" (sums over clips) and "distill", each / tasks_per_batch, summed over the episodes.

        Shows what `match` shows and class_logits [E, S+Q, C].
        """
        del step
        c = self.config
        support = encode_clips(self, batch.support, "support")
        out = self.match(support, encode_clips(self, batch.query, "query"), batch.task)
        values = {
            "match": query_losses(out.logits, batch.query_labels).sum(),
            "distill": distillation(out.shows, c.dist_condition, c.dist_direction, c.detach_teacher).sum(),
        }
        shows = dict(out.shows)
        if c.use_classification:
            shows["class_logits"] = self.class_logits(batch, source_text(self, batch, c.dim))
            values["class_text"] = class_text_losses(shows["class_logits"], batch).sum()
        weight = dict(zip(("class_text", "match", "distill"), c.lambdas, strict=True))
        losses = {name: (value / c.tasks_per_batch, float(weight[name])) for name, value in values.items()}
        return HeadOutput(out.logits, losses, shows)

    def show(self, support: Clips, query: Clips, task: Task) -> dict[str, Tensor]:
        """Each query's local view against each class prototype's, one episode: cost and path [Q, W, 8, 8]; global: cost_down, path_down."""
        prototypes, queries, _ = self.views(support, query, task)
        up, down = (self.costs(queries[view], prototypes[view])[0] for view in VIEWS)
        return {
            "cost": up,
            "path": soft_path(up, self.align),
            "cost_down": down,
            "path_down": soft_path(down, self.align),
        }

    def published_layout(self) -> Layout:
        """The published checkpoint's keys; its "context2" is the local view's fusion, "context_local" the global one's."""
        names = {"scale": "scale"}
        names |= published_names(self.fusion_up, "fusion_up", "context2")
        names |= published_names(self.fusion_down, "fusion_down", "context_local")
        for conv in ("conv1", "conv2"):
            names |= {f"{conv}.{leaf}": f"context_{conv}.{leaf}" for leaf in ("weight", "bias")}
        names |= {f"tcn.{name}": f"tcn.{name.replace('blocks', 'network')}" for name in self.tcn.state_dict()}
        unused = ("context_conv11.*", "context_conv22.*")
        return Layout(names, ("backbone.", "backbone.module."), unused, aliases=self._second_names())

    def _second_names(self) -> dict[str, str]:
        """Published keys under which the causal network's tensors stand once more -> our tensor."""
        again = {"conv1": "net.0", "conv2": "net.4"}
        aliases = {}
        for name in self.tcn.state_dict():
            _, index, conv, leaf = name.split(".")
            aliases[f"tcn.network.{index}.{again[conv]}.{leaf}"] = f"tcn.{name}"
        return aliases
