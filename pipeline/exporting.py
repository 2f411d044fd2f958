"""The export stage: a run's weights under published names, in a file that the published code reads."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor

from extract.backbone import Backbone
from fsar_cache.console import say
from fsar_cache.errors import UsageError
from fsar_cache.files import whole_file
from fsar_cache.tensor_files import read_tensor_file
from heads.published import Layout, Publishable, Rest, to_published
from pipeline.assemble import Places, workshop
from pipeline.carried import carried_by, left_behind, written
from pipeline.checkpoints import Checkpoint, load_checkpoint, unpack_model
from pipeline.folder import read_config
from pipeline.importing import BACKBONE, layout_of
from pipeline.model import Model
from pipeline.published_backbone import adapter_tensors, read_as, trained_backbone
from pipeline.recipe import Recipe
from pipeline.runs import checkpoint_of


def export_run(folder: Path, path: Path, *, checkpoint: str | None = None, force: bool = False) -> dict[str, Any]:
    """Write a run's weights to `path` in its head's published layout; returns what was written, as plain data.

    What was imported is written as it was: wrapper, prefix, spelling and unused tensors. A run trained here has the layout's default
    spelling, lacks keys that nothing reads, and carries its settings (`pipeline.carried`). ".safetensors" holds the tensors without wrapper
    and counter; any other file is torch's, tensors and plain values. checkpoint: last, best or step-N. UsageError where `path` is there
    and not `force` or can't be written, or the head has no published layout;
    the file appears whole or not at all.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint="name another file, or overwrite it with --force")
    recipe = read_config(folder)
    found = load_checkpoint(checkpoint_of(folder, checkpoint))
    with workshop(recipe, Places(folder)) as shop:
        model = shop.model(classes=1)  # every training class has its row in the run's head settings
        unpack_model(found, model, str(folder))
        layout = layout_of(model.head, recipe.head)
        carried = carried_by(recipe, model)
        rest = _rest(folder, recipe, layout, model, shop.backbone, found)
    published = found.facts["identity"].get("published", {})
    tensors = {
        key: t.detach().clone().contiguous() for key, t in to_published(cast(Publishable, model.head), rest).items()
    }
    ours = not published or published.get("carried", False)
    entry = written(carried) if ours else {}
    wrapper = layout.wrapper if ours else published["wrapper"]
    counter = published.get("counter", layout.counter)
    iteration = published.get("iteration") if published else found.facts["iteration"]
    bare = path.suffix == ".safetensors"
    whole = {**({} if iteration is None else {counter: iteration}), wrapper: tensors, **entry} if wrapper else tensors
    _write(path, save(tensors, metadata=entry or None) if bare else _torch(whole))
    made = {
        "file": str(path),
        "method": recipe.head,
        "wrapper": "" if bare else wrapper,
        "prefix": rest.prefix,
        "iteration": iteration,
        "tensors": {"head": len(layout.names), "adapters": len(rest.adapters), "backbone": len(rest.backbone)},
        "unused": sorted(rest.unused),
        "absent": [] if published else list(layout.unused),
        "carried": list(entry),
        "not_carried": left_behind(recipe.features) if ours else [],
    }
    _say(made)
    return made


def _say(made: Mapping[str, Any]) -> None:
    """What was written, for a person."""
    counts = ", ".join(f"{count} of the {whose}" for whose, count in made["tensors"].items() if count)
    under = f" under {made['wrapper']!r}" if made["wrapper"] else ""
    say(f"export: {made['file']}: tensors{under}: {counts}")
    if made["absent"]:
        say(f"export: left out, as nothing here reads or makes them: {', '.join(made['absent'])}")
    if made["carried"]:
        say(
            "export: the settings of features, head and normalisation go along, so `checkpoint import` makes the run again"
        )
    if made["not_carried"]:
        say(f"export: not carried, as they name places here: features.{', features.'.join(made['not_carried'])}")


def _rest(folder: Path, recipe: Recipe, layout: Layout, model: Model, backbone: Backbone, found: Checkpoint) -> Rest:
    """What is written beside the head's own tensors."""
    published = found.facts["identity"].get("published")
    made = trained_backbone(model, backbone, recipe.features.cut)
    adapters = adapter_tensors(model, backbone, recipe.features.cut)
    if published is None:
        return Rest(made, {}, layout.backbone[0], adapters, layout.numbered)
    before = "" if published["prefix"] == "" else read_as(recipe.features.backbone)
    held = read_tensor_file(folder / BACKBONE).tensors
    return Rest(
        {key.removeprefix(before): _kept(held[key], made.get(key.removeprefix(before))) for key in held},
        found.under("unused"),
        published["prefix"],
        adapters,
        published["numbered"],
        tuple(published["absent"]),
        published["dtypes"],
    )


def _kept(held: Tensor, now: Tensor | None) -> Tensor:
    """The tensor of an imported file in its own type, unless training changed it."""
    return held if now is None or torch.equal(held.to(now.dtype), now) else now


def _write(path: Path, content: bytes) -> None:
    """Write a file whole; UsageError where its folder takes none."""
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}", hint="name a file in another folder") from error


def _torch(whole: Any) -> bytes:
    """What torch.save writes, of plain values and contiguous tensors of their own."""
    into = io.BytesIO()
    torch.save(whole, into)
    return into.getvalue()
