"""`fsar-cache list`: the names that every option knows."""

from __future__ import annotations

import typer

from pipeline.cli_common import AsJson, examples, print_json

CUTS = {
    "video": "nothing is stored; decode and everything after it run live, with fresh views in training",
    "frames": "decoded frames, uint8; the whole backbone runs online and can be trained",
    "blockN": "what enters block N of a transformer or ResNet (block10: the first ten blocks are frozen); the rest runs online",
    "map": "the last convolutional map of every frame; pooling runs online",
    "pooled": "one vector per frame; nothing of the backbone runs online",
}

app = typer.Typer(
    help="List heads, backbones, cuts, datasets, recipes, transforms, sampling rules or decoders.", no_args_is_help=True
)


def _print(rows: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    width = max(map(len, rows), default=0)
    for name, about in rows.items():
        typer.echo(f"{name:<{width}}  {about}".rstrip())


def _first_line(member: object) -> str:
    return (getattr(member, "__doc__", None) or "").strip().split("\n")[0]


@app.command(epilog=examples("list heads", "list heads --json"))
def heads(as_json: AsJson = False) -> None:
    """Methods: what compares support and query clips."""
    from heads.base import HEADS

    _print({name: _first_line(HEADS.get(name)) for name in HEADS}, as_json)


@app.command(epilog=examples("list backbones", "list backbones --json"))
def backbones(as_json: AsJson = False) -> None:
    """Frame and video networks, with the cuts each one has."""
    from extract.defaults import CUTS as OF_BACKBONE

    _print({name: f"cuts: {cuts}" for name, cuts in OF_BACKBONE.items()}, as_json)


@app.command(epilog=examples("list cuts", "list cuts --json"))
def cuts(as_json: AsJson = False) -> None:
    """Where a backbone can be cut: what the store holds, what stays online."""
    _print(CUTS, as_json)


@app.command(epilog=examples("list datasets", "list datasets --json"))
def datasets(as_json: AsJson = False) -> None:
    """Names of datasets, and the forms folder:PATH and csv:PATH."""
    from splits.datasets import known_datasets

    _print(dict(known_datasets()), as_json)


@app.command(epilog=examples("list recipes", "list recipes --json"))
def recipes(as_json: AsJson = False) -> None:
    """Complete experiments that come with fsar-cache."""
    from pipeline.recipe import load_recipe, names

    _print({name: load_recipe(name).about for name in names()}, as_json)


@app.command(epilog=examples("list transforms", "list transforms --json"))
def transforms(as_json: AsJson = False) -> None:
    """Named geometric preparations of frames."""
    from extract.transforms import TRANSFORMS

    _print({name: _first_line(TRANSFORMS.get(name)) for name in TRANSFORMS}, as_json)


@app.command(epilog=examples("list sampling", "list sampling --json"))
def sampling(as_json: AsJson = False) -> None:
    """Named rules for choosing frames of a clip."""
    from extract.sampling import SAMPLING

    _print({name: _first_line(SAMPLING.get(name)) for name in SAMPLING}, as_json)


@app.command(epilog=examples("list decoders", "list decoders --json"))
def decoders(as_json: AsJson = False) -> None:
    """Video decoders."""
    from extract.decoders import DECODERS

    _print({name: _first_line(DECODERS.get(name)) for name in DECODERS}, as_json)
