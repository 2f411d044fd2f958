"""`fsar-cache store`: look at feature stores, check their bytes, change their format (what joins and shares them: `cli_pack`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsar_cache.canonical import plain
from fsar_cache.errors import FsarError, IntegrityError, MissingError
from pipeline import cli_pack
from pipeline.cli_common import AsJson, examples, print_json

if TYPE_CHECKING:
    from cache.features import FeatureStore
    from cache.medium import Finding

app = typer.Typer(help="Look at feature stores, check, join and share them.", no_args_is_help=True)
StorePath = Annotated[Path, typer.Argument(help="the store's folder (fsar-cache store ls)")]
StorePaths = Annotated[Path, typer.Argument(help="a store's folder, or one that holds several (fsar-cache store ls)")]


def stores_at(path: Path) -> list[Path]:
    """The store at `path`, or those in it; MissingError where there is none."""
    from cache.store import open_store, stores_under

    return stores_under(path) or [open_store(path).path]


@app.command(epilog=examples("store ls", "store ls --json"))
def ls(
    folder: Annotated[Path | None, typer.Argument(help="where to look (default: the folder of stores)")] = None,
    as_json: AsJson = False,
) -> None:
    """List the stores: finished and failed rows, kind, shape, size."""
    from cache.store import stores_under
    from fsar_cache import places

    if folder is not None and not folder.is_dir():
        raise MissingError(
            f"no folder {folder}", hint="fsar-cache store ls, without a folder, looks in the folder of stores"
        )
    rows = []
    sound, errors = _facts(stores_under(folder or places.stores()))
    for facts in sound:
        shape = f"{'x'.join(map(str, facts['spec']['shape']))} {facts['spec']['dtype']}"
        names = ("path", "dataset", "backend", "rows", "ok", "failed", "absent", "damaged", "unfinished", "bytes")
        rows.append(
            {name: facts[name] for name in (*names, "fingerprint")}
            | {"kind": facts["spec"]["kind"], "cut": facts["spec"]["cut"], "shape": shape}
        )
    if as_json:
        print_json(rows)
    elif not rows and not errors:
        typer.echo("no stores here yet; make one with: fsar-cache extract synth", err=True)
    if not as_json:
        _print_columns([_columns(row) for row in rows])
    cli_pack.raise_last(errors)


def _columns(row: dict[str, Any]) -> list[str]:
    """One line of `ls`, in columns."""
    state = f"{row['ok']} of {row['rows']} rows"
    state += "".join(f", {row[name]} {name}" for name in ("failed", "absent", "damaged", "unfinished") if row[name])
    return [row["path"], _what(row), row["shape"], state, f"{row['bytes'] / 1e6:.1f} MB", row["backend"]]


def _print_columns(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def _facts(paths: list[Path]) -> tuple[list[dict[str, Any]], list[FsarError]]:
    """Facts of the stores that can be read, and the errors of those that can't."""
    from cache.store import open_store

    told: list[dict[str, Any]] = []
    errors: list[FsarError] = []
    for path in paths:
        try:
            with open_store(path) as store:
                told.append(store.info())
        except FsarError as error:
            errors.append(error)
    return told, errors


def _what(row: dict[str, Any]) -> str:
    """Kind and cut of a store, once where they are the same word."""
    return str(row["cut"]) if row["kind"] in (row["cut"], "features") else f"{row['kind']} {row['cut']}"


