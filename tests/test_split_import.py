"""Importing lists: published ones come out as published, whatever their form; others under a name; nothing is lost or half written."""

from __future__ import annotations

import hashlib
import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lists
import pytest

from fsar_cache import files as whole_files
from fsar_cache.errors import IntegrityError, MissingError, SpaceError, UsageError
from splits.official.catalog import official
from splits.official.names import NAMING, ucf_class
from splits.published import known as facts
from splits.published import names, recognise
from splits.published.imported import imported_names, imported_path, read_imported
from splits.published.importing import import_lists
from splits.published.known import known
from splits.published.report import ImportReport, PartReport, SplitReport

TOMLS = {
    "diving48-cdfslv": ("diving48-cdfslv", "diving48-cdfslv"),
    "diving48-gslta": ("diving48-gslta", "diving48-gslta"),
    "diving48-tamt": ("diving48-tamt", "diving48-tamt"),
    "hmdb51-arn": ("hmdb51", "hmdb51-arn"),
    "hmdb51-arn-clipfsar": ("hmdb51", "hmdb51-arn"),
    "hmdb51-cdfslv": ("hmdb51-cdfslv", "hmdb51-cdfslv"),
    "kinetics100-clipfsar": ("kinetics100-clipfsar", "kinetics100-clipfsar"),
    "kinetics100-cmn": ("kinetics100", "kinetics100-cmn"),
    "kinetics100-gslta": ("kinetics100-gslta", "kinetics100-gslta"),
    "kinetics61-cdfslv": ("kinetics61", "kinetics61-cdfslv"),
    "kinetics61-gslta": ("kinetics61", "kinetics61-cdfslv"),
    "rareact-cdfslv": ("rareact-cdfslv", "rareact-cdfslv"),
    "rareact-gslta": ("rareact-gslta", "rareact-gslta"),
    "rareact-tamt": ("rareact-tamt", "rareact-tamt"),
    "ssv2full-otam": ("ssv2-full", "ssv2full-otam"),
    "ssv2full-otam-ids": ("ssv2-full", "ssv2full-otam"),
    "ssv2full-otam-ta2n": ("ssv2-full-ta2n", "ssv2full-otam-ta2n"),
    "ssv2full-tamt": ("ssv2-full", "ssv2full-otam"),
    "ssv2small-clipfsar": ("ssv2-small", "ssv2small-cmn"),
    "ssv2small-cmn": ("ssv2-small", "ssv2small-cmn"),
    "ssv2small-ta2n": ("ssv2-small", "ssv2small-cmn"),
    "ucf101-arn": ("ucf101", "ucf101-arn"),
    "ucf101-arn-clipfsar": ("ucf101", "ucf101-arn"),
    "ucf101-cdfslv": ("ucf101-cdfslv", "ucf101-cdfslv"),
}
"""Folder of published lists -> the split it is, the table that says what is in it."""


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of lists, empty, and no dataset on disk."""
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path / "kept"))
    monkeypatch.setenv("FSAR_VIDEOS", str(tmp_path / "videos"))
    return tmp_path / "kept"


def forget() -> None:
    """Empty what was remembered of the facts."""
    for module in (facts, names, recognise):
        for one in vars(module).values():
            if hasattr(one, "cache_clear"):
                one.cache_clear()


A = lists.kinetics(["ice skating", "hurling (sport)", "yoga"], 3)
A_SIZES = A + lists.kinetics(["yoga"], 1, 40) + lists.kinetics(["ice skating"], 2, 50)
VAL = lists.kinetics(["knitting", "krumping"], 4, 100)
TEST = lists.kinetics(["lunge", "laughing"], 4, 200)
B = A_SIZES + lists.kinetics(["hurling (sport)"], 5, 300)
DIVES = official("diving48").classes
RARE = [("hammer phone", "-Zz_0000001_10_20"), ("fry phone", "-Zz_0000001_10_20"), ("fry phone", "-Zz_0000001_20_30")]
POOL = {"train": lists.diving(DIVES[:3], 4), "test": lists.diving(DIVES[3:5], 2, 9)}


def toml(dataset: str, parts: dict[str, list[lists.Clip]]) -> str:
    """The facts of a split of these clips, as the project writes them of published ones."""
    text = f'dataset = "{dataset}"\ntitle = "t"\nrule = "list"\norigin = "o"\nwhere = "w"\n'
    for part, clips in parts.items():
        classes = list(dict.fromkeys(name for name, _ in clips))
        ids = sorted(NAMING[dataset].id_of(clip) or "" for _, clip in clips)
        content = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]
        text += f"[parts.{part}]\nclasses = {json.dumps(classes)}\ntotal = {len(ids)}\n"
        text += f"videos = {[sum(name == one for one, _ in clips) for name in classes]}\n"
        index = [DIVES.index(name) if dataset == "diving48" else i for i, name in enumerate(classes)]
        text += f'content = "{content}"\nnumbers.index = {index}\n'
    return text


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four published splits and no others: a and b share val and test, pool is told apart by class, a span of rare has two classes."""
    folder = tmp_path / "facts"
    lists.write(folder / "pub-a.toml", toml("kinetics", {"train": A_SIZES, "val": VAL, "test": TEST}))
    lists.write(folder / "pub-b.toml", toml("kinetics", {"train": B, "val": VAL, "test": TEST}))
    lists.write(folder / "pub-pool.toml", toml("diving48", POOL))
    lists.write(folder / "pub-rare.toml", toml("rareact", {"train": RARE}))
    monkeypatch.setattr(facts, "_folder", lambda: folder)
    forget()
    yield
    monkeypatch.undo()
    forget()


