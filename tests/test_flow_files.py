"""Flow of other tools: .flo files, pairs of 8-bit images, and their import into stores."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cache.store import open_store
from extract.flow_field import flip, pixels
from extract.flow_files import decode_levels, flo_files, image_pairs, read_flo, read_pair, write_flo
from extract.flow_import import FlowImport, import_flow, imported_clip
from fsar_cache.errors import FailedVideosError, IntegrityError, MissingError, UsageError
from splits.types import Part, Split, Video

FLO = FlowImport("flo", name="flownet2", frames=4, size=16, transform="squash", sampling="uniform")


def field_of(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32) * 5


# Files


def test_a_flo_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    field, path = field_of(), tmp_path / "00001.flo"
    write_flo(path, field)
    assert path.stat().st_size == 12 + 8 * 12 * 16
    np.testing.assert_array_equal(read_flo(path), field)
    theirs = cv2.readOpticalFlow(str(path))
    np.testing.assert_array_equal(theirs.transpose(2, 0, 1), field)


def test_unknown_flow_is_nan_and_stays_unknown(tmp_path: Path) -> None:
    path = tmp_path / "a.flo"
    path.write_bytes(b"PIEH" + struct.pack("<ii", 2, 1) + struct.pack("<4f", 1, 2, 1e9, 3))
    field = read_flo(path)
    assert field[:, 0, 0].tolist() == [1, 2]
    assert np.isnan(field[:, 0, 1]).all()
    write_flo(path, field)
    np.testing.assert_array_equal(read_flo(path), field)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PIEH",
        b"JUNK" + bytes(20),
        b"PIEH" + struct.pack("<ii", -1, 4),
        b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31),
    ],
)
def test_a_damaged_flo_file_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.flo"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"bad\.flo"):
        read_flo(path)


def test_codes_of_images_go_from_minus_the_bound_to_the_bound() -> None:
    levels = np.arange(256, dtype=np.uint8)
    plain = decode_levels(levels, 20, snap_zero=False)
    np.testing.assert_allclose(plain, levels * (40 / 255) - 20, atol=1e-5)
    assert abs(plain).min() == pytest.approx(20 / 255, abs=1e-5)
    snapped = decode_levels(levels, 20)
    assert np.flatnonzero(snapped == 0).tolist() == [127, 128]
    np.testing.assert_array_equal(np.delete(snapped, [127, 128]), np.delete(plain, [127, 128]))


def write_pair(
    folder: Path, number: int, field: np.ndarray, names: str = "flow_{}_{:05d}.png", bound: float = 20
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    levels = np.clip(np.rint((field + bound) * 255 / (2 * bound)), 0, 255).astype(np.uint8)
    for side, plane in zip("xy", levels, strict=True):
        cv2.imwrite(str(folder / names.format(side, number)), plane)


@pytest.mark.parametrize("names", ["flow_{}_{:05d}.png", "{}_{:04d}.png", "flow_{}_{}.PNG"])
def test_a_pair_of_images_is_a_field_within_the_rounding_of_8_bits(tmp_path: Path, names: str) -> None:
    for number in (2, 10, 9):
        write_pair(tmp_path, number, field_of(seed=number), names)
    pairs = image_pairs(tmp_path)
    assert [x.stem[-1] for x, _ in pairs] == ["2", "9", "0"]
    for (x, y), number in zip(pairs, (2, 9, 10), strict=True):
        np.testing.assert_allclose(read_pair(x, y, 20, snap_zero=False), field_of(seed=number), atol=20 / 255 + 1e-4)


def test_images_without_partner_of_other_size_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no pair of flow images"):
        image_pairs(tmp_path)
    write_pair(tmp_path, 1, field_of())
    write_pair(tmp_path, 2, field_of())
    (tmp_path / "flow_y_00002.png").unlink()
    with pytest.raises(IntegrityError, match=r"number 2 .* only one"):
        image_pairs(tmp_path)
    cv2.imwrite(str(tmp_path / "flow_y_00001.png"), np.zeros((3, 3), np.uint8))
    with pytest.raises(IntegrityError, match="differ in size"):
        read_pair(*image_pairs_of(tmp_path, 1), 20)
    for data in (b"", b"no picture"):
        (tmp_path / "flow_y_00001.png").write_bytes(data)
        with pytest.raises(IntegrityError, match=r"flow_y_00001\.png is no image"):
            read_pair(*image_pairs_of(tmp_path, 1), 20)


def image_pairs_of(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"flow_x_{number:05d}.png", folder / f"flow_y_{number:05d}.png"


def test_flo_files_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("f_10.flo", "f_9.flo", "f_100.flo"):
        write_flo(tmp_path / name, field_of())
    assert [p.name for p in flo_files(tmp_path)] == ["f_9.flo", "f_10.flo", "f_100.flo"]
    with pytest.raises(MissingError, match=r"no \.flo file"):
        flo_files(tmp_path / "none")


# Import


def split_of(root: Path, count: int = 4) -> Split:
    videos = tuple(Video(f"wave/clip {i}", "wave", f"wave/clip {i}.mp4") for i in range(count))
    return Split("world", root, {"train": Part("train", ("wave",), videos)})


def write_clips(source: Path, split: Split, fields: int = 7, height: int = 12, width: int = 16) -> None:
    for clip, video in enumerate(split.parts["train"].videos):
        for number in range(fields):
            path = source / video.id / f"{number:05d}.flo"
            write_flo(path, np.full((2, height, width), number + 10 * clip, np.float32))


def test_an_import_is_a_flow_store_of_the_fields_that_the_rule_chooses(tmp_path: Path) -> None:
    split = split_of(tmp_path)
    write_clips(tmp_path / "fields", split)
    (tmp_path / "fields" / "stray").mkdir()
    write_flo(tmp_path / "fields" / "stray" / "1.flo", field_of())
    done = import_flow(tmp_path / "fields", split, tmp_path / "stores", FLO)
    assert (done.ok, done.failed) == (4, [])
    assert [path.name for path in done.strange] == ["stray"]
    with open_store(done.path) as store:
        assert (store.spec.kind, store.spec.cut, store.spec.dtype) == ("flow", "flow", "int16")
        assert store.spec.backbone["name"] == "flownet2"
        assert not store.verify()
        rows = torch.from_numpy(store.read(store.rows_of(["wave/clip 2"])))[0]
    assert rows.shape == (4, 2, 16, 16)
    # 7 fields are 8 frames; frames 0, 2, 4, 7 are chosen, and the last takes the last field. 12 x 16 to 16 x 16: v grows by 4/3.
    expected = torch.tensor([20.0, 22.0, 24.0, 26.0])[:, None, None]
    assert (pixels(rows)[:, 0] - expected).abs().max() <= 1 / 128
    assert (pixels(rows)[:, 1] - expected * 4 / 3).abs().max() <= 1 / 128
    assert torch.equal(pixels(flip(rows))[:, 0], -pixels(rows)[:, 0])


def test_an_import_again_has_nothing_to_do(tmp_path: Path) -> None:
    split = split_of(tmp_path)
    write_clips(tmp_path / "fields", split)
    first = import_flow(tmp_path / "fields", split, tmp_path / "stores", FLO)
    before = {p: p.stat().st_mtime_ns for p in first.path.rglob("*.*") if p.is_file()}
    assert import_flow(tmp_path / "fields", split, tmp_path / "stores", FLO) == first
    assert {p: p.stat().st_mtime_ns for p in first.path.rglob("*.*") if p.is_file()} == before


def test_images_import_too_and_the_bound_is_part_of_the_identity(tmp_path: Path) -> None:
    split = split_of(tmp_path, 1)
    for number in range(3):
        write_pair(tmp_path / "fields" / "wave" / "clip 0", number, field_of(16, 16, seed=number))
    settings = replace(FLO, format="tsn")
    done = import_flow(tmp_path / "fields", split, tmp_path / "stores", settings)
    with open_store(done.path) as store:
        row = pixels(torch.from_numpy(store.load()))[0]
    for got, number in zip(row.numpy(), (0, 1, 2, 2), strict=True):
        np.testing.assert_allclose(got, field_of(16, 16, seed=number), atol=40 / 255 + 1 / 64)
    assert replace(settings, bound=16.0).spec().fingerprint != settings.spec().fingerprint


def test_clips_without_fields_are_counted_with_their_reason(tmp_path: Path) -> None:
    split = split_of(tmp_path)
    write_clips(tmp_path / "fields", split)
    (tmp_path / "fields" / "wave" / "clip 1" / "00000.flo").write_bytes(b"broken")
    for path in (tmp_path / "fields" / "wave" / "clip 3").iterdir():
        path.unlink()
    with pytest.raises(FailedVideosError, match="2 of 4 clips"):
        import_flow(tmp_path / "fields", split, tmp_path / "stores", FLO)
    done = import_flow(tmp_path / "fields", split, tmp_path / "stores", FLO, max_failures=0.5)
    assert done.ok == 2
    reasons = dict(done.failed)
    assert "00000.flo is no .flo file" in reasons["wave/clip 1"]
    assert "no .flo file in" in reasons["wave/clip 3"]


def test_nothing_is_written_where_no_clip_has_fields(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no clip of world has a folder"):
        import_flow(tmp_path / "fields", split_of(tmp_path), tmp_path / "stores", FLO)
    assert not (tmp_path / "stores").exists()


def test_fields_of_the_central_part_are_put_back_in_their_place(tmp_path: Path) -> None:
    """A tool that crops 16 x 24 frames to 12 x 16 leaves a border of 2 rows and 4 columns that is unmoved."""
    for number in range(3):
        write_flo(tmp_path / f"{number}.flo", np.full((2, 12, 16), 3, np.float32))
    settings = replace(FLO, transform="squash", size=24, frame_height=16, frame_width=24)
    row, frames = imported_clip(tmp_path, settings)
    assert frames == 4
    u = row[0, 0] / 64
    assert (u[:, 4:20][4:20] == 3).all()
    assert not u[:, :4].any()
    assert not u[:2].any()
    with pytest.raises(IntegrityError, match="no part of frames"):
        imported_clip(tmp_path, replace(settings, frame_height=8))


def test_fields_of_several_sizes_in_one_clip_are_refused(tmp_path: Path) -> None:
    write_flo(tmp_path / "1.flo", field_of(12, 16))
    write_flo(tmp_path / "2.flo", field_of(16, 12))
    with pytest.raises(IntegrityError, match="differ in size"):
        imported_clip(tmp_path, FLO)


@pytest.mark.parametrize(
    "wrong",
    [{"format": "kitti"}, {"name": "a/b"}, {"frames": 0}, {"bound": 0.0}, {"bound": float("inf")}, {"frame_height": 8}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(FLO, **wrong)  # type: ignore[arg-type]


def test_a_rule_that_draws_and_a_transform_without_geometry_are_refused() -> None:
    with pytest.raises(UsageError, match="generator"):
        replace(FLO, sampling="gslta-train").spec()
    with pytest.raises(UsageError, match="evaluation transform"):
        replace(FLO, transform="gslta-train").spec()
