"""Figures of the evaluations: classes, methods, confusions, calibration."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hlrs.artifacts.tables import SUBSETS
from hlrs.longtail.metrics import groups as groups_of
from hlrs.report import charts, heatmaps
from hlrs.report.charts import Figure
from hlrs.report.comparisons import COMPARED, METRICS
from hlrs.report.lookups import floor_of
from hlrs.report.runs import (
    ENERGY,
    Methods,
    Pairing,
    Results,
    Run,
    by_draw,
    class_means,
    finite,
    search_means,
)
from hlrs.report.statistics import interval, units
from hlrs.report.wording import NOTHING, millions, percent, points

GROUPS = ("many", "medium", "few")  # as in metrics.json
Matrix = list[list[float | None]]
TRAINED = {  # legend of all subsets except the test images
    "weights": "train the weights",
    "alphas": "train the architecture (search only)",
    "holdout": "held out for monitoring",
}
MOST_BARS, MOST_CELLS = 100, 50  # of a chart and of a matrix's side; more classes are binned
MOST_MATRICES, FEW_CELLS = 10, 25  # the matrices of more methods are coarser
MOST_TITLES = 1500  # hover texts of all matrices, and of all scatter charts, of a data set


# --- classes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """The classes of a data set, largest first, in the groups of the evaluation."""

    order: list[int]
    names: list[str]
    sizes: list[int]  # by class, training images
    groups: list[str]  # by class

    def bins(self, most: int) -> list[list[int]]:
        """Return classes of neighbouring ranks in at most `most` bins."""
        return [[self.order[i] for i in places] for places in heatmaps.bins(len(self.order), most)]

    def labels(self, most: int) -> list[str]:
        """Return one label per bin: the class's name, or the ranks of several classes."""
        places = heatmaps.bins(len(self.order), most)
        return [self.names[self.order[p[0]]] if len(p) == 1 else f"{p[0] + 1}–{p[-1] + 1}" for p in places]

    def bands(self, most: int) -> list[charts.Band]:
        """Return the extent of each group among the bins, by each bin's first class."""
        bands, start = [], 0
        for group, members in groupby(self.bins(most), key=lambda found: self.groups[found[0]]):
            end = start + len(list(members))
            bands.append((group, start, end - 1))
            start = end
        return bands


def _ranks(results: Results, dataset: str) -> Ranks:
    classes = results.classes[dataset]
    size = [sum(column) for column in zip(*(classes["counts"][s] for s in SUBSETS[:2]), strict=True)]
    order = sorted(range(len(size)), key=lambda c: (-size[c], c))
    groups = groups_of(size, **results.params["datasets"][dataset]["groups"])
    return Ranks(order, classes["names"], size, groups)


def _together(ranks: Ranks, most: int) -> str:
    """Write a note on how many classes share a bin; empty if none do."""
    together = max(map(len, ranks.bins(most)))
    return f" Up to {together} classes of similar size share a bin." if together > 1 else ""


