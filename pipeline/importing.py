"""The import stage: a published checkpoint becomes a run that can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fsar_cache.console import say
from pipeline import choose
from pipeline.recipe import Recipe

PUBLISHED = ("features.normalise=none", "features.size=224", "features.scaling=unit")
"""How published checkpoints want their features: what a head's own recipe is changed to where no recipe is named."""


def import_checkpoint(
    checkpoint: Path, recipe: str | None, head: str | None, run: str, sets: Sequence[str], classes: int
) -> tuple[Recipe, Path]:
    """Make the run; returns its recipe and folder. A named recipe is taken as it is, a head's is changed to the published protocol."""
    from pipeline.runs import import_published

    wanted = choose.load(recipe, head, list(sets) if recipe else [*PUBLISHED, *sets])
    if not recipe:
        say(f"import: recipe {wanted.name} with features as published: {', '.join(PUBLISHED)}")
    wanted = replace(wanted, target=choose.with_part(wanted.target, choose.DEFAULTS["target part"], "target"))
    folder = choose.named_folder(run)
    made = import_published(checkpoint, wanted, folder, classes)
    say(f"import: {checkpoint.name} is the run {folder}")
    return made, folder


def say_next(recipe: Recipe, folder: Path) -> None:
    """The commands that lead to the run's accuracy."""
    extract = choose.command("extract", choose.run_recipe(folder), None, None, ())
    say(f"next: {extract} {recipe.target.dataset}")
    say(f"then: {choose.command('eval', None, None, choose.run_word(folder), ())}")
