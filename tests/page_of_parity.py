"""The page docs/parity.md, made by running golden cases: python tests/page_of_parity.py CASE_DIR... > docs/parity.md

Exit code 4 where a case doesn't agree; the page then says so too.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case, load
from parity import cases, ratios

HERE = Path(__file__).resolve().parent
HEAD = """# Parity with the published code

What the published code gives for drawn weights and inputs, and how far ours is from it: the worst of |ours - theirs| / (atol + rtol
|theirs|) over all numbers of an output; 1 is the tolerance. Values are logits, distances and everything on the way to them; losses and
gradients are those of training cases. Tolerances come with the cases: each lies at least ten times above the rounding of float32
there.

    python tests/parity.py tests/golden/*/*                  # every output of the cases kept here
    python tests/page_of_parity.py FOLDER > docs/parity.md   # this page

Made with PyTorch {torch} on {machine}, CPU, float32: {agreeing} of {count} cases agree. The last two columns count deliberate mistakes
in the code, and settings other than the case's own: each of them must push a case beyond its tolerance in `tests/test_parity.py`.
"""


def kind_of(output: str) -> str:
    """What an output is, by its name."""
    if output.startswith(("grad", "gradnorm")):
        return "gradients"
    return "losses" if output.startswith(("loss", "total")) else "values"


def line_of(folder: Path, case: Case, table: dict[str, float]) -> str:
    """One row of the table of a method."""
    kinds = Counter(kind_of(name) for name in table)
    worst = max(table, key=lambda name: table[name])
    counts = " | ".join(str(kinds.get(kind, "")) for kind in ("values", "losses", "gradients"))
    tolerance = f"{case.rtol:g} | {case.atol:g}"
    return f"| {folder.name} | {case.mode} | {counts} | {tolerance} | {table[worst]:.2g} | `{worst}` |"


def noticed() -> tuple[Counter[str], Counter[str]]:
    """Method -> its deliberate mistakes, and its other settings, in the files mistakes_*.py."""
    mistakes: Counter[str] = Counter()
    settings: Counter[str] = Counter()
    for path in sorted(HERE.glob("mistakes_*.py")):
        module = importlib.import_module(path.stem)
        mistakes.update(case.partition("/")[0] for case, *_ in module.MISTAKES.values())
        settings.update(case.partition("/")[0] for case, _ in module.SETTINGS)
    return mistakes, settings


def main(arguments: list[str]) -> int:
    """Print the page; 0 if every case agrees, else 4."""
    found = cases([Path(text) for text in arguments or [str(HERE / "golden")]])
    sections: dict[str, list[str]] = {}
    worst: dict[str, float] = {}
    agreeing = 0
    for folder in found:
        case, table = load(folder), ratios(folder)
        agreeing += max(table.values(), default=np.inf) <= 1
        sections.setdefault(case.method, []).append(line_of(folder, case, table))
        worst[case.method] = max(worst.get(case.method, 0.0), *table.values())
        print(f"{folder.parent.name}/{folder.name} {max(table.values()):.2g}", file=sys.stderr)
    mistakes, settings = noticed()
    facts = {"torch": torch.__version__.partition("+")[0], "machine": platform.machine()}
    print(HEAD.format(**facts, agreeing=agreeing, count=len(found)))
    print("| method | cases | worst | mistakes noticed | settings noticed |")
    print("| --- | --- | --- | --- | --- |")
    for method, lines in sections.items():
        print(f"| {method} | {len(lines)} | {worst[method]:.2g} | {mistakes[method]} | {settings[method]} |")
    for method, lines in sections.items():
        print(f"\n## {method}\n\n| case | mode | values | losses | gradients | rtol | atol | worst | of |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        print("\n".join(lines))
    return 0 if agreeing == len(found) else 4


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(sys.argv[1:]))
