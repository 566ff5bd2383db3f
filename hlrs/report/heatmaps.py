"""Heat maps as inline SVG: matrices of percentages, and the weights of each edge over the epochs.

A shade is the colour of a series at some opacity, so that it suits light and dark. All cells of a shade are
one path, and neighbours in a row one stroke of it in whole numbers, which keeps pages small.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from hlrs.report.charts import (
    CHARACTER,
    Mark,
    Values,
    hover_box,
    labels_apart,
    number,
    rank_ticks,
    svg,
    text_element,
)
from hlrs.report.wording import points

NUMBERED = 12  # up to so many rows, the cells of a matrix contain their numbers
NAMED = 30  # up to so many rows, each has its name
SIDE = 240  # pixels of a matrix
COLUMN, ROW = 3, 10  # pixels of a cell of an edge's map
APART = 11  # approximate pixels between maps
MOST_COLUMNS = 25  # of an edge's map
TINY = 5  # approximate width of a character at 8 px

SHARES = (1, 2, 5, 10, 20, 50)  # per cent, where the shades of a matrix begin


@dataclass(frozen=True)
class Shades:
    """A scale: `bounds` are where its shades begin, except the lowest, which is not drawn; `labels` name all.

    A `diverging` scale is symmetric about 0: values below -bounds have the colour of series 0 and, for black
    and white, are struck through; values above bounds have the colour of series 1.
    """

    bounds: tuple[float, ...]
    labels: tuple[str, ...]
    diverging: bool = False

    def level(self, value: float) -> int:
        """Return the index of a value's shade: 0 is not drawn, negative ones are below a diverging 0."""
        if self.diverging and value < 0:
            return -self.level(-value)
        return bisect_right(self.bounds, round(value, 9))

    def classes(self, level: int) -> str:
        """Return the CSS classes of a level's cells."""
        return "heat s1" if self.diverging and level > 0 else "heat s0"

    def opacity(self, level: int) -> str:
        """Return the opacity of a level's cells."""
        return f"{abs(level) / len(self.bounds):.2g}"

    def ink(self, level: int) -> str:
        """Return the CSS class of a number on this level: a contrast of at least 4.5 in light and dark."""
        opacity = float(self.opacity(level))
        if opacity <= 0.55:
            return ""
        return "inverse" if opacity > 0.9 and self.classes(level) == "heat s0" else "black"

    @property
    def marks(self) -> list[Mark]:
        """The legend: one sample and label per shade."""
        found = []
        for i, label in enumerate(self.labels):
            level = i - (len(self.bounds) if self.diverging else 0)
            if level == 0:
                found.append(Mark(label, "frame", "M3.5 .5h19v9h-19z"))
            else:
                attributes = f' stroke-width="10" stroke-opacity="{self.opacity(level)}"'
                found.append(Mark(label, self.classes(level), "M3 5h20", attributes))
        return found


def linear(low: float, high: float, through: float) -> Shades:
    """Return at most thirteen evenly spaced shades covering [low, high], one of them centred on `through`."""
    power = 10.0 ** math.floor(math.log10((high - low) / 12))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if (high - low) / (power * f) <= 12)
    first, last = (round((end - through) / step) for end in (low, high))
    values = [through + i * step for i in range(first, last + 1)]
    return Shades(tuple(v - step / 2 for v in values[1:]), tuple(labels_apart(values, 3)))


def shares() -> Shades:
    """Return the scale of percentages; a shade begins at its number."""
    return Shades(SHARES, ("0", *map(str, SHARES)))


def changes() -> Shades:
    """Return the scale of differences of percentages; a shade begins at its number."""
    below = (number(-bound) for bound in reversed(SHARES))
    return Shades(SHARES, (*below, "0", *(f"+{bound}" for bound in SHARES)), diverging=True)


