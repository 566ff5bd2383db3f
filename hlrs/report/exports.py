"""The report's tables for other programs: metrics.json and CSV."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hlrs.artifacts.tables import SCHEMAS, SUBSETS
from hlrs.report.comparisons import Difference, Summary, known, known_sizes
from hlrs.report.lookups import COUNT, floor_of
from hlrs.report.runs import GAP, PLACE, REPEATED, Results, Run, class_means, class_rows, once, taus

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet runs


def _place(run: Run) -> list[Any]:
    return [getattr(run, name) for name in PLACE]


def files(results: Results, summary: list[Summary], differences: list[Difference]) -> dict[str, str]:
    """Return the report's tables by file name; without times and hosts, so equal results give equal bytes."""
    compared = [field.name for field in dataclasses.fields(Difference)]
    return {
        "metrics.json": json.dumps(_nested(summary, results), sort_keys=True, indent=1) + "\n",
        "runs.csv": _runs_csv(results),
        "summary.csv": _summary_csv(summary, results),
        "differences.csv": comma_separated(
            compared, ([getattr(row, f) for f in compared] for row in differences)
        ),
        "classes.csv": _classes_csv(results),
        "plots/class_counts.csv": _class_counts_csv(results),
        "plots/class_accuracy.csv": _class_accuracy_csv(results),
        "plots/search.csv": _history_csv(results, "search", "search_history"),
        "plots/retrain.csv": _history_csv(results, "retrain", "retrain_history"),
    }


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 10) -> str:
    """Write CSV, floats rounded to so many significant digits, empty for None and NaN.

    A text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return f"{value:.{digits}g}" if math.isfinite(value) else ""
        if isinstance(value, str):  # a lone \r would end the row unquoted
            apostrophe = "'" if value.startswith(FORMULA) else ""
            return apostrophe + value.replace("\r\n", "\n").replace("\r", "\n")
        return value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(plain, header))
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
    for dataset, name, metric, value in _beside_means(results):
        nested[dataset].setdefault(name, {})[metric] = float(f"{value:.10g}")
    return nested


def _summary_csv(summary: list[Summary], results: Results) -> str:
    fields = [field.name for field in dataclasses.fields(Summary)]
    means = [[getattr(row, field) for field in fields] for row in summary]
    beside = [[*row, *[None] * (len(fields) - len(row))] for row in _beside_means(results)]
    return comma_separated(fields, [*means, *beside])


def _beside_means(results: Results) -> Iterator[tuple[str, str, str, float]]:
    """Yield (data set, method, metric, value) of look-ups: how many cells collapsed, and the floor's rows."""
    for dataset in results.classes:
        floor = floor_of(results, dataset)
        if floor is None:
            continue
        for method, runs in results.methods(dataset).items():
            lookups = [run.lookup for run in once(runs) if run.lookup]
            if lookups:
                yield dataset, method, "collapses", sum(found["collapsed"] for found in lookups)
        for name, accuracy in floor.rows.items():
            yield dataset, name, "table_accuracy", accuracy
        if floor.correlation is not None:
            yield dataset, COUNT, "rank_correlation", floor.correlation


def _runs_csv(results: Results) -> str:
    shown = [*known(results), *known_sizes(results)]
    shown += ["nll", "test_images"] if results.retrained else []
    shown += ["adjust"] if taus(results) else []
    searched = any(GAP in run.metrics for run in results.runs)
    shown += ["supernet_accuracy", "decoded_accuracy"] if searched else []
    judged = [run.lookup for run in results.runs if run.lookup]
    shown += ["table_percentile", "table_rank"] if judged else []
    facts = ["cell", "collapsed"] if judged else []
    rows = (
        [
            *_place(run),
            *(run.metrics.get(m) for m in shown),
            *((run.lookup or {}).get(fact) for fact in facts),
        ]
        for run in results.runs
    )
    return comma_separated([*PLACE, *shown, *facts], rows)


def _classes_csv(results: Results) -> str:
    header = [*PLACE, "class", "name", "group", "train_count", "accuracy"]
    return comma_separated(
        header, ([*_place(run), *row] for run in results.runs for row in class_rows(results, run))
    )


def _class_counts_csv(results: Results) -> str:
    rows = [
        [dataset, i, name, subset, classes["counts"][subset][i]]
        for dataset, classes in results.classes.items()
        for i, name in enumerate(classes["names"])
        for subset in SUBSETS
    ]
    return comma_separated(["dataset", "class", "name", "subset", "count"], rows)


def _class_accuracy_csv(results: Results) -> str:
    rows = [
        [dataset, method, index, name, count, accuracy]
        for dataset in results.classes
        for method, runs in results.methods(dataset).items()
        for index, name, _, count, accuracy in class_means(results, runs)
    ]
    return comma_separated(["dataset", "method", "class", "name", "train_count", "accuracy"], rows)


def _history_csv(results: Results, stage: str, kind: str) -> str:
    """Write one row per epoch; each search once, without a retraining seed."""
    columns, repeated = [*SCHEMAS[kind]], stage in REPEATED
    rows = (
        [*(_place(run) if repeated else _place(run)[:-1]), run.name_of(stage), *values]
        for run in (results.runs if repeated else once(results.runs))
        if stage in run.histories
        for values in zip(*(run.histories[stage][column] for column in columns), strict=True)
    )
    return comma_separated([*(PLACE if repeated else PLACE[:-1]), "run", *columns], rows)
