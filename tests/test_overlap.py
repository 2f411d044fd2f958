"""What partitions share: class names against the candidates that were found by hand, recordings, clips."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from splits.official.catalog import official
from splits.overlap import ClipOverlap, class_overlap, clip_overlap, source_overlap, stem, words_of
from splits.types import Part, Split, Video


def part(*classes: str) -> Part:
    return Part("all", classes, ())


def classes(dataset: str) -> Part:
    return part(*official(dataset).classes)


def test_kinetics_classes_equal_those_of_ucf101_and_hmdb51_as_the_candidates_say(shared_folder: Path) -> None:
    known = tomllib.loads((shared_folder / "splits" / "kinetics364.candidates.toml").read_text())

    def pairs(table: str) -> set[tuple[str, str, str]]:
        return set(zip(*(known[table][name] for name in ("kinetics", "target", "target_dataset")), strict=True))

    found = {name: class_overlap(classes("kinetics"), classes(name)) for name in ("ucf101", "hmdb51")}
    stemmed = {(a, b, name) for name, each in found.items() for a, b in each.same + each.nearly}
    assert stemmed == pairs("candidates")
    assert len(stemmed) == 37
    joined = {(a, b, name) for name, each in found.items() for a, b in each.joined}
    assert joined - pairs("joined_spelling") == {("push up", "PushUps", "ucf101"), ("pull ups", "pullup", "hmdb51")}
    assert pairs("joined_spelling") <= joined


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("bowling", "Bowling", "same"),
        ("high jump", "HighJump", "same"),
        ("blow-dry_hair", "Blow Dry Hair", "same"),
        ("laughing", "laugh", "nearly"),
        ("somersaulting", "somersault", "nearly"),
        ("crawling baby", "BabyCrawling", "nearly"),
        ("hugging", "hug", "nearly"),
        ("shot put", "Shotput", "joined"),
        ("blowing out candles", "BlowingCandles", None),
        ("surfing crowd", "Surfing", None),
    ],
)
def test_a_pair_of_classes_has_one_kind(one: str, other: str, kind: str | None) -> None:
    for a, b in ((one, other), (other, one)):
        found = class_overlap(part(a, "something else"), part("nothing", b))
        assert found.pairs == (((a, b),) if kind else ())
        assert not kind or getattr(found, kind) == ((a, b),)


@pytest.mark.parametrize("dataset", ["kinetics", "ssv2", "ucf101", "hmdb51", "diving48", "rareact"])
def test_no_two_classes_of_one_dataset_are_taken_for_one(dataset: str) -> None:
    """Left to right is not right to left, and somersaults and twists are numbers."""
    found = class_overlap(classes(dataset), classes(dataset))
    assert found.same == tuple((name, name) for name in official(dataset).classes)
    assert found.nearly + found.joined == ()


def test_words_and_stems() -> None:
    assert words_of("Back+15som+05Twis+FREE") == ("back", "15som", "05twis", "free")
    assert words_of("HandstandPushups") == ("handstand", "pushups")
    assert [stem(word) for word in ("kissing", "kiss", "lunges", "lunge", "up", "ring", "see")] == [
        *("kis", "kis", "lung", "lung", "up", "ring", "see")
    ]


def video(name: str, path: str = "", source: str = "", span: tuple[float, float] | None = None) -> Video:
    start, end = span or (None, None)
    return Video(name, "x", path or f"{name}.mp4", start, end, source)


def split(name: str, videos: list[Video], dataset: str = "", root: str = "/v") -> Split:
    return Split(name, Path(root), {"all": Part("all", ("x",), tuple(videos))}, dataset=dataset)


def test_recordings_of_both_sides_are_counted() -> None:
    a = Part("a", ("x",), (video("1", source="r"), video("2", source="r"), video("3", source="s"), video("4")))
    b = Part("b", ("x",), (video("5", source="r"), video("6", source="t"), video("7", source="s"), video("8")))
    found = source_overlap(a, b)
    assert (found.shared, found.sources, found.clips, found.first) == (2, (2, 3), (3, 2), ("r", "s"))
    assert source_overlap(a, b, names=1).first == ("r",)
    assert source_overlap(part("x"), a).shared == 0


def test_clips_are_the_same_by_id_or_by_file_and_span() -> None:
    def found(one: Split, other: Split) -> ClipOverlap:
        return clip_overlap(one, one.part("all"), other, other.part("all"))

    a = split("a", [video("1"), video("2", "long.mp4", span=(0, 5))])
    b = split("b", [video("x", "long.mp4", span=(0, 5)), video("y", "long.mp4", span=(5, 9)), video("1", "else.mp4")])
    assert found(a, b) == ClipOverlap(("2",), ("x",)), "ids of different datasets say nothing"
    elsewhere = split("b", [video("2", "./w/../long.mp4", span=(0, 5))], root="/v/")
    assert found(a, elsewhere) == ClipOverlap(("2",), ("2",))
    one = split("one", [video("1"), video("2")], dataset="d", root="/a")
    other = split("other", [video("2"), video("3")], dataset="d", root="/b")
    assert found(one, other) == ClipOverlap(("2",), ("2",)), "one dataset, kept in two places"
    twice = split("other", [video("7", "1.mp4"), video("8", "1.mp4")], dataset="d", root="/a")
    assert found(one, twice) == ClipOverlap(("1",), ("7", "8"))
