"""The evaluation stage: a trained run, or a head that needs no training; which of the two is found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar_cache import places
from fsar_cache.canonical import differences, digest, plain
from fsar_cache.console import say, warn
from fsar_cache.errors import MissingError, UsageError
from fsar_cache.files import read_json
from fsar_cache.settings import build, override
from pipeline import choose
from pipeline.display import display
from pipeline.memory import enough_memory
from pipeline.protocol import protocol as preset_of
from pipeline.recipe import OWN, Recipe, recipe_of_head
from splits.datasets import open_split

if TYPE_CHECKING:
    from pipeline.results import Evaluation

MEMORY_HINT = (
    "end other programs; where an accelerator ran out, --device cpu; pooled features need least memory "
    "(--set features.cut=pooled in a new run)"
)


def evaluate(
    recipe: str | None,
    head: str | None,
    run: str | None,
    sets: Sequence[str],
    *,
    protocol: str | None = None,
    checkpoint: str | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluate a run that is there, or a head without parameters; `sets` may change target and evaluation of the run.

    Without recipe, head and run it is the newest run. Settings, recipe or head that contradict the run's own are refused; of a protocol
    that it wasn't trained by, target and evaluation are taken, and that is said.
    """
    if not (recipe or head) or (run and (choose.named_folder(run) / choose.RECIPE).is_file()):
        return evaluate_held(choose.find_run(run), recipe, head, sets, checkpoint, device, protocol)
    before, after = choose.split_sets(sets, choose.UNNAMED)
    if not run:
        meant = recipe or recipe_of_head(str(head))
        for chosen in (sets, before, choose.split_sets(sets, choose.AFTER)[0]):
            # the run trained with all these settings, else the one to be evaluated with them
            folder = choose.run_folder(choose.load(recipe, head, chosen, protocol), None, chosen)
            if is_trained(folder):
                return evaluate_held(folder, meant, head, sets, checkpoint, device, protocol)
        chosen = choose.split_sets(sets, choose.AFTER)[0]
        trained = choose.trains(choose.load(recipe, head, chosen, protocol))
        if trained and (data := choose.found(recipe, head, chosen, protocol)):  # what `train` would have taken
            folder = choose.run_folder(choose.load(recipe, head, [*data, *chosen]), None, chosen)
            if is_trained(folder):
                return evaluate_held(folder, None, head, sets, checkpoint, device)
    choose.load(recipe, head, sets, protocol)  # names a mistake in the settings that only the evaluation will read
    whole = choose.settle(recipe, head, before, protocol)
    folder = choose.run_folder(whole, run, before)
    if needs_training(whole):
        raise MissingError(
            f"{whole.head} must be trained before it is evaluated; there is no run {folder}",
            hint=choose.command("train", recipe, head, run, before, protocol),
        )
    if whole.features.normalise == "none" and any(text.strip().startswith("source.") for text in before):
        raise UsageError(
            f"{whole.name} neither trains nor normalises, so it reads no source", hint="leave out --source and source.*"
        )
    return evaluate_untrained(whole, folder, after, checkpoint, device)


def evaluate_held(
    folder: Path,
    recipe: str | None,
    head: str | None,
    sets: Sequence[str],
    checkpoint: str | None,
    device: str,
    protocol: str | None = None,
) -> Evaluation:
    """Evaluate the run in `folder`, trained or not; recipe, head and settings given beside it must be those it has."""
    require_named(folder, recipe, head, sets, protocol)
    after = [*_of_protocol(folder, protocol), *choose.split_sets(sets, choose.AFTER)[1]]
    after = [*after, *_found_part(folder, after)]
    if is_trained(folder):
        return evaluate_trained(folder, after, checkpoint, device)
    from pipeline.folder import read_config

    whole = read_config(folder)
    if needs_training(whole):
        raise MissingError(
            f"the run {folder} has no checkpoint yet",
            hint=choose.command("train", choose.run_recipe(folder), None, choose.run_word(folder), ()),
        )
    return evaluate_untrained(whole, folder, after, checkpoint, device)


def _of_protocol(folder: Path, name: str | None) -> list[str]:
    """Target and evaluation of a protocol, as settings; warns where the run in `folder` wasn't trained as it says."""
    if name is None:
        return []
    from pipeline.folder import read_config

    own = plain(read_config(folder))
    training, after = choose.split_sets(
        preset_of(name).settings(unlabelled=bool(own["train"]["unlabelled"])), choose.AFTER
    )
    changed = differences(own, plain(build(Recipe, override(own, training))))
    if changed:
        words = ", ".join(f"{field} {was!r}, not {now!r}" for field, was, now in changed)
        warn(
            f"the run {folder} was trained otherwise than {name} says ({words}): only target and evaluation are its own"
        )
    return after


