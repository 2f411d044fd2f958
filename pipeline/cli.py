"""The command `fsar-cache`: thin commands over the stages; results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from fsar_cache import __version__
from fsar_cache.console import say
from fsar_cache.errors import EXIT_CODES, FsarError
from pipeline import cli_list, cli_store
from pipeline.cli_common import AsJson, examples, print_json

app = typer.Typer(
    name="fsar-cache",
    help="Few-shot action recognition from cached features: extract once, then train and evaluate episodes in seconds.",
    epilog="Start with: fsar-cache run --recipe demo    Exit codes: "
    + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_store.app, name="store")
app.add_typer(cli_list.app, name="list")

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="change a setting of the recipe, e.g. train.lr=0.0003"),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="a recipe's name (fsar-cache list recipes) or a TOML file")
]
HeadName = Annotated[str | None, typer.Option("--head", help="a head's name; its recipe fills in the rest")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the run's folder under runs/, or a path")]
Backbone = Annotated[str | None, typer.Option(help="fsar-cache list backbones")]
Weights = Annotated[str | None, typer.Option(help="timm:NAME, file:PATH or random:SEED")]
Cut = Annotated[str | None, typer.Option(help="fsar-cache list cuts")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
MaxFailures = Annotated[float, typer.Option(min=0, max=1, help="share of failed clips above which it ends with code 5")]
Workers = Annotated[int, typer.Option(min=0, help="decode processes (0: as many as cores)")]


def _set(name: str, value: Any) -> list[str]:
    """`value` as a `--set` assignment, or nothing where the option was not given."""
    return [] if value is None else [f"{name}={json.dumps(value)}"]


def _features(backbone: str | None, weights: str | None, cut: str | None) -> list[str]:
    return _set("features.backbone", backbone) + _set("features.weights", weights) + _set("features.cut", cut)


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    """Few-shot action recognition from cached features: extract once, then train and evaluate episodes in seconds."""
    if version:
        typer.echo(f"fsar-cache {__version__}")
        raise typer.Exit


@app.command(epilog=examples("synth", "synth --clips 40 --domain source --domain target"))
def synth(
    seed: Annotated[int | None, typer.Option(help="another world of the same kind")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="clips per class")] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="source, target or far; can be repeated (default: all)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render the synthetic domains: encoded videos of moving shapes whose classes are motions."""
    from pipeline import stages

    made = stages.synth(seed, clips, domain or ())
    if as_json:
        print_json(made)