def counts_figure(results: Results, dataset: str) -> Figure:
    """Draw images per class, largest class first, with the groups of the evaluation."""
    classes, ranks = results.classes[dataset], _ranks(results, dataset)
    counts = {subset: classes["counts"][subset] for subset in TRAINED if any(classes["counts"][subset])}
    stacks = {TRAINED[subset]: [values[c] for c in ranks.order] for subset, values in counts.items()}
    tallest = max(sum(column) for column in zip(*counts.values(), strict=True))
    names = [ranks.names[c] for c in ranks.order]
    pitch = max(34, round(charts.CHARACTER * (2 + max(map(len, names)))))  # room for the names, if possible
    largest, smallest = max(ranks.sizes), min(ranks.sizes)
    axes = charts.Axes(
        "",
        "class, by size",
        "images",
        (0, 1),
        (0, tallest),
        width=min(1120, max(420, 80 + pitch * len(names))),
        height=280,
        summary=f"{len(names)} classes; {largest} images in the largest, {smallest} in the smallest.",
    )
    low, high = min(classes["counts"]["test"]), max(classes["counts"]["test"])
    test = f"{low}" if low == high else f"{low} to {high}"
    used = (
        f" Retraining uses both kinds. Test images per class, used for evaluation only: {test}."
        if results.retrained
        else ""
    )
    factor = f"{largest / smallest:.3g}" if smallest else NOTHING
    rows = [
        [i + 1, c, ranks.names[c], ranks.groups[c], *(classes["counts"][s][c] for s in SUBSETS)]
        for i, c in enumerate(ranks.order)
    ]
    return Figure(
        "class_counts",
        "Training images",
        charts.marks([*stacks], "fill"),
        {"counts": charts.bar_chart(stacks, names, axes, ranks.bands(len(names)))},
        "Imbalance factor (largest to smallest class, weight and architecture images together): "
        f"{factor}.{used}",
        wide=True,
        data=(["rank", "class", "name", "group", *SUBSETS], rows),
    )


def accuracy_figure(results: Results, methods: Methods) -> Figure:
    """Draw the accuracy of every class against its training images, one chart per method."""
    means = {method: class_means(results, runs) for method, runs in methods.items()}
    sizes = [row[3] for found in means.values() for row in found if row[3] > 0]
    x_range = (0.8 * min(sizes, default=1), 1.25 * max(sizes, default=1))
    hover = sum(map(len, means.values())) <= MOST_TITLES
    drawn = {}
    for method, found in means.items():
        marks = [
            charts.Point(f"{name}: {percent(y)} %, {count} images", GROUPS.index(group), count, 100 * y)
            for _, name, group, count, y in found
            if y is not None and count > 0
        ]
        said = f"Worst class {min((p.y for p in marks), default=0):.1f} %."
        axes = charts.Axes(method, "training images", "per cent", x_range, (0, 100), log_x=True, summary=said)
        drawn[method] = charts.scatter_chart(marks, axes, hover=hover)
    return Figure(
        "class_accuracy",
        "One point per class, mean over the seeds",
        charts.marks([f"{group}-shot" for group in GROUPS], "dots"),
        drawn,
        data=(
            ["method", "class", "name", "group", "train_count", "accuracy"],
            [[method, *row] for method, found in means.items() for row in found],
        ),
    )


def differences_figure(results: Results, dataset: str, methods: Methods) -> Figure:
    """Draw the accuracy of every class compared with the reference, by size, one chart per method."""
    reference, ranks = results.report["reference"], _ranks(results, dataset)
    bars = {
        method: _difference_bars(ranks, runs, methods[reference])
        for method, runs in methods.items()
        if method != reference
    }
    ends = [v for found in bars.values() for bar in found for v in (bar.low, bar.high)]
    y_range, labels, drawn = charts.extent(ends, zero=True), ranks.labels(MOST_BARS), {}
    for method, found in bars.items():
        lower = sum(bar.value is not None and bar.value < 0 for bar in found)
        higher = sum(bar.value is not None and bar.value > 0 for bar in found)
        said = f"Higher in {higher} bars, lower in {lower}."
        axes = charts.Axes(
            f"{method} − {reference}", "class, by size", "percentage points", (0, 1), y_range, summary=said
        )
        drawn[method] = charts.difference_chart(found, labels, len(ranks.order), axes, ranks.bands(MOST_BARS))
    return Figure(
        "class_differences",
        f"Difference from {reference}, class by class",
        charts.marks([f"{group}-shot" for group in GROUPS], "fill"),
        drawn,
        "Bars: mean over the common seeds; lines: from the smallest to the largest of these seeds, "
        "not a confidence interval." + _together(ranks, MOST_BARS),
        data=(
            ["method", "reference", "rank", "classes", "group", "mean", "smallest", "largest"],
            [
                [method, reference, i + 1, labels[i], GROUPS[bar.series], bar.value, bar.low, bar.high]
                for method, found in bars.items()
                for i, bar in enumerate(found)
            ],
        ),
    )


