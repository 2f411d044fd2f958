"""Lists about made-up datasets in every published grammar, imported under a name of the user's: the split has their clips and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from official_lists import write_lists
from official_worlds import MAKERS

from splits.datasets import open_split
from splits.published.importing import import_lists
from splits.published.known import known

LISTS = [
    ("kinetics", "kinetics100", "A"),
    ("kinetics", "kinetics100", "C"),
    ("kinetics", "kinetics100", "D"),
    ("ssv2", "ssv2-full", "A"),
    ("ssv2", "ssv2-full", "B"),
    ("ssv2", "ssv2-full", "B'"),
    ("ucf101", "ucf101", "A"),
    ("ucf101", "ucf101", "C"),
    ("hmdb51", "hmdb51", "A"),
    ("hmdb51", "hmdb51", "C"),
    ("hmdb51", "hmdb51", "D"),
    ("diving48", "diving48-tamt", "A"),
    ("diving48", "diving48-tamt", "E"),
    ("rareact", "rareact-tamt", "A"),
    ("rareact", "rareact-tamt", "E"),
]


@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
@pytest.mark.parametrize(("name", "split", "grammar"), LISTS, ids=["-".join(one) for one in LISTS])
def test_a_list_in_every_grammar_gives_its_clips(
    name: str, split: str, grammar: Any, crlf: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("VIDEOS", "LISTS"):
        monkeypatch.setenv(f"FSAR_{place}", str(tmp_path / place.lower()))
    more = {"repeated": 0} if name == "rareact" else {}
    world = MAKERS[name](tmp_path / "videos", clips=2, missing=1, **more)
    lists = write_lists(tmp_path / "theirs", world, split, grammar, crlf=crlf)
    import_lists(lists[0].parent, name="mine", dataset=name)
    made = open_split("mine")
    assert (made.name, made.home) == ("mine", name)
    wanted: dict[str, dict[str, str]] = {}
    for part, facts in known(split).parts.items():
        wanted[part] = {c.id: c.label for c in world.clips if c.label in facts.classes}
    assert {p.name: {v.id: v.label for v in p.videos} for p in made.parts.values()} == wanted
    path_of = {c.id: c.file for c in world.clips}
    for part in made.parts.values():
        for video in part.videos:
            if video.id not in world.missing:
                assert video.path == path_of[video.id]
