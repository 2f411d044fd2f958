"""The import stage: a published checkpoint becomes a run that can be evaluated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor

from extract import defaults
from extract.config import device_of
from fsar_cache.console import say
from fsar_cache.errors import IntegrityError, UsageError, space_error
from fsar_cache.files import PARTIAL, whole_file
from fsar_cache.settings import override
from fsar_cache.tensor_files import TensorFile, read_tensor_file
from heads.base import Head
from heads.published import Layout, Publishable, Rest, load_published, method_of, split_published
from pipeline import choose
from pipeline.assemble import Places, workshop
from pipeline.carried import Carried, changes, fill_normalisers, read_carried, recipe_of, require_deviations
from pipeline.checkpoints import load_checkpoint, pack_state, save_checkpoint, tensor_hash
from pipeline.folder import CHECKPOINTS, CONFIG, LAST, note_session, read_config, write_config
from pipeline.model import build_head
from pipeline.published_backbone import fill_adapters, read_as, recognised
from pipeline.recipe import Recipe

BACKBONE = "backbone.safetensors"
"""The file of a run's own backbone."""
TOP = ("iteration", "epoch")
"""Keys under which checkpoints say how far training went."""


@dataclass(frozen=True)
class Imported:
    """A run made of a published checkpoint: its folder and recipe, and what was read (plain data, for --json)."""

    run: Path
    recipe: Recipe
    read: Mapping[str, Any]


def import_checkpoint(
    checkpoint: Path, recipe: str | None, method: str | None, run: str, sets: Sequence[str], classes: int
) -> Imported:
    """Make the run of `fsar-cache checkpoint import`. A named recipe is taken as it is, a method's is changed to what the file holds.

    classes: of the published training set. Errors as `import_published` has them.
    """
    if not (recipe or method):
        raise UsageError("whose checkpoint is it?", hint="--method NAME (fsar-cache list heads) or --recipe NAME")
    wanted = choose.load(recipe, method, list(sets) if recipe else ["features.normalise=none", *sets])
    file = read_tensor_file(checkpoint)
    carried = read_carried(file.other, str(checkpoint))
    _require_method(build_head(wanted, classes), wanted.head, file, carried, str(checkpoint))
    if recipe:
        classes = carried.head_config.get("class_num", classes) if carried else classes
    elif carried:
        wanted = recipe_of(carried, choose.load(None, method, []), sets)
        say(
            f"import: trained here: recipe {wanted.name} with the features, head and normalisation that the file carries"
        )
    else:
        wanted = _fitted(wanted, file, str(checkpoint), sets, classes)
    for line in changes(carried, wanted) if carried else ():
        say(f"import: {line}")
    wanted = replace(wanted, target=choose.with_part(wanted.target, choose.DEFAULTS["target part"], "target"))
    made = import_published(checkpoint, file, wanted, choose.named_folder(run), classes)
    _say(checkpoint, made)
    return made


def _require_method(head: Head, name: str, file: TensorFile, carried: Carried | None, where: str) -> None:
    """UsageError naming whose checkpoint it is, where it is another method's: as the file says, else by its keys."""
    other = carried.head if carried else method_of(layout_of(head, name), file.tensors)
    if other and other != name:
        raise UsageError(f"{where} looks like a checkpoint of {other}, not of {name}", hint=f"--method {other}")


def _fitted(recipe: Recipe, file: TensorFile, where: str, sets: Sequence[str], classes: int) -> Recipe:
    """The method's recipe with the backbone that the file holds, its features as published, and the head as wide; `sets` go before."""
    head = build_head(recipe, classes)
    layout_of(head, recipe.head)
    found = recognised(split_published(cast(Publishable, head), file.tensors, where).backbone)
    fitting = {"backbone": found, **defaults.features_of(found)} if found else {}
    given = override({"features": {}, "head_config": {}}, list(sets))
    fitting = {name: value for name, value in fitting.items() if name not in given["features"]}
    kept = {name: value for name, value in recipe.head_config.items() if name != "dim" or name in given["head_config"]}
    made = replace(recipe, head_config=kept, features=replace(recipe.features, **fitting))
    f = made.features
    normalised = "not normalised" if f.normalise == "none" else f"normalised {f.normalise}"
    say(
        f"import: recipe {made.name} with {f.backbone}, as published: {f.frames} frames of {f.size} pixels, {normalised}"
    )
    say("import: the file does not say how it was trained: change with --set what was different")
    return made


