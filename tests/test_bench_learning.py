"""The learning table: its rows load, its figures are counted right, and the benchmark of heads knows every head."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import heads_sizes
import learning
import learning_rows

from heads.base import HEADS
from splits.synth_motion import CLASSES

NAMES = {"store": "a", "text_store": "b", "flow_store": "c"}


@pytest.mark.parametrize("row", learning_rows.ROWS, ids=lambda row: row.name)
def test_a_row_is_a_recipe_on_the_synthetic_world(row):
    recipe = learning.recipe_of(row, 7, NAMES)
    assert (recipe.source.dataset, recipe.source.part, recipe.train.seed) == ("synth-source", "train", 7)
    assert set(row.joint) <= NAMES.keys()
    assert set(row.shots) <= set(learning.SHOTS)
    assert learning.command(row, 7, NAMES, "train").startswith(f"fsar-cache train --recipe {row.recipe} ")


def test_rows_have_names_of_their_own_and_every_head_is_there():
    rows = learning_rows.ROWS
    assert len({row.name for row in rows}) == len(rows)
    assert {learning.recipe_of(row, 0, NAMES).head for row in rows} == set(HEADS.names())
    assert {case.head for case in heads_sizes.CASES} == set(HEADS.names())


def test_a_result_depends_on_settings_worlds_and_evaluation():
    row = learning_rows.ROWS[1]
    recipe = learning.recipe_of(row, 0, NAMES)
    mark = learning.identity(row, recipe, {"far": "x"})
    assert mark == learning.identity(row, learning.recipe_of(row, 0, NAMES), {"far": "x"})
    others = [
        learning.identity(row, learning.recipe_of(row, 1, NAMES), {"far": "x"}),
        learning.identity(row, recipe, {"far": "y"}),
        learning.identity(learning_rows.Row("a", "otam", episodes=5), recipe, {"far": "x"}),
    ]
    assert len({mark, *others}) == 4


def test_every_class_is_paired_with_its_reversal_once():
    pairs = learning.reversal_pairs(CLASSES["far"]["test"])
    assert len(pairs) == 6
    assert ("merge-grow", "shrink-split") in pairs


def result(mean: float, half: float = 1.0) -> dict:
    return {"accuracy": {"far": {"pairs 1-shot": {"mean": mean, "half": half, "episodes": 100, "chance": 50.0}}}}


def test_a_figure_counts_episodes_and_seeds():
    assert learning.figure([result(60.0)], "far", "pairs 1-shot") == (60.0, pytest.approx(1.0), 50.0)
    mean, half, _ = learning.figure([result(58.0), result(62.0)], "far", "pairs 1-shot")
    assert mean == 60.0
    assert half == pytest.approx(np.sqrt(1 + 1.96**2 * 8 / 2))
    assert learning.figure([result(60.0)], "far", "5-way 1-shot") is None


def test_a_figure_that_reaches_chance_is_marked():
    assert learning.cell((52.0, 1.0, 50.0)) == "52.0 ± 1.0"
    assert learning.cell((51.0, 1.0, 50.0)) == "51.0 ± 1.0 †"
    assert learning.cell(None) == "-"


def test_results_are_kept_in_the_order_of_the_table_and_read_back(tmp_path):
    path = tmp_path / "results" / "learning.json"
    last, first = learning_rows.ROWS[-1].name, learning_rows.ROWS[0].name
    learning.write(path, {last: {"0": {}}, first: {"0": {}}})
    assert list(learning.read(path)) == [first, last]
    assert learning.read(tmp_path / "none.json") == {}


def test_tables_go_between_the_marks_of_the_page(tmp_path, monkeypatch):
    page = tmp_path / "learning.md"
    page.write_text(f"before\n{learning.BEGIN}\nold\n{learning.END}\nafter\n")
    monkeypatch.setattr(learning, "DOC", page)
    learning.write_doc(learning.markdown({"title": (["a", "b"], [["1", "2"]])}))
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "### title\n\n| a | b |\n| --- | --- |\n| 1 | 2 |" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="marks"):
        learning.write_doc("x")
