"""The report's figures: what they draw, against numbers worked out by hand, their size and their files."""

import csv
import io
import re
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import SCHEMAS
from hlrs.config.spaces import DartsSpace
from hlrs.nas.drawing import draw_cell
from hlrs.report import charts, figures, figures_results, figures_training, heatmaps
from hlrs.report.runs import JobRecord, Results, Run, with_energies

NAMES = ["tail", "head", "middle"]  # by size: head, middle, tail
COUNTS = {"weights": [1, 80, 25], "alphas": [1, 79, 25], "holdout": [0, 0, 0], "test": [10, 10, 0]}
GROUPS = ["few", "many", "medium"]
CONFUSION = [[4, 6, 0], [1, 9, 0], [0, 0, 0]]
BINS = [
    {"low": 0.4, "high": 0.6, "images": 5, "accuracy": 0.4, "confidence": 0.5},
    {"low": 0.8, "high": 1.0, "images": 15, "accuracy": 0.8, "confidence": 0.9},
]
STROKES = r'<path class="(heat s\d)" stroke-opacity="([^"]+)" d="([^"]+)"'
OPERATIONS = ("none", "skip_connect", "sep_conv_3x3")
NODE = [["skip_connect", 0], ["sep_conv_3x3", 1]]
GENOTYPE = {"normal": [NODE], "reduce": [NODE]}


def weights(epochs: int, nodes: int = 1, primitives=OPERATIONS) -> dict:
    """Of both cells: those of skip_connect grow by 0.01 per epoch, by 0.02 on edges from state 1, ..."""
    rows = [
        (epoch, cell, node, state, op, 0.0, 1 / 3 + 0.01 * epoch * (1 + state) * (op == "skip_connect"), 1.0)
        for epoch in range(epochs)
        for cell in ("normal", "reduce")
        for node, state in DartsSpace().edges(nodes)
        for op in primitives
    ]
    return dict(zip(SCHEMAS["trajectory"], map(list, zip(*rows, strict=True)), strict=True))


def history(stage: str, **given) -> dict:
    count = len(next(iter(given.values())))
    base = {"epoch": list(range(count)), "progress": [e / count for e in range(count)]}
    return {column: [None] * count for column in SCHEMAS[f"{stage}_history"]} | base | given


def make_run(method: str, seed: int, **changes) -> Run:
    metrics = {
        "top1": 0.65,
        "balanced_accuracy": 0.65,
        "many": 0.9,
        "medium": None,
        "few": 0.4,
        "ece": 0.1,
        "test_images": 20,
        "calibration": BINS,
        "per_class": [0.4, 0.9, None],
        "confusion": CONFUSION,
        "train_counts": [2, 159, 50],
        "groups": GROUPS,
    }
    searched = history(
        "search",
        weights_loss=[2.0, 1.5, 1.0],
        weights_lr=[0.02, 0.01, 0.001],
        alphas_lr=[0.003] * 3,
        skips_normal=[0, 1, 1],
    )
    pace = {"seconds": 2.0, "images_per_second": 100.0}
    record = {"throughput": [{"epoch": e, **pace} for e in range(3)], "host": "node07"}
    stages = ("search", "extract", "retrain", "evaluate")
    run = Run(
        "d", method, seed, 0,
        metrics=metrics | changes.pop("metrics", {}),
        genotype=GENOTYPE,
        histories={
            "search": searched | changes.pop("search", {}),
            "retrain": history("retrain", loss=[1.0, 0.5]),
        },
        alphas=weights(3),
        records={stage: record_of(stage, **record) for stage in stages},
        cells=dict.fromkeys(("normal", "reduce"), ("", "")),
    )  # fmt: skip
    return replace(run, **changes)


def record_of(stage: str, **facts) -> JobRecord:
    body = {"key": "", "stage": stage, "run": "", "params": {}, "code": "", "inputs": {}, "outputs": {}}
    return JobRecord.of("", Record.sealed(body | {"ended": ""} | facts))


def make_results(
    runs: list[Run], names=NAMES, counts=COUNTS, reference: str | None = "darts", many_above=100, few_below=20
) -> Results:
    report = {"title": "T", "reference": reference, "confidence": 0.95}
    groups = {"many_above": many_above, "few_below": few_below}
    params = {"matrix": {"retrain_seeds": [0], "split_seeds": []}, "datasets": {"d": {"groups": groups}}}
    return Results(report, params, {"d": {"names": names, "counts": counts}}, {"d": record_of("split")}, runs)


def drawn(results: Results, name: str) -> charts.Figure:
    """The figure of that name."""
    every = [f for section in figures.sections(results, "d") for f in section.figures]
    return next(figure for figure in every if figure.name == name)