def _difference_bars(ranks: Ranks, runs: list[Run], others: list[Run]) -> list[charts.Bar]:
    """Return percentage points of runs − others with the same draw and seed, one bar per bin of classes."""
    common = {run.pairing for run in others}
    searches = dict.fromkeys(run.pairing for run in runs if run.pairing in common)
    pairs = [[_accuracies(own, search) for own in (runs, others)] for search in searches]
    bars = []
    for found, label in zip(ranks.bins(MOST_BARS), ranks.labels(MOST_BARS), strict=True):
        values = []
        for mine, other in pairs:
            both = [(mine[c], other[c]) for c in found]
            known = [a - b for a, b in both if a is not None and b is not None]
            values += [100 * statistics.fmean(known)] if known else []
        mean = statistics.fmean(values) if values else None
        low, high = (min(values), max(values)) if values else (0.0, 0.0)
        said = (
            NOTHING if mean is None else f"{points(mean / 100)} ({points(low / 100)} to {points(high / 100)})"
        )
        bars.append(charts.Bar(f"{label}: {said}", GROUPS.index(ranks.groups[found[0]]), mean, low, high))
    return bars


def _accuracies(runs: list[Run], search: Pairing) -> list[float | None]:
    """Return the accuracy per class, mean over the retrainings of a search."""
    columns = zip(*(run.metrics["per_class"] for run in runs if run.pairing == search), strict=True)
    return [statistics.fmean(known) if (known := finite(column)) else None for column in columns]


# --- methods ------------------------------------------------------------------------------------------


def methods_figure(results: Results, dataset: str, methods: Methods) -> Figure:
    """Draw accuracies as dots and intervals, one chart per metric, one row per method.

    Below accuracies of a table stand those of its floor.
    """
    confidence, floor = results.report["confidence"], floor_of(results, dataset)
    drawn, rows = {}, []
    for metric in ("balanced_accuracy", "top1", *GROUPS, "table_accuracy"):
        spreads = []
        for method, runs in methods.items():
            searches = search_means(runs, metric)
            if not searches:
                continue
            values = units(by_draw(searches))
            mean, span = statistics.fmean(values), interval(values, confidence)
            said = f", interval {percent(span[0])} to {percent(span[1])}" if span else ""
            scaled = [100 * v for v in searches.values()]
            within = (100 * span[0], 100 * span[1]) if span else None
            spreads.append(charts.Spread(f"{method}: {percent(mean)} %{said}", scaled, 100 * mean, within))
            rows += [
                [metric, method, *search, value, mean, *(span or (None, None))]
                for search, value in searches.items()
            ]
        names = [method for method, runs in methods.items() if search_means(runs, metric)]
        for name, accuracy in floor.rows.items() if floor and metric == "table_accuracy" else ():
            names.append(name)
            spreads.append(charts.Spread(f"{name}: {percent(accuracy)} %", [], 100 * accuracy, None))
            rows.append([metric, name, None, None, None, accuracy, None, None])
        if spreads:
            drawn[metric] = _spread_chart(METRICS[metric], names, spreads)
    several = any(len({run.pairing for run in runs}) > 1 for runs in methods.values())
    return Figure(
        "methods",
        "Mean, single seeds and interval",
        [charts.Mark("mean over the seeds", "mark", "M11.5 0h3v10h-3z"),
         charts.Mark("one seed", "seed", "M12 5h0"),
         *([charts.Mark(f"{100 * confidence:g} % interval of the mean", "axis", "M2 1v8M2 5H24m0-4v8")]
           if several else [])],
        drawn,
        "Each chart has its own scale. Student’s t interval of each method alone: methods share their seeds,"
        " so judge whether two differ by their paired differences, not by overlap. An interval without an end"
        " cap continues beyond the chart." + (f" {floor.words}" if floor else ""),
        data=(["metric", "method", "split_seed", "seed", "value", "mean", "low", "high"], rows),
    )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What networks cost: metrics, of which the first is drawn, in millions; how it is called."""

    name: str
    metrics: tuple[str, ...]
    what: str
    fewer: str
    unit: str
    axis: str
    note: str


SIZE = Cost(
    "sizes",
    ("weights", "multiply_adds"),
    "weights",
    "as many weights",
    "million weights",
    "weights, millions",
    " Weights: of the network as evaluated.",
)
ENERGIES = Cost(
    "energies",
    (ENERGY, "multiply_adds"),
    "energy of multiplications",
    "as much energy",
    "µJ for the multiplications of an image",
    "energy of an image’s multiplications, µJ",
    " Of the multiplications alone, at 45 nm: 3.7 pJ in 32-bit floating point, 0.2 pJ of exact 8-bit integers"
    " (Horowitz 2014), approximate ones by their circuit’s power relative to the exact one’s (EvoApproxLib)."
    " Additions, memory and quantisation are not in it.",
)


@dataclass(frozen=True)
class Priced:
    """A method's means over its runs: what its networks cost, and balanced accuracy with its interval."""

    costs: list[float]
    accuracy: float
    interval: tuple[float, float] | None

    def beats(self, other: "Priced") -> bool:
        """Whether it costs no more and is as accurate, and is better in either."""
        as_good = self.costs[0] <= other.costs[0] and self.accuracy >= other.accuracy
        return as_good and (self.costs[0], self.accuracy) != (other.costs[0], other.accuracy)


