"""The report: statistics over seeds, the tables for other programs, the answer in words.

What the numbers say is worded by `answer`, which claims no more than its intervals: paired differences to the
reference (same data set, same seed), with Student's t for the unknown spread.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

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
NOTHING = "–"
STAGES = ("search", "extract", "retrain", "evaluate")  # of a run


@dataclass(frozen=True)
class Run:
    """One data set × method × seed: what its jobs left behind."""

    dataset: str
    method: str
    seed: int
    metrics: dict[str, Any]
    genotype: dict[str, Any]
    histories: dict[str, Columns]  # "search", "retrain": columns as in SCHEMAS
    alphas: Columns  # as in SCHEMAS
    records: dict[str, dict[str, Any]]  # of STAGES: provenance
    cells: dict[str, str]  # "normal", "reduce": SVG

    @property
    def name(self) -> str:
        """As it appears in paths."""
        return f"{self.dataset}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class Results:
    """All that the report shows. `report`: its parameters.

    Of every data set, `classes`: its classes.json; `splits`: the provenance record of its split.
    """

    report: dict[str, Any]
    params: dict[str, Any]
    classes: dict[str, dict[str, Any]]
    splits: dict[str, dict[str, Any]]
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
        "summary.csv": comma_separated(fields, ([getattr(row, f) for f in fields] for row in summary)),
        "differences.csv": comma_separated(
            compared, ([getattr(row, f) for f in compared] for row in compare(results))
        ),
        "classes.csv": _classes_csv(results),
        "plots/class_counts.csv": _class_counts_csv(results),
        "plots/class_accuracy.csv": _class_accuracy_csv(results),
        "plots/search.csv": _history_csv(results, "search"),
        "plots/retrain.csv": _history_csv(results, "retrain"),
    }


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 10) -> str:
    """CSV; so many digits a float, nothing where there is no number."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return f"{value:.{digits}g}" if math.isfinite(value) else ""
        return value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([plain(value) for value in row] for row in rows)
    return text.getvalue()


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
    return comma_separated(["dataset", "method", "seed", *shown], rows)


def _classes_csv(results: Results) -> str:
    header = ["dataset", "method", "seed", "class", "name", "group", "train_count", "accuracy"]
    return comma_separated(
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
    return comma_separated(["dataset", "class", "name", "subset", "count"], rows)


def class_means(results: Results, runs: list[Run]) -> list[tuple[int, str, str, int, float | None]]:
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
        for index, name, _, count, accuracy in class_means(results, runs)
    ]
    return comma_separated(["dataset", "method", "class", "name", "train_count", "accuracy"], rows)


def _history_csv(results: Results, stage: str) -> str:
    columns = [*SCHEMAS[f"{stage}_history"]]
    rows = (
        [run.dataset, run.method, run.seed, run.name, *values]
        for run in results.runs
        for values in zip(*(run.histories[stage][column] for column in columns), strict=True)
    )
    return comma_separated(["dataset", "method", "seed", "run", *columns], rows)


# --- words --------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """A fraction in per cent, one decimal."""
    return NOTHING if value is None else f"{round(100 * value, 6):.1f}"  # equal means print alike


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
    shown = {verdict: [d.mean for d in main if d.verdict == verdict] for verdict in ("higher", "lower")}
    left = len(main) - sum(map(len, shown.values()))
    if left == len(main):
        return [f"No difference to {reference} in balanced accuracy is shown in any comparison.", *sentences]
    parts = [f"{verdict} in {len(means)} ({_range(means)})" for verdict, means in shown.items() if means]
    rest = f"; the other {'one' if left == 1 else left} cannot be told from chance" if left else ""
    found = f"{' and '.join(parts)} of {len(main)} comparisons{rest}"
    return [f"Against {reference}, balanced accuracy is {found}.", *sentences]


def _range(means: list[float]) -> str:
    """From the smallest change to the largest."""
    first, last = (points(abs(end(means, key=abs))).lstrip("+") for end in (min, max))
    return f"by {first} points" if first == last else f"by {first} to {last} points"


def _sentence(d: Difference) -> str:
    change = f"{points(d.mean)} percentage points"
    start = f"{d.method} on {d.dataset}: balanced accuracy {change} against {d.reference}"
    if d.low is None or d.high is None:
        why = "nothing can be said about chance" if d.seeds < 2 else d.verdict
        return f"{start} ({counted(d.seeds, 'seed')}; {why})."
    end = d.verdict if d.low <= 0 <= d.high else f"{d.verdict}, as the interval leaves out 0"
    span = f"{points(d.low)} to {points(d.high)}"
    return f"{start} ({100 * d.confidence:g} % interval {span}, {counted(d.seeds, 'seed')}): {end}."
