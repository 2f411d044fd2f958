"""fsar-cache: few-shot action recognition from cached features.

`import fsar_cache as fc` gives the public names below without importing torch until one that needs it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "FsarError": "fsar_cache.errors",
    "Video": "splits.types",
    "Part": "splits.types",
    "Split": "splits.types",
    "Protocol": "splits.types",
    "Episodes": "splits.types",
    "EpisodeSampler": "splits.episodes",
    "open_split": "splits.datasets",
    "FeatureSpec": "cache.spec",
    "FeatureStore": "cache.store",
    "create_store": "cache.store:create",
    "open_store": "cache.store",
    "Backbone": "extract.backbone",
    "BACKBONES": "extract.backbone",
    "ExtractConfig": "extract.config",
    "extract": "extract.run",
    "Head": "heads.base",
    "HEADS": "heads.base",
    "Recipe": "pipeline.recipe",
    "load_recipe": "pipeline.recipe",
    "train": "pipeline.trainer",
    "evaluate": "pipeline.evaluate",
}
"""Public name -> the module that holds it (and, after a colon, its name there)."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fsar_cache' has no attribute {name!r}")
    module, _, inner = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), inner or name)


def __dir__() -> list[str]:
    return sorted(__all__)
