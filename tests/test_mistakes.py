"""The plain forms that mistakes are made in are right as long as nothing in them is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mistakes_baselines
import mistakes_gslta
import pytest
from parity import ratios

import heads.otam
from heads.gslta import Gslta
from heads.transformer import Block

GOLDEN = Path(__file__).resolve().parent / "golden"
PLAIN: dict[str, tuple[str, Any, str, Any]] = {
    "cells": (mistakes_baselines.FIVE, heads.otam, "otam_both", mistakes_baselines.cells()),
    "block": (mistakes_gslta.FIVE, Block, "forward", mistakes_gslta.block()),
    "distillation": (mistakes_gslta.TRAIN, Gslta, "_distillation", mistakes_gslta.plain_distillation()),
    "reconstruction": (
        *(mistakes_gslta.TRAIN, Gslta, "_reconstruction"),
        mistakes_gslta.reconstruction(lambda gap: gap.mean(-1).sum(-1).mean(), mistakes_gslta.student),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_form_agrees_with_the_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, owner, attribute, plain = PLAIN[name]
    monkeypatch.setattr(owner, attribute, plain)
    assert {output: ratio for output, ratio in ratios(GOLDEN / case).items() if not ratio <= 1} == {}
