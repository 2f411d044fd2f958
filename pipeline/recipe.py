"""A recipe: all that decides one number (data, features, head, training, evaluation), read from TOML and changed by `--set`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from extract.flow_settings import FlowSettings
from fsar_cache.errors import UsageError, nearest, unknown
from fsar_cache.files import read_json
from fsar_cache.settings import build, override, read_toml
from pipeline.train_settings import Train as Train
from splits.episodes import MinClass
from splits.types import Protocol

CUTS = ("pooled", "map", "frames", "video")
"""The cuts beside those that enter a numbered block; which of them a backbone has, it says itself."""


@dataclass(frozen=True)
class Features:
    """How pixels become what the head consumes. cut: what the store holds, one of the backbone's; "video" decodes live, without a store.

    The train_* rules, view_seed and flip say how training views are drawn: afresh by live training, and `views` of them per clip by a store
    (0: training from a store sees the evaluation view). store: the folder of a store made in another way, instead of one extracted by
    these settings; its rows go to the head as they are.
    """

    backbone: str = "resnet18"
    weights: str = "random:0"
    cut: str = "pooled"
    frames: int = 8
    size: int = 224
    sampling: str = "gslta-test"
    transform: str = "gslta-eval"
    scaling: str = "auto"
    decoder: str = "auto"
    dtype: Literal["auto", "float32", "float16"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    views: int = 0
    view_seed: int = 0
    train_sampling: str = "gslta-train"
    train_transform: str = "gslta-train"
    flip: Literal["auto", "on", "off"] = "auto"
    flow: FlowSettings = field(default_factory=FlowSettings)
    prompt: str = "a photo of {}"
    text_backbone: str = "clip_vit_b16"
    text_weights: str = "auto"
    normalise: Literal["none", "centre-source-std"] = "none"
    store: str | None = None
    flow_store: str | None = None
    text_store: str | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 1 or self.views < 0:
            raise ValueError(
                f"frames and size must be positive and views not negative, got {self.frames}, {self.size} and {self.views}"
            )
        if self.cut not in CUTS and not re.fullmatch(r"block\d+", self.cut):
            raise unknown("cut", self.cut, [*CUTS, "block0"])
        if self.normalise != "none" and self.cut not in ("pooled", "map"):
            raise UsageError(
                f"features.normalise = {self.normalise!r} needs a frozen backbone: features.cut pooled or map, not {self.cut}",
                hint="--set features.normalise=none",
            )


@dataclass(frozen=True)
class Domain:
    """A dataset and the partition used of it.

    unlabelled: the partition whose clips may be used in training without labels (target only). exclude: ids of clips never drawn,
    beside those that failed extraction. min_class: whether a class with fewer usable clips than an episode takes is refused or dropped;
    one without any usable clip is left out either way. drop_classes: classes that are left out of the dataset as if it had none of them.
    shared: what becomes of clips that are evaluated on and trained on too (target only): "refuse"; "drop" them from training; "keep" them,
    as some published protocols do.
    """

    dataset: str
    part: str
    unlabelled: str | None = None
    exclude: tuple[str, ...] = ()
    min_class: MinClass = "refuse"
    drop_classes: tuple[str, ...] = ()
    shared: Literal["refuse", "drop", "keep"] = "refuse"


@dataclass(frozen=True)
class Eval:
    """Evaluation episodes: drawn from the target's part with this seed, the same for every head."""

    way: int = 5
    shot: int = 5
    query: int = 1
    episodes: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        self.protocol  # noqa: B018 - checks the numbers

    @property
    def protocol(self) -> Protocol:
        """The evaluation episodes as a protocol."""
        return Protocol(self.way, self.shot, self.query, self.episodes)


Sure = Literal["authors' table", "second listing", "second-hand", "from memory", ""]
"""Where a published number was read: the authors' own table; from memory, but seen again in a second listing; a comparison in somebody
else's paper; from memory alone. "" is not said."""


@dataclass(frozen=True)
class Published:
    """The number this recipe stands for: accuracy and half interval in percent, where it was reported, and what to know of it.

    value: None where the protocol is published but no number is known. Way and shot are those of the recipe's evaluation. checkpoint:
    where its weights are to be had.
    """

    value: float | None = None
    where: str = ""
    interval: float | None = None
    note: str = ""
    checkpoint: str | None = None
    sure: Sure = ""

    def __post_init__(self) -> None:
        if self.value is None and (self.sure or self.interval is not None):
            raise ValueError("sure and interval say something of a value, but there is none")
        if self.value is not None and not (0 <= self.value <= 100 and self.where):
            raise ValueError(f"a value is an accuracy in percent and says where it was reported, got {self.value}")


