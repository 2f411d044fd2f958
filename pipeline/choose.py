"""What a short command leaves open: the recipe, the data, the partition, the run; every choice is said on stderr."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from extract import defaults
from fsar_cache import places
from fsar_cache.canonical import digest
from fsar_cache.console import say, warn
from fsar_cache.errors import MissingError, UsageError, nearest, unknown
from fsar_cache.settings import build, override
from pipeline.protocol import protocol as preset_of
from pipeline.recipe import (
    Domain,
    Features,
    Recipe,
    default_recipes,
    load_recipe,
    names,
    recipe_of_head,
    settings_of,
)
from splits.datasets import open_split, require_known
from splits.official.catalog import official_names

DEFAULTS = {"recipe": "demo", "source part": ("train", "all"), "target part": ("test", "all")}
"""What is taken where neither the command nor a head's recipe says it."""
KINDS = ("features", "flow", "flow-features", "text")
RECIPE = "config.json"
"""The file that makes a folder a run."""
UNNAMED = ("eval.", "target.part")
"""Settings that ask for another evaluation of the same run, so the run's name doesn't depend on them."""
AFTER = ("eval.", "target.")
"""Settings that may change when a run that is there is evaluated."""


def load(recipe: str | None, head: str | None, sets: Sequence[str], protocol: str | None = None) -> Recipe:
    """The recipe a command means: the named one, else that of the head, else the default; with `sets` applied.

    protocol: one whose settings stand between the recipe's and `sets`; it is part of the recipe's name then.
    """
    if recipe and head and load_recipe(recipe).head != head:
        raise UsageError(
            f"the recipe {recipe} is for the head {load_recipe(recipe).head}, not {head}",
            hint=f"leave out --recipe {recipe}, or --head {head}",
        )
    meant = recipe or (recipe_of_head(head) if head else str(DEFAULTS["recipe"]))
    if protocol is None:
        return load_recipe(meant, list(sets))
    preset, own = preset_of(protocol), settings_of(meant)
    between = preset.settings(unlabelled=bool(own.get("train", {}).get("unlabelled")))
    made = load_recipe(meant, [*between, f'name="{own["name"]}-{protocol}"', *sets])
    kept = made.source.dataset, made.target.dataset, made.eval.shot
    theirs = *(own.get(role, {}).get("dataset") for role in ("source", "target")), own.get("eval", {}).get("shot")
    return made if kept == theirs else replace(made, published=None)  # a number that was published for something else


def settle(recipe: str | None, head: str | None, sets: Sequence[str], protocol: str | None = None) -> Recipe:
    """The recipe that `load` gives, with data that is extracted and partitions that the datasets have; said aloud."""
    made = load(recipe, head, [*found(recipe, head, sets, protocol), *sets], protocol)
    made = _told(made, recipe, head)
    require_known(made.target.dataset)  # before backbones are fetched
    if _reads_source(made):
        require_known(made.source.dataset)
    made = replace(
        made,
        source=with_part(made.source, DEFAULTS["source part"], "source"),
        target=with_part(made.target, DEFAULTS["target part"], "target"),
    )
    if _reads_source(made):
        say_meant(made.source.dataset)
    if made.target.dataset != made.source.dataset or not _reads_source(made):
        say_meant(made.target.dataset)
    domains = f"source {made.source.dataset}/{made.source.part}, target {made.target.dataset}/{made.target.part}"
    if made.train.unlabelled and trains(made):
        domains += f", unlabelled clips of {made.target.dataset}/{made.target.unlabelled}"
    say(f"recipe {made.name}{_why(recipe, head)}: head {made.head}; {_words(made.features)}; {domains}")
    if protocol:
        _say_protocol(protocol, made)
    return made


def found(recipe: str | None, head: str | None, sets: Sequence[str], protocol: str | None = None) -> list[str]:
    """Settings of the data that a command which names none should take (`pipeline.extracted_data`); [] where the recipe's own is right."""
    if recipe or protocol or any(text.strip().startswith(("source.", "target.")) for text in sets):
        return []
    from pipeline.extracted_data import extracted_domains

    return extracted_domains(load(recipe, head, sets))


def say_meant(dataset: str) -> None:
    """Say which split the bare name of a dataset stands for."""
    if dataset in official_names():
        split = open_split(dataset)
        sizes = " / ".join(f"{len(part.classes)}" for part in split.parts.values())
        meant = dataset if dataset == split.name else f"{dataset} stands for {split.name}"
        say(f"{meant}: {sizes} classes in {' / '.join(split.parts)}")


