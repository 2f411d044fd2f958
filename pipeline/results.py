"""What an evaluation found, as plain data, and the file it is kept in: accuracy with interval, per class, confusion, correct answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar_cache.canonical import digest, plain
from fsar_cache.errors import IntegrityError
from fsar_cache.files import read_json, whole_file
from pipeline.recipe import Recipe

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. Accuracies and interval in percent; interval is half of the 95 % interval of the mean over episodes.

    classes: names, in the order of per_class, queries and confusion. per_class: accuracy of each class's queries (None where none was
    drawn). confusion[true][said]: counts; `said` is one of the episode's classes. correct: right answers of each episode, in order of
    index, out of answers_per_episode; two evaluations with equal `identity` entries for data, protocol and seed pair up by it.
    identity: what the numbers depend on (dataset, part, hashes, protocol, seed, head, checkpoint). seconds: encoding and matching.
    leaks: what the training shares with this evaluation, in words; None where that was not checked.
    """

    accuracy: float
    interval: float
    loss: float
    episodes: int
    answers_per_episode: int
    classes: tuple[str, ...]
    per_class: tuple[float | None, ...]
    queries: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    correct: tuple[int, ...]
    identity: dict[str, Any]
    seconds: dict[str, float]
    leaks: tuple[str, ...] | None = ()

    def line(self) -> str:
        """The headline: accuracy, interval, number of episodes."""
        return f"{self.accuracy:.2f} % ± {self.interval:.2f} ({self.episodes} episodes)"


def interval95(accuracies: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of the mean: 1.96 population standard deviations over the root of the number of episodes [n]."""
    return float(1.96 * accuracies.std() / np.sqrt(len(accuracies)))


def summarise(
    said: Ints, truth: Ints, loss: float, names: tuple[str, ...], identity: dict[str, Any], seconds: dict[str, float]
) -> Evaluation:
    """An Evaluation from said and true classes, int64 [episodes, queries], as rows of `names`; loss is the mean cross-entropy."""
    count = len(names)
    confusion = np.bincount((truth * count + said).ravel(), minlength=count * count).reshape(count, count)
    right = (said == truth).sum(1)
    accuracies = right / said.shape[1]
    asked = confusion.sum(1)
    return Evaluation(
        accuracy=float(100 * accuracies.mean()),
        interval=100 * interval95(accuracies),
        loss=loss,
        episodes=len(said),
        answers_per_episode=said.shape[1],
        classes=names,
        per_class=tuple(float(100 * confusion[c, c] / asked[c]) if asked[c] else None for c in range(count)),
        queries=tuple(map(int, asked)),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        correct=tuple(map(int, right)),
        identity=identity,
        seconds=seconds,
    )


def file_name(dataset: str, asked: Recipe, own: Recipe, checkpoint: str | None = None) -> str:
    """The file of an evaluation in its run's folder: eval-<dataset>.json for the protocol of the run's own recipe.

    What differs from that recipe is said behind the dataset, so that no evaluation takes another's place: eval-far-1shot.json.
    asked: the recipe evaluated, whose target and eval settings may differ from those of `own`. checkpoint: one chosen by name.
    """
    a, b = asked.eval, own.eval
    words = [dataset]
    words += [asked.target.part] if asked.target.part != own.target.part else []
    words += [f"{getattr(a, n)}{n}" for n in ("way", "shot", "query", "episodes") if getattr(a, n) != getattr(b, n)]
    words += [f"seed{a.seed}"] if a.seed != b.seed else []
    drawn, usual = (
        (r.target.exclude, r.target.min_class, *([r.target.drop_classes] if r.target.drop_classes else []))
        for r in (asked, own)
    )
    words += [f"clips-{digest(drawn, 6)}"] if drawn != usual else []
    words += [checkpoint] if checkpoint else []
    return f"eval-{'-'.join(words)}.json"


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation as JSON, one line per entry, whole or not at all."""
    lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in plain(evaluation).items()]
    with whole_file(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_evaluation(path: Path) -> Evaluation:
    """Read what `write_evaluation` wrote; MissingError or IntegrityError otherwise."""
    values = read_json(path)
    try:
        tuples = {k: tuple(values[k]) for k in ("classes", "per_class", "queries", "correct")}
        if (found := values.get("leaks")) is not None:
            found = tuple(found)
        return Evaluation(**{**values, **tuples, "leaks": found, "confusion": tuple(map(tuple, values["confusion"]))})
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is not an evaluation: {error}", hint="evaluate again") from error
