"""Figures over the epochs: curves of search and retraining, collapse, architecture weights edge by edge."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hlrs.report import charts, heatmaps
from hlrs.report.charts import Figure
from hlrs.report.runs import PLACE, REPEATED, Columns, Run, finite

Methods = dict[str, list[Run]]
SINGLE_LINES = 10  # seeds: up to here each has its line, beyond it their median and range are drawn
MOST_RUNS, FEW_LINES = 100, 3  # of a figure: of more runs, no more than so many single lines a method
COLLAPSED = 2  # skip connections in the normal cell: criterion 1 of DARTS+ (Liang et al. 2019)


# --- curves -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A figure of curves over the epochs: `columns` (column -> label), one chart a method, a line a seed."""

    name: str
    title: str
    y_label: str
    columns: dict[str, str]
    shares: tuple[str, ...] = field(default=())  # drawn relative to the run's largest value
    scale: float = 1.0
    zero: bool = False
    ends: tuple[str, ...] = ()  # what stands where the lines of a column end
    broad: int | None = None  # the column whose lines lie broad below the others
    note: str = ""


SPEED = Panel(
    "speed",
    "Speed",
    "images per second",
    {"images_per_second": "images per second"},
    zero=True,
    note="Not in figures.zip, which holds what depends on the results alone.",
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
)
SKIPS = Panel(
    "skips",
    "Skip connections",
    "in the genotype",
    {"skips_normal": "normal cell", "skips_reduce": "reduction cell"},
    zero=True,
)
EIGENVALUE = Panel(
    "eigenvalue",
    "Dominant eigenvalue of the alphas’ Hessian",
    "of the loss on the alphas’ images",
    {"eigenvalue": "estimate of the epoch"},
    zero=True,
    note="By power iteration. Where it grows steeply, what the search finds tends to do worse once it is"
    " discretised (Zela et al. 2020).",
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
    SKIPS,
    EIGENVALUE,
    Panel(
        "accuracy",
        "Accuracy in the search",
        "per cent",
        {"weights_accuracy": "weight steps", "alphas_accuracy": "architecture steps"},
        scale=100,
    ),
    SPEED,
)
RETRAIN_PANELS = (
    Panel("loss", "Loss", "loss", {"loss": "training images"}, zero=True),
    Panel(
        "accuracy",
        "Accuracy",
        "per cent",
        {"accuracy": "training images", "holdout_accuracy": "holdout"},
        scale=100,
    ),
    SPEED,
)


def search_panels(methods: Methods) -> list[Panel]:
    """The panels to draw of these searches: eigenvalues only where some were estimated."""
    histories = [run.histories["search"] for runs in methods.values() for run in runs]
    estimated = any(finite(history["eigenvalue"]) for history in histories)
    return [panel for panel in SEARCH_PANELS if panel is not EIGENVALUE or estimated]


def curves_figure(panel: Panel, stage: str, methods: Methods) -> Figure:
    """The charts of a panel, all on the same axes; a method without such data has none."""
    most = single_lines(methods)
    drawn = {name: curves(panel, stage, runs, most) for name, runs in methods.items()}
    drawn = {name: found for name, found in drawn.items() if found[0]}
    lines = [line for found, _ in drawn.values() for line in found]
    areas = [area for _, found in drawn.values() for area in found]
    ys = [y for line in lines for y in line.ys] + [y for a in areas for y in (*a.lows, *a.highs)]
    x_range = charts.extent(x for line in lines for x in line.xs)
    y_range = charts.extent([*ys, *([COLLAPSED + 1] if panel is SKIPS else [])], zero=panel.zero)
    room = charts.CHARACTER * max((len(line.end) for line in lines), default=0)
    parts = {}
    for name, (found, ranges) in drawn.items():
        marked = _collapse_points(methods[name]) if panel is SKIPS else []
        guides = [(float(COLLAPSED), "collapse")] if panel is SKIPS else []
        said = _last(panel, stage, methods[name])
        if panel is SKIPS:
            said = f"Collapse in {len(marked)} of {len(methods[name])} searches. {said}"
        axes = charts.Axes(
            name,
            "epoch",
            panel.y_label,
            x_range,
            y_range,
            whole=True,
            whole_y=panel is SKIPS,
            room=room,
            summary=said,
        )
        parts[name] = charts.line_chart(found, axes, ranges, guides, marked)
    note = {"rates": _rates_note, "skips": _collapse_note}.get(panel.name)
    return Figure(
        f"{stage}_{panel.name}",
        panel.title,
        _curve_marks(panel, {line.series for line in lines}),
        parts,
        note(methods) if note else panel.note,
        data=None if panel is SPEED else _curves_table(panel, stage, methods),
    )


