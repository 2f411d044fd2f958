"""Features of flow pictures: a row is what a plain chain from the flow store gives, its identity, and the run around it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from stores import contents
from test_flow_product import write_clip
from torch import Tensor

from cache.store import open_store
from extract.backbone import Backbone
from extract.config import ExtractConfig, backbone_of
from extract.flow_features import FlowFeatures, flow_features_spec
from extract.flow_field import pixels
from extract.flow_image import flow_image
from extract.flow_settings import FlowSettings
from extract.plan import plan
from extract.recheck import recheck
from extract.run import extract
from extract.settings_of import settings_of
from fsar_cache.errors import UsageError
from pipeline import choose
from pipeline.cli_extract import WITHOUT, _require_meaning
from splits.types import Part, Split, Video

CONFIG = ExtractConfig(kind="flow-features", frames=3, size=64, workers=1, device="cpu", max_failures=1.0)
LENGTHS = {"long": 12, "short": 3, "one": 1}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("moving")
    for name, frames in LENGTHS.items():
        write_clip(folder / f"{name}.mp4", frames)
    write_clip(folder / "tiny.mp4", 8, 24, 60)
    videos = tuple(Video(name, "move", f"{name}.mp4") for name in [*LENGTHS, "tiny"])
    return Split("moving", folder, {"train": Part("train", ("move",), videos)})


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return backbone_of(CONFIG)


def rows_of(path: Path) -> Tensor:
    with open_store(path) as store:
        return torch.from_numpy(store.load())


@pytest.mark.parametrize(
    "change",
    [{}, {"image": "uvm", "image_scale": "per_frame_max", "pair": "next_sampled"}, {"image": "uv", "stride": 2}],
    ids=["wheel", "uvm", "uv"],
)
def test_a_row_is_the_flow_stores_field_as_pictures_through_the_backbone(
    split: Split, backbone: Backbone, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = replace(CONFIG, flow=FlowSettings(**change))
    made = extract(split, config, tmp_path)
    flow = extract(split, replace(config, kind="flow"), tmp_path)
    fields, rows = rows_of(flow.path), rows_of(made.path)
    assert rows.shape == (4, 3, 512)
    assert rows.dtype == torch.float32
    style, scale = change.get("image", "wheel"), change.get("image_scale", "fixed")
    with torch.inference_mode():
        for i in range(3):  # one clip after the other, padded to the device batch of two
            pictures = flow_image(pixels(fields[i]), style, scale).permute(0, 2, 3, 1)
            other = fields[1 - i] if i < 2 else torch.zeros_like(fields[i])
            both = torch.stack([pictures, flow_image(pixels(other), style, scale).permute(0, 2, 3, 1)])
            both = both.flip(0) if i == 1 else both
            assert torch.equal(rows[i], backbone(both.contiguous())[int(i == 1)])
    assert dict(made.failed) == dict(flow.failed)
    assert list(dict(made.failed)) == ["tiny"]


def test_still_and_moving_clips_differ_and_reversed_motion_does_too(backbone: Backbone) -> None:
    product = FlowFeatures(CONFIG, backbone)
    right = torch.zeros(3, 2, 64, 64, dtype=torch.int16)
    right[:, 0, 16:48, 16:48] = 2 * 64
    with torch.inference_mode():
        moved, back, still = product.batch(torch.stack([right, -right, torch.zeros_like(right)]))
    for one, other in ((moved, still), (moved, back)):
        assert (one - other).norm() > 1e-3 * one.norm()


def test_it_names_the_store_that_the_extraction_makes_and_holds_what_decides_bytes(
    split: Split, backbone: Backbone, tmp_path: Path
) -> None:
    spec = flow_features_spec(CONFIG, backbone)
    made = extract(split, CONFIG, tmp_path)
    with open_store(made.path) as store:
        assert store.spec == spec
    assert made.path.name == f"resnet18-flow-features-{spec.fingerprint[:8]}"
    assert (spec.kind, spec.cut, spec.shape, spec.dtype) == ("flow-features", "flow-features", (3, 512), "float32")
    assert spec.transform["flow"]["library"] == f"opencv {cv2.__version__}"
    assert spec.backbone == backbone.facts
    changes: list[dict[str, Any]] = [
        {"flow": FlowSettings(image="uvm")},
        {"flow": FlowSettings(image_scale="per_frame_max")},
        {"flow": FlowSettings(estimator="dis_fast")},
        {"flow": FlowSettings(stride=2)},
        {"flow": FlowSettings(size=64)},
        {"frames": 4},
        {"transform": "squash"},
        {"dtype": "float16"},
        {"precision": "bfloat16"},
    ]
    prints = {flow_features_spec(replace(CONFIG, **change), backbone).fingerprint for change in changes}
    other = flow_features_spec(CONFIG, backbone_of(replace(CONFIG, weights="random:1"))).fingerprint
    assert len(prints | {spec.fingerprint, other}) == len(changes) + 2
    for idle in ({"cut": "frames"}, {"flow": FlowSettings(raft_updates=3)}, {"batch_clips": 7}):
        assert flow_features_spec(replace(CONFIG, **idle), backbone).fingerprint == spec.fingerprint


def test_fields_do_not_know_how_they_will_be_seen(split: Split, tmp_path: Path) -> None:
    paths = {
        plan(split, replace(CONFIG, kind="flow", flow=FlowSettings(image=i)), tmp_path).path for i in ("uv", "uvm")
    }  # type: ignore[arg-type]
    assert len(paths) == 1


def test_a_run_that_died_resumes_to_the_bytes_of_an_uninterrupted_one(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, block_rows=1, batch_clips=1)
    whole = extract(split, config, tmp_path / "a")

    batch, calls = FlowFeatures.batch, itertools.count()

    def dies(self: FlowFeatures, clips: Tensor) -> Tensor:
        if next(calls) == 2:
            raise RuntimeError("the power went out")
        return batch(self, clips)

    monkeypatch.setattr(FlowFeatures, "batch", dies)
    with pytest.raises(RuntimeError, match="power"):
        extract(split, config, tmp_path / "b")
    monkeypatch.undo()
    begun = plan(split, config, tmp_path / "b")
    assert begun.todo > 0
    done = extract(split, replace(config, workers=2), tmp_path / "b")
    assert done.made == begun.todo

    def features(path: Path) -> dict[str, bytes]:
        return {name: data for name, data in contents(path).items() if name.startswith("features/")}

    assert features(whole.path) == features(done.path)
    assert len(features(done.path)) > 1
    again = extract(split, config, tmp_path / "b")
    assert (again.made, again.skipped) == (0, 4)


def test_its_rows_can_be_made_again_and_a_changed_one_is_found(split: Split, tmp_path: Path) -> None:
    flow = FlowSettings(pair="next_sampled", image="uvm")
    config = replace(CONFIG, flow=flow)
    made = extract(split, config, tmp_path)
    with open_store(made.path) as store:
        found = recheck(store, split, sample=9, workers=1)
        entry = store.entry(0)
        assert entry is not None
        back = settings_of(store.spec, entry.provenance)
    assert (found.exact, found.near, found.wrong) == (3, 0, [])
    assert (back.kind, back.flow, back.backbone) == ("flow-features", flow, "resnet18")
    write_clip(split.root / "other.mp4", 9)
    changed = Split(
        "moving",
        split.root,
        {
            "train": Part(
                "train", ("move",), tuple(Video(v.id, "move", "other.mp4") for v in split.parts["train"].videos)
            )
        },
    )
    with open_store(made.path) as store:
        gone = recheck(store, changed, sample=9, workers=1)
    assert len(gone.gone) == 3


def test_raft_keeps_both_names_of_weights(split: Split, tmp_path: Path) -> None:
    flow = FlowSettings(estimator="raft_small", raft_weights="random:0", raft_updates=1, pair="next_sampled")
    few = Split(split.name, split.root, {"train": Part("train", ("move",), split.parts["train"].videos[:1])})
    made = extract(few, replace(CONFIG, frames=2, flow=flow), tmp_path)
    assert not made.failed
    with open_store(made.path) as store:
        entry = store.entry(0)
        assert entry is not None
        assert (entry.provenance["weights"], entry.provenance["flow_weights"]) == ("random:0", "random:0")
        assert settings_of(store.spec, entry.provenance).flow == flow
        found = recheck(store, few, sample=1, workers=1)
    assert (found.exact, found.wrong) == (1, [])


def test_a_dry_run_counts_and_tries(split: Split, tmp_path: Path) -> None:
    planned = plan(split, CONFIG, tmp_path, tries=1)
    assert (planned.clips, planned.todo, planned.bytes) == (4, 4, 4 * 3 * 512 * 4)
    assert planned.estimate is not None
    assert planned.estimate.compute > 0
    assert not planned.path.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transform": "gslta-train"}, "evaluation transform"),
        ({"sampling": "gslta-train"}, "generator"),
        ({"backbone": "videomae_vit_s", "frames": 16, "size": 112}, "of one picture each"),
        ({"backbone": "clip_vit_b16", "size": 64}, "224"),
    ],
)
def test_settings_it_has_no_use_for_are_refused(change: dict[str, Any], said: str) -> None:
    config = replace(CONFIG, **change)
    made = backbone_of(config)
    for make in (lambda: FlowFeatures(config, made), lambda: flow_features_spec(config, made)):
        with pytest.raises(UsageError, match=said):
            make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(CONFIG, views=2),
        lambda: FlowSettings(image="weel"),  # type: ignore[arg-type]
        lambda: FlowSettings(image_scale="max"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"training views|must be one of"):
        make()


def test_the_command_takes_what_fits_the_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    features = choose.settle_features(None, None, [], "flow-features")
    assert (features.backbone, features.transform, features.size) == ("clip_vit_b16", "clip-fsar-eval", 224)
    assert "as wheel pictures through clip_vit_b16" in capsys.readouterr().err
    assert choose.settle_features(None, None, ["features.backbone=resnet18"], "flow-features").transform == "gslta-eval"
    for name in WITHOUT["flow-features"]:
        given: dict[str, Any] = dict.fromkeys(("backbone", "weights", "cut", "views", "dtype", "precision")) | {
            name: "x"
        }
        with pytest.raises(UsageError, match=f"--{name} has no meaning for flow-features") as caught:
            _require_meaning("flow-features", given, {})
        assert "features.flow" in (caught.value.hint or "")


def test_mixed_precision_is_of_the_backbone_and_gives_float32(backbone: Backbone) -> None:
    with torch.inference_mode():
        rows = FlowFeatures(replace(CONFIG, precision="bfloat16"), backbone).batch(
            torch.zeros(1, 3, 2, 64, 64, dtype=torch.int16)
        )
    assert rows.dtype == torch.float32
    assert np.isfinite(rows.numpy()).all()
