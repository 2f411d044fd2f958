"""How long `fsar-cache --help` takes, beside a bare interpreter: minimum of several interleaved runs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time


def seconds(*command: str) -> float:
    """Wall time of one command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    code = "import sys; from pipeline.cli import main; sys.exit(main())"
    rounds = [
        (seconds(sys.executable, "-c", "pass"), seconds(sys.executable, "-c", code, "--help"))
        for _ in range(args.rounds)
    ]
    bare, helped = (min(column) for column in zip(*rounds, strict=True))
    rows = [{"what": "fsar-cache --help", "value": helped, "unit": "s", "reach": 0.5, "better": "lower"}]
    result = {"rows": rows, "detail": {"bare_interpreter_s": bare, "rounds": args.rounds}}
    print(json.dumps(result) if args.json else f"--help {helped:.3f} s, a bare interpreter {bare:.3f} s")


if __name__ == "__main__":
    main()