def cells_of(svg: str) -> dict[tuple[int, int], tuple[str, str]]:
    """(column, row) -> (classes, opacity) of every cell that a heat map's strokes cover, exactly once."""
    found = {}
    for classes, opacity, path in re.findall(
        r'<path class="(heat s\d)" stroke-opacity="([^"]+)" d="([^"]+)"', svg
    ):
        x = y = 0
        for kind, dx, dy, length in re.findall(r"([Mm])(-?\d+) ?(-?\d+)h(\d+)", path):
            x, y = (int(dx), int(dy)) if kind == "M" else (x + int(dx), y + int(dy))
            for column in range(x, x + int(length)):
                assert (column, y) not in found
                found[column, y] = (classes, opacity)
            x += int(length)
    return found


@pytest.mark.parametrize(
    "panel", [*figures_training.SEARCH_PANELS, *figures_training.RETRAIN_PANELS], ids=lambda panel: panel.name
)
def test_the_turned_label_of_an_axis_fits_its_chart(panel):
    height = 210 - 26 - 38  # of the plot: the chart without what is above and below
    assert charts.CHARACTER * len(panel.y_label) <= height


# --- shades -------------------------------------------------------------------------------------------


def test_a_linear_scale_covers_the_range_and_hits_the_given_value():
    shades = heatmaps.linear(0.06, 0.3, through=0.125)  # 0.24 in steps of 0.02
    assert len(shades.labels) == len(shades.bounds) + 1 == 13
    assert (shades.labels[0], shades.labels[-1]) == ("0.065", "0.305")
    assert shades.labels[shades.level(0.125)] == "0.125"
    assert [shades.level(v) for v in (0.0, 0.074, 0.076, 0.3, 1.0)] == [0, 0, 1, 12, 12]


def test_shades_of_nearly_equal_values_have_different_numbers():
    shades = heatmaps.linear(0.1249, 0.12515, through=0.125)  # 0.00025 in steps of 0.000025
    assert shades.labels[:5] == ("0.1249", "0.12492", "0.12495", "0.12498", "0.125")


def test_shades_of_shares_begin_at_their_numbers():
    assert [heatmaps.shares().level(v) for v in (0, 0.99, 1, 4.9, 5, 49, 50, 100)] == [0, 0, 1, 2, 3, 5, 6, 6]


def test_shades_of_changes_are_symmetric():
    shades = heatmaps.changes()
    assert [shades.level(v) for v in (-60, -5, -0.5, 0, 0.5, 5, 60)] == [-6, -3, 0, 0, 0, 3, 6]
    assert [mark.label for mark in shades.marks][5:8] == ["−1", "0", "+1"]
    assert {shades.classes(-3), shades.classes(3)} == {"heat s0", "heat s1"}
    assert shades.opacity(-3) == shades.opacity(3) == "0.5"


def test_bins_are_even_and_cover_everything():
    assert heatmaps.bins(5, 2) == [range(2), range(2, 5)]
    assert heatmaps.bins(3, 25) == [range(1), range(1, 2), range(2, 3)]
    assert [i for places in heatmaps.bins(1000, 50) for i in places] == list(range(1000))


# --- confusions ---------------------------------------------------------------------------------------


def test_confusions_are_means_of_rows_sorted_by_size():
    other = make_run("darts", 1, metrics={"confusion": [[2, 8, 0], [1, 9, 0], [0, 0, 0]]})
    figure = drawn(make_results([make_run("darts", 0), other]), "confusion")
    found = {(true, predicted): value for _, true, predicted, value in figure.data[1]}
    assert found == {
        ("head", "head"): 90, ("head", "middle"): 0, ("head", "tail"): 10,
        ("tail", "head"): 70, ("tail", "middle"): 0, ("tail", "tail"): 30,
    }  # fmt: skip
    assert "no test images" in figure.note
    cells = cells_of(figure.charts[0])
    assert {place: opacity for place, (_, opacity) in cells.items()} == {
        (0, 0): "1", (2, 0): "0.67", (0, 2): "1", (2, 2): "0.83",
    }  # fmt: skip


def test_differences_of_confusions_to_the_reference():
    better = make_run("hlrs", 0, metrics={"confusion": [[6, 4, 0], [1, 9, 0], [0, 0, 0]]})
    figure = drawn(make_results([make_run("darts", 0), better]), "confusion_differences")
    assert cells_of(figure.parts["hlrs"]) == {(0, 2): ("heat s0", "0.83"), (2, 2): ("heat s1", "0.83")}
    assert re.findall(r'class="value[^"]*"[^>]*>([^<]+)', figure.parts["hlrs"]) == ["−20", "+20"]
    assert "difference of confusion matrices. Mean of the diagonal 10 points." in figure.parts["hlrs"]
    assert ">tail as head: −20.0 points<" in figure.parts["hlrs"]
    assert figure.data[0] == ["method", "true", "predicted", "points"]


