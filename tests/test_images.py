"""Videos kept as folders of frames, on disk and in zips: the right images in the right order, or a reason that names the image."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import videos
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from extract.decode_images import in_order
from extract.decoders import decode, pixels_of
from extract.pool import DecodePool, Failure
from extract.probe import DecodeError, file_size
from fsar_cache.errors import MissingError, UsageError
from splits import frames
from splits.datasets import missing, open_split

N = 12
SIZE = (64, 48)


def write_frames(folder: Path, count: int = N, name: str = "img_{:05d}.png", first: int = 1, **how) -> Path:
    """`count` numbered pictures as images of `folder`; png unless told."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(videos.picture(i, *SIZE)).save(folder / name.format(first + i), **how)
    return folder


def packed(folder: Path, file: Path, method: int = zipfile.ZIP_STORED, prefix: str = "") -> Path:
    """The folder's content as a zip without entries for its folders."""
    with zipfile.ZipFile(file, "w", method) as out:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.write(path, prefix + path.relative_to(folder).as_posix())
    return file


def every(path: Path, decoder: str = "auto") -> list[int]:
    return videos.numbers_of(decode(path, np.arange, decoder=decoder).frames)


# Which image is which frame -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "PNG", "webp"])
@pytest.mark.parametrize("name", ["{:05d}", "{}", "img_{}", "v_Fall_g01_c{}", "frame{:02d}_rgb"])
def test_frames_go_by_their_numbers(name: str, suffix: str, tmp_path: Path) -> None:
    folder = write_frames(
        tmp_path / "v", name=name + "." + suffix, first=5, **({"lossless": True} if suffix == "webp" else {})
    )
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_bytes(b"")
    made = decode(folder, lambda n: np.array([n - 1, 0, 3, 3]))
    assert videos.numbers_of(made.frames) == [N - 1, 0, 3, 3]
    assert (made.decoded, made.claimed, made.corrupt, made.duration) == (N, -1, 0, -1.0)
    assert np.array_equal(made.frames[1], videos.picture(0, *SIZE))


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord", "images", "nvdec"])
def test_every_decoder_leaves_them_to_one(decoder: str, tmp_path: Path) -> None:
    assert every(write_frames(tmp_path / "v"), decoder) == list(range(N))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), st.randoms(), st.booleans())
def test_any_numbers(numbers: list[int], random, padded: bool) -> None:
    names = [f"f{n:07d}.jpg" if padded else f"f{n}.jpg" for n in numbers]
    random.shuffle(names)
    assert [int(name[1:-4]) for name in in_order(names, "v")] == sorted(numbers)


