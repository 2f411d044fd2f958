"""The command line: help, streams, exit codes, what it chooses, and a whole small experiment."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from fsar_cache.errors import EXIT_CODES, FsarError, Interrupted, MissingError, SpaceError
from pipeline import choose, cli, evaluating, runs, stages, trainer
from pipeline.folder import write_config
from pipeline.recipe import load_recipe
from pipeline.results import Evaluation

ROOT = Path(__file__).resolve().parent.parent
GROUP: Any = typer.main.get_command(cli.app)


def commands(group: Any = GROUP, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos, stores and runs of every test lie in its own folder."""
    for name in ("VIDEOS", "STORES", "RUNS"):
        monkeypatch.setenv(f"FSAR_{name}", str(tmp_path / name.lower()))


def fsar(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, timeout=150, check=False
    )


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys; from pipeline import cli; cli.main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for heavy in ("torch", "numpy", "av", "zarr", "timm", "cv2", "decord"):
        assert f"'{heavy}'" not in made.stderr
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fsar("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("words", "command"), list(commands()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_two_examples_that_parse(words: tuple[str, ...], command: Any) -> None:
    assert command.help, words
    examples = re.findall(r"^fsar-cache (.+)$", command.epilog or "", re.M)
    assert len(examples) >= 2
    for example in examples:
        parts = shlex.split(example)
        assert tuple(parts[: len(words)]) == words
        with command.make_context(" ".join(words), parts[len(words) :]):
            pass


def test_reading_commands_offer_json() -> None:
    without = {
        " ".join(words) for words, command in commands() if "--json" not in {o for p in command.params for o in p.opts}
    }
    assert without == {"report", "store convert"}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["train", "--hed", "gslta"], 2, "--head"),
        (["trian"], 2, "trian"),
        (["train", "--head", "gslat"], 2, "gslta"),
        (["train", "--head", "CLIP-FSAR"], 2, "'clip_fsar'"),
        (["eval", "--head", "clipfsar"], 2, "'clip_fsar'"),
        (["extract", "synth", "--head", "gsltaa"], 2, "'gslta'"),
        (["checkpoint", "import", "--method", "gsltaa", "no.pt", "--run", "r"], 2, "'gslta'"),
        (["train", "--head", "gslta", "--source", "nowhere"], 2, "unknown dataset 'nowhere'"),
        (["train", "--recipe", "dmo"], 2, "'demo'"),
        (["run", "--recipe", "no/such.toml"], 3, "no/such.toml"),
        (["train", "--head", "otam", "--recipe", "demo"], 2, "gslta"),
        (["train", "--head", "gslta", "--set", "train.iteration=5"], 2, "iterations"),
        (["train", "--head", "gslta", "--iterations", "0"], 2, "iterations"),
        (["train", "--head", "gslta", "--protocol", "gslta-ufc101"], 2, "'gslta-ucf101'"),
        (["train", "--head", "gslta", "--videos", "no/such/folder"], 3, "no/such/folder"),
        (["extract", "synth-sorce"], 2, "synth-source"),
        (["extract", "synth-source", "--dry-run"], 3, "fsar-cache synth --domain source"),
        (["extract", "folder:/no/such/folder"], 3, "/no/such/folder"),
        (["extract", "synth", "--cut", "polled"], 2, "pooled"),
        (["extract", "synth", "--set", "features.cut=video"], 2, "frames"),
        (["eval", "--run", "nothing"], 3, "no run"),
        (["eval"], 3, "fsar-cache run --recipe demo"),
        (["report", "nothing"], 3, "no run"),
        (["report", "--run", "nothing"], 3, "no run"),
        (["store", "info", "nowhere"], 3, "nowhere"),
        (["store", "verify", "nowhere"], 3, "nowhere"),
        (["synth", "--domain", "sauce"], 2, "source"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_say_what_and_how_on_stderr(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "error: " in err
    assert "Traceback" not in err


def test_errors_keep_their_code_and_bugs_their_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(stages, "synth", raising)

    for kind in (kind for kind in FsarError.__subclasses__()):
        fail(kind("it is so", hint="do this"))
        assert cli.main(["synth"]) == kind.exit_code
        assert kind.exit_code in EXIT_CODES
        assert capsys.readouterr().err == "error: it is so\nhint: do this\n"
    fail(KeyboardInterrupt())
    assert cli.main(["synth"]) == Interrupted.exit_code == 130
    assert "Traceback" not in capsys.readouterr().err
    for memory in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        failed_allocation(),
    ):
        fail(memory)
        assert cli.main(["synth"]) == 6
        assert "out of memory" in capsys.readouterr().err
    for left, code in ((SystemExit(7), 7), (SystemExit(), 0), (SystemExit("no more"), 1)):
        fail(left)
        assert cli.main(["synth"]) == code
    assert capsys.readouterr().err == "no more\n"
    fail(BrokenPipeError(32, "a worker's pipe"))  # not that of the results
    assert cli.main(["synth"]) == 1
    assert "BrokenPipeError: [Errno 32] a worker's pipe" in capsys.readouterr().err
    fail(ZeroDivisionError("odd"))
    assert cli.main(["synth"]) == 1
    err = capsys.readouterr().err
    assert "a bug in fsar-cache" in err
    assert "ZeroDivisionError: odd" in err


def failed_allocation() -> RuntimeError:
    """What torch's CPU allocator raises for 1 PiB."""
    try:
        torch.empty(2**50, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    pytest.skip("this machine has a petabyte to give")


@pytest.mark.parametrize("words", ["list datasets --json", "list heads", "--help", "--version"])
def test_a_closed_pipe_is_no_error(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipeline.cli", *words.split()]
    made = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (made.returncode, made.stderr) == (0, "")


def test_memory_that_runs_out_ends_training_and_evaluation_with_a_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise failed_allocation()

    monkeypatch.setattr(trainer, "train", out_of_memory)
    monkeypatch.setattr(runs, "evaluate_run", out_of_memory)
    monkeypatch.setattr(runs, "evaluate_untrained", out_of_memory)
    recipe, folder = load_recipe("demo"), tmp_path / "runs" / "mine"
    write_config(folder, recipe)
    with pytest.raises(SpaceError, match="memory ran out while training") as caught:
        stages.train(recipe, folder)
    assert f"fsar-cache train --recipe {folder}/config.json --run mine" in str(caught.value.hint)
    for evaluate in (
        lambda: evaluating.evaluate_trained(folder, [], None, "cpu"),
        lambda: evaluating.evaluate_untrained(recipe, folder, [], None, "cpu"),
    ):
        with pytest.raises(SpaceError, match="memory ran out while evaluating") as caught:
            evaluate()
        assert "--device cpu" in str(caught.value.hint)

    def other(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(trainer, "train", other)
    with pytest.raises(RuntimeError, match="something else"):
        stages.train(recipe, folder)


def test_an_interruption_names_the_very_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "synth", interrupt)
    assert cli.main(["synth", "--clips", "7"]) == 130
    assert "go on with: fsar-cache synth --clips 7\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind", ["heads", "backbones", "cuts", "datasets", "recipes", "protocols", "transforms", "sampling", "decoders"]
)
def test_lists_are_complete_and_equal_as_json(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert cli.main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert [line.split()[0] for line in lines] == list(rows)
    assert all(rows.values())


def test_what_a_short_command_leaves_open_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    made = choose.settle(None, "gslta", ["features.size=64"])
    assert (made.head, made.features.size) == ("gslta", 64)
    err = capsys.readouterr().err
    for word in (
        made.name,
        "the recipe of gslta",
        made.features.backbone,
        made.features.weights,
        "64 pixels",
        made.target.dataset,
    ):
        assert word in err
    assert choose.settle(None, None, []).name == choose.DEFAULTS["recipe"]
    assert "the default" in capsys.readouterr().err


def test_a_partition_that_a_dataset_lacks_is_replaced_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips.csv").write_text("id,class,path\n1,a,x.mp4\n2,b,y.mp4\n")
    made = choose.settle("protonet", None, [f'target.dataset="csv:{tmp_path}/clips.csv"'])
    assert made.target.part == "all"
    assert "no partition 'test': using 'all'" in capsys.readouterr().err


def test_changed_settings_get_a_run_of_their_own(tmp_path: Path) -> None:
    recipe = choose.settle("demo", None, [])
    assert choose.run_folder(recipe, None, []) == tmp_path / "runs" / "demo"
    one, other = ["train.lr=0.5", "train.seed=2"], ["train.seed=2", "train.lr=0.5"]
    assert re.fullmatch(r"demo-[0-9a-f]{6}", choose.run_folder(recipe, None, one).name)
    assert choose.run_folder(recipe, None, one) == choose.run_folder(recipe, None, other)
    assert choose.run_folder(recipe, None, one) != choose.run_folder(recipe, None, one[:1])
    assert choose.run_folder(recipe, "mine", one) == tmp_path / "runs" / "mine"
    assert choose.run_folder(recipe, "else/where", one) == Path("else/where")


def test_what_only_the_evaluation_reads_gives_a_run_no_other_name() -> None:
    sets = ["eval.shot=1", "train.lr=0.5", "target.part=train", " eval.seed = 3", "target.dataset=synth-far"]
    before, after = choose.split_sets(sets, choose.UNNAMED)
    assert before == ["train.lr=0.5", "target.dataset=synth-far"]
    assert after == ["eval.shot=1", "target.part=train", " eval.seed = 3"]


def test_commands_in_hints_can_be_run(tmp_path: Path) -> None:
    assert choose.run_word(tmp_path / "runs" / "mine") == "mine"
    for folder in (Path("mine"), Path("else/where"), tmp_path / "elsewhere"):
        assert choose.named_folder(choose.run_word(folder)) == folder
    assert (
        choose.command("train", "my recipe.toml", "gslta", "mine", ["train.lr=1", 'target.part="all"'])
        == "fsar-cache train --recipe 'my recipe.toml' --run mine --set train.lr=1 --set 'target.part=\"all\"'"
    )


def test_the_newest_run_is_taken_and_near_names_are_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for age, name in ((100, "old"), (10, "fresh"), (50, "middle")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        file = tmp_path / "runs" / name / choose.RECIPE
        file.write_text("{}")
        os.utime(file, (2e9 - age, 2e9 - age))
    assert choose.find_run(None).name == "fresh"
    assert "fresh, the newest" in capsys.readouterr().err
    with pytest.raises(MissingError) as caught:
        choose.find_run("midle")
    assert caught.value.hint == "did you mean 'middle'?"
    for absent, hint in (
        ("otam", "fsar-cache run --recipe otam"),
        ("gslta", "fsar-cache run --recipe demo --run gslta"),
        ("1234", "name one of them: --run fresh"),
    ):
        with pytest.raises(MissingError, match="there are fresh, middle, old") as caught:
            choose.find_run(absent)
        assert caught.value.hint == hint
    assert cli.main(["report", "old", "--run", "middle"]) == 2
    assert "one run at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shot", "target"), [("demo", 1, "synth-far"), ("otam", 5, "synth-target"), ("ta2n", 5, "synth-far")]
)
def test_what_to_try_next_fits_the_run(
    name: str, shot: int, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TA2N's training at one shot is none for several, and the other way round: another number is not offered."""
    recipe, trained = load_recipe(name), name != "otam"
    folder = tmp_path / "runs" / recipe.name
    (folder / "checkpoints").mkdir(parents=True)
    write_config(folder, recipe)
    if trained:
        (folder / "checkpoints" / "last.safetensors").touch()
    said = {"dataset": target, "protocol": {"shot": shot}}
    found = Evaluation(50.0, 1.0, 1.0, 1, 1, (), (), (), (), (1,), said, {})
    stages.say_next(folder, found)
    err = capsys.readouterr().err
    offered = name != "ta2n"
    assert ("--shot 5" in err, "--shot 1" in err) == (offered and shot == 1, offered and shot == 5)
    assert ("--recipe otam" in err, "--recipe demo" in err) == (trained, not trained)
    assert ("--target synth-far" in err, "--target synth-target" in err) == (
        target != "synth-far",
        target == "synth-far",
    )


def test_a_dry_run_tells_of_class_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips.csv").write_text("id,class,path,partition\n1,a,x.mp4,train\n2,b,y.mp4,test\n3,b,z.mp4,test\n")
    features = load_recipe("tmal").features
    how = {"kind": "text", "partitions": ()}
    stages.say_texts(f"csv:{tmp_path}/clips.csv", features, how)
    stages.say_texts(f"csv:{tmp_path}/clips.csv", features, {**how, "partitions": ("test",)})
    err = capsys.readouterr().err
    assert "clips.csv text: 2 class names, which take seconds" in err
    assert "clips.csv text: 1 class names" in err


SMALL = """
head = "gslta"
[features]
size = 32
normalise = "centre-source-std"
[source]
dataset = "synth-source"
part = "train"
[target]
dataset = "synth-target"
part = "test"
unlabelled = "train"
[train]
shot = 1
query = 2
unlabelled = 5
iterations = 6
tasks_per_batch = 2
[eval]
shot = 2
episodes = 40
"""


@pytest.mark.timeout(400)
def test_a_whole_experiment_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fsar(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL)
    words = ("run", "--recipe", str(recipe), "--run", "small")
    assert fsar("synth", "--clips", "3", "--domain", "source", "--domain", "target")[:2] == (0, "")
    code, first, err = fsar(*words)
    assert code == 0, err
    assert re.fullmatch(r"synth-target/test, 5-way 2-shot: [\d.]+ % ± [\d.]+ \(40 episodes\)\n", first)
    assert "try next:" in err
    page = (tmp_path / "runs" / "small" / "report.html").read_text()
    accuracy = float(re.search(r"shot: ([\d.]+)", first)[1])  # type: ignore[index]
    assert f"{accuracy:.1f}\u2009%" in page
    assert page.count('class="path"') == 2  # one alignment path with the right class and one with another
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name[0] != "."}

    code, again, err = fsar(*words)
    assert (code, again) == (0, first)
    done = [line.split(":")[0] for line in err.splitlines() if "nothing to do" in line]
    everything = "synth source, synth target, extract synth-source, extract synth-target, train, eval, report"
    assert ", ".join(done) == everything
    assert not [p for p, data in before.items() if p.name != "metrics.jsonl" and p.read_bytes() != data]

    _check_other_evaluations(fsar, tmp_path / "runs", recipe, f"{accuracy:.1f}\u2009%")
    _check_refusals(fsar, recipe)
    _check_untrained(fsar)
    _check_stores(fsar, tmp_path, recipe)


def _check_other_evaluations(fsar: Any, runs: Path, recipe: Path, headline: str) -> None:
    """Another protocol neither trains again nor takes the headline, whether asked for by run or by eval."""
    own = (runs / "small" / "eval-synth-target.json").read_bytes()
    found = json.loads(fsar("eval", "--run", "small", "--shot", "1", "--json")[1])
    assert found["identity"]["protocol"]["shot"] == 1
    assert found["identity"]["checkpoint"]["name"] == "last"
    words = ("run", "--recipe", str(recipe), "--set", "eval.shot=1")
    code, first, err = fsar(*words)
    assert (code, "5-way 1-shot" in first) == (0, True)
    assert "train: nothing to do" in err
    assert "eval: nothing to do" in err
    assert [folder.name for folder in runs.iterdir()] == ["small"]
    code, again, err = fsar("run", "--recipe", str(recipe), "--set", "eval.way=4")
    assert (code, "4-way 2-shot" in again) == (0, True)
    assert "eval: nothing to do" not in err
    page = (runs / "small" / "report.html").read_text()
    assert headline in page
    assert "5-way 1-shot: " in page
    assert "4-way 2-shot: " in page
    assert (runs / "small" / "eval-synth-target.json").read_bytes() == own


def _check_refusals(fsar: Any, recipe: Path) -> None:
    """What contradicts the run is named and refused; what agrees with it may be said."""
    same = ("eval", "--run", "small", "--episodes", "5")
    for words, says in (
        (["--set", "train.lr=1"], "train.lr: 0.001 in the run, 1.0 asked for"),
        (["--head", "otam"], "head: 'gslta' in the run, 'otam' asked for"),
        (["--weights", "random:5"], "features.weights: 'random:0' in the run, 'random:5' asked for"),
        (["--recipe", "demo"], "features.size: 32 in the run, 112 asked for"),
        (["--source", "synth-far"], "source.dataset: 'synth-source' in the run, 'synth-far' asked for"),
        (["--set", "head_config.depth=2"], "head_config.depth: 1 in the run, 2 asked for"),
    ):
        code, _, err = fsar(*same, *words)
        assert (code, says in err) == (2, True), err
        assert "fsar-cache eval --run small" in err
    for words in (["--head", "gslta"], ["--weights", "random:0"], ["--recipe", str(recipe)], ["--checkpoint", "last"]):
        code, _, err = fsar(*same, *words)
        assert code == 0, err
    code, _, err = fsar(*same, "--checkpoint", "step-3")
    assert (code, "it has: last" in err) == (3, True)


def _check_untrained(fsar: Any) -> None:
    """A head without parameters runs untrained; the same again is known, other head settings are refused in the same run."""
    words = ["run", "--recipe", "otam", "--run", "untrained", "--set", "features.size=32", "--set", "eval.episodes=30"]
    words += ["--set", "eval.shot=1"]
    code, first, err = fsar(*words)
    assert code == 0, err
    assert "train: nothing to do, otam on pooled features has no parameters" in err
    code, again, err = fsar(*words)
    assert (code, again) == (0, first)
    assert "eval: nothing to do" in err
    code, _, err = fsar("eval", "--run", "untrained", "--checkpoint", "last")
    assert (code, "no parameters" in err) == (2, True)
    small = ("--set", "features.size=32", "--episodes", "9", "--shot", "1")
    assert fsar("eval", "--head", "otam", *small, "--source", "synth-target")[0] == 0
    code, _, err = fsar("eval", "--head", "otam", *small, "--source", "synth-far")
    assert (code, "--source DATASET" in err) == (3, True)
    code, _, err = fsar("eval", "--head", "protonet", *small, "--source", "synth-far")
    assert (code, "reads no source" in err) == (2, True)
    code, _, err = fsar(*words, "--set", "head_config.otam_lambda=0.5")
    assert code == 2
    assert "head_config.otam_lambda: 0.1 there, 0.5 asked for" in err


def _check_stores(fsar: Any, tmp_path: Path, recipe: Path) -> None:
    """ls, info, convert and verify on the stores of the experiment; a flipped bit is found and mended."""
    stores = {store["dataset"]: store for store in json.loads(fsar("store", "ls", "--json")[1])}
    assert [store["unfinished"] for store in stores.values()] == [0, 0]
    path = Path(stores["synth-target"]["path"])
    assert json.loads(fsar("store", "info", str(path), "--json")[1])["rows"] == stores["synth-target"]["rows"]
    copy = str(tmp_path / "copy")
    assert fsar("store", "convert", str(path), copy, "--backend", "hdf5")[:2] == (0, copy + "\n")
    assert fsar("store", "verify", copy)[:2] == (0, "")
    block = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(block.read_bytes())
    data[100] ^= 1
    block.write_bytes(data)
    code, out, err = fsar("store", "verify", str(path))
    assert code == 4
    assert "block 0: flipped" in out
    assert "--mend" in err
    assert fsar("store", "verify", str(path), "--mend")[0] == 0
    assert fsar("extract", "synth-target", "--recipe", str(recipe))[0] == 0
    assert fsar("store", "verify", str(path))[:2] == (0, "")
    data[100] ^= 1
    assert block.read_bytes() == data


def test_make_targets_pass_their_variables_on() -> None:
    def make(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "-n", "-o", ".venv/.ready", *words],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            capture_output=True,
            text=True,
            check=False,
        )

    for words, command in (
        (["extract", "DATASET=synth"], "extract synth"),
        (["extract", "DATASET=synth", "BACKBONE=resnet34", "CUT=map"], "extract synth --backbone resnet34 --cut map"),
        (["train", "HEAD=gslta"], "train --head gslta"),
        (["extract", "DATASET=ssv2", "MISSING=skip", "VIDEOS=/v"], "extract ssv2 --skip-missing --videos /v"),
        (["train", "HEAD=trx", "PROTOCOL=ssv2-full-5shot"], "train --head trx --protocol ssv2-full-5shot"),
        (["eval", "TARGET=synth-target"], "eval --target synth-target"),
        (["eval", "PROTOCOL=gslta-rareact"], "eval --protocol gslta-rareact"),
        (["run", "RECIPE=otam", "RUN=mine"], "run --recipe otam --run mine"),
        (["demo"], "run --recipe demo"),
    ):
        assert make(*words).stdout.split(".venv/bin/fsar-cache ")[-1].split() == command.split()
    assert "make extract MISSING=skip" in make("extract", "DATASET=ssv2", "MISSING=no").stderr
    missing = make("train")
    assert missing.returncode == 2
    assert "make train HEAD=gslta" in missing.stderr


def test_the_installed_command_is_this_one() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    module, _, name = re.search(r'^fsar-cache = "([\w.]+):(\w+)"$', text, re.M)[0].split('"')[1].partition(":")  # type: ignore[index]
    assert getattr(importlib.import_module(module), name) is cli.main


def test_a_place_that_cannot_be_written_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "clips.csv").write_text("id,class,path\na,x,a.mp4\n")
    (tmp_path / "a.mp4").write_text("")
    monkeypatch.setenv("FSAR_STORES", str(tmp_path / "file"))
    assert cli.main(["extract", f"csv:{tmp_path / 'clips.csv'}"]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "file") in err
    assert "FSAR_STORES" in err
    assert "bug" not in err


def test_the_newest_run_is_one_that_holds_something(empty_place: Path) -> None:
    for name, file in (("good", "eval-x.json"), ("ended", "metrics.jsonl")):
        (empty_place / "runs" / name).mkdir(parents=True)
        (empty_place / "runs" / name / "config.json").write_text("{}")
        (empty_place / "runs" / name / file).write_text("{}")
    assert choose.find_run(None).name == "good"


def test_a_bare_word_for_a_list_is_answered_with_its_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--set", "source.drop_classes=archery"]) == 2
    assert """--set 'source.drop_classes=["archery"]'""" in capsys.readouterr().err
