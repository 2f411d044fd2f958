"""The figures of the report as self-contained HTML and SVG: colours come from the page's style, so light and dark both work."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Frames = NDArray[np.uint8]


def scale(value: float, interval: float, chance: float, published: tuple[float, str] | None) -> str:
    """A line from 0 to 100 % with the measured accuracy and its interval, chance, and the published (number, label) if any; percent."""
    low, high = max(0.0, value - interval), min(100.0, value + interval)
    marks = [
        f'<div class="whisker" style="left:{low:.2f}%;width:{high - low:.2f}%"></div>',
        f'<div class="dot" style="left:{value:.2f}%" title="this run: {value:.1f} %"></div>',
        f'<div class="tick" style="left:{chance:.2f}%"><span>chance {chance:.0f} %</span></div>',
    ]
    if published:
        number, label = published
        marks.append(
            f'<div class="tick published" style="left:{number:.2f}%" title="{escape(label)}"><span>published {number:.1f} %</span></div>'
        )
    ends = '<span class="end left">0</span><span class="end right">100 %</span>'
    return f'<div class="scale" role="img" aria-label="accuracy {value:.1f} %">{"".join(marks)}{ends}</div>'


def bars(rows: Sequence[tuple[str, float, int]], chance: float) -> str:
    """One bar per class (name, accuracy in percent, number of queries), best first; a fine line marks chance."""
    lines = [
        f'<div class="bar" title="{escape(name)}: {value:.1f} % of {count} queries">'
        f'<span class="name">{escape(name)}</span>'
        f'<span class="track"><i style="width:{value:.2f}%"></i><b style="left:{chance:.2f}%"></b></span>'
        f'<span class="number">{value:.0f} %</span></div>'
        for name, value, count in sorted(rows, key=lambda row: (-row[1], row[0]))
    ]
    return f'<div class="bars">{"".join(lines)}</div>'


def confusion(names: Sequence[str], counts: Floats) -> str:
    """A square of shares: row = true class, column = answer; every row sums to 100 % of that class's queries."""
    size, longest = len(names), max(map(len, names), default=0)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts, dtype=np.float64), where=totals > 0)
    cell = 34 if size <= 12 else 22 if size <= 30 else 12
    margin = min(170, 14 + 6.4 * longest)
    side = margin + size * cell
    parts = []
    for i in range(size):
        middle = margin + (i + 0.5) * cell
        parts.append(
            f'<text class="label" x="{margin - 6:.0f}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(names[i]))}</text>'
        )
        parts.append(
            f'<text class="label" transform="translate({middle + 4:.1f},{margin - 6:.0f}) rotate(-90)">{escape(_short(names[i]))}</text>'
        )
        for j in range(size):
            tip = f"{names[i]} taken for {names[j]}: {100 * shares[i, j]:.1f} % ({counts[i, j]:.0f} queries)"
            parts.append(
                _cell(margin + j * cell, margin + i * cell, cell - 1, float(shares[i, j]), tip, number=cell >= 30)
            )
    return _svg("confusion", side + 2, side + 2, parts, "confusion matrix")


def _cell(x: float, y: float, side: float, share: float, tip: str, *, number: bool) -> str:
    """A square whose colour is as strong as `share` (0..1), with the percentage in it if wanted and above 0.5 %."""
    made = (
        f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side}" height="{side}" fill-opacity="{0.04 + 0.96 * share:.3f}">'
        f"<title>{escape(tip)}</title></rect>"
    )
    if number and share >= 0.005:
        tone = "on" if share > 0.5 else "off"
        made += f'<text class="value {tone}" x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}">{100 * share:.0f}</text>'
    return made


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"


def curve(title: str, steps: Floats, values: Floats, *, percent: bool = False) -> str:
    """One training curve: the raw points thin, a running mean strong. percent: the axis goes from 0 to 100 %."""
    width, height, left, right, top, bottom = 360, 210, 44, 10, 26, 28
    marks = np.linspace(0, 100, 5) if percent else round_marks(values)
    low, high = float(marks[0]), float(marks[-1])
    xs = left + (steps - steps[0]) / max(float(steps[-1] - steps[0]), 1.0) * (width - left - right)

    def place(ys: Floats) -> Floats:
        made: Floats = top + (high - np.clip(ys, low, high)) / (high - low) * (height - top - bottom)
        return made

    parts = [f'<text class="title" x="{left}" y="15">{escape(title)}</text>']
    for mark, y in zip(marks, place(marks), strict=True):
        label = f"{mark:.0f} %" if percent else f"{mark:g}"
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="label" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for text, anchor, x in (
        (f"{steps[0]:.0f}", "start", left),
        ("iteration", "middle", (left + width - right) / 2),
        (f"{steps[-1]:.0f}", "end", width - right),
    ):
        parts.append(f'<text class="label" x="{x:.0f}" y="{height - 9}" text-anchor="{anchor}">{text}</text>')
    smooth = running_mean(values, len(values) // 25 + 2) if len(values) > 12 else values
    for kind, ys in (("raw", values), ("line", smooth)):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, place(ys), strict=True))
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    return _svg("curve", width, height, parts, title)


