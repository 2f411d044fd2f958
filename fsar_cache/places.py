"""Where things are: the four folders that environment variables may move, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path


def videos() -> Path:
    """The folder of datasets: $FSAR_VIDEOS, else ./videos."""
    return Path(os.environ.get("FSAR_VIDEOS") or "videos")


def stores() -> Path:
    """The folder of feature stores: $FSAR_STORES, else ./stores."""
    return Path(os.environ.get("FSAR_STORES") or "stores")


def runs() -> Path:
    """The folder of training and evaluation runs: $FSAR_RUNS, else ./runs."""
    return Path(os.environ.get("FSAR_RUNS") or "runs")


def lists() -> Path:
    """The folder of imported split lists: $FSAR_LISTS, else ./lists."""
    return Path(os.environ.get("FSAR_LISTS") or "lists")
