"""A recipe on features that another program made: imported, trained on, evaluated, and never mixed with others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main

RECIPE = """
head = "gslta"
[features]
store = "{store}"
frames = 8
[source]
dataset = "csv:source.csv"
part = "train"
[target]
dataset = "csv:target.csv"
part = "test"
unlabelled = "train"
[train]
way = 3
shot = 1
query = 2
unlabelled = 3
iterations = 6
[eval]
way = 3
shot = 1
episodes = 100
[head_config]
dim = 16
heads = 1
dim_head = 16
mlp_dim = 32
"""


def write(name: str, seed: int, frames: int = 8) -> None:
    """A list of 8 classes of 6 clips without files, and a folder of their features, which tell the classes apart."""
    rng = np.random.default_rng(seed)
    Path(f"{name}_features").mkdir()
    lines = ["id,class,path,partition"]
    for part in ("train", "test"):
        for label in range(4):
            mean = rng.normal(size=(1, 16))
            for i in range(6):
                clip = f"{part}-{label}-{i}"
                lines.append(f"{clip},{part}{label},{clip}.mp4,{part}")
                features = mean + 0.1 * rng.normal(size=(frames, 16))
                np.save(f"{name}_features/{clip}.npy", features.astype(np.float32))
    Path(f"{name}.csv").write_text("\n".join(lines) + "\n")


def imported(name: str) -> str:
    assert main(["store", "import-features", f"{name}_features", "--dataset", f"csv:{name}.csv", "--name", "mine"]) == 0
    (store,) = Path("stores", name).iterdir()
    return store.name


@pytest.fixture
def recipe(empty_place: Path) -> str:
    for seed, name in enumerate(("source", "target")):
        write(name, seed)
    stores = {imported(name) for name in ("source", "target")}
    assert len(stores) == 1
    Path("mine.toml").write_text(RECIPE.format(store=stores.pop()))
    return "./mine.toml"


def test_training_and_evaluation_use_the_named_stores(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--recipe", recipe, "--run", "a"]) == 0
    out, err = capsys.readouterr()
    assert "the recipe uses the store mine-imported" in err
    assert "resnet18" not in err.split("try next")[0]
    assert float(out.split("shot: ")[1].split(" %")[0]) > 90
    assert main(["eval", "--run", "a", "--shot", "2"]) == 0
    assert main(["extract", "csv:source.csv", "--recipe", recipe]) == 2
    assert "made in another way" in capsys.readouterr().err


def test_the_recipe_must_name_the_frames_that_there_are(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--recipe", recipe, "--head", "gslta", "--set", "features.frames=16"]) == 2
    assert "has 8 frames per clip, the recipe says 16" in " ".join(capsys.readouterr().err.split())


def test_stores_of_other_features_are_refused(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("other", 3, frames=5)
    name = imported("other")
    store = next(Path("stores/source").iterdir())
    Path("stores/other", name).rename(Path("stores/other", store.name))
    assert main(["eval", "--recipe", recipe, "--head", "gslta", "--source", "csv:other.csv"]) != 0
    assert main(["train", "--recipe", recipe, "--source", "csv:other.csv"]) == 4
    assert "shape" in capsys.readouterr().err
    assert main(["train", "--recipe", recipe, "--set", "features.store=nothing"]) == 3
    assert "no store" in capsys.readouterr().err