def _say_protocol(name: str, recipe: Recipe) -> None:
    preset = preset_of(name)
    say(f"protocol {name}: {preset.about} ({preset.whose}; {preset.where})")
    if other := _otherwise(name, recipe):
        warn(f"this is not {name} as it was published: {'; '.join(other)}")
    differs = preset.differs
    if recipe.train.unlabelled:
        differs += preset.differs_unlabelled
    elif preset.differs_unlabelled:
        say("  this head uses no unlabelled clips: that part of the protocol is left out")
    for text in differs:
        say(f"  before comparing: {text}")


def _otherwise(name: str, recipe: Recipe) -> list[str]:
    """What of the protocol is set to something else, field by field."""
    preset = preset_of(name)
    pairs = [
        (f"{role}.{key}", getattr(getattr(preset, role), key), getattr(getattr(recipe, role), key))
        for role, keys in (
            ("source", ("dataset", "part", "drop_classes")),
            ("target", ("dataset", "part", "shared")),
            ("train", ("way", "shot", "query")),
            ("eval", ("way", "shot", "query")),
        )
        for key in keys
    ]
    return [f"{key} is {now!r}, not {then!r}" for key, then, now in pairs if then != now]


def trains(recipe: Recipe) -> bool:
    """Whether there is anything to train: told by the head alone, without the backbone."""
    from pipeline.model import build_head

    return recipe.features.cut not in ("pooled", "map") or any(True for _ in build_head(recipe, classes=2).parameters())


def _told(made: Recipe, recipe: str | None, head: str | None) -> Recipe:
    """The recipe with words about it that are true: a recipe's own tell of its own datasets."""
    own = settings_of(recipe or (recipe_of_head(head) if head else str(DEFAULTS["recipe"])))
    theirs = tuple(own.get(role, {}).get("dataset") for role in ("source", "target"))
    if theirs == (made.source.dataset, made.target.dataset):
        return made
    about = f"{made.head} from {made.source.dataset} to {made.target.dataset}"
    return replace(made, about=about, published=None)  # a number that was published for other data


def _reads_source(recipe: Recipe) -> bool:
    """Whether source clips are trained on, or normalise: told by the head alone, without the backbone."""
    return recipe.features.normalise != "none" or trains(recipe)


def settle_features(recipe: str | None, head: str | None, sets: Sequence[str], kind: str = "features") -> Features:
    """The features that an extraction makes; said aloud.

    Those of the recipe that `load` gives; where neither recipe nor head is named but a backbone is, or another kind than features,
    what fits that. `sets` (a backbone is named there too) have the last word.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    # what normalises features is no matter of their extraction, so it must not forbid a cut there
    made = load(recipe, head, [*sets, 'features.normalise="none"'])
    name = override({"features": {}}, sets)["features"].get("backbone")
    if recipe or head or (kind == "features" and name is None):
        say(f"features of recipe {made.name}{_why(recipe, head)}: {_words(made.features)}")
        return made.features
    name = str(name or defaults.TEXT)
    fitting = defaults.FLOW if kind == "flow" else {"backbone": name, **defaults.features_of(name)}
    features = build(Features, override({"features": fitting}, sets)["features"], "features")
    say(f"{kind}: {_kind_words(features, kind)}")
    return features


def settle_kinds(
    recipe: str | None, head: str | None, sets: Sequence[str], kind: str | None
) -> list[tuple[str, Features]]:
    """What an extraction makes, [(kind, its settings)]; said aloud.

    The kind asked for, or where only a recipe or head is named all that its head needs, but what it takes from stores of its own or live.
    """
    if not (recipe or head):
        kind = kind or "features"
        return [(kind, settle_features(None, None, sets, kind))]
    from pipeline.beside import EXTRACTION, features_for, kinds_beside

    features = settle_features(recipe, head, sets, kind or "features")
    if kind is not None:
        own = {made: needed for needed, made in EXTRACTION.items()}
        return [(kind, features_for(features, own.get(kind, "features")))]
    needed = sorted(kinds_beside(load(recipe, head, [*sets, 'features.normalise="none"'])))
    beside = [each for each in needed if getattr(features, f"{each}_store") is None]
    if not beside or not (features.cut == "video" or features.store is not None):
        beside = ["features", *beside]
    if len(beside) > 1:
        say(f"the head needs {', '.join(EXTRACTION[each] for each in beside)}")
    return [(EXTRACTION[each], features_for(features, each)) for each in beside]


def _kind_words(features: Features, kind: str) -> str:
    f = features
    if kind in ("flow", "flow-features"):
        fields = f"{f.flow.estimator}, pairs {f.flow.pair}, {f.frames} fields of {f.size} pixels by {f.transform}"
        return (
            fields
            if kind == "flow"
            else f"{fields}, as {f.flow.image} pictures through {f.backbone}, weights {f.weights}"
        )
    if kind == "text":
        return f"{f.backbone}, weights {f.weights}, prompt {f.prompt!r}"
    return f"what fits {f.backbone}: {_words(f)}, by sampling {f.sampling} and transform {f.transform}"


def _why(recipe: str | None, head: str | None) -> str:
    return "" if recipe else f", the recipe of {head}" if head else ", the default"


def _words(features: Features) -> str:
    f = features
    if f.store is not None:
        return f"the store {f.store}, {f.frames} frames" + (
            "" if f.normalise == "none" else f", normalised {f.normalise}"
        )
    words = f"{f.backbone}, weights {f.weights}, cut {f.cut}, {f.frames} frames of {f.size} pixels"
    words += f", {f.views} training views" if f.views else ""
    return words if f.normalise == "none" else f"{words}, normalised {f.normalise}"


def with_part(domain: Domain, preferred: Sequence[str], role: str) -> Domain:
    """The domain with a partition that its dataset has; only a dataset of the user's own may lack the recipe's."""
    if ":" not in domain.dataset:
        return domain
    parts = open_split(domain.dataset).parts
    if domain.part in parts:
        return domain
    found = next((part for part in preferred if part in parts), None)
    if found is None:
        return domain
    say(f"{domain.dataset} has no partition {domain.part!r}: using {found!r} (change it with --set {role}.part=NAME)")
    return replace(domain, part=found)


def split_sets(sets: Sequence[str], later: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The settings that make a run, and those whose names start with one of `later`."""
    after = [text for text in sets if text.partition("=")[0].strip().startswith(later)]
    return [text for text in sets if text not in after], after


