"""CLIP-FSAR and CLIP-MDMF once more, one clip and one cell at a time in float64 numpy: what the tests of both heads compare with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

Array = np.ndarray


def arrays(module: torch.nn.Module) -> dict[str, Array]:
    """A module's tensors by name, in float64."""
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def cos(x: Array, y: Array, added: float = 0.01) -> float:
    return float(x @ y / (math.sqrt(x @ x) * math.sqrt(y @ y) + added))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def cross_entropy(logits: Array, label: int) -> float:
    return float(-np.log(softmax(logits)[label]))


def normed(x: Array, w: dict[str, Array], layer: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / spread * w[f"{layer}norm.weight"] + w[f"{layer}norm.bias"]


def transformer(w: dict[str, Array], heads: int, queries: Array, keys: Array) -> Array:
    """All layers of an encoder, head by head and token by token: [n, D] attends to [m, D], later layers to themselves."""
    x = queries
    for index in range(1 + max(int(name.split(".")[1]) for name in w)):
        layer = f"layers.{index}."
        q = normed(x, w, layer) @ w[f"{layer}to_q.weight"].T
        k, v = (normed(keys, w, layer) @ w[f"{layer}to_{part}.weight"].T for part in "kv")
        size = q.shape[1] // heads
        out = np.zeros_like(q)
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            for i in range(len(q)):
                weights = softmax(np.array([q[i, own] @ k[j, own] for j in range(len(k))]) / math.sqrt(size))
                out[i, own] = sum(weights[j] * v[j, own] for j in range(len(k)))
        y = x + out @ w[f"{layer}to_out.weight"].T + w[f"{layer}to_out.bias"]
        hidden = y @ w[f"{layer}widen.weight"].T + w[f"{layer}widen.bias"]
        gelu = np.array([0.5 * a * (1 + math.erf(a / math.sqrt(2))) for a in hidden.ravel()]).reshape(hidden.shape)
        x = keys = y + gelu @ w[f"{layer}narrow.weight"].T + w[f"{layer}narrow.bias"]
    return x


def one_way(d: Array, smoothing: float) -> float:
    """The alignment of a table with a zero column on either side, cell by cell with exponentials."""
    rows, columns = d.shape
    cost = np.pad(d, ((0, 0), (1, 1)))
    c = np.zeros((rows, columns + 2))

    def least(*before: float) -> float:
        return -smoothing * math.log(sum(math.exp(-b / smoothing) for b in before))

    for m in range(1, columns + 2):
        c[0, m] = c[0, m - 1] + cost[0, m]
    for i in range(1, rows):
        for m in range(1, columns + 2):
            before = [c[i - 1, m - 1], c[i, m - 1]] + ([c[i - 1, m]] if m in (1, columns + 1) else [])
            c[i, m] = cost[i, m] + least(*before)
    return float(c[-1, -1])


def alignment(query: Array, prototype: Array, single: bool, smoothing: float = 0.5) -> float:
    d = np.array([[1 - cos(a, b) for b in prototype] for a in query])
    return one_way(d, smoothing) + (0.0 if single else one_way(d.T, smoothing))


def class_mean(clips: list[Array], labels: Array, label: int) -> Array:
    return np.mean([clip for clip, own in zip(clips, labels, strict=True) if own == label], axis=0)


def fsar_distances(head: Any, support: Array, texts: Array, labels: Array, query: Array) -> Array:
    """Distances [Q, W] of clips [S, T, D] with texts [S, D] to clips [Q, T, D]."""
    w, c = arrays(head.context), head.config

    def refined(frames: Array, text: Array) -> Array:
        tokens = np.concatenate([frames, text[None]])
        return transformer(w, c.heads, tokens, tokens)[:-1]

    classes = range(labels.max() + 1)
    if c.merge_before:
        prototypes = [
            refined(class_mean(list(support), labels, k), class_mean(list(texts), labels, k)) for k in classes
        ]
    else:
        each = [refined(x, text) for x, text in zip(support, texts, strict=True)]
        prototypes = [class_mean(each, labels, k) for k in classes]
    queries = [transformer(w, c.heads, x, x) for x in query]
    return np.array([[alignment(q, p, c.single_direct) for p in prototypes] for q in queries])


def convolved(w: Array, bias: Array, x: Array, taps: list[int]) -> Array:
    """x [T, D] by a kernel [out, in, tap], tap i looking at time t + taps[i]; zeros outside."""
    out = np.tile(bias, (len(x), 1))
    for t in range(len(x)):
        for tap, shift in enumerate(taps):
            if 0 <= t + shift < len(x):
                out[t] += w[:, :, tap] @ x[t + shift]
    return out


def local_view(w: dict[str, Array], x: Array) -> Array:
    for conv in ("conv1", "conv2"):
        x = convolved(w[f"{conv}.weight"], w[f"{conv}.bias"], x, [-1, 0, 1])
    return x


def global_view(w: dict[str, Array], x: Array) -> Array:
    y = x
    for block, dilation in enumerate((1, 2, 4)):
        inner = y
        for conv in ("conv1", "conv2"):
            g, v, b = (w[f"tcn.blocks.{block}.{conv}.{part}"] for part in ("weight_g", "weight_v", "bias"))
            kernel = np.stack([g[o, 0, 0] * v[o] / np.sqrt((v[o] ** 2).sum()) for o in range(len(v))])
            inner = np.maximum(convolved(kernel, b, inner, [-2 * dilation, -dilation, 0]), 0)
        y = np.maximum(y + inner, 0)
    return np.stack([y[-1] + frame for frame in x])


def best_frames(text: Array, x: Array) -> list[int]:
    """The four frames that fit the text best, in temporal order."""
    return sorted(sorted(range(len(x)), key=lambda t: -cos(text, x[t]))[:4])


def mdmf(head: Any, support: Array, texts: Array, labels: Array, query: Array, chosen: list[int]) -> dict[str, Array]:
    """What `match` gives and shows for one episode, and the mean frames that the class text sees (supports, then queries)."""
    w, c = arrays(head), head.config
    parts = {"up": arrays(head.fusion_up), "down": arrays(head.fusion_down)}
    way = labels.max() + 1
    class_text = [class_mean(list(texts), labels, k) for k in range(way)]

    def fused(view: str, x: Array, prompt: Array) -> Array:
        context = local_view(w, x) if view == "up" else global_view(w, x)
        return transformer(
            parts[view], c.heads, np.concatenate([prompt[None], context]), np.concatenate([prompt[None], x])
        )

    scores = np.array([[np.mean(sorted(cos(text, frame) for frame in x)[-4:]) for text in class_text] for x in query])
    made: dict[str, Array] = {"prompt_prob": np.array([softmax(200 * row) for row in scores])}
    row = 1 if c.t_compare_token == "frame0" else 0
    sure: dict[str, list[list[float]]] = {"t": [], "v": []}
    for view in ("up", "down"):
        each = [fused(view, x, text) for x, text in zip(support, texts, strict=True)]
        prototypes = [class_mean(each, labels, k) for k in range(way)]
        prompts = [class_text[k] if c.is_pps else np.zeros_like(class_text[0]) for k in chosen]
        queries = [fused(view, x, prompt) for x, prompt in zip(query, prompts, strict=True)]
        made[f"dist_{view}"] = np.array(
            [[alignment(q[1:], p[1:], c.single_direct) for p in prototypes] for q in queries]
        )
        sure["t"].append([softmax(np.array([cos(q[row], p[row]) for p in prototypes])).max() for q in queries])
        sure["v"].append([softmax(-d).max() for d in made[f"dist_{view}"]])
    made["logits"] = -(made["dist_up"] + made["dist_down"])
    made["conf"] = np.array(sure["t"] + sure["v"])
    kept = [x[best_frames(text, x)].mean(0) for x, text in zip(support, texts, strict=True)]
    kept += [x[best_frames(class_text[int(s.argmax())], x)].mean(0) for x, s in zip(query, scores, strict=True)]
    made["kept"] = np.array(kept)
    return made


def distilled(made: dict[str, Array], condition: tuple[int, int], direction: str) -> float:
    """The distillation loss of one episode, query by query."""
    use_t, use_v = condition
    sums = {"up": 0.0, "down": 0.0}
    weights = {"up": 0.0, "down": 0.0}
    for i, (tu, td, vu, vd) in enumerate(made["conf"].T):
        up, down = softmax(-made["dist_up"][i]), softmax(-made["dist_down"][i])
        kl = {"up": float((up * np.log(up / down)).sum()), "down": float((down * np.log(down / up)).sum())}
        if not use_t and not use_v:
            sums = {view: sums[view] + kl[view] for view in sums}
            weights = {"up": 1.0, "down": 1.0}
            continue
        said = [judged for judged, use in ((tu >= td, use_t), (vu >= vd, use_v)) if use]
        if all(said):
            sums["up"] += (tu + vu) * kl["up"]
            weights["up"] += tu + vu
        elif not any(said):
            sums["down"] += (td + vd) * kl["down"]
            weights["down"] += td + vd
    r = {view: sums[view] / weights[view] if weights[view] else 0.0 for view in sums}
    return {"bid": r["up"] + r["down"], "up2down": r["down"], "down2up": r["up"]}[direction]
