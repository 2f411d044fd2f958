"""One self-contained page about a run, made from the JSON files in its folder and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from fsar_cache import __version__
from fsar_cache.canonical import digest
from fsar_cache.errors import FsarError, IntegrityError, MissingError
from fsar_cache.files import read_json, whole_file, write_json
from pipeline import choose
from pipeline import report_figures as figures
from pipeline.folder import METRICS, PROVENANCE, read_config
from pipeline.recipe import Published, Recipe
from pipeline.report_flow import Flow, flow_figure
from pipeline.results import Evaluation, file_name, read_evaluation
from splits.datasets import open_split

PAGE = "report.html"
Json = Mapping[str, Any]


Example = Callable[[Path, Evaluation], dict[str, Any]]


def write_page(folder: Path, make_example: Example, flow: Flow | None = None) -> tuple[Path, bool]:
    """Write `<folder>/report.html`; returns its path and whether it was written: not where it shows these inputs already.

    The page is about the evaluation that the recipe names, else about the newest, and lists the others; make_example gives its
    comparison to look at, which is kept in the folder; flow gives the motion of its clips. MissingError where the run was not evaluated.
    """
    recipe = read_config(folder)
    evaluations = {path: read_evaluation(path) for path in sorted(folder.glob("eval-*.json"))}
    if not evaluations:
        raise MissingError(
            f"the run {folder} was not evaluated yet",
            hint=choose.command("eval", None, None, choose.run_word(folder), ()),
        )
    own = folder / file_name(_target_name(recipe), recipe, recipe)
    path = own if own in evaluations else max(evaluations, key=lambda p: p.stat().st_mtime_ns)
    main = evaluations.pop(path)
    metrics, provenance = read_metrics(folder / METRICS), read_json(folder / PROVENANCE)
    example = _kept_example(folder / f"example-{path.stem.removeprefix('eval-')}.json", folder, main, make_example)
    if flow is not None and "absent" not in example:
        clips = [example["query"], *(pair["clip"] for pair in example["pairs"])]
        example = {**example, "flow": flow(_domain(main), recipe.features.sampling, clips)}
    others = {path.stem.removeprefix("eval-"): found for path, found in evaluations.items()}
    seen = digest([recipe, main, others, metrics, provenance, example, __version__], 16)
    page = folder / PAGE
    if page.is_file() and f'content="{seen}"' in page.read_text(encoding="utf-8")[:1000]:
        return page, False
    with whole_file(page) as file:
        file.write(make_page(recipe, main, others, metrics, example, provenance, seen).encode())
    return page, True


def _target_name(recipe: Recipe) -> str:
    """The short name of the recipe's target; the name as written where the dataset is gone by now."""
    try:
        return open_split(recipe.target.dataset).name
    except FsarError:
        return recipe.target.dataset


def _domain(found: Evaluation) -> str:
    return str(found.identity["dataset"])


def _kept_example(path: Path, folder: Path, found: Evaluation, make_example: Example) -> Json:
    """The example in the folder if it belongs to this evaluation, else a new one."""
    of = digest(found.identity, 16)
    if path.is_file():
        kept: dict[str, Any] = read_json(path)
        if kept.get("of") == of:
            return kept
    made = {"of": of, **make_example(folder, found)}
    write_json(path, made)
    return made


