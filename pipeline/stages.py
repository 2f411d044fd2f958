"""The stages that commands call: synth, extract, train, evaluate, report, and all of them for one recipe.

Each says on stderr what it does; a stage that is finished says "nothing to do" and why.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar_cache import places
from fsar_cache.console import say, warn
from fsar_cache.errors import FailedVideosError, MissingError, UsageError
from pipeline import choose, evaluating
from pipeline.display import display
from pipeline.extract_words import say_made, say_plan, warn_of_failures
from pipeline.memory import enough_memory
from pipeline.recipe import Features, Recipe, load_recipe
from splits.datasets import expand, open_split

if TYPE_CHECKING:
    from extract.plan import Plan
    from extract.run import Summary
    from pipeline.results import Evaluation
    from pipeline.trainer import RunSummary
    from splits.synth_render import Report

SYNTH = "synth-"


def synth(seed: int | None = None, clips: int | None = None, domains: Sequence[str] = ()) -> Report:
    """Render the synthetic domains (all, unless named) that are not there yet with these settings."""
    from splits.synth_render import DOMAINS, render

    given = {name: value for name, value in (("seed", seed), ("clips_per_class", clips)) if value is not None}
    with display("synth", "clips") as show:
        made = render(places.videos() / "synth", domains=tuple(domains) or DOMAINS, progress=show_two(show), **given)
    for each in made.domains:
        say(f"synth {each.domain}: {each.why} ({each.folder})")
    return made


def show_two(show: Any) -> Any:
    """A display that takes no note."""
    return lambda done, total: show(done, total, "")


def extract(
    dataset: str, features: Features, how: Mapping[str, Any], *, dry_run: bool = False, retry_failed: bool = False
) -> list[Plan | Summary]:
    """Extract every dataset that the name stands for; `how`: settings of ExtractConfig that don't change the bytes."""
    from pipeline.beside import extract_config

    kind = how.get("kind", "features")
    if features.cut == "video" and kind == "features":
        raise UsageError("the cut 'video' stores nothing, it decodes live", hint="--cut frames stores decoded frames")
    if features.store is not None:
        raise UsageError(
            f"the features are those of the store {features.store!r}, made in another way; nothing to extract",
            hint="fsar-cache store import-features --help",
        )
    try:
        config = dataclasses.replace(extract_config(features), **how)
    except ValueError as error:
        raise UsageError(str(error)) from error
    usual = not dataset.startswith(SYNTH.rstrip("-")) or kind == "text" or not features.backbone.startswith("resnet")
    if (
        usual
        and features.weights.startswith("random:")
        and kind != "flow"
        and (features.cut != "frames" or kind != "features")
    ):
        hubs = {"clip": "openclip:openai", "vide": "file:PATH"}
        better = hubs.get(features.backbone[:4], "timm:resnet18.a1_in1k")
        warn(f"weights {features.weights} have seen nothing; for numbers that mean something: --weights {better}")
    if not dry_run:
        _render_missing(expand(dataset))
    choose.say_meant(dataset)
    if kind == "text":
        if dry_run:
            raise UsageError("a class list takes seconds: there is nothing to plan", hint="leave out --dry-run")
        return [_text(name, config) for name in expand(dataset)]
    made: list[Plan | Summary] = []
    for name in expand(dataset):
        try:
            made.append((_plan if dry_run else _extract)(name, config, retry_failed))
        except FailedVideosError as error:
            error.made = [*made, error.made]
            raise
    return made


def say_texts(dataset: str, features: Features, how: Mapping[str, Any]) -> None:
    """What a dry run says of class texts, whose making takes no planning."""
    from extract.clip_text import class_rows
    from pipeline.beside import extract_config

    config = dataclasses.replace(extract_config(features), **how)
    for name in expand(dataset):
        say(f"extract {name} text: {len(class_rows(open_split(name), config))} class names, which take seconds")


def _text(name: str, config: Any) -> Summary:
    from extract.clip_text import extract_text
    from pipeline.trainer import stop_signals

    stop = threading.Event()
    with stop_signals(stop):
        made = extract_text(open_split(name), config, places.stores(), stop=stop)
    rows = next(iter(open_split(name).parts.values())).classes
    say(f"extract {name} text: the first prompt is {config.prompt.replace('{}', rows[0])!r}")
    done = f"{made.made} classes into {made.path}" if made.made else f"nothing to do, {made.path} holds all {made.ok}"
    say(f"extract {name} text: {done}")
    return made


def _plan(name: str, config: Any, retry_failed: bool) -> Plan:
    from extract.plan import plan

    made = plan(open_split(name), config, places.stores(), tries=4, retry_failed=retry_failed)
    say_plan(name, config, made)
    return made


def _extract(name: str, config: Any, retry_failed: bool) -> Summary:
    from extract.run import extract as run_extraction
    from pipeline.trainer import stop_signals

    stop = threading.Event()
    with display(f"extract {name}", "clips") as show, stop_signals(stop):

        def report(now: Any) -> None:
            note = f"{now.frames_per_second:.0f} frames/s, {now.bytes / 1e6:.1f} MB"
            show(now.done, now.total, note + (f", {now.failed} failed" if now.failed else ""))

        try:
            made = run_extraction(
                open_split(name), config, places.stores(), report=report, stop=stop, retry_failed=retry_failed
            )
        except FailedVideosError as error:
            say_made(name, config, error.made)
            raise
    say_made(name, config, made)
    warn_of_failures(made)
    return made