def require_named(
    folder: Path, recipe: str | None, head: str | None, sets: Sequence[str], protocol: str | None = None
) -> None:
    """UsageError naming every setting in which recipe, head or `sets` differ from the run's own; target and eval may be set freely."""
    from pipeline.folder import CONFIG, read_config

    after = choose.split_sets(sets, choose.AFTER)[1]
    held = plain(read_config(folder, after))
    if recipe:
        asked = plain(choose.load(recipe, head, sets, protocol))
    else:
        asked = plain(build(Recipe, override(read_json(folder / CONFIG), sets))) | ({"head": head} if head else {})
    held["head_config"] = {name: held["head_config"].get(name) for name in asked["head_config"]}
    free = set(OWN)
    free |= {f"{role}.part" for role in ("source", "target") if ":" in asked[role]["dataset"] and recipe}
    free |= {"target", "eval"} if protocol else set()  # the protocol's are taken
    changed = [row for row in differences(held, asked) if row[0] not in free and row[0].split(".")[0] not in free]
    if changed:
        lines = "".join(f"\n  {field}: {was!r} in the run, {now!r} asked for" for field, was, now in changed)
        word = choose.run_word(folder)
        raise UsageError(
            f"the run {folder} was made with other settings than this command names:{lines}",
            hint=f"leave them out, as the run keeps its own: {choose.command('eval', None, None, word, after)}",
        )


def _found_part(folder: Path, sets: Sequence[str]) -> list[str]:
    """The setting that names a partition which the target has, where it lacks the one that the run's recipe names."""
    from pipeline.folder import read_config

    asked = read_config(folder, list(sets)).target
    target = choose.with_part(asked, choose.DEFAULTS["target part"], "target")
    return [f'target.part="{target.part}"'] if target != asked else []


def evaluate_trained(folder: Path, sets: Sequence[str], checkpoint: str | None, device: str) -> Evaluation:
    """Evaluate a run that has a checkpoint; warns where that is the last one of an unfinished training."""
    from pipeline.assemble import Places
    from pipeline.folder import read_config
    from pipeline.runs import evaluate_run

    recipe = read_config(folder, list(sets))
    choose.say_meant(recipe.target.dataset)
    say(f"eval: the trained run {folder} on {recipe.target.dataset}/{recipe.target.part}")
    with display(f"evaluate {folder.name}", "done") as show, enough_memory("evaluating", MEMORY_HINT):
        found = evaluate_run(
            folder,
            Places(places.stores()),
            sets=list(sets),
            checkpoint=checkpoint,
            device=device,
            report=_stage_report(show),
        )
    used, imported = found.identity["checkpoint"], "published" in found.identity["trained_on"]
    if used["name"] == "last" and used["iteration"] < recipe.train.iterations and not imported:
        warn(f"this is the checkpoint after {used['iteration']} of {recipe.train.iterations} iterations")
    return found


def evaluate_untrained(
    recipe: Recipe, folder: Path, sets: Sequence[str], checkpoint: str | None, device: str
) -> Evaluation:
    """Evaluate a head without parameters, as a run in `folder`; `sets` may change target and evaluation."""
    from pipeline import runs
    from pipeline.assemble import Places

    if checkpoint:
        raise UsageError(
            f"{recipe.head} has no parameters, so there is no checkpoint {checkpoint!r}", hint="leave out --checkpoint"
        )
    say(f"eval: {recipe.head} needs no training; results go to {folder}")
    with display(f"evaluate {folder.name}", "done") as show, enough_memory("evaluating", MEMORY_HINT):
        return runs.evaluate_untrained(
            recipe, folder, Places(places.stores()), sets=list(sets), device=device, report=_stage_report(show)
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


def known_evaluation(recipe: Recipe, folder: Path, sets: Sequence[str] = ()) -> Evaluation | None:
    """The evaluation in the run folder, if it is of the same data, protocol, seed, head and checkpoint as one made now would be.

    recipe: the run's own; sets: target.* and eval.* of the evaluation asked for.
    """
    from pipeline.assemble import Places, workshop
    from pipeline.checkpoints import load_checkpoint
    from pipeline.model import build_head
    from pipeline.results import file_name, read_evaluation
    from pipeline.runs import checkpoint_of

    wanted = build(Recipe, override(plain(recipe), sets))
    path = folder / file_name(open_split(wanted.target.dataset).name, wanted, recipe)
    if not path.is_file():
        return None
    found = read_evaluation(path)
    with workshop(wanted, Places(places.stores())) as shop:
        _, _, asked = shop.evaluation(wanted.target, wanted.eval.protocol, wanted.eval.seed)
    asked |= {"head": recipe.head, "normalise": recipe.features.normalise}
    if is_trained(folder):  # its checkpoint stands for the head's settings, which hold the number of classes
        chosen = checkpoint_of(folder)
        held = found.identity.get("checkpoint") or {}
        known = (held.get("name"), held.get("sha256")) == (chosen.stem, load_checkpoint(chosen).facts["sha256"])
    else:
        asked["head_config"] = digest(dataclasses.asdict(build_head(recipe, classes=1).config), 16)
        known = not found.identity.get("checkpoint")
    return found if known and all(found.identity.get(n) == value for n, value in plain(asked).items()) else None


def headline(found: Evaluation) -> str:
    """The result as one line: where, protocol, accuracy with interval."""
    protocol = found.identity["protocol"]
    where = f"{found.identity['dataset']}/{found.identity['part']}"
    return f"{where}, {protocol['way']}-way {protocol['shot']}-shot: {found.line()}"
