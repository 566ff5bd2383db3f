"""Draws a cell as a stand-alone SVG, in a layered layout where nothing overlaps.

Columns from left to right: the nodes of layer 0, the labels of the edges that end in layer 1, the nodes of
layer 1, and so on. An edge that passes a column takes a place in it, as nodes and labels do; edges bend
only between columns. Columns are ordered by the mean rank of neighbours (barycentres, Sugiyama et al. 1981),
and heights are least squares under minimum distances (isotonic regression).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

CHARACTER = 7.0  # width of a label's character at 11 px, somewhat more than monospace fonts take (6.6)
LABEL_HEIGHT = 16.0
NODE_HEIGHT = 30.0
NODE_WIDTH = 54.0
PASS_HEIGHT = 12.0
SPACE = 8.0  # between places in a column
SWING = 40.0  # between columns
MARGIN = 14.0
HEADING = 30.0
SWEEPS = 12
FAMILIES = {
    "nor_conv": "#0b84c6",
    "conv_7x1": "#0b84c6",
    "sep_conv": "#0b84c6",
    "dil_conv": "#149b78",
    "max_pool": "#d06a00",
    "avg_pool": "#d06a00",
}
DASHES = {"skip_connect": "1 4", "none": "1 4", "max_pool": "6 3", "avg_pool": "6 3"}
STYLE = (  # acts only if the SVG is the document; inlined, it inherits the page's colour
    "svg.cell:root{color:#1c2430;background:#fff}"
    "@media (prefers-color-scheme:dark){svg.cell:root{color:#e4e8ee;background:#14181e}}"
)


@dataclass(eq=False)
class _Place:
    """Something that takes room in a column: a node, a label, or the passage of an edge."""

    height: float
    y: float = 0.0
    text: str = ""
    neighbours: list["_Place"] = field(default_factory=list)


@dataclass
class _Edge:
    operation: str  # empty for edges into the output, which only concatenate
    route: list[tuple[int, _Place]] = field(default_factory=list)  # (column, place), source to target


def draw_cell(cell: list[list[tuple[str, int]]], title: str, concat: Sequence[int], inputs: int = 2) -> str:
    """Draw a cell, a list of (operation, state) edges per node, as an SVG document.

    `concat` lists the states in the output. With two inputs, state 0 is c_{k-2}, 1 is c_{k-1}, 2 + i is node
    i; with one, state 0 is c_{k-1} and i is node i. Equal arguments give equal bytes.
    """
    first = 0 if inputs == 2 else 1  # number of the first node, as the spaces' papers count
    names = [*("k-2", "k-1")[-inputs:], *(str(first + i) for i in range(len(cell))), "k"]
    places = [_Place(NODE_HEIGHT, text=name) for name in names]
    layers = _layers(cell, inputs)
    columns: list[list[_Place]] = [[] for _ in range(2 * layers[-1] + 1)]
    for place, layer in zip(places, layers, strict=True):
        columns[2 * layer].append(place)
    ends = [(op, source, inputs + i) for i, node in enumerate(cell) for op, source in node]
    ends += [("", source, len(places) - 1) for source in concat]
    edges = [_route(op, places, layers, columns, source, target) for op, source, target in ends]
    _order(columns)
    _set_heights(columns)
    lefts, widths = _horizontal(columns)
    height = max(place.y + place.height / 2 for column in columns for place in column) + MARGIN
    body = [_edge_svg(edge, lefts, widths) for edge in edges]
    for column, left in zip(columns[::2], lefts[::2], strict=True):
        body += [_node_svg(place, left) for place in column if place.height == NODE_HEIGHT]
    words = "; ".join(
        f"{_in_words(names[source])} to {_in_words(names[target])}: {op}" for op, source, target in ends if op
    )
    return _document(title, words, lefts[-1] + widths[-1] + MARGIN, height, body)


def _layers(cell: list[list[tuple[str, int]]], inputs: int) -> list[int]:
    """Return the layer of every state and, last, of the output: one more than its farthest input."""
    layers = [0] * inputs
    for node in cell:
        layers.append(1 + max((layers[source] for _, source in node), default=0))
    return [*layers, max(layers) + 1]


def _route(
    operation: str,
    places: list[_Place],
    layers: list[int],
    columns: list[list[_Place]],
    source: int,
    target: int,
) -> _Edge:
    """Route an edge: a passage in every column between its ends, its label just before its target."""
    edge = _Edge(operation, [(2 * layers[source], places[source])])
    for column in range(2 * layers[source] + 1, 2 * layers[target]):
        labelled = bool(operation) and column == 2 * layers[target] - 1
        place = _Place(LABEL_HEIGHT, text=operation) if labelled else _Place(PASS_HEIGHT)
        columns[column].append(place)
        edge.route.append((column, place))
    edge.route.append((2 * layers[target], places[target]))
    for (_, here), (_, there) in pairwise(edge.route):
        here.neighbours.append(there)
        there.neighbours.append(here)
    return edge


# --- layout -------------------------------------------------------------------------------------------


def _order(columns: list[list[_Place]]) -> None:
    """Sort columns by mean rank of neighbours, sweeping back and forth; keep the fewest crossings."""
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        line = columns if forward else columns[::-1]
        for before, column in pairwise(line):
            rank = {id(place): i for i, place in enumerate(before)}
            means = {id(place): _mean_rank(place, rank, i) for i, place in enumerate(column)}
            column.sort(key=lambda place, means=means: means[id(place)])  # type: ignore[misc]
        crossings = _crossings(columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    columns[:] = best


def _mean_rank(place: _Place, rank: dict[int, int], default: float) -> float:
    ranks = [rank[id(other)] for other in place.neighbours if id(other) in rank]
    return sum(ranks) / len(ranks) if ranks else default


def _crossings(columns: list[list[_Place]]) -> int:
    """Count the pairs of edges that cross between neighbouring columns."""
    total = 0
    for left, right in pairwise(columns):
        rank = {id(place): i for i, place in enumerate(right)}
        ends = [sorted(rank[id(o)] for o in place.neighbours if id(o) in rank) for place in left]
        flat = [end for group in ends for end in group]
        within = sum(a > b for group in ends for i, a in enumerate(group) for b in group[i + 1 :])
        total += sum(a > b for i, a in enumerate(flat) for b in flat[i + 1 :]) - within
    return total


def _set_heights(columns: list[list[_Place]]) -> None:
    """Set heights so that neighbours are level, as far as the distances within a column allow."""
    for column in columns:
        _separate(column, [0.0] * len(column))
    for sweep in range(2 * SWEEPS):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            _separate(column, [_mean_height(place) for place in column])
    top = min(place.y - place.height / 2 for column in columns for place in column)
    for column in columns:
        for place in column:
            place.y += MARGIN + HEADING - top


def _mean_height(place: _Place) -> float:
    near = [other.y for other in place.neighbours]
    return sum(near) / len(near) if near else place.y


def _separate(column: list[_Place], wanted: list[float]) -> None:
    """Fit heights to the wanted ones in least squares under minimum distances (pool adjacent violators)."""
    offsets = [0.0]
    for above, below in pairwise(column):
        offsets.append(offsets[-1] + (above.height + below.height) / 2 + SPACE)
    pools: list[tuple[float, int]] = []  # (mean, size)
    for height, offset in zip(wanted, offsets, strict=False):
        mean, size = height - offset, 1
        while pools and pools[-1][0] >= mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    levels = [mean for mean, size in pools for _ in range(size)]
    for place, level, offset in zip(column, levels, offsets, strict=False):
        place.y = level + offset


def _horizontal(columns: list[list[_Place]]) -> tuple[list[float], list[float]]:
    """Return left border and width of every column; one that edges only pass has width 0."""
    lefts, widths, x = [], [], MARGIN
    for i, column in enumerate(columns):
        letters = max((len(place.text) for place in column), default=0)
        width = NODE_WIDTH if i % 2 == 0 else letters * CHARACTER + (8 if letters else 0)
        lefts.append(x)
        widths.append(width)
        x += width + SWING
    return lefts, widths


# --- SVG ----------------------------------------------------------------------------------------------


def _edge_svg(edge: _Edge, lefts: list[float], widths: list[float]) -> str:
    """Draw an edge: a curve with a gap for its label and an arrow head at its target."""
    family = edge.operation.rsplit("_", 1)[0] if edge.operation[-1:].isdigit() else edge.operation
    dash = f' stroke-dasharray="{DASHES[family]}"' if family in DASHES else ""
    colour, opacity = FAMILIES.get(family, "currentColor"), "" if edge.operation else ' opacity="0.45"'
    start, source = edge.route[0]
    path = [f"M{lefts[start] + widths[start]:.1f} {source.y:.1f}"]
    x, y = lefts[start] + widths[start], source.y
    label = ""
    for column, place in edge.route[1:]:
        left, width = lefts[column], widths[column]
        middle = (x + left) / 2
        path.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {place.y:.1f} {left:.1f} {place.y:.1f}")
        if place.text == edge.operation and edge.operation and place.height == LABEL_HEIGHT:
            label = _label_svg(place, left, width)
            path.append(f"M{left + width:.1f} {place.y:.1f}")
        elif place.height != NODE_HEIGHT:
            path.append(f"H{left + width:.1f}")
        x, y = left + width, place.y
    tip = lefts[edge.route[-1][0]]
    head = f"M{tip:.1f} {y:.1f}l-8 -3.5v7z"
    return (
        f'<g{opacity}><path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'
        f'<path d="{head}" fill="{colour}"/>{label}</g>'
    )


def _label_svg(place: _Place, left: float, width: float) -> str:
    x, text = left + width / 2, escape(place.text)
    return f'<text class="label" x="{x:.1f}" y="{place.y + 3.8:.1f}" font-size="11">{text}</text>'


def _node_svg(place: _Place, left: float) -> str:
    """Draw a state: the cell's inputs and output as c with a subscript, a node as its number."""
    x, top = left + NODE_WIDTH / 2, place.y - NODE_HEIGHT / 2
    outer = place.text.startswith("k")
    text = f'c<tspan dy="4" font-size="10">{place.text}</tspan>' if outer else place.text
    return (
        f'<g class="node"><rect x="{left:.1f}" y="{top:.1f}" width="{NODE_WIDTH:.0f}"'
        f' height="{NODE_HEIGHT:.0f}" rx="{4 if outer else 15}" fill="currentColor"'
        f' fill-opacity="{0.14 if outer else 0.05}" stroke="currentColor" stroke-opacity="0.6"/>'
        f'<text x="{x:.1f}" y="{place.y + 4.5:.1f}" font-size="14">{text}</text></g>'
    )


def _in_words(name: str) -> str:
    return f"c_{{{name}}}" if name.startswith("k") else f"node {name}"


def _document(title: str, words: str, width: float, height: float, body: list[str]) -> str:
    """Wrap the drawing in an SVG document, with a description in words for screen readers."""
    width = max(width, 2 * MARGIN + 8.0 * len(title))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="cell" role="img" width="{width:.0f}"'
            f' height="{height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}" text-anchor="middle"'
            ' font-family="ui-monospace, Menlo, Consolas, monospace" fill="currentColor">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(words)}</desc>",
            f"<style>{STYLE}</style>",
            f'<text x="{MARGIN:.0f}" y="{MARGIN + 12:.0f}" font-size="13" font-weight="bold"'
            f' text-anchor="start">{escape(title)}</text>',
            *body,
            "</svg>\n",
        ]
    )