def make_page(
    recipe: Recipe,
    main: Evaluation,
    others: Mapping[str, Evaluation],
    metrics: Sequence[Json],
    example: Json,
    provenance: Json,
    seen: str,
) -> str:
    """The page's text.

    others: further evaluations of the run by what tells them apart. metrics: one entry per recorded iteration; example: see
    pipeline.example; seen: a hash of all the inputs.
    """
    parts = {
        "seen": seen,
        "title": escape(f"{recipe.name}: {main.accuracy:.1f} % on {_domain(main)}"),
        **_header(recipe, main),
        **_classes(main),
        **_example(example),
        **_training(metrics, recipe, main),
        **_provenance(recipe, main, others, provenance),
        "footer": f"Written by fsar-cache {escape(__version__)} from the files beside this page. It loads nothing from elsewhere.",
    }
    return Template(files("pipeline").joinpath("report_page.html").read_text(encoding="utf-8")).substitute(parts)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The entries of a JSONL file, one per line; [] where there is none. IntegrityError names a line that is not JSON."""
    if not path.is_file():
        return []
    entries = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):  # the last line of a killed run may be torn
                break
            raise IntegrityError(f"line {number} of {path} is not JSON: {error}") from error
    return entries


def _header(recipe: Recipe, main: Evaluation) -> dict[str, str]:
    protocol, part = main.identity["protocol"], main.identity["part"]
    own = _domain(main) == _target_name(recipe) and (protocol["way"], protocol["shot"]) == (
        recipe.eval.way,
        recipe.eval.shot,
    )
    published = recipe.published if own else None
    value = published.value if published else None
    mark = (value, f"published: {published.where}") if published and value is not None else None
    return {
        "heading": f"{escape(recipe.head)} on {escape(_domain(main))} <span class='about'>(run {escape(recipe.name)})</span>",
        "about": escape(recipe.about),
        "headline": f"{main.accuracy:.1f}\u2009% <small>\u00b1 {main.interval:.1f}</small>",
        "protocol": escape(
            f"{protocol['way']}-way {protocol['shot']}-shot, {main.episodes:,} episodes with {protocol['query']} "
            f"quer{'y' if protocol['query'] == 1 else 'ies'} per class from partition {part!r}; "
            "\u00b1 is half of the 95 % interval over episodes."
        ),
        "scale": figures.scale(main.accuracy, main.interval, 100 / protocol["way"], mark),
        "against": _against(main, published) + _leaks(main),
    }


def _leaks(main: Evaluation) -> str:
    if main.leaks is None:
        return " Leaks: not checked, as what this was trained on could not be told."
    return "".join(f" Leak: {escape(text)}." for text in main.leaks)


def _against(evaluation: Evaluation, published: Published | None) -> str:
    if published is None or published.value is None:
        return '<span class="tag">measured here</span> There is no published number for this experiment.'
    spread = "" if published.interval is None else f" \u00b1 {published.interval:g}"
    note = f" {escape(published.note)}" if published.note else ""
    return (
        f'<span class="tag">measured here</span> {evaluation.accuracy:.1f} % \u00b1 {evaluation.interval:.1f}. '
        f'<span class="tag">published</span> {published.value:g} %{spread} ({escape(published.where)}); '
        f"the difference is {evaluation.accuracy - published.value:+.1f} points.{note}"
    )


def _classes(evaluation: Evaluation) -> dict[str, str]:
    way = evaluation.identity["protocol"]["way"]
    asked = [
        (name, value, count)
        for name, value, count in zip(evaluation.classes, evaluation.per_class, evaluation.queries, strict=True)
        if value is not None
    ]
    absent = len(evaluation.classes) - len(asked)
    more = f" {absent} class{'es were' if absent > 1 else ' was'} never drawn." if absent else ""
    return {
        "bars": figures.bars(asked, 100 / way),
        "bars_note": f"Share of each class's queries that were recognised; the fine line is chance ({100 / way:.0f} %).{more}",
        "confusion": figures.confusion(evaluation.classes, np.array(evaluation.confusion, np.float64)),
        "confusion_note": (
            f"Row: true class; column: answer, in percent of the row. Each query had {way} answers to choose from, so a class can only be "
            "taken for one that stood in the same episode."
        ),
    }


def _example(example: Json) -> dict[str, str]:
    """One query against the right class and against the best wrong one: matrices with paths, or just the clips, or the reason for none."""
    if "absent" in example:
        return {"example": "", "example_note": escape(example["absent"])}
    pairs = example["pairs"]
    note = (
        f"Query clip <code>{escape(example['query'])}</code> of class <b>{escape(example['class'])}</b>, in an episode with one support "
        f"clip per class; it was recognised {'correctly' if example['correct'] else 'wrongly'}."
    )
    if not example["aligned"]:
        strips = [figures.strip(example["frames"])]
        strips += [f"<p>{_pair_title(pair)}</p>{figures.strip(pair['frames'])}" for pair in pairs]
        note += " This head compares whole clips, so there is no path between frames to show."
        return {"example": "".join(strips) + _motion(example), "example_note": note}
    note += (
        " Rows are the query's frames from top to bottom, columns the support clip's from left to right; a stronger colour is a better fit "
        "of two frames. The dots show which pairs the alignment uses and how much, the line their mean in each row."
    )
    costs = [np.array(pair["cost"], np.float64) for pair in pairs]
    limits = (min(float(c.min()) for c in costs), max(float(c.max()) for c in costs))
    drawn = [
        f"<figure><figcaption>{_pair_title(pair)}</figcaption>"
        f"{figures.alignment(cost, np.array(pair['path'], np.float64), example['frames'], pair['frames'], limits)}</figure>"
        for pair, cost in zip(pairs, costs, strict=True)
    ]
    return {"example": f'<div class="two">{"".join(drawn)}</div>{_motion(example)}', "example_note": note}


def _motion(example: Json) -> str:
    """The optical flow of the comparison's clips, where there is some."""
    if example.get("flow") is None:
        return ""
    names = {example["query"]: f"query of {example['class']}"}
    names |= {pair["clip"]: f"support of {pair['class']}" for pair in example["pairs"]}
    return flow_figure(example["flow"], names)