def bins(count: int, most: int) -> list[range]:
    """Group `count` indices as at most `most` groups of neighbours, as even as possible."""
    parts = min(count, most)
    return [range(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


def _tiles(grid: Mapping[tuple[int, int], Sequence[int | None]], shades: Shades) -> list[str]:
    """Build the paths of all cells; `grid`: (column, row) of a row's first cell -> the levels of its cells.

    A cell is 1 × 1, and the middle of its row a whole number.
    """
    strokes: dict[int, list[str]] = {}
    ends: dict[int, tuple[int, int]] = {}
    for (column, row), levels in grid.items():
        x = column
        for level, same in groupby(levels):
            length = len([*same])
            if level:
                before = ends.get(level)
                move = f"m{x - before[0]} {row - before[1]}" if before else f"M{x} {row}"
                strokes.setdefault(level, []).append(f"{move}h{length}")
                ends[level] = (x + length, row)
            x += length
    return [
        f'<path class="{shades.classes(level)}" stroke-opacity="{shades.opacity(level)}"'
        f' d="{"".join(strokes[level]).replace(" -", "-")}"/>'
        for level in sorted(strokes)
    ]


# --- matrices -----------------------------------------------------------------------------------------


def matrix_chart(
    cells: Sequence[Values],
    shades: Shades,
    names: Sequence[str],
    ranks: int,
    title: str,
    summary: str,
    *,
    hover: bool,
) -> str:
    """Draw a square of percentages, row = true class, column = predicted class, except rows of None.

    Rows and columns have names, or ranks from 1 to `ranks` if there are many; a small matrix shows numbers.
    On a diverging scale these are differences, in percentage points.
    """
    count = len(cells)
    side, named, numbered = SIDE / count, count <= NAMED, count <= NUMBERED
    short = [name if len(name) <= 12 else name[:11] + "…" for name in names]
    left = 26 + CHARACTER * max(map(len, short if named else ["1000"]))
    top, below = 24.0, CHARACTER * max(map(len, short)) + 4 if named else 16.0
    levels = [[None if v is None else shades.level(v) for v in row] for row in cells]
    tiles = "".join(_tiles({(0, i): row for i, row in enumerate(levels)}, shades))
    scaled = f'transform="translate({left:.1f} {top + side / 2:.2f}) scale({side:.4g})" stroke-width=".94"'
    bottom = top + SIDE + below + 14
    body = [
        f"<g {scaled}>{tiles}</g>",
        "" if numbered else _struck_through(levels, left, top),
        f'<path class="frame" d="M{left:.1f} {top:.0f}h{SIDE}v{SIDE}h-{SIDE}z"/>',
        text_element(left, 13, title, "start", "heading"),
        *(_names(short, left, top) if named else _ranks(ranks, left, top)),
        *(_numbers(cells, levels, shades, left, top) if numbered else []),
        *(_cell_titles(cells, names, shades, left, top) if hover else []),
        text_element(left + SIDE / 2, bottom, "predicted class"),
        text_element(10, top + SIDE / 2, "true class", upright=True),
    ]
    kind = "difference of confusion matrices" if shades.diverging else "confusion matrix"
    return svg(round(left + SIDE + 16), round(bottom + 6), f"{title}: {kind}. {summary}", body)


def _struck_through(levels: Sequence[Sequence[int | None]], left: float, top: float) -> str:
    """Draw strokes through the cells below a diverging 0."""
    side = SIDE / len(levels)
    strokes = "".join(
        f"M{left + (j + 0.2) * side:.1f} {top + (i + 0.5) * side:.1f}h{0.6 * side:.1f}"
        for i, row in enumerate(levels)
        for j, level in enumerate(row)
        if level is not None and level < 0
    )
    return f'<path class="minus" d="{strokes}"/>' if strokes else ""


def _names(names: Sequence[str], left: float, top: float) -> list[str]:
    """Draw one name per row and, turned, per column."""
    side, body = SIDE / len(names), []
    for i, name in enumerate(names):
        middle = (i + 0.5) * side
        body.append(text_element(left - 4, top + middle + 3.8, name, "end"))
        body.append(text_element(left + middle + 3.8, top + SIDE + 4, name, "end", upright=True))
    return body


def _ranks(count: int, left: float, top: float) -> list[str]:
    """Draw some ranks along the rows and columns."""
    body = []
    for rank in rank_ticks(count):
        place = (rank - 0.5) / count * SIDE
        body.append(text_element(left - 4, top + place + 3.8, str(rank), "end"))
        body.append(text_element(left + place, top + SIDE + 13, str(rank)))
    return body


def _numbers(
    cells: Sequence[Values], levels: Sequence[Sequence[int | None]], shades: Shades, left: float, top: float
) -> list[str]:
    """Write whole percentages in the cells, except where they round to 0."""
    side = SIDE / len(cells)
    body = []
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            level = levels[i][j]
            if value is None or level is None or round(value) == 0:
                continue
            kind = f"value {shades.ink(level)}".rstrip()
            sign = "+" if shades.diverging and value > 0 else ""
            x, y = left + (j + 0.5) * side, top + (i + 0.5) * side + 3
            body.append(text_element(x, y, sign + number(round(value)), "middle", kind))
    return body


def _cell_titles(
    cells: Sequence[Values], names: Sequence[str], shades: Shades, left: float, top: float
) -> list[str]:
    side = SIDE / len(cells)

    def said(value: float) -> str:
        return f"{points(value / 100)} points" if shades.diverging else f"{value:.1f} %"

    return [
        hover_box(left + j * side, top + i * side, side, side, f"{names[i]} as {names[j]}: {said(value)}")
        for i, row in enumerate(cells)
        for j, value in enumerate(row)
        if value is not None
    ]


# --- edges over the epochs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Edge:
    """An edge: the weights of each operation over time; `chosen`: the genotype's operation there, if any."""

    node: int
    state: int
    rows: Mapping[str, Sequence[float]]
    chosen: str | None
    inputs: int = 2  # of its cell

    @property
    def label(self) -> str:
        """Node and input, named as in the drawings of cells: k-2, k-1, then the nodes."""
        first = 0 if self.inputs == 2 else 1
        names = ("k-2", "k-1")[-self.inputs :]
        source = names[self.state] if self.state < self.inputs else str(first + self.state - self.inputs)
        return f"{first + self.node}←{source}"


class _Plan:
    """The layout of a run's maps, in whole cells of `column` × ROW pixels from (`left`, `top`)."""

    def __init__(self, cells: Mapping[str, Sequence[Edge]]) -> None:
        every = [edge for edges in cells.values() for edge in edges]
        self.primitives = list(every[0].rows)
        self.columns = len(every[0].rows[self.primitives[0]])
        self.column = COLUMN * max(MOST_COLUMNS / self.columns, 1.0)
        self.nodes = 1 + max(edge.node for edge in every)
        self.pitch = self.columns + max(1, round(APART / self.column))
        self.breadth = (1 + max(edge.state for edge in every)) * self.pitch + self.pitch // 4  # of a cell
        self.left, self.top = 10 + TINY * max(map(len, self.primitives)), 52
        self.width, self.height = round(self.columns * self.column), len(self.primitives) * ROW
        self.right = self.left + len(cells) * self.breadth * self.column
        self.bottom = self.top + self.nodes * (self.height + 3 * ROW) - 3 * ROW

    def place(self, cell: int, node: int, state: int) -> tuple[int, int]:
        """Return the column and row of an edge's first cell."""
        return cell * self.breadth + state * self.pitch, node * (len(self.primitives) + 3)

    def pixels(self, column: int, row: int) -> tuple[float, float]:
        """Return the upper left corner of a cell."""
        return self.left + column * self.column, float(self.top + row * ROW)


def edges_chart(
    cells: Mapping[str, Sequence[Edge]],
    shades: Shades,
    title: str,
    epochs: tuple[int, int],
    summary: str,
) -> str:
    """Draw one map per edge, one row of maps per node; across: the epochs (first, last), down: operations.

    The edges of the genotype are framed, and their operation is marked.
    """
    plan = _Plan(cells)
    grid: dict[tuple[int, int], Sequence[int | None]] = {}
    body = [text_element(2, 13, title, "start", "heading"), _row_names(plan)]
    outlines: dict[str, list[str]] = {"frame": [], "chosen": [], "mark": []}
    for c, (name, edges) in enumerate(cells.items()):
        body.append(
            text_element(plan.pixels(*plan.place(c, 0, 0))[0], 32, f"{name} cell", "start", "heading")
        )
        for edge in edges:
            column, row = plan.place(c, edge.node, edge.state)
            x, y = plan.pixels(column, row)
            for r, values in enumerate(edge.rows.values()):
                grid[column, row + r] = [shades.level(v) for v in values]
            outlines["chosen" if edge.chosen else "frame"].append(
                f"M{x:.0f} {y:.0f}h{plan.width}v{plan.height}h-{plan.width}z"
            )
            if edge.chosen in plan.primitives:
                middle = y + (plan.primitives.index(str(edge.chosen)) + 0.5) * ROW
                outlines["mark"].append(f"M{x + plan.width + 1:.0f} {middle:.1f}l6-3.5v7z")
            body.append(text_element(x, y - 4, edge.label, "start"))
            body.append(hover_box(x, y, plan.width, plan.height, _said(edge)))
    span = f"epoch {epochs[0]} to {epochs[1]}" if plan.columns > 1 else "at the end of the search"
    body.append(text_element(plan.left, plan.bottom + 14, span, "start"))
    scaled = f'transform="translate({plan.left} {plan.top + ROW / 2}) scale({plan.column:.4g} {ROW})"'
    maps = [f"<g {scaled}>{''.join(_tiles(grid, shades))}</g>"]
    maps += [f'<path class="{kind}" d="{"".join(paths)}"/>' for kind, paths in outlines.items() if paths]
    return svg(round(plan.right), plan.bottom + 20, f"{title}: {summary}", maps + body)


def _row_names(plan: _Plan) -> str:
    """Draw the operations, once per row of maps."""
    names = "".join(
        f'<text x="{plan.left - 4}" y="{plan.pixels(*plan.place(0, node, 0))[1] + (r + 0.8) * ROW:.0f}">'
        f"{escape(primitive)}</text>"
        for node in range(plan.nodes)
        for r, primitive in enumerate(plan.primitives)
    )
    return f'<g class="label tiny" text-anchor="end">{names}</g>'


def _said(edge: Edge) -> str:
    best = max(edge.rows, key=lambda primitive: edge.rows[primitive][-1])
    ending = f"; in the genotype: {edge.chosen}" if edge.chosen else ""
    return f"{edge.label}: largest at the end {best}, {edge.rows[best][-1]:.2f}{ending}"
