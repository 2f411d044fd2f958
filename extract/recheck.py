"""Are a store's features what its videos and weights give? Slices of rows drawn at random are made again and compared.

A checksum says that bytes are those once written; this says that they were the right ones. On the machine type and with the packages that
made a block, its rows must come out byte for byte; elsewhere they must be within `tolerance` of what is stored.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cache.features import FeatureStore
from cache.medium import Array
from cache.rows import Outcome, Row
from cache.spec import FeatureSpec
from extract.compute import Made, Slice
from extract.config import ExtractConfig, device_of
from extract.local import Clips, computed
from extract.prepare import rows_of
from extract.product import product_of
from extract.run import provenance
from extract.settings_of import settings_of
from fsar_cache.canonical import NOTHING, canonical, differences
from fsar_cache.draws import generator
from fsar_cache.errors import UsageError
from splits.types import Split

Report = Callable[[int, int], None]
MAKING = ("host", "batch_clips", "weights", "flow_weights", "views")
"""Fields of a block's provenance that are no difference between machines: names, and settings that are taken over."""


@dataclass(frozen=True)
class Wrong:
    """A row that isn't what its clip gives: how far off (None: it can't be made at all, and why), and how far it may be."""

    id: str
    view: int
    off: float | None
    allowed: float
    why: str = ""


@dataclass
class Recheck:
    """What came of it, distances in `unit`. exact: rows whose bytes had to be equal; near: rows that had to be within a tolerance.

    largest: how far off the farthest row is; wrong: rows that are not as they should be; gone: (id, why) of rows whose clips are not to
    be had; elsewhere: in what the making of the near rows differs from here, in words.
    """

    unit: str
    exact: int = 0
    near: int = 0
    largest: float = 0.0
    wrong: list[Wrong] = field(default_factory=list)
    gone: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def compare(self, row: Row, stored: Array, made: Array, allowed: float | None) -> None:
        """Count a row that was made again; allowed None: its bytes must be equal."""
        off = distance(stored, made)
        self.exact += allowed is None
        self.near += allowed is not None
        self.largest = max(self.largest, off)
        if stored.tobytes() != made.tobytes() if allowed is None else not off <= allowed:
            self.wrong.append(Wrong(row.id, row.view, off, allowed or 0.0))


def unit_of(spec: FeatureSpec) -> str:
    """What `distance` is measured in for rows of this spec."""
    return {"frames": "grey levels", "flow": "pixels (rms)"}.get(spec.kind, "of the row's norm")


def distance(one: Array, other: Array) -> float:
    """How far two rows are from each other.

    uint8 pixels: the largest difference in grey levels. int16 flow: the root mean square difference in pixels. Features: the norm of the
    difference over the norm of `one` (its absolute norm where `one` is zero).
    """
    gap = other.astype(np.float64) - one.astype(np.float64)
    if one.dtype == np.uint8:
        return float(np.abs(gap).max())
    if one.dtype == np.int16:
        return float(np.sqrt(np.mean(gap**2))) / 64
    whole = float(np.linalg.norm(one.astype(np.float64)))
    return float(np.linalg.norm(gap)) / (whole or 1.0)


def tolerance(spec: FeatureSpec, crossed: bool) -> float:
    """How far (see `distance`) a row may be off that another machine type or other packages made; crossed: a CPU against an accelerator.

    Measured with random weights for every kind of backbone. Older CPU instructions moved rows by up to 9e-5 (sums in another order; one
    pixel in 1000 rounded to its neighbour by the resize): 1e-3 is ten times that. An accelerator resizes in float32, by one grey level
    differently in a few pixels of 100 (bicubic: two): that alone moved pooled features by up to 1e-3, maps and tokens by up to 7e-3,
    where another clip moves them by 0.04 to 1.3: 0.02 lies between. Mixed precision rounds after every step to 8 bits (bfloat16): 0.05.
    Flow: 0.05 pixels, of the order of its own error on still pictures; noise of that size moved features of its pictures by up to 3e-3:
    5e-3.
    """
    if spec.kind == "frames":
        return 2.0
    if spec.kind == "flow" or "precision" in spec.backbone:
        return 0.05
    same = 5e-3 if spec.kind == "flow-features" else 1e-3
    return 2e-2 if crossed else same


def recheck(
    store: FeatureStore,
    split: Split | None,
    sample: int,
    seed: int = 0,
    *,
    workers: int = 0,
    time_limit: float = 60.0,
    report: Report | None = None,
) -> Recheck:
    """Make the rows of `sample` slices again, drawn by `seed` among those with features, and compare them with what is stored.

    A slice is what was computed together: a device batch of clips, one class of a text store. split: the dataset, None for a text store,
    which needs none. A row counts as gone where its clip is not in the dataset, or its file is not there or not the one it was made from.
    report(done, of) counts slices. Raises UsageError for features that no extraction made, IntegrityError where the named weights are
    others now, and MissingError where they are not there.
    """
    found = Recheck(unit_of(store.spec))
    drawn, done = _drawn(store, sample, seed), 0
    groups: dict[str, list[Slice]] = {}
    for part in drawn:
        groups.setdefault(canonical(_made_by(store, part.block)), []).append(part)
    for parts in groups.values():
        made_by = _made_by(store, parts[0].block)
        config = dataclasses.replace(settings_of(store.spec, made_by), workers=workers, time_limit=time_limit)
        if config.kind == "text":
            here, remade = _encoded(store.spec, config, parts)
        elif split is None:
            raise UsageError(f"the clips of {store.dataset} are needed to make its {store.spec.kind} again")
        else:
            here, remade = _recomputed(store, split, config, made_by, parts, found)
        apart = _apart(made_by, here)
        found.elsewhere += [line for line in apart if line not in found.elsewhere]
        crossed = _on_cpu(made_by) != _on_cpu(here)
        for made in remade:
            _compare(store, made, tolerance(store.spec, crossed) if apart else None, found)
            done += 1
            if report is not None:
                report(done, len(drawn))
    order = {(row.id, row.view): number for number, row in enumerate(row for part in drawn for row in part.rows)}
    found.wrong.sort(key=lambda each: order[each.id, each.view])  # slices come out in any order
    return found