def front(priced: dict[str, Priced]) -> list[str]:
    """Return the Pareto front: the methods that no other beats."""
    return [method for method, own in priced.items() if not any(o.beats(own) for o in priced.values())]


def _priced(methods: Methods, confidence: float, cost: Cost) -> dict[str, Priced]:
    """Return the methods whose networks' cost is known."""
    found = {}
    for method, runs in methods.items():
        values = [units(by_draw(search_means(runs, m))) for m in (*cost.metrics, "balanced_accuracy")]
        if all(values):
            *costs, accuracy = map(statistics.fmean, values)
            found[method] = Priced(costs, accuracy, interval(values[-1], confidence))
    return found


def front_figure(results: Results, methods: Methods, cost: Cost) -> Figure | None:
    """Draw balanced accuracy against a cost, and the Pareto front of the means; None where none is known."""
    confidence = results.report["confidence"]
    priced = _priced(methods, confidence, cost)
    if not priced:
        return None
    best = front(priced)
    unknown = [method for method in methods if method not in priced]
    missing = f" Not known, so not drawn: {', '.join(unknown)}." if unknown else ""
    circle = "M9.4 5a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z"
    return Figure(
        cost.name,
        f"Accuracy against {cost.what}",
        [charts.Mark("mean, on the Pareto front", "mark", circle),
         charts.Mark("mean, not on it", "chosen", circle),
         charts.Mark("Pareto front", "guide", charts.SAMPLES["line"]),
         *([charts.Mark(f"{100 * confidence:g} % interval of the mean", "axis", "M9 1h8M9 9h8M13 1v8")]
           if any(own.interval for own in priced.values()) else [])],
        {cost.metrics[0]: _front_chart(priced, best, cost)},
        f"On the front: no other method has at most {cost.fewer} and at least the accuracy, one of them"
        " better. By the means alone, so a step of the front is no significant difference."
        f"{missing}{cost.note}",
        wide=True,
        data=(
            ["method", *cost.metrics, "mean", "low", "high", "front"],
            [
                [method, *own.costs, own.accuracy, *(own.interval or (None, None)), int(method in best)]
                for method, own in priced.items()
            ],
        ),
    )  # fmt: skip