@app.command(epilog=examples("store info stores/synth-source/NAME", "store info stores/synth-source --json"))
def info(store: StorePaths, as_json: AsJson = False) -> None:
    """Show what made a store's rows, and how far it is; of a folder with several stores all of them (as JSON: a list)."""
    told, errors = _facts(stores_at(store))
    if as_json:
        print_json(told[0] if [store] == [Path(facts["path"]) for facts in told] else told)
    for number, facts in enumerate(() if as_json else told):
        if number:
            typer.echo()
        _print_facts(facts)
    cli_pack.raise_last(errors)


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{name}:")
            _print_facts(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            typer.echo(f"{indent}{name}:")
            for item in value:
                typer.echo(f"{indent}  " + ", ".join(f"{key} {told}" for key, told in item.items()))
        else:
            typer.echo(f"{indent}{name}: {value}")


@app.command(epilog=examples("store verify stores/synth-source/NAME", "store verify stores/synth-source --mend"))
def verify(
    store: StorePaths,
    mend: Annotated[
        bool, typer.Option("--mend", help="drop damaged blocks, so that the next extract makes them again")
    ] = False,
    sample: Annotated[int, typer.Option(min=0, help="also make N random slices again from the videos and compare")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="which slices those are")] = 0,
    dataset: Annotated[
        str | None, typer.Option(help="csv:PATH or folder:PATH, where the store's dataset has no other name")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every block against its checksum; exit code 4 if one is missing, torn or changed. Files that don't belong there are notes.

    With --sample also compare rows with what the videos and weights give now: byte for byte where the same machine type and packages made
    them, within a stated tolerance elsewhere; exit code 4 where they are something else.
    """
    from pipeline.rechecking import recheck_store

    paths, told = stores_at(store), []
    errors: list[FsarError] = []
    for path in paths:
        findings: list[Finding] = []
        error: FsarError | None = None
        try:
            findings, error = _verified(path, mend, quiet=as_json, name=f"{path}: " if len(paths) > 1 else "")
        except FsarError as unreadable:
            error = unreadable
        told += [{"store": str(path), **plain(finding)} for finding in findings]
        errors += [error] if error else []
        if sample and not error:
            made, wrong = recheck_store(path, sample, seed, dataset)
            told += [{"store": str(path), "made_again": plain(made)}] if made else []
            errors += [wrong] if wrong else []
    if as_json:
        print_json(told)
    cli_pack.raise_last(errors)


def _verified(path: Path, mend: bool, quiet: bool, name: str) -> tuple[list[Finding], IntegrityError | None]:
    """Check one store, print its findings (unless `quiet`, each line beginning with `name`); the error where damage stays."""
    from cache.store import open_store
    from cache.verify import damage
    from cache.verify import mend as drop_damaged

    with open_store(path) as opened:
        findings = opened.verify()
        again = f"then repeat the extraction that made it: {_made_from(opened)}"
        dropped = drop_damaged(opened, findings) if mend else []
        blocks, wrong, unfinished = len(opened.done) + len(dropped), damage(findings), len(opened.missing())
    for finding in () if quiet else findings:
        where = f"block {finding.block}: " if finding.block is not None else "ledger: " if finding in wrong else ""
        kind = f"{finding.kind}: " if finding in wrong else "note: "
        typer.echo(f"{name}{where}{kind}{finding.detail}")
    lines = sum(finding.block is None for finding in wrong)
    if not wrong:
        left = f", {unfinished} are not written yet" if unfinished else ""
        typer.echo(f"{path}: {blocks} blocks are sound{left}", err=True)
    elif mend:
        typer.echo(f"{path}: dropped {len(dropped)} damaged blocks and {lines} lines of the ledger; {again}", err=True)
    else:
        return findings, IntegrityError(
            f"{path}: {len(wrong) - lines} of {blocks} blocks and {lines} lines of the ledger are damaged",
            hint=f"fsar-cache store verify {path} --mend, {again}",
        )
    return findings, None


def _made_from(store: FeatureStore) -> str:
    """What the store and the provenance of its blocks know of the extraction that made it, for a person."""
    spec, entries = store.spec, [store.entry(block) for block in sorted(store.done)]
    weights = sorted({str(entry.provenance["weights"]) for entry in entries if entry and "weights" in entry.provenance})
    facts = {
        "dataset": store.dataset,
        "backbone": spec.backbone.get("name"),
        "weights": " or ".join(weights),
        "cut": spec.cut,
        "frames": spec.sampling.get("frames"),
        "size": spec.transform.get("size"),
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)


@app.command(
    epilog=examples(
        "store convert stores/mine/NAME stores/mine/NAME-h5 --backend hdf5",
        "store convert stores/mine/NAME cold/NAME --backend zarr-zstd",
    )
)
def convert(
    source: StorePath,
    copy: Annotated[Path, typer.Argument(help="the copy's folder")],
    backend: Annotated[str, typer.Option(help="zarr, hdf5 or zarr-zstd (compressed, for cold copies)")] = "hdf5",
) -> None:
    """Copy a store to another format without changing a byte of the features; prints where the copy is."""
    from cache.convert import convert as copy_blocks
    from cache.medium import require_durable
    from pipeline.display import display

    require_durable(backend)
    with display("convert", "blocks") as show:
        copy_blocks(source, copy, backend, report=lambda done, of: show(done, of, "")).close()
    typer.echo(copy)


cli_pack.add_to(app)