def _pair_title(pair: Json) -> str:
    kind = "the right class" if pair["right"] else "the nearest other class"
    return f"<b>{escape(pair['class'])}</b><br><span class='about'>{kind}: probability {100 * pair['probability']:.0f}\u2009%</span>"


def _training(metrics: Sequence[Json], recipe: Recipe, main: Evaluation) -> dict[str, str]:
    imported = (main.identity.get("trained_on") or {}).get("published")
    if imported:
        note = f"The weights are a published checkpoint's, {imported['file']}; it was trained elsewhere, so there is no curve."
        return {"training": "", "training_note": escape(note)}
    if not metrics:
        return {"training": "", "training_note": "This head was evaluated without training, so there is no curve."}
    steps = np.array([entry["iteration"] for entry in metrics], np.float64)
    train = recipe.train
    names = [name for name in ("loss", "accuracy") if name in metrics[0]]
    drawn = [
        figures.curve(
            f"{name} of training episodes",
            steps,
            np.array([entry[name] for entry in metrics], np.float64) * (100 if name == "accuracy" else 1),
            percent=name == "accuracy",
        )
        for name in names
    ]
    note = (
        f"{train.iterations:,} iterations of one {train.way}-way {train.shot}-shot episode on {recipe.source.dataset}, gradients of "
        f"{train.tasks_per_batch} episodes per step of {train.optimizer} at {train.lr:g}. Thin: as recorded; strong: running mean."
    )
    return {"training": "".join(drawn), "training_note": escape(note)}


def _provenance(recipe: Recipe, main: Evaluation, others: Mapping[str, Evaluation], provenance: Json) -> dict[str, str]:
    """The table: what was measured, on which features and data, by which checkpoint, and the sessions that trained it."""
    rows = {
        "features": asdict(recipe.features),
        "evaluation": {
            name: value for name, value in main.identity.items() if name not in ("checkpoint", "trained_on", "protocol")
        },
        "protocol": main.identity["protocol"],
        "checkpoint": main.identity.get("checkpoint"),
        "trained on": main.identity.get("trained_on"),
        **{f"session {number}": session for number, session in enumerate(provenance["sessions"], 1)},
        "seconds": {name: f"{value:.2f}" for name, value in main.seconds.items()},
        "other evaluations": {name: f"{_protocol(o)}: {o.line()}" for name, o in others.items()},
    }
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{_code(value)}</td></tr>" for name, value in rows.items() if value)
    return {
        "provenance": f"<table>{lines}</table>",
        "provenance_note": "Same recipe, data and machine give the same numbers.",
    }


def _protocol(found: Evaluation) -> str:
    return f"{found.identity['protocol']['way']}-way {found.identity['protocol']['shot']}-shot"


def _code(value: Any) -> str:
    """A value of the provenance table: tables as one line per entry, everything else as code."""
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(k))}: <code>{escape(_plain(v))}</code>" for k, v in value.items())
    return f"<code>{escape(_plain(value))}</code>"


def _plain(value: Any) -> str:
    """One line for a value: a string as it is, a table as "name value, name value", anything else as JSON."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
