"""The report's figures: what is drawn of a data set's results, section by section."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from hlrs import charts
from hlrs.artifacts import SUBSETS
from hlrs.longtail.metrics import GROUPS
from hlrs.report import NOTHING, Columns, Results, Run, class_means, finite, percent

TRAINED = SUBSETS[:3]  # all but the test images


@dataclass(frozen=True)
class Figure:
    """Charts on common axes under one title; `name`: unique within the data set, fit for a file's name."""

    name: str
    title: str
    legend: str  # HTML
    charts: list[str]  # SVG
    note: str = ""
    wide: bool = False  # one chart as wide as it is, in place of small multiples


@dataclass(frozen=True)
class Section:
    """What belongs together; `folded`: closed until a reader opens it."""

    title: str
    figures: list[Figure]
    note: str = ""
    folded: bool = False


def sections(results: Results, dataset: str) -> list[Section]:
    """Everything that is drawn of a data set, in the order of the page."""
    methods = results.methods(dataset)
    return [
        Section("Images a class", [_counts_figure(results, dataset)]),
        Section("Accuracy of a class against its training images", [_accuracy_figure(results, methods)]),
        _search_section(methods),
        Section("Training from scratch", [_curves_figure(p, "retrain", methods) for p in RETRAIN_PANELS]),
    ]


def _search_section(methods: dict[str, list[Run]]) -> Section:
    untrained = [
        name for name, runs in methods.items() if not any(r.histories["search"]["epoch"] for r in runs)
    ]
    notes = [f"Nothing is trained in the search of {', '.join(untrained)}: no curves."] if untrained else []
    if len(untrained) == len(methods):
        return Section("Search", [], notes[0])
    notes.append("One line a seed; gaps where there was nothing to measure.")
    return Section("Search", [_curves_figure(p, "search", methods) for p in SEARCH_PANELS], " ".join(notes))


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


SPEED = Panel("speed", "Speed", "images per second", {"images_per_second": "images per second"}, zero=True)
SEARCH_PANELS = (
    Panel("losses", "Losses", "loss", {"weights_loss": "weight steps", "alphas_loss": "architecture steps"}),
    Panel(
        "rates",
        "Learning rates and mixing",
        "rate ÷ its largest; m",
        {
            "weights_lr": "learning rate of the weights",
            "alphas_lr": "learning rate of the architecture",
            "mixing": "mixing coefficient m",
        },
        shares=("weights_lr", "alphas_lr"),
        zero=True,
    ),
    Panel(
        "entropy",
        "Entropy of the architecture",
        "nats",
        {"entropy_normal": "normal cell", "entropy_reduce": "reduction cell"},
    ),
    Panel(
        "skips",
        "Skip connections",
        "in the genotype",
        {"skips_normal": "normal cell", "skips_reduce": "reduction cell"},
        zero=True,
    ),
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


def _curves_figure(panel: Panel, stage: str, methods: dict[str, list[Run]]) -> Figure:
    """The charts of a panel, all on the same axes; a method without such data has none."""
    lines = {
        name: [line for run in runs for line in _lines(panel, stage, run)] for name, runs in methods.items()
    }
    lines = {name: found for name, found in lines.items() if found}
    every = [line for found in lines.values() for line in found]
    x_range = charts.extent(x for line in every for x in line.xs)
    y_range = charts.extent((y for line in every for y in line.ys), zero=panel.zero)
    drawn = [
        charts.line_chart(found, charts.Axes(name, "epoch", panel.y_label, x_range, y_range, whole=True))
        for name, found in lines.items()
    ]
    used = {line.series for line in every}
    labels = [label for i, label in enumerate(panel.columns.values()) if i <= max(used, default=-1)]
    return Figure(f"{stage}_{panel.name}", panel.title, charts.legend(labels, "line"), drawn)


def _lines(panel: Panel, stage: str, run: Run) -> Iterator[charts.Line]:
    """The lines of one run, columns without any number left out."""
    columns = speed(run.records[stage]) if panel is SPEED else run.histories[stage]
    for series, (column, label) in enumerate(panel.columns.items()):
        values = columns[column]
        known = finite(values)
        if not known:
            continue
        largest = max(known) if column in panel.shares else 1 / panel.scale
        note = f" (largest {largest:.3g})" if column in panel.shares else ""
        ys = [None if y is None else y / (largest or 1.0) for y in values]
        yield charts.Line(f"{run.name}: {label}{note}", series, columns["epoch"], ys)


def speed(record: dict[str, Any]) -> Columns:
    """Images per second of each epoch of a job."""
    rows = record.get("throughput") or []
    return {name: [row.get(name) for row in rows] for name in ("epoch", "images_per_second")}


# --- classes ------------------------------------------------------------------------------------------


def _counts_figure(results: Results, dataset: str) -> Figure:
    """Images a class, largest class first, with the groups that the evaluation used."""
    classes = results.classes[dataset]
    counts = {subset: classes["counts"][subset] for subset in TRAINED if any(classes["counts"][subset])}
    size = [sum(column) for column in zip(*(classes["counts"][s] for s in SUBSETS[:2]), strict=True)]
    order = sorted(range(len(size)), key=lambda c: (-size[c], c))
    groups = next(run.metrics["groups"] for run in results.runs if run.dataset == dataset)
    tallest = max(sum(column) for column in zip(*counts.values(), strict=True))
    width = min(1120, max(420, 80 + 34 * len(order)))
    axes = charts.Axes("", "class, by size", "images", (0, 1), (0, tallest), width=width, height=280)
    stacks = {subset: [values[c] for c in order] for subset, values in counts.items()}
    bands, start = [], 0
    for group, members in groupby(order, key=lambda c: groups[c]):
        end = start + len(list(members))
        bands.append((group, start, end - 1))
        start = end
    low, high = min(classes["counts"]["test"]), max(classes["counts"]["test"])
    test = f"{low}" if low == high else f"{low} to {high}"
    factor = f"{max(size) / min(size):.3g}" if min(size) else NOTHING
    return Figure(
        "class_counts",
        "Training and test images",
        charts.legend([*counts], "fill"),
        [charts.bar_chart(stacks, [classes["names"][c] for c in order], axes, bands)],
        "Imbalance of the training images (weights and alphas), largest class to smallest: "
        f"{factor}. Test images a class: {test}.",
        wide=True,
    )


def _accuracy_figure(results: Results, methods: dict[str, list[Run]]) -> Figure:
    """Accuracy of every class against its training images, a chart a method."""
    rows = {method: class_means(results, runs) for method, runs in methods.items()}
    sizes = [row[3] for found in rows.values() for row in found if row[3] > 0]
    x_range = (0.8 * min(sizes, default=1), 1.25 * max(sizes, default=1))
    drawn = []
    for method, found in rows.items():
        marks = [
            charts.Point(f"{name}: {percent(y)} %, {count} images", GROUPS.index(group), count, 100 * y)
            for _, name, group, count, y in found
            if y is not None and count > 0
        ]
        axes = charts.Axes(method, "training images", "per cent", x_range, (0, 100), log_x=True)
        drawn.append(charts.scatter_chart(marks, axes))
    legend = charts.legend([f"{group}-shot" for group in GROUPS], "dots")
    return Figure("class_accuracy", "One point a class, mean over the seeds", legend, drawn)
