"""Draw charts as inline SVG: lines, stacked bars, points, intervals, differences, reliability.

Colours are classes (`s0`, `s1`, ...; `label`, `grid`, ...) that the page's style sheet defines for its light
and its dark scheme; `document` turns a chart into a standalone file, with style sheet and legend. Hover texts
are `<title>` elements.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby, pairwise
from string import Template
from typing import Any, Literal

Values = Sequence[float | None]
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # header, rows
TURNED = 30  # classes whose long names stand upright below a difference chart; of more, ranks are shown
FEW = 30  # bars of a difference chart; with more, none has a hover text
HOVERABLE = 300  # classes or points; with more, none has a hover text
CHARACTER = 6.2  # approximate width of a character at 11 px
MOST_POINTS = 100  # of a line; at the size of a chart, more would not show
SAMPLES = {"line": "M1 5H25", "fill": "M6 0h12v10h-12z", "dots": "M12 5h0", "broad": "M1 5H25"}
LIGHT = {"text": "#1b2330", "soft": "#566172", "rule": "#d5dae2", "page": "#fff", "s0": "#0072b2",
         "s1": "#c85a00", "s2": "#00805c"}  # fmt: skip
COLOURS = Template(  # of standalone charts; page.html.j2 repeats them for the page
    "svg{background:$page}.label{fill:$soft}.heading,.value,.mark{fill:$text}.inverse{fill:$page}"
    ".black{fill:#000}"
    ".grid,.frame{stroke:$rule}.axis,.tick,.band,.guide,.seed{stroke:$soft}.chosen,.minus{stroke:$text}"
    ".s0{stroke:$s0;fill:$s0}.s1{stroke:$s1;fill:$s1}.s2{stroke:$s2;fill:$s2}"
)
SHAPES = (
    "text{font-family:Helvetica,Arial,sans-serif;font-size:11px}.heading{font-size:12px;font-weight:600}"
    ".value,.tiny text{font-size:9px}.grid{stroke-width:.7}.axis,.tick,.band,.frame,.guide,.heat{fill:none}"
    ".line{fill:none;stroke-width:1.3;stroke-linejoin:round;stroke-linecap:round;stroke-opacity:.85}"
    ".line.s1{stroke-dasharray:5 3}.line.s2{stroke-dasharray:1 3.2;stroke-width:1.8}"
    ".line.broad{stroke-width:5;stroke-opacity:.35;stroke-dasharray:none}.fill,.range{stroke:none}"
    ".range{fill-opacity:.2}.dots{fill:none;stroke-width:6;stroke-linecap:round;stroke-opacity:.75}"
    ".seed{fill:none;stroke-width:5;stroke-linecap:round;stroke-opacity:.6}.guide{stroke-dasharray:4 3}"
    ".chosen{fill:none;stroke-width:1.5}.minus{fill:none;stroke-width:.8;stroke-opacity:.55}"
    ".hover{fill:none;stroke:none}"
)


@dataclass(frozen=True)
class Mark:
    """A legend entry, with a sample in a box of 26 × 10 pixels."""

    label: str
    classes: str  # of the sample
    path: str  # of the sample
    attributes: str = ""

    @property
    def sample(self) -> str:
        """Return the sample as SVG."""
        return f'<path class="{self.classes}" d="{self.path}"{self.attributes}/>'


@dataclass(frozen=True)
class Axes:
    """The size, title and axes of a chart."""

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool = False
    whole: bool = False  # whether x is a count, with ticks at whole numbers only
    whole_y: bool = False  # the same for y
    width: int = 320
    height: int = 210
    y_names: Sequence[str] = ()  # rows from the top down, in place of numbers on the y axis
    summary: str = ""  # what the chart shows, for screen readers
    room: float = 0.0  # to the right of the axes, for labels


@dataclass(frozen=True)
class Line:
    """A line, with gaps where y is None."""

    label: str
    series: int  # selects colour and dashes
    xs: Sequence[float]
    ys: Values
    kind: str = "line"  # or "line broad"
    end: str = ""  # a short label at the line's end


@dataclass(frozen=True)
class Range:
    """The area between two lines."""

    label: str
    series: int
    xs: Sequence[float]
    lows: Values
    highs: Values


@dataclass(frozen=True)
class Spread:
    """A row of an interval chart: values, their mean and the interval of the mean, if known."""

    label: str
    values: Sequence[float]
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to `value` with a whisker from `low` to `high`; not drawn without a value."""

    label: str
    series: int
    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Spot:
    """A named point of a front chart: its mean y, the interval of the mean if known, whether on the front."""

    name: str
    label: str
    x: float
    y: float
    interval: tuple[float, float] | None
    best: bool


