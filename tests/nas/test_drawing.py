"""Drawings of cells: every edge is drawn, and nothing overlaps."""

import ast
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hlrs.nas import drawing
from hlrs.nas.drawing import draw_cell

OPERATIONS = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"]
SVG = "{http://www.w3.org/2000/svg}"
MONOSPACE = 0.62 * 11  # width of a character at 11 px; DejaVu Sans Mono takes 0.602 em
Box = tuple[float, float, float, float]  # left, top, right, bottom


def some_cell(nodes: int, edges: int, seed: int) -> list[list[tuple[str, int]]]:
    draw = random.Random(seed)
    states = [sorted(draw.sample(range(2 + i), min(edges, 2 + i))) for i in range(nodes)]
    return [[(draw.choice(OPERATIONS), state) for state in of_node] for of_node in states]


def chain(nodes: int) -> list[list[tuple[str, int]]]:
    """The deepest cell: every node reads the two states before it."""
    return [[("skip_connect", i), ("sep_conv_3x3", i + 1)] for i in range(nodes)]


CELLS = [some_cell(nodes, edges, seed) for nodes in range(1, 8) for edges in (1, 2) for seed in range(6)]
CELLS += [chain(nodes) for nodes in range(1, 8)]


def drawn(cell: list[list[tuple[str, int]]]) -> ET.Element:
    return ET.fromstring(draw_cell(cell, "normal cell", range(2, 2 + len(cell))))


def labels(root: ET.Element) -> list[tuple[str, Box]]:
    found = []
    for text in root.iter(f"{SVG}text"):
        if text.get("class") == "label":
            x, y, width = float(text.get("x")), float(text.get("y")), len(text.text) * MONOSPACE
            found.append((text.text, (x - width / 2, y - 9, x + width / 2, y + 2.5)))
    return found


def nodes(root: ET.Element) -> list[Box]:
    found = []
    for rect in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def blend(weights: tuple[float, ...], curve: list[tuple[float, float]], axis: int) -> float:
    return sum(w * point[axis] for w, point in zip(weights, curve, strict=True))


def points(path: str) -> list[tuple[float, float]]:
    """Points along a path of M, C and H, dense enough not to skip a label."""
    found, x, y = [], 0.0, 0.0
    for command, numbers in re.findall(r"([MCH])([^MCH]*)", path):
        n = [float(number) for number in numbers.split()]
        steps = [i / 40 for i in range(41)]
        if command == "C":
            curve = [(x, y), (n[0], n[1]), (n[2], n[3]), (n[4], n[5])]
            bernstein = [((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3) for t in steps]
            found += [(blend(weights, curve, 0), blend(weights, curve, 1)) for weights in bernstein]
        elif command == "H":
            found += [(x + t * (n[0] - x), y) for t in steps]
        x, y = (n[-2], n[-1]) if command != "H" else (n[0], y)
    return found


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_every_edge_is_labelled_and_every_state_drawn():
    for cell in CELLS:
        root = drawn(cell)
        assert sorted(text for text, _ in labels(root)) == sorted(op for node in cell for op, _ in node)
        assert len(nodes(root)) == len(cell) + 3
        heads = [p for p in root.iter(f"{SVG}path") if p.get("fill") != "none"]
        assert len(heads) == sum(map(len, cell)) + len(cell)  # an edge from every node into the output, too


def test_nothing_overlaps():
    for cell in CELLS:
        root = drawn(cell)
        boxes = [box for _, box in labels(root)] + nodes(root)
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if overlap(a, b)]
        inner = [(left + 1, top + 1, right - 1, bottom - 1) for left, top, right, bottom in boxes]
        for path in root.iter(f"{SVG}path"):
            if path.get("fill") == "none":
                for x, y in points(path.get("d")):
                    assert not [box for box in inner if box[0] < x < box[2] and box[1] < y < box[3]]
        width, height = float(root.get("viewBox").split()[2]), float(root.get("viewBox").split()[3])
        assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height for box in boxes)


def test_edges_start_and_end_at_their_states():
    root = drawn([[("sep_conv_3x3", 1)]])  # c_{k-1} -> 0 -> c_k
    path = next(
        p for p in root.iter(f"{SVG}path") if p.get("fill") == "none" and p.get("stroke") != "currentColor"
    )
    along = points(path.get("d"))
    groups = root.findall(f"{SVG}g[@class='node']")
    boxes = {"".join(g.find(f"{SVG}text").itertext()): g.find(f"{SVG}rect") for g in groups}
    start, end = boxes["ck-1"], boxes["0"]
    assert along[0][0] == pytest.approx(float(start.get("x")) + float(start.get("width")))
    assert along[0][1] == pytest.approx(float(start.get("y")) + float(start.get("height")) / 2, abs=0.11)
    assert along[-1][0] == pytest.approx(float(end.get("x")))
    assert along[-1][1] == pytest.approx(float(end.get("y")) + float(end.get("height")) / 2, abs=0.11)


def test_the_description_lists_every_edge():
    text = draw_cell([[("sep_conv_3x3", 0)], [("skip_connect", 2)]], "t", [2, 3])
    assert "<desc>c_{k-2} to node 0: sep_conv_3x3; node 0 to node 1: skip_connect</desc>" in text


def test_equal_bytes_in_a_stand_alone_document():
    first = draw_cell(chain(4), "a <b> & c", range(2, 6))
    assert first == draw_cell(chain(4), "a <b> & c", range(2, 6))
    assert "<title>a &lt;b&gt; &amp; c</title>" in first
    assert "url(" not in first
    assert "href" not in first
    assert not re.search(r'https?://(?!www\.w3\.org/2000/svg")', first)
    assert "svg.cell:root{" in first  # its own colours, without effect when it is inlined


def test_imports_nothing_of_hlrs():
    tree = ast.parse(Path(drawing.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or alias.name for node in imports for alias in node.names}
    assert not [name for name in modules if name.startswith("hlrs")]
