"""The report: its runs, summaries over seeds, the tables for other programs, the answer in words.

What the numbers say is worded by `answer`, which claims no more than its tests: paired differences to the
reference (same data set, same seed), Student's t for the unknown spread, corrected for the methods compared.
"""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hlrs.artifacts import SCHEMAS, SUBSETS, repeat
from hlrs.report.statistics import bootstrap, holm, interval, p_value, spread, within

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
REPEATED = STAGES[2:]  # once a retraining; the others once a search
MOST_SENTENCES = 12  # of the answer; of more comparisons it tells together, a sentence a data set


@dataclass(frozen=True)
class Run:
    """One data set × method × seed × retraining: what its jobs left behind.

    A published genotype has no search, a ResNet no genotype either: what does not exist is None or empty.
    """

    dataset: str
    method: str
    seed: int
    retrain_seed: int
    metrics: dict[str, Any]
    genotype: dict[str, Any] | None
    histories: dict[str, Columns]  # "search", "retrain": columns as in SCHEMAS
    alphas: Columns  # as in SCHEMAS
    records: dict[str, dict[str, Any]]  # of STAGES: provenance
    cells: dict[str, str]  # "normal", "reduce": SVG

    @property
    def search(self) -> str:
        """The search, or the seed, as it appears in paths: its retrainings share it."""
        return f"{self.dataset}/{self.method}/{self.seed}"

    @property
    def name(self) -> str:
        """As it appears in paths."""
        return repeat(self.search, self.retrain_seed)

    def name_of(self, stage: str) -> str:
        """Of the job of a stage, as it appears in paths."""
        return self.name if stage in REPEATED else self.search


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


def once(runs: Iterable[Run]) -> list[Run]:
    """A run a search: the first of its retrainings."""
    return [*{run.search: run for run in reversed([*runs])}.values()][::-1]


def jobs(runs: Iterable[Run], stage: str) -> list[dict[str, Any]]:
    """The records of the jobs of a stage, each job once."""
    return [*{run.name_of(stage): run.records[stage] for run in runs if stage in run.records}.values()]


def several(results: Results) -> bool:
    """Whether genotypes are retrained more than once."""
    return len({run.retrain_seed for run in results.runs}) > 1


# --- statistics ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds, each the mean of its retrainings.

    `std`, a sample's (n − 1), and the bootstrap interval are None with one seed; `retrain_std` is that of the
    retrainings of one genotype, pooled, None with one retraining.
    """

    dataset: str
    method: str
    metric: str
    mean: float
    std: float | None
    seeds: int
    bootstrap_low: float | None
    bootstrap_high: float | None
    confidence: float
    retrain_std: float | None


@dataclass(frozen=True)
class Difference:
    """Mean of method − reference over common seeds; no interval and no p with one seed or without a spread.

    `low`, `high`: Student's interval, `p`: of the same t-test, both of this comparison by itself;
    `corrected`: p corrected by Holm for the `compared` methods of the data set that have one. `left_out`:
    seeds that only one side has.
    """

    dataset: str
    method: str
    reference: str
    metric: str
    mean: float
    std: float | None
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    confidence: float
    p: float | None
    corrected: float | None
    compared: int
    seeds: int
    left_out: int

    @property
    def verdict(self) -> str:
        """What can be said: the corrected p decides, so the interval alone may leave out 0 without it."""
        if self.corrected is None:
            if self.seeds < 2:
                return "needs 2 seeds"
            return "same in every seed, so nothing to estimate chance from"
        if self.corrected >= 1 - self.confidence:
            return "no difference is shown"
        return "higher" if self.mean > 0 else "lower"


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None and math.isfinite(value)]


def by_seed(runs: Iterable[Run], metric: str) -> dict[int, list[float]]:
    """The values of the retrainings of each seed that has any."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for value in finite([run.metrics[metric]]):
            found.setdefault(run.seed, []).append(value)
    return found


def seed_means(runs: Iterable[Run], metric: str) -> dict[int, float]:
    """A metric of each seed: the mean of its retrainings."""
    return {seed: statistics.fmean(values) for seed, values in by_seed(runs, metric).items()}


def summarize(results: Results) -> list[Summary]:
    """Every metric of every data set × method that at least one seed has."""
    confidence, resamples = results.report["confidence"], results.report["resamples"]
    found = []
    for dataset in results.classes:
        for method, runs in results.methods(dataset).items():
            for metric in METRICS:
                groups = by_seed(runs, metric)
                values = [statistics.fmean(group) for group in groups.values()]
                if values:
                    low, high = bootstrap(values, confidence, resamples) or (None, None)
                    found.append(
                        Summary(
                            dataset,
                            method,
                            metric,
                            statistics.fmean(values),
                            spread(values),
                            len(values),
                            low,
                            high,
                            confidence,
                            within(groups),
                        )
                    )
    return found


def compare(results: Results) -> list[Difference]:
    """Paired differences of every other method to the reference; none without a reference."""
    reference = results.report["reference"]
    found = []
    for dataset in results.classes:
        methods = results.methods(dataset)
        others = [(name, runs) for name, runs in methods.items() if name != reference]
        for metric in COMPARED if reference in methods else ():
            pairs = [difference(results, runs, methods[reference], metric) for _, runs in others]
            found += corrected(pair for pair in pairs if pair is not None)
    order = {(dataset, method): i for i, (dataset, method) in enumerate(_rows(results))}
    return sorted(found, key=lambda d: order[d.dataset, d.method])