def _last(panel: Panel, stage: str, runs: list[Run]) -> str:
    """Where the lines end, in words."""
    said = []
    for series, (column, label) in enumerate(panel.columns.items()):
        ends = [finite(line.ys)[-1] for line in _lines(panel, series, column, label, stage, runs)]
        said += [f"{label} {statistics.fmean(ends):.3g}"] if ends else []
    return f"At the end, mean over the seeds: {', '.join(said)}."


def _curve_marks(panel: Panel, used: set[int]) -> list[charts.Mark]:
    marks = charts.marks([*panel.columns.values()], "line")
    if panel.broad is not None:
        mark = marks[panel.broad]
        marks[panel.broad] = charts.Mark(mark.label, f"line broad s{panel.broad}", mark.path)
    if panel is SKIPS:
        used = used | {len(marks)}
        marks.append(charts.Mark("first epoch of a collapse", "mark", "M9 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"))
    return [mark for i, mark in enumerate(marks) if i in used]


def _curves_table(panel: Panel, stage: str, methods: Methods) -> charts.Table:
    """The values that the lines are drawn from, at the epochs that are drawn."""
    rows: list[Sequence[Any]] = []
    place = PLACE[1:] if stage in REPEATED else PLACE[1:3]
    for runs in methods.values():
        for run in runs:
            columns, named = run.histories[stage], [getattr(run, name) for name in place]
            rows += [
                [*named, columns["epoch"][i], *(columns[name][i] for name in panel.columns)]
                for i in charts.thinned(len(columns["epoch"]))
            ]
    return [*place, "epoch", *panel.columns], rows


def single_lines(methods: Methods) -> int:
    """Up to how many seeds each has its line."""
    return SINGLE_LINES if sum(map(len, methods.values())) <= MOST_RUNS else FEW_LINES


def curves(
    panel: Panel, stage: str, runs: list[Run], most: int = SINGLE_LINES
) -> tuple[list[charts.Line], list[charts.Range]]:
    """The lines of a method, a broad one first; of more than `most` the medians, and the ranges."""
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
    """A column's line of each run that has a number in it."""
    lines = []
    for run in runs:
        columns = speed(run.records[stage]) if panel is SPEED else run.histories[stage]
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
    """Equal lines once, named after the first of them."""
    seen: dict[str, list[charts.Line]] = {}
    for line in lines:
        seen.setdefault(repr((line.xs, line.ys)), []).append(line)
    return [
        replace(first, label=first.label + (f", and {len(same)} more alike" if same else ""))
        for first, *same in seen.values()
    ]


def _join_ends(lines: list[charts.Line]) -> list[charts.Line]:
    """Lines that coincide have one label at their end, such as "α = m"; no label stands twice."""
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
    """The median over the seeds at each epoch, and the range from the smallest to the largest."""
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


def speed(record: dict[str, Any]) -> Columns:
    """Images per second of each epoch of a job."""
    rows = record.get("throughput") or []
    return {name: [row.get(name) for row in rows] for name in ("epoch", "images_per_second")}


def _rates_note(methods: Methods) -> str:
    """The largest rates, which the curves are relative to, by the methods that have them."""
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
    return f"Largest rates: {said}. “α = m” says that the architecture’s rate follows the mixing coefficient."


def collapse(run: Run) -> int | None:
    """The first epoch with two or more skip connections in the genotype of the normal cell, if there is one.

    Criterion 1 of DARTS+ (Liang et al. 2019, arXiv 1909.06035), which ends a search there.
    """
    history = run.histories["search"]
    found = zip(history["epoch"], history["skips_normal"], strict=True)
    return next((epoch for epoch, skips in found if skips is not None and skips >= COLLAPSED), None)


def _collapse_points(runs: list[Run]) -> list[charts.Point]:
    """Where each search's collapse begins."""
    found = []
    for run in runs:
        epoch, history = collapse(run), run.histories["search"]
        if epoch is not None:
            skips = history["skips_normal"][history["epoch"].index(epoch)]
            found.append(charts.Point(f"{run.name}: collapse from epoch {epoch} on", 0, epoch, skips))
    return found


