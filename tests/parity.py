"""Golden parity: python tests/parity.py CASE_DIR...

Builds the method that each case names, loads the drawn weights under the published keys, feeds the inputs and prints the worst ratio of
every expected output, |got - want| / (atol + rtol |want|). A folder without case.json stands for all cases below it. Exit codes: 0 all
ratios are at most 1, 4 some are not, 2 wrong usage, 3 a case is not there.
"""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case, load, mismatch
from parity_models import RUNNERS, Values

from fsar_cache.errors import FsarError, MissingError, UsageError, unknown


def slices(text: str) -> tuple[Any, ...]:
    """The index that a text such as "[:, :, :8]" or "::8, 0" means."""
    parts = [part.strip() for part in text.strip().strip("[]").split(",")]
    return tuple(_axis(part) for part in parts if part)


def _axis(text: str) -> Any:
    if text == "...":
        return Ellipsis
    if not re.fullmatch(r"-?\d+|(-?\d+)?:(-?\d+)?(:\d+)?", text):
        raise UsageError(f"slice {text!r} of a case is not understood")
    if ":" not in text:
        return int(text)
    return slice(*(int(n) if n else None for n in text.split(":")))


def pick(name: str, values: Values, rules: dict[str, str]) -> Tensor | None:
    """The value of the output called `name`: by its own name, as "X_part" (every 32nd channel of X) or as "A_norm/B" (norm of A/B)."""
    norm = re.fullmatch(r"(\w+)_norm/(.+)", name)
    if name in values:
        value = values[name]
    elif name.endswith("_part") and name.removesuffix("_part") in values:
        value = values[name.removesuffix("_part")][..., ::32]
    elif norm and f"{norm[1]}/{norm[2]}" in values:
        value = values[f"{norm[1]}/{norm[2]}"].norm()
    else:
        return None
    rule = rules.get(name) or next((text for pattern, text in rules.items() if fnmatchcase(name, pattern)), None)
    return value[slices(rule)] if rule else value


def answers(case: Case) -> dict[str, np.ndarray]:
    """What our implementation gives for every expected output of the case that it can name."""
    if case.method not in RUNNERS:
        raise unknown("method", case.method, RUNNERS)
    values, rules = RUNNERS[case.method](case), case.config.get("output_slices", {})
    picked = {name: pick(name, values, rules) for name in case.outputs}
    return {name: value.detach().numpy() for name, value in picked.items() if value is not None}


def ratios(folder: Path) -> dict[str, float]:
    """The worst ratio of each expected output of the case in `folder`; inf where it is missing, not finite or of another shape."""
    case = load(folder)
    return mismatch(case, answers(case))


def cases(folders: list[Path]) -> list[Path]:
    """The case folders at or below the given ones."""
    found = []
    for folder in folders:
        inside = [folder] if (folder / "case.json").is_file() else sorted(p.parent for p in folder.rglob("case.json"))
        if not inside:
            raise MissingError(f"no golden case (case.json) in {folder}")
        found += inside
    return found


def main(arguments: list[str]) -> int:
    """Print the table; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        folders = cases([Path(text) for text in arguments])
        failed = 0
        for folder in folders:
            table = ratios(folder)
            for output, ratio in table.items():
                verdict = "ok" if ratio <= 1 else "FAIL"
                print(f"{folder.parent.name}/{folder.name}  {output}  {ratio:.3g}  {verdict}")
            failed += any(not ratio <= 1 for ratio in table.values())
    except FsarError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    print(f"{len(folders) - failed} of {len(folders)} cases agree")
    return 4 if failed else 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(sys.argv[1:]))
