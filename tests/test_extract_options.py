"""The options of `extract`: what fits a backbone, and that none of them is taken and ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import write_clips

from extract.config import ExtractConfig, device_for
from extract.flow_settings import FlowSettings
from fsar_cache.errors import UsageError
from pipeline.choose import settle_features
from pipeline.cli import main


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "stores"))
    (tmp_path / "mine" / "jump").mkdir(parents=True)
    write_clips(tmp_path / "mine" / "jump", 2)
    return f"folder:{tmp_path / 'mine'}"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["--kind", "flow", "--backbone", "resnet18"], "--backbone has no meaning for flow", "features.flow.NAME"),
        (["--kind", "flow", "--weights", "file:raft.pth"], "--weights has no meaning for flow", "features.flow.NAME"),
        (["--kind", "text", "--cut", "pooled"], "--cut has no meaning for text", "--backbone"),
        (["--kind", "text", "--dtype", "float16"], "--dtype has no meaning for text", "--backbone"),
        (["--kind", "text", "--device", "cpu"], "made on the CPU", "leave it out"),
        (["--kind", "text", "--dry-run"], "nothing to plan", "leave out --dry-run"),
        (["--ray-address", "1.2.3.4:80"], "--ray-address has no meaning without --engine ray", "--engine ray"),
        (["--kind", "flwo"], "unknown kind 'flwo'; known: features, flow, flow-features, text", "did you mean 'flow'?"),
        (["--engine", "rya"], "engine must be one of local, ray, got 'rya'", ""),
        (["--part", "3/2"], "--part wants I/N", "--part 2/4"),
        (["--set", "features.size=100000"], "size must be at most 4096", ""),
        (["--set", "features.flow.stride=100000000000000000000000"], "stride must be at most 10000", ""),
        (["--kind", "flow", "--device", "cuda"], "dis_medium runs on the CPU, not on cuda", "leave out --device"),
    ],
)
def test_options_that_say_nothing_are_refused(
    mine: str, words: list[str], error: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", mine, *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert error in said
    assert hint in said
    assert not (tmp_path / "stores").exists()


def test_a_named_backbone_brings_what_fits_it() -> None:
    demo = settle_features(None, None, [])
    named = settle_features(None, None, ['features.backbone="resnet18"'])
    assert (demo.backbone, demo.size) == ("resnet18", 112)
    assert (named.backbone, named.size, named.frames) == ("resnet18", 224, 8)
    video = settle_features(None, None, ['features.backbone="videomae_vit_s"', "features.frames=8"])
    assert (video.size, video.frames, video.sampling, video.transform) == (112, 8, "tamt-centre", "centre-crop")
    clip = settle_features(None, None, [], "flow")
    assert (clip.size, clip.transform) == (224, "clip-fsar-eval")
    assert settle_features("demo", None, ['features.backbone="resnet34"']).size == 112
    with pytest.raises(UsageError, match=r"features\.sise"):
        settle_features(None, None, ['features.backbone="resnet34"', "features.sise=3"])


def test_opencv_s_flow_runs_on_the_cpu_whatever_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(ExtractConfig(kind="flow")).type == "cpu"
    assert device_for(ExtractConfig(kind="flow", flow=FlowSettings("raft_small"))).type == "cuda"
    assert device_for(ExtractConfig()).type == "cuda"


def test_a_dry_run_tells_of_clips_that_fail(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tmp_path / "mine" / "jump").iterdir():
        file.write_text("no video")
    assert main(["extract", mine, "--dry-run", "--workers", "1", "--set", "features.size=32"]) == 0
    said = capsys.readouterr().err
    assert "2 of 2 clips tried can't be decoded" in said
    assert "in all" not in said


def test_views_of_a_partition_that_is_never_trained_on_are_said_to_be_none(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "test").mkdir()
    (tmp_path / "mine" / "train").mkdir()
    for part in ("train", "test"):
        (tmp_path / "mine" / part / "jump").mkdir()
        write_clips(tmp_path / "mine" / part / "jump", 1)
    words = ["extract", mine, "--partition", "test", "--views", "2", "--cut", "frames", "--workers", "1"]
    assert main([*words, "--set", "features.size=32"]) == 0
    assert "no training views: test are never trained on" in capsys.readouterr().err