def test_without_a_reference_every_method_has_its_own_matrix():
    results = make_results([make_run("darts", 0), make_run("hlrs", 0)], reference=None)
    assert [*drawn(results, "confusion").parts] == ["darts", "hlrs"]
    every = {f.name for section in figures.sections(results, "d") for f in section.figures}
    assert not {"confusion_differences", "class_differences"} & every


def many_classes(count: int, method: str = "darts", shift: int = 0) -> Run:
    """Each class is mistaken for the one `shift` ranks below it."""
    confusion = [[0] * count for _ in range(count)]
    for i in range(count):
        confusion[i][min(i + shift, count - 1)] = 5
    return make_run(
        method,
        0,
        metrics={
            "confusion": confusion,
            "per_class": [1 - i / count + 0.1 * (shift > 0) for i in range(count)],
            "groups": ["many"] * (count // 2) + ["few"] * (count - count // 2),
            "train_counts": [count - i for i in range(count)],
        },
    )


def thousand(*runs: Run) -> Results:
    counts = {s: [1000 - i for i in range(1000)] for s in ("weights", "alphas")}
    rest = {"holdout": [0] * 1000, "test": [5] * 1000}
    names = [f"class {i}" for i in range(1000)]
    return make_results([*runs], names, counts | rest, many_above=1000, few_below=1001)


def test_many_classes_are_grouped_with_their_neighbours():
    results = thousand(many_classes(1000), many_classes(1000, "hlrs", shift=5))
    figure = drawn(results, "confusion_differences")
    found = {(true, guess): value for _, true, guess, value in figure.data[1] if value}
    assert found["1–20", "1–20"] == pytest.approx(-25)  # 5 of 20 ranks leave their bin of 20
    assert found["1–20", "21–40"] == pytest.approx(25)
    assert "981–1000" not in {true for true, _ in found}
    assert "20 classes" in drawn(results, "confusion").note
    assert len(figure.charts[0]) < 8_000
    bars = drawn(results, "class_differences")
    assert [row[5] for row in bars.data[1]] == pytest.approx([10.0] * 100)
    assert [row[3] for row in bars.data[1]][:2] == ["1–10", "11–20"]
    assert len(bars.charts[0]) < 8_000


# --- classes and methods ------------------------------------------------------------------------------


def test_differences_of_classes_pair_the_seeds():
    runs = [
        make_run(method, seed, metrics={"per_class": per_class})
        for method, seed, per_class in (
            ("darts", 0, [0.4, 0.9, None]),
            ("darts", 1, [0.2, 0.8, None]),
            ("hlrs", 0, [0.5, 0.9, None]),
            ("hlrs", 1, [0.5, 0.7, None]),
            ("hlrs", 2, [1.0, 1.0, None]),  # darts has no such seed
        )
    ]
    rows = drawn(make_results(runs), "class_differences").data[1]
    assert [(row[3], row[4]) for row in rows] == [("head", "many"), ("middle", "medium"), ("tail", "few")]
    assert rows[0][5:] == pytest.approx([-5, -10, 0])
    assert rows[1][5] is None
    assert rows[2][5:] == pytest.approx([20, 10, 30])


def test_intervals_of_methods():
    runs = [make_run("darts", i, metrics={"few": v}) for i, v in enumerate((0.2, 0.3, 0.4))]
    figure = drawn(make_results(runs), "methods")
    assert [*figure.parts] == ["balanced_accuracy", "top1", "many", "few"]  # none has medium-shot accuracy
    row = next(row for row in figure.data[1] if row[:4] == ["few", "darts", 0, 2])
    half = 4.3027 * 0.1 / 3**0.5
    assert row[4:] == pytest.approx([0.4, 0.3, 0.3 - half, 0.3 + half], abs=1e-4)
    assert "Highest mean: darts: 30.0 %, interval 5.2 to 54.8." in figure.parts["few"]


# million weights, accuracies by seed; b: smaller and better than c, as good as the larger e; d: largest, best
SIZED = {
    "a": (0.25, [0.5]),
    "b": (0.5, [0.6, 0.7, 0.8]),
    "c": (1, [0.6]),
    "d": (4, [0.9]),
    "e": (2, [0.6, 0.7, 0.8]),
}


def sized(method: str, seed: int, millions: float, accuracy: float) -> Run:
    size = {"weights": round(1e6 * millions), "multiply_adds": round(1e8 * millions)}
    return make_run(method, seed, metrics={"balanced_accuracy": accuracy} | size)


def test_the_pareto_front_of_accuracy_and_weights():
    runs = [sized(m, i, size, x) for m, (size, own) in SIZED.items() for i, x in enumerate(own)]
    figure = drawn(make_results(runs), "sizes")
    rows = {row[0]: row[1:] for row in figure.data[1]}
    assert {method for method, row in rows.items() if row[-1]} == {"a", "b", "d"}
    half = 4.3027 * 0.1 / 3**0.5
    assert rows["b"] == pytest.approx([5e5, 5e7, 0.7, 0.7 - half, 0.7 + half, 1], abs=1e-4)
    assert rows["c"] == [1e6, 1e8, 0.6, None, None, 0]
    svg = figure.parts["weights"]
    spots = {
        kind: [(float(x), float(y)) for x, y in re.findall(rf'class="{kind}" cx="([^"]+)" cy="([^"]+)"', svg)]
        for kind in ("mark", "chosen")
    }
    assert (len(spots["mark"]), len(spots["chosen"])) == (3, 2)
    d, b, a = sorted(spots["mark"], key=lambda spot: spot[1])  # the most accurate is drawn highest
    assert d[0] - b[0] == pytest.approx(3 * (b[0] - a[0]), abs=0.3)  # a factor of 8, and one of 2
    assert a[1] - b[1] == pytest.approx(b[1] - d[1], abs=0.2)  # 20 points each
    steps = re.search(
        r'class="guide" d="M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H([\d.]+)V([\d.]+)H', svg
    ).groups()
    assert [float(n) for n in steps] == [*a, *b, *d]
    assert "On the front: a, b, d." in svg
    assert "<title>b: 70.0 %, 0.500 million weights</title>" in svg
    equal = [sized(method, 0, 1, 0.5) for method in ("a", "b")]
    assert [row[-1] for row in drawn(make_results(equal), "sizes").data[1]] == [1, 1]  # neither is better


def test_accuracy_against_the_energy_of_multiplications():
    """By hand: 100 million products of 3.7 pJ are 370 µJ; c's energy is not known."""
    relative = {"a": {}, "b": {"energy_to_float32": 0.5}, "c": {"energy_to_float32": None}}
    counts = {"balanced_accuracy": 0.5, "weights": 1, "multiply_adds": 10**8}
    metrics = [counts | own for own in relative.values()]
    runs = [make_run(m, 0, metrics=own) for m, own in zip(relative, with_energies(metrics), strict=True)]
    figure = drawn(make_results(runs), "energies")
    rows = {row[0]: row[1:] for row in figure.data[1]}
    assert rows["a"][:2] == pytest.approx([370e6, 1e8])  # pJ
    assert rows["b"][:2] == pytest.approx([185e6, 1e8])
    assert "c" not in rows
    assert (
        "<title>b: 50.0 %, 185 µJ for the multiplications of an image</title>"
        in (figure.parts["multiplication_energy"])
    )
    assert [method for method, row in rows.items() if row[-1]] == ["b"]
    assert "Not known, so not drawn: c." in figure.note
    assert with_energies(metrics[:1]) == metrics[:1]  # nothing approximate, so the only figure is of sizes


def test_names_of_points_do_not_overlap_and_stay_in_the_chart():
    """Ten methods at nearly two places, one of them at the right end; text is 12 pixels high."""
    runs = [sized(f"{'method ' * 6}{i}", 0, 1 + i % 2, 0.5 + 0.001 * i) for i in range(10)]
    runs.append(sized("far above", 0, 1, 0.9))
    svg = drawn(make_results(runs), "sizes").parts["weights"]
    found = re.findall(r'x="([^"]+)" y="([^"]+)" text-anchor="(start|end)">method', svg)
    assert len(found) == 10
    boxes = []
    for x, y, anchor in found:
        left = float(x) if anchor == "start" else float(x) - 43 * charts.CHARACTER
        boxes.append((left, left + 43 * charts.CHARACTER, float(y)))
    assert all(left >= 0 and right <= 720 for left, right, _ in boxes)
    for i, (left, right, y) in enumerate(boxes):
        for other_left, other_right, other in boxes[:i]:
            assert abs(y - other) >= 11.9 or right < other_left or other_right < left


def test_networks_that_were_not_counted_have_no_figure_of_sizes():
    every = [f.name for s in figures.sections(make_results([make_run("darts", 0)]), "d") for f in s.figures]
    assert "sizes" not in every
    assert "methods" in every


def test_an_interval_beyond_the_chart_has_no_cap_there():
    axes = charts.Axes("t", "x", "", (0, 100), (0, 1), y_names=["a"])
    caps = [
        re.search(r'class="axis" d="(M[^"]*v8[^"]*)"', charts.interval_chart([row], axes))
        .group(1)
        .count("v8")
        for row in (charts.Spread("a", [50], 50, (40, 60)), charts.Spread("a", [50], 50, (40, 160)))
    ]
    assert caps == [2, 1]


def test_the_outline_of_many_bars_has_one_step_for_equal_ones():
    axes = charts.Axes("", "class", "images", (0, 1), (0, 100), width=400)
    svg = charts.bar_chart({"a": [100] * 300 + [50] * 300, "b": [0] * 600}, ["c"] * 600, axes, [])
    path = re.search(r'class="fill s0" d="([^"]*)"', svg).group(1)
    heights = [float(v) for v in re.findall(r"V([\d.]+)", path)]
    assert len(heights) == 3  # two steps out, one back
    assert heights[2] - heights[0] == pytest.approx(2 * (heights[2] - heights[1]), abs=0.2)


def test_calibration_of_all_seeds_together():
    other = [{"low": 0.8, "high": 1.0, "images": 5, "accuracy": 0.4, "confidence": 1.0}]
    runs = [make_run("darts", 0), make_run("darts", 1, metrics={"calibration": other, "ece": 0.2})]
    figure = drawn(make_results(runs), "calibration")
    first, second = figure.data[1]
    assert first == ["darts", 0.4, 0.6, 5, 0.4, 0.5]
    assert second[3:] == pytest.approx([20, 0.7, 0.925])  # (15 · 0.8 + 5 · 0.4)/20, (15 · 0.9 + 5 · 1)/20
    assert "error 15.0 %" in figure.charts[0]
    assert figures_results.pool([BINS]) == BINS


# --- curves -------------------------------------------------------------------------------------------


def test_collapse_is_the_first_epoch_with_two_skip_connections():
    skips = {"never": [0, 1, 1], "back": [1, 2, 1], "late": [0, 1, 3]}
    runs = {
        name: make_run("darts", i, search={"skips_normal": s}) for i, (name, s) in enumerate(skips.items())
    }
    assert {name: figures_training.collapse(run) for name, run in runs.items()} == {
        "never": None, "back": 1, "late": 2,
    }  # fmt: skip
    figure = drawn(make_results([*runs.values()]), "search_skips")
    assert "darts: 2 of 3 (seed 1 in epoch 1, seed 2 in epoch 2); 1 at the end." in figure.note
    assert figure.charts[0].count('<circle class="mark"') == 2
    assert "Collapse in 2 of 3 searches." in figure.charts[0]


@pytest.mark.parametrize(
    ("column", "name"),
    [("eigenvalue", "eigenvalue"), ("nonzero_normal", "nonzero"), ("slope_direct", "slope")],
)
def test_what_only_some_searches_have_is_drawn_where_there_is_some(column, name):
    results = make_results([make_run("darts", 0), make_run("hlrs", 0, search={column: [0.1, None, 0.3]})])
    figure = drawn(results, f"search_{name}")
    assert [*figure.parts] == ["hlrs"]
    path = re.search(r'<path class="line s0" d="([^"]*)"', figure.parts["hlrs"]).group(1)
    assert (path.count("M"), path.count("l")) == (2, 0)  # two points, a gap between them
    assert [row[:5] for row in figure.data[1]] == [
        ["darts", 0, 0, 0, None], ["darts", 0, 0, 1, None], ["darts", 0, 0, 2, None],
        ["hlrs", 0, 0, 0, 0.1], ["hlrs", 0, 0, 1, None], ["hlrs", 0, 0, 2, 0.3],
    ]  # fmt: skip
    none = figures.sections(make_results([make_run("darts", 0)]), "d")
    assert f"search_{name}" not in {f.name for section in none for f in section.figures}


def test_the_epoch_at_which_the_watch_stopped_the_alphas_is_noted():
    runs = [make_run("darts", 0), make_run("hlrs", 3, search={"stopped": [0, 1, 1]})]
    assert [figures_training.stopped(run) for run in runs] == [None, 1]
    assert "hlrs (seed 3 after epoch 1)" in drawn(make_results(runs), "search_skips").note


def test_retrainings_have_a_line_each_and_share_the_search():
    first = make_run("darts", 0)
    again = first.histories | {"retrain": history("retrain", loss=[0.9, 0.4])}
    results = make_results([first, replace(first, retrain_seed=3, histories=again)])
    assert [row[:5] for row in drawn(results, "retrain_loss").data[1]] == [
        ["darts", 0, 0, 0, 0], ["darts", 0, 0, 0, 1], ["darts", 0, 0, 3, 0], ["darts", 0, 0, 3, 1],
    ]  # fmt: skip
    searched = drawn(results, "search_losses").data[1]
    assert [row[:4] for row in searched] == [["darts", 0, 0, e] for e in range(3)]


def test_many_runs_get_few_lines():
    methods = {f"m{i}": [make_run(f"m{i}", s) for s in range(4)] for i in range(26)}
    assert figures_training.single_lines(methods) == 3
    assert figures_training.single_lines({"m0": methods["m0"]}) == 10


def test_coupled_rates_and_equal_lines_are_drawn_once_and_named():
    coupled = {"alphas_lr": [0.02, 0.01, 0.005], "mixing": [1.0, 0.5, 0.25]}
    runs = [make_run("hlrs", seed, search=coupled) for seed in (0, 1)] + [make_run("darts", 0)]
    figure = drawn(make_results(runs), "search_rates")
    hlrs, darts = figure.parts["hlrs"], figure.parts["darts"]
    assert re.findall(r'text-anchor="start">([^<]+)</text>', hlrs) == ["hlrs", "w", "α = m"]
    assert re.findall(r'text-anchor="start">([^<]+)</text>', darts) == ["darts", "w", "α"]
    assert len(re.findall(r'<path class="line', hlrs)) == 3
    assert "(largest 0.02), and 1 equal" in hlrs
    assert "w 0.02, α 0.02 (hlrs); w 0.02, α 0.003 (darts)" in figure.note


def test_many_seeds_get_a_median_and_a_range():
    runs = [make_run("darts", i, search={"weights_loss": [float(i), 2.0, None]}) for i in range(11)]
    lines, areas = figures_training.curves(figures_training.SEARCH_PANELS[1], "search", runs)
    assert [line.ys for line in lines] == [[5.0, 2.0, None]]
    assert (areas[0].lows, areas[0].highs) == ([0.0, 2.0, None], [10.0, 2.0, None])
    few, _ = figures_training.curves(figures_training.SEARCH_PANELS[1], "search", runs[:10])
    assert len(few) == 10
    again = [
        *runs,
        *(replace(runs[0], seed=11 + i) for i in range(4)),
    ]  # equal lines count as often as they occur
    lines, _ = figures_training.curves(figures_training.SEARCH_PANELS[1], "search", again)
    assert lines[0].ys[0] == 3.0


def test_a_range_runs_along_the_highs_and_back_along_the_lows():
    area = charts.Range("r", 0, [0, 1, 2], [0.0, None, 1.0], [2.0, 3.0, 3.0])
    axes = charts.Axes("t", "x", "y", (0, 2), (0, 4))
    path = re.search(r'class="range s0" d="([^"]*)"', charts.line_chart([], axes, [area])).group(1)
    numbers = [float(v) for v in re.findall(r"-?\.?\d+\.?\d*", path)]
    corners = [(sum(numbers[0 : i + 1 : 2]), sum(numbers[1 : i + 2 : 2])) for i in range(0, len(numbers), 2)]
    assert len(corners) == 4  # the gap in the middle is bridged
    (left, high), (right, higher), (end, low), (start, lowest) = corners
    assert (left, right) == (pytest.approx(start), pytest.approx(end))
    # upwards is less; a unit is a quarter of the axis
    assert low - higher == pytest.approx(lowest - high, abs=0.3)  # 2 units each
    assert lowest - low == pytest.approx((low - higher) / 2, abs=0.3)  # 1 unit


def test_long_lines_are_thinned_and_keep_their_end():
    places = charts.thinned(601)
    assert len(places) == 86  # every seventh
    assert places[-1] == 600
    assert {b - a for a, b in pairwise(places)} == {7}
    assert charts.thinned(100) == list(range(100))


# --- architecture weights -----------------------------------------------------------------------------


def test_maps_show_the_weights():
    run = make_run("darts", 0)
    found = figures_training.edges(run)["reduce"]
    assert [edge.label for edge in found] == ["0←k-2", "0←k-1"]
    assert [edge.chosen for edge in found] == ["skip_connect", "sep_conv_3x3"]
    assert found[1].rows["skip_connect"] == pytest.approx([1 / 3, 1 / 3 + 0.02, 1 / 3 + 0.04])
    svg = figures_training.maps([run]).chart(run)
    # from 1/3 to 1/3 + 0.04 in steps of 0.005: eight above the lowest, which is not drawn; row 1:
    # skip_connect; a map is 3 columns wide and 1 from the next; the reduction cell begins at column 9
    assert {place: opacity for place, (_, opacity) in cells_of(svg).items()} == {
        (first + column, 1): opacity
        for first in (0, 9)
        for column, opacity in ((1, "0.25"), (2, "0.5"), (5, "0.5"), (6, "1"))
    }
    assert svg.count("<title>") == 4
    assert "0←k-1: largest at the end skip_connect, 0.37; in the genotype: sep_conv_3x3" in svg


def test_weights_that_no_training_moved_do_not_set_the_scale():
    run = make_run("darts", 0)
    column = dict(run.alphas)
    loud = {**column, "weight": [1.0 if op == "skip_connect" else 0.0 for op in column["primitive"]]}
    still = replace(make_run("random", 0), alphas=loud, histories={"search": {"epoch": []}})
    assert figures_training.maps([run, still]).shades == figures_training.maps([run]).shades
    assert figures_training.maps([still]).shades.bounds[-1] > 0.9


def test_names_of_classes_stand_below_differences_and_ranks_of_many():
    def chart(names, ranks):
        bars = [charts.Bar(name, 0, 1.0, 0.0, 2.0) for name in names]
        axes = charts.Axes("t", "class, by size", "points", (0, 1), (0, 2))
        return ElementTree.fromstring(charts.difference_chart(bars, names, ranks, axes, []))

    def labels(root):
        return [e.text for e in root.iter("text") if e.get("class") == "label"]

    assert {"ant", "bee", "cat"} <= {*labels(short := chart(["ant", "bee", "cat"], 3))}
    turned = chart(long := ["wild flower", "automobile", "brick", "gravel", "grass", "lamp"], 6)
    assert {*long} <= {*labels(turned)}
    # 11 characters of 6.2 pixels
    assert int(turned.get("height")) - int(short.get("height")) == 68
    assert not {"class 0"} & {*labels(chart([f"class {i}" for i in range(40)], 40))}


def test_many_epochs_are_grouped():
    run = replace(make_run("darts", 0), alphas=weights(51))
    rows = figures_training.edges(run)["normal"][0].rows["skip_connect"]
    assert len(rows) == 25
    assert rows[0] == pytest.approx(1 / 3 + 0.005)  # epochs 0 and 1
    assert rows[-1] == pytest.approx(1 / 3 + 0.49)  # epochs 48, 49 and 50
    figure = figures_training.maps([run]).figure("maps", "t", [run])
    assert (figure.data[0][7], figure.data[0][-1]) == ("epoch_0_to_1", "epoch_48_to_50")
    assert figure.data[1][1][:7] == [0, 0, "normal", 0, 0, "skip_connect", 1]


def searches(seeds: int) -> Results:
    """As large as DARTS's: 50 epochs, 14 edges per cell, 8 primitives."""
    alphas = weights(51, nodes=4, primitives=DartsSpace().primitives)
    genotype = {"normal": [NODE] * 4, "reduce": [NODE] * 4}
    runs = [
        replace(make_run(m, s), alphas=alphas, genotype=genotype)
        for m in ("darts", "hlrs")
        for s in range(seeds)
    ]
    return make_results(runs)


def test_the_page_draws_the_first_seed_and_the_archive_has_all():
    results = searches(3)
    assert len(figures_training.maps(results.runs[:1]).chart(results.runs[0]).encode()) < 12_000
    figure = drawn(results, "maps_hlrs")
    assert [*figure.parts] == ["seed_0", "seed_1", "seed_2"]
    assert figure.charts == [figure.parts["seed_0"]]
    assert {tuple(row[:2]) for row in figure.data[1]} == {(0, 0), (0, 1), (0, 2)}
    shown = figures.cells(
        replace(results, runs=[replace(run, cells={"normal": ("normal cell", "x")}) for run in results.runs]),
        "d",
    )
    assert [run.name for run in shown] == ["d/darts/0", "d/hlrs/0"]


# --- files --------------------------------------------------------------------------------------------


def unpacked(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def test_the_archive_holds_every_figure_as_svg_and_csv_and_depends_on_results_only(tmp_path):
    cells = {cell: (f"{cell} cell", draw_cell([NODE], cell, [2])) for cell in ("normal", "reduce")}
    runs = [replace(make_run(method, seed), cells=cells) for method in ("darts", "hlrs") for seed in (0, 1)]
    figures.archive(make_results(runs), tmp_path / "a.zip")
    other_host = {stage: record_of(stage, host="other") for stage in runs[0].records}
    elsewhere = [replace(run, records=other_host) for run in runs]
    figures.archive(make_results(elsewhere), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    found = unpacked(tmp_path / "a.zip")
    assert {
        "d/confusion_differences/hlrs.svg",
        "d/maps_darts/seed_1.svg",
        "d/calibration.csv",
        "d/cells_hlrs/seed_1_normal.svg",
    } <= {*found}
    assert not [name for name in found if "speed" in name]
    for name, text in found.items():
        if name.endswith(".svg"):
            root = ElementTree.fromstring(text)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "var(" not in text
            assert "prefers-color-scheme" not in text  # a paper has one scheme
            assert f"{Path(name).parent}.csv" in found or "/cells_" in name
    rows = list(csv.DictReader(io.StringIO(found["d/calibration.csv"])))
    assert rows[0] == {
        "method": "darts", "low": "0.4", "high": "0.6", "images": "10",
        "accuracy": "0.4", "confidence": "0.5",
    }  # fmt: skip
    other = [make_run("darts", 0), make_run("hlrs", 0, metrics={"ece": 0.2})]
    figures.archive(make_results(other), tmp_path / "c.zip")
    assert (tmp_path / "a.zip").read_bytes() != (tmp_path / "c.zip").read_bytes()


def test_a_file_has_its_legend_below_the_chart():
    chart = charts.line_chart(
        [charts.Line("l", 0, [0, 1], [1, 2])], charts.Axes("t", "x", "y", (0, 1), (0, 2))
    )
    text = charts.document(chart, charts.marks(["first", "second " * 7], "line"))
    root = ElementTree.fromstring(text)
    assert root.get("viewBox") == "0 0 320 250"  # 210, 6 and two rows of 17
    assert root.get("height") == "250"
    legend = [
        float(e.get("y")) for e in root.iter("{http://www.w3.org/2000/svg}text") if "st" in (e.text or "")
    ]
    assert legend[-1] == 225


def test_page_and_files_have_the_same_colours_and_style_every_class():
    page = Path(figures.__file__).with_name("page.html.j2").read_text()
    assert all(f"--{name}: {value};" in page for name, value in charts.LIGHT.items())
    runs = [sized("hlrs", i, 2, 0.5 + 0.1 * i) for i in (0, 1)]
    results = make_results([sized("darts", 0, 1, 0.6), *runs])
    every = [f for section in figures.sections(results, "d") for f in section.figures]
    used = {
        name
        for figure in every
        for text in (figure.legend, *figure.charts)
        for classes in re.findall(r'<(?:path|text|rect|circle|g) class="([^"]+)"', text)
        for name in classes.split()
    }
    assert {"heat", "chosen", "mark", "seed", "guide", "frame"} <= used
    for name in used:
        assert re.search(rf"svg [^{{]*\.{name}\b", page), name
        assert f".{name}" in charts.COLOURS.template + charts.SHAPES, name


# --- generated features -------------------------------------------------------------------------------


def features(frechet):
    """Of the three classes; what was generated for the two smaller ones."""
    return {
        "class": [0, 0, 1, 1, 2, 2],
        "origin": ["images", "generated"] * 3,
        "count": [2, 157, 159, 0, 50, 109],
        "frechet": [None, frechet, None, None, None, 0.5],
        "x": [[1.0, 2.0], [1.5], [0.0], [], [3.0], [3.5]],
        "y": [[0.0, 1.0], [0.5], [0.0], [], [-1.0], [-1.5]],
    }


def test_generated_features_are_drawn_beside_the_images_smallest_class_first():
    runs = [
        make_run("darts", 0),
        make_run("gen", 0, features=features(4.0)),
        make_run("gen", 1, features=features(6.0)),
    ]
    picture, distances = (drawn(make_results(runs), name) for name in ("features", "frechet"))
    assert [*picture.parts] == ["gen_0", "gen_2", "gen_1"]  # 2, 50 and 159 images
    assert picture.parts["gen_0"].count("h0") == 3
    assert [row for row in picture.data[1] if row[1] == 2] == [
        ["gen", 2, NAMES[2], "images", 3.0, -1.0],
        ["gen", 2, NAMES[2], "generated", 3.5, -1.5],
    ]
    assert distances.data[1] == [  # means of two seeds
        ["gen", 0, NAMES[0], 2, 157, 5.0],
        ["gen", 1, NAMES[1], 159, 0, None],
        ["gen", 2, NAMES[2], 50, 109, 0.5],
    ]
    assert f"{NAMES[0]}: 5, 2 images, 157 generated" in distances.parts["gen"]


def test_without_two_features_of_a_class_the_figure_says_so_in_place_of_a_chart():
    single = features(None) | {"count": [2, 1, 159, 0, 50, 1], "frechet": [None] * 6}
    runs = [make_run("gen", 0, features=features(4.0)), make_run("few", 0, features=single)]
    both, alone = (drawn(make_results(found), "frechet") for found in (runs, runs[1:]))
    assert ([*both.parts], [*alone.parts]) == (["gen"], [])
    for figure in (both, alone):
        assert "Not drawn: few, " in figure.note
    assert [row[4:] for row in alone.data[1]] == [[1, None], [0, None], [1, None]]
    assert "Not drawn" not in drawn(make_results(runs[:1]), "frechet").note


def test_without_generated_features_there_is_no_section():
    titles = [section.title for section in figures.sections(make_results([make_run("darts", 0)]), "d")]
    assert "Generated features" not in titles
