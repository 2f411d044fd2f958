"""The machine type: what decides the last bits of features beside the settings and the versions of packages."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")


def machine_type(device: torch.device) -> str:
    """The accelerator's name, or "cpu", its model where the system tells it, and the instructions that the tensor library uses of it.

    Equal types give equal bytes from equal packages; others round sums in another order.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {_model() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def _model() -> str:
    """The processor's name as Linux tells it, "" elsewhere."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
