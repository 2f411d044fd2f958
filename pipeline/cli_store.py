"""`fsar-cache store`: look at feature stores, check their bytes, change their format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsar_cache.errors import IntegrityError
from pipeline.cli_common import AsJson, examples, print_json

if TYPE_CHECKING:
    from cache.features import FeatureStore

app = typer.Typer(help="Look at feature stores: ls, info, verify, convert.", no_args_is_help=True)
StorePath = Annotated[Path, typer.Argument(help="the store's folder (fsar-cache store ls)")]


@app.command(epilog=examples("store ls", "store ls --json"))
def ls(
    folder: Annotated[Path | None, typer.Argument(help="where to look (default: the folder of stores)")] = None,
    as_json: AsJson = False,
) -> None:
    """List the stores: finished and failed rows, shape, size."""
    from cache.store import open_store, stores_under
    from fsar_cache import places

    rows = []
    for path in stores_under(folder or places.stores()):
        with open_store(path) as store:
            facts = store.info()
        shape = f"{'x'.join(map(str, facts['spec']['shape']))} {facts['spec']['dtype']}"
        names = ("path", "dataset", "backend", "rows", "ok", "failed", "absent", "damaged", "unfinished", "bytes")
        rows.append(
            {name: facts[name] for name in (*names, "fingerprint")} | {"cut": facts["spec"]["cut"], "shape": shape}
        )
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo("no stores here yet; make one with: fsar-cache extract synth", err=True)
    for row in () if as_json else rows:
        state = f"{row['ok']} of {row['rows']} clips"
        state += "".join(f", {row[name]} {name}" for name in ("failed", "absent", "damaged", "unfinished") if row[name])
        typer.echo(
            f"{row['path']}  {row['cut']} {row['shape']}  {state}  {row['bytes'] / 1e6:.1f} MB  {row['backend']}"
        )


@app.command(epilog=examples("store info stores/synth-source/NAME", "store info stores/synth-source/NAME --json"))
def info(store: StorePath, as_json: AsJson = False) -> None:
    """Show what made a store's rows, and how far it is."""
    from cache.store import open_store

    with open_store(store) as opened:
        facts = opened.info()
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts)


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


@app.command(epilog=examples("store verify stores/synth-source/NAME", "store verify stores/synth-source/NAME --mend"))
def verify(
    store: StorePath,
    mend: Annotated[
        bool, typer.Option("--mend", help="drop damaged blocks, so that the next extract makes them again")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every block against its checksum; exit code 4 if one is missing, torn or changed. Files that don't belong there are notes."""
    from cache.store import open_store
    from cache.verify import damage
    from cache.verify import mend as drop_damaged

    with open_store(store) as opened:
        findings = opened.verify()
        again = f"then repeat the extraction that made it: {_made_from(opened)}"
        dropped = drop_damaged(opened, findings) if mend else []
        blocks, wrong, unfinished = len(opened.done) + len(dropped), damage(findings), len(opened.missing())
    if as_json:
        print_json(findings)
    for finding in () if as_json else findings:
        where = f"block {finding.block}: " if finding.block is not None else "ledger: " if finding in wrong else ""
        kind = f"{finding.kind}: " if finding in wrong else "note: "
        typer.echo(f"{where}{kind}{finding.detail}")
    if not wrong:
        left = f", {unfinished} are not written yet" if unfinished else ""
        typer.echo(f"{store}: {blocks} blocks are sound{left}", err=True)
        return
    lines = sum(finding.block is None for finding in wrong)
    if not mend:
        raise IntegrityError(
            f"{store}: {len(wrong) - lines} of {blocks} blocks and {lines} lines of the ledger are damaged",
            hint=f"fsar-cache store verify {store} --mend, {again}",
        )
    typer.echo(f"dropped {len(dropped)} damaged blocks and {lines} lines of the ledger; {again}", err=True)


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
        "store convert stores/mine/NAME stores/mine/NAME-h5 --backend hdf5", "store convert OLD NEW --backend zarr"
    )
)
def convert(
    source: StorePath,
    copy: Annotated[Path, typer.Argument(help="the copy's folder")],
    backend: Annotated[str, typer.Option(help="zarr or hdf5")] = "hdf5",
) -> None:
    """Copy a store to another format without changing a byte of the features; prints where the copy is."""
    from cache.convert import convert as copy_blocks
    from pipeline.display import display

    with display("convert", "blocks") as show:
        copy_blocks(source, copy, backend, report=lambda done, of: show(done, of, "")).close()
    typer.echo(copy)
