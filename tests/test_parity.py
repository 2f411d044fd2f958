"""Golden parity of every public case, and proof that the cases notice mistakes."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import draw, load, mismatch, save, weight_spec
from parity import answers, cases, loaded, main, pick, ratios, slices
from parity_runners import RUNNERS
from torch.nn import functional as F

from extract.backbone import BACKBONES
from extract.resnet import trunk
from extract.weights import load_strictly
from fsar_cache.errors import UsageError

Mistake = tuple[str, Any, str, Any]
"""A case that must notice, the module or class, the name in it, and the mistaken thing that takes its place."""
GOLDEN = Path(__file__).resolve().parent / "golden"
PARITY = Path(__file__).resolve().parent / "parity.py"
CASES = cases([GOLDEN])
MISTAKES: dict[str, Mistake] = {}
"""What someone could get wrong in the code, "METHOD: what" -> where: the files mistakes_*.py hold them."""
SETTINGS: list[tuple[str, dict[str, Any]]] = []
"""Settings that a case must notice if they are another than its own."""
for module in map(importlib.import_module, sorted(path.stem for path in GOLDEN.parent.glob("mistakes_*.py"))):
    MISTAKES |= {f"{module.__name__.removeprefix('mistakes_')}: {name}": each for name, each in module.MISTAKES.items()}
    SETTINGS += module.SETTINGS


@pytest.mark.parametrize("folder", CASES, ids=[f"{f.parent.name}-{f.name}" for f in CASES])
def test_case(folder: Path) -> None:
    table = ratios(folder)
    assert table
    assert {output: ratio for output, ratio in table.items() if not ratio <= 1} == {}


def test_every_method_has_cases() -> None:
    assert {folder.parent.name for folder in CASES} == set(RUNNERS)


@pytest.mark.parametrize("mistake", sorted(MISTAKES, key=lambda mistake: MISTAKES[mistake][0]))
def test_a_mistake_in_the_code_is_noticed(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, owner, attribute, wrong = MISTAKES[mistake]
    monkeypatch.setattr(owner, attribute, wrong)
    assert max(ratios(GOLDEN / name).values()) > 1


SETTINGS.sort(key=lambda each: each[0])


@pytest.mark.parametrize(("name", "setting"), SETTINGS, ids=[f"{n} {s}" for n, s in SETTINGS])
def test_another_setting_is_noticed(name: str, setting: dict[str, Any]) -> None:
    case = loaded(GOLDEN / name)
    other = dataclasses.replace(case, config=case.config | setting)
    assert max(mismatch(other, answers(other)).values()) > 1


def test_pixels_give_the_golden_features() -> None:
    """The whole backbone, from uint8, and not only its stages after the scaling."""
    case = load(GOLDEN / "gslta/e2e_resnet18_64px")
    backbone = BACKBONES.get("resnet18")("random:3").eval()
    prefix = "backbone.resnet."
    weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in case.weights.items() if k.startswith(prefix)}
    load_strictly(trunk(backbone), weights, "the case")
    pixels = np.round(case.inputs["query"] * 255).astype(np.uint8).reshape(2, 8, 3, 64, 64).transpose(0, 1, 3, 4, 2)
    with torch.inference_mode():
        features = backbone(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
    want = case.outputs["features/query"]
    assert (np.abs(features - want) / (case.atol + case.rtol * np.abs(want))).max() <= 1


def test_shared_cases_are_the_copied_ones(shared_folder: Path) -> None:
    for folder in CASES:
        there = shared_folder / "golden" / folder.relative_to(GOLDEN)
        for file in ("case.json", "tensors.npz"):
            assert (there / file).read_bytes() == (folder / file).read_bytes(), f"{folder.name}/{file}"


def test_command_prints_ratios_and_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = GOLDEN / "protonet" / "euclidean_5way_5shot"
    text = (good / "case.json").read_text()
    for name, metric in (("wrong", "cosine_prototype"), ("strange", "euclidian")):
        shutil.copytree(good, tmp_path / name)
        (tmp_path / name / "case.json").write_text(text.replace('"metric": "euclidean"', f'"metric": "{metric}"'))
    assert main([str(good)]) == 0
    assert main([str(good), str(tmp_path / "wrong")]) == 4
    printed = capsys.readouterr().out
    assert "euclidean_5way_5shot  logits" in printed
    assert "FAIL" in printed
    assert "1 of 2 cases agree" in printed
    assert main([str(tmp_path / "strange")]) == 4
    assert "unknown protonet metric 'euclidian'" in capsys.readouterr().out
    assert main([]) == 2


def spoil_method(folder: Path) -> None:
    text = (folder / "case.json").read_text()
    (folder / "case.json").write_text(text.replace('"method": "otam"', '"method": "otan"'))


def spoil_inputs(folder: Path) -> None:
    with np.load(folder / "tensors.npz") as file:
        arrays = {key: file[key] for key in file.files if key != "in/query_labels"}
    np.savez(folder / "tensors.npz", **arrays)


def spoil_shapes(folder: Path) -> None:
    with np.load(folder / "tensors.npz") as file:
        arrays = dict(file)
    np.savez(folder / "tensors.npz", **arrays | {"in/query": arrays["in/query"][..., 0]})


def spoil_archive(folder: Path) -> None:
    (folder / "tensors.npz").write_bytes((folder / "tensors.npz").read_bytes()[:1000])


def spoil_text(folder: Path) -> None:
    (folder / "case.json").write_text("{")


def lose_fields(folder: Path) -> None:
    (folder / "case.json").write_text('{"method": "otam"}')


def lose_tensors(folder: Path) -> None:
    (folder / "tensors.npz").unlink()


SPOILT: list[tuple[Callable[[Path], None], int, str]] = [
    (spoil_method, 4, "ERROR  unknown method 'otan'"),
    (spoil_inputs, 4, "ERROR  KeyError: 'query_labels'"),
    (spoil_shapes, 4, "ERROR  "),
    (spoil_archive, 3, "ERROR  unreadable: "),
    (spoil_text, 3, "ERROR  unreadable: JSONDecodeError"),
    (lose_fields, 3, "ERROR  unreadable: KeyError"),
    (lose_tensors, 3, "ERROR  unreadable: FileNotFoundError"),
    (shutil.rmtree, 3, "ERROR  no golden case"),
]


@pytest.mark.parametrize(("spoil", "code", "line"), SPOILT, ids=[spoil.__name__ for spoil, *_ in SPOILT])
def test_a_case_that_fails_is_named_and_the_others_go_on(
    spoil: Callable[[Path], None], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = GOLDEN / "otam" / "train_5way_2shot_lambda01"
    shutil.copytree(good, tmp_path / "otam" / "bad")
    spoil(tmp_path / "otam" / "bad")
    after = GOLDEN / "protonet" / "euclidean_5way_5shot"
    assert main([str(tmp_path / "otam" / "bad"), str(after)]) == code
    printed = capsys.readouterr().out
    (said,) = [text for text in printed.splitlines() if "ERROR" in text]
    assert "otam/bad  " in said
    assert line in said
    assert "euclidean_5way_5shot  logits" in printed
    assert "1 of 2 cases agree" in printed


def test_a_wrong_case_weighs_more_than_a_missing_one(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "otam" / "eval_two_term_last_column", tmp_path / "otam")
    spoil_method(tmp_path / "otam")
    assert main([str(tmp_path / "absent"), str(tmp_path / "otam")]) == 4
    assert main([str(tmp_path / "otam"), str(tmp_path / "absent")]) == 4


@pytest.mark.parametrize("prefix", ["protypicalNet.norm_layer", "norm_layer", "module.head.norm_layer"])
def test_a_normed_protonet_answers_under_the_keys_of_its_weights(prefix: str, tmp_path: Path) -> None:
    """A training case made here, with its expected values from the card's definition in plain torch."""
    rng = np.random.default_rng(4)
    inputs = {"support": np.abs(rng.standard_normal((6, 4, 8))), "query": np.abs(rng.standard_normal((3, 4, 8)))}
    inputs = {name: x.astype(np.float32) for name, x in inputs.items()}
    inputs |= {"support_labels": np.array([2, 0, 1, 1, 2, 0]), "query_labels": np.array([1, 2, 0])}
    keys = {f"{prefix}.{leaf}": weight_spec(f"{prefix}.{leaf}", (3,)) for leaf in ("weight", "bias")}
    weight, bias = (torch.from_numpy(draw(key, spec, "a")).requires_grad_() for key, spec in keys.items())
    s, q = (torch.from_numpy(inputs[name]).requires_grad_() for name in ("support", "query"))
    prototypes = torch.stack([s[torch.from_numpy(inputs["support_labels"]) == c].mean(0) for c in range(3)])
    distance = (1 - F.cosine_similarity(q[:, None], prototypes[None], dim=-1)).sum(-1)
    logits = F.layer_norm(-distance, (3,), weight, bias, 1e-5)
    loss = F.cross_entropy(logits, torch.from_numpy(inputs["query_labels"]))
    (loss / 16).backward()
    want = {"logits": logits, "loss": loss, "loss/meta": loss / 16, "loss_meta": loss / 16, "loss/total": loss / 16}
    want |= {f"grad/{prefix}.weight": weight.grad, f"grad/{prefix}.bias": bias.grad, "total": loss / 16}
    want |= {f"grad_norm/{prefix}.weight": weight.grad.norm(), "grad_in/query": q.grad, "grad/in/support": s.grad}
    want["accuracy"] = (logits.argmax(-1).numpy() == inputs["query_labels"]).mean()
    save(
        tmp_path,
        method="protonet",
        what="layer norm over the classes",
        config={"metric": "cosine_timewise", "dist_norm": True, "tasks_per_batch": 16, "way": 3},
        mode="train",
        salt="a",
        weights=keys,
        inputs=inputs,
        outputs={name: torch.as_tensor(x).detach().numpy() for name, x in want.items()},
        atol=1e-7,
    )
    assert {name: ratio for name, ratio in ratios(tmp_path).items() if not ratio <= 1} == {}
    case = load(tmp_path)
    off = dataclasses.replace(case, config=case.config | {"dist_norm": False})
    assert mismatch(off, answers(off))["logits"] > 1


