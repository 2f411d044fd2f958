"""`fsar-cache list`: the names that every option knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fsar_cache.console import say
from fsar_cache.errors import unknown
from pipeline.cli_common import AsJson, examples, print_json

if TYPE_CHECKING:
    from pipeline.protocol import Preset
    from pipeline.recipe import Recipe

CUTS = {
    "video": "nothing is stored; decode and everything after it run live, with fresh views in training",
    "frames": "decoded frames, uint8; the whole backbone runs online and can be trained",
    "blockN": "what enters block N of a transformer or ResNet (block10: the first ten blocks are frozen); the rest runs online",
    "map": "the last convolutional map of every frame; pooling runs online",
    "pooled": "one vector per frame; nothing of the backbone runs online",
}

app = typer.Typer(
    help="List heads, backbones, cuts, datasets, recipes, protocols, transforms, sampling rules or decoders.",
    no_args_is_help=True,
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


@app.command(epilog=examples("list recipes --head tamt", "list recipes --published --json"))
def recipes(
    head: Annotated[str | None, typer.Option(help="only those of this head (fsar-cache list heads)")] = None,
    published: Annotated[bool, typer.Option("--published", help="only those with a published number")] = False,
    as_json: AsJson = False,
) -> None:
    """Complete experiments that come with fsar-cache; --json gives every setting.

    Columns: name, head, source -> target (one name: both), way and shot of the evaluation, whose protocol (published: as its authors
    published it; frozen: a variant of it on stored features of a frozen backbone; ours), published accuracy in percent and where it was
    read, what it is.
    """
    from pipeline.recipe import load_recipe, names

    made = [load_recipe(name) for name in names()]
    heads = {recipe.head for recipe in made}
    if head is not None and head not in heads:
        raise unknown("head with recipes", head, heads)
    made = [
        r for r in made if head in (None, r.head) and (not published or (r.published and r.published.value is not None))
    ]
    if as_json:
        print_json({recipe.name: recipe for recipe in made})
        return
    if not made:
        say(f"no recipe of {head} has a published number")
        return
    _table([_columns(recipe) for recipe in made])


@app.command(epilog=examples("list protocols", "list protocols --json"))
def protocols(as_json: AsJson = False) -> None:
    """Published protocols for --protocol: data and episodes, whatever the head; --json gives all, and what differs between papers.

    Columns: name, source -> target (one name: both), way, shot and query of the evaluation, number of episodes, whose.
    """
    from pipeline.protocol import protocol, protocol_names

    made = [protocol(name) for name in protocol_names()]
    print_json({preset.name: preset for preset in made}) if as_json else _table([_protocol(each) for each in made])


def _protocol(preset: Preset) -> tuple[str, ...]:
    """One line of the list of protocols."""
    e = preset.eval
    return (
        preset.name,
        " -> ".join(dict.fromkeys((preset.source.dataset, preset.target.dataset))),
        f"{e.way}-way {e.shot}-shot, {e.query} {'query' if e.query == 1 else 'queries'}",
        f"{e.episodes} episodes",
        preset.whose,
    )


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _columns(recipe: Recipe) -> tuple[str, ...]:
    """One line of the list of recipes; a dataset that is source and target is named once."""
    domains = " -> ".join(dict.fromkeys((recipe.source.dataset, recipe.target.dataset)))
    number = recipe.published
    said = f"{number.value:.2f}, {number.sure or 'not said how sure'}" if number and number.value is not None else "-"
    return (
        recipe.name,
        recipe.head,
        domains,
        f"{recipe.eval.way}-way {recipe.eval.shot}-shot",
        recipe.follows,
        said,
        recipe.about,
    )


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
