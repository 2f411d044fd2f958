"""What the commands share: options, settings made of options, printing JSON, and examples for --help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fsar_cache import places
from fsar_cache.canonical import plain
from fsar_cache.errors import MissingError

AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="change a setting of the recipe, e.g. train.lr=0.0003"),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="a recipe's name (fsar-cache list recipes) or a TOML file")
]
HeadName = Annotated[str | None, typer.Option("--head", help="a head's name; its recipe fills in the rest")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the run's folder under runs/, or a path")]
ProtocolName = Annotated[
    str | None,
    typer.Option("--protocol", help="a published protocol (fsar-cache list protocols): source, target, episodes"),
]
Videos = Annotated[
    Path | None,
    typer.Option("--videos", help="folder of datasets, for this command (default: FSAR_VIDEOS)"),
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="go on where more files are missing than clips may fail")
]
Backbone = Annotated[str | None, typer.Option(help="fsar-cache list backbones")]
Weights = Annotated[str | None, typer.Option(help="timm:NAME, openclip:NAME, file:PATH or random:SEED")]
Cut = Annotated[str | None, typer.Option(help="fsar-cache list cuts")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
MaxFailures = Annotated[float, typer.Option(min=0, max=1, help="share of failed clips above which it ends with code 5")]
Workers = Annotated[int, typer.Option(min=0, help="decode processes (0: as many as cores, a few less beside a GPU)")]


def take_videos(folder: Path | None) -> None:
    """Let this command find datasets in the folder that --videos names; MissingError where there is none."""
    if folder is not None and not folder.is_dir():
        raise MissingError(
            f"--videos {folder}: there is no such folder", hint="name the folder that holds the datasets"
        )
    places.use_videos(folder)


def examples(*commands: str) -> str:
    """The last lines of a command's help: one copyable command per line."""
    return "Examples:\n\n" + "\n\n".join(f"fsar-cache {command}" for command in commands)


def print_json(value: Any) -> None:
    """Plain data, dataclasses included, as JSON on stdout."""
    typer.echo(json.dumps(plain(value), indent=1, ensure_ascii=False))


def setting(name: str, value: Any) -> list[str]:
    """`value` as a `--set` assignment, or nothing where the option was not given."""
    return [] if value is None else [f"{name}={json.dumps(value)}"]


def feature_settings(backbone: str | None, weights: str | None, cut: str | None) -> list[str]:
    """The three options as settings, as far as they were given."""
    return setting("features.backbone", backbone) + setting("features.weights", weights) + setting("features.cut", cut)
