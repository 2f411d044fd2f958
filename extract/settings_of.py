"""The settings of an extraction, read back from a store: what its spec says of the bytes, and the provenance of a block of their making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cache.spec import FeatureSpec
from extract.backbone import ANY, BACKBONES
from extract.config import ExtractConfig
from extract.flow_settings import FlowSettings
from extract.scaling import SCALINGS
from fsar_cache.errors import UsageError


def settings_of(spec: FeatureSpec, made_by: Mapping[str, Any]) -> ExtractConfig:
    """Settings that give rows of `spec` as the block with the provenance `made_by` was given.

    The caller compares the spec that they lead to with the store's: weights behind a name may be others by now. UsageError for features
    that were not made by an extraction.
    """
    if spec.kind not in ("features", "frames", "flow", "flow-features", "text") or "weights" not in made_by:
        raise UsageError(
            f"these {spec.kind} were not made by an extraction, so they can't be made again",
            hint="leave out --sample: checksums hold for them as well",
        )
    if spec.kind == "text":
        return ExtractConfig(
            kind="text", backbone=spec.backbone["name"], weights=made_by["weights"], prompt=spec.transform["prompt"]
        )
    common: dict[str, Any] = {
        "sampling": spec.sampling["rule"],
        "frames": spec.sampling["frames"],
        "transform": spec.transform["name"],
        "size": spec.transform["size"],
        "decoder": made_by["decoder"],
        "batch_clips": made_by["batch_clips"],
    }
    if spec.kind == "flow":
        return ExtractConfig(kind="flow", flow=_flow(spec, spec.backbone, made_by["weights"]), **common)
    views = dict(made_by.get("views", {}))
    if spec.kind == "frames":
        return ExtractConfig(cut=spec.cut, **common, **views)
    name, scaling = str(spec.backbone["name"]), spec.backbone["scaling"]["name"]
    if spec.kind == "flow-features":
        picture = {name: spec.transform[name] for name in ("image", "image_scale")}
        flow = _flow(spec, spec.transform["flow"], made_by.get("flow_weights", ""))
        common |= {"kind": "flow-features", "flow": replace(flow, **picture)}
    else:
        common["cut"] = spec.cut
    return ExtractConfig(
        backbone=name if name in BACKBONES.names() else ANY + name,
        weights=made_by["weights"],
        scaling=scaling if scaling in SCALINGS else "auto",
        precision=spec.backbone.get("precision", "float32"),
        dtype=_dtype(spec.dtype),
        **common,
        **views,
    )


def _dtype(name: str) -> Any:
    if name not in ("float16", "float32"):
        raise UsageError(f"no extraction stores {name} features")
    return name


def _flow(spec: FeatureSpec, made: Mapping[str, Any], weights: str) -> FlowSettings:
    """The settings of flow with the facts `made`; weights: of RAFT, "" for the other estimators."""
    given: dict[str, Any] = {"estimator": made["name"], "size": made["size"], "pair": spec.sampling["pair"]}
    if "stride" in spec.sampling:
        given["stride"] = spec.sampling["stride"]
    if weights:
        given |= {"raft_weights": weights, "raft_updates": made["settings"]["updates"]}
    return FlowSettings(**given)
