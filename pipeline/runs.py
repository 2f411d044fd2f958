"""Evaluation of runs: a trained one, or a head that needs no training."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cache.spec import FeatureSpec
from cache.store import open_store, stores_under
from extract.config import device_of, store_path
from fsar_cache.canonical import digest, plain
from fsar_cache.errors import IntegrityError, MissingError, UsageError
from fsar_cache.settings import build, override
from pipeline import leaks
from pipeline.assemble import Opened, Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, unpack_model
from pipeline.evaluate import Progress, evaluate
from pipeline.folder import BEST, CHECKPOINTS, LAST, note_session, read_config, write_config
from pipeline.loop import repeatable
from pipeline.model import Model
from pipeline.recipe import Recipe
from pipeline.results import Evaluation, file_name, write_evaluation
from splits.datasets import open_split


def checkpoint_of(folder: Path, name: str | None = None) -> Path:
    """The checkpoint of a run called "last", "best" or "step-N"; unnamed it is "best" where validation chose one, else "last"."""
    kept = folder / CHECKPOINTS
    name = name or (BEST if (kept / f"{BEST}.safetensors").exists() else LAST)
    have = {path.stem: path for path in sorted(kept.glob("*.safetensors"))}
    if name not in have:
        raise MissingError(
            f"the run {folder} has no checkpoint {name!r}; it has: {', '.join(have) or 'none'}",
            hint=f"choose one of them: --checkpoint {next(iter(have))}" if have else "train the run first",
        )
    return have[name]


def evaluate_run(
    folder: Path,
    places: Places,
    *,
    sets: tuple[str, ...] | list[str] = (),
    checkpoint: str | None = None,
    device: str = "auto",
    report: Progress | None = None,
) -> Evaluation:
    """Evaluate a trained run on its target (`sets` may change target.* and eval.*) and write its `eval-*.json` into it.

    checkpoint: see `checkpoint_of`. IntegrityError naming what differs where the target's features are not of the kind the run was
    trained on.
    """
    recipe = read_config(folder, sets)
    path, usual = checkpoint_of(folder, checkpoint), checkpoint_of(folder)
    found = load_checkpoint(path)
    with workshop(recipe, places) as shop:
        # every training class has its row in the head's settings, which the run's config holds: the number here is not used
        model = shop.model(classes=1)
        unpack_model(found, model, str(path))
        identity = found.facts["identity"]
        _require_trained_features(shop.spec, identity["source"], recipe.source.dataset, places)
        chosen = {"name": path.stem, "iteration": found.facts["iteration"], "sha256": found.facts["sha256"]}
        said = {"checkpoint": chosen, "trained_on": identity}
        return _evaluate(
            shop, model, folder, said, device=device, report=report, mark=path.stem if path != usual else None
        )


def _require_trained_features(now: FeatureSpec, source: dict[str, Any], dataset: str, places: Places) -> None:
    """Refuse features of another fingerprint than the run's training source had, field by field where its store is still there."""
    then = source["features"]
    if now.fingerprint == then:
        return
    with suppress(MissingError, UsageError):  # where the source is gone, what it was stays unsaid
        for path in stores_under(store_path(places.stores, open_split(dataset).home, now).parent):
            with open_store(path) as store:
                if store.spec.fingerprint == then:
                    now.require_same(store.spec, "the evaluation", f"the training ({path})")
    raise IntegrityError(
        f"the run was trained on features {then}, and its recipe now makes features {now.fingerprint}",
        hint="bring back the backbone's weights that the run was trained with, or train a new run",
    )


def evaluate_untrained(
    recipe: Recipe,
    folder: Path,
    places: Places,
    *,
    sets: tuple[str, ...] | list[str] = (),
    device: str = "auto",
    report: Progress | None = None,
) -> Evaluation:
    """Evaluate a head without parameters (protonet, otam); makes the recipe's run folder like a training does.

    sets: target.* and eval.* of this evaluation, where they differ from the recipe's. A recipe that normalises by the source's
    deviations reads the source's store for them. UsageError for a head with parameters.
    """
    with workshop(recipe, places) as shop:
        model = shop.model(classes=1)
        if any(True for _ in model.head.parameters()):
            raise UsageError(
                f"head {recipe.head!r} has parameters and must be trained first",
                hint=f"fsar-cache train --head {recipe.head}",
            )
        identity: dict[str, Any] = {}
        if recipe.features.normalise != "none":
            source = _deviations(shop)
            identity = {"source": source.identity()}
            fit_normaliser(model, source.source, source.exclude)
        own = replace(recipe, head_config=asdict(model.head.config))
        wanted = build(Recipe, override(plain(own), sets))
        shop.open(wanted.target, wanted.target.part)  # what is not there is refused before there is a run
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, own)
        note_session(folder, identity, device_of(device), 0)
        shop.recipe = read_config(folder, sets)
        said = {"checkpoint": None, "trained_on": identity}
        return _evaluate(shop, model, folder, said, device=device, report=report)


def _deviations(shop: Workshop) -> Opened:
    """The source whose deviations normalise features; MissingError that says what can be done without it."""
    recipe = shop.recipe
    try:
        return shop.open(recipe.source, recipe.source.part)
    except MissingError as error:
        hint = "take those of another dataset: --source DATASET, or don't normalise: --set features.normalise=none"
        raise MissingError(
            f"{recipe.name} normalises features by the deviations of its source, {recipe.source.dataset}: {error.message}",
            hint=f"{error.hint}; or {hint}" if error.hint else hint,
        ) from error


def _evaluate(
    shop: Workshop,
    model: Model,
    folder: Path,
    trained: dict[str, Any],
    *,
    device: str,
    report: Progress | None,
    mark: str | None = None,
) -> Evaluation:
    """Evaluate on the target of the shop's recipe. mark: for the file of a checkpoint that is not the usual one."""
    recipe, target = shop.recipe, device_of(device)
    source, sampler, data = shop.evaluation(recipe.target, recipe.eval.protocol, recipe.eval.seed)
    source.spec.require_same(shop.spec, f"the features of {data['dataset']}", "the run's recipe")
    method = {
        "head": recipe.head,
        "head_config": digest(asdict(model.head.config), 16),
        "normalise": recipe.features.normalise,
    }
    trained_on = trained.get("trained_on") or {}
    _require_trained_kinds(data, trained_on.get("source") or {})
    own = read_config(folder)
    leaking: tuple[str, ...] | None = ()
    if trained["checkpoint"] and "published" not in trained_on:
        leaking = leaks.leaks_of_run(folder, own, recipe.target, chosen=trained["checkpoint"]["name"] == BEST)
    leaks.tell(leaking or ())
    with repeatable(target):
        found = evaluate(model.to(target), source, sampler, identity={**data, **method, **trained}, report=report)
    found = replace(found, leaks=leaking)
    write_evaluation(folder / file_name(data["dataset"], recipe, own, mark), found)
    return found


def _require_trained_kinds(data: dict[str, Any], source: dict[str, Any]) -> None:
    """Refuse text or flow of another fingerprint than the run's training source had."""
    for kind in ("flow", "text"):
        if source.get(kind, data.get(kind)) != data.get(kind):
            raise IntegrityError(
                f"the run was trained with {kind} {source[kind]}, and its recipe now makes {kind} {data.get(kind)}",
                hint=f"bring back the store, or the weights, that its {kind} was of, or train a new run",
            )
