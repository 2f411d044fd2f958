"""A run's folder: config.json (the resolved recipe), provenance.json, seen.json, metrics.jsonl, checkpoints/, eval-<target>.json."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fsar_cache import __version__
from fsar_cache.canonical import differences, plain
from fsar_cache.errors import MissingError, UsageError
from fsar_cache.files import read_json, write_json
from fsar_cache.settings import build, override
from pipeline.recipe import Recipe

CONFIG = "config.json"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LAST = "last"
BEST = "best"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors", "av")
AFTER_TRAINING = ("target.", "eval.")
"""Settings that may change when a finished run is evaluated."""


def write_config(folder: Path, recipe: Recipe) -> None:
    """Keep the resolved recipe; UsageError naming the settings that differ where the folder holds another one's run."""
    path = folder / CONFIG
    if not path.exists():
        write_json(path, recipe)
        return
    changed = differences(
        plain(build(Recipe, read_json(path))), plain(recipe)
    )  # what is not in an older file has its default
    if changed:
        lines = "".join(f"\n  {field}: {was!r} there, {now!r} asked for" for field, was, now in changed)
        raise UsageError(
            f"the run {folder} was made with other settings:{lines}",
            hint="choose another run folder with --run NAME, or repeat the command with the settings it had",
        )


def read_config(folder: Path, sets: tuple[str, ...] | list[str] = ()) -> Recipe:
    """The recipe of a run, with settings of its target and evaluation changed by `sets`; others are refused."""
    path = folder / CONFIG
    if not path.is_file():
        raise MissingError(f"no run in {folder}: it has no {CONFIG}", hint="fsar-cache train makes one")
    for text in sets:
        if not text.strip().startswith(AFTER_TRAINING):
            raise UsageError(
                f"--set {text} would change a run that is trained already; only target.* and eval.* may change",
                hint="train a new run with this setting",
            )
    return build(Recipe, override(read_json(path), sets))


def machine(device: torch.device) -> dict[str, Any]:
    """Versions and machine, as plain data; host names and paths are left out."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "fsar-cache": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": f"{device.type}: {name}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def note_session(
    folder: Path, identity: dict[str, Any], device: torch.device, done: int, leaks: Sequence[str] = ()
) -> None:
    """Add to provenance.json that the run starts, or goes on after `done` iterations, here and now; leaks: see `pipeline.leaks`."""
    path = folder / PROVENANCE
    held = read_json(path) if path.exists() else {"data": plain(identity), "leaks": list(leaks), "sessions": []}
    session = {"started": time.strftime("%Y-%m-%d %H:%M:%S %z"), "after_iteration": done, **machine(device)}
    write_json(path, {**held, "sessions": [*held["sessions"], session]})
