"""The evaluation stage: a trained run, or a head that needs no training; which of the two is found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar_cache import places
from fsar_cache.canonical import digest, plain
from fsar_cache.console import say, warn
from fsar_cache.errors import MissingError
from fsar_cache.files import read_json
from pipeline import choose
from pipeline.display import display
from pipeline.recipe import Recipe
from splits.datasets import open_split

if TYPE_CHECKING:
    from pipeline.results import Evaluation


def evaluate(
    recipe: str | None, head: str | None, run: str | None, sets: Sequence[str], *, device: str = "auto"
) -> Evaluation:
    """Evaluate a trained run, or a head without parameters; `sets` may change target and evaluation of a trained one.

    Without recipe, head and run it is the newest run.
    """
    if recipe or head:
        after = [text for text in sets if text.startswith(("target.", "eval."))]
        before = [text for text in sets if text not in after]
        for chosen in (sets, before):  # the run trained with all these settings, else the one to be evaluated with them
            folder = choose.run_folder(choose.load(recipe, head, chosen), run, chosen)
            if is_trained(folder):
                return evaluate_trained(folder, after, device)
        whole = choose.settle(recipe, head, sets)
        if needs_training(whole):
            named = f"--recipe {recipe}" if recipe else f"--head {head}"
            raise MissingError(
                f"{whole.head} must be trained before it is evaluated; there is no run {folder}",
                hint=f"fsar-cache train {named}",
            )
        return evaluate_untrained(whole, choose.run_folder(whole, run, sets), device)
    from pipeline.folder import read_config

    folder = choose.find_run(run)
    if is_trained(folder):
        return evaluate_trained(folder, sets, device)
    whole = read_config(folder, list(sets))
    if needs_training(whole):
        raise MissingError(
            f"the run {folder} has no checkpoint yet",
            hint=f"fsar-cache train --recipe {whole.name} --run {folder.name}",
        )
    return evaluate_untrained(whole, choose.run_folder(whole, None, sets) if sets else folder, device)


def evaluate_trained(folder: Path, sets: Sequence[str], device: str) -> Evaluation:
    """Evaluate a run that has a checkpoint; warns where that is the last one of an unfinished training."""
    from pipeline.assemble import Places
    from pipeline.folder import read_config
    from pipeline.runs import evaluate_run

    recipe = read_config(folder, list(sets))
    target = choose.with_part(recipe.target, choose.DEFAULTS["target part"], "target")
    part = [f'target.part="{target.part}"'] if target != recipe.target else []
    say(f"eval: the trained run {folder} on {target.dataset}/{target.part}")
    with display(f"evaluate {folder.name}", "done") as show:
        found = evaluate_run(
            folder, Places(places.stores()), sets=[*sets, *part], device=device, report=_stage_report(show)
        )
    used = found.identity["checkpoint"]
    if used["name"] == "last" and used["iteration"] < recipe.train.iterations:
        warn(f"this is the checkpoint after {used['iteration']} of {recipe.train.iterations} iterations")
    return found


def evaluate_untrained(recipe: Recipe, folder: Path, device: str) -> Evaluation:
    """Evaluate a head without parameters, as a run in `folder`."""
    from pipeline import runs
    from pipeline.assemble import Places

    say(f"eval: {recipe.head} needs no training; results go to {folder}")
    with display(f"evaluate {folder.name}", "done") as show:
        return runs.evaluate_untrained(
            recipe, folder, Places(places.stores()), device=device, report=_stage_report(show)
        )


def _stage_report(show: Any) -> Any:
    return lambda stage, done, total: show(done, total, stage)


def is_trained(folder: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    from pipeline.folder import CHECKPOINTS

    return any((folder / CHECKPOINTS).glob("*.safetensors"))


def needs_training(recipe: Recipe) -> bool:
    """Whether the recipe's model has parameters to train: a head's own, or a backbone's after the cut."""
    from pipeline.assemble import Places, workshop

    with workshop(recipe, Places(places.stores())) as shop:
        return any(parameter.requires_grad for parameter in shop.model(classes=2).parameters())


def known_evaluation(recipe: Recipe, folder: Path) -> Evaluation | None:
    """The evaluation in the run folder, if it is of the same data, protocol, seed, head and checkpoint."""
    from pipeline.assemble import Places, workshop
    from pipeline.folder import CHECKPOINTS
    from pipeline.model import build_head
    from pipeline.results import read_evaluation

    path = folder / f"eval-{open_split(recipe.target.dataset).name}.json"
    if not path.is_file():
        return None
    found = read_evaluation(path)
    with workshop(recipe, Places(places.stores())) as shop:
        _, _, asked = shop.evaluation(recipe.target, recipe.eval.protocol, recipe.eval.seed)
    asked |= {"head": recipe.head, "normalise": recipe.features.normalise}
    if not is_trained(
        folder
    ):  # a trained run's head settings hold its number of classes; its checkpoint stands for them
        asked["head_config"] = digest(dataclasses.asdict(build_head(recipe, classes=1).config), 16)
    same = all(found.identity.get(name) == value for name, value in plain(asked).items())
    chosen = found.identity.get("checkpoint")
    if chosen:
        sidecar = folder / CHECKPOINTS / f"{chosen['name']}.json"
        same = same and sidecar.is_file() and read_json(sidecar)["sha256"] == chosen["sha256"]
    return found if same and bool(chosen) == is_trained(folder) else None


def headline(found: Evaluation) -> str:
    """The result as one line: where, protocol, accuracy with interval."""
    protocol = found.identity["protocol"]
    where = f"{found.identity['dataset']}/{found.identity['part']}"
    return f"{where}, {protocol['way']}-way {protocol['shot']}-shot: {found.line()}"
