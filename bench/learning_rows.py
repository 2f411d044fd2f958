"""The rows of the learning table (bench/learning.py): a recipe, what is changed of it, and the extractions it needs beside the demo's.

Training is short on purpose: a row takes about two minutes of two cores at most. Settings were written down before the test classes were
looked at, but for those of the demo (docs/synth.md).
"""

from __future__ import annotations

from dataclasses import dataclass

CENTRED = "features.normalise=centre-source-std"
RAW = "features.normalise=none"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    recipe and sets: as `fsar-cache train --recipe RECIPE --set ...` takes them. seeds: of training, one result each; heads without
    parameters need one. shots: at which it is evaluated. episodes: per figure. joint: it reads the stores that joint_text.py makes.
    extract: commands that make the stores it reads.
    """

    name: str
    recipe: str
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    shots: tuple[int, ...] = (1, 5)
    episodes: int = 1000
    joint: bool = False
    extract: tuple[str, ...] = ()


FRAMES = "fsar-cache extract synth --recipe demo --cut frames --set features.normalise=none"

ROWS: tuple[Row, ...] = (
    Row("ProtoNet (mean pooling), raw", "protonet", seeds=(0,)),
    Row("OTAM, raw", "otam", (RAW,), seeds=(0,)),
    Row("OTAM, centred", "otam", (CENTRED,), seeds=(0,)),
    Row("GSLTA, centred", "demo"),
    Row("ProtoNet (mean pooling), joint", "protonet", (RAW,), seeds=(0,), joint=True),
    Row("OTAM, joint", "otam", (RAW,), seeds=(0,), joint=True),
)
