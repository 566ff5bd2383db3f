"""Charts as inline SVG: lines, stacked bars, points.

Colours are classes (`s0`, `s1`, ...; `label`, `grid`, ...) that the page's style sheet defines, so that a
chart suits light and dark. What a mouse pointer brings up stands in `<title>` elements.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Values = Sequence[float | None]
HOVERABLE = 300  # beyond that many classes, a hover text each would make the page heavy
CHARACTER = 6.2  # width of a character at 11 px, about
SAMPLES = {"line": "M1 5H25", "fill": "M6 0h12v10h-12z", "dots": "M12 5h0"}


@dataclass(frozen=True)
class Axes:
    """What surrounds a chart. `whole`: the x axis counts, so that no tick stands between two numbers."""

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool = False
    whole: bool = False
    width: int = 320
    height: int = 210


@dataclass(frozen=True)
class Line:
    """One line: points with gaps where y is None; `series` picks the colour and the dash."""

    label: str
    series: int
    xs: Sequence[float]
    ys: Values


@dataclass(frozen=True)
class Point:
    """One point of a scatter chart."""

    label: str
    series: int
    x: float
    y: float


def extent(values: Iterable[float | None], *, zero: bool = False) -> tuple[float, float]:
    """Smallest and largest of the finite values, 0 included if asked for; (0, 1) if there are none."""
    finite = [v for v in values if v is not None and math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    return (low, high) if high > low else (low - (0 if zero else 0.5), high + (1 if zero else 0.5))


def nice_ticks(low: float, high: float, count: int = 5, smallest: float = 0.0) -> list[float]:
    """About `count` round numbers that enclose [low, high], 1, 2 or 5 × 10^k apart, at least `smallest`."""
    raw = max((high - low) / count, smallest)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; with 2 and 5 times them where that leaves fewer than three."""
    decades = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for factors in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [d * f for d in decades for f in factors if low * 0.999 <= d * f <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks


def number(value: float) -> str:
    """A tick's text: no needless digits, a real minus sign, thousands apart."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace(",", "\u202f").replace("-", "−")


class _Frame:
    """Scales from data to pixels, and the drawing of the axes."""

    def __init__(self, axes: Axes, top: int = 26, x_ticks: bool = True) -> None:
        self.axes, self.x_ticks = axes, x_ticks
        self.ys = nice_ticks(*axes.y_range)
        self.left = 24 + CHARACTER * max(len(number(tick)) for tick in self.ys)
        self.right, self.top, self.bottom = axes.width - 12.0, float(top), axes.height - 38.0
        self.x0, self.x1 = (math.log10(v) if axes.log_x else v for v in axes.x_range)

    def x(self, value: float) -> float:
        value = math.log10(value) if self.axes.log_x else value
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.ys[0]) / (self.ys[-1] - self.ys[0]) * (self.bottom - self.top)

    def _ticks(self) -> list[float]:
        low, high = self.axes.x_range
        if self.axes.log_x:
            return log_ticks(low, high)
        ticks = nice_ticks(low, high, smallest=1.0 if self.axes.whole else 0.0)
        return [tick for tick in ticks if low <= tick <= high]

    def draw(self, body: list[str]) -> str:
        """The whole chart as SVG, `body` between the grid and the labels."""
        axes, parts = self.axes, []
        for tick in self.ys:
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{self.left:.1f} {y:.1f}H{self.right:.1f}"/>')
            parts.append(_text(self.left - 5, y + 3.8, number(tick), "end"))
        for tick in self._ticks() if self.x_ticks else []:
            x = self.x(tick)
            parts.append(f'<path class="tick" d="M{x:.1f} {self.bottom:.1f}v4"/>')
            parts.append(_text(x, self.bottom + 15, number(tick)))
        parts.append(f'<path class="axis" d="M{self.left:.1f} {self.bottom:.1f}H{self.right:.1f}"/>')
        parts.append(_text((self.left + self.right) / 2, axes.height - 6, axes.x_label))
        middle = (self.top + self.bottom) / 2
        turned = f'transform="translate(11 {middle:.1f}) rotate(-90)"'
        parts.append(f'<text class="label" text-anchor="middle" {turned}>{escape(axes.y_label)}</text>')
        parts.append(_text(self.left, 13, axes.title, "start", "heading"))
        return (
            f'<svg class="chart" role="img" viewBox="0 0 {axes.width} {axes.height}" width="{axes.width}"'
            f' height="{axes.height}" aria-label="{escape(axes.title)}: {escape(axes.y_label)} against'
            f' {escape(axes.x_label)}">{"".join(parts)}{"".join(body)}</svg>'
        )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def line_chart(lines: Sequence[Line], axes: Axes) -> str:
    """Lines over a common x axis; a point between two gaps is drawn as a dot."""
    frame = _Frame(axes)
    body = []
    for line in lines:
        path, pen_down = [], False
        for x, y in zip(line.xs, line.ys, strict=True):
            if y is None or not math.isfinite(y):
                pen_down = False
                continue
            path.append(
                f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}{'' if pen_down else 'h0'}"
            )
            pen_down = True
        if path:
            title = f"<title>{escape(line.label)}</title>"
            body.append(f'<path class="line s{line.series}" d="{"".join(path)}">{title}</path>')
    return frame.draw(body)


def bar_chart(
    stacks: Mapping[str, Sequence[float]],
    names: Sequence[str],
    axes: Axes,
    bands: Sequence[tuple[str, int, int]],
) -> str:
    """A stacked bar a name, `stacks` from below up; `bands` (label, first, last) stand above the bars."""
    frame = _Frame(axes, top=48, x_ticks=False)
    pitch = (frame.right - frame.left) / max(len(names), 1)
    gap = min(pitch * 0.2, 6.0) if pitch > 4 else 0.0
    base, body = [0.0] * len(names), []
    for series, values in enumerate(stacks.values()):
        path = []
        for i, value in enumerate(values):
            x, y, height = (
                frame.left + i * pitch + gap / 2,
                frame.y(base[i] + value),
                frame.y(0) - frame.y(value),
            )
            path.append(
                f"M{x:.1f} {y:.1f}h{pitch - gap:.1f}v{height:.1f}h{gap - pitch:.1f}z" if value else ""
            )
            base[i] += value
        body.append(f'<path class="fill s{series}" d="{"".join(path)}"/>')
    for label, first, last in bands:
        x, end = frame.left + first * pitch + 1, frame.left + (last + 1) * pitch - 1
        body.append(f'<path class="band" d="M{x:.1f} 43v-6H{end:.1f}v6"/>')
        body.append(_text((x + end) / 2, 33, label))
    return frame.draw(body + _bar_names(frame, pitch, names, stacks))


def _bar_names(
    frame: _Frame, pitch: float, names: Sequence[str], stacks: Mapping[str, Sequence[float]]
) -> list[str]:
    """Hover texts for every bar, and the names below where there is room, else every so many ranks."""
    body = []
    room = pitch > CHARACTER * (1 + max((len(name) for name in names), default=0))
    ranks = {round(tick) for tick in nice_ticks(1, max(len(names), 2), 10, 1.0)} | {1}
    for i, name in enumerate(names):
        x = frame.left + i * pitch
        if room or i + 1 in ranks:
            body.append(_text(x + pitch / 2, frame.bottom + 15, name if room else str(i + 1)))
        if len(names) <= HOVERABLE:
            counts = ", ".join(f"{label} {number(values[i])}" for label, values in stacks.items())
            area = (
                f'x="{x:.1f}" y="{frame.top:.0f}" width="{pitch:.1f}" height="{frame.bottom - frame.top:.1f}"'
            )
            body.append(f'<rect class="hover" {area}><title>{escape(f"{name}: {counts}")}</title></rect>')
    return body


def scatter_chart(points: Sequence[Point], axes: Axes) -> str:
    """Points, a colour a series; with hover texts as long as there are not too many."""
    frame = _Frame(axes)
    body = []
    for series in sorted({point.series for point in points}):
        path = "".join(f"M{frame.x(p.x):.1f} {frame.y(p.y):.1f}h0" for p in points if p.series == series)
        body.append(f'<path class="dots s{series}" d="{path}"/>')
    for p in points if len(points) <= HOVERABLE else []:
        title = f"<title>{escape(p.label)}</title>"
        body.append(
            f'<circle class="hover" cx="{frame.x(p.x):.1f}" cy="{frame.y(p.y):.1f}" r="5">{title}</circle>'
        )
    return frame.draw(body)


def legend(labels: Sequence[str], kind: Literal["line", "fill", "dots"]) -> str:
    """The labels of series 0, 1, ..., each after a sample of its mark, as HTML."""
    entries = []
    for i, label in enumerate(labels):
        mark = f'<path class="{kind} s{i}" d="{SAMPLES[kind]}"/>'
        entries.append(f'<li><svg width="26" height="10" aria-hidden="true">{mark}</svg>{escape(label)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'