@app.command(epilog=examples("extract synth", "extract csv:clips.csv --weights timm:resnet18.a1_in1k --dry-run"))
def extract(
    dataset: Annotated[
        str, typer.Argument(help="synth, synth-source, ..., folder:PATH or csv:PATH (fsar-cache list datasets)")
    ],
    recipe: RecipeName = None,
    head: HeadName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    cut: Cut = None,
    sets: Sets = None,
    workers: Workers = 0,
    decoder: Annotated[str, typer.Option(help="auto, decord or pyav")] = "auto",
    device: Device = "auto",
    backend: Annotated[str, typer.Option(help="zarr or hdf5")] = "zarr",
    max_failures: MaxFailures = 0.02,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="try failed clips again even if their files are the same as then")
    ] = False,
    time_limit: Annotated[int, typer.Option(min=1, help="seconds that decoding one clip may take")] = 60,
    batch_clips: Annotated[int, typer.Option(min=0, help="clips per device batch (0: as suits the device)")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Decode videos, run the frozen part of the backbone, and store the features; resumes by itself."""
    from pipeline import choose, stages

    features = choose.settle_features(recipe, head, [*_features(backbone, weights, cut), *(sets or [])])
    how = {"workers": workers, "decoder": decoder, "device": device, "backend": backend, "max_failures": max_failures}
    how |= {"time_limit": float(time_limit), "batch_clips": batch_clips}
    made = stages.extract(dataset, features, how, dry_run=dry_run, retry_failed=retry_failed)
    if as_json:
        print_json(made)


@app.command(epilog=examples("train --head gslta", "train --recipe demo --set train.iterations=500 --run short"))
def train(
    head: HeadName = None,
    recipe: RecipeName = None,
    source: Annotated[str | None, typer.Option(help="dataset to train on")] = None,
    target: Annotated[str | None, typer.Option(help="dataset of the unlabelled clips and of the evaluation")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="training episodes")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    cut: Cut = None,
    run: RunName = None,
    sets: Sets = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a head on episodes of cached features; continues an interrupted run exactly where it stopped."""
    from pipeline import choose, stages

    changes = _set("source.dataset", source) + _set("target.dataset", target) + _set("train.iterations", iterations)
    changes += [*_features(backbone, weights, cut), *(sets or [])]
    chosen = choose.settle(recipe, head, changes)
    made = stages.train(chosen, choose.run_folder(chosen, run, changes), device=device)
    if as_json:
        print_json(made)
    else:
        say(f"next: fsar-cache eval --run {made.folder.name}")


@app.command(
    "eval", epilog=examples("eval --target synth-target", "eval --head protonet --target csv:clips.csv --shot 1")
)
def evaluate(
    target: Annotated[str | None, typer.Option(help="dataset to evaluate on (default: the recipe's)")] = None,
    run: RunName = None,
    head: HeadName = None,
    recipe: RecipeName = None,
    way: Annotated[int | None, typer.Option(min=2)] = None,
    shot: Annotated[int | None, typer.Option(min=1)] = None,
    query: Annotated[int | None, typer.Option(min=1, help="queries per class")] = None,
    episodes: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="which episodes are drawn")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    cut: Cut = None,
    sets: Sets = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of a trained run, or of a head that needs no training, on episodes of the target."""
    from pipeline import evaluating

    changes = _set("target.dataset", target)
    for name, value in (("way", way), ("shot", shot), ("query", query), ("episodes", episodes), ("seed", seed)):
        changes += _set(f"eval.{name}", value)
    changes += _features(backbone, weights, cut)
    made = evaluating.evaluate(recipe, head, run, [*changes, *(sets or [])], device=device)
    print_json(made) if as_json else typer.echo(evaluating.headline(made))


@app.command(epilog=examples("run --recipe demo", "run --recipe otam --set eval.shot=1"))
def run(
    recipe: Annotated[str, typer.Option("--recipe", help="a recipe's name (fsar-cache list recipes) or a TOML file")],
    run: RunName = None,
    sets: Sets = None,
    workers: Workers = 0,
    max_failures: MaxFailures = 0.02,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Everything of a recipe: videos, features, training, evaluation, report; finished stages are not repeated."""
    from pipeline import choose, evaluating, stages

    chosen = choose.settle(recipe, None, sets or [])
    folder = choose.run_folder(chosen, run, sets or [])
    made = stages.run(chosen, folder, {"workers": workers, "device": device, "max_failures": max_failures})
    print_json(made) if as_json else typer.echo(evaluating.headline(made))
    stages.say_next(folder)


@app.command(epilog=examples("report", "report demo"))
def report(
    run: Annotated[str | None, typer.Argument(help="the run's name or folder (default: the newest)")] = None,
) -> None:
    """Write the run's report.html, one self-contained page, and print where it is."""
    from pipeline import choose, stages

    typer.echo(stages.report(choose.find_run(run)))


@app.command(epilog=examples("doctor", "doctor --json"))
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: Python, torch and torchvision, decoders, faiss, disk, GPU, folders; say how to mend what is broken."""
    from pipeline import doctor as checks

    findings = checks.examine()
    print_json(findings) if as_json else _print_findings(findings)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(2)


def _print_findings(findings: list[Any]) -> None:
    from fsar_cache.console import out

    styles = {"ok": "green", "note": "dim", "warning": "yellow", "broken": "bold red"}
    console = out()
    for finding in findings:
        console.print(f"{finding.status:<8}", style=styles[finding.status], end="")
        console.print(f"{finding.name:<23} {finding.seen}", markup=False)
        if finding.mend:
            console.print(f"{'':8}{'':<23} mend: {finding.mend}", markup=False)


def _complain(message: str, hint: str | None) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201 - works even where rich does not
    if hint:
        print(f"hint: {hint}", file=sys.stderr)  # noqa: T201


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code and never lets a user's mistake end in a traceback."""
    try:
        code = app(args=args, prog_name="fsar-cache", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except FsarError as error:
        _complain(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:
        if error.format_message():  # none where a group without a command has printed its help
            _complain(error.format_message(), _help_of(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted", "repeat the command; finished work is kept")
        return 130
    except (
        BrokenPipeError,
        SystemExit,
    ):  # typer's answer to a closed pipe is to exit; nobody reads on, which is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _complain("out of memory", "use fewer workers, or features on disk: --set features.cut=pooled")
        return 6
    except Exception:  # noqa: BLE001 - the last net: shown whole, called a bug, exit code 1
        print("This is a bug in fsar-cache; please report it with the command and the lines below.", file=sys.stderr)  # noqa: T201
        sys.excepthook(*sys.exc_info())
        return 1


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'fsar-cache'} --help"


if __name__ == "__main__":
    sys.exit(main())
