"""The synthetic world: motions and their reversals, truth that fits the pixels, nothing that gives the class away, files that are whole."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from fsar_cache import errors
from splits import synth_draw, synth_motion, synth_render
from splits.synth_motion import CLASSES, Clip, clips, motion

ALL = sorted({name for parts in CLASSES.values() for names in parts.values() for name in names})
TRUTH = ["id", "class", "path", "partition", "start", "duration", "speed", "x", "y", "fps", "frames", "reversed_of"]


def some_clip(domain: str, label: str, seed: int = 0, per_class: int = 1) -> Clip:
    look = synth_draw.LOOKS[domain]
    return next(c for c in clips(seed, domain, per_class, fps=look.fps, suffix=look.suffix) if c.label == label)


def actor_pixels(frame: np.ndarray) -> np.ndarray:
    """Where the actor of the source domain is: it is brighter than anything else there."""
    return cv2.medianBlur(frame.max(axis=2), 3) > 125


@pytest.mark.parametrize("name", ALL)
def test_a_reversal_visits_the_same_poses_backwards(name: str) -> None:
    one = motion(name)
    assert one.name == name
    assert one.reverse.name != name
    assert one.reverse.reverse == one
    progress, rest = np.linspace(0, 1, 41), np.full(6, 0.3)
    there, back = one.poses(progress, rest), one.reverse.poses(1 - progress, rest)
    np.testing.assert_allclose(there, back, atol=1e-12)
    moved = np.flatnonzero(np.ptp(there, axis=0))
    assert len(moved) == 2
    assert set(there[[0, -1]][:, moved].ravel()) == {0.0, 1.0}
    assert np.abs(np.diff(there, axis=0)).max() < 0.1  # no jumps


def test_classes_are_disjoint_and_reversals_stay_together() -> None:
    source = {n for names in CLASSES["source"].values() for n in names}
    for domain, parts in CLASSES.items():
        names = [n for part in parts.values() for n in part]
        assert len(names) == len(set(names))
        assert domain == "source" or not source & set(names)
        for part in parts.values():
            assert {motion(n).reverse.name for n in part} == set(part)
    assert len(CLASSES["target"]["test"]) >= 10
    assert 16 <= len(CLASSES["source"]["train"]) <= 24


@pytest.mark.parametrize(
    ("name", "says"), [("grow-splitt", "split"), ("grow-shrink", "two verbs"), ("grow", "two verbs")]
)
def test_no_motion(name: str, says: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        motion(name)
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_truth_is_a_pure_function_and_longer_sets_contain_shorter_ones() -> None:
    def made(seed: int, count: int) -> dict[str, Clip]:
        return {c.id: c for c in clips(seed, "target", count, fps=25, suffix=".webm")}

    few, many = made(7, 3), made(7, 5)
    assert len(few) == 3 * 20
    assert few == {key: many[key] for key in few}
    assert not set(few) & set(made(8, 5))
    assert not set(few) & {c.id for c in clips(7, "far", 5, fps=25, suffix=".webm")}


def test_truth_says_nothing_about_the_class() -> None:
    """Per class, the mean of every recorded number is the overall mean within chance; ids and file names are no cue either."""
    world = list(clips(3, "source", 150, fps=20, suffix=".mp4"))
    labels = np.array([c.label for c in world])
    numbers = {
        key: np.array([getattr(c, key) for c in world]) for key in ("start", "duration", "speed", "x", "y", "frames")
    }
    numbers["name"] = np.array([int(c.id, 16) / 16**12 for c in world])
    for key, values in numbers.items():
        error = values.std() / np.sqrt(150)
        for label in set(labels):
            assert abs(values[labels == label].mean() - values.mean()) < 4.5 * error, (key, label)
    for clip in world:
        assert clip.label not in clip.path
        assert clip.start > 0
        assert clip.start + clip.duration < (clip.frames - 1) / clip.fps
        assert clip.speed == pytest.approx(synth_motion.NOMINAL / clip.duration, rel=1e-3)
    rest_before = numbers["start"]
    rest_after = (numbers["frames"] - 1) / 20 - numbers["start"] - numbers["duration"]
    assert rest_before.mean() == pytest.approx(
        rest_after.mean(), abs=0.02
    )  # else mean pooling could tell reversals apart


@pytest.mark.parametrize("label", ["grow-split", "merge-shrink", "bloom-grow"])
def test_pixels_agree_with_the_truth(label: str) -> None:
    clip = some_clip("source", label)
    frames = list(synth_draw.draw(0, "source", clip))
    assert len(frames) == clip.frames
    assert frames[0].shape == (128, 160, 3)
    assert frames[0].dtype == np.uint8
    seen = [actor_pixels(f) for f in frames]
    halfway = round((clip.start + clip.duration / 2) * clip.fps)
    rows, columns = np.nonzero(seen[halfway])
    shaken = 12 / 128  # the camera moves, and half a frame of drift
    assert columns.mean() / 160 == pytest.approx(clip.x, abs=shaken)
    assert rows.mean() / 128 == pytest.approx(clip.y, abs=shaken)
    area = np.array([mask.sum() for mask in seen], float)
    first, last = int(clip.start * clip.fps), int(np.ceil((clip.start + clip.duration) * clip.fps))
    still = np.concatenate([area[: first + 1] / area[0], area[last:] / area[-1]])
    assert np.abs(still - 1).max() < 0.1
    assert np.abs(np.log(area[first : last + 1] / area[0])).max() > 0.5


def test_the_reversed_class_is_the_film_played_backwards() -> None:
    clip = some_clip("source", "grow-split")
    mirrored = (clip.frames - 1) / clip.fps - clip.start - clip.duration
    back = replace(clip, label=clip.reversed_of, start=mirrored)
    there = [actor_pixels(f).sum() for f in synth_draw.draw(0, "source", clip)]
    again = [actor_pixels(f).sum() for f in synth_draw.draw(0, "source", back)]
    np.testing.assert_allclose(again[::-1], there, rtol=0.08, atol=15)
    assert np.abs(np.array(there) - again).max() > 500  # and not the same forwards


@pytest.mark.parametrize("domain", ["source", "target", "far"])
def test_files_are_what_they_say(domain: str, tmp_path: Path) -> None:
    """Another FFmpeg build (OpenCV's) decodes every frame, near what was drawn; codec, container and B-frames are as promised."""
    look = synth_draw.LOOKS[domain]
    clip = some_clip(domain, CLASSES[domain]["test"][0])
    path = tmp_path / f"clip{look.suffix}"
    path.write_bytes(synth_render.encode(0, domain, clip))
    assert all(path.read_bytes() == synth_render.encode(0, domain, clip) for _ in range(5))
    reader = cv2.VideoCapture(str(path))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(look.fps)
    drawn = list(synth_draw.draw(0, domain, clip))
    for frame in drawn:
        good, pixels = reader.read()
        assert good
        assert cv2.PSNR(pixels[..., ::-1].copy(), frame) > 24
    assert not reader.read()[0]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        names = {"source": "h264", "target": "vp9", "far": "mpeg4"}
        formats = {"source": "mp4", "target": "webm", "far": "avi"}
        assert stream.codec_context.name == names[domain]
        assert formats[domain] in container.format.name
        kinds = {PictureType(frame.pict_type).name for frame in container.decode(stream)}
    assert kinds >= ({"I", "P"} if domain == "target" else {"I", "P", "B"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small far domain, rendered by two processes."""
    folder = tmp_path_factory.mktemp("world")
    calls: list[tuple[int, int]] = []
    report = synth_render.render(
        folder, clips_per_class=1, domains=("far",), workers=2, progress=lambda *c: calls.append(c)
    )
    assert report.rendered == 20
    assert [total for _, total in calls] == [20] * len(calls)
    assert calls[-1][0] == 20
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_rendered_world_is_complete(world: Path) -> None:
    lines = [json.loads(line) for line in (world / "far" / "truth.jsonl").read_text().splitlines()]
    assert all(list(line) == TRUTH for line in lines)
    assert {line["class"] for line in lines} == {n for names in CLASSES["far"].values() for n in names}
    assert {line["partition"] for line in lines} == {"train", "test"}
    assert {p for p in contents(world / "far") if p.startswith("clips")} == {line["path"] for line in lines}
    assert json.loads((world / "far" / "info.json").read_text())["settings"]["clips"] == len(lines) == 20


def test_workers_do_not_change_a_byte_and_repeating_does_nothing(world: Path, tmp_path: Path) -> None:
    before = contents(world)
    alone = synth_render.render(tmp_path, clips_per_class=1, domains=("far",), workers=1)
    assert contents(tmp_path) == before
    assert alone.rendered == 20
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = synth_render.render(tmp_path, clips_per_class=1, domains=("far",))
    assert again.rendered == 0
    assert "nothing to do" in again.domains[0].why
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times


def test_only_what_is_missing_is_rendered(world: Path) -> None:
    before = contents(world)
    victim = next((world / "far" / "clips").iterdir())
    victim.unlink()
    (world / "far" / "info.json").write_text("{ not json")
    report = synth_render.render(world, clips_per_class=1, domains=("far",), workers=1)
    assert report.rendered == 1
    assert "19 were there" in report.domains[0].why
    assert contents(world) == before


def test_other_settings_replace_the_clips_but_no_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"test": ("grow-split", "merge-shrink")}
    monkeypatch.setattr(synth_motion, "CLASSES", {"far": few})
    monkeypatch.setattr(synth_render, "CLASSES", {"far": few})
    synth_render.render(tmp_path, clips_per_class=2, domains=("far",), workers=1)
    foreign = tmp_path / "far" / "clips" / "holiday.avi"
    foreign.write_bytes(b"mine")
    synth_render.render(tmp_path, seed=1, clips_per_class=1, domains=("far",), workers=1)
    wanted = {c.path for c in clips(1, "far", 1, fps=15, suffix=".avi")}
    assert {p for p in contents(tmp_path / "far") if p.startswith("clips")} == {*wanted, "clips/holiday.avi"}


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"clips_per_class": 0}, errors.UsageError, "at least 1"),
        ({"seed": -1}, errors.UsageError, "at least"),
        ({"domains": ("targt",)}, errors.UsageError, "did you mean 'target'?"),
    ],
)
def test_impossible_settings(tmp_path: Path, settings: dict, kind: type[errors.FsarError], says: str) -> None:
    with pytest.raises(kind) as caught:
        synth_render.render(tmp_path / "new", **settings)
    assert says in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "new").exists()


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = replace(synth_draw.LOOKS["far"], codec="libnothing")
    monkeypatch.setattr(synth_render, "LOOKS", {"far": look})
    with pytest.raises(errors.MissingError, match="no encoder libnothing"):
        synth_render.render(tmp_path, domains=("far",))


def test_a_full_disk_leaves_whole_clips_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.fsync, [8]

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(errors.SpaceError):
        synth_render.render(tmp_path, clips_per_class=1, domains=("far",), workers=1)
    found = contents(tmp_path / "far")
    assert len(found) == 4  # two syncs per clip: the file and its folder
    assert not any("partial" in name or "info" in name for name in found)


def test_ctrl_c_keeps_finished_clips_and_goes_on(world: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(errors.Interrupted, match="stopped after 4 of 20") as caught:
        synth_render.render(tmp_path, clips_per_class=1, domains=("far",), workers=2, progress=stop)
    assert "repeat" in str(caught.value.hint)
    assert not (tmp_path / "far" / "info.json").exists()
    assert synth_render.render(tmp_path, clips_per_class=1, domains=("far",), workers=1).rendered <= 16
    assert contents(tmp_path) == contents(world)


def test_a_killed_rendering_process_is_an_error_not_a_hang(tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(errors.SpaceError, match="killed"):
        synth_render.render(tmp_path, clips_per_class=2, domains=("far",), workers=2, progress=kill)


def test_kill_9_then_repeat_equals_an_uninterrupted_run(world: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from splits.synth_render import render\n"
        "render(Path(sys.argv[1]), clips_per_class=1, domains=('far',), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parent.parent)
    clips_there = tmp_path / "far" / "clips"
    until = time.monotonic() + 30
    while time.monotonic() < until and not (clips_there.is_dir() and len(list(clips_there.iterdir())) > 3):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "far" / "info.json").exists()
    report = synth_render.render(tmp_path, clips_per_class=1, domains=("far",), workers=1)
    assert 0 < report.rendered < 20
    assert contents(tmp_path) == contents(world)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a far domain of four clips."""
    for module in (synth_motion, synth_render):
        monkeypatch.setattr(module, "CLASSES", {"far": {"test": ("grow-split", "merge-shrink")}})
    synth_render.render(tmp_path, clips_per_class=2, domains=("far",), workers=1)
    return tmp_path / "far"


@pytest.mark.parametrize(
    "line", ["{ no json", "[1]", "{}", '{"path": "../outside"}', '{"path": "clips/../info.json"}', '{"path": "/etc/x"}']
)
def test_a_damaged_list_of_clips_is_said_and_nothing_is_removed(tiny: Path, line: str) -> None:
    truth = tiny / "truth.jsonl"
    truth.write_text(truth.read_text() + line + "\n")
    (tiny.parent / "outside").write_text("mine")
    before = contents(tiny.parent)
    with pytest.raises(errors.IntegrityError, match=r"truth\.jsonl") as caught:
        synth_render.render(tiny.parent, seed=1, clips_per_class=1, domains=("far",), workers=1)
    assert "fsar-cache synth" in str(caught.value.hint)
    assert contents(tiny.parent) == before


def test_what_killed_runs_left_is_removed_and_two_runs_dont_meet(tiny: Path) -> None:
    """The first run is in the middle of its work when the second one starts."""
    for place in (tiny, tiny / "clips"):
        (place / ".half.avi.1.partial").write_bytes(b"half")
    seen = []

    def meet(done: int, total: int) -> None:
        assert not list(tiny.rglob("*.partial"))
        with pytest.raises(errors.UsageError, match="another run is rendering into"):
            synth_render.render(tiny.parent, seed=2, clips_per_class=1, domains=("far",), workers=1)
        seen.append(done)

    synth_render.render(tiny.parent, seed=1, clips_per_class=1, domains=("far",), workers=1, progress=meet)
    assert seen
    synth_render.render(tiny.parent, seed=2, clips_per_class=1, domains=("far",), workers=1)
