"""Motion in the report: the strips come from a flow store of the dataset, on one scale, and are left out where there is none."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from stores import spec_of
from test_report import CLASSES, Page, example, make_run

from cache.rows import Outcome, Row
from cache.store import create
from pipeline.report import write_page
from pipeline.report_flow import FlowStrips, flow_strips

CLIPS = {"q/7": (3.0, 0.0), f"{CLASSES[0]}/1": (0.0, 6.0), f"{CLASSES[1]}/1": (0.0, 0.0)}
"""Clip -> its motion in pixels of a 64-pixel picture, the same everywhere: to the right, downwards, none."""


def make_store(
    stores: Path, name: str = "dis", *, rule: str = "gslta-test", failed: str = "", kind: str = "flow"
) -> Path:
    spec = spec_of((2, 2, 64, 64), "int16", kind=kind, cut="flow", sampling={"rule": rule}, backbone={"name": name})
    rows = [Row(clip, "c", "test") for clip in CLIPS]
    path = stores / "synth-target" / name
    with create(path, spec, rows, dataset="synth-target") as store, store.writer() as writer:
        fields = np.stack([np.broadcast_to(np.array(uv)[:, None, None] * 64, (2, 2, 64, 64)) for uv in CLIPS.values()])
        outcomes = [Outcome("failed", "made to") if clip == failed else Outcome("ok") for clip in CLIPS]
        writer.write_block(0, fields.astype(np.int16), outcomes)
    return path


def colour(uri: str) -> list[int]:
    """The middle of a picture, RGB."""
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return [int(c) for c in picture[picture.shape[0] // 2, picture.shape[1] // 2, ::-1]]


def test_strips_are_coloured_by_direction_and_on_one_scale(tmp_path: Path) -> None:
    make_store(tmp_path)
    found = flow_strips(tmp_path, "synth-target", "gslta-test", list(CLIPS))
    assert isinstance(found, FlowStrips)
    assert found.by == "dis"
    assert found.full == pytest.approx(6 * 224 / 64, rel=0.01)
    assert [len(strip) for strip in found.pictures.values()] == [2, 2, 2]
    right, down, still = (colour(found.pictures[clip][0]) for clip in CLIPS)
    assert min(still) > 250
    assert right[0] > 240
    assert 100 < right[1] < 160  # half as fast, so half as strong
    assert abs(right[1] - right[2]) < 12
    assert down[0] > 240
    assert down[1] > 200
    assert down[2] < 40


def test_the_store_of_the_same_frames_goes_first_and_unfit_ones_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = (tmp_path, "synth-target", "gslta-test", list(CLIPS))
    assert flow_strips(*ask) is None
    make_store(tmp_path, "a-features", kind="features")
    make_store(tmp_path, "b-failed", failed="q/7")
    assert flow_strips(*ask) is None
    make_store(tmp_path, "c-other", rule="uniform")
    found = flow_strips(*ask)
    assert found is not None
    assert found.by == "c-other"
    make_store(tmp_path, "d-same")
    found = flow_strips(*ask)
    assert found is not None
    assert found.by == "d-same"
    assert flow_strips(tmp_path, "synth-target", "gslta-test", ["q/7", "another"]) is None
    (tmp_path / "synth-target" / "d-same" / "rows.json").write_text("{}")
    found = flow_strips(*ask)
    assert found is not None
    assert found.by == "c-other"
    assert "d-same" in capsys.readouterr().err


def test_the_page_shows_the_motion_of_its_comparison_once_a_store_has_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    stores = tmp_path / "stores"

    def write() -> tuple[Page, bool]:
        path, written = write_page(folder, example, lambda *of: flow_strips(stores, *of))
        return Page(path.read_text()), written

    before, written = write()
    assert written
    assert "Motion (optical flow" not in before.said
    assert not write()[1]
    make_store(stores)
    after, written = write()
    assert written
    assert "Motion (optical flow by dis)" in after.said
    assert "query of wave <b>left</b>" in after.said
    assert "support of wave right" in after.said
    assert len(after.with_class("flow")) == 1
    pictures = [attrs for tag, attrs in after.tags if tag == "img"]
    assert len(pictures) == 3 * 2
    assert not write()[1]
