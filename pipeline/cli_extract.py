"""`fsar-cache extract`: its options, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fsar_cache.errors import FailedVideosError, UsageError
from pipeline.cli_common import (
    AsJson,
    Backbone,
    Cut,
    Device,
    HeadName,
    MaxFailures,
    RecipeName,
    Sets,
    SkipMissing,
    Videos,
    Weights,
    Workers,
    examples,
    feature_settings,
    print_json,
    setting,
    take_videos,
)

EXAMPLES = examples(
    "extract synth",
    "extract csv:clips.csv --weights timm:resnet18.a1_in1k --dry-run",
    "extract synth --backbone videomae_vit_s --cut block10 --partition train",
    "extract ssv2 --videos /data/videos --skip-missing",
    "extract synth --kind flow",
    "extract synth --kind flow-features --backbone clip_vit_b16",
    "extract synth --kind text --backbone clip_vit_b16",
)


def extract(
    dataset: Annotated[
        str, typer.Argument(help="ssv2, kinetics100, synth, ..., folder:PATH or csv:PATH (fsar-cache list datasets)")
    ],
    recipe: RecipeName = None,
    head: HeadName = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="features, flow, flow-features or text (default: features, or all that the recipe's or head's method needs)"
        ),
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    cut: Cut = None,
    views: Annotated[
        int | None, typer.Option(min=0, help="training views per clip, beside the evaluation view")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or float16: as it is stored")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16: of the arithmetic")] = None,
    sets: Sets = None,
    videos: Videos = None,
    partition: Annotated[list[str] | None, typer.Option(help="only clips of it; can be repeated")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="only clips of it; can be repeated")] = None,
    part: Annotated[
        str, typer.Option(help="I/N: every N-th block, to divide the work; store merge joins the parts")
    ] = "1/1",
    engine: Annotated[str, typer.Option(help="local, or ray (an extra: see docs/extraction.md)")] = "local",
    ray_address: Annotated[str, typer.Option(help="of a running Ray cluster; empty: start one here")] = "",
    workers: Workers = 0,
    decoder: Annotated[
        str | None, typer.Option(help="auto, pyav, decord, nvdec or nvdec-torchcodec (fsar-cache list decoders)")
    ] = None,
    device: Device = "auto",
    backend: Annotated[str, typer.Option(help="zarr or hdf5")] = "zarr",
    max_failures: MaxFailures = 0.02,
    skip_missing: SkipMissing = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="try failed clips again even if their files are the same as then")
    ] = False,
    time_limit: Annotated[int, typer.Option(min=1, help="seconds that decoding one clip may take")] = 60,
    batch_clips: Annotated[int, typer.Option(min=0, help="clips per device batch (0: as suits the device)")] = 0,
    block_rows: Annotated[int, typer.Option(min=0, help="rows per block of a new store (0: some 16 MB of them)")] = 0,
    force: Annotated[bool, typer.Option("--force", help="go on where the disk looks too small")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Decode videos, run the frozen part of the backbone, and store the features; resumes by itself."""
    from pipeline import choose

    take_videos(videos)
    given = {
        "backbone": backbone,
        "weights": weights,
        "cut": cut,
        "views": views,
        "dtype": dtype,
        "precision": precision,
    }
    _require_meaning(
        kind or "features", given, {"ray-address": ray_address and engine != "ray", "device": device != "auto"}
    )
    changes = feature_settings(backbone, weights, cut) + setting("features.views", views)
    changes += setting("features.dtype", dtype) + setting("features.precision", precision)
    changes += setting("features.decoder", decoder)
    kinds = choose.settle_kinds(recipe, head, [*changes, *(sets or [])], kind)
    how: dict[str, Any] = {"workers": workers, "device": device, "backend": backend}
    how |= {
        "max_failures": max_failures,
        "skip_missing": skip_missing,
        "time_limit": float(time_limit),
        "batch_clips": batch_clips,
    }
    how |= {"partitions": tuple(partition or ()), "classes": tuple(classes or ()), "part": _part(part)}
    how |= {"engine": engine, "ray_address": ray_address, "block_rows": block_rows, "force": force}
    made: list[Any] = []
    try:
        for each, features in kinds:
            made += _make(
                dataset, each, features, how, alone=kind is not None, dry_run=dry_run, retry_failed=retry_failed
            )
    except FailedVideosError as error:
        if as_json:
            print_json([*made, *error.made])
        raise
    if as_json:
        print_json(made)


def _make(
    dataset: str, kind: str, features: Any, how: dict[str, Any], *, alone: bool, dry_run: bool, retry_failed: bool
) -> list[Any]:
    """Make (or plan) one kind. alone: it was asked for by name, and doesn't go with the others that a head needs."""
    from pipeline import stages

    how = {**how, "kind": kind}
    if kind == "text" and not alone:
        how["part"] = (1, 1)  # a class list takes seconds: every part of the work makes all of it
        if dry_run:
            stages.say_texts(dataset, features, how)
            return []
    return list(stages.extract(dataset, features, how, dry_run=dry_run, retry_failed=retry_failed))


WITHOUT = {
    "flow": ("backbone", "weights", "cut", "views", "dtype", "precision"),
    "flow-features": ("cut", "views"),
    "text": ("cut", "views", "dtype", "precision"),
}
"""Kind -> options that say nothing about it."""
SET_BY = {
    "flow": "--set features.flow.NAME=VALUE (docs/flow.md)",
    "flow-features": "--backbone, --weights and --set features.flow.NAME=VALUE (docs/flow.md)",
    "text": "--backbone, --weights and features.prompt",
}
"""Kind -> what says something about it."""


def _require_meaning(kind: str, given: dict[str, Any], idle: dict[str, Any]) -> None:
    """Raise UsageError for an option that would change nothing; idle: further options -> whether they are given and do nothing."""
    for name in WITHOUT.get(kind, ()):
        if given[name] is not None:
            raise UsageError(f"--{name} has no meaning for {kind}", hint=f"{kind} is set by {SET_BY[kind]}")
    if idle["ray-address"]:
        raise UsageError("--ray-address has no meaning without --engine ray", hint="add --engine ray")
    if kind == "text" and idle["device"]:
        raise UsageError("text features are made on the CPU: --device has no meaning for them", hint="leave it out")


def _part(text: str) -> tuple[int, int]:
    """The numbers of I/N; UsageError for anything else."""
    one, slash, of = text.partition("/")
    if not (slash and one.isdecimal() and of.isdecimal() and 1 <= int(one) <= int(of)):
        raise UsageError(f"--part wants I/N with I from 1 to N, got {text!r}", hint="for example --part 2/4")
    return int(one), int(of)
