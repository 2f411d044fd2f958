"""`fsar-cache checkpoint`: published checkpoints to runs, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli_common import AsJson, RecipeName, Sets, examples, print_json

app = typer.Typer(
    help="Read and write checkpoints in the layouts that methods were published in.", no_args_is_help=True
)


@app.command(
    "import",
    epilog=examples(
        "checkpoint import --method gslta checkpoint20000.pt --run theirs",
        "checkpoint import --method trx checkpoint75000.pt --run trx-theirs --set features.backbone=resnet50",
        "checkpoint import --recipe ./mine.toml checkpoint20000.pt --run theirs --set target.dataset=csv:clips.csv",
    ),
)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="a torch or .safetensors file in the method's published layout")],
    run: Annotated[str, typer.Option("--run", help="name of the new run's folder under runs/, or a path")],
    method: Annotated[
        str | None, typer.Option("--method", help="whose checkpoint it is: a head's name (fsar-cache list heads)")
    ] = None,
    recipe: RecipeName = None,
    classes: Annotated[int, typer.Option(min=1, help="training classes of the checkpoint (64: Kinetics)")] = 64,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of a published checkpoint; its backbone's weights become the run's. No code in the file is executed."""
    from pipeline import importing

    made = importing.import_checkpoint(file, recipe, method, run, sets or [], classes)
    if as_json:
        print_json({"run": str(made.run), **made.read, "recipe": made.recipe})
    importing.say_next(made.recipe, made.run)


@app.command(
    "export", epilog=examples("checkpoint export theirs back.pt", "checkpoint export demo mine.safetensors --json")
)
def export_checkpoint(
    run: Annotated[str, typer.Argument(help="the run's name or folder")],
    file: Annotated[Path, typer.Argument(help="where to write: .safetensors, or a torch file by any other name")],
    checkpoint: Annotated[
        str | None, typer.Option(help="last, best or step-N (default: best where validation chose one, else last)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the file")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's weights in the layout that its method was published in; an imported run's as they were."""
    from pipeline import choose, exporting

    made = exporting.export_run(choose.find_run(run), file, checkpoint=checkpoint, force=force)
    if as_json:
        print_json(made)