def _front_chart(priced: dict[str, Priced], best: list[str], cost: Cost) -> str:
    spots = [
        charts.Spot(
            method,
            f"{method}: {percent(own.accuracy)} %, {millions(own.costs[0])} {cost.unit}",
            own.costs[0] / 1e6,
            100 * own.accuracy,
            (100 * own.interval[0], 100 * own.interval[1]) if own.interval else None,
            method in best,
        )
        for method, own in priced.items()
    ]
    smallest, largest = (end(spot.x for spot in spots) for end in (min, max))
    axes = charts.Axes(
        "",
        cost.axis,
        f"{COMPARED['balanced_accuracy']}, per cent",
        (smallest / 1.6, 1.6 * largest),
        _room((spot.y for spot in spots), (end for spot in spots for end in spot.interval or ())),
        log_x=True,
        width=720,
        height=340,
        summary=f"On the front: {', '.join(best)}.",
    )
    return charts.front_chart(spots, axes)


def _room(values: Iterable[float], ends: Iterable[float]) -> tuple[float, float]:
    """Return the range of percentages, with half of it to either side for the ends of their intervals."""
    low, high = charts.extent(values)
    ends, room = [*ends], 0.5 * (high - low)
    return max(min([low, *ends]), low - room, 0), min(max([high, *ends]), high + room, 100)


def _spread_chart(title: str, names: list[str], spreads: list[charts.Spread]) -> str:
    """Draw intervals on the scale of the seeds, with half their range to either side for the intervals."""
    low, high = _room(
        (v for spread in spreads for v in (*spread.values, spread.mean)),
        (v for spread in spreads for v in spread.interval or ()),
    )
    margin = 0.04 * (high - low)
    best = max(range(len(spreads)), key=lambda i: spreads[i].mean)
    axes = charts.Axes(
        title,
        "per cent",
        "",
        (low - margin, high + margin),
        (0, 1),
        height=70 + 26 * len(names),
        y_names=names,
        summary=f"Highest mean: {spreads[best].label}.",
    )
    return charts.interval_chart(spreads, axes)


def confusion_figures(results: Results, dataset: str, methods: Methods) -> list[Figure]:
    """Draw the reference's matrix and the differences from it; every method's matrix without a reference."""
    ranks, reference = _ranks(results, dataset), results.report["reference"]
    most = MOST_CELLS if len(methods) <= MOST_MATRICES else FEW_CELLS
    matrices = {method: _confusion(ranks, runs, most) for method, runs in methods.items()}
    base = matrices.get(reference)
    shown = matrices if base is None else {reference: base}
    count = len(ranks.bins(most))
    hover = count**2 * len(methods) <= MOST_TITLES and count <= heatmaps.NUMBERED
    note = (
        "Percentage of each true class (row) predicted as each class (column), mean over the seeds;"
        " classes by training images, most first. A shade begins at its number." + _together(ranks, most)
    )
    if any(row[0] is None for row in next(iter(shown.values()))):
        note += " Rows without shades: no test images."
    scale = heatmaps.shares()
    figures = [_matrix_figure("confusion", "Confusion matrix", shown, scale, ranks, most, hover, note)]
    changes = {m: _change(own, base) for m, own in matrices.items() if base is not None and m != reference}
    if changes:
        title = f"Confusion matrix, difference from {reference}"
        note = (
            "In percentage points: on the diagonal more is better, elsewhere less. A shade begins at its"
            " number." + (" Decreases are struck through." if count > heatmaps.NUMBERED else "")
        )
        scale = heatmaps.changes()
        figures.append(
            _matrix_figure("confusion_differences", title, changes, scale, ranks, most, hover, note)
        )
    return figures


def _change(matrix: Matrix, base: Matrix) -> Matrix:
    """Return matrix − base, cell by cell; None where either has none."""
    return [
        [None if a is None or b is None else a - b for a, b in zip(mine, other, strict=True)]
        for mine, other in zip(matrix, base, strict=True)
    ]