def _rows(results: Results) -> list[tuple[str, str]]:
    return [(dataset, method) for dataset in results.classes for method in results.methods(dataset)]


def difference(results: Results, runs: list[Run], others: list[Run], metric: str) -> Difference | None:
    """A method against another, seed by seed, not corrected yet; None without a common seed."""
    mine, base = seed_means(runs, metric), seed_means(others, metric)
    values = [mine[seed] - base[seed] for seed in mine if seed in base]
    if not values:
        return None
    confidence = results.report["confidence"]
    no: tuple[None, None] = (None, None)
    low, high = interval(values, confidence) or no
    bootstrap_low, bootstrap_high = bootstrap(values, confidence, results.report["resamples"]) or no
    return Difference(
        runs[0].dataset,
        runs[0].method,
        others[0].method,
        metric,
        statistics.fmean(values),
        spread(values),
        low,
        high,
        bootstrap_low,
        bootstrap_high,
        confidence,
        p_value(values),
        None,
        0,
        len(values),
        len({run.seed for run in (*runs, *others)}) - len(values),
    )


def corrected(family: Iterable[Difference]) -> list[Difference]:
    """The differences of a family of comparisons, their p-values corrected for those of the others."""
    family = [*family]
    ps = [d.p for d in family if d.p is not None]
    found = iter(holm(ps))
    return [replace(d, compared=len(ps), corrected=None if d.p is None else next(found)) for d in family]


# --- tables for other programs ------------------------------------------------------------------------


def files(results: Results) -> dict[str, str]:
    """The report's tables, name -> text; the same results give the same bytes, no times or hosts in them."""
    summary = summarize(results)
    fields, compared = ([field.name for field in dataclasses.fields(kind)] for kind in (Summary, Difference))
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
        nested[dataset] = {
            name: {"seeds": len(once(runs))} for name, runs in results.methods(dataset).items()
        }
    for row in summary:
        nested[row.dataset][row.method][row.metric] = float(f"{row.mean:.10g}")
    return nested


PLACE = ["dataset", "method", "seed", "retrain_seed"]


def _place(run: Run) -> list[Any]:
    return [getattr(run, name) for name in PLACE]


def _runs_csv(results: Results) -> str:
    shown = [*METRICS, "nll", "test_images"]
    rows = ([*_place(run), *(run.metrics[m] for m in shown)] for run in results.runs)
    return comma_separated([*PLACE, *shown], rows)


def _classes_csv(results: Results) -> str:
    header = [*PLACE, "class", "name", "group", "train_count", "accuracy"]
    return comma_separated(
        header, ([*_place(run), *row] for run in results.runs for row in _class_rows(results, run))
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
    """A row an epoch; of the searches each once, with the seed of no retraining."""
    columns, repeated = [*SCHEMAS[f"{stage}_history"]], stage in REPEATED
    rows = (
        [*(_place(run) if repeated else _place(run)[:3]), run.name_of(stage), *values]
        for run in (results.runs if repeated else once(results.runs))
        if stage in run.histories
        for values in zip(*(run.histories[stage][column] for column in columns), strict=True)
    )
    return comma_separated([*(PLACE if repeated else PLACE[:3]), "run", *columns], rows)


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
    few = len(main) <= MOST_SENTENCES
    sentences = [_sentence(d) for d in main] if few else _sentences(results, main)
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


def _sentences(results: Results, differences: list[Difference]) -> list[str]:
    """Many comparisons in words, a sentence a data set: the methods that differ, and how many do not."""
    found = []
    for dataset in results.classes:
        own: dict[str, list[Difference]] = {"higher": [], "lower": []}
        for d in differences:
            if d.dataset == dataset:
                own.setdefault(d.verdict, []).append(d)
        parts = [
            f"{verdict}: {', '.join(f'{d.method} {points(d.mean)}' for d in named)}"
            if verdict in ("higher", "lower")
            else f"{verdict} for {counted(len(named), 'method')}"
            for verdict, named in own.items()
            if named
        ]
        found += [f"{dataset}: {'; '.join(parts)}."] if parts else []
    return found


def _range(means: list[float]) -> str:
    """From the smallest change to the largest."""
    first, last = (points(abs(end(means, key=abs))).lstrip("+") for end in (min, max))
    return f"by {first} points" if first == last else f"by {first} to {last} points"


def _sentence(d: Difference) -> str:
    change = f"{points(d.mean)} percentage points"
    start = f"{d.method} on {d.dataset}: balanced accuracy {change} against {d.reference}"
    if d.low is None or d.high is None or d.corrected is None:
        why = "nothing can be said about chance" if d.seeds < 2 else d.verdict
        return f"{start} ({counted(d.seeds, 'seed')}; {why})."
    span = f"{points(d.low)} to {points(d.high)}"
    for_all = f", corrected for {d.compared} methods" if d.compared > 1 else ""
    said = f"{100 * d.confidence:g} % interval {span}, p {chance(d.corrected)}{for_all}"
    return f"{start} ({said}, {counted(d.seeds, 'seed')}): {d.verdict}."


def chance(p: float) -> str:
    """A p-value: two digits, and no more zeros than help."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"
