"""The runners of all methods: what the files parity_*.py beside this one offer as RUNNERS, {method: runner}."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case

RUNNERS: dict[str, Callable[[Case], dict[str, Tensor]]] = {}
for path in sorted(Path(__file__).resolve().parent.glob("parity_*.py")):
    if path != Path(__file__).resolve():
        RUNNERS |= getattr(importlib.import_module(path.stem), "RUNNERS", {})
