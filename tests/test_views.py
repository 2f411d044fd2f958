"""Training views: view v of a clip is what its seed says, whatever made it and when; only where they are wanted and allowed."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from toy import write_clips

from cache.merge import merge
from cache.store import FeatureStore, open_store
from extract.config import ExtractConfig, backbone_of
from extract.prepare import rows_of
from extract.run import extract
from extract.sampling import SAMPLING
from extract.transforms import TRANSFORMS
from fsar_cache.draws import generator
from fsar_cache.errors import IntegrityError, Interrupted, MissingError, UsageError
from pipeline.sources import StoreSource
from splits.types import Part, Split, Video

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ExtractConfig(
    cut="frames", size=32, frames=4, workers=2, block_rows=8, device="cpu", max_failures=1.0, views=2, view_seed=7
)
TRAIN, VAL, TEST = 7, 2, 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), TRAIN + VAL + TEST)


def split_of(folder: Path, *, flips: bool = False, backwards: bool = False, train: int = TRAIN) -> Split:
    """Clips 0-6 in train (or the first of them), 7-8 in val, 9-11 in test; backwards: clips of a partition in the other order."""
    parts = {}
    for name, first, count in (("train", 0, train), ("val", TRAIN, VAL), ("test", TRAIN + VAL, TEST)):
        made = [Video(f"{i:02d}", f"{name}{i % 2}", f"{i:02d}.mp4") for i in range(first, first + count)]
        parts[name] = Part(name, tuple(sorted({v.label for v in made})), tuple(made[::-1] if backwards else made))
    return Split("toy", folder, parts, flips=flips)


@pytest.fixture(scope="module")
def split(clips: Path) -> Split:
    return split_of(clips)


@pytest.fixture(scope="module")
def stored(split: Split, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return open_store(extract(split, SMALL, tmp_path_factory.mktemp("stored")).path)


def by_key(store: FeatureStore) -> dict[tuple[str, int], bytes]:
    """The bytes of every row with features, by clip and view."""
    rows = [i for i, ok in enumerate(store.ok) if ok]
    return {
        (store.rows[i].id, store.rows[i].view): array.tobytes() for i, array in zip(rows, store.read(rows), strict=True)
    }


def by_hand(split: Split, name: str, view: int, flip: bool, seed: int = 7) -> np.ndarray:
    """One view of a clip: the whole file decoded by the library alone, frames and crop drawn from the clip's own generators."""
    video = next(v for part in split.parts.values() for v in part.videos if v.id == name)
    with av.open(str(split.root / video.path)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    chosen = SAMPLING.get(SMALL.train_sampling)(len(frames), 4, generator("frames", seed, name, view))
    rng = generator("transform", seed, name, view)
    made: np.ndarray = TRANSFORMS.get(SMALL.train_transform)(
        torch.from_numpy(frames[chosen]), 32, rng, flip=flip
    ).numpy()
    return made


def test_training_clips_have_views_and_the_others_only_one(stored: FeatureStore) -> None:
    views: dict[str, list[int]] = {}
    for row in stored.rows:
        views.setdefault(row.id, []).append(row.view)
    assert views == {f"{i:02d}": [0, 1, 2] if i < TRAIN else [0] for i in range(TRAIN + VAL + TEST)}
    assert stored.ok.all()


@pytest.mark.parametrize(
    ("says", "flip", "allowed"),
    [(False, "auto", False), (True, "auto", True), (False, "on", True), (True, "off", False)],
)
def test_views_are_those_drawn_by_hand(clips: Path, tmp_path: Path, says: bool, flip: Any, allowed: bool) -> None:
    split = split_of(clips, flips=says)
    with open_store(extract(split, dataclasses.replace(SMALL, flip=flip, views=3), tmp_path).path) as store:
        other = 0
        for view in (1, 2, 3):
            for video in split.parts["train"].videos:
                row = store.read(store.rows_of([video.id], view))[0]
                np.testing.assert_array_equal(row, by_hand(split, video.id, view, allowed))
                other += not np.array_equal(row, by_hand(split, video.id, view, not allowed))
    assert 3 <= other <= 18, "about half of 21 views depend on whether mirroring is allowed"


@pytest.mark.parametrize("cut", ["frames", "pooled"])
def test_a_view_is_the_same_bytes_however_it_is_made(
    clips: Path, split: Split, tmp_path: Path, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    config = dataclasses.replace(SMALL, cut=cut)

    def made(name: str, source: Split = split, **change: Any) -> dict[tuple[str, int], bytes]:
        with open_store(extract(source, dataclasses.replace(config, **change), tmp_path / name).path) as store:
            return by_key(store)

    whole = made("four", views=4)
    assert len(whole) == 5 * TRAIN + VAL + TEST
    assert made("one worker", workers=1, block_rows=5, views=4) == whole
    assert made("backwards", split_of(clips, backwards=True), views=4, backend="hdf5") == whole
    some = {key: row for key, row in whole.items() if key[1] <= 2}
    assert made("grown") == some
    assert made("grown", views=4) == whole, "two more views of every training clip"
    few = made("more clips", split_of(clips, train=3))
    assert few.items() < some.items()
    assert made("more clips") == some
    parts = [extract(split, dataclasses.replace(config, part=(i, 3)), tmp_path / "parts").path for i in (1, 2, 3)]
    assert by_key(merge(parts, tmp_path / "merged")) == some
    for done in (3, 11):
        stop = threading.Event()
        with pytest.raises(Interrupted):
            extract(
                split,
                config,
                tmp_path / "stopped",
                stop=stop,
                report=lambda now, done=done, stop=stop: stop.set() if now.done >= done else None,  # type: ignore[misc]
            )
    assert made("stopped") == some


def test_features_of_a_view_are_those_of_its_pixels(split: Split, stored: FeatureStore, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, cut="pooled")
    head = backbone_of(config).head_of("pooled")
    with open_store(extract(split, config, tmp_path).path) as store, torch.inference_mode():
        rows = stored.read(stored.numbers_of(store.rows))
        want = torch.cat([head(torch.from_numpy(row[None])) for row in rows]).numpy()
        np.testing.assert_allclose(store.load(), want, rtol=1e-5, atol=1e-5)


def test_views_of_a_clip_and_of_two_seeds_differ(split: Split, stored: FeatureStore, tmp_path: Path) -> None:
    with open_store(extract(split, dataclasses.replace(SMALL, view_seed=8), tmp_path).path) as other:
        assert other.spec == stored.spec, "views are rows, no part of the fingerprint"
        here, there = by_key(stored), by_key(other)
    assert len(set(here.values())) == len(here)
    for key, row in here.items():
        assert (there[key] == row) == (key[1] == 0)


@pytest.mark.parametrize(
    "change",
    [{"view_seed": 8}, {"train_transform": "trx-train"}, {"train_sampling": "clip-fsar"}, {"flip": "on"}],
)
def test_views_drawn_in_another_way_are_refused(split: Split, tmp_path: Path, change: dict[str, Any]) -> None:
    if change.get("train_transform") == "trx-train" and "trx-train" not in TRANSFORMS.names():
        change = {"train_transform": "clip-fsar-train"}
    before = extract(split, SMALL, tmp_path)
    with open_store(before.path) as store:
        rows = by_key(store)
        for views in (1, 2, 4):
            with pytest.raises(IntegrityError, match="changed since") as caught:
                extract(split, dataclasses.replace(SMALL, views=views, **change), tmp_path)
            assert "seed 7" in str(caught.value)
        assert extract(split, dataclasses.replace(SMALL, views=0, **change), tmp_path).made == 0
        store.refresh()
        assert by_key(store) == rows


def test_a_run_without_views_does_not_draw_those_begun_in_another_way(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block underway holds evaluation views and training views; a later run of other settings may not fill it with its own."""
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        extract(split, SMALL, tmp_path, stop=stop, report=lambda now: stop.set())
    plain = dataclasses.replace(SMALL, views=0, view_seed=0)
    with pytest.raises(UsageError, match="seed 7") as caught:
        extract(split, plain, tmp_path)
    assert "same settings" in str(caught.value.hint)
    summary = extract(split, dataclasses.replace(plain, view_seed=7), tmp_path)
    with open_store(summary.path) as store:
        for (name, view), row in by_key(store).items():
            if view:
                assert row == by_hand(split, name, view, flip=False).tobytes()
    assert extract(split, SMALL, tmp_path).failed == []
    assert extract(split, plain, tmp_path).made == 0


def test_a_clip_that_fails_fails_in_every_view(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(TRAIN + VAL + TEST):
        (folder / f"{i:02d}.mp4").write_bytes((clips / f"{i:02d}.mp4").read_bytes() if i != 3 else b"no video")
    split = split_of(folder)
    summary = extract(split, SMALL, tmp_path)
    assert [name for name, _ in summary.failed] == ["03"]
    with open_store(summary.path) as store:
        assert [(f["id"], f["view"]) for f in store.failures()] == [("03", 0), ("03", 1), ("03", 2)]
        source = StoreSource(store, split.parts["train"], views=2)
        assert source.excluded == {"03"}
        with pytest.raises(MissingError, match="'03' failed"):
            source.fetch(np.array([3]), training=True, keys=np.array([1], np.uint64))
    (folder / "03.mp4").write_bytes((clips / "03.mp4").read_bytes())
    assert extract(split, SMALL, tmp_path).failed == []
    (folder / "04.mp4").unlink()
    assert extract(split, SMALL, tmp_path).made == 0


@pytest.mark.parametrize("load", ["ram", "mmap"])
def test_training_draws_stored_views_by_key(split: Split, stored: FeatureStore, load: Any) -> None:
    part = split.parts["train"]
    source = StoreSource(stored, part, load=load, views=2)
    positions = np.array([5, 0, 5, 2, 6])
    keys = np.array([0, 1, 2, 2**64 - 1, 3], np.uint64)
    rows = source.fetch(positions, training=True, keys=keys).numpy()
    for row, position, key in zip(rows, positions.tolist(), keys.tolist(), strict=True):
        want = stored.read(stored.rows_of([part.ids[position]], 1 + key % 2))[0]
        np.testing.assert_array_equal(row, want)
    evaluated = source.fetch(positions, training=False, keys=keys).numpy()
    np.testing.assert_array_equal(evaluated, stored.read(stored.rows_of([part.ids[p] for p in positions], 0)))
    plain = StoreSource(stored, part, load=load)
    np.testing.assert_array_equal(plain.fetch(positions, training=True, keys=keys).numpy(), evaluated)


def test_training_needs_its_views_to_be_there(split: Split, stored: FeatureStore) -> None:
    with pytest.raises(
        MissingError, match=r"7 of 7 clips of toy/train are not in the store .* with 3 training views"
    ) as caught:
        StoreSource(stored, split.parts["train"], views=3, extract="fsar-cache extract toy --views 3")
    assert "--views 3" in str(caught.value.hint)
    with pytest.raises(MissingError, match="toy/test"):
        StoreSource(stored, split.parts["test"], views=1)


def test_flow_and_text_have_no_views() -> None:
    for kind in ("flow", "text"):
        with pytest.raises(ValueError, match="training views are of features"):
            ExtractConfig(kind=kind, views=1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"train_sampling": "gslta-trian"}, "unknown frame sampling"),
        ({"train_transform": "gslta-trian"}, "unknown transform"),
        ({"train_sampling": "gslta-test"}, "deterministic"),
        ({"train_transform": "squash"}, "deterministic"),
    ],
)
def test_rules_that_draw_nothing_are_no_training_rules(
    split: Split, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        extract(split, dataclasses.replace(SMALL, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_origins_of_views_say_how_they_are_drawn(split: Split) -> None:
    rows = {(row.id, row.view): row.origin for row in rows_of(split, SMALL)}
    assert rows["00", 1].startswith(rows["00", 0])
    assert rows["00", 1].endswith("; view by gslta-train and gslta-train, not mirrored, seed 7")
