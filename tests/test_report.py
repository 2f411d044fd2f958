"""The report: what it says, that it is one page of its own, and that its figures draw what they are given."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fsar_cache.errors import IntegrityError, MissingError
from fsar_cache.files import write_json
from pipeline import report_figures as figures
from pipeline.folder import write_config
from pipeline.recipe import Domain, Published, Recipe
from pipeline.report import read_metrics, write_page
from pipeline.results import Evaluation, summarise, write_evaluation

CLASSES = ("wave <b>left</b>", "wave right", 'spin "in"', "spin out", "hop & fall", "unseen")


def evaluation(dataset: str = "synth-target", shot: int = 5, seed: int = 0) -> Evaluation:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, (200, 5))
    said = np.where(rng.random((200, 5)) < 0.8, truth, rng.integers(0, 5, (200, 5)))
    protocol = {"way": 5, "shot": shot, "query": 1, "episodes": 200, "unlabelled": 0}
    identity = {
        "dataset": dataset,
        "part": "test",
        "split": "abc123",
        "protocol": protocol,
        "seed": 1,
        "checkpoint": None,
    }
    return summarise(said, truth, 0.9, CLASSES, identity, {"encode": 0.5, "match": 1.0})


def picture(tone: int) -> str:
    return figures.data_uri(np.full((30, 40, 3), tone, np.uint8))


def example(_: Path, __: Evaluation) -> dict[str, Any]:
    pairs = [
        {
            "class": name,
            "clip": f"{name}/1",
            "right": right,
            "probability": 0.75,
            "frames": [picture(20 * t) for t in range(3)],
            "cost": [[0.1, 0.5, 0.9], [0.5, 0.2, 0.6], [0.8, 0.4, 0.3]],
            "path": [[1.0, 0.0, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]],
        }
        for name, right in ((CLASSES[0], True), (CLASSES[1], False))
    ]
    query = {"query": "q/7", "class": CLASSES[0], "correct": True, "aligned": True, "frames": [picture(9)] * 3}
    return query | {"pairs": pairs}


def make_run(folder: Path, published: Published | None = None) -> Path:
    target = Domain("synth-target", "test", "train")
    recipe = Recipe("tiny", "gslta", Domain("synth-source", "train"), target, about="A small run", published=published)
    folder.mkdir()
    write_config(folder, recipe)
    write_evaluation(folder / "eval-synth-target.json", evaluation())
    write_json(folder / "provenance.json", {"data": {}, "sessions": [{"started": "2026-01-01", "torch": "9.9"}]})
    rows = ({"iteration": i, "loss": 3.0 / i, "accuracy": min(1.0, i / 40)} for i in range(1, 61))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Page(HTMLParser):
    """Collects tags, the addresses they load and the visible text of a page; fails on unbalanced tags."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def page_of(folder: Path) -> Page:
    path, written = write_page(folder, example)
    assert written
    return Page(path.read_text())


def test_the_page_loads_nothing_and_says_what_the_files_say(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    page = page_of(folder)
    text = (folder / "report.html").read_text()
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert (attrs.get(name) or "data:").startswith("data:"), attrs
    assert "@import" not in text
    assert "url(" not in text
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in page.tags)
    assert "default-src 'none'" in text
    found = evaluation()
    assert f"{found.accuracy:.1f} % \u00b1 {found.interval:.1f}" in page.said
    assert "5-way 5-shot, 200 episodes" in page.said
    assert "no published number" in page.said
    assert "1 class was never drawn" in page.said
    for name in CLASSES[:5]:
        assert name in page.said  # escaped in the source, so it comes out of the parser as it was
    assert "<b>left" not in text


