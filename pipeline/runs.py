"""Evaluation of runs: a trained one, a head that needs no training, or a published checkpoint turned into a run."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save

from extract.config import device_of
from fsar_cache.canonical import digest
from fsar_cache.errors import MissingError, UsageError
from fsar_cache.files import whole_file
from heads.published import Publishable, load_published, read_checkpoint
from pipeline.assemble import Places, Workshop, fit_normaliser, workshop
from pipeline.checkpoints import load_checkpoint, pack_state, save_checkpoint, unpack_model
from pipeline.evaluate import Progress, evaluate
from pipeline.folder import BEST, CHECKPOINTS, LAST, note_session, read_config, write_config
from pipeline.loop import repeatable
from pipeline.model import Model, build_head
from pipeline.recipe import Recipe
from pipeline.results import Evaluation, write_evaluation


def evaluate_run(
    folder: Path,
    places: Places,
    *,
    sets: tuple[str, ...] | list[str] = (),
    checkpoint: str | None = None,
    device: str = "auto",
    report: Progress | None = None,
) -> Evaluation:
    """Evaluate a trained run on its target (`sets` may change target.* and eval.*) and write `eval-<target>.json` into it.

    checkpoint: "last", "best", "step-N"; by default "best" where validation chose one, else "last". IntegrityError where the
    target's features are not of the kind the run was trained on.
    """
    recipe = read_config(folder, sets)
    kept = folder / CHECKPOINTS
    name = checkpoint or (BEST if (kept / f"{BEST}.safetensors").exists() else LAST)
    path = kept / f"{name}.safetensors"
    if not path.exists():
        have = ", ".join(sorted(p.stem for p in kept.glob("*.safetensors"))) or "none"
        raise MissingError(f"the run {folder} has no checkpoint {name!r}; it has: {have}", hint="fsar-cache train")
    found = load_checkpoint(path)
    with workshop(recipe, places) as shop:
        # every training class has its row in the head's settings, which the run's config holds: the number here is not used
        model = shop.model(classes=1)
        unpack_model(found, model, str(path))
        chosen = {"name": name, "iteration": found.facts["iteration"], "sha256": found.facts["sha256"]}
        return _evaluate(
            shop, model, folder, {"checkpoint": chosen, "trained_on": found.facts["identity"]}, device, report
        )


def evaluate_untrained(
    recipe: Recipe, folder: Path, places: Places, *, device: str = "auto", report: Progress | None = None
) -> Evaluation:
    """Evaluate a head without parameters (protonet, otam) on the recipe's target; makes the run folder like a training does.

    A recipe that normalises by the source's deviations reads the source's store for them. UsageError for a head with parameters.
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
            source = shop.open(recipe.source, recipe.source.part)
            identity = {"source": source.identity()}
            fit_normaliser(model, source.source, source.exclude)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, replace(recipe, head_config=asdict(model.head.config)))
        note_session(folder, identity, device_of(device), 0)
        return _evaluate(shop, model, folder, {"checkpoint": None, "trained_on": identity}, device, report)


def _evaluate(
    shop: Workshop, model: Model, folder: Path, trained: dict[str, Any], device: str, report: Progress | None
) -> Evaluation:
    recipe, target = shop.recipe, device_of(device)
    source, sampler, data = shop.evaluation(recipe.target, recipe.eval.protocol, recipe.eval.seed)
    method = {
        "head": recipe.head,
        "head_config": digest(asdict(model.head.config), 16),
        "normalise": recipe.features.normalise,
    }
    with repeatable(target):
        found = evaluate(model.to(target), source, sampler, identity={**data, **method, **trained}, report=report)
    write_evaluation(folder / f"eval-{data['dataset']}.json", found)
    return found


def import_published(path: Path, recipe: Recipe, folder: Path, classes: int = 64) -> Recipe:
    """Turn a published checkpoint of the recipe's head into a run that can be evaluated; returns the run's recipe.

    The backbone's weights become `<folder>/backbone.safetensors`, which the recipe then names, so features must be extracted
    with it: a store is keyed by the weights that made it. Tensors that nothing reads are kept in the checkpoint under "unused".
    classes: of the published training set (64 for Kinetics).
    """
    head = build_head(recipe, classes)
    if not hasattr(head, "published_layout"):
        raise UsageError(f"head {recipe.head!r} has no published checkpoint layout")
    tensors, other = read_checkpoint(path)
    rest = load_published(cast(Publishable, head), tensors, str(path))
    weights = (folder / "backbone.safetensors").resolve()
    with whole_file(weights) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in rest.backbone.items()}))
    made = replace(
        recipe, head_config=asdict(head.config), features=replace(recipe.features, weights=f"file:{weights}")
    )
    write_config(folder, made)
    with workshop(made, Places(folder)) as shop:
        model = shop.model(classes)
    model.head.load_state_dict(head.state_dict())
    identity = {"published": {"file": path.name, "iteration": other.get("iteration")}}
    state = pack_state(model, None) | {f"unused.{name}": tensor for name, tensor in rest.unused.items()}
    save_checkpoint(
        folder / CHECKPOINTS,
        LAST,
        state,
        {"iteration": int(other.get("iteration") or 0), "identity": identity, "best": None},
    )
    return made
