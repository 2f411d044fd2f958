"""The command `fsar-cache`: thin commands over the stages; results go to stdout, everything else to stderr."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

import typer

from fsar_cache import __version__, places
from fsar_cache.console import forget_warnings, say
from fsar_cache.errors import EXIT_CODES, Interrupted, UsageError
from pipeline import cli_checkpoint, cli_list, cli_split, cli_store
from pipeline.cli_common import (
    AsJson,
    Backbone,
    Cut,
    Device,
    HeadName,
    MaxFailures,
    ProtocolName,
    RecipeName,
    RunName,
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
from pipeline.cli_end import Results, answer, code_of
from pipeline.cli_extract import EXAMPLES, extract

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
app.add_typer(cli_checkpoint.app, name="checkpoint")
app.add_typer(cli_list.app, name="list")
app.add_typer(cli_split.app, name="split")


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


app.command(epilog=EXAMPLES)(extract)


@app.command(
    epilog=examples(
        "train --head gslta",
        "train --head trx --protocol ssv2-full-5shot",
        "train --recipe demo --set train.iterations=500 --run short",
    )
)
def train(
    head: HeadName = None,
    recipe: RecipeName = None,
    protocol: ProtocolName = None,
    source: Annotated[str | None, typer.Option(help="dataset to train on")] = None,
    target: Annotated[str | None, typer.Option(help="dataset of the unlabelled clips and of the evaluation")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="training episodes")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    cut: Cut = None,
    run: RunName = None,
    sets: Sets = None,
    videos: Videos = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a head on episodes of cached features; continues an interrupted run exactly where it stopped."""
    from pipeline import choose, stages

    take_videos(videos)
    changes = (
        setting("source.dataset", source) + setting("target.dataset", target) + setting("train.iterations", iterations)
    )
    changes += [*feature_settings(backbone, weights, cut), *(sets or [])]
    chosen = choose.settle(recipe, head, changes, protocol)
    made = stages.train(chosen, choose.run_folder(chosen, run, changes), device=device)
    if as_json:
        print_json(made)
    else:
        say(f"next: {choose.command('eval', None, None, choose.run_word(made.folder), ())}")


@app.command(
    "eval",
    epilog=examples(
        "eval --target synth-target",
        "eval --run demo --shot 1 --checkpoint last",
        "eval --head otam --protocol kinetics100-1shot",
        "eval --head protonet --target csv:clips.csv --shot 1",
    ),
)
def evaluate(
    target: Annotated[str | None, typer.Option(help="dataset to evaluate on (default: the recipe's)")] = None,
    source: Annotated[
        str | None, typer.Option(help="dataset whose deviations normalise features, for a head that needs no training")
    ] = None,
    run: RunName = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="last, best or step-N (default: best where validation chose one, else last)")
    ] = None,
    head: HeadName = None,
    recipe: RecipeName = None,
    protocol: ProtocolName = None,
    way: Annotated[int | None, typer.Option(min=2)] = None,
    shot: Annotated[int | None, typer.Option(min=1)] = None,
    query: Annotated[int | None, typer.Option(min=1, help="queries per class")] = None,
    episodes: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="which episodes are drawn")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    cut: Cut = None,
    sets: Sets = None,
    videos: Videos = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of a trained run, or of a head that needs no training, on episodes of the target."""
    from pipeline import evaluating

    take_videos(videos)
    changes = setting("target.dataset", target) + setting("source.dataset", source)
    for name, value in (("way", way), ("shot", shot), ("query", query), ("episodes", episodes), ("seed", seed)):
        changes += setting(f"eval.{name}", value)
    changes += feature_settings(backbone, weights, cut)
    changes += sets or []
    made = evaluating.evaluate(recipe, head, run, changes, protocol=protocol, checkpoint=checkpoint, device=device)
    print_json(made) if as_json else typer.echo(evaluating.headline(made))


@app.command(
    epilog=examples(
        "run --recipe demo", "run --recipe otam --set eval.shot=1", "run --recipe trx --protocol ucf101-5shot"
    )
)
def run(
    recipe: Annotated[str, typer.Option("--recipe", help="a recipe's name (fsar-cache list recipes) or a TOML file")],
    protocol: ProtocolName = None,
    run: RunName = None,
    sets: Sets = None,
    videos: Videos = None,
    workers: Workers = 0,
    max_failures: MaxFailures = 0.02,
    skip_missing: SkipMissing = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Everything of a recipe: videos, features, training, evaluation, report; finished stages are not repeated."""
    from pipeline import choose, evaluating, stages

    take_videos(videos)
    before, after = choose.split_sets(sets or [], choose.UNNAMED)
    choose.load(
        recipe, None, sets or [], protocol
    )  # a mistake in what only the evaluation reads is named before the work begins
    chosen = choose.settle(recipe, None, before, protocol)
    folder = choose.run_folder(chosen, run, before)
    how = {"workers": workers, "device": device, "max_failures": max_failures, "skip_missing": skip_missing}
    made = stages.run(chosen, folder, after, how)
    print_json(made) if as_json else typer.echo(evaluating.headline(made))
    stages.say_next(folder, made)


@app.command(epilog=examples("report", "report demo", "report --run demo"))
def report(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="the run's name or folder (default: the newest)")
    ] = None,
    run: RunName = None,
) -> None:
    """Write the run's report.html, one self-contained page, and print where it is."""
    from pipeline import choose, stages

    if name and run and name != run:
        raise UsageError(f"one run at a time, got {name!r} and --run {run!r}", hint=f"fsar-cache report {name}")
    typer.echo(stages.report(choose.find_run(name or run)))


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


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code and never lets a user's mistake end in a traceback."""
    streams = sys.stdout, sys.stderr
    results: Any = Results(sys.stdout)
    forget_warnings()
    try:
        sys.stdout = results
        code = app(args=args, prog_name="fsar-cache", standalone_mode=False)
        results.flush()
        if code == Interrupted.exit_code:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        typed = shlex.join(["fsar-cache", *(sys.argv[1:] if args is None else args)])
        return answer(Interrupted("interrupted", hint=f"finished work is kept; go on with: {typed}"))
    except SystemExit as left:
        # typer and rich answer a broken pipe, any, by leaving
        cause = left.__context__
        return answer(cause) if isinstance(cause, BrokenPipeError) else code_of(left)
    except Exception as error:  # noqa: BLE001 - the last net
        return answer(error)
    finally:
        places.use_videos(None)
        sys.stdout, sys.stderr = streams


if __name__ == "__main__":
    sys.exit(main())
