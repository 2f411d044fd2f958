"""The doctor: what it finds here, and that it recognises broken machines (fake packages, missing codecs, full disks)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline import cli, doctor, doctor_places

ROOT = Path(__file__).resolve().parent.parent


def fake(folder: Path, name: str, version: str, code: str = "", needs: str = "") -> None:
    """A package that can be imported before the real one, with its own metadata."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\n{code}\n")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *([f"Requires-Dist: {needs}"] if needs else [])]) + "\n")


def examine_with(folder: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The findings of `fsar-cache doctor --json` in a process that finds the packages in `folder` first."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from pipeline.cli import main; sys.exit(main(['doctor', '--json']))"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in made.stderr
    return {finding["name"]: finding for finding in json.loads(made.stdout)}, made.returncode


CPU_TORCH = "class version: cuda = None; hip = None\nclass cuda:\n  is_available = staticmethod(lambda: False)"
CUDA_TORCH = CPU_TORCH.replace("cuda = None", "cuda = '13.0'")
NMS = "raise RuntimeError('operator torchvision::nms does not exist')"


def test_a_cpu_only_torch_with_the_registrys_torchvision_is_recognised(tmp_path: Path) -> None:
    fake(tmp_path, "torch", "2.13.0", CPU_TORCH)
    fake(tmp_path, "torchvision", "0.28.0+cu130", NMS, needs="torch==2.13.0")
    for name in ("timm", "open_clip"):
        fake(tmp_path, name, "1.0", "import torchvision")
    found, code = examine_with(tmp_path)
    assert code == 2
    assert "CPU-only" in found["torch"]["seen"]
    assert found["torchvision"]["status"] == "broken"
    for word in ("CPU-only build", "0.28.0+cu130", "timm and open_clip", "torchvision::nms"):
        assert word in found["torchvision"]["seen"]
    assert found["torchvision"]["mend"].startswith(
        "pip uninstall -y torch torchvision && pip install torch torchvision"
    )
    assert found["timm"]["mend"] == found["torchvision"]["mend"]


@pytest.mark.parametrize(
    ("torch", "vision", "needs", "status", "says"),
    [
        ("2.13.0+cu130", "0.29.2", "torch==2.15.0", "broken", "0.29.2 wants torch ==2.15.0, found 2.13.0+cu130"),
        ("2.13.0+cu130", "0.29.2", "torch (>=2.14.0)", "broken", "0.29.2 wants torch >=2.14.0, found 2.13.0+cu130"),
        ("2.15.1+cu130", "0.29.2", "torch>=2.9", "ok", "fits"),
        ("2.15.0+cu130", "0.29.2", "torch (==2.15.0)", "ok", "fits"),
    ],
)
def test_torch_and_torchvision_must_be_made_for_each_other(
    tmp_path: Path, torch: str, vision: str, needs: str, status: str, says: str
) -> None:
    fake(tmp_path, "torch", torch, CUDA_TORCH)
    fake(tmp_path, "torchvision", vision, needs=needs)
    code = f"import sys, json; sys.path.insert(0, {str(tmp_path)!r}); from pipeline import doctor;"
    code += "print(json.dumps([[f.name, f.status, f.seen] for f in doctor.check_torch()]))"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    name, got, seen = json.loads(made.stdout)[-1]
    assert (name, got) == ("torchvision", status)
    assert says in seen


def only(check: Any) -> doctor.Finding:
    (finding,) = list(check())
    assert isinstance(finding, doctor.Finding)
    return finding


def test_both_faiss_distributions_are_a_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", {"faiss-gpu": "1.15.1", "faiss-cpu": "1.15.0"}.get)
    finding = only(doctor.check_faiss)
    assert finding.status == "broken"
    assert "faiss-gpu 1.15.1 and faiss-cpu 1.15.0" in finding.seen
    assert finding.mend.startswith("pip uninstall -y faiss-gpu faiss-cpu && pip install faiss-")


@pytest.mark.parametrize("error", [ImportError("no faiss"), RuntimeError("libcudart.so.12: cannot open")])
def test_a_faiss_that_does_not_import_is_a_warning(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    finding = only(doctor.check_faiss)
    assert finding.status == "warning"
    assert str(error) in finding.seen


def test_missing_codecs_are_named_with_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._codec
    monkeypatch.setattr(
        doctor, "_codec", lambda av, name, mode: name not in ("hevc", "libx264") and real(av, name, mode)
    )
    findings = {finding.name: finding for finding in doctor.check_ffmpeg()}
    assert findings["ffmpeg decoders"].status == findings["ffmpeg encoders"].status == "warning"
    assert "hevc" in findings["ffmpeg decoders"].seen
    assert "libx264; `fsar-cache synth` fails" in findings["ffmpeg encoders"].seen


def test_a_decoder_that_fails_or_miscounts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from extract import decoders

    real = decoders.decode

    def odd(path: Path, choose: Any, *, decoder: str) -> Any:
        if decoder == "decord":
            raise ImportError("no decord on this machine")
        made = real(path, choose, decoder=decoder)
        return SimpleNamespace(frames=made.frames, decoded=made.decoded - 1)

    monkeypatch.setattr(decoders, "decode", odd)
    findings = {finding.name: finding for finding in doctor.check_decoders()}
    assert findings["decoder decord"].status == "warning"
    assert "PyAV does its work" in findings["decoder decord"].seen
    assert findings["decoder pyav"].status == "broken"
    assert "11 of 12 frames" in findings["decoder pyav"].seen


def test_the_real_decoders_read_the_test_clip() -> None:
    assert {finding.status for finding in doctor.check_decoders()} == {"ok"}


def test_places_that_are_full_or_closed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("FSAR_VIDEOS", str(file / "videos"))
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "new" / "stores"))
    monkeypatch.delenv("FSAR_RUNS", raising=False)
    findings = {finding.name: finding for finding in doctor.check_places()}
    assert findings["FSAR_VIDEOS"].status == "broken"
    assert findings["FSAR_VIDEOS"].mend.startswith("export FSAR_VIDEOS=")
    assert findings["FSAR_STORES"].status == "ok"
    assert "(set, not there yet)" in findings["FSAR_STORES"].seen
    assert "(default" in findings["FSAR_RUNS"].seen
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 5, 5))
    assert {finding.name: finding.status for finding in doctor.check_places()}["FSAR_STORES"] == "warning"


