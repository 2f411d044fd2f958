"""Evaluation of runs: a trained one, a head that needs no training, or a published checkpoint turned into a run."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save

from cache.spec import FeatureSpec
from cache.store import open_store, stores_under
from extract.config import device_of, store_path
from fsar_cache.canonical import digest
from fsar_cache.console import warn
from fsar_cache.errors import IntegrityError, MissingError, UsageError
from fsar_cache.files import whole_file
from heads.published import Publishable, load_published, read_checkpoint
from pipeline.assemble import Opened, Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, pack_state, save_checkpoint, tensor_hash, unpack_model
from pipeline.evaluate import Progress, evaluate
from pipeline.folder import BEST, CHECKPOINTS, LAST, note_session, read_config, write_config
from pipeline.loop import repeatable
from pipeline.model import Model, build_head
from pipeline.recipe import Recipe
from pipeline.results import Evaluation, file_name, write_evaluation


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
        _require_trained_features(shop.spec, identity["source"], places)
        chosen = {"name": path.stem, "iteration": found.facts["iteration"], "sha256": found.facts["sha256"]}
        said = {"checkpoint": chosen, "trained_on": identity}
        return _evaluate(
            shop, model, folder, said, device=device, report=report, mark=path.stem if path != usual else None
        )


def _require_trained_features(now: FeatureSpec, source: dict[str, Any], places: Places) -> None:
    """Refuse features of another fingerprint than the run's training source had, field by field where its store is still there."""
    then = source["features"]
    if now.fingerprint == then:
        return
    if "dataset" in source:
        for path in stores_under(store_path(places.stores, source["dataset"], now).parent):
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
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, replace(recipe, head_config=asdict(model.head.config)))
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
    _warn_of_seen(data, trained.get("trained_on") or {})
    with repeatable(target):
        found = evaluate(model.to(target), source, sampler, identity={**data, **method, **trained}, report=report)
    write_evaluation(folder / file_name(data["dataset"], recipe, read_config(folder), mark), found)
    return found


def _warn_of_seen(data: dict[str, Any], trained_on: dict[str, Any]) -> None:
    """Say so where the clips of this evaluation are those the head was trained on: such a number is no test."""
    for role, how in (("source", "with their labels"), ("unlabelled", "without labels")):
        seen = trained_on.get(role) or {}
        if all(seen.get(name) == data[name] for name in ("dataset", "part", "split")):
            warn(f"the clips of {data['dataset']}/{data['part']} were trained on, {how}: this accuracy is no test")


def import_published(path: Path, recipe: Recipe, folder: Path, classes: int = 64) -> Recipe:
    """Turn a published checkpoint of the recipe's head into a run that can be evaluated; returns the run's recipe.

    The backbone's weights become `<folder>/backbone.safetensors`, which the recipe then names, so features must be extracted
    with it: a store is keyed by the weights that made it. Tensors that nothing reads are kept in the checkpoint under "unused".
    classes: of the published training set (64 for Kinetics). UsageError for a recipe that normalises, which no published run did,
    and where the folder holds another run; the same checkpoint again changes nothing.
    """
    head = build_head(recipe, classes)
    if not hasattr(head, "published_layout"):
        raise UsageError(f"head {recipe.head!r} has no published checkpoint layout", hint="--head gslta")
    if recipe.features.normalise != "none":
        raise UsageError(
            f"recipe {recipe.name} normalises features ({recipe.features.normalise}); published checkpoints were trained without",
            hint="--set features.normalise=none",
        )
    tensors, other = read_checkpoint(path)
    rest = load_published(cast(Publishable, head), tensors, str(path))
    if not rest.backbone:
        raise IntegrityError(f"{path} holds no tensors of a backbone, so the features it needs are not known")
    published = {"file": path.name, "iteration": other.get("iteration"), "sha256": tensor_hash(tensors)}
    weights = (folder / "backbone.safetensors").resolve()
    made = replace(
        recipe, head_config=asdict(head.config), features=replace(recipe.features, weights=f"file:{weights}")
    )
    write_config(folder, made)
    if (folder / CHECKPOINTS / f"{LAST}.safetensors").exists():
        _require_imported(folder, published)
        return made
    with whole_file(weights) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in rest.backbone.items()}))
    with workshop(made, Places(folder)) as shop:
        model = shop.model(classes)
        identity = {"published": published, "source": {"features": shop.spec.fingerprint}}
    model.head.load_state_dict(head.state_dict())
    note_session(folder, identity, device_of("cpu"), 0)
    state = pack_state(model, None) | {f"unused.{name}": tensor for name, tensor in rest.unused.items()}
    facts = {"iteration": int(other.get("iteration") or 0), "identity": identity, "best": None}
    save_checkpoint(folder / CHECKPOINTS, LAST, state, facts)
    return made


def _require_imported(folder: Path, published: dict[str, Any]) -> None:
    """UsageError where the folder's checkpoint was not made from this published one."""
    held = load_checkpoint(checkpoint_of(folder, LAST)).facts["identity"].get("published", {})
    if held.get("sha256") != published["sha256"]:
        raise UsageError(
            f"the run {folder} holds another checkpoint: {held.get('file', 'one trained here')}",
            hint="choose another run folder with --run NAME",
        )