Band = tuple[str, int, int]  # a bracket above bars: label, first and last bar


@dataclass(frozen=True)
class Point:
    """One point of a scatter chart."""

    label: str
    series: int
    x: float
    y: float


def extent(values: Iterable[float | None], *, zero: bool = False) -> tuple[float, float]:
    """Return the smallest and largest of the finite values, and of 0 if `zero`; (0, 1) if there are none."""
    finite = [v for v in values if v is not None and math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    return (low, high) if high > low else (low - (0 if zero else 0.5), high + (1 if zero else 0.5))


def nice_ticks(low: float, high: float, count: int = 5, smallest: float = 0.0) -> list[float]:
    """Return about `count` round numbers around [low, high], 1, 2 or 5 × 10^k apart, at least `smallest`."""
    raw = max((high - low) / count, smallest)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten in [low, high]; if fewer than three, also their multiples."""
    decades = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for factors in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [d * f for d in decades for f in factors if low * 0.999 <= d * f <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks


def rank_ticks(count: int) -> list[int]:
    """Return 1 and about five round numbers up to `count`."""
    ticks = [round(tick) for tick in nice_ticks(1, max(count, 2), smallest=1.0)]
    first = 1 + (ticks[1] - ticks[0]) / 2  # skip ticks too close to 1
    return [1, *(tick for tick in ticks if first < tick <= count)]


def number(value: float, digits: int = 4) -> str:
    """Format a number without needless digits, with a real minus sign and thousands separated."""
    text = f"{value:,.{max(0, digits - 4)}f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return text.replace(",", "\u202f").replace("-", "−")


def labels_apart(values: Sequence[float], digits: int = 4) -> list[str]:
    """Format different numbers with so many digits, or as many more as tell them apart."""
    for enough in range(digits, 13):  # nice_ticks rounds to as many
        labels = [number(value, enough) for value in values]
        if len({*labels}) == len(values):
            break
    return labels


class _Frame:
    """The axes of a chart, and the scales from data to pixels."""

    def __init__(self, axes: Axes, top: int = 26, x_ticks: bool = True, below: float = 0.0) -> None:
        self.axes, self.x_ticks = axes, x_ticks
        names = axes.y_names
        self.ys = (
            [float(i) for i in range(len(names))]
            if names
            else nice_ticks(*axes.y_range, smallest=1.0 if axes.whole_y else 0.0)
        )
        self.y_texts = [*names] or labels_apart(self.ys)
        self.y0, self.y1 = (len(names) - 0.5, -0.5) if names else (self.ys[0], self.ys[-1])
        self.left = (28 if axes.y_label else 12) + CHARACTER * max(map(len, self.y_texts))
        self.right, self.top, self.bottom = (
            axes.width - 12.0 - axes.room,
            float(top),
            axes.height - 38.0 - below,
        )
        self.x0, self.x1 = (math.log10(v) if axes.log_x else v for v in axes.x_range)

    def x(self, value: float) -> float:
        value = math.log10(value) if self.axes.log_x else value
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.bottom - self.top)

    def _ticks(self) -> list[float]:
        low, high = self.axes.x_range
        if self.axes.log_x:
            return log_ticks(low, high)
        ticks = nice_ticks(low, high, smallest=1.0 if self.axes.whole else 0.0)
        return [tick for tick in ticks if low <= tick <= high]

    def draw(self, body: list[str]) -> str:
        """Draw the whole chart as SVG, with `body` in front of the axes."""
        axes, parts = self.axes, []
        for tick, text in zip(self.ys, self.y_texts, strict=True):
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{self.left:.1f} {y:.1f}H{self.right:.1f}"/>')
            parts.append(text_element(self.left - 5, y + 3.8, text, "end"))
        ticks = self._ticks() if self.x_ticks else []
        for tick, text in zip(ticks, labels_apart(ticks), strict=True):
            x = self.x(tick)
            parts.append(f'<path class="tick" d="M{x:.1f} {self.bottom:.1f}v4"/>')
            parts.append(text_element(x, self.bottom + 15, text))
        parts.append(f'<path class="axis" d="M{self.left:.1f} {self.bottom:.1f}H{self.right:.1f}"/>')
        parts.append(text_element((self.left + self.right) / 2, axes.height - 6, axes.x_label))
        if axes.y_label:
            parts.append(text_element(11, (self.top + self.bottom) / 2, axes.y_label, upright=True))
        parts.append(text_element(self.left, 13, axes.title, "start", "heading"))
        summary = f"{axes.title}: {axes.y_label} against {axes.x_label}" if axes.y_label else axes.title
        return svg(axes.width, axes.height, f"{summary}. {axes.summary}".rstrip(), parts + body)


def svg(width: float, height: float, summary: str, parts: Iterable[str]) -> str:
    """Wrap the parts of a chart in its element; `summary` is for screen readers."""
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        f' height="{height:g}" aria-label="{escape(summary)}">{"".join(parts)}</svg>'
    )


def text_element(
    x: float, y: float, text: str, anchor: str = "middle", kind: str = "label", *, upright: bool = False
) -> str:
    """Place a text; `anchor`: start, middle or end; `upright`: it reads from the bottom up."""
    place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if upright else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{escape(text)}</text>'


def hover_box(x: float, y: float, width: float, height: float, text: str) -> str:
    """Give a box, with its upper left corner at (x, y), a hover text."""
    area = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="hover" {area}>{_title(text)}</rect>'


def _title(text: str) -> str:
    """Return the element that gives the one around it a hover text."""
    return f"<title>{escape(text)}</title>"


def thinned(count: int) -> list[int]:
    """Return the indices of at most MOST_POINTS of `count` points, evenly spaced, the last included."""
    step = -(-count // MOST_POINTS)
    return [i for i in range(count) if (count - 1 - i) % step == 0]


def line_chart(
    lines: Sequence[Line],
    axes: Axes,
    ranges: Sequence[Range] = (),
    guides: Sequence[tuple[float, str]] = (),
    points: Sequence[Point] = (),
) -> str:
    """Draw lines over a common x axis; a point between two gaps is drawn as a dot.

    `ranges` are drawn below the lines, `guides` are horizontal levels (y, label), `points` are marked.
    """
    frame = _Frame(axes)
    body = [_range(frame, area) for area in ranges] + [_guide(frame, *guide) for guide in guides]
    ends: list[tuple[float, str]] = []
    for line in lines:
        path, last = _path(frame, line)
        if last is not None:
            body.append(f'<path class="{line.kind} s{line.series}" d="{path}">{_title(line.label)}</path>')
            ends += [(last, line.end)] if line.end else []
    body += [_mark(frame, point) for point in points]
    return frame.draw(body + _end_labels(frame, ends))


def _guide(frame: _Frame, level: float, label: str) -> str:
    """Draw a horizontal line across the chart, with its label above the right end."""
    y = frame.y(level)
    line = f'<path class="guide" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>'
    return line + text_element(frame.right, y - 3, label, "end")


def _mark(frame: _Frame, point: Point) -> str:
    place = f'cx="{frame.x(point.x):.1f}" cy="{frame.y(point.y):.1f}"'
    return f'<circle class="mark" {place} r="3.2">{_title(point.label)}</circle>'


def _path(frame: _Frame, line: Line) -> tuple[str, float | None]:
    """Return a line's path, in relative steps of tenths of a pixel, and the y where it ends, if any."""
    path: list[str] = []
    pen: tuple[int, int] | None = None
    last = None
    for i in thinned(len(line.xs)):
        value = line.ys[i]
        if value is None or not math.isfinite(value):
            pen = None
            continue
        x, y = round(10 * frame.x(line.xs[i])), round(10 * frame.y(value))
        step = f"l{_tenths(x - pen[0])} {_tenths(y - pen[1])}" if pen else f"M{_tenths(x)} {_tenths(y)}h0"
        path.append(step)
        pen, last = (x, y), y / 10
    return "".join(path).replace(" -", "-"), last


def _tenths(value: int) -> str:
    text = f"{value / 10:g}"
    return text.replace("0.", ".", 1) if abs(value) < 10 else text


def _range(frame: _Frame, area: Range) -> str:
    """Draw an area as one path, out along the highs and back along the lows, bridging gaps."""
    places = [i for i in thinned(len(area.xs)) if area.lows[i] is not None and area.highs[i] is not None]
    there = [(frame.x(area.xs[i]), frame.y(area.highs[i])) for i in places]  # type: ignore[arg-type]
    back = [(frame.x(area.xs[i]), frame.y(area.lows[i])) for i in reversed(places)]  # type: ignore[arg-type]
    outline = [(round(10 * x), round(10 * y)) for x, y in there + back]
    steps = [f"l{_tenths(x - u)} {_tenths(y - v)}" for (u, v), (x, y) in pairwise(outline)]
    path = f"M{_tenths(outline[0][0])} {_tenths(outline[0][1])}{''.join(steps)}z".replace(" -", "-")
    return f'<path class="range s{area.series}" d="{path}">{_title(area.label)}</path>'


def _end_labels(frame: _Frame, ends: Sequence[tuple[float, str]]) -> list[str]:
    """Draw labels to the right of the lines, moving them up where two would overlap."""
    body, above = [], math.inf
    for y, label in sorted(set(ends), reverse=True):
        above = min(y + 3.8, above - 12)
        body.append(text_element(frame.right + 4, above, label, "start"))
    return body


def bar_chart(
    stacks: Mapping[str, Sequence[float]],
    names: Sequence[str],
    axes: Axes,
    bands: Sequence[Band],
) -> str:
    """Draw one stacked bar per name, `stacks` from the bottom up and `bands` above the bars.

    Bars too narrow to distinguish become the steps of one outline.
    """
    frame = _Frame(axes, top=48, x_ticks=False)
    pitch = (frame.right - frame.left) / max(len(names), 1)
    base, body = [0.0] * len(names), []
    for series, values in enumerate(stacks.values()):
        tops = [below + value for below, value in zip(base, values, strict=True)]
        outline = _bars if pitch > 4 else _steps
        path = outline(frame, pitch, [frame.y(v) for v in base], [frame.y(v) for v in tops])
        body.append(f'<path class="fill s{series}" d="{path}"/>')
        base = tops
    body += _bands(frame, pitch, bands, 43)
    return frame.draw(body + _bar_names(frame, pitch, names, stacks))


def _bars(frame: _Frame, pitch: float, base: Sequence[float], tops: Sequence[float]) -> str:
    gap = min(pitch * 0.2, 6.0)
    return "".join(
        f"M{frame.left + i * pitch + gap / 2:.1f} {top:.1f}h{pitch - gap:.1f}v{below - top:.1f}"
        f"h{gap - pitch:.1f}z"
        for i, (below, top) in enumerate(zip(base, tops, strict=True))
        if below > top
    )


def _steps(frame: _Frame, pitch: float, base: Sequence[float], tops: Sequence[float]) -> str:
    """Draw one outline of all bars, out along the tops and back along the base."""
    edges = [frame.left + i * pitch for i in range(len(tops) + 1)]
    out = _stairs(tops, edges[1:])
    back = _stairs(base[::-1], edges[-2::-1])
    return f"M{frame.left:.1f} {base[0]:.1f}{out}{back}z"


def _stairs(heights: Sequence[float], ends: Sequence[float]) -> str:
    """Draw a step at each height up to its end; equal neighbours share one."""
    steps = groupby(zip(heights, ends, strict=True), key=lambda step: f"{step[0]:.1f}")
    return "".join(f"V{height}H{[*group][-1][1]:.1f}" for height, group in steps)


def _bands(frame: _Frame, pitch: float, bands: Sequence[Band], y: float) -> list[str]:
    """Draw brackets above the bars, their labels shortened or left out where space is short."""
    body = []
    for label, first, last in bands:
        x, end = frame.left + first * pitch + 1, frame.left + (last + 1) * pitch - 1
        body.append(f'<path class="band" d="M{x:.1f} {y:.0f}v-6H{end:.1f}v6"/>')
        fits = label if len(label) * CHARACTER < end - x + 6 else label[:3] if end - x > 16 else ""
        body.append(text_element((x + end) / 2, y - 10, fits) if fits else "")
    return body


def _bar_names(
    frame: _Frame, pitch: float, names: Sequence[str], stacks: Mapping[str, Sequence[float]]
) -> list[str]:
    """Draw the labels below the bars, and the bars' hover texts."""
    body = _bar_labels(frame, pitch, names, len(names))
    for i, name in enumerate(names if len(names) <= HOVERABLE else ()):
        counts = ", ".join(f"{label} {number(values[i])}" for label, values in stacks.items())
        body.append(_bar_title(frame, pitch, i, f"{name}: {counts}"))
    return body


def _bar_labels(frame: _Frame, pitch: float, names: Sequence[str], ranks: int) -> list[str]:
    """Draw the names if they fit, otherwise some of the ranks 1 to `ranks`."""
    if pitch < CHARACTER * (1 + max((len(name) for name in names), default=0)):
        return _rank_labels(frame, ranks)
    return [
        text_element(frame.left + (i + 0.5) * pitch, frame.bottom + 15, name) for i, name in enumerate(names)
    ]


def _turned_labels(frame: _Frame, pitch: float, names: Sequence[str]) -> list[str]:
    """Draw one name per bar, upright."""
    return [
        text_element(frame.left + (i + 0.5) * pitch + 3.8, frame.bottom + 4, name, "end", upright=True)
        for i, name in enumerate(names)
    ]


def _rank_labels(frame: _Frame, count: int) -> list[str]:
    """Draw some of the ranks 1 to `count` along the x axis."""
    body, room = [], (frame.right - frame.left) / count > CHARACTER * (1 + len(str(count)))
    for rank in range(1, count + 1) if room else rank_ticks(count):
        half = CHARACTER * len(str(rank)) / 2
        x = frame.left + (rank - 0.5) / count * (frame.right - frame.left)
        body.append(text_element(min(x, frame.axes.width - half), frame.bottom + 15, str(rank)))
    return body


def _bar_title(frame: _Frame, pitch: float, index: int, text: str) -> str:
    """Give a bar its hover text, over the whole height of the chart."""
    return hover_box(frame.left + index * pitch, frame.top, pitch, frame.bottom - frame.top, text)


def difference_chart(
    bars: Sequence[Bar], names: Sequence[str], ranks: int, axes: Axes, bands: Sequence[Band]
) -> str:
    """Draw bars up and down from 0, with whiskers, and `bands` above them.

    Below are the bars' names, upright where they are long, or some of the ranks 1 to `ranks` of many.
    """
    turned = CHARACTER * max(map(len, names), default=0) if ranks <= TURNED else 0.0
    frame = _Frame(axes, top=56, x_ticks=False)
    if turned + CHARACTER <= (frame.right - frame.left) / max(ranks, 1):
        turned = 0.0  # they fit side by side
    frame = _Frame(replace(axes, height=axes.height + round(turned)), top=56, x_ticks=False, below=turned)
    pitch = (frame.right - frame.left) / max(len(bars), 1)
    body = [f'<path class="axis" d="M{frame.left:.1f} {frame.y(0):.1f}H{frame.right:.1f}"/>']
    body += [_bars_of(frame, pitch, bars, series) for series in sorted({bar.series for bar in bars})]
    body.append(_whiskers(frame, pitch, bars))
    body += _bands(frame, pitch, bands, 51)
    body += _turned_labels(frame, pitch, names) if turned else _bar_labels(frame, pitch, names, ranks)
    hoverable = bars if len(bars) <= FEW else ()
    return frame.draw(body + [_bar_title(frame, pitch, i, bar.label) for i, bar in enumerate(hoverable)])


def _bars_of(frame: _Frame, pitch: float, bars: Sequence[Bar], series: int) -> str:
    """Draw the bars of one series."""
    zero, width = frame.y(0), pitch * 0.8 if pitch > 4 else pitch
    path = "".join(
        f"M{frame.left + (i + 0.5) * pitch - width / 2:.1f} {zero:.1f}v{frame.y(bar.value) - zero:.1f}"
        f"h{width:.1f}V{zero:.1f}z"
        for i, bar in enumerate(bars)
        if bar.series == series and bar.value is not None
    )
    return f'<path class="fill s{series}" d="{path}" fill-opacity=".65"/>'


def _whiskers(frame: _Frame, pitch: float, bars: Sequence[Bar]) -> str:
    path = "".join(
        f"M{frame.left + (i + 0.5) * pitch:.1f} {frame.y(bar.low):.1f}V{frame.y(bar.high):.1f}"
        for i, bar in enumerate(bars)
        if bar.value is not None and bar.high > bar.low
    )
    thin = f'stroke-width="{min(1.5, pitch * 0.3):.1f}" stroke-opacity=".7"'
    return f'<path class="axis" d="{path}" {thin}/>' if path else ""


def interval_chart(rows: Sequence[Spread], axes: Axes) -> str:
    """Draw one row per spread: dots for values, an upright bar for their mean, a line for its interval."""
    frame = _Frame(axes)
    body = []
    for i, row in enumerate(rows):
        y = frame.y(i)
        if row.interval:
            ends = [frame.x(v) for v in row.interval]
            low, high = max(ends[0], frame.left), min(ends[1], frame.right)
            caps = "".join(f"M{x:.1f} {y - 4:.1f}v8" for x in ends if frame.left <= x <= frame.right)
            body.append(f'<path class="axis" d="{caps}M{low:.1f} {y:.1f}H{high:.1f}"/>')
        dots = "".join(f"M{frame.x(v):.1f} {y:.1f}h0" for v in row.values)
        body.append(f'<path class="seed" d="{dots}"/>')
        body.append(f'<path class="mark" d="M{frame.x(row.mean) - 1.5:.1f} {y - 7:.1f}h3v14h-3z"/>')
        body.append(hover_box(frame.left, y - 9, frame.right - frame.left, 18, row.label))
    return frame.draw(body)


def front_chart(spots: Sequence[Spot], axes: Axes) -> str:
    """Draw named points with upright intervals, and the steps of the highest y that each x allows.

    Points on these steps are filled, others hollow.
    """
    frame = _Frame(axes)
    front = sorted((frame.x(spot.x), frame.y(spot.y)) for spot in spots if spot.best)
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in front[1:])
    body = [f'<path class="guide" d="M{front[0][0]:.1f} {front[0][1]:.1f}{steps}H{frame.right:.1f}"/>']
    taken = [(x - 5, x + 5, y) for x, y in ((frame.x(spot.x), frame.y(spot.y)) for spot in spots)]
    for spot in sorted(spots, key=lambda spot: -spot.y):
        x, y = frame.x(spot.x), frame.y(spot.y)
        if spot.interval:
            body.append(_upright(frame, x, spot.interval))
        kind = "mark" if spot.best else "chosen"
        body.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>')
        body.append(_spot_name(frame, spot.name, x, y, taken))
        body.append(f'<circle class="hover" cx="{x:.1f}" cy="{y:.1f}" r="7">{_title(spot.label)}</circle>')
    return frame.draw(body)


