"""The rows of the learning table (bench/learning.py): a recipe, what is changed of it, and the extractions it needs beside the demo's.

Training is short on purpose: a row and seed takes a few minutes of one core at most. Settings were written down before the test classes
were looked at, but for those of the demo (docs/synth.md) and of the joint space, of which six others were seen with their accuracies first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

RAW = "features.normalise=none"
CENTRED = "features.normalise=centre-source-std"
MAPS = ("fsar-cache extract synth --recipe ta2n",)
TEXT = ("fsar-cache extract synth --recipe clip-fsar --kind text",)
FLOW = ("fsar-cache extract synth --recipe tmal --kind flow-features",)
TOKENS = ("fsar-cache extract synth --recipe tamt --set features.size=64",)
PIXELS = (
    "fsar-cache extract synth --recipe demo --set features.cut=frames --set features.size=64 --set features.normalise=none",
)
FRAMES = (
    "follows=ours",
    "features.cut=frames",
    "features.size=64",
    RAW,
    "train.iterations=100",
    "train.query=2",
    "train.shot=1",
)
"""From frames: the backbone (or adapters in it) is trained too."""
ADAM = ("train.optimizer=adam", "train.lr=1e-3", "train.tasks_per_batch=4")
JOINT = ("store", "text_store")
NARROW = ("head_config.dim=128", RAW)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    recipe and sets: as `fsar-cache train --recipe RECIPE --set ...` takes them. seeds: of training, one result each; heads without
    parameters need one. shots: at which it is evaluated. episodes: per figure. joint: the settings that name stores which joint_text.py
    makes. extract: commands that make the stores it reads.
    """

    name: str
    recipe: str
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    shots: tuple[int, ...] = (1, 5)
    episodes: int = 1000
    joint: tuple[str, ...] = ()
    extract: tuple[str, ...] = ()


STORED: tuple[Row, ...] = (
    Row("ProtoNet (mean pooling), raw", "protonet", seeds=(0,)),
    Row("OTAM, raw", "otam", (RAW,), seeds=(0,)),
    Row("OTAM, centred", "otam", (CENTRED,), seeds=(0,)),
    Row("GSLTA, centred", "demo"),
    Row("TRX, centred", "trx", ("head_config.trans_linear_out_dim=128",), episodes=500),
    Row(
        "TA2N, centred maps, 1-shot",
        "ta2n",
        ("train.shot=1", "train.query=2", "head_config.shot=1"),
        (0, 1),
        (1,),
        200,
        extract=MAPS,
    ),
    Row("TA2N, centred maps, 5-shot", "ta2n", ("train.query=2", "head_config.shot=5"), (0, 1), (5,), 200, extract=MAPS),
    Row("CLIP-FSAR, centred, drawn text", "clip-fsar", extract=TEXT),
    Row("CLIP-MDMF, centred, drawn text", "clip-mdmf", ("train.query=2",), (0, 1), episodes=300, extract=TEXT),
    Row("TMAL, centred, flow, drawn text", "tmal", (), (0, 1), episodes=300, extract=TEXT + FLOW),
    Row(
        "TAMT, block-10 tokens",
        "tamt",
        ("features.size=64", "train.query=2", "head_config.metric=neg_sq_l2"),
        (0,),
        episodes=1000,
        extract=TOKENS,
    ),
)
UNTRAINED: tuple[Row, ...] = tuple(
    replace(row, name=f"{row.name}, untrained", sets=(*row.sets, "train.iterations=1", "train.lr=1e-12"), seeds=(0,))
    for row in STORED
    if row.recipe not in ("protonet", "otam")
)
"""What the stored rows' heads get right with the weights that they start with: how much of an accuracy is the alignment's, not learnt."""
JOINTLY: tuple[Row, ...] = (
    Row("ProtoNet, joint", "protonet", (RAW,), (0,), joint=("store",)),
    Row("OTAM, joint", "otam", (RAW,), (0,), joint=("store",)),
    Row("GSLTA, joint", "demo", NARROW, joint=("store",)),
    Row("CLIP-FSAR, joint text", "clip-fsar", NARROW, joint=JOINT),
    Row("CLIP-FSAR, joint text, text and visual", "clip-fsar", (*NARROW, "head_config.eval_mode=combine"), joint=JOINT),
    Row("CLIP-MDMF, joint text", "clip-mdmf", NARROW, episodes=500, joint=JOINT),
    Row("TMAL, joint text and flow", "tmal", NARROW, episodes=500, joint=(*JOINT, "flow_store"), extract=TEXT + FLOW),
)
FROM_FRAMES: tuple[Row, ...] = tuple(
    Row(f"{name}, from frames", recipe, (*FRAMES, *more), (0,), (1, 5), 300, extract=(*PIXELS, *others))
    for name, recipe, more, others in (
        ("ProtoNet", "protonet", ADAM, ()),
        ("OTAM", "otam", ADAM, ()),
        ("GSLTA", "demo", ("train.unlabelled=5",), ()),
        ("TRX", "trx", ("head_config.trans_linear_out_dim=128",), ()),
        ("CLIP-FSAR, drawn text", "clip-fsar", (), TEXT),
        ("CLIP-MDMF, drawn text", "clip-mdmf", (), TEXT),
    )
)
LARGE = "features.size=128"
"""Maps of at least 4 x 4 places, as TA2N needs."""
ADAPTED = ("follows=ours", "features.cut=frames", "features.size=64", "train.query=2", "head_config.metric=neg_sq_l2")
ADAPTERS: tuple[Row, ...] = (
    Row(
        "TA2N, from frames, 1-shot",
        "ta2n",
        (*FRAMES, LARGE, "train.iterations=40", "head_config.shot=1"),
        (0,),
        (1,),
        200,
        extract=(
            f"fsar-cache extract synth --recipe ta2n --set follows=ours --set features.cut=frames --set {RAW} --set {LARGE}",
        ),
    ),
    Row(
        "TAMT, adapters from frames",
        "tamt",
        (*ADAPTED, "train.shot=1", "train.iterations=60"),
        (0,),
        extract=(
            "fsar-cache extract synth --recipe tamt --set follows=ours --set features.cut=frames --set features.size=64",
        ),
    ),
)
ROWS: tuple[Row, ...] = STORED + UNTRAINED + JOINTLY + FROM_FRAMES + ADAPTERS