@dataclass(frozen=True)
class Recipe:
    """One experiment, complete: the same recipe, data and machine give the same numbers.

    default_of_head: of a shipped recipe, that commands which name only its head use it. follows: whether its training is the "published"
    protocol as far as it can be had, a "frozen" variant of it (the same on stored features of a frozen backbone), or "ours".
    """

    name: str
    head: str
    source: Domain
    target: Domain
    about: str = ""
    default_of_head: bool = False
    follows: Literal["published", "frozen", "ours"] = "ours"
    features: Features = field(default_factory=Features)
    head_config: dict[str, Any] = field(default_factory=dict)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    published: Published | None = None

    def __post_init__(self) -> None:
        if self.train.unlabelled and self.target.unlabelled is None:
            raise ValueError(f"train.unlabelled is {self.train.unlabelled}, but target.unlabelled names no partition")
        if self.source.unlabelled is not None:
            raise ValueError("source.unlabelled has no use; unlabelled clips come from the target")
        if self.source.shared != "refuse":
            raise ValueError(
                "source.shared has no use; what training shares with the evaluation is said by target.shared"
            )
        tasks = self.train.tasks_per_batch
        if self.head_config.get("tasks_per_batch", tasks) != tasks:
            raise ValueError(
                f"head_config.tasks_per_batch is {self.head_config['tasks_per_batch']}, but train.tasks_per_batch is {tasks}; "
                "the losses are divided by the episodes of a step: leave head_config.tasks_per_batch out"
            )
        if self.follows == "frozen" and self.features.cut in ("frames", "video"):
            raise UsageError(
                f"follows = 'frozen' needs stored features of a frozen backbone, and features.cut is {self.features.cut!r}",
                hint="--set follows=ours, as the recipe is no longer a frozen variant of the published one",
            )


OWN = ("name", "about", "default_of_head", "follows", "published")
"""What a recipe says of itself alone, so it is never taken from the recipe that it extends."""


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("pipeline.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def names() -> list[str]:
    """The recipes that come with fsar-cache."""
    return list(_shipped())


def _path_of(name_or_path: str, folder: Path) -> Path:
    """The file of a shipped recipe, or the path; a relative one starts at `folder`."""
    if name_or_path.endswith((".toml", ".json")) or "/" in name_or_path:
        return folder / name_or_path
    shipped = _shipped()
    if name_or_path not in shipped:
        raise _unknown_recipe(name_or_path, folder)
    return shipped[name_or_path]


def _unknown_recipe(name: str, folder: Path) -> UsageError:
    """The error for a name that no shipped recipe has; a file of that name in `folder` goes before the nearest recipe."""
    close, file = nearest(name, _shipped()), folder / f"{name}.toml"
    likely = f"./{file.name}" if file.is_file() else close
    every = "fsar-cache list recipes shows them all; a file of your own is named by its path, ./NAME.toml"
    return UsageError(f"unknown recipe {name!r}", hint=f"did you mean {likely!r}? {every}" if likely else every)


def merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`base` with `values` in it or over it; tables are merged, everything else is replaced."""
    made = dict(base)
    for key, value in values.items():
        held = made.get(key)
        made[key] = merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return made


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings in a recipe's file over those of the recipe that it `extends`; below: the files that extend this one."""
    values = read_json(path) if path.suffix == ".json" else read_toml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UsageError(f"{path}: extends must be the name or path of one recipe, got {base!r}")
    seen = (*below, path.resolve())
    other = _path_of(base, path.parent)
    if other.resolve() in seen:
        raise UsageError(f"{path}: extends = {base!r} leads back to {other.name}, so neither has a beginning")
    inherited = {key: value for key, value in _read(other, seen).items() if key not in OWN}
    return merged(inherited, values)


def settings_of(name_or_path: str) -> dict[str, Any]:
    """What the file of a recipe says, and what it inherits, as nested tables; errors as `load_recipe` has them."""
    path = _path_of(name_or_path, Path())
    return {"name": path.stem, **_read(path)}


def load_recipe(name_or_path: str, sets: tuple[str, ...] | list[str] = ()) -> Recipe:
    """The recipe called so, or in the file at that path (TOML, or the config.json of a run), with `a.b=c` settings applied.

    A recipe's name is its file's stem; a run's config says it. A file with `extends = "NAME or PATH"` holds what differs from that recipe:
    all of it but what a recipe says of itself (`OWN`) is inherited, table by table. Raises UsageError for unknown names, keys and values
    that don't fit (with the nearest one) and for recipes that extend each other in a circle, MissingError for a path that isn't there.
    """
    return build(Recipe, override(settings_of(name_or_path), sets))


def default_recipes() -> dict[str, str]:
    """Head -> the shipped recipe that says `default_of_head = true`."""
    read = {name: _read(path) for name, path in _shipped().items()}
    return {values["head"]: name for name, values in read.items() if values.get("default_of_head")}


def recipe_of_head(head: str) -> str:
    """The recipe that a command which names only a head uses; UsageError for an unknown head, with the nearest, or one without a recipe."""
    by_head = default_recipes()
    if head in by_head:
        return by_head[head]
    from heads.base import HEADS  # slow to import

    heads = HEADS.names()
    if head in heads:
        raise UsageError(
            f"no recipe that comes with fsar-cache uses the head {head!r}",
            hint="write a TOML file and give it with --recipe FILE.toml",
        )
    close = nearest(head.lower().replace("-", "_"), heads)
    raise UsageError(
        unknown("head", head, heads).message, hint=f"did you mean {close!r}?" if close else "fsar-cache list heads"
    )
