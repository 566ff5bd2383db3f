"""Figures over the epochs: curves of search and retraining, collapse, architecture weights by edge."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hlrs.report import charts, heatmaps
from hlrs.report.charts import Figure
from hlrs.report.runs import PLACE, REPEATED, Columns, Methods, Run, finite

SINGLE_LINES = 10  # seeds that have a line each; more are drawn as their median and range
MOST_RUNS, FEW_LINES = 100, 3  # a figure of more runs has fewer single lines per method
COLLAPSED = 2  # skip connections in the normal cell: criterion 1 of DARTS+ (Liang et al. 2019)


@dataclass(frozen=True)
class Threshold:
    """A horizontal line across the chart, and the points where runs first reach it."""

    value: float
    label: str
    mark: str  # the legend of the points
    reached: Callable[[list[Run]], list[charts.Point]]


@dataclass(frozen=True)
class Panel:
    """A figure of curves over the epochs, one chart per method, one line per seed.

    `columns`: column -> label; `shares`: columns drawn relative to the run's largest value; `ends`: a label
    where each column's lines end; `broad`: the column drawn as broad lines below the others; `optional`: left
    out where no run has a number; `measured`: read from the job's record, not its history, so not in
    figures.zip.
    """

    name: str
    title: str
    y_label: str
    columns: dict[str, str]
    shares: tuple[str, ...] = ()
    scale: float = 1.0
    zero: bool = False
    whole: bool = False  # the y axis counts
    ends: tuple[str, ...] = ()
    broad: int | None = None
    note: str | Callable[[Methods], str] = ""
    threshold: Threshold | None = None
    optional: bool = False
    measured: bool = False

    def values(self, stage: str, run: Run) -> Columns:
        """Return the columns of a run, `epoch` among them."""
        if not self.measured:
            return run.histories[stage]
        throughput = run.records[stage].throughput
        return {"epoch": [*throughput], "images_per_second": [*throughput.values()]}


# --- collapse -----------------------------------------------------------------------------------------


def collapse(run: Run) -> int | None:
    """Return the first epoch with two or more skip connections in the normal cell's genotype, or None.

    Criterion 1 of DARTS+ (Liang et al. 2019, arXiv 1909.06035), which stops a search there.
    """
    history = run.histories["search"]
    found = zip(history["epoch"], history["skips_normal"], strict=True)
    return next((epoch for epoch, skips in found if skips is not None and skips >= COLLAPSED), None)


def _collapse_points(runs: list[Run]) -> list[charts.Point]:
    """Return the first collapsed epoch of each search that collapses."""
    found = []
    for run in runs:
        epoch, history = collapse(run), run.histories["search"]
        if epoch is not None:
            skips = history["skips_normal"][history["epoch"].index(epoch)]
            found.append(charts.Point(f"{run.name}: collapsed from epoch {epoch}", 0, epoch, skips))
    return found


def _collapse_note(methods: Methods) -> str:
    """Explain collapse, and list the searches that collapse."""
    sentences = []
    for method, runs in methods.items():
        searched = [run for run in runs if run.histories["search"]["epoch"]]
        epochs = [(run, epoch) for run in searched if (epoch := collapse(run)) is not None]
        if not epochs:
            sentences += [f"{method}: none."] if searched else []
            continue
        last = sum(run.histories["search"]["skips_normal"][-1] >= COLLAPSED for run, _ in epochs)
        if len(epochs) <= 5:
            which = ", ".join(f"{run.label} in epoch {epoch}" for run, epoch in epochs)
        else:
            when = [epoch for _, epoch in epochs]
            which = f"in epochs {min(when)} to {max(when)}, median {statistics.median(when):g}"
        sentences.append(f"{method}: {len(epochs)} of {len(searched)} ({which}); {last} at the end.")
    return (
        "Collapse is criterion 1 of DARTS+ (Liang et al. 2019): two or more skip connections in the genotype"
        " of the normal cell; a dot marks the first such epoch. Searches that collapse: "
        + " ".join(sentences + _stop_notes(methods))
    )


def stopped(run: Run) -> int | None:
    """Return the epoch after which early stopping froze the alphas; None if it did not."""
    history = run.histories["search"]
    rested = zip(history["epoch"], history.get("stopped", []), strict=False)
    return next((epoch for epoch, rests in rested if rests), None)


def _stop_notes(methods: Methods) -> list[str]:
    """List the searches whose alphas early stopping froze, and when."""
    said = []
    for method, runs in methods.items():
        own = [f"{run.label} after epoch {e}" for run in runs if (e := stopped(run)) is not None]
        said += [f"{method} ({', '.join(own)})"] if own else []
    return [f"Early stopping froze the alphas of {'; '.join(said)}."] if said else []


# --- panels -------------------------------------------------------------------------------------------


def _rates_note(methods: Methods) -> str:
    """Describe the largest rates, to which the curves are relative, and the methods that have them."""
    having: dict[str, list[str]] = {}
    for name, runs in methods.items():
        columns = [run.histories["search"] for run in runs]
        weights, alphas = (
            max((v for found in columns for v in finite(found[rate])), default=None)
            for rate in ("weights_lr", "alphas_lr")
        )
        if weights is not None and alphas is not None:
            having.setdefault(f"w {weights:.3g}, α {alphas:.3g}", []).append(name)
    said = "; ".join(
        f"{rates}" + (f" ({', '.join(names)})" if len(having) > 1 else "") for rates, names in having.items()
    )
    return f"Largest rates: {said}. “α = m”: the architecture’s rate follows the mixing coefficient."


SPEED = Panel(
    "speed",
    "Speed",
    "images per second",
    {"images_per_second": "images per second"},
    zero=True,
    note="Not in figures.zip, which depends on the results alone.",
    measured=True,
)
RATES = Panel(
    "rates",
    "Learning rates and mixing coefficient",
    "rate ÷ its largest; m",
    {
        "weights_lr": "learning rate of the weights (w)",
        "alphas_lr": "learning rate of the architecture (α)",
        "mixing": "mixing coefficient (m)",
    },
    shares=("weights_lr", "alphas_lr"),
    zero=True,
    ends=("w", "α", "m"),
    broad=2,
    note=_rates_note,
)
SKIPS = Panel(
    "skips",
    "Skip connections",
    "in the genotype",
    {"skips_normal": "normal cell", "skips_reduce": "reduction cell"},
    zero=True,
    whole=True,
    note=_collapse_note,
    threshold=Threshold(COLLAPSED, "collapse", "first epoch of a collapse", _collapse_points),
)
EIGENVALUE = Panel(
    "eigenvalue",
    "Dominant eigenvalue of the architecture’s Hessian",
    "eigenvalue",
    {"eigenvalue": "estimate per epoch"},
    zero=True,
    note="Of the loss on the architecture images, by power iteration. Where it grows steeply, discretising"
    " the architecture tends to cost accuracy (Zela et al. 2020).",
    optional=True,
)
NONZERO = Panel(
    "nonzero",
    "Operations with a weight above 0",
    "per edge, a mean",
    {"nonzero_normal": "normal cell", "nonzero_reduce": "reduction cell"},
    zero=True,
    note="By sparsemax, whose temperature falls in steps.",
    optional=True,
)
SLOPE = Panel(
    "slope",
    "Estimated slope of the architecture’s loss",
    "mean size in an epoch",
    {"slope_direct": "direct part", "slope_implicit": "through the weights"},
    zero=True,
    note="Of ZO-DARTS+, along directions drawn at random. If the part through the weights is far larger than"
    " with windows of one or two steps, it is noise of the difference between weights.",
    optional=True,
)
SEARCH_PANELS = (
    RATES,
    Panel("losses", "Losses", "loss", {"weights_loss": "weight steps", "alphas_loss": "architecture steps"}),
    Panel(
        "entropy",
        "Entropy of the architecture",
        "nats",
        {"entropy_normal": "normal cell", "entropy_reduce": "reduction cell"},
    ),
    NONZERO,
    SKIPS,
    EIGENVALUE,
    SLOPE,
    Panel(
        "accuracy",
        "Accuracy during the search",
        "per cent",
        {"weights_accuracy": "weight steps", "alphas_accuracy": "architecture steps"},
        scale=100,
    ),
    SPEED,
)
RETRAIN_PANELS = (
    Panel(
        "loss",
        "Loss",
        "loss",
        {"loss": "training images", "holdout_nll": "holdout, cross-entropy"},
        zero=True,
    ),
    Panel(
        "accuracy",
        "Accuracy",
        "per cent",
        {"accuracy": "training images", "holdout_accuracy": "holdout"},
        scale=100,
    ),
    SPEED,
)


# --- curves -------------------------------------------------------------------------------------------


def search_panels(methods: Methods) -> list[Panel]:
    """Return the panels to draw of these searches."""
    runs = [run for own in methods.values() for run in own]
    return [panel for panel in SEARCH_PANELS if not panel.optional or _known(panel, "search", runs)]


def _known(panel: Panel, stage: str, runs: list[Run]) -> bool:
    return any(finite(panel.values(stage, run)[column]) for run in runs for column in panel.columns)


def curves_figure(panel: Panel, stage: str, methods: Methods) -> Figure:
    """Draw the charts of a panel on common axes; a method without such data has none."""
    most, threshold = single_lines(methods), panel.threshold
    drawn = {name: curves(panel, stage, runs, most) for name, runs in methods.items()}
    drawn = {name: found for name, found in drawn.items() if found[0]}
    lines = [line for found, _ in drawn.values() for line in found]
    areas = [area for _, found in drawn.values() for area in found]
    ys = [y for line in lines for y in line.ys] + [y for a in areas for y in (*a.lows, *a.highs)]
    axes = charts.Axes(
        "",
        "epoch",
        panel.y_label,
        charts.extent(x for line in lines for x in line.xs),
        charts.extent([*ys, *([threshold.value + 1] if threshold else [])], zero=panel.zero),
        whole=True,
        whole_y=panel.whole,
        room=charts.CHARACTER * max((len(line.end) for line in lines), default=0),
    )
    parts = {}
    for name, (found, ranges) in drawn.items():
        said, points = _last(panel, stage, methods[name]), []
        if threshold:
            points = threshold.reached(methods[name])
            said = f"{threshold.label.capitalize()} in {len(points)} of {len(methods[name])} searches. {said}"
        guides = [(threshold.value, threshold.label)] if threshold else []
        own = replace(axes, title=name, summary=said)
        parts[name] = charts.line_chart(found, own, ranges, guides, points)
    return Figure(
        f"{stage}_{panel.name}",
        panel.title,
        _curve_marks(panel, {line.series for line in lines}),
        parts,
        panel.note if isinstance(panel.note, str) else panel.note(methods),
        data=None if panel.measured else _curves_table(panel, stage, methods),
    )


def _last(panel: Panel, stage: str, runs: list[Run]) -> str:
    """Describe the last values, in words."""
    said = []
    for series, (column, label) in enumerate(panel.columns.items()):
        ends = [finite(line.ys)[-1] for line in _lines(panel, series, column, label, stage, runs)]
        share = " ÷ its largest" if column in panel.shares else ""
        said += [f"{label}{share} {statistics.fmean(ends):.3g}"] if ends else []
    return f"Last values, mean over the seeds: {', '.join(said)}."


def _curve_marks(panel: Panel, used: set[int]) -> list[charts.Mark]:
    marks = charts.marks([*panel.columns.values()], "line")
    if panel.broad is not None:
        mark = marks[panel.broad]
        marks[panel.broad] = charts.Mark(mark.label, f"line broad s{panel.broad}", mark.path)
    if panel.threshold:
        used = used | {len(marks)}
        marks.append(charts.Mark(panel.threshold.mark, "mark", "M9 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"))
    return [mark for i, mark in enumerate(marks) if i in used]


def _curves_table(panel: Panel, stage: str, methods: Methods) -> charts.Table:
    """Return the values of the lines at the epochs that are drawn."""
    rows: list[Sequence[Any]] = []
    place = PLACE[1:] if stage in REPEATED else PLACE[1:-1]
    for runs in methods.values():
        for run in runs:
            columns, named = run.histories[stage], [getattr(run, name) for name in place]
            rows += [
                [*named, columns["epoch"][i], *(columns[name][i] for name in panel.columns)]
                for i in charts.thinned(len(columns["epoch"]))
            ]
    return [*place, "epoch", *panel.columns], rows


def single_lines(methods: Methods) -> int:
    """Return the most seeds per method that have a line each."""
    return SINGLE_LINES if sum(map(len, methods.values())) <= MOST_RUNS else FEW_LINES


def curves(
    panel: Panel, stage: str, runs: list[Run], most: int = SINGLE_LINES
) -> tuple[list[charts.Line], list[charts.Range]]:
    """Return the lines of a method, broad ones first; more than `most` become a median and a range."""
    lines: list[charts.Line] = []
    areas: list[charts.Range] = []
    for series, (column, label) in enumerate(panel.columns.items()):
        every = _lines(panel, series, column, label, stage, runs)
        found = _distinct(every)
        if len(found) > most:
            median, area = _median(every, label, series)
            found, areas = [median], [*areas, area]
        lines += found
    if panel.ends:
        lines = _join_ends(lines)
    return sorted(lines, key=lambda line: line.kind == "line"), areas


def _lines(
    panel: Panel, series: int, column: str, label: str, stage: str, runs: list[Run]
) -> list[charts.Line]:
    """Return one line per run that has a number in this column."""
    lines = []
    for run in runs:
        columns = panel.values(stage, run)
        known = finite(columns[column])
        if not known:
            continue
        largest = max(known) if column in panel.shares else 1 / panel.scale
        note = f" (largest {largest:.3g})" if column in panel.shares else ""
        ys = [None if y is None else y / (largest or 1.0) for y in columns[column]]
        kind = "line broad" if series == panel.broad else "line"
        end = panel.ends[series] if panel.ends else ""
        lines.append(charts.Line(f"{run.name}: {label}{note}", series, columns["epoch"], ys, kind, end))
    return lines


def _distinct(lines: list[charts.Line]) -> list[charts.Line]:
    """Return the different lines, each named after the first of its equals."""
    seen: dict[str, list[charts.Line]] = {}
    for line in lines:
        seen.setdefault(repr((line.xs, line.ys)), []).append(line)
    return [
        replace(first, label=first.label + (f", and {len(same)} equal" if same else ""))
        for first, *same in seen.values()
    ]


def _join_ends(lines: list[charts.Line]) -> list[charts.Line]:
    """Merge the end labels of lines that coincide, such as "α = m", and drop repeated labels."""
    joined: list[charts.Line] = []
    for line in lines:
        end = " = ".join(dict.fromkeys(other.end for other in lines if _coincide(line, other)))
        known = [other for other in joined if other.end == end or _coincide(line, other)]
        joined.append(replace(line, end="" if known else end))
    return joined


def _coincide(one: charts.Line, other: charts.Line) -> bool:
    pairs = list(zip(one.ys, other.ys, strict=False))
    return len(one.ys) == len(other.ys) and all(
        (a is None) == (b is None) and (a is None or b is None or abs(a - b) < 1e-6) for a, b in pairs
    )


def _median(lines: list[charts.Line], label: str, series: int) -> tuple[charts.Line, charts.Range]:
    """Return the median over the seeds at each epoch, and the range from smallest to largest."""
    values: dict[float, list[float]] = {}
    for line in lines:
        for x, y in zip(line.xs, line.ys, strict=True):
            values.setdefault(x, []).extend(finite([y]))
    xs = sorted(values)
    middle = [statistics.median(values[x]) if values[x] else None for x in xs]
    lows, highs = ([end(values[x]) if values[x] else None for x in xs] for end in (min, max))
    first = lines[0]
    return (
        charts.Line(f"{label}, median of {len(lines)}", series, xs, middle, first.kind, first.end),
        charts.Range(f"{label}, range of {len(lines)}", series, xs, lows, highs),
    )


# --- architecture weights over the epochs -------------------------------------------------------------


def edges(run: Run) -> dict[str, list[heatmaps.Edge]]:
    """Return the edges of both cells, their weights averaged over at most MOST_COLUMNS groups of epochs."""
    genotype = run.genotype
    assert genotype is not None, run.name  # every search is followed by its extraction
    series: dict[str, dict[tuple[int, int], dict[str, list[float]]]] = {}
    names = ("cell", "node", "input", "primitive", "weight")
    for cell, node, state, primitive, weight in zip(*(run.alphas[name] for name in names), strict=True):
        series.setdefault(cell, {}).setdefault((node, state), {}).setdefault(primitive, []).append(weight)
    found = {}
    for cell, own in series.items():
        inputs = sum(node == 0 for node, _ in own)
        found[cell] = [
            heatmaps.Edge(
                node,
                state,
                {
                    primitive: [
                        sum(weights[i] for i in places) / len(places)
                        for places in heatmaps.bins(len(weights), heatmaps.MOST_COLUMNS)
                    ]
                    for primitive, weights in rows.items()
                },
                next((op for op, source in genotype[cell][node] if source == state), None),
                inputs,
            )
            for (node, state), rows in own.items()
        ]
    return found


@dataclass(frozen=True)
class Maps:
    """Maps of the architecture weights of several runs on one scale; `cells`: the edges by run and cell."""

    cells: dict[str, dict[str, list[heatmaps.Edge]]]
    shades: heatmaps.Shades

    def chart(self, run: Run) -> str:
        """Draw the maps of one run."""
        chosen = [
            f"{cell} {edge.label} {edge.chosen}"
            for cell, own in self.cells[run.name].items()
            for edge in own
            if edge.chosen
        ]
        said = f"architecture weights over the epochs; genotype: {', '.join(chosen)}"
        epochs = (run.alphas["epoch"][0], run.alphas["epoch"][-1])
        title = f"{run.method}, {run.label}"
        return heatmaps.edges_chart(self.cells[run.name], self.shades, title, epochs, said)

    def figure(self, name: str, title: str, runs: list[Run]) -> Figure:
        """Draw one chart per seed; as data, one row per edge and operation, one column per epoch group."""
        epochs = sorted(set(runs[0].alphas["epoch"]))
        columns = heatmaps.bins(len(epochs), heatmaps.MOST_COLUMNS)
        spans = [f"epoch_{epochs[p[0]]}" + (f"_to_{epochs[p[-1]]}" if len(p) > 1 else "") for p in columns]
        rows: list[list[Any]] = [
            [*run.pairing, cell, edge.node, edge.state, primitive, int(primitive == edge.chosen), *weights]
            for run in runs
            for cell, own in self.cells[run.name].items()
            for edge in own
            for primitive, weights in edge.rows.items()
        ]
        header = ["split_seed", "seed", "cell", "node", "input", "primitive", "in_genotype", *spans]
        parts = {run.stem: self.chart(run) for run in runs}
        marks = self.shades.marks
        return Figure(name, title, marks, parts, wide=True, first_only=True, data=(header, rows))


def maps(runs: Iterable[Run]) -> Maps:
    """Prepare the maps of these runs; one shade means equal weights, as at the start of a search.

    The scale is that of the weights that were trained, if any were.
    """
    runs = [*runs]
    cells = {run.name: edges(run) for run in runs}
    trained = [run for run in runs if run.histories["search"]["epoch"]] or runs
    every = [edge for run in trained for found in cells[run.name].values() for edge in found]
    low, high = charts.extent(weight for edge in every for row in edge.rows.values() for weight in row)
    return Maps(cells, heatmaps.linear(low, high, through=1 / len(every[0].rows)))
