"""The report: statistics over seeds, the tables for other programs, and one HTML page for people.

What the numbers say is worded by `answer`, which claims no more than its intervals: paired differences to the
reference (same data set, same seed), with Student's t for the unknown spread.
"""

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import yaml
from scipy import stats

from hlrs import charts
from hlrs.artifacts import SCHEMAS, SUBSETS

Columns = dict[str, list[Any]]
METRICS = {
    "top1": "Top-1",
    "balanced_accuracy": "Balanced",
    "many": "Many-shot",
    "medium": "Medium-shot",
    "few": "Few-shot",
    "ece": "Calibration error",
}
COMPARED = {"balanced_accuracy": "balanced accuracy", "top1": "top-1 accuracy"}
GROUPS = ("many", "medium", "few")
TRAINED = SUBSETS[:3]  # all but the test images
NOTHING = "–"
UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Run:
    """One data set × method × seed: what its jobs left behind."""

    dataset: str
    method: str
    seed: int
    metrics: dict[str, Any]
    genotype: dict[str, Any]
    histories: dict[str, Columns]  # "search", "retrain": columns as in SCHEMAS
    records: dict[str, dict[str, Any]]  # "search", "retrain": provenance
    cells: dict[str, str]  # "normal", "reduce": SVG

    @property
    def name(self) -> str:
        """As it appears in paths."""
        return f"{self.dataset}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class Results:
    """All that the report shows. `report`: its parameters; `classes`: classes.json of every data set."""

    report: dict[str, Any]
    params: dict[str, Any]
    classes: dict[str, dict[str, Any]]
    runs: list[Run]

    def methods(self, dataset: str) -> dict[str, list[Run]]:
        """The runs of a data set by method, seeds in order."""
        runs = [run for run in self.runs if run.dataset == dataset]
        return {
            name: [run for run in runs if run.method == name]
            for name in dict.fromkeys(r.method for r in runs)
        }


# --- statistics ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds; `std` is that of a sample (n − 1), None with one seed."""

    dataset: str
    method: str
    metric: str
    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Mean of method − reference over common seeds; no interval with one seed or without a spread."""

    dataset: str
    method: str
    reference: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    confidence: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low is None or self.high is None:
            if self.seeds < 2:
                return "needs 2 seeds"
            return "same in every seed, so nothing to estimate chance from"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "no difference is shown"


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None and math.isfinite(value)]


def summarize(results: Results) -> list[Summary]:
    """Every metric of every data set × method that at least one seed has."""
    found = []
    for dataset in results.classes:
        for method, runs in results.methods(dataset).items():
            for metric in METRICS:
                values = finite(run.metrics[metric] for run in runs)
                if values:
                    std = statistics.stdev(values) if len(values) > 1 else None
                    found.append(Summary(dataset, method, metric, statistics.fmean(values), std, len(values)))
    return found


def interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Student's t interval of the mean: x̄ ± t_{(1+c)/2, n−1} · s/√n; None without a spread."""
    if len(values) < 2 or statistics.stdev(values) < 1e-12:
        return None
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    mean, half = statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def compare(results: Results) -> list[Difference]:
    """Paired differences of every other method to the reference; none without a reference."""
    reference, confidence = results.report["reference"], results.report["confidence"]
    found = []
    for dataset in results.classes:
        methods = results.methods(dataset)
        base = {run.seed: run.metrics for run in methods.get(reference, [])}
        for method, runs in methods.items():
            for metric in COMPARED if method != reference else ():
                pairs = [(run.metrics[metric], base[run.seed][metric]) for run in runs if run.seed in base]
                values = [mine - other for mine, other in pairs if len(finite((mine, other))) == 2]
                if values:
                    low, high = interval(values, confidence) or (None, None)
                    mean = statistics.fmean(values)
                    entry = Difference(
                        dataset, method, reference, metric, mean, low, high, confidence, len(values)
                    )
                    found.append(entry)
    return found


# --- tables for other programs ------------------------------------------------------------------------


def files(results: Results) -> dict[str, str]:
    """The report's tables, name -> text; the same results give the same bytes, no times or hosts in them."""
    summary = summarize(results)
    fields = ["dataset", "method", "metric", "mean", "std", "seeds"]
    compared = ["dataset", "method", "reference", "metric", "mean", "low", "high", "confidence", "seeds"]
    return {
        "metrics.json": json.dumps(_nested(summary, results), sort_keys=True, indent=1) + "\n",
        "runs.csv": _runs_csv(results),
        "summary.csv": _csv(fields, ([getattr(row, f) for f in fields] for row in summary)),
        "differences.csv": _csv(compared, ([getattr(row, f) for f in compared] for row in compare(results))),
        "classes.csv": _classes_csv(results),
        "plots/class_counts.csv": _class_counts_csv(results),
        "plots/class_accuracy.csv": _class_accuracy_csv(results),
        "plots/search.csv": _history_csv(results, "search"),
        "plots/retrain.csv": _history_csv(results, "retrain"),
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV; ten digits a float, nothing where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.10g}" if math.isfinite(value) else ""
    return "" if value is None else value


