"""Where things are: the four folders that environment variables may move, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

_told: list[Path] = []
"""The folder of datasets that this command was told, if any."""


def use_videos(folder: Path | None) -> None:
    """Take this folder of datasets from now on, before $FSAR_VIDEOS; None: no longer."""
    _told[:] = [] if folder is None else [folder]


def videos_words() -> list[str]:
    """The option that tells another command of the folder that this one was told; [] where it was told none."""
    return ["--videos", str(_told[0])] if _told else []


def videos() -> Path:
    """The folder of datasets: the one that the command was told, else $FSAR_VIDEOS, else ./videos."""
    return _told[0] if _told else Path(os.environ.get("FSAR_VIDEOS") or "videos")


def stores() -> Path:
    """The folder of feature stores: $FSAR_STORES, else ./stores."""
    return Path(os.environ.get("FSAR_STORES") or "stores")


def runs() -> Path:
    """The folder of training and evaluation runs: $FSAR_RUNS, else ./runs."""
    return Path(os.environ.get("FSAR_RUNS") or "runs")


def lists() -> Path:
    """The folder of imported split lists: $FSAR_LISTS, else ./lists."""
    return Path(os.environ.get("FSAR_LISTS") or "lists")
