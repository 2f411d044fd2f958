"""Golden parity: python tests/parity.py CASE_DIR...

Builds the method that each case names, loads the drawn weights under the published keys, feeds the inputs and prints the worst ratio of
every expected output, |got - want| / (atol + rtol |want|). A folder without case.json stands for all cases below it. A case that can't
be read or run gets a line that says why, and the others go on. Exit codes: 0 all ratios are at most 1, 4 some are not or a case can't be
run, 3 nothing worse than cases that are missing or unreadable, 2 wrong usage.
"""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case, load, mismatch
from parity_models import Values
from parity_runners import RUNNERS

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
        value = values[f"{norm[1]}/{norm[2]}"].double().norm()
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


@lru_cache(maxsize=2)
def loaded(folder: Path) -> Case:
    """The case in `folder`; drawing the weights of a large one takes longer than running it, and tests run it many times."""
    return load(folder)


def ratios(folder: Path) -> dict[str, float]:
    """The worst ratio of each expected output of the case in `folder`; inf where it is missing, not finite or of another shape."""
    case = loaded(folder)
    return mismatch(case, answers(case))


def failure(error: Exception) -> str:
    """What went wrong, in one line."""
    text = error.message if isinstance(error, FsarError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]


def judge(folder: Path) -> int:
    """Print the lines of one case; returns 0, 3 if it can't be read, 4 if it can't be run or an output is off."""
    name = f"{folder.parent.name}/{folder.name}"
    try:
        case = load(folder)
    except Exception as error:  # noqa: BLE001 - a damaged case can fail in any way, and must not stop the others
        print(f"{name}  ERROR  unreadable: {failure(error)}")
        return 3
    try:
        table = mismatch(case, answers(case))
    except Exception as error:  # noqa: BLE001 - so can a case that asks for what is not there
        print(f"{name}  ERROR  {failure(error)}")
        return 4
    for output, ratio in table.items():
        print(f"{name}  {output}  {ratio:.3g}  {'ok' if ratio <= 1 else 'FAIL'}")
    if not table:
        print(f"{name}  ERROR  no expected outputs")
    return 0 if table and all(ratio <= 1 for ratio in table.values()) else 4


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
    codes = []
    for text in arguments:
        try:
            found = cases([Path(text)])
        except MissingError as error:
            print(f"{text}  ERROR  {failure(error)}")
            codes.append(3)
        else:
            codes += [judge(folder) for folder in found]
    print(f"{codes.count(0)} of {len(codes)} cases agree")
    return max(codes)


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(sys.argv[1:]))
