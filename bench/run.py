"""Run every benchmark, print one table of ratios against their reach, keep the figures in bench/results.

Each benchmark is a script beside this one that prints {"rows": [{"what", "value", "unit", "reach", "better"}], "detail": {...}} when
called with --json, or {"skipped": reason} on a machine that lacks what it measures; better is "lower" or "higher". All ratios are taken
within one run, on one machine.

    python bench/run.py            # all of them, about ten minutes on two cores
    python bench/run.py store      # one of them
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PACKAGES = ("torch", "torchvision", "timm", "numpy", "zarr", "h5py", "av", "decord", "torchcodec", "PyNvVideoCodec")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str:
    """Of an installed package; "" where it isn't."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def measure(name: str) -> dict[str, Any]:
    """Run bench_<name>.py and return what it prints; its progress goes to stderr."""
    print(f"bench {name} ...", file=sys.stderr)
    done = subprocess.run([sys.executable, HERE / f"bench_{name}.py", "--json"], stdout=subprocess.PIPE, check=True)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def reached(row: dict[str, Any]) -> bool:
    """Whether a row's value is on the right side of its reach."""
    return bool(row["value"] <= row["reach"] if row["better"] == "lower" else row["value"] >= row["reach"])


def main(names: list[str]) -> int:
    """Measure, keep, print; exit status 1 if a reach was missed."""
    known = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    if wrong := [n for n in names if n not in known]:
        print(f"no benchmark {wrong[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    table = Table("benchmark", "what", "measured", "reach", "", title="Ratios within one run")
    missed = 0
    for name in names or known:
        result = measure(name)
        if "skipped" in result:  # figures kept from a machine that could measure it stay
            table.add_row(name, result["skipped"], "", "", "[dim]skipped[/]")
            continue
        (HERE / "results").mkdir(exist_ok=True)
        kept = {"machine": machine(), **result}
        (HERE / "results" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        for row in result["rows"]:
            good = reached(row)
            missed += not good
            sign = "<=" if row["better"] == "lower" else ">="
            values = f"{row['value']:.3g} {row['unit']}", f"{sign} {row['reach']:.3g} {row['unit']}"
            table.add_row(name, row["what"], *values, "[green]ok[/]" if good else "[red]missed[/]")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