def _nested(summary: list[Summary], results: Results) -> dict[str, dict[str, dict[str, float]]]:
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for dataset in results.classes:
        nested[dataset] = {name: {"seeds": len(runs)} for name, runs in results.methods(dataset).items()}
    for row in summary:
        nested[row.dataset][row.method][row.metric] = float(f"{row.mean:.10g}")
    return nested


def _runs_csv(results: Results) -> str:
    shown = [*METRICS, "nll", "test_images"]
    rows = ([run.dataset, run.method, run.seed, *(run.metrics[m] for m in shown)] for run in results.runs)
    return _csv(["dataset", "method", "seed", *shown], rows)


def _classes_csv(results: Results) -> str:
    header = ["dataset", "method", "seed", "class", "name", "group", "train_count", "accuracy"]
    return _csv(
        header, ([r.dataset, r.method, r.seed, *row] for r in results.runs for row in _class_rows(results, r))
    )


def _class_rows(results: Results, run: Run) -> Iterator[tuple[int, str, str, int, float | None]]:
    """(class, name, group, training images, accuracy) of every class."""
    names, metrics = results.classes[run.dataset]["names"], run.metrics
    columns = (names, metrics["groups"], metrics["train_counts"], metrics["per_class"])
    return ((i, *row) for i, row in enumerate(zip(*columns, strict=True)))


def _class_counts_csv(results: Results) -> str:
    rows = [
        [dataset, i, name, subset, classes["counts"][subset][i]]
        for dataset, classes in results.classes.items()
        for i, name in enumerate(classes["names"])
        for subset in SUBSETS
    ]
    return _csv(["dataset", "class", "name", "subset", "count"], rows)


def _class_means(results: Results, runs: list[Run]) -> list[tuple[int, str, str, int, float | None]]:
    """(class, name, group, training images, accuracy as mean over the seeds that have it) of every class."""
    found = []
    for rows in zip(*(_class_rows(results, run) for run in runs), strict=True):
        values = finite(row[-1] for row in rows)
        found.append((*rows[0][:-1], statistics.fmean(values) if values else None))
    return found


def _class_accuracy_csv(results: Results) -> str:
    rows = [
        [dataset, method, index, name, count, accuracy]
        for dataset in results.classes
        for method, runs in results.methods(dataset).items()
        for index, name, _, count, accuracy in _class_means(results, runs)
    ]
    return _csv(["dataset", "method", "class", "name", "train_count", "accuracy"], rows)


def _history_csv(results: Results, stage: str) -> str:
    columns = [*SCHEMAS[f"{stage}_history"]]
    rows = (
        [run.dataset, run.method, run.seed, run.name, *values]
        for run in results.runs
        for values in zip(*(run.histories[stage][column] for column in columns), strict=True)
    )
    return _csv(["dataset", "method", "seed", "run", *columns], rows)


# --- words --------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """A fraction in per cent, one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of fractions in signed percentage points: one decimal, more where it would round to 0."""
    scaled = 100 * value
    if abs(scaled) < 1e-9:
        return "0.0"
    return f"{scaled:+.{max(1, math.ceil(-math.log10(abs(scaled))))}f}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def answer(results: Results, differences: list[Difference]) -> list[str]:
    """Did it help, by how much, how sure: the headline, then a sentence a comparison of balanced accuracy."""
    reference = results.report["reference"]
    if reference is None:
        return [
            "No reference method is set (report.reference), so the methods stand side by side, uncompared."
        ]
    main = [d for d in differences if d.metric == "balanced_accuracy"]
    if not main:
        return [f"Only {reference} was run: there is nothing to compare it with."]
    sentences = [_sentence(d) for d in main]
    if max(d.seeds for d in main) < 2:
        return ["One seed a method: no difference can be told from chance yet.", *sentences]
    if len(main) == 1:
        return sentences
    counts = Counter(d.verdict for d in main)
    higher, lower = counts["higher"], counts["lower"]
    if not higher and not lower:
        return [f"No difference to {reference} in balanced accuracy is shown in any comparison.", *sentences]
    headline = (
        f"Against {reference}, balanced accuracy is higher in {higher} and lower in {lower} of {len(main)}"
        f" comparisons; no difference is shown in {len(main) - higher - lower}."
    )
    return [headline, *sentences]