def _upright(frame: _Frame, x: float, interval: tuple[float, float]) -> str:
    """Draw an interval of y, with caps at the ends that are within the chart."""
    ends = [frame.y(v) for v in interval]
    low, high = min(ends[0], frame.bottom), max(ends[1], frame.top)
    caps = "".join(f"M{x - 4:.1f} {y:.1f}h8" for y in ends if frame.top <= y <= frame.bottom)
    return f'<path class="axis" d="{caps}M{x:.1f} {low:.1f}V{high:.1f}"/>'


def _spot_name(frame: _Frame, name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> str:
    """Write a name beside its point, above the front, as near as others leave room; note what it takes."""
    width, y = CHARACTER * len(name), y - 8
    right = x + 8 + width <= frame.axes.width
    left, end = (x + 8, x + 8 + width) if right else (x - 8 - width, x - 8)
    shifts = sorted((12.0 * i for i in range(-len(taken), len(taken) + 1)), key=abs)
    free = (
        y + shift
        for shift in shifts
        if all(end < a or b < left or abs(y + shift - at) >= 12 for a, b, at in taken)
    )
    place = next(free, y)
    taken.append((left, end, place))
    return text_element(left if right else end, place + 3.8, name, "start" if right else "end")


def reliability_chart(bins: Sequence[Mapping[str, float]], axes: Axes) -> str:
    """Draw each bin's accuracy as a bar, a line from there to its mean confidence, and the diagonal.

    Above the bars is the share of the images in each bin. Bins are as in metrics.json, axes run from 0 to 1.
    """
    frame = _Frame(axes, top=66)
    total, most = sum(b["images"] for b in bins), max((b["images"] for b in bins), default=1)
    bars, gaps, shares = [], [], []
    for b in bins:
        x, width = _bin_span(frame, b)
        top, middle, tall = frame.y(b["accuracy"]), frame.x(b["confidence"]), 26 * b["images"] / most
        bars.append(f"M{x:.1f} {frame.bottom:.1f}V{top:.1f}h{width:.1f}V{frame.bottom:.1f}z")
        gaps.append(f"M{middle:.1f} {top:.1f}V{frame.y(b['confidence']):.1f}")
        shares.append(f"M{x:.1f} 58v-{tall:.1f}h{width:.1f}v{tall:.1f}z")
    diagonal = f"M{frame.x(0):.1f} {frame.y(0):.1f}L{frame.x(1):.1f} {frame.y(1):.1f}"
    body = [
        f'<path class="fill s0" d="{"".join(bars)}" fill-opacity=".6"/>',
        f'<path class="fill s2" d="{"".join(shares)}" fill-opacity=".6"/>',
        f'<path class="guide" d="{diagonal}"/>',
        f'<path class="chosen" d="{"".join(gaps)}"/>',
    ]
    return frame.draw(body + [_bin_title(frame, b, total) for b in bins])


def _bin_span(frame: _Frame, b: Mapping[str, float]) -> tuple[float, float]:
    """Return the left edge and the width of a bin's bar."""
    return frame.x(b["low"]) + 0.5, frame.x(b["high"]) - frame.x(b["low"]) - 1


def _bin_title(frame: _Frame, b: Mapping[str, float], total: float) -> str:
    """Give a bin its hover text."""
    x, width = _bin_span(frame, b)
    share = f"{100 * b['images'] / total:.1f} % of the images"
    text = f"confidence {b['confidence']:.2f}, accuracy {b['accuracy']:.2f}, {share}"
    return hover_box(x, 32, width, frame.bottom - 32, text)


def scatter_chart(points: Sequence[Point], axes: Axes, *, hover: bool = True) -> str:
    """Draw points, one colour per series; up to HOVERABLE points have hover texts."""
    frame = _Frame(axes)
    body = []
    for series in sorted({point.series for point in points}):
        path = "".join(f"M{frame.x(p.x):.1f} {frame.y(p.y):.1f}h0" for p in points if p.series == series)
        body.append(f'<path class="dots s{series}" d="{path}"/>')
    for p in points if hover and len(points) <= HOVERABLE else []:
        place = f'cx="{frame.x(p.x):.1f}" cy="{frame.y(p.y):.1f}"'
        body.append(f'<circle class="hover" {place} r="5">{_title(p.label)}</circle>')
    return frame.draw(body)


def marks(labels: Sequence[str], kind: Literal["line", "fill", "dots"]) -> list[Mark]:
    """Return the legend entries of series 0, 1, ..."""
    return [Mark(label, f"{kind} s{i}", SAMPLES[kind]) for i, label in enumerate(labels)]


def document(chart: str, entries: Sequence[Mark]) -> str:
    """Turn a chart into a standalone file for a paper: dark on light everywhere, with the legend below.

    Colours are plain style rules, which Inkscape, LaTeX converters and browsers understand.
    """
    head, body = chart.removesuffix("</svg>").split(">", 1)
    width, height = (float(head.split(f'{name}="')[1].split('"')[0]) for name in (" width", " height"))
    rows, bottom = _legend_rows(entries, width, height)
    style = COLOURS.substitute(LIGHT) + SHAPES
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head = head.replace(f' height="{height:g}"', f' height="{bottom:g}"')
    head = head.replace(f'viewBox="0 0 {width:g} {height:g}"', f'viewBox="0 0 {width:g} {bottom:g}"')
    return f"{head}><style>{style}</style>{body}{rows}</svg>\n"


def _legend_rows(entries: Sequence[Mark], width: float, height: float) -> tuple[str, float]:
    """Draw a legend as SVG below a chart, wrapped at its width; return it and the y where it ends."""
    if not entries:
        return "", height
    x, y, drawn = 12.0, height + 6, []
    for mark in entries:
        room = 40 + CHARACTER * len(mark.label)
        if x > 12 and x + room > width:
            x, y = 12.0, y + 17
        drawn.append(f'<g transform="translate({x:.1f} {y:.1f})">{mark.sample}</g>')
        drawn.append(text_element(x + 31, y + 9, mark.label, "start"))
        x += room
    return "".join(drawn), y + 17


@dataclass(frozen=True)
class Figure:
    """Charts under one title."""

    name: str  # unique within the data set, and valid as a file name
    title: str
    marks: Sequence[Mark]
    parts: dict[str, str]  # SVG by a name that is valid as a file name
    note: str = ""
    wide: bool = False  # charts keep their width instead of being small multiples
    first_only: bool = False  # the page shows the first part only
    data: Table | None = None  # the numbers drawn; None for times and speeds, which differ from run to run

    @property
    def legend(self) -> str:
        """Return the legend as HTML."""
        items = "".join(
            f'<li><svg width="26" height="10" aria-hidden="true">{mark.sample}</svg>{escape(mark.label)}</li>'
            for mark in self.marks
        )
        return f'<ul class="legend">{items}</ul>' if items else ""

    @property
    def charts(self) -> list[str]:
        """Return the charts that the page inlines, as SVG."""
        return list(self.parts.values())[: 1 if self.first_only else None]