def test_optical_flow_beside_the_frames_is_left_out(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v")
    for other in ("flow_x_{:05d}.png", "flow_y_{:05d}.png", "x_{:05d}.png"):
        write_frames(folder, 3, other)
    assert every(folder) == list(range(N))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("thumb.png", "images of 2 kinds of names, so no order: img_#, thumb"),
        ("img_1.png", "img_00001.png and img_1.png have the same number"),
        ("img_00001.jpg", "img_00001.jpg and img_00001.png have the same number"),
    ],
)
def test_an_order_in_doubt_is_refused(extra: str, words: str, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v")
    shutil.copy(folder / "img_00001.png", folder / extra)
    with pytest.raises(DecodeError, match=words):
        decode(folder, np.arange)


# Which pixels -------------------------------------------------------------------------------------------------------


def test_jpeg_pixels_are_those_of_an_independent_reader(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", name="{}.jpg", quality=95, subsampling=0)
    got = decode(folder, np.arange).frames
    for i, frame in enumerate(got):
        other = cv2.imread(str(folder / f"{i + 1}.jpg"), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        assert np.abs(frame.astype(int) - other).max() <= 3  # another build of another JPEG library
        assert np.array_equal(frame, np.asarray(Image.open(folder / f"{i + 1}.jpg").convert("RGB")))


def test_exif_rotation_is_ignored(tmp_path: Path) -> None:
    picture = Image.fromarray(videos.picture(7, *SIZE))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "v").mkdir()
    picture.save(tmp_path / "v" / "1.jpg", exif=exif)
    assert decode(tmp_path / "v", np.arange).frames.shape == (1, SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_kinds_of_pictures_become_rgb(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(videos.picture(5, *SIZE)).convert(mode)
    (tmp_path / "v").mkdir()
    path = tmp_path / "v" / ("1.jpg" if mode == "CMYK" else "1.png")
    picture.save(path, **({"quality": 95} if mode == "CMYK" else {}))
    got = decode(tmp_path / "v", np.arange).frames[0]
    assert np.abs(got.astype(int) - np.asarray(picture.convert("RGB"))).mean() < 2


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    Image.fromarray(np.full((48, 64), 40000, np.uint16)).save(tmp_path / "v" / "1.png")
    with pytest.raises(DecodeError, match=r"v/1.png: not an 8-bit picture \(mode I;16\)"):
        decode(tmp_path / "v", np.arange)


def test_the_contract_of_exact_decoders_says_how_images_are_read() -> None:
    assert pixels_of("auto") == pixels_of("decord") == pixels_of("images")
    assert pixels_of("images")["images"] == "pillow-rgb"


# Bad images ---------------------------------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "size":
        Image.fromarray(videos.picture(0, 32, 48)).save(path)
    else:
        path.write_bytes({"empty": b"", "text": b"no image", "cut": data[: len(data) // 2]}[how])


BAD = {
    "empty": "v/img_4.jpg: the file is empty",
    "text": "v/img_4.jpg: not an image",
    "cut": "v/img_4.jpg: can't be decoded: ",
    "size": "v/img_4.jpg: is 32x48, the first image 64x48",
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_image_is_named_where_it_is_wanted_and_not_read_elsewhere(how: str, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", name="img_{}.jpg")
    spoil(folder / "img_4.jpg", how)
    with pytest.raises(DecodeError) as caught:
        decode(folder, np.arange)
    assert caught.value.message.startswith(BAD[how])
    assert "\n" not in caught.value.message
    others = decode(folder, lambda n: np.array([0, n - 1]))
    assert others.decoded == N
    assert others.corrupt == 0


def test_folders_without_frames(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecodeError, match="empty: no image in it"):
        decode(tmp_path / "empty", np.arange)
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "nothing", np.arange)
    with pytest.raises(DecodeError, match="no folder of images"):
        decode(videos.write(tmp_path / "a.mp4", frames=3), np.arange, decoder="images")
    write_frames(tmp_path / "v")
    with pytest.raises(DecodeError, match="no times to cut by"):
        decode(tmp_path / "v", np.arange, start=0.0, end=1.0)
    for bad in ([N], [-1], [], [[1]], [0.5]):
        with pytest.raises(ValueError, match="a choice"):
            decode(tmp_path / "v", lambda n, bad=bad: np.array(bad))


def test_only_chosen_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = frames.read
    monkeypatch.setattr(frames, "read", lambda path, name: read.append(name) or real(path, name))
    decode(write_frames(tmp_path / "v"), lambda n: np.array([2, 5, 2]))
    assert read == ["img_00003.png", "img_00006.png"]


# Zips ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_frames_in_a_zip(method: int, tmp_path: Path) -> None:
    for video in ("walk/v1", "walk/v2", "run/v3"):
        write_frames(tmp_path / "data" / video, N - len(video) + 6)
    file = packed(tmp_path / "data", tmp_path / "DATA.zip", method, "top/")
    for video in ("walk/v1", "walk/v2", "run/v3"):
        inside, outside = decode(file / "top" / video, np.arange), decode(tmp_path / "data" / video, np.arange)
        assert np.array_equal(inside.frames, outside.frames)
        assert file_size(file / "top" / video) == file_size(tmp_path / "data" / video)
    with pytest.raises(DecodeError, match=r"v9: can't be read: no folder 'top/walk/v9' in DATA.zip"):
        decode(file / "top" / "walk" / "v9", np.arange)
    with pytest.raises(DecodeError, match="no image in it"):
        decode(file / "top" / "walk", np.arange)


@given(st.sets(st.from_regex(r"([ab.]{1,2}x?/){0,3}[ab1]\.(png|txt)", fullmatch=True), min_size=1))
def test_a_zip_shows_what_a_disk_shows(names: set[str]) -> None:
    names = {name for name in names if "./" not in name}  # no folder called . or .. or ending so
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with zipfile.ZipFile(root / "D.zip", "w") as out:
            for name in names:
                (root / "disk" / name).parent.mkdir(parents=True, exist_ok=True)
                (root / "disk" / name).write_bytes(name.encode())
                out.writestr(name, name.encode())
        for path in [root / "disk", *(root / "disk").rglob("*")] if names else []:
            twin = root / "D.zip" / path.relative_to(root / "disk")
            assert frames.is_folder(twin) == path.is_dir()
            if path.is_dir():
                assert frames.entries(twin) == frames.entries(path)
                assert frames.images(twin) == frames.images(path)
                assert all(frames.read(twin, name) == frames.read(path, name) for name in frames.images(path))
                assert (file_size(twin), frames.is_there(twin)) == (file_size(path), frames.is_there(path))


def test_a_zip_that_holds_one_video(tmp_path: Path) -> None:
    assert every(packed(write_frames(tmp_path / "v"), tmp_path / "v.zip")) == list(range(N))


def test_damage_in_a_zip_ends_the_clip_with_the_image_named(tmp_path: Path) -> None:
    file = packed(write_frames(tmp_path / "data" / "c" / "v").parent.parent, tmp_path / "DATA.zip")
    with zipfile.ZipFile(file) as opened:
        entry = opened.getinfo("c/v/img_00005.png")
    data = bytearray(file.read_bytes())
    data[entry.header_offset + 200] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(DecodeError, match=r"v/img_00005.png: can't be decoded: .*Bad CRC-32"):
        decode(file / "c" / "v", np.arange)
    assert len(decode(file / "c" / "v", lambda n: np.arange(4)).frames) == 4
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError, match=r"v: can't be read: DATA.zip is no readable zip"):
        decode(file / "c" / "v", np.arange)
    assert file_size(file / "c" / "v") == -1


def test_a_zip_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    file = packed(write_frames(tmp_path / "a" / "v").parent, tmp_path / "DATA.zip")
    assert len(every(file / "v")) == N
    packed(write_frames(tmp_path / "b" / "v", 5).parent, file)
    assert every(file / "v") == list(range(5))


# Datasets -----------------------------------------------------------------------------------------------------------


def test_a_dataset_over_many_zips_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_frames(tmp_path / "a" / "v").parent
    files = [packed(folder, tmp_path / f"DATA{i}.zip") for i in range(5)]
    reads: list[Path] = []
    real = frames._read

    def read(path: Path) -> frames.Archive:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(frames, "_read", read)
    for _ in range(3):
        for file in files:
            assert len(frames.image_names(file / "v")) == N
    assert reads == files


def test_zips_are_closed_when_they_hold_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_frames(tmp_path / "a" / "v").parent
    files = [packed(folder, tmp_path / f"DATA{i}.zip") for i in range(5)]
    monkeypatch.setattr(frames, "_OPEN", {})
    monkeypatch.setattr(frames, "_HELD", 2 * N)
    opened = [frames.archive(file) for file in files]
    assert [one.zip.fp is None for one in opened] == [True, True, True, False, False]
    frames.archive(files[3])
    frames.archive(files[0])
    assert [key[0] for key in frames._OPEN] == [files[3], files[0]]
    monkeypatch.setattr(frames, "_HELD", 1)
    frames.archive(files[1])
    assert [key[0] for key in frames._OPEN] == [files[1]], "the last one is kept, however large"
    monkeypatch.setattr(frames, "_HELD", 100 * N)
    monkeypatch.setattr(frames, "_KEPT", 3)
    for file in files:
        frames.archive(file)
    assert [key[0] for key in frames._OPEN] == files[2:]


def paths_of(name: str) -> dict[str, list[tuple[str, str, str]]]:
    split = open_split(name)
    assert missing(split) == []
    return {part.name: [(v.id, v.label, v.path) for v in part.videos] for part in split.parts.values()}


def test_class_folders_hold_files_and_frame_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_frames(root / "walk" / "v10", 3)
    write_frames(root / "walk" / "v.9", 3)
    videos.write(root / "walk" / "v10.mp4", frames=3)
    (root / "walk" / "thumbs").mkdir()
    write_frames(root / "train" / "v1", 3)  # a class of that name, no partition
    assert paths_of(f"folder:{root}") == {
        "all": [
            ("train/v1", "train", "train/v1"),
            ("walk/v.9", "walk", "walk/v.9"),
            ("walk/v10", "walk", "walk/v10"),
            ("walk/v10.mp4", "walk", "walk/v10.mp4"),
        ]
    }


def test_images_beside_videos_make_no_frame_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for part in ("train", "test"):
        write_frames(root / part / "walk", 1, "thumb{}.png")
        videos.write(root / part / "walk" / "a.mp4", frames=3)
    assert paths_of(f"folder:{root}") == {p: [(f"{p}/walk/a", "walk", f"{p}/walk/a.mp4")] for p in ("train", "test")}


@pytest.mark.parametrize("top", ["", "frames/"])
def test_a_zip_is_a_dataset(top: str, tmp_path: Path) -> None:
    for video in ("train/walk/v1", "train/run/v2", "test/fall/v3"):
        write_frames(tmp_path / "data" / video, 4)
    file = packed(tmp_path / "data", tmp_path / "DATA.zip", prefix=top)
    name = f"folder:{(file / top) if top else file}"
    assert paths_of(name) == paths_of(f"folder:{tmp_path / 'data'}")
    split = open_split(name)
    assert split.name == (top.strip("/") or "DATA")
    assert every(split.root / split.parts["test"].videos[0].path) == list(range(4))


def test_a_list_names_frame_folders(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames" / "a", 4)
    packed(write_frames(tmp_path / "other" / "b", 4).parent, tmp_path / "more.zip")
    (tmp_path / "empty").mkdir()
    (tmp_path / "l.csv").write_text(
        "id,class,path\n1,x,frames/a\n2,x,more.zip/b\n3,y,more.zip/c\n4,y,gone\n5,y,empty\n"
    )
    split = open_split(f"csv:{tmp_path / 'l.csv'}")
    assert [v.id for v in missing(split)] == ["3", "4", "5"]
    sizes = [file_size(split.root / v.path) for v in split.parts["all"].videos]
    assert sizes[0] == sizes[1] == sum(f.stat().st_size for f in (tmp_path / "frames" / "a").iterdir())
    assert sizes[2:] == [-1, -1, -1]


def test_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(MissingError, match="damaged or cut short"):
        open_split(f"folder:{tmp_path / 'broken.zip'}")
    file = packed(write_frames(tmp_path / "v"), tmp_path / "flat.zip")
    with pytest.raises(MissingError, match="no class folder with videos"):
        open_split(f"folder:{file}")
    with pytest.raises(MissingError, match="there is no"):
        open_split(f"folder:{file / 'inside'}")
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as out:
        out.writestr("walk/a.mp4", b"a video in a zip can't be read")
    with pytest.raises(MissingError, match="no class folder with videos"):
        open_split(f"folder:{tmp_path / 'videos.zip'}")
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as out:
        out.writestr("walk/a\n/1.png", b"")
    with pytest.raises(UsageError, match="control characters"):
        open_split(f"folder:{tmp_path / 'odd.zip'}")


def test_decode_processes_read_them(tmp_path: Path) -> None:
    from extract.clip import Task

    file = packed(write_frames(tmp_path / "data" / "v").parent, tmp_path / "DATA.zip")
    write_frames(tmp_path / "bad", 3, "{}.jpg")
    (tmp_path / "bad" / "2.jpg").write_bytes(b"no image")
    paths = [tmp_path / "data" / "v", file / "v", tmp_path / "bad"]
    with DecodePool(2, 60.0) as many:
        got = dict(many.map(Task(path, "uniform", 3) for path in paths))
    assert np.array_equal(got[0].frames, got[1].frames)
    assert got[2] == Failure("bad/2.jpg: not an image")


def test_decoding_images_needs_no_torch(tmp_path: Path) -> None:
    write_frames(tmp_path / "v", 2)
    code = (
        "import sys; from pathlib import Path; import numpy; from extract.decoders import decode;"
        f"decode(Path({str(tmp_path / 'v')!r}), numpy.arange); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