def named_folder(run: str) -> Path:
    """The folder of the run that `--run` names: under runs/, or a path where it holds a slash."""
    return Path(run) if "/" in run else places.runs() / run


def run_word(folder: Path) -> str:
    """What `--run` takes for this folder."""
    return folder.name if named_folder(folder.name) == folder else str(folder if "/" in str(folder) else f"./{folder}")


def run_recipe(folder: Path) -> str:
    """What `--recipe` takes for the settings that the run in this folder was made with."""
    return str(folder / RECIPE if "/" in str(folder) else f"./{folder / RECIPE}")


def command(
    verb: str,
    recipe: str | None,
    head: str | None,
    run: str | None,
    sets: Sequence[str],
    protocol: str | None = None,
) -> str:
    """A command that can be run as it is, with the folder of videos that this one was told."""
    words = ["fsar-cache", verb]
    named = {"--recipe": recipe, "--head": None if recipe else head, "--protocol": protocol, "--run": run}
    for option, value in named.items():
        words += [option, value] if value else []
    return shlex.join([*words, *places.videos_words(), *(word for text in sets for word in ("--set", text))])


def run_folder(recipe: Recipe, run: str | None, sets: Sequence[str]) -> Path:
    """Where a run lives: the folder named by `run`, else runs/<recipe>, with a hash of the changed settings behind it if any."""
    if run:
        return named_folder(run)
    return places.runs() / (f"{recipe.name}-{digest(sorted(set(sets)), 6)}" if sets else recipe.name)


def find_run(run: str | None) -> Path:
    """An existing run's folder; without a name the one written to last. MissingError where there is none."""
    there = {folder.parent.name: folder.parent for folder in sorted(places.runs().glob(f"*/{RECIPE}"))}
    if run is None:
        if not there:
            raise MissingError(f"no run under {places.runs()} yet", hint="fsar-cache run --recipe demo")
        usable = [folder for folder in there.values() if _has_something(folder)] or list(there.values())
        newest = max(usable, key=lambda folder: max(file.stat().st_mtime_ns for file in folder.iterdir()))
        say(f"run {newest.name}, the newest")
        return newest
    folder = named_folder(run)
    if not (folder / RECIPE).is_file():
        close = nearest(run, there)
        known = f"there are {', '.join(there)}" if there else "there are none yet"
        raise MissingError(
            f"no run {folder}; {known}", hint=f"did you mean {close!r}?" if close else _makes(run, there)
        )
    return folder


def _has_something(folder: Path) -> bool:
    """Whether a run holds a checkpoint or an evaluation; a training that ended at once leaves neither."""
    return any(folder.glob("checkpoints/*.safetensors")) or any(folder.glob("eval-*.json"))


def _makes(run: str, there: Collection[str]) -> str:
    """What gives a run of this name where none is like it: the recipe or head called so; else one that is there, or the first."""
    if run in names():
        return f"fsar-cache run --recipe {run}"
    if run in default_recipes():
        return f"fsar-cache run --recipe {default_recipes()[run]} --run {run}"
    return f"name one of them: --run {next(iter(there))}" if there else "fsar-cache run --recipe demo"