def test_the_teacher_of_a_case_is_the_given_one_unless_it_says_otherwise() -> None:
    """At the first iteration past start_cross, where a run of its own copies the student."""
    case = load(GOLDEN / "gslta/train_sfme")
    silent = {key: value for key, value in case.config.items() if key != "teacher"} | {"start_cross": 3}
    case = dataclasses.replace(case, config=silent)
    assert max(mismatch(case, answers(case)).values()) <= 1


@pytest.mark.parametrize("extra", [{"lambda": 0.7, "last_column": "two_term"}, {"single_direction": True}])
def test_settings_of_the_other_variant_do_not_reach_the_head(extra: dict[str, Any]) -> None:
    case = load(GOLDEN / "otam/soft_dtw_gamma01")
    other = dataclasses.replace(case, config=case.config | extra)
    assert max(mismatch(other, answers(other)).values()) <= 1


def test_it_runs_as_a_script() -> None:
    case = GOLDEN / "otam" / "gslta_recursion"
    done = subprocess.run([sys.executable, PARITY, case], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 cases agree" in done.stdout


def test_names_and_slices() -> None:
    x = torch.arange(2 * 3 * 64.0).view(2, 3, 64)
    values = {"grad/in/support": x, "sfme/query": x, "logits": x}
    rules = {"sfme/*": "[:, :, :8]", "logits": "[1, ::2, ..., -3:]"}
    assert torch.equal(pick("grad/in/support_part", values, rules), x[..., ::32])
    assert torch.equal(pick("grad_norm/in/support", values, rules), x.double().norm())
    assert torch.equal(pick("sfme/query", values, rules), x[:, :, :8])
    assert torch.equal(pick("logits", values, rules), x[1, ::2, ..., -3:])
    assert pick("nothing", values, rules) is None
    with pytest.raises(UsageError, match="not understood"):
        slices("[:, __import__('os')]")