def _sentence(d: Difference) -> str:
    change = f"{points(d.mean)} percentage points"
    start = f"{d.method} on {d.dataset}: balanced accuracy {change} against {d.reference}"
    if d.low is None or d.high is None:
        why = "nothing can be said about chance" if d.seeds < 2 else d.verdict
        return f"{start} ({counted(d.seeds, 'seed')}; {why})."
    end = d.verdict if d.low <= 0 <= d.high else f"{d.verdict}, as the interval leaves out 0"
    span = f"{points(d.low)} to {points(d.high)}"
    return f"{start} ({100 * d.confidence:g} % interval {span}, {counted(d.seeds, 'seed')}): {end}."


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, as a reader would say it."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
    """Bytes in MiB or GiB."""
    if size is None:
        return UNKNOWN
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


# --- the page -----------------------------------------------------------------------------------------


def page(results: Results) -> str:
    """The HTML page: one file that fetches nothing and needs no JavaScript."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    differences = compare(results)
    summary = {(s.dataset, s.method, s.metric): s for s in summarize(results)}
    return environment.get_template("report.html.j2").render(
        report=results.report,
        answer=answer(results, differences),
        metrics=METRICS,
        results=[_results_of(results, dataset, summary) for dataset in results.classes],
        differences=[_difference_row(d) for d in differences],
        datasets=[_dataset_figures(results, dataset) for dataset in results.classes],
        made_with=_made_with(results),
        jobs=[_job_row(run, stage) for run in results.runs for stage in run.records],
        params=yaml.safe_dump(
            {**results.params, "report": results.report}, sort_keys=False, allow_unicode=True
        ),
    )


def _results_of(
    results: Results, dataset: str, summary: dict[tuple[str, str, str], Summary]
) -> dict[str, Any]:
    """The table of a data set: a row a method, 'mean ± standard deviation' a metric."""
    rows = []
    methods = results.methods(dataset)
    for method, runs in methods.items():
        cells = [_mean_and_spread(summary.get((dataset, method, metric))) for metric in METRICS]
        rows.append({"method": method, "seeds": len(runs), "cells": cells})
    images = sorted({run.metrics["test_images"] for runs in methods.values() for run in runs})
    return {"name": dataset, "test_images": " or ".join(f"{n}" for n in images), "rows": rows}


def _mean_and_spread(summary: Summary | None) -> str:
    if summary is None:
        return NOTHING
    return percent(summary.mean) + (f" ± {percent(summary.std)}" if summary.std is not None else "")


def _difference_row(d: Difference) -> dict[str, Any]:
    known = d.low is not None and d.high is not None
    span = f"{points(d.low)} to {points(d.high)}" if known else NOTHING  # type: ignore[arg-type]
    head = {"dataset": d.dataset, "method": d.method, "metric": COMPARED[d.metric]}
    return head | {"mean": points(d.mean), "interval": span, "seeds": d.seeds, "verdict": d.verdict}


def _dataset_figures(results: Results, dataset: str) -> dict[str, Any]:
    methods = results.methods(dataset)
    return {
        "name": dataset,
        "counts": _counts_figure(results, dataset),
        "accuracy": _accuracy_figure(results, methods),
        "search": [_curves_figure(panel, "search", methods) for panel in SEARCH_PANELS],
        "without_search": [
            name for name, runs in methods.items() if not any(r.histories["search"]["epoch"] for r in runs)
        ],
        "retrain": [_curves_figure(panel, "retrain", methods) for panel in RETRAIN_PANELS],
        "operations": _operations(methods),
        "cells": methods,
    }


def _searched(runs: list[Run]) -> bool:
    return any(run.histories["search"]["epoch"] for run in runs)


# --- figures ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A figure of curves over the epochs: `columns` (column -> label), one chart a method, a line a seed."""

    title: str
    y_label: str
    columns: dict[str, str]
    shares: tuple[str, ...] = field(default=())  # drawn relative to the run's largest value
    scale: float = 1.0
    zero: bool = False


SPEED = Panel("Speed", "images per second", {"images_per_second": "images per second"}, zero=True)
SEARCH_PANELS = (
    Panel("Losses", "loss", {"weights_loss": "weight steps", "alphas_loss": "architecture steps"}),
    Panel(
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
        "Entropy of the architecture",
        "nats",
        {"entropy_normal": "normal cell", "entropy_reduce": "reduction cell"},
    ),
    Panel(
        "Skip connections",
        "in the genotype",
        {"skips_normal": "normal cell", "skips_reduce": "reduction cell"},
        zero=True,
    ),
    Panel(
        "Accuracy in the search",
        "per cent",
        {"weights_accuracy": "weight steps", "alphas_accuracy": "architecture steps"},
        scale=100,
    ),
    SPEED,
)
RETRAIN_PANELS = (
    Panel("Loss", "loss", {"loss": "training images"}, zero=True),
    Panel("Accuracy", "per cent", {"accuracy": "training images", "holdout_accuracy": "holdout"}, scale=100),
    SPEED,
)