def _collapse_note(methods: Methods) -> str:
    """Which searches collapse, and when."""
    sentences = []
    for method, runs in methods.items():
        searched = [run for run in runs if run.histories["search"]["epoch"]]
        epochs = [(run, epoch) for run in searched if (epoch := collapse(run)) is not None]
        if not epochs:
            sentences += [f"{method}: none."] if searched else []
            continue
        last = sum(run.histories["search"]["skips_normal"][-1] >= COLLAPSED for run, _ in epochs)
        if len(epochs) <= 5:
            which = ", ".join(f"seed {run.seed} in epoch {epoch}" for run, epoch in epochs)
        else:
            when = [epoch for _, epoch in epochs]
            which = f"in epochs {min(when)} to {max(when)}, median {statistics.median(when):g}"
        sentences.append(f"{method}: {len(epochs)} of {len(searched)} ({which}); {last} at the end.")
    return (
        "Collapse is criterion 1 of DARTS+ (Liang et al. 2019): two or more skip connections in the genotype"
        " of the normal cell; a dot marks the first such epoch. Searches that meet it: "
        + " ".join(sentences + _stop_notes(methods))
    )


def stopped(run: Run) -> int | None:
    """The epoch at whose end the watch on collapse let the alphas rest, if it did."""
    history = run.histories["search"]
    rested = zip(history["epoch"], history.get("stopped", []), strict=False)
    return next((epoch for epoch, rests in rested if rests), None)


def _stop_notes(methods: Methods) -> list[str]:
    """Whose alphas were stopped, and when."""
    when = {method: [stopped(run) for run in runs] for method, runs in methods.items()}
    said = [
        f"{method} ({', '.join(f'seed {run.seed} after epoch {epoch}' for run, epoch in own)})"
        for method, epochs in when.items()
        if (own := [(run, e) for run, e in zip(methods[method], epochs, strict=True) if e is not None])
    ]
    return [f"The watch on it stopped the alphas of {'; '.join(said)}."] if said else []


# --- architecture weights over the epochs -------------------------------------------------------------


def edges(run: Run) -> dict[str, list[heatmaps.Edge]]:
    """The edges of both cells, their weights as means over at most MOST_COLUMNS runs of epochs."""
    genotype = run.genotype
    assert genotype is not None, run.name  # what was searched was extracted
    series: dict[str, dict[tuple[int, int], dict[str, list[float]]]] = {}
    names = ("cell", "node", "input", "primitive", "weight")
    for cell, node, state, primitive, weight in zip(*(run.alphas[name] for name in names), strict=True):
        series.setdefault(cell, {}).setdefault((node, state), {}).setdefault(primitive, []).append(weight)
    found = {}
    for cell, own in series.items():
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
            )
            for (node, state), rows in own.items()
        ]
    return found


@dataclass(frozen=True)
class Maps:
    """Maps of the architecture weights of several runs, on one scale; `cells`: the edges by run and cell."""

    cells: dict[str, dict[str, list[heatmaps.Edge]]]
    shades: heatmaps.Shades

    def chart(self, run: Run, *, hover: bool) -> str:
        """A run's maps; its genotype in words, and what the pointer brings up, with `hover` only."""
        chosen = [
            f"{cell} {edge.label} {edge.chosen}"
            for cell, own in self.cells[run.name].items()
            for edge in own
            if edge.chosen and hover
        ]
        said = "architecture weights over the epochs" + (f"; genotype: {', '.join(chosen)}" if chosen else "")
        epochs = (run.alphas["epoch"][0], run.alphas["epoch"][-1])
        title = f"{run.method}, seed {run.seed}"
        return heatmaps.edges_chart(self.cells[run.name], self.shades, title, epochs, said, hover=hover)

    def figure(self, name: str, title: str, parts: dict[str, str], runs: list[Run]) -> Figure:
        """Charts of a method's runs; as data a row an edge and primitive, a column the epochs of a shade."""
        epochs = sorted(set(runs[0].alphas["epoch"]))
        columns = heatmaps.bins(len(epochs), heatmaps.MOST_COLUMNS)
        spans = [f"epoch_{epochs[p[0]]}" + (f"_to_{epochs[p[-1]]}" if len(p) > 1 else "") for p in columns]
        rows: list[list[Any]] = [
            [run.seed, cell, edge.node, edge.state, primitive, int(primitive == edge.chosen), *weights]
            for run in runs
            for cell, own in self.cells[run.name].items()
            for edge in own
            for primitive, weights in edge.rows.items()
        ]
        header = ["seed", "cell", "node", "input", "primitive", "in_genotype", *spans]
        return Figure(name, title, self.shades.marks, parts, wide=True, data=(header, rows))


def maps(runs: Iterable[Run]) -> Maps:
    """The maps of these runs; one shade stands for equal weights, as at the start of a search."""
    cells = {run.name: edges(run) for run in runs}
    every = [edge for own in cells.values() for found in own.values() for edge in found]
    low, high = charts.extent(weight for edge in every for row in edge.rows.values() for weight in row)
    return Maps(cells, heatmaps.linear(low, high, through=1 / len(every[0].rows)))
