"""A recipe: all that decides one number (data, features, head, training, evaluation), read from TOML and changed by `--set`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from extract.flow_settings import FlowSettings
from fsar_cache.errors import UsageError, unknown
from fsar_cache.files import read_json
from fsar_cache.settings import build, override, read_toml
from splits.episodes import MinClass, UnlabelledSampling
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
    normalise: Literal["none", "centre-source-std"] = "none"
    store: str | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 1 or self.views < 0:
            raise ValueError(
                f"frames and size must be positive and views not negative, got {self.frames}, {self.size} and {self.views}"
            )
        if self.cut not in CUTS and not re.fullmatch(r"block\d+", self.cut):
            raise unknown("cut", self.cut, [*CUTS, "block0"])
        if self.normalise != "none" and self.cut not in ("pooled", "map"):
            raise ValueError(
                f"normalise = {self.normalise!r} needs a frozen backbone: cut pooled or map, not {self.cut}"
            )


@dataclass(frozen=True)
class Domain:
    """A dataset and the partition used of it.

    unlabelled: the partition whose clips may be used in training without labels (target only). exclude: ids of clips never drawn,
    beside those that failed extraction. min_class: whether a class with fewer usable clips than an episode takes is refused or dropped;
    one without any usable clip is left out either way.
    """

    dataset: str
    part: str
    unlabelled: str | None = None
    exclude: tuple[str, ...] = ()
    min_class: MinClass = "refuse"


@dataclass(frozen=True)
class Train:
    """Training: one iteration is one episode; the gradients of tasks_per_batch episodes are summed before an optimizer step.

    first_step_early: step when (iteration + 1) is a multiple of tasks_per_batch and at the last iteration but one, as GSLTA
    published it (with 16 the first step comes after 15 episodes); otherwise after every tasks_per_batch episodes and at the end.
    unlabelled_sampling: "uniform" over the unlabelled clips, or the faulty walk over classes that GSLTA "published".
    schedule: "constant", "cosine" (to 0 over all iterations) or "steps" (times gamma at each of milestones, in iterations).
    validate_every: iterations between validations on `validate_part` of the source (0: never); the best one is kept as "best".
    """

    way: int = 5
    shot: int = 5
    query: int = 5
    unlabelled: int = 0
    unlabelled_sampling: UnlabelledSampling = "uniform"
    iterations: int = 1000
    tasks_per_batch: int = 16
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    first_step_early: bool = False
    seed: int = 1896
    save_every: int = 500
    keep_every: int = 0
    validate_every: int = 0
    validate_part: str = "val"
    validate_episodes: int = 200

    def __post_init__(self) -> None:
        for name in ("iterations", "tasks_per_batch", "save_every", "validate_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.keep_every < 0 or self.validate_every < 0:
            raise ValueError("keep_every and validate_every must not be negative (0 means never)")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum is a setting of sgd, not of {self.optimizer}")
        if bool(self.milestones) != (self.schedule == "steps"):
            raise ValueError(
                f"schedule {self.schedule!r} with milestones {list(self.milestones)}: 'steps' needs them, others none"
            )
        self.protocol  # noqa: B018 - checks way, shot, query and unlabelled

    @property
    def protocol(self) -> Protocol:
        """The training episodes as a protocol."""
        return Protocol(self.way, self.shot, self.query, self.iterations, self.unlabelled)

    def steps_at(self, iteration: int) -> bool:
        """Whether the optimizer steps after this iteration (counted from 1)."""
        if self.first_step_early:
            return (iteration + 1) % self.tasks_per_batch == 0 or iteration == self.iterations - 1
        return iteration % self.tasks_per_batch == 0 or iteration == self.iterations


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


@dataclass(frozen=True)
class Published:
    """The number this recipe stands for: accuracy and half interval in percent, where it was reported, and what to know of it."""

    value: float
    where: str
    interval: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """One experiment, complete: the same recipe, data and machine give the same numbers.

    default_of_head: of a shipped recipe, that commands which name only its head use it.
    """

    name: str
    head: str
    source: Domain
    target: Domain
    about: str = ""
    default_of_head: bool = False
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
        tasks = self.train.tasks_per_batch
        if self.head_config.get("tasks_per_batch", tasks) != tasks:
            raise ValueError(
                f"head_config.tasks_per_batch is {self.head_config['tasks_per_batch']}, but train.tasks_per_batch is {tasks}; "
                "the losses are divided by the episodes of a step: leave head_config.tasks_per_batch out"
            )


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("pipeline.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def names() -> list[str]:
    """The recipes that come with fsar-cache."""
    return list(_shipped())


def load_recipe(name_or_path: str, sets: tuple[str, ...] | list[str] = ()) -> Recipe:
    """The recipe called so, or in the file at that path (TOML, or the config.json of a run), with `a.b=c` settings applied.

    A recipe's name is its file's stem; a run's config says it. Raises UsageError for unknown names, keys and values that don't fit (with
    the nearest one), MissingError for a path that isn't there.
    """
    shipped = _shipped()
    is_path = name_or_path.endswith((".toml", ".json")) or "/" in name_or_path
    if not is_path and name_or_path not in shipped:
        raise unknown("recipe", name_or_path, shipped)
    path = Path(name_or_path) if is_path else shipped[name_or_path]
    values = read_json(path) if path.suffix == ".json" else read_toml(path)
    return build(Recipe, override({"name": path.stem, **values}, sets))


def recipe_of_head(head: str) -> str:
    """The recipe that a command which names only a head uses: the shipped one that says `default_of_head = true`."""
    read = {name: read_toml(path) for name, path in _shipped().items()}
    by_head = {values["head"]: name for name, values in read.items() if values.get("default_of_head")}
    if head not in by_head:
        raise UsageError(
            f"no recipe uses the head {head!r}; there are recipes for {', '.join(sorted(by_head))}",
            hint="write a TOML file and give it with --recipe FILE.toml",
        )
    return by_head[head]
