"""`fsar-cache store merge, gc, export, import, import-features`: what joins, clears and shares stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fsar_cache import places
from fsar_cache.console import say, warn
from fsar_cache.errors import FsarError, UsageError
from pipeline.cli_common import AsJson, MaxFailures, examples, print_json

if TYPE_CHECKING:
    from splits.types import Split

_SHOWN = 5
FlowSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="with --kind flow: format=flo or tsn, bound, frames, size, ..."),
]
Backend = Annotated[str, typer.Option(help="zarr, hdf5 or zarr-zstd")]


def add_to(app: typer.Typer) -> None:
    """Make the commands part of `fsar-cache store`."""
    for name, command, shown in (
        (
            "merge",
            merge,
            ("stores/mine/NAME.part-1-of-2 stores/mine/NAME.part-2-of-2 stores/mine/NAME", "A B MERGED --json"),
        ),
        ("gc", gc, ("", "stores/synth-source --yes")),
        ("export", export, ("stores/synth-source/NAME NAME.zip", "stores/synth-source synth-source.zip")),
        ("import", import_packed, ("NAME.zip", "NAME.zip elsewhere/stores")),
        (
            "import-features",
            import_features,
            (
                "features/ --dataset csv:clips.csv --name i3d",
                "flow/ --dataset folder:videos --name tvl1 --kind flow --set format=tsn",
            ),
        ),
    ):
        app.command(name, epilog=examples(*(f"store {name} {words}".strip() for words in shown)))(command)


def merge(
    sources: Annotated[list[Path], typer.Argument(help="the stores to join, of one dataset and fingerprint")],
    target: Annotated[Path, typer.Argument(help="the merged store's folder; one that is there grows")],
    as_json: AsJson = False,
) -> None:
    """Join stores, such as the parts of a divided extraction; blocks are linked where they can be. Prints where the merged store is."""
    from cache.merge import left_out
    from cache.merge import merge as join
    from pipeline.display import display

    with display("merge", "blocks") as show:
        store = join(sources, target, report=lambda done, of: show(done, of, ""))
    waiting, missing, torn = left_out(sources, store), store.missing(), _torn(sources)
    rows, ok = len(store.rows), int(store.ok.sum())
    if as_json:
        told = {"path": store.path, "rows": rows, "ok": ok, "missing_blocks": missing, "left_out": waiting}
        print_json(told | {"damaged": torn})
        return
    say(f"{ok} of {rows} rows have features, in {store.blocks - len(missing)} of {store.blocks} blocks")
    if missing:
        say(f"{len(missing)} blocks are in none of the stores; merge again when they are extracted")
    if waiting:
        warn(f"{len(waiting)} clips wait for the rest of their blocks: {_some(waiting)}")
    _warn_all(torn)
    typer.echo(store.path)


def gc(
    paths: Annotated[list[Path] | None, typer.Argument(help="stores, or folders of them (default: all stores)")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove what is listed")] = False,
    as_json: AsJson = False,
) -> None:
    """List what killed runs left behind, and parts that a merged store holds; with --yes remove it. Nothing in use is touched."""
    from cache.gc import leftovers, sweep

    errors: list[FsarError] = []
    folders = paths or [path for path in [places.stores()] if path.is_dir()]
    found = [one for path in folders for one in leftovers(path, errors.append)]
    listed = sweep(found, errors.append) if yes else found
    size = sum(one.bytes for one in listed) / 1e6
    if as_json:
        print_json([{"path": str(one.path), "bytes": one.bytes, "why": one.why, "removed": yes} for one in listed])
    else:
        for one in listed:
            typer.echo(f"{one.path}  {one.bytes / 1e6:.1f} MB  {one.why}")
        ask = "; --yes removes them" if found and not yes else ""
        say(f"{'removed ' if yes else ''}{len(listed)} files and folders, {size:.1f} MB{ask}")
    raise_last(errors)


def export(
    store: Annotated[Path, typer.Argument(help="a store's folder, or one with all stores of a dataset")],
    file: Annotated[Path, typer.Argument(help="the file to write (a zip)")],
    as_json: AsJson = False,
) -> None:
    """Pack stores into one file with a card and checksums, to share without the videos; prints where the file is."""
    from cache.pack import export as pack
    from pipeline.display import display

    with display("export", "MB") as show:
        stores = pack(store, file, report=lambda done, of: show(done >> 20, of >> 20, ""))
    torn = _torn(stores)
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, "stores": stores, "damaged": torn})
        return
    _warn_all(torn)
    say(f"{len(stores)} stores, {file.stat().st_size / 1e6:.1f} MB; README.md inside says what they are")
    typer.echo(file)


def import_packed(
    file: Annotated[Path, typer.Argument(help="a file that store export wrote")],
    folder: Annotated[Path | None, typer.Argument(help="where to (default: the folder of stores)")] = None,
    as_json: AsJson = False,
) -> None:
    """Make stores of a packed file; every checksum is compared before a store appears. Prints where they are."""
    from cache.unpack import unpack
    from pipeline.display import display

    with display("import", "MB") as show:
        made = unpack(file, folder or places.stores(), report=lambda done, of: show(done >> 20, of >> 20, ""))
    if as_json:
        print_json([{"path": str(path), "new": new} for path, new in made])
        return
    for path, new in made:
        say(f"{path}: {'imported, every checksum is right' if new else 'there already, nothing to do'}")
        typer.echo(path)


def import_features(
    source: Annotated[
        Path,
        typer.Argument(
            help="a folder of .npy files named by clip id, or an HDF5 file; with --kind flow folders per clip"
        ),
    ],
    dataset: Annotated[str, typer.Option(help="whose clips they are (fsar-cache list datasets)")],
    name: Annotated[str, typer.Option(help="of what made them; a part of the store's name")],
    about: Annotated[str, typer.Option(help="what is known of their making, for the store's description")] = "",
    kind: Annotated[
        Literal["features", "flow"], typer.Option(help="flow: .flo files or pairs of 8-bit images")
    ] = "features",
    backend: Backend = "zarr",
    max_failures: MaxFailures = 0.02,
    sets: FlowSets = None,
    as_json: AsJson = False,
) -> None:
    """Bring features that were made elsewhere into a store; prints where it is. Clips without features count as failed.

    Repeated with more arrays it fills them in; the arrays that were imported before must be there then too.
    """
    from cache.medium import require_durable
    from splits.datasets import open_split

    if kind == "features" and sets:
        raise UsageError("--set is for --kind flow", hint="shape and dtype are those of the arrays")
    require_durable(backend)
    split = open_split(dataset)
    given: dict[str, Any] = {"backend": backend, "max_failures": max_failures}
    if kind == "flow":
        told = _import_flow(source, split, name, about, sets or [], given)
    else:
        told = _import_features(source, split, name, about, given)
    if as_json:
        print_json(told)
        return
    say(f"{told['ok']} of {told['ok'] + len(told['failed'])} clips of {split.name} have features in {told['path']}")
    if told["failed"]:
        warn(f"no features of {len(told['failed'])} clips, they count as failed: {_some(told['failed'])}")
    if told.get("waiting"):
        warn(
            f"{len(told['waiting'])} of them have arrays, which were not taken: clips of their blocks that were imported before have no "
            f"arrays in {source}; repeat with all arrays, old and new: {_some(told['waiting'])}"
        )
    if told["strange"]:
        warn(f"{len(told['strange'])} names are no clips of {split.name}, and were left out: {_some(told['strange'])}")
    typer.echo(told["path"])


def _import_features(source: Path, split: Split, name: str, about: str, given: dict[str, Any]) -> dict[str, Any]:
    from cache.imported import import_features as bring
    from cache.rows import Row
    from cache.spec import FeatureSpec
    from extract.config import store_path
    from pipeline.display import display

    rows = [Row(video.id, video.label, part.name) for part in split.parts.values() for video in part.videos]

    def place(spec: FeatureSpec) -> Path:
        return store_path(places.stores(), split.home, spec)

    with display("import", "blocks") as show:
        given |= {"dataset": split.home, "name": name, "about": about, "report": lambda done, of: show(done, of, "")}
        came = bring(source, rows, place, **given)
    told = {"path": str(came.path), "ok": came.ok, "failed": came.failed, "strange": came.strange}
    return told | {"waiting": came.waiting}


def _import_flow(
    source: Path, split: Split, name: str, about: str, sets: list[str], given: dict[str, Any]
) -> dict[str, Any]:
    from extract.flow_import import FlowImport, import_flow
    from fsar_cache.settings import build, override

    settings = build(FlowImport, override({"name": name, "about": about}, sets))
    came = import_flow(source, split, places.stores(), settings, **given)
    failed = [f"{name}: {reason}" for name, reason in came.failed]
    return {"path": str(came.path), "ok": came.ok, "failed": failed, "strange": list(map(str, came.strange))}


def _torn(paths: list[Path]) -> list[str]:
    """What to say of the stores among `paths` that have damaged lines in their ledgers."""
    from cache.store import open_store
    from cache.verify import torn_ledgers

    return torn_ledgers(map(open_store, paths))


def raise_last(errors: list[FsarError]) -> None:
    """Print the errors but the last, and raise that one; nothing where there are none."""
    for earlier in errors[:-1]:
        typer.echo(f"error: {earlier.message}; {earlier.hint}", err=True)
    if errors:
        raise errors[-1]


def _warn_all(told: list[str]) -> None:
    for one in told:
        warn(one)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