def train(recipe: Recipe, folder: Path, *, device: str = "auto") -> RunSummary:
    """Train the recipe in its run folder, or go on with it."""
    from pipeline.assemble import Places
    from pipeline.trainer import train as run_training

    hint = (
        "the last checkpoint is kept; end other programs, or --device cpu where an accelerator ran out, and go on with: "
        + choose.command("train", choose.run_recipe(folder), None, choose.run_word(folder), ())
        + "; a new run needs less with smaller episodes (--set train.query=2) or pooled features (--set features.cut=pooled)"
    )
    with display(f"train {folder.name}", "iterations") as show, enough_memory("training", hint):

        def report(done: int, total: int, metrics: Mapping[str, float]) -> None:
            show(done, total, f"loss {metrics['loss']:.3f}, accuracy {100 * metrics['accuracy']:.0f} %")

        made = run_training(recipe, folder, Places(places.stores()), device=device, report=report)
    if made.done_before == made.iterations:
        say(f"train: nothing to do, {folder} has all {made.iterations} iterations")
    else:
        again = f" (went on after {made.done_before})" if made.done_before else ""
        say(f"train: {made.iterations - made.done_before} iterations in {made.seconds:.1f} s{again}, in {folder}")
    return made


def run(recipe: Recipe, folder: Path, sets: Sequence[str], how: Mapping[str, Any]) -> Evaluation:
    """Everything of a recipe, in order: videos, features, training, evaluation, report.

    sets: settings of the evaluation that the run itself doesn't depend on; how: as for `extract`.
    """
    device = str(how.get("device", "auto"))
    trained = evaluating.needs_training(recipe)
    datasets = [recipe.source.dataset] if trained or recipe.features.normalise != "none" else []
    datasets += [recipe.target.dataset] if recipe.target.dataset not in datasets else []
    _render_missing(datasets, show_there=True)
    for name in datasets:
        if recipe.features.store is not None:
            say(f"extract {name}: nothing to do, the recipe uses the store {recipe.features.store}")
        elif recipe.features.cut == "video":
            say(f"extract {name}: nothing to do, the recipe decodes live video")
        else:
            extract(name, recipe.features, how)
        _extract_beside(name, recipe, how)
    if trained:
        train(recipe, folder, device=device)
    else:
        say(f"train: nothing to do, {recipe.head} on {recipe.features.cut} features has no parameters")
    found = evaluating.known_evaluation(recipe, folder, sets)
    if found is None:
        found = (
            evaluating.evaluate_trained(folder, sets, None, device)
            if trained
            else evaluating.evaluate_untrained(recipe, folder, sets, None, device)
        )
        say(f"eval: {found.episodes} episodes in {sum(found.seconds.values()):.1f} s")
    else:
        say(
            f"eval: nothing to do, {folder} holds these {found.episodes} episodes of this checkpoint and these features"
        )
    report(folder)
    return found


def _extract_beside(dataset: str, recipe: Recipe, how: Mapping[str, Any]) -> None:
    """The other kinds that the recipe's head needs of the dataset, but those that it takes from stores of its own."""
    from pipeline.beside import EXTRACTION, features_for, kinds_beside

    for kind in sorted(kinds_beside(recipe)):
        if (named := getattr(recipe.features, f"{kind}_store")) is not None:
            say(f"extract {dataset} {kind}: nothing to do, the recipe uses the store {named}")
        else:
            extract(dataset, features_for(recipe.features, kind), {**how, "kind": EXTRACTION[kind]})


def _render_missing(datasets: Sequence[str], show_there: bool = False) -> None:
    """Render the synthetic domains among `datasets` that are not there; those that are stay as they are, and are told of on request."""
    wanted = []
    for name in datasets:
        if not name.startswith(SYNTH):
            continue
        try:
            split = open_split(name)
        except MissingError:
            wanted.append(name.removeprefix(SYNTH))
        else:
            if show_there:
                count = sum(len(part.videos) for part in split.parts.values())
                say(f"synth {name.removeprefix(SYNTH)}: nothing to do, {count} clips are in {split.root}")
    if wanted:
        synth(domains=wanted)


def report(folder: Path) -> Path:
    """Write the run's page, unless it shows what the run holds already."""
    from pipeline.report import write_page
    from pipeline.report_flow import flow_strips

    page, written = write_page(folder, _example, lambda *of: flow_strips(places.stores(), *of))
    say(f"report: {'written to' if written else 'nothing to do, it shows all that is in the run:'} {page}")
    return page


def _example(folder: Path, found: Evaluation) -> dict[str, Any]:
    from pipeline.example import example_of

    return example_of(folder, found, places.stores())


def say_next(folder: Path, found: Evaluation) -> None:
    """What to try after a run whose evaluation was `found`."""
    from heads.base import HEADS

    recipe = load_recipe(str(folder / choose.RECIPE))
    evaluate = choose.command("eval", None, None, choose.run_word(folder), ())
    extract = choose.command("extract", choose.run_recipe(folder), None, None, ())
    few = found.identity["protocol"]["shot"] > 1
    trained = evaluating.is_trained(folder)
    far = f"{SYNTH}far" if found.identity["dataset"] != f"{SYNTH}far" else f"{SYNTH}target"
    tries = {"see the report": f"open {folder / 'report.html'} in a browser"}
    if not trained or HEADS.get(recipe.head).any_shot:
        tries["fewer shots" if few else "more shots"] = f"{evaluate} --shot {1 if few else 5}"
    if recipe.features.store is None and recipe.features.cut != "video":
        tries["another target domain"] = f"{extract} {far} && {evaluate} --target {far}"
    word = "without" if trained else "with"
    tries[f"a head {word} training"] = f"fsar-cache run --recipe {'otam' if trained else 'demo'}"
    tries["your own videos"] = "fsar-cache extract folder:PATH --weights timm:resnet18.a1_in1k"
    say("try next:")
    for about, command in tries.items():
        say(f"  {about + ':':<26} {command}")