def running_mean(values: Floats, window: int) -> Floats:
    """The mean of up to `window` values on either side of each point; shorter at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - window, 0), np.minimum(at + window + 1, len(values))
    made: Floats = (sums[last] - sums[first]) / (last - first)
    return made


def round_marks(values: Floats) -> Floats:
    """Four to nine round numbers that span the bulk of the values: rare spikes are cut, not the scale ruined."""
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    low = 0.0 if 0 <= low < 0.5 * high else low
    span = high - low or max(abs(high), 1.0)
    power = 10.0 ** np.floor(np.log10(span))
    step = next(power * factor for factor in (0.2, 0.5, 1.0, 2.0) if span / (power * factor) <= 6)
    made: Floats = np.round(np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step, 12)
    return made if len(made) > 1 else np.round(np.array([low - step, low, low + step]), 12)


def alignment(
    cost: Floats, path: Floats, query: Sequence[str], support: Sequence[str], limits: tuple[float, float]
) -> str:
    """The cost matrix [Tq, Ts] between two clips, their frames (picture URIs) beside it, and the path [Tq, Ts] through it.

    Rows are the query's frames, columns the support's. A darker cell is a better fit, on the scale of `limits` (lowest and highest
    cost). path holds the share 0..1 with which the alignment uses a cell: the area of its dot; the line follows the mean of each row.
    """
    rows, columns = cost.shape
    cell, room = 46, 54
    low, high = limits
    parts = [_picture(query[i], 0, room + i * cell, room - 6, cell - 4, f"query frame {i + 1}") for i in range(rows)]
    parts += [
        _picture(support[j], room + j * cell, 0, cell - 4, room - 8, f"support frame {j + 1}") for j in range(columns)
    ]
    middle_x, middle_y = (room + (np.arange(n) + 0.5) * cell - 1 for n in (columns, rows))
    dots = []
    for i in range(rows):
        for j in range(columns):
            fit = (high - float(cost[i, j])) / (high - low) if high > low else 0.5
            tip = f"query {i + 1}, support {j + 1}: cost {cost[i, j]:.3f}, path {100 * path[i, j]:.0f} %"
            parts.append(_cell(room + j * cell, room + i * cell, cell - 2, 0.9 * fit, tip, number=False))
            if path[i, j] > 0.01:
                radius = 9 * min(1.0, float(path[i, j])) ** 0.5
                dots.append(f'<circle class="stop" cx="{middle_x[j]:.1f}" cy="{middle_y[i]:.1f}" r="{radius:.1f}"/>')
    used = path.sum(1) > 0.01
    means = (path[used] @ middle_x) / path[used].sum(1)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(means, middle_y[used], strict=True))
    parts.append(f'<polyline class="halo" points="{line}"/><polyline class="path" points="{line}"/>')
    return _svg(
        "alignment", room + columns * cell, room + rows * cell, [*parts, *dots], "alignment path over the cost matrix"
    )


def strip(frames: Sequence[str]) -> str:
    """A clip's frames in a row, as picture URIs."""
    pictures = "".join(f'<img alt="frame {i + 1}" src="{escape(frame)}">' for i, frame in enumerate(frames))
    return f'<div class="strip">{pictures}</div>'


def _picture(uri: str, x: float, y: float, width: float, height: float, tip: str) -> str:
    return (
        f'<image href="{escape(uri)}" x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="xMidYMid meet">'
        f"<title>{escape(tip)}</title></image>"
    )


def data_uri(frame: Frames) -> str:
    """A picture uint8 [H, W, 3] as a JPEG data URI of at most 112 pixels on its short side."""
    import cv2

    height, width = frame.shape[:2]
    share = min(1.0, 112 / min(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    picture = cv2.resize(np.ascontiguousarray(frame[..., ::-1]), size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 82])
    if not done:
        raise ValueError(f"a picture of shape {frame.shape} can't be written as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _svg(kind: str, width: float, height: float, parts: Sequence[str], label: str) -> str:
    inside = "".join(parts)
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" style="--own:{width:.0f}px" role="img" aria-label="{escape(label)}">'
        f"{inside}</svg>"
    )
