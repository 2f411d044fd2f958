"""What the README and the pages of docs tell a user to type: every command's options, recipe and settings are valid as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

from fsar_cache.settings import build
from heads.base import HEADS
from pipeline import choose
from pipeline.cli import app
from pipeline.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTLED = ("run", "train", "eval", "extract", "import")
INDENTED = r"(?m)^    .*"
PLACEHOLDER = re.compile(r"NAME|FILE|\.\.\.")


def commands(page: Path) -> Iterator[str]:
    """The commands in backticks and in blocks of code, without `fsar-cache` and without comments."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(INDENTED, text))
    prose = re.sub(INDENTED, "\n", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for typed in [*re.findall(r"`([^`]+)`", prose), *blocks.splitlines()]:
        for one in re.split(r"\s#\s", typed)[0].replace("\n", " ").split("&&"):
            found = re.search(r"fsar-cache (\w.*)", one)
            if found:
                yield found[1].strip()


TYPED = [(page, typed) for page in PAGES for typed in commands(page)]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and its options, as the command line reads them; click's UsageError for what it refuses."""
    command, name = typer.main.get_command(app), ""
    while isinstance(command, typer.core.TyperGroup):
        name, *words = words
        command = command.commands[name]
    return name, command.make_context(name, words).params


def test_there_are_commands_to_look_at() -> None:
    assert len({page for page, _ in TYPED}) >= 12
    assert sum(typed.split(" ")[0] in SETTLED for _, typed in TYPED) >= 40
    assert any("--set follows=ours" in typed for _, typed in TYPED)


@pytest.mark.parametrize(("page", "typed"), TYPED, ids=lambda part: getattr(part, "name", part))
def test_documented_commands_are_valid(page: Path, typed: str) -> None:
    name, given = parsed(shlex.split(typed))
    recipe, head = given.get("recipe"), given.get("head") or given.get("method")
    sets = ["features.normalise=none"] * ("method" in given) + list(given.get("sets") or [])  # as an import does
    sets += [f"features.{key}={given[key]}" for key in ("backbone", "weights", "cut") if given.get(key)]
    if name not in SETTLED or any(PLACEHOLDER.search(text) for text in (recipe or "", head or "", *sets)):
        return
    if str(recipe).endswith(".toml"):
        assert any(recipe_file(each) for each in PAGES), f"{page.name} names {recipe}, but no page has it"
        return
    if name == "extract":
        assert choose.settle_kinds(recipe, head, sets, given["kind"])
        return
    made = choose.load(recipe, head, sets)
    build(HEADS.get(made.head).Config, made.head_config, "head_config")


def recipe_file(page: Path) -> str | None:
    """The recipe that a page shows as mine.toml."""
    found = re.search(r"^    # mine\.toml\n((?:    .*\n)+)", page.read_text(), re.MULTILINE)
    return found and re.sub(r"^    ", "", found[1], flags=re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if recipe_file(page)], ids=lambda page: page.name)
def test_documented_recipes_stand_alone(page: Path, tmp_path: Path) -> None:
    """Whoever has one list of clips has all that they read."""
    (tmp_path / "mine.toml").write_text(recipe_file(page) or "")
    made = load_recipe(str(tmp_path / "mine.toml"))
    assert made.target.dataset.startswith("csv:")
    assert made.source.dataset in ("synth-source", made.target.dataset)