def test_a_closed_folder_is_broken_unless_one_is_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSAR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    findings = {finding.name: finding for finding in doctor.check_places()}
    assert findings["FSAR_RUNS"].status == "broken"


def test_an_old_python_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version", "3.10.4 (main)")
    assert only(doctor.check_python).status == "broken"
    monkeypatch.setattr(sys, "version", "3.14.0 (main)")
    assert only(doctor.check_python).status == "ok"


def test_only_what_is_broken_makes_it_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def findings(status: Any) -> list[doctor.Finding]:
        return [doctor.Finding("one", "ok", "fine"), doctor.Finding("two", status, "[odd]", "mend it")]

    for status, code in (("warning", 0), ("broken", 2)):
        monkeypatch.setattr(doctor, "examine", lambda status=status: findings(status))
        assert cli.main(["doctor"]) == code
        out = capsys.readouterr().out
        assert "[odd]" in out
        assert "mend: mend it" in out


def test_datasets_that_are_there_are_named_and_the_others_are_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSAR_VIDEOS", str(tmp_path))
    (tmp_path / "UCF-101").mkdir()
    findings = {finding.name: finding for finding in doctor.check_datasets()}
    assert findings["ucf101"].status == "ok"
    assert str(tmp_path / "UCF-101") in findings["ucf101"].seen
    assert findings["ssv2"].status == "note"
    assert "split show ssv2" in findings["ssv2"].seen


def test_datasets_need_only_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, name in (("FSAR_VIDEOS", "videos"), ("FSAR_STORES", "stores")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(doctor_places.os, "access", lambda path, mode: not mode & os.W_OK)
    findings = {f.name: f.status for f in doctor.check_places()}
    assert (findings["FSAR_VIDEOS"], findings["FSAR_STORES"]) == ("ok", "broken")
