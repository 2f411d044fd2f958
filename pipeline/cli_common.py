"""What the commands share: the --json option, printing JSON, and examples for --help."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fsar_cache.canonical import plain

AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


def examples(*commands: str) -> str:
    """The last lines of a command's help: one copyable command per line."""
    return "Examples:\n\n" + "\n\n".join(f"fsar-cache {command}" for command in commands)


def print_json(value: Any) -> None:
    """Plain data, dataclasses included, as JSON on stdout."""
    typer.echo(json.dumps(plain(value), indent=1, ensure_ascii=False))