def _confusion(ranks: Ranks, runs: list[Run], most: int) -> Matrix:
    """Return percentages of the true class, [true][predicted], means over the classes of a bin and runs."""
    places = ranks.bins(most)
    rows: Matrix = []
    for truth in places:
        shares = []
        for run in runs:
            for counts in (run.metrics["confusion"][c] for c in truth):
                total = sum(counts)
                if total:
                    shares.append([100 * sum(counts[p] for p in guess) / total for guess in places])
        known = [statistics.fmean(column) for column in zip(*shares, strict=True)]
        rows.append([*known] or [None] * len(places))
    return rows


def _matrix_figure(
    name: str,
    title: str,
    matrices: dict[str, Matrix],
    shades: heatmaps.Shades,
    ranks: Ranks,
    most: int,
    hover: bool,
    note: str,
) -> Figure:
    names, drawn = ranks.labels(most), {}
    for method, cells in matrices.items():
        diagonal = finite(row[i] for i, row in enumerate(cells))
        mean = statistics.fmean(diagonal) if diagonal else 0.0
        unit = "points" if shades.diverging else "%"
        said = f"Mean of the diagonal {charts.number(round(mean, 1))} {unit}."
        drawn[method] = heatmaps.matrix_chart(
            cells, shades, names, len(ranks.order), method, said, hover=hover
        )
    rows = [
        [method, names[i], names[j], value]
        for method, cells in matrices.items()
        for i, row in enumerate(cells)
        for j, value in enumerate(row)
        if value is not None
    ]
    header = ["method", "true", "predicted", "points" if shades.diverging else "percent"]
    return Figure(name, title, shades.marks, drawn, note, data=(header, rows))


def calibration_figure(methods: Methods) -> Figure:
    """Draw accuracy against confidence, one chart per method, the images of all its seeds pooled."""
    drawn, rows = {}, []
    for method, runs in methods.items():
        pooled = pool(run.metrics["calibration"] for run in runs)
        error = statistics.fmean(run.metrics["ece"] for run in runs)
        said = f"Expected calibration error {percent(error)} %."
        title = f"{method}: error {percent(error)} %"
        axes = charts.Axes(title, "confidence", "accuracy", (0, 1), (0, 1), height=260, summary=said)
        drawn[method] = charts.reliability_chart(pooled, axes)
        rows += [[method, *found.values()] for found in pooled]
    return Figure(
        "calibration",
        "Accuracy against confidence",
        [charts.Mark("accuracy in a bin", "fill s0", charts.SAMPLES["fill"], ' fill-opacity=".6"'),
         charts.Mark("gap to the mean confidence", "chosen", "M12 0v10"),
         charts.Mark("calibrated", "guide", "M1 9L25 1"),
         charts.Mark("top: share of the images", "fill s2", charts.SAMPLES["fill"], ' fill-opacity=".6"')],
        drawn,
        "Images of all seeds pooled, in the bins of the evaluation. The error (expected calibration error,"
        " Guo et al. 2017) is the mean of the seeds’ errors.",
        data=(["method", "low", "high", "images", "accuracy", "confidence"], rows),
    )  # fmt: skip


def pool(diagrams: Iterable[list[dict[str, Any]]]) -> list[dict[str, float]]:
    """Pool reliability diagrams: images add up, accuracy and confidence are means over the images."""
    bins = sorted((b for diagram in diagrams for b in diagram), key=lambda b: b["low"])
    pooled = []
    for low, group in groupby(bins, key=lambda b: b["low"]):
        found = [*group]
        images = sum(b["images"] for b in found)
        means = {
            name: sum(b["images"] * b[name] for b in found) / images for name in ("accuracy", "confidence")
        }
        pooled.append({"low": low, "high": found[0]["high"], "images": images} | means)
    return pooled