def _curves_figure(panel: Panel, stage: str, methods: dict[str, list[Run]]) -> dict[str, Any]:
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
    return {"title": panel.title, "legend": charts.legend(labels, "line"), "charts": drawn}


def _lines(panel: Panel, stage: str, run: Run) -> Iterator[charts.Line]:
    """The lines of one run, columns without any number left out."""
    columns = _speed(run.records[stage]) if panel is SPEED else run.histories[stage]
    for series, (column, label) in enumerate(panel.columns.items()):
        values = columns[column]
        known = finite(values)
        if not known:
            continue
        largest = max(known) if column in panel.shares else 1 / panel.scale
        note = f" (largest {largest:.3g})" if column in panel.shares else ""
        ys = [None if y is None else y / (largest or 1.0) for y in values]
        yield charts.Line(f"{run.name}: {label}{note}", series, columns["epoch"], ys)


def _speed(record: dict[str, Any]) -> Columns:
    rows = record.get("throughput") or []
    return {name: [row.get(name) for row in rows] for name in ("epoch", "images_per_second")}


def _counts_figure(results: Results, dataset: str) -> dict[str, Any]:
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
    return {
        "chart": charts.bar_chart(stacks, [classes["names"][c] for c in order], axes, bands),
        "legend": charts.legend([*counts], "fill"),
        "test": f"{low}" if low == high else f"{low} to {high}",
        "factor": f"{max(size) / min(size):.3g}" if min(size) else NOTHING,
    }


def _accuracy_figure(results: Results, methods: dict[str, list[Run]]) -> dict[str, Any]:
    """Accuracy of every class against its training images, a chart a method."""
    rows = {method: _class_means(results, runs) for method, runs in methods.items()}
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
    return {"charts": drawn, "legend": charts.legend([f"{group}-shot" for group in GROUPS], "dots")}


def _operations(methods: dict[str, list[Run]]) -> dict[str, Any]:
    """How often the genotypes hold each primitive, both cells together, as mean over the seeds."""
    counts = {
        method: Counter(
            op
            for run in runs
            for cell in ("normal", "reduce")
            for node in run.genotype[cell]
            for op, _ in node
        )
        for method, runs in methods.items()
    }
    primitives = sorted(set().union(*counts.values()))
    rows = [
        {"method": method, "cells": [f"{count[p] / len(methods[method]):.1f}" for p in primitives]}
        for method, count in counts.items()
    ]
    return {"primitives": primitives, "rows": rows}


# --- what was run -------------------------------------------------------------------------------------


def _short(value: Any, length: int) -> str:
    return UNKNOWN if value is None else str(value)[:length]


def _commit(record: dict[str, Any]) -> str:
    commit = _short(record.get("commit"), 10)
    return f"{commit} + uncommitted changes" if record.get("dirty") else commit


def _device(record: dict[str, Any]) -> str:
    gpu = record.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else gpu
    return str(name or record.get("cpu") or record.get("device") or UNKNOWN)


def _versions(record: dict[str, Any]) -> str:
    versions = record.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or UNKNOWN


def _made_with(results: Results) -> list[dict[str, Any]]:
    """Commit, code, device and versions of the jobs of each stage, so that a mixture stands out."""
    rows = []
    for stage in ("search", "retrain"):
        records = [run.records[stage] for run in results.runs]
        facts = {
            "commit": Counter(map(_commit, records)),
            "code": Counter(_short(record.get("code"), 12) for record in records),
            "device": Counter(map(_device, records)),
            "versions": Counter(map(_versions, records)),
        }
        seconds = [record["seconds"] for record in records if record.get("seconds") is not None]
        total = duration(math.fsum(seconds)) if len(seconds) == len(records) else UNKNOWN
        rows.append({"stage": stage, "jobs": len(records), "total": total, "facts": facts})
    return rows


def _job_row(run: Run, stage: str) -> dict[str, Any]:
    """A row of the table of jobs."""
    record = run.records[stage]
    speeds = finite(_speed(record)["images_per_second"])
    return {
        "run": run.name,
        "stage": stage,
        "key": _short(record.get("key"), 12),
        "commit": _commit(record),
        "code": _short(record.get("code"), 12),
        "host": _short(record.get("host"), 60),
        "device": _device(record),
        "slurm": record.get("slurm_job") or NOTHING,
        "started": _short(record.get("started"), 19).replace("T", " "),
        "took": duration(record.get("seconds")),
        "memory": memory(record.get("peak_memory_bytes")),
        "speed": f"{statistics.median(speeds):,.0f}".replace(",", "\u202f") if speeds else UNKNOWN,
        "resumes": UNKNOWN if record.get("resumes") is None else record["resumes"],
        "versions": _versions(record),
    }