def _made_by(store: FeatureStore, block: int) -> Mapping[str, Any]:
    entry = store.entry(block)
    return {} if entry is None else entry.provenance


def _on_cpu(made_by: Mapping[str, Any]) -> bool:
    return str(made_by.get("device", "cpu")).startswith("cpu")


def _drawn(store: FeatureStore, sample: int, seed: int) -> list[Slice]:
    """`sample` slices (or all, where there are fewer) of written blocks, each with at least one row that has features, in order."""
    ok, known = store.ok, []
    for block in sorted(store.done):
        first, last = store.block_range(block)
        step = int(_made_by(store, block).get("batch_clips", 1))
        ends = ((at, min(at + step, last)) for at in range(first, last, step))
        known += [(block, at, end) for at, end in ends if ok[at:end].any()]
    picked = generator("recheck", seed).choice(len(known), min(sample, len(known)), replace=False)
    rows = store.rows
    chosen = [known[i] for i in sorted(picked.tolist())]
    return [Slice(block, at - store.block_range(block)[0], rows[at:end]) for block, at, end in chosen]


def _apart(made_by: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what a block's making differs from what would make it here, in words; [] where the bytes must be equal."""
    then, now = ({name: value for name, value in each.items() if name not in MAKING} for each in (made_by, here))
    return [f"{name}: {_word(old)} then, {_word(new)} here" for name, old, new in differences(then, now)]


def _word(value: Any) -> str:
    return "unknown" if value is NOTHING else str(value)


def _encoded(spec: FeatureSpec, config: ExtractConfig, parts: Sequence[Slice]) -> tuple[dict[str, Any], Iterator[Made]]:
    """What would make text features here, and the features of the slices' classes."""
    from extract.clip_text import prompt_for, text_provenance, text_spec, text_tower

    tower = text_tower(config.backbone, config.weights)
    spec.require_same(text_spec(tower, config.prompt), "the store", f"the weights {config.weights} as they are now")

    def remade() -> Iterator[Made]:
        for part in parts:
            rows = [tower.encode(tower.tokens(prompt_for(config.prompt, row.id))).numpy() for row in part.rows]
            yield Made(part.block, part.first, np.concatenate(rows), [Outcome("ok")] * len(rows))

    return text_provenance(config.weights), remade()


def _recomputed(
    store: FeatureStore,
    split: Split,
    config: ExtractConfig,
    made_by: Mapping[str, Any],
    parts: Sequence[Slice],
    found: Recheck,
) -> tuple[dict[str, Any], Iterator[Made]]:
    """What would make such blocks here, and the slices' rows from those of their clips that are still the ones; the others are gone."""
    device = device_of("cpu" if _on_cpu(made_by) else "auto")
    product = product_of(config, split)
    store.spec.require_same(product.spec, f"the store {store.path}", "what would be made of the same names now")
    views = max(row.view for part in parts for row in part.rows)
    now = {(row.id, row.view): row.origin for row in rows_of(split, dataclasses.replace(config, views=views))}
    asked = [row for part in parts for row in part.rows]
    lost = {row.id: why for row in asked if (why := _why_gone(row, now.get((row.id, row.view))))}
    had = store.ok[store.numbers_of(asked)].tolist()
    found.gone += [(row.id, lost[row.id]) for row, ok in zip(asked, had, strict=True) if ok and row.id in lost]
    videos = {v.id: v for part in split.parts.values() for v in part.videos if v.id not in lost}
    remade = computed(
        parts,
        product,
        Clips(split.root, videos),
        device,
        config.batch_clips,
        workers=config.workers,
        time_limit=config.time_limit,
    )
    return provenance(config, product, device, config.batch_clips), remade


def _why_gone(row: Row, origin: str | None) -> str:
    """Why a row can't be made again, "" where it can; origin: what its clip is cut from now (None: it is not in the dataset)."""
    if origin is None:
        return "not in the dataset"
    if not origin:
        return "its file is not there"
    return "" if row.origin in ("", origin) else f"made from {row.origin}, now there is {origin}"


def _compare(store: FeatureStore, made: Made, allowed: float | None, found: Recheck) -> None:
    """Compare the rows of a slice that have features with those made again; an absent one is gone, and counted as such."""
    first = store.block_range(made.block)[0] + made.first
    ok = store.ok
    for number, features, outcome in zip(itertools.count(first), made.features, made.outcomes):
        if not ok[number] or outcome.status == "absent":
            continue
        row = store.rows[number]
        if outcome.status == "ok":
            found.compare(row, store.read([number])[0], features, allowed)
        else:
            found.wrong.append(Wrong(row.id, row.view, None, allowed or 0.0, outcome.reason))
