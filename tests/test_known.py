"""The facts of published splits fit together, and fit the official datasets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from fsar_cache.errors import UsageError
from splits.datasets import safe
from splits.official.catalog import official, official_names
from splits.published.known import known, known_names
from splits.published.labels import by_name, spelled

ALL = [known(name) for name in known_names()]
PARTS = [(split, part, facts) for split in ALL for part, facts in split.parts.items()]


def test_counts_numbers_and_classes_of_every_partition_fit() -> None:
    for split, part, facts in PARTS:
        at = f"{split.name} {part}"
        assert part in ("train", "val", "test", "all"), at
        assert len(set(facts.classes)) == len(facts.classes), at
        assert set(facts.classes) <= set(official(split.dataset).classes), at
        assert len(facts.videos) in (0, len(facts.classes)), at
        assert all(count > 0 for count in facts.videos), at
        assert sum(facts.videos) == facts.total, at
        for scheme, numbers in facts.numbers.items():
            assert len(numbers) == len(set(numbers)) == len(facts.classes), (at, scheme)
        if facts.content:
            assert re.fullmatch("[0-9a-f]{32}", facts.content), at
            assert facts.total, at


def test_official_numbers_are_places_in_the_official_order() -> None:
    for split, part, facts in PARTS:
        if "official" in facts.numbers:
            classes = official(split.dataset).classes
            assert tuple(classes[n] for n in facts.numbers["official"]) == facts.classes, (split.name, part)


def test_two_schemes_with_the_same_numbers_mean_the_same_classes() -> None:
    for split, part, facts in PARTS:
        meanings: dict[frozenset[int], set[tuple[tuple[int, str], ...]]] = defaultdict(set)
        for numbers in facts.numbers.values():
            meanings[frozenset(numbers)].add(tuple(sorted(zip(numbers, facts.classes, strict=True))))
        assert all(len(one) == 1 for one in meanings.values()), (split.name, part)


def test_a_content_is_one_partition_with_one_set_of_classes() -> None:
    contents = defaultdict(set)
    for split, part, facts in PARTS:
        if facts.content:
            contents[facts.content].add(
                (split.dataset, part, tuple(sorted(zip(facts.classes, facts.videos, strict=True))))
            )
    assert all(len(one) == 1 for one in contents.values())


def test_every_known_file_is_of_its_partition_and_known_once_per_split() -> None:
    for split in ALL:
        sums = [file.sha256 for file in split.files]
        assert len(set(sums)) == len(sums), split.name
        for file in split.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256), split.name
            assert file.entries >= split.parts[file.part].total > 0, (split.name, file.copy)
            assert split.parts[file.part].content, (split.name, file.copy)
    at = defaultdict(set)
    for split in ALL:
        for file in split.files:
            at[file.sha256].add((split.dataset, file.part, file.copy, split.parts[file.part].content))
    assert all(len(one) == 1 for one in at.values())


def test_names_are_free_safe_and_told_when_nearly_right() -> None:
    counts = Counter([*known_names(), *(other for split in ALL for other in split.also)])
    assert max(counts.values()) == 1
    assert all(safe(name) for name in counts)
    assert set(counts) & set(official_names()) <= {"hmdb51", "ucf101"}
    assert known("kinetics100-cmn") is known("kinetics100")
    with pytest.raises(UsageError) as caught:
        known("kinetics10")
    assert "kinetics100" in (caught.value.hint or "")


def test_bases_drops_and_rules_name_what_there_is() -> None:
    for split in ALL:
        assert split.dataset in official_names()
        if split.base is not None:
            base = known(split.base)
            assert base.dataset == split.dataset
            for part, facts in split.parts.items():
                most = dict(zip(base.parts[part].classes, base.parts[part].videos, strict=True))
                assert all(n <= most[c] for c, n in zip(facts.classes, facts.videos, strict=True)), (split.name, part)
        assert set(split.drop) <= set(official(split.dataset).classes), split.name


@pytest.mark.parametrize("dataset", official_names())
def test_every_class_is_known_by_its_name_with_blanks_or_underscores(dataset: str) -> None:
    classes = official(dataset).classes
    assert len({spelled(name) for name in classes}) == len(classes)
    for name in classes:
        assert by_name(name, dataset) == by_name(name.replace(" ", "_"), dataset) == name
        assert by_name(name.swapcase(), dataset) is None
