"""Colour-coded optical flow of clips for the report, from a flow store of the dataset where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from cache.features import FeatureStore
from cache.store import open_store, stores_under
from fsar_cache.console import warn
from fsar_cache.errors import FsarError
from pipeline.report_figures import data_uri, strip

SIDE = 112
"""Pixels of a picture's side: the field is brought to this size before it is coloured, never the colours."""
SLOWEST = 1.0
"""Least speed, in pixels at 224, that is shown in full colour: what is slower is noise as often as motion."""


@dataclass(frozen=True)
class FlowStrips:
    """pictures: by clip id, URIs of its fields in order. full: the speed shown in full colour, in pixels at 224. by: the estimator."""

    pictures: dict[str, list[str]]
    full: float
    by: str


Flow = Callable[[str, str, Sequence[str]], FlowStrips | None]
"""(dataset, sampling rule, clip ids) -> their flow, None where no store has it."""


def flow_strips(stores: Path, dataset: str, sampling: str, ids: Sequence[str]) -> FlowStrips | None:
    """The flow of the clips `ids` from a flow store of `dataset` under `stores`; one of the same sampling rule goes first."""
    with ExitStack() as opened:
        found = [store for store in map(_opened, stores_under(stores / dataset)) if store]
        flows = [opened.enter_context(store) for store in found if _holds(store, ids)]
        flows.sort(key=lambda store: (store.spec.sampling.get("rule") != sampling, store.path.name))
        return _coloured(flows[0], ids) if flows else None


def _opened(path: Path) -> FeatureStore | None:
    """The store, where it is one of flow; a damaged one is said and left out, for the page lives without."""
    try:
        store = open_store(path)
    except FsarError as error:
        warn(f"not looked at for the report's pictures of motion: {error.message}")
        return None
    return store if store.spec.kind == "flow" else None


def _holds(store: FeatureStore, ids: Sequence[str]) -> bool:
    rows = store.rows_of(ids)
    return bool((rows >= 0).all() and store.ok[rows].all())


def _coloured(store: FeatureStore, ids: Sequence[str]) -> FlowStrips:
    """All clips on one scale: full colour is the speed that one pixel in a hundred exceeds."""
    import torch

    from extract.flow_field import pixels, resize
    from extract.flow_image import REACH, flow_image

    fields = resize(pixels(torch.from_numpy(store.read(store.rows_of(ids)))), SIDE, SIDE)
    speed = fields.square().sum(-3).sqrt().numpy()
    full = max(float(np.percentile(speed, 99)) * 224 / SIDE, SLOWEST)
    images = flow_image(fields * (REACH * 224 / full)).permute(0, 1, 3, 4, 2).numpy()
    drawn = {name: [data_uri(image) for image in clip] for name, clip in zip(ids, images, strict=True)}
    return FlowStrips(drawn, full, str(store.spec.backbone["name"]))


def flow_figure(flow: FlowStrips, names: dict[str, str]) -> str:
    """One strip per clip under its name (id -> words), and what the colours mean."""
    said = (
        f"Motion (optical flow by <code>{escape(flow.by)}</code>): the hue is its direction \u2013 red to the right, yellow down, "
        f"light blue to the left, violet up \u2013 and the strength its speed, full at {flow.full:.1f} px per step at a size of 224; "
        "what does not move is white."
    )
    rows = "".join(f"<p>{escape(name)}</p>{strip(flow.pictures[clip])}" for clip, name in names.items())
    return f'<div class="flow"><p class="note">{said}</p>{rows}</div>'
