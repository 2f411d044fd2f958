"""`fsar-cache split`: published and imported splits: which there are, what is in them, what they lack, what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsar_cache import places
from fsar_cache.console import say
from fsar_cache.errors import UsageError
from pipeline.cli_common import AsJson, Videos, examples, print_json, take_videos

app = typer.Typer(help="Published splits: list, look at, check, import and compare them.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="a split's name (fsar-cache split ls), a dataset's, csv:PATH or folder:PATH")]


def _print(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)


@app.command(epilog=examples("split ls", "split ls --json"))
def ls(videos: Videos = None, as_json: AsJson = False) -> None:
    """List published and imported splits: classes/videos of each partition, and whether it can be used.

    States: ready; incomplete (without some partition); needs its list (split import); no videos; imported, no videos; what else is wrong
    is said in brackets.
    """
    from pipeline import split_states, split_words

    take_videos(videos)
    rows = split_states.listed(places.videos())
    print_json(rows) if as_json else _print(split_words.table_of(rows))
    say(
        f"videos are looked for in {places.videos().absolute()} (FSAR_VIDEOS), lists in {places.lists().absolute()} (FSAR_LISTS)"
    )


@app.command(epilog=examples("split show kinetics100", "split show ssv2 --classes --json"))
def show(
    name: Name,
    classes: Annotated[bool, typer.Option("--classes", help="every class with its counts")] = False,
    videos: Videos = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of a split: whose it is, how it is made, counts as published and as found, what differs between papers.

    A dataset's name shows the split that it stands for, and which others there are. Nothing of it needs to be on disk.
    """
    from pipeline import split_facts, split_words

    take_videos(videos)
    facts = split_facts.described(name, places.videos())
    print_json(facts) if as_json else _print(split_words.shown(facts, classes))


@app.command(epilog=examples("split check ssv2-full", "split check rareact-tamt --way 5 --shot 5 --query 5"))
def check(
    name: Name,
    way: Annotated[int, typer.Option(min=2, help="classes of an episode")] = 5,
    shot: Annotated[int, typer.Option(min=1, help="examples of each class")] = 5,
    query: Annotated[int, typer.Option(min=1, help="queries of each class")] = 1,
    videos: Videos = None,
    as_json: AsJson = False,
) -> None:
    """Check a split: counts against the published ones, missing files, classes too small for the protocol, what partitions share.

    Ends with "ok" or the number of things to know. Exit code 0 where it could be checked, whatever there is to know; 3 where nothing of it
    is there; 4 where classes or partitions have not as many clips as published.
    """
    from pipeline import split_check, split_words
    from splits.types import Protocol

    take_videos(videos)
    made = split_check.check(name, Protocol(way, shot, query), places.videos())
    print_json(made) if as_json else _print(split_words.checked(made))
    if made.code:
        raise typer.Exit(made.code)


@app.command(
    "import",
    epilog=examples(
        "split import lists/kinetics-100", "split import mine.txt --name mine --dataset ssv2 --partition test"
    ),
)
def import_split(
    path: Annotated[Path, typer.Argument(metavar="FILE_OR_FOLDER", help="a published list, or a folder of lists")],
    name: Annotated[
        str | None,
        typer.Option(help="of a split of your own; or which published split is meant, where several share a list"),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="whose clips they are, where their names don't tell")] = None,
    partition: Annotated[str | None, typer.Option(help="train, val, test or all, where the list doesn't tell")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="put it in place of what was imported under this name")
    ] = False,
    videos: Videos = None,
    as_json: AsJson = False,
) -> None:
    """Import lists of clips: published ones are recognised by their content, in whatever form and order; others need a --name.

    All is checked before anything is kept. The lists themselves are not needed any more afterwards.
    """
    from pipeline import split_import_words
    from splits.published.importing import import_lists

    take_videos(videos)
    try:
        report = import_lists(path, name=name, dataset=dataset, partition=partition, replace=replace)
    except OSError as error:
        where = places.lists()
        raise UsageError(
            f"can't keep lists in {where}: {error.strerror}", hint="FSAR_LISTS moves that folder"
        ) from error
    print_json(report) if as_json else _print(split_import_words.words(report))
    for line in split_import_words.next_commands(report, places.videos()):
        say(line)


@app.command(epilog=examples("split diff kinetics100 kinetics100-gslta", "split diff ssv2-small ssv2-full --json"))
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="a split's name")],
    other: Annotated[str, typer.Argument(metavar="B", help="another's, or the same")],
    videos: Videos = None,
    as_json: AsJson = False,
) -> None:
    """Show what two splits share, for every two partitions: classes, recordings, clips; the same split twice: its own partitions.

    Classes of nearly one name are those whose words are equal but for their endings. Of two splits of one dataset also the clips that
    only one of them has in a partition. What isn't there is compared by the names of its classes.
    """
    from pipeline import split_diff

    take_videos(videos)
    made = split_diff.diff(one, other, places.videos())
    print_json(made) if as_json else _print(split_diff.words(made))


@app.command(
    epilog=examples("split missing kinetics100", "split missing kinetics100 --csv --partition test --out missing.csv")
)
def missing(
    name: Name,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="id,class,partition,path,url,start,end for a downloader")
    ] = False,
    partition: Annotated[str | None, typer.Option(help="only of this partition")] = None,
    out: Annotated[Path | None, typer.Option(help="write it to this file")] = None,
    videos: Videos = None,
    as_json: AsJson = False,
) -> None:
    """List the clips whose file isn't there, one id per line.

    RareAct's clips are spans of full videos: there it is one line per missing full video, by its YouTube id, with all its classes; it is
    needed whole, so start and end stay empty. Addresses are those of Kinetics and RareAct; of Diving48 only whole competitions are known.
    """
    from pipeline import split_missing

    take_videos(videos)
    if as_csv and as_json:
        raise UsageError("--csv or --json, not both", hint=f"fsar-cache split missing {name} --csv")
    split, rows = split_missing.lost(name, partition, places.videos())
    text = split_missing.as_csv(rows) if as_csv else split_missing.as_lines(rows)
    if out is not None:
        split_missing.write(out, rows if as_json else text)
    elif as_json:
        print_json(rows)
    else:
        typer.echo(text, nl=False)
    say(split_missing.headline(split, rows, partition, out))
