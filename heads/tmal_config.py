"""The settings of TMAL, by the card's switch names; docs/methods/tmal.md says of each whether it is stated, taken from a part, or ours."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fsar_cache.errors import UsageError, unknown
from heads import st_adapter
from heads.clip_fsar import EVAL_MODES, check_refiner
from heads.fusion import INITS, KEYS

ORDERS: dict[str, tuple[str, ...]] = {
    "text_then_flow": ("text", "flow"),
    "flow_then_text": ("flow", "text"),
    "parallel": ("text", "flow"),
    "text": ("text",),
    "flow": ("flow",),
    "none": (),
}
"""fusion_order -> the streams that are fused in, in their order ("parallel": what each changes is added)."""
CHOICES = {
    "fusion_order": tuple(ORDERS),
    "query_text": ("soft", "all", "none"),
    "text_kv": KEYS,
    "flow_kv": KEYS,
    "fusion_init": INITS,
    "class_text_from": ("backbone", "fused"),
    "flow_pos": ("none", "sinusoid"),
    "flow_encoder": ("clip_frozen", "none"),
    "adapter": (*st_adapter.PRESETS, "none"),
    "adapter_act": ("none", "gelu", "quick_gelu"),
    "eval_mode": EVAL_MODES,
}
READ_BY = {
    "text": ("query_text", "text_kv"),
    "flow": ("flow_kv", "flow_pos"),
    "adapter": ("adapter_layers", "adapter_act"),
}
"""What must be there -> the settings that do nothing without it."""
BLOCKS = 12
"""Of the tower that the published names of adapters are for."""


@dataclass(frozen=True)
class TmalConfig:
    """Switches by the card's names; the docs say what is stated, taken from a component, or ours.

    fusion_order, fusion_init, text_kv and flow_kv (keys of the fusions, see heads.fusion), flow_pos: positions in the fusion with flow.
    query_text: a query's text is the classes' mixed by softmax(soft_text_scale * cosine) ("soft"), all of them as keys, or none.
    prototype_text: a class's text goes with its frames into the transformer. merge_before: clips of a class are averaged before the
    transformer; fuse_before_merge: and after the fusions. class_text_from: whether the class-text loss sees frames before or after the
    fusions; its weight is class_text_weight (CLIP-FSAR's: 1.2 HMDB, 1.5 Kinetics and UCF, 3.0 SSv2). aux_flow_weight: of a loss by flow
    alone. adapter, adapter_layers (the last so many blocks; None: all), adapter_act: what `adapters` puts into the tower. tasks_per_batch
    divides all losses. The rest is CLIP-FSAR's. A setting that would do nothing is refused.
    """

    dim: int = 512
    seq_len: int = 8
    heads: int = 8
    mlp_dim: int = 2048
    transformer_depth: int = 1
    fusion_order: str = "text_then_flow"
    query_text: str = "soft"
    soft_text_scale: float = 100.0
    text_kv: str = "self+ctx"
    flow_kv: str = "ctx"
    fusion_init: str = "zero"
    flow_pos: str = "none"
    flow_encoder: str = "clip_frozen"
    merge_before: bool = True
    fuse_before_merge: bool = True
    prototype_text: bool = True
    class_text_from: str = "backbone"
    class_text_weight: float = 1.5
    class_text_scale_init: float = 1.0
    aux_flow_weight: float = 0.0
    adapter: str = "12x384"
    adapter_layers: int | None = None
    adapter_act: str = "none"
    otam_lambda: float = 0.5
    cosine_epsilon: float = 0.01
    eval_mode: str = "visual"
    text_exponent: float = 0.9
    out_dropout: float = 0.2
    ff_dropout: float = 0.05
    tasks_per_batch: int = 4

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(f"tmal {name}", getattr(self, name), known)
        check_refiner("tmal", self)
        if self.seq_len < 1 or (self.adapter_layers is not None and not 1 <= self.adapter_layers <= BLOCKS):
            raise UsageError(
                f"tmal needs seq_len >= 1 and adapter_layers in 1..{BLOCKS}, got {self.seq_len}, {self.adapter_layers}"
            )
        if self.soft_text_scale < 0 or self.class_text_weight < 0 or self.aux_flow_weight < 0:
            raise UsageError("tmal soft_text_scale, class_text_weight and aux_flow_weight must not be negative")
        if not 0 < self.text_exponent <= 1:
            raise UsageError(f"tmal text_exponent must lie in (0, 1], got {self.text_exponent}")
        if not self.fuse_before_merge and (not self.merge_before or self.class_text_from == "fused"):
            raise UsageError(
                "tmal fuse_before_merge = false fuses class means, so it needs merge_before and class_text_from = 'backbone'",
                hint="leave fuse_before_merge at true",
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        there = {*self.steps, *(["adapter"] if self.adapter != "none" else [])}
        defaults = {field.name: field.default for field in fields(self)}
        for what, names in READ_BY.items():
            idle = [name for name in names if what not in there and getattr(self, name) != defaults[name]]
            if idle:
                raise UsageError(
                    f"tmal {' and '.join(idle)} would do nothing: there is no {what} here", hint="leave it out"
                )
        if self.aux_flow_weight and self.flow_encoder == "none":
            raise UsageError("tmal aux_flow_weight would do nothing with flow_encoder = 'none'", hint="leave out one")

    @property
    def steps(self) -> tuple[str, ...]:
        """The streams that are fused in, in their order."""
        return tuple(s for s in ORDERS[self.fusion_order] if s != "flow" or self.flow_encoder != "none")

    @property
    def reads_flow(self) -> bool:
        """Whether features of flow are needed."""
        return "flow" in self.steps or self.aux_flow_weight > 0

    @property
    def query_steps(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A query's fusions that are per clip, and those that need the episode's texts or follow them."""
        steps = tuple(s for s in self.steps if s != "text" or self.query_text != "none")
        if "text" not in steps:
            return steps, ()
        return (("flow",), ("text",)) if self.fusion_order == "flow_then_text" and "flow" in steps else ((), steps)