def only(report: ImportReport) -> SplitReport:
    [split] = report.splits
    return split


def part(split: SplitReport, name: str) -> PartReport:
    return next(one for one in split.parts if one.part == name)


def counts(name: str) -> dict[str, dict[str, int]]:
    split = read_imported(name)
    assert split is not None
    return {p: {label: len(entries) for label, entries in classes.items()} for p, classes in split.parts.items()}


def table(shared: Path, name: str) -> dict[str, dict[str, int]]:
    with (shared / "splits" / f"{name}.classes.toml").open("rb") as file:
        parts: dict[str, Any] = tomllib.load(file)["partitions"]
    return {p: dict(zip(one["classes"], one["videos"], strict=True)) for p, one in parts.items()}


@pytest.mark.parametrize("folder", sorted(TOMLS))
def test_every_published_folder_becomes_its_split(shared_folder: Path, folder: str) -> None:
    name, facts_of = TOMLS[folder]
    path = shared_folder / "splits" / "published" / folder
    report = import_lists(path)
    split = only(report)
    assert (split.name, split.published, split.changed) == (name, True, True)
    assert not report.left
    assert not report.skipped
    wanted, made = table(shared_folder, facts_of), counts(name)
    assert set(made) == {file.stem for file in path.iterdir()}
    assert made == {p: wanted[p] for p in made}
    assert not any(one.differing for one in split.parts)
    assert all(file.copy for one in split.parts for file in one.files)
    assert set(split.lacking) == set(known(name).parts) - set(made)
    before = imported_path(name).stat()
    twice = import_lists(path)
    assert not only(twice).changed
    assert (imported_path(name).stat().st_ino, imported_path(name).stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert {one.state for one in only(twice).parts} == {"same"}


@pytest.mark.parametrize("folder", sorted(TOMLS))
def test_every_published_file_is_its_partition_without_its_bytes(
    shared_folder: Path, tmp_path: Path, folder: str
) -> None:
    """Shuffled, with CRLF, a repeat and no newline at its end, under a name that says nothing: known by its content."""
    for file in sorted((shared_folder / "splits" / "published" / folder).iterdir()):
        data = file.read_text()
        if file.suffix == ".json":
            value = json.loads(data)
            order = [*range(len(value["image_names"])), 3]
            random.Random(5).shuffle(order)
            data = json.dumps({key: [value[key][i] for i in order] for key in reversed(value)})
        else:
            lines = data.splitlines()
            lines.append(lines[3])
            random.Random(5).shuffle(lines)
            data = "\r\n".join(lines)
        plain = read_after(file)
        made = read_after(lists.write(tmp_path / "x", data))
        assert made == plain
        assert set(made[1]) == {file.stem}


def read_after(file: Path) -> tuple[str, dict[str, dict[str, tuple[str, ...]]]]:
    """Name and content of the one split that a list becomes where nothing was imported before."""
    report = only(import_lists(file))
    split = read_imported(report.name)
    assert split is not None
    imported_path(report.name).unlink()
    return split.name, split.parts


def test_all_published_lists_at_once(shared_folder: Path) -> None:
    report = import_lists(shared_folder / "splits" / "published")
    assert [split.name for split in report.splits] == sorted({name for name, _ in TOMLS.values()})
    assert report.skipped == (("rareact-official/rareact.csv", "is RareAct's own table, no split of it"),)
    assert not report.left
    for name, facts_of in TOMLS.values():
        wanted = table(shared_folder, facts_of)
        assert all(made == wanted[p] for p, made in counts(name).items() if p in wanted)
    assert {split.name: split.lacking for split in report.splits if split.lacking} == {"diving48-tamt": ("train",)}
    overlaps = {split.name: [(o.clips, o.classes) for o in split.overlaps] for split in report.splits if split.overlaps}
    assert overlaps == {
        "diving48-cdfslv": [(0, 48)],
        "diving48-gslta": [(0, 40)],
        "hmdb51-cdfslv": [(0, 51)],
        "rareact-cdfslv": [(0, 64)],
        "rareact-gslta": [(19, 64)],
        "ucf101-cdfslv": [(0, 101)],
    }


def test_labels_that_are_off_come_out_right(shared_folder: Path) -> None:
    published = shared_folder / "splits" / "published"
    import_lists(published / "kinetics61-gslta")
    one = read_imported("kinetics61")
    imported_path("kinetics61").unlink()
    import_lists(published / "kinetics61-cdfslv")
    other = read_imported("kinetics61")
    assert one is not None
    assert other is not None
    assert one.parts == other.parts
    assert len(one.parts["train"]["curling hair"]) == 92
    import_lists(published / "ucf101-cdfslv")
    ucf = read_imported("ucf101-cdfslv")
    assert ucf is not None
    told = [(label, ucf_class(e)) for classes in ucf.parts.values() for label in classes for e in classes[label]]
    assert {label for label, name in told if label != name} == {"HandstandPushups"}
    import_lists(published / "hmdb51-cdfslv")
    hmdb = read_imported("hmdb51-cdfslv")
    assert hmdb is not None
    for classes in hmdb.parts.values():
        assert all(f"_{label}_" in entry for label in classes for entry in classes[label])


def test_the_pool_lists_of_tamt_are_cut_by_class(shared_folder: Path, tmp_path: Path) -> None:
    published = shared_folder / "splits" / "published"
    pool = "".join((published / "diving48-cdfslv" / f"{p}.txt").read_text() for p in ("train", "test"))
    assert len(pool.splitlines()) == 18039
    assert only(import_lists(lists.write(tmp_path / "D48_train.txt", pool))).name == "diving48-tamt"
    assert counts("diving48-tamt") == table(shared_folder, "diving48-tamt")
    rows = []
    for p in ("train", "val", "test"):
        value = json.loads((published / "rareact-tamt" / f"{p}.json").read_text())
        pairs = zip(value["image_names"], value["image_labels"], strict=True)
        rows += [f"train{label}//rareact_cut/{Path(name).name}" for name, label in pairs]
    assert len(rows) == 5143
    assert only(import_lists(lists.write(tmp_path / "rare_cut.txt", "\n".join(rows)))).name == "rareact-tamt"
    assert counts("rareact-tamt") == table(shared_folder, "rareact-tamt")


def test_a_published_list_less_some_lines_is_another_and_said_to_be_near(shared_folder: Path, tmp_path: Path) -> None:
    lines = (shared_folder / "splits/published/kinetics100-cmn/train.txt").read_text().splitlines()
    near = lists.write(tmp_path / "near" / "trainlist03.txt", "\n".join(lines[13:]))
    with pytest.raises(UsageError, match="closest to kinetics100 train: the same 64 classes, 13 clips fewer"):
        import_lists(near)
    found = part(only(import_lists(near, name="mine")), "train").closest
    assert found is not None
    assert (found.split, found.part, found.fewer, found.more, found.clips_equal) == (
        "kinetics100",
        "train",
        13,
        0,
        False,
    )
    hmdb = (shared_folder / "splits/published/hmdb51-arn/train.txt").read_text()
    again = hmdb + hmdb.splitlines()[7] + "\n"
    made = part(only(import_lists(lists.write(tmp_path / "h" / "trainlist03.txt", again))), "train")
    assert (made.clips, made.repeats) == (4280, (("trainlist03.txt", 4281, 8),))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", lists.FORMS)
def test_a_known_partition_is_known_in_every_form(tmp_path: Path, form: str) -> None:
    report = only(import_lists(lists.write(tmp_path / "x", lists.text(A_SIZES, form, word="test"))))
    assert report.name == "pub-a"
    assert report.lacking == ("val", "test")
    split = read_imported("pub-a")
    assert split is not None
    wanted = {name: tuple(sorted(c for one, c in A_SIZES if one == name)) for name in sorted({n for n, _ in A_SIZES})}
    assert split.parts == {"train": wanted}
    assert list(split.parts["train"]) == sorted(wanted)
    assert part(report, "train").expected == (3, 12)


@pytest.mark.usefixtures("small")
def test_variants_of_a_list_are_the_same_split_to_the_byte_but_for_its_checksum(tmp_path: Path) -> None:
    plain = lists.text(A_SIZES, "A")
    shuffled = plain.splitlines()
    random.Random(1).shuffle(shuffled)
    variants = [plain.replace("\n", "\r\n"), "\ufeff" + plain, plain[:-1], "\n".join(shuffled), plain + plain]
    variants += [plain.replace(" ", "_"), plain.replace("ice skating", "ice_skating", 1)]
    made = []
    for text in [plain, *variants]:
        import_lists(lists.write(tmp_path / "x.txt", text))
        value = json.loads(imported_path("pub-a").read_text())
        made.append({key: one for key, one in value.items() if key not in ("files", "seal")})
        imported_path("pub-a").unlink()
    assert all(one == made[0] for one in made)


@pytest.mark.usefixtures("small")
def test_wrong_numbers_or_classes_are_not_the_published_list(tmp_path: Path) -> None:
    """The same clips, but the numbers don't fit, or the paths say another class, or two classes are swapped."""
    wrong = lists.text(A_SIZES, "B", (1, 2, 3))
    with pytest.raises(UsageError, match="no partition of a published split"):
        import_lists(lists.write(tmp_path / "x", wrong))
    counted = lists.text(A_SIZES, "B", (0, 2, 1))
    with pytest.raises(UsageError, match="no partition of a published split"):
        import_lists(lists.write(tmp_path / "x", counted))
    swapped = lists.text(A_SIZES, "C").replace("videos/yoga", "videos/krumping")
    with pytest.raises(UsageError, match="no partition of a published split"):
        import_lists(lists.write(tmp_path / "x", swapped))
    named = lists.text([({"yoga": "ice skating", "ice skating": "yoga"}.get(c, c), clip) for c, clip in A_SIZES], "A")
    with pytest.raises(UsageError, match="the same clips as pub-a train, in other classes"):
        import_lists(lists.write(tmp_path / "x", named))


@pytest.mark.usefixtures("small")
def test_a_label_that_is_no_class_is_the_one_that_lacks_where_counts_fit(tmp_path: Path) -> None:
    text = lists.text([("None" if c == "yoga" else c, clip) for c, clip in A_SIZES], "A")
    import_lists(lists.write(tmp_path / "x", text))
    assert counts("pub-a")["train"] == {"hurling (sport)": 3, "ice skating": 5, "yoga": 4}
    either = lists.text([({"knitting": "None", "krumping": "Nothing"}[c], clip) for c, clip in VAL], "A")
    with pytest.raises(UsageError, match="no partition of a published split"):
        import_lists(lists.write(tmp_path / "x", either))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", ["A", "B'", "D"])
def test_a_span_of_rareact_is_a_clip_of_each_of_its_classes(tmp_path: Path, form: str) -> None:
    text = lists.text(RARE, form)
    report = only(import_lists(lists.write(tmp_path / "x", text + text.splitlines()[1])))
    assert report.name == "pub-rare"
    assert counts("pub-rare") == {"train": {"fry phone": 2, "hammer phone": 1}}
    assert part(report, "train").repeats == (("x", 4, 2),)
    imported_path("pub-rare").unlink()
    with pytest.raises(UsageError, match="no partition of a published split"):
        import_lists(lists.write(tmp_path / "x", "".join(text.splitlines(keepends=True)[1:])))


@pytest.mark.usefixtures("small")
def test_a_shared_list_goes_where_its_companions_are(tmp_path: Path) -> None:
    val = lists.write(tmp_path / "one" / "vallist03.txt", lists.text(VAL, "A"))
    report = import_lists(val)
    assert only(report).name == "pub-a"
    assert "pub-b" in only(report).notes[0]
    imported_path("pub-a").unlink()
    both = tmp_path / "both"
    lists.write(both / "vallist03.txt", lists.text(VAL, "A"))
    lists.write(both / "trainlist03.txt", lists.text(B, "A"))
    report = import_lists(both)
    assert only(report).name == "pub-b"
    assert not only(report).notes
    assert only(report).lacking == ("test",)
    assert only(import_lists(val)).name == "pub-b"
    report = only(import_lists(val, name="pub-a"))
    assert report.name == "pub-a"
    assert report.lacking == ("train", "test")
    with pytest.raises(UsageError, match="no list there is a partition of pub-pool"):
        import_lists(val, name="pub-pool")
    with pytest.raises(UsageError, match=r"is the partition val of pub-a, not test"):
        import_lists(val, partition="test")


@pytest.mark.usefixtures("small")
def test_a_partition_that_two_splits_share_is_taken_over(tmp_path: Path) -> None:
    for name, clips in (("train", A_SIZES), ("val", VAL), ("test", TEST)):
        lists.write(tmp_path / "a" / f"{name}.list", lists.text(clips, "A"))
    import_lists(tmp_path / "a")
    report = only(import_lists(lists.write(tmp_path / "b.txt", lists.text(B, "A"))))
    assert report.name == "pub-b"
    assert not report.lacking
    assert {one.part: one.state for one in report.parts} == {"train": "new", "val": "taken over", "test": "taken over"}
    one, other = read_imported("pub-a"), read_imported("pub-b")
    assert one is not None
    assert other is not None
    assert one.parts["val"] == other.parts["val"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", ["A", "B'", "D", "E"])
def test_a_list_of_all_partitions_is_cut_by_class_or_by_its_words(tmp_path: Path, form: str) -> None:
    clips = POOL["train"] + POOL["test"]
    report = only(import_lists(lists.write(tmp_path / "x", lists.text(clips, form))))
    assert report.name == "pub-pool"
    assert {p: sum(c.values()) for p, c in counts("pub-pool").items()} == {"train": 12, "test": 4}
    imported_path("pub-pool").unlink()
    words = lists.text(POOL["train"], "B") + lists.text(POOL["test"], "B", (3, 4), word="novel")
    import_lists(lists.write(tmp_path / "x", words))
    assert {p: sum(c.values()) for p, c in counts("pub-pool").items()} == {"train": 12, "test": 4}


@pytest.mark.usefixtures("small")
def test_a_nested_folder_with_many_lists_and_other_files(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    lists.write(root / "splits" / "k" / "trainlist03.txt", lists.text(A_SIZES, "A"))
    lists.write(root / "splits" / "k" / "trainlist04.txt", lists.text(B, "D"))
    lists.write(root / "splits" / "k" / "testlist03.txt", lists.text(TEST, "A"))
    lists.write(root / "splits" / "k" / "trainlist10.txt", lists.text(lists.kinetics(["yoga"], 2, 900), "A"))
    lists.write(root / "splits" / "D48_train.txt", lists.text(POOL["train"], "D", (0, 1, 2)))
    lists.write(root / "notes.txt", "how to/use it\nand more\n")
    lists.write(root / "map.json", '{"900001": 3}')
    lists.write(root / "README.md", "some/900001\n")
    lists.write(root / ".git" / "train.txt", lists.text(VAL, "A"))
    lists.write(root / "a" / "b" / "c" / "val.txt", lists.text(VAL, "A"))
    report = import_lists(root)
    assert {split.name: [one.part for one in split.parts] for split in report.splits} == {
        "pub-a": ["train", "test"],
        "pub-b": ["train", "test"],
        "pub-pool": ["train"],
    }
    assert [name for name, _ in report.skipped] == ["map.json", "notes.txt"]
    [left] = report.left
    assert left.files == ("splits/k/trainlist10.txt",)
    lists.write(root / "splits" / "k" / "testlist10.txt", lists.text(lists.kinetics(["zumba"], 2, 950), "A"))
    named = import_lists(root, name="mine")
    assert {split.name for split in named.splits} == {"pub-a", "pub-b", "pub-pool", "mine"}
    assert counts("mine") == {"train": {"yoga": 2}, "test": {"zumba": 2}}


@pytest.mark.usefixtures("small")
def test_a_known_companion_comes_along_into_a_split_of_a_new_name(tmp_path: Path) -> None:
    lists.write(tmp_path / "k" / "trainlist03.txt", lists.text(A_SIZES[1:], "A"))
    lists.write(tmp_path / "k" / "vallist03.txt", lists.text(VAL, "A"))
    report = only(import_lists(tmp_path / "k", name="mine"))
    assert (report.name, report.published) == ("mine", False)
    near = part(report, "train").closest
    assert near is not None
    assert (near.split, near.fewer, near.more, near.classes) == ("pub-a", 1, 0, 3)
    assert counts("mine")["val"] == {"knitting": 4, "krumping": 4}
    assert imported_names() == ["mine"]


def test_lists_of_ones_own(tmp_path: Path) -> None:
    clips = lists.ucf(["YoYo", "HandstandPushups"])
    path = lists.write(tmp_path / "train.txt", lists.text(clips, "A"))
    with pytest.raises(UsageError, match="no partition of a published split of UCF101") as caught:
        import_lists(path)
    assert caught.value.hint == f"as a split of yours: fsar-cache split import {path} --name NAME"
    report = only(import_lists(path, name="mine"))
    assert counts("mine") == {"train": {"HandstandPushups": 3, "YoYo": 3}}
    assert part(report, "train").state == "new"
    more = lists.write(tmp_path / "y.txt", lists.text(lists.ucf(["TaiChi"]) + clips[:1], "D", ending=".avi"))
    with pytest.raises(UsageError, match="neither its name nor its lines say which partition"):
        import_lists(more, name="mine")
    report = only(import_lists(more, name="mine", partition="novel"))
    assert {one.part: one.state for one in report.parts} == {"train": "kept", "test": "new"}
    assert part(report, "test").read == "classes are those that the paths or names of its clips say"
    [overlap] = report.overlaps
    assert (overlap.one, overlap.other, overlap.clips, overlap.classes) == ("train", "test", 1, 1)
    assert overlap.first_clips == (clips[0][1],)
    other = lists.write(tmp_path / "train2.txt", lists.text(clips[1:], "A"))
    before, stat = imported_path("mine").read_bytes(), imported_path("mine").stat()
    import_lists(path, name="mine")
    assert imported_path("mine").stat().st_ino == stat.st_ino
    with pytest.raises(UsageError, match=r"imported before with other clips \(6; train2.txt has 5\)"):
        import_lists(other, name="mine")
    assert imported_path("mine").read_bytes() == before
    report = only(import_lists(other, name="mine", replace=True))
    assert part(report, "train").state == "replaced"
    assert [file.file for file in part(report, "train").files] == ["train2.txt"]
    assert {p: sum(c.values()) for p, c in counts("mine").items()} == {"train": 5, "test": 4}
    with pytest.raises(UsageError, match="mine is a split of ucf101, these lists are of hmdb51"):
        import_lists(lists.write(tmp_path / "val.txt", lists.text(lists.hmdb(["wave"]), "A")), name="mine")


@pytest.mark.parametrize(
    "name", ["../x", "", "a b", "-x", "a/b", "ssv2", "kinetics", "synth", "synth-far", "folder", "x" * 101]
)
def test_names_that_a_split_cannot_have(tmp_path: Path, name: str) -> None:
    path = lists.write(tmp_path / "train.txt", lists.text(lists.hmdb(["wave"]), "A"))
    with pytest.raises(UsageError, match="can't be called"):
        import_lists(path, name=name)
    assert not imported_names()


def test_other_mistakes_of_a_user(tmp_path: Path) -> None:
    path = lists.write(tmp_path / "d" / "train.txt", lists.text(lists.hmdb(["wave"]), "A"))
    with pytest.raises(MissingError, match="there is no"):
        import_lists(tmp_path / "absent")
    with pytest.raises(UsageError, match="unknown dataset 'hmdb'"):
        import_lists(path, name="mine", dataset="hmdb")
    with pytest.raises(UsageError, match="no partition is called 'tset'"):
        import_lists(path, name="mine", partition="tset")
    with pytest.raises(UsageError, match="lists no clips of UCF101"):
        import_lists(path, name="mine", dataset="ucf101")
    lists.write(tmp_path / "d" / "val.txt", lists.text(lists.ucf(["YoYo"]), "A"))
    with pytest.raises(UsageError, match="lists of hmdb51 and ucf101 can't be one split"):
        import_lists(tmp_path / "d", name="mine")
    lists.write(tmp_path / "e" / "train1.txt", lists.text(lists.ucf(["YoYo"]), "A"))
    lists.write(tmp_path / "e" / "train2.txt", lists.text(lists.ucf(["TaiChi"]), "A"))
    with pytest.raises(UsageError, match="two lists for the partition train with different clips: train1"):
        import_lists(tmp_path / "e", name="mine")
    (tmp_path / "f").mkdir()
    with pytest.raises(UsageError, match="no list of clips in"):
        import_lists(tmp_path / "f")
    assert not imported_names()


def test_one_bad_list_in_a_folder_and_nothing_is_imported(tmp_path: Path) -> None:
    lists.write(tmp_path / "d" / "train.txt", lists.text(lists.ucf(["YoYo"]), "A"))
    lists.write(tmp_path / "d" / "val.txt", lists.text(lists.ucf(["TaiChi"]), "A") + "../v_YoYo_g01_c01\n")
    with pytest.raises(UsageError, match=r"val.txt: 1 bad line\n  line 4: the path leaves"):
        import_lists(tmp_path / "d", name="mine")
    assert not imported_names()


def test_a_class_that_there_is_not_is_shown_with_the_nearest(tmp_path: Path) -> None:
    text = lists.text([("Yoyo", "v_YoYo_g01_c01"), ("YoYo", "v_YoYo_g01_c02"), ("nothing", "v_YoYo_g01_c03")], "A")
    with pytest.raises(UsageError, match="2 bad lines") as caught:
        import_lists(lists.write(tmp_path / "train.txt", text), name="mine")
    assert "line 1: no class of UCF101, did you mean 'YoYo'?: 'Yoyo/v_YoYo_g01_c01'" in caught.value.message
    assert "line 3: no class of UCF101" in caught.value.message


def test_numbers_of_an_unknown_list(tmp_path: Path) -> None:
    """From the paths, from HMDB51's names, from the official order, from the dataset's files, or not at all."""
    hmdb = lists.text(lists.hmdb(["sword", "draw_sword", "climb_stairs"]), "B'", (9, 3, 5))
    import_lists(lists.write(tmp_path / "train.txt", hmdb), name="h")
    assert counts("h") == {"train": {"climb_stairs": 3, "draw_sword": 3, "sword": 3}}
    mixed = hmdb.replace("3/a-b", "5/a-b", 1)
    with pytest.raises(UsageError, match="line 4: label 5 is 'climb_stairs', but this clip is 'draw_sword'"):
        import_lists(lists.write(tmp_path / "train.txt", mixed), name="h2")
    dives = lists.text(lists.diving(DIVES[5:7]), "E", (5, 6))
    report = only(import_lists(lists.write(tmp_path / "val.json", dives), name="d"))
    assert set(counts("d")["val"]) == set(DIVES[5:7])
    assert "official order" in part(report, "val").read
    with pytest.raises(UsageError, match="entry 4: no class 48, there are 0 to 47"):
        import_lists(lists.write(tmp_path / "val.json", dives.replace("6, 6, 6", "48, 6, 6")), name="d2")
    folders = lists.text(lists.kinetics(["ice skating", "yoga"]), "C", word="novel")
    import_lists(lists.write(tmp_path / "x", folders), name="k")
    assert counts("k") == {"test": {"ice skating": 3, "yoga": 3}}
    numbers = lists.write(tmp_path / "train.txt", lists.text(lists.kinetics(["yoga", "zumba"]), "B"))
    with pytest.raises(UsageError, match="numbers its classes, and it is no published list"):
        import_lists(numbers, name="n")
    csv = "label,youtube_id,time_start,time_end,split\n"
    for i in range(6):
        csv += f"{'yoga' if i < 3 else 'zumba'},{lists.youtube(i)},{i % 3},{i % 3 + 10},train\n"
    annotation = lists.write(tmp_path / "videos" / "kinetics" / "annotations" / "train.csv", csv)
    lists.write(annotation.with_name("val.csv"), csv.splitlines()[0] + "\n")
    report = only(import_lists(numbers, name="n"))
    assert counts("n") == {"train": {"yoga": 3, "zumba": 3}}
    assert report.unknown is not None
    assert report.unknown.count == 0
    more = lists.text(lists.kinetics(["yoga"], 3, 4000), "A")
    report = only(import_lists(lists.write(tmp_path / "test.txt", more), name="n"))
    assert report.unknown is not None
    assert (report.unknown.count, len(report.unknown.first)) == (3, 3)


def test_the_own_form_of_another_is_imported_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists.write(tmp_path / "d" / "train.txt", lists.text(lists.ucf(["YoYo"]), "A"))
    lists.write(tmp_path / "d" / "val.txt", lists.text(lists.ucf(["TaiChi"]), "A"))
    import_lists(tmp_path / "d", name="mine")
    theirs, before = imported_path("mine"), read_imported("mine")
    monkeypatch.setenv("FSAR_LISTS", str(tmp_path / "elsewhere"))
    assert only(import_lists(theirs)).name == "mine"
    after = read_imported("mine")
    assert before is not None
    assert after is not None
    assert after.parts == before.parts
    import_lists(theirs, name="other")
    assert imported_names() == ["mine", "other"]


def test_an_edit_or_damage_is_noticed(tmp_path: Path, kept: Path) -> None:
    path = lists.write(tmp_path / "train.txt", lists.text(lists.ucf(["YoYo"]), "A"))
    import_lists(path, name="mine")
    file, good = imported_path("mine"), imported_path("mine").read_text()
    edits = [
        good.replace("_g01_c01", "_g01_c09"),
        good.replace('"YoYo"', '"TaiChi"'),
        good[:-9],
        "{}",
        good.replace('"seal"', '"sea"'),
    ]
    for bad in [*edits, good.replace('"mine"', '"mine2"')]:
        assert bad != good
        file.write_text(bad)
        with pytest.raises(IntegrityError):
            read_imported("mine")
        with pytest.raises(IntegrityError):
            import_lists(path, name="mine", replace=True)
        assert file.read_text() == bad
    file.write_text(good)
    lists.write(kept / "yours.json", good)
    with pytest.raises(IntegrityError, match="holds the split 'mine'"):
        read_imported("yours")
    assert read_imported("absent") is None
    assert read_imported("../kept/mine") is None


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = lists.write(tmp_path / "train.txt", lists.text(lists.ucf(["YoYo"]), "A"))
    more = lists.write(tmp_path / "val.txt", lists.text(lists.ucf(["TaiChi"]), "A"))

    def fail(*args: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "replace", fail)
        with pytest.raises(SpaceError if isinstance(failure, OSError) else KeyboardInterrupt):
            import_lists(path, name="mine")
        assert list(kept.iterdir()) == []
    import_lists(path, name="mine")
    before = imported_path("mine").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "replace", fail)
        with pytest.raises(SpaceError if isinstance(failure, OSError) else KeyboardInterrupt):
            import_lists(more, name="mine")
    assert [file.name for file in kept.iterdir()] == ["mine.json"]
    assert imported_path("mine").read_bytes() == before