def test_a_published_number_is_labelled_as_published(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", Published(54.06, "the authors' list", note="Trained elsewhere."))
    said = page_of(folder).said
    difference = evaluation().accuracy - 54.06
    assert re.search(r"measured here\s+\d", said)
    assert re.search(r"published\s+54\.06 % \(the authors' list\)", said)
    assert f"the difference is {difference:+.1f} points. Trained elsewhere." in said


def test_a_published_number_is_not_shown_beside_another_protocol(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", Published(54.06, "the authors' list"))
    write_evaluation(folder / "eval-synth-target.json", evaluation(shot=1))
    said = page_of(folder).said
    assert "54.06" not in said
    assert "no published number" in said


def test_bars_and_cells_have_the_numbers_sizes(tmp_path: Path) -> None:
    page, found = page_of(make_run(tmp_path / "run")), evaluation()
    asked = {name: value for name, value in zip(found.classes, found.per_class, strict=True) if value is not None}
    shown = [re.match(r"(.*): ([\d.]+) % of", bar["title"] or "") for bar in page.with_class("bar")]
    assert {m[1]: float(m[2]) for m in shown if m} == {name: round(value, 1) for name, value in asked.items()}
    values = [float(m[2]) for m in shown if m]
    assert values == sorted(values, reverse=True)
    widths = [
        float((attrs["style"] or "").removeprefix("width:").rstrip("%")) for tag, attrs in page.tags if tag == "i"
    ]
    assert widths == pytest.approx(sorted(asked.values(), reverse=True), abs=0.01)


def test_confusion_rows_are_shares_of_the_true_class() -> None:
    counts = np.array([[6.0, 2.0], [0.0, 0.0]])
    text = figures.confusion(("a", "b"), counts)
    opacities = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', text)]
    assert opacities == pytest.approx([0.04 + 0.96 * 0.75, 0.04 + 0.96 * 0.25, 0.04, 0.04], abs=1e-3)
    assert "a taken for b: 25.0 % (2 queries)" in text


@pytest.mark.parametrize("size", [2, 20, 64])
def test_confusion_of_any_size_fits_its_view(size: int) -> None:
    names = [f"a rather long class name {i}" for i in range(size)]
    text = figures.confusion(names, np.eye(size))
    width = float(re.search(r'viewBox="0 0 (\d+)', text)[1])  # type: ignore[index]
    right = [
        float(x) + float(w) for x, w in re.findall(r'<rect class="cell" x="([\d.]+)" y="[\d.]+" width="(\d+)"', text)
    ]
    assert len(right) == size * size
    assert max(right) <= width


def test_alignment_draws_path_and_costs() -> None:
    cost = np.array([[0.0, 1.0], [1.0, 0.5]])
    path = np.array([[1.0, 0.0], [0.0, 1.0]])
    text = figures.alignment(cost, path, [picture(0)] * 2, [picture(9)] * 2, (0.0, 1.0))
    fits = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', text)]
    assert fits[0] == max(fits)
    assert fits[1] == fits[2] == min(fits)
    assert len(re.findall("<circle", text)) == 2
    assert len(re.findall("<image", text)) == 4
    line = re.search(r'class="path" points="([^"]+)"', text)
    assert line is not None
    (x0, y0), (x1, y1) = (map(float, spot.split(",")) for spot in line[1].split())
    assert x1 > x0
    assert y1 > y0


def test_alignment_of_equal_costs_and_of_a_path_that_skips_a_row() -> None:
    text = figures.alignment(
        np.full((2, 3), 0.4), np.array([[0, 1.0, 0], [0, 0, 0]]), [picture(0)] * 2, [picture(9)] * 3, (0.4, 0.4)
    )
    assert "nan" not in text


def test_running_mean_equals_a_plain_loop() -> None:
    values = np.random.default_rng(0).normal(size=37)
    plain = [np.mean(values[max(0, i - 4) : i + 5]) for i in range(37)]
    np.testing.assert_allclose(figures.running_mean(values, 4), plain)


@pytest.mark.parametrize(
    "values",
    [[0.0, 1.0], [3.0, 3.0], [0.0, 0.0], [-5.0, 2.0], [1e-6, 3e-6], [1200.0, 9.0, 31.0], [7.001, 7.002], [-3.0, -3.0]],
)
def test_axis_marks_are_round_few_and_hold_the_values(values: list[float]) -> None:
    marks = figures.round_marks(np.array(values))
    assert 2 <= len(marks) <= 9
    assert marks[0] <= min(values)
    assert marks[-1] >= np.percentile(values, 99.5)
    step = marks[1] - marks[0]
    digit = float(f"{step:.0e}".split("e")[0])
    assert digit in (1, 2, 5)


@pytest.mark.parametrize("shape", [(240, 320), (30, 40), (300, 100)])
def test_pictures_survive_as_small_jpegs(shape: tuple[int, int]) -> None:
    frame = np.zeros((*shape, 3), np.uint8)
    frame[..., 0] = 200  # red stays red
    uri = figures.data_uri(frame)
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert min(back.shape[:2]) == min(112, *shape)
    np.testing.assert_allclose(back.reshape(-1, 3).mean(0), [200, 0, 0], atol=4)


def test_a_second_time_there_is_nothing_to_do_until_something_changes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    calls = []

    def counted(run: Path, found: Evaluation) -> dict[str, Any]:
        calls.append(run)
        return example(run, found)

    assert write_page(folder, counted)[1]
    assert not write_page(folder, counted)[1]
    assert len(calls) == 1
    write_evaluation(folder / "eval-synth-far.json", evaluation("synth-far", seed=3))
    path, written = write_page(folder, counted)
    assert written
    assert len(calls) == 1  # still about the recipe's own target
    assert f"5-way 5-shot: {evaluation('synth-far', seed=3).line()}" in Page(path.read_text()).said


def test_heads_without_paths_or_training_and_clips_that_are_gone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()

    def plain(run: Path, found: Evaluation) -> dict[str, Any]:
        return example(run, found) | {"aligned": False, "correct": False}

    path, _ = write_page(folder, plain)
    page = Page(path.read_text())
    assert "without training" in page.said
    assert "recognised wrongly" in page.said
    assert "no path between frames" in page.said
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 9
    (folder / "example-synth-target.json").unlink()
    path, _ = write_page(folder, lambda *_: {"absent": "The clips of this comparison can't be shown: no file x.mp4"})
    assert "no file x.mp4" in Page(path.read_text()).said


def test_a_run_that_was_not_evaluated_says_how(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "eval-synth-target.json").unlink()
    with pytest.raises(MissingError) as caught:
        write_page(folder, example)
    assert caught.value.hint == f"fsar-cache eval --run {folder}"


def test_metrics_forgive_a_torn_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"iteration": 1}\n{"iterat')
    assert read_metrics(path) == [{"iteration": 1}]
    path.write_text('{"iteration": 1}\n{"iterat\n{"iteration": 3}\n')
    with pytest.raises(IntegrityError, match="line 2"):
        read_metrics(path)
