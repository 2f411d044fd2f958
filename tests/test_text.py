"""Text features: the published tokens and numbers, one row per class in a store that resumes, grows and can be verified."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.golden import load, mismatch
from parity import answers, ratios
from torch import Tensor, nn

from cache.store import open_store
from cache.verify import verify
from extract import clip_text
from extract.clip_text import TextTower, blank_text, encode_prompts, extract_text, prompt_for, text_tower
from extract.clip_weights import config_of
from extract.config import ExtractConfig
from extract.weights import drawn
from fsar_cache.errors import Interrupted, UsageError
from splits.datasets import open_split
from splits.types import Split

GOLDEN = Path(__file__).resolve().parent / "golden"
TEXT = ExtractConfig(kind="text", backbone="clip_vit_b16", weights="random:0")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return text_tower("clip_vit_b16", "random:0")


@pytest.fixture
def one_tower(tower: TextTower, monkeypatch: pytest.MonkeyPatch) -> TextTower:
    """`extract_text` with the weights of the tests built once."""
    monkeypatch.setattr(clip_text, "text_tower", lambda backbone, weights: tower)
    return tower


def dataset(folder: Path, *clips: tuple[str, str]) -> Split:
    """A dataset of (class, partition) clips without files."""
    lines = [f"{i},{label},{i}.mp4,{part}" for i, (label, part) in enumerate(clips)]
    (folder / "words.csv").write_text("\n".join(["id,class,path,partition", *lines]) + "\n")
    return open_split(f"csv:{folder}/words.csv#words")


def small(folder: Path) -> Split:
    return dataset(folder, ("draw_sword", "train"), ("jump", "train"), ("Blowing Candles", "test"), ("jump", "test"))


def plain_tower(net: nn.Module, ids: list[int], heads: int = 8) -> Tensor:
    """The card's text tower for one prompt without padding, step by step in float64."""
    w = {name: tensor.double() for name, tensor in net.state_dict().items()}
    n = len(ids)
    x = w["token_embedding.weight"][ids] + w["positional_embedding"][:n]

    def norm(v: Tensor, name: str) -> Tensor:
        centred = v - v.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    for layer in range(12):
        at = f"transformer.resblocks.{layer}"
        qkv = norm(x, f"{at}.ln_1") @ w[f"{at}.attn.in_proj_weight"].T + w[f"{at}.attn.in_proj_bias"]
        heads_out = []
        for q, k, v in zip(*(part.split(512 // heads, 1) for part in qkv.split(512, 1)), strict=True):
            scores = q @ k.T / (512 // heads) ** 0.5
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
            heads_out.append(scores.softmax(1) @ v)
        x = x + torch.cat(heads_out, 1) @ w[f"{at}.attn.out_proj.weight"].T + w[f"{at}.attn.out_proj.bias"]
        h = norm(x, f"{at}.ln_2") @ w[f"{at}.mlp.c_fc.weight"].T + w[f"{at}.mlp.c_fc.bias"]
        x = x + h * torch.sigmoid(1.702 * h) @ w[f"{at}.mlp.c_proj.weight"].T + w[f"{at}.mlp.c_proj.bias"]
    return norm(x, "ln_final")[-1] @ w["text_projection"]


def test_agrees_with_the_card_step_by_step() -> None:
    net = drawn(lambda: blank_text(config_of("clip_rn50")), 2)
    tower = TextTower("clip_rn50", net)
    tokens = tower.tokens("a photo of riding elephant")
    ids = tokens[0, : int(tokens[0].argmax()) + 1].tolist()
    assert (ids[0], ids[-1]) == (49406, 49407)
    torch.testing.assert_close(tower.encode(tokens)[0].double(), plain_tower(net, ids), rtol=1e-4, atol=1e-5)


def test_a_feature_depends_on_its_own_prompt(tower: TextTower) -> None:
    names = ["a photo of jump", "a photo of draw_sword", "a photo of Jump "]
    made = encode_prompts("random:0", "clip_vit_b16", names)
    assert made.shape == (3, 512)
    assert made.dtype == torch.float32
    assert torch.equal(made[:1], tower.encode(tower.tokens(names[0])))
    assert torch.equal(made[0], made[2]), "case and outer blanks don't count"
    assert not torch.allclose(made[0], made[1])
    assert encode_prompts("random:0", "clip_rn50", []).shape == (0, 1024)


@pytest.mark.parametrize("prompt", ["a photo", "a {} of {}", "", "{0}", "a { }"])
def test_a_prompt_holds_one_place_for_the_name(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(UsageError, match=r"must hold \{\} once"):
        extract_text(small(tmp_path), replace(TEXT, prompt=prompt), tmp_path / "stores")
    assert not (tmp_path / "stores").exists()
    assert prompt_for("{a} {}!", "b{}c") == "{a} b{}c!"


def test_a_store_of_one_row_per_class(tmp_path: Path, one_tower: TextTower) -> None:
    split = small(tmp_path)
    made = extract_text(split, TEXT, tmp_path / "stores")
    assert (made.ok, made.made, made.skipped, made.failed) == (3, 3, 0, [])
    assert made.path.parent == tmp_path / "stores" / "words"
    store = open_store(made.path)
    assert store.spec.kind == "text"
    assert (store.spec.cut, store.spec.shape, store.spec.dtype) == ("text", (512,), "float32")
    assert store.spec.transform == {"prompt": "a photo of {}", "tokenizer": "clip-bpe"}
    assert [(row.id, row.label, row.partition) for row in store.rows] == [
        ("draw_sword", "draw_sword", "train"),
        ("jump", "jump", "train"),
        ("Blowing Candles", "Blowing Candles", "test"),
    ]
    names = ["jump", "Blowing Candles"]
    want = [one_tower.encode(one_tower.tokens(f"a photo of {name}"))[0] for name in names]
    assert np.array_equal(store.read(store.rows_of(names)), torch.stack(want).numpy())
    assert not verify(store)
    again = extract_text(split, TEXT, tmp_path / "stores")
    assert (again.made, again.skipped, again.path) == (0, 3, made.path)
    other = extract_text(split, replace(TEXT, prompt="a video of {}"), tmp_path / "stores")
    assert other.path != made.path


@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_new_classes_are_added(tmp_path: Path, one_tower: TextTower, backend: str) -> None:
    config = replace(TEXT, backend=backend)
    first = extract_text(dataset(tmp_path, ("jump", "train"), ("run", "train")), config, tmp_path / "stores")
    before = open_store(first.path).load()
    grown = extract_text(
        dataset(tmp_path, ("climb", "train"), ("jump", "train"), ("run", "test")), config, tmp_path / "stores"
    )
    assert (grown.path, grown.made, grown.skipped) == (first.path, 1, 2)
    store = open_store(grown.path)
    assert [(row.id, row.partition) for row in store.rows] == [("jump", "train"), ("run", "test"), ("climb", "train")]
    assert np.array_equal(store.load()[:2], before)
    assert store.ok.all()


def test_some_classes_or_partitions_only(tmp_path: Path, one_tower: TextTower) -> None:
    split = small(tmp_path)
    some = extract_text(split, replace(TEXT, partitions=("test",)), tmp_path / "stores")
    assert [row.id for row in open_store(some.path).rows] == ["Blowing Candles", "jump"]
    more = extract_text(split, replace(TEXT, classes=("draw_sword", "jump")), tmp_path / "stores")
    assert (more.path, more.made, more.skipped) == (some.path, 1, 1)
    for wrong, text in (({"classes": ("jumb",)}, "jump"), ({"partitions": ("tset",)}, "test")):
        with pytest.raises(UsageError, match="unknown") as caught:
            extract_text(split, replace(TEXT, **wrong), tmp_path / "stores")  # type: ignore[arg-type]
        assert text in str(caught.value.hint)


def test_a_stop_leaves_what_a_repeat_completes(tmp_path: Path, one_tower: TextTower) -> None:
    split, stop = small(tmp_path), threading.Event()
    config = replace(TEXT, block_rows=2)
    calls = 0

    class Stopping:
        """The tower, which is told to stop during its second prompt."""

        dim, facts, tokens = one_tower.dim, one_tower.facts, staticmethod(one_tower.tokens)

        def encode(self, tokens: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == 2:
                stop.set()
            return one_tower.encode(tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_text, "text_tower", lambda backbone, weights: Stopping())
        with pytest.raises(Interrupted, match="2 classes of words"):
            extract_text(split, config, tmp_path / "stores", stop=stop)
    rest = extract_text(split, config, tmp_path / "stores")
    assert (rest.made, rest.skipped) == (1, 2)
    whole = extract_text(split, config, tmp_path / "whole")
    assert np.array_equal(open_store(rest.path).load(), open_store(whole.path).load())


def test_what_makes_no_text_store_is_refused(tmp_path: Path, one_tower: TextTower) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"backend": "memory"}, "nothing on disk"),
        ({"part": (1, 2)}, "not made in parts"),
    ]
    for changes, text in wrong:
        with pytest.raises(UsageError, match=text):
            extract_text(small(tmp_path), replace(TEXT, **changes), tmp_path / "stores")
    long = dataset(tmp_path, ("jump", "train"), ("very " * 80 + "long", "train"))
    with pytest.raises(UsageError, match="tokens long"):
        extract_text(long, TEXT, tmp_path / "stores")
    assert not (tmp_path / "stores").exists()


def test_only_clip_has_a_text_tower(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown CLIP backbone 'resnet18'"):
        extract_text(small(tmp_path), replace(TEXT, backbone="resnet18"), tmp_path / "stores")


@pytest.mark.slow
def test_the_case_notices_another_gelu_and_another_token(monkeypatch: pytest.MonkeyPatch, shared_folder: Path) -> None:
    from open_clip import transformer

    assert max(ratios(shared_folder / "golden/clip_text/rn50").values()) <= 1
    case = load(GOLDEN / "clip_text/vit_b16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer.QuickGELU, "forward", lambda self, x: nn.functional.gelu(x))
        assert max(mismatch(case, answers(case)).values()) > 1
    encode = TextTower.encode
    monkeypatch.setattr(TextTower, "encode", lambda self, tokens: encode(self, tokens.clamp(max=49406)))
    assert max(mismatch(case, answers(case)).values()) > 1