def _say(checkpoint: Path, made: Imported) -> None:
    """What was read, for a person."""
    read = made.read
    under = f" under {read['wrapper']!r}" if read["wrapper"] else ""
    counts = ", ".join(f"{count} of the {whose}" for whose, count in read["tensors"].items() if count)
    say(f"import: {checkpoint.name}: tensors{under}: {counts}; the run is {made.run}")
    if read["unused"]:
        say(f"import: kept, though nothing reads them: {_listed(read['unused'])}")
    if read["not_loaded"] or read["skipped"]:
        say(f"import: not loaded: {_listed([*read['not_loaded'], *read['skipped']])}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def say_next(recipe: Recipe, folder: Path) -> None:
    """The commands that lead to the run's accuracy."""
    extract = choose.command("extract", choose.run_recipe(folder), None, None, ())
    if recipe.features.cut != "video":  # which is decoded live
        say(f"next: {extract} {recipe.target.dataset}")
    say(f"then: {choose.command('eval', None, None, choose.run_word(folder), ())}")


def import_published(path: Path, file: TensorFile, recipe: Recipe, folder: Path, classes: int = 64) -> Imported:
    """Turn a published checkpoint of the recipe's head, what `path` holds, into a run that can be evaluated.

    The backbone's weights become `<folder>/backbone.safetensors`, which the recipe then names, so features must be extracted with it: a
    store is keyed by the weights that made it. Tensors that nothing reads are kept in the checkpoint under "unused". The folder appears
    whole or not at all; the same checkpoint again changes nothing. classes: of the published training set (64 for Kinetics).

    UsageError for a recipe that normalises by deviations that the file doesn't carry, for a folder that can't be made, and where it holds
    another run; IntegrityError naming what does not fit head, adapters or backbone.
    """
    head = build_head(recipe, classes)
    layout = layout_of(head, recipe.head)
    carried = read_carried(file.other, str(path))
    require_deviations(recipe, carried, str(path))
    rest = split_published(cast(Publishable, head), file.tensors, str(path))
    if not rest.backbone:
        raise IntegrityError(f"{path} holds no tensors of a backbone, so the features it needs are not known")
    counter, iteration = _counter(file, layout)
    published: dict[str, Any] = {
        "file": path.name,
        "iteration": iteration,
        "sha256": tensor_hash(file.tensors),
        "wrapper": file.wrapper,
        "counter": counter,
        "carried": carried is not None,
        **{name: getattr(rest, name) for name in ("prefix", "numbered", "absent", "dtypes")},
    }
    with _makeable(folder):
        held = (folder / CONFIG).exists()
    if held:
        made = _repeated(folder, recipe, published, classes)
    else:
        with _appearing(folder) as aside:
            made = _make(path, recipe, aside, folder, classes, file.tensors, published, carried)
    return Imported(folder, made, _read(recipe.head, layout, file, rest, published))


def _of_run(recipe: Recipe, folder: Path, head_config: dict[str, Any]) -> Recipe:
    """The recipe with the backbone that the run in `folder` keeps."""
    weights = f"file:{(folder / BACKBONE).resolve()}"
    return replace(recipe, head_config=head_config, features=replace(recipe.features, weights=weights))


def _repeated(folder: Path, recipe: Recipe, published: dict[str, Any], classes: int) -> Recipe:
    """The recipe of the run that is there; UsageError where it was not made from this checkpoint, or with other settings."""
    path = folder / CHECKPOINTS / f"{LAST}.safetensors"
    held = load_checkpoint(path).facts["identity"].get("published", {}) if path.exists() else {}
    if held.get("sha256") != published["sha256"]:
        raise UsageError(
            f"the run {folder} holds another checkpoint: {held.get('file', 'one trained here')}",
            hint="choose another run folder with --run NAME",
        )
    config = read_config(folder).head_config
    made = _of_run(
        recipe, folder, {**config, **({"class_num": classes} if "class_num" in config else {}), **recipe.head_config}
    )
    write_config(folder, made)
    return made


@contextmanager
def _makeable(folder: Path) -> Iterator[None]:
    """UsageError, or SpaceError, where the block finds that the run's folder can't be made."""
    try:
        yield
    except OSError as error:
        raise space_error(error, folder) or UsageError(
            f"the run folder {folder} can't be made: {error.strerror}", hint="choose another with --run NAME"
        ) from error


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder that is called `folder` only if the block ends well; UsageError where something is there already, or it can't be made."""
    with _makeable(folder):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        raise UsageError(f"{folder} is there already and holds no run", hint="choose another run with --run NAME")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    try:
        with _makeable(folder):
            aside.mkdir(parents=True)
        yield aside
        with _makeable(folder):
            os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _make(
    path: Path,
    recipe: Recipe,
    aside: Path,
    folder: Path,
    classes: int,
    tensors: Mapping[str, Tensor],
    published: dict[str, Any],
    carried: Carried | None,
) -> Recipe:
    """Write the run into `aside`, as it will be in `folder`."""
    here = _of_run(recipe, aside, recipe.head_config)
    rest = split_published(cast(Publishable, build_head(recipe, classes)), tensors, str(path))
    before = "" if rest.prefix == "" else read_as(recipe.features.backbone)
    with whole_file(aside / BACKBONE) as file:
        # clones: tensors of a file may share memory
        own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in rest.backbone.items()}
        file.write(save({before + name: tensor for name, tensor in own.items()}))
    try:
        with workshop(here, Places(aside)) as shop:
            model = shop.model(classes)
            identity = {"published": published, "source": {"features": shop.spec.fingerprint}}
            backbone = shop.backbone
    except IntegrityError as error:
        said = error.message.replace(str((aside / BACKBONE).resolve()), f"the backbone in {path}")
        raise IntegrityError(
            said, hint=f"is it a {recipe.features.backbone}? If not, say which: --set features.backbone=NAME"
        ) from error
    load_published(cast(Publishable, model.head), tensors, str(path))
    fill_normalisers(model, carried, str(path))
    fill_adapters(model, backbone, recipe.features.cut, rest.adapters, str(path))
    made = _of_run(recipe, folder, asdict(model.head.config))
    write_config(aside, made)
    note_session(aside, identity, device_of("cpu"), 0)
    state = pack_state(model, None) | {f"unused.{name}": tensor for name, tensor in rest.unused.items()}
    facts = {"iteration": int(published["iteration"] or 0), "identity": identity, "best": None}
    save_checkpoint(aside / CHECKPOINTS, LAST, state, facts)
    return made


def _counter(file: TensorFile, layout: Layout) -> tuple[str, int | None]:
    """Under which key the file says how far training went, and how far; the layout's key and None where it does not."""
    found = [(key, file.other[key]) for key in (layout.counter, *TOP) if type(file.other.get(key)) is int]
    return found[0] if found else (layout.counter, None)


def _read(method: str, layout: Layout, file: TensorFile, rest: Rest, published: Mapping[str, Any]) -> dict[str, Any]:
    """What was read, as plain data."""
    return {
        "method": method,
        **{name: published[name] for name in ("file", "wrapper", "prefix", "iteration", "sha256")},
        "tensors": {"head": len(layout.names), "adapters": len(rest.adapters), "backbone": len(rest.backbone)},
        "unused": sorted(rest.unused),
        "skipped": list(file.skipped),
        "not_loaded": list(file.stubs),
    }


def layout_of(head: Head, name: str) -> Layout:
    """The head's published layout; UsageError where it has none."""
    if not hasattr(head, "published_layout"):
        raise UsageError(f"head {name!r} has no published checkpoint layout", hint="fsar-cache list heads")
    return cast(Publishable, head).published_layout()
