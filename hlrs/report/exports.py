"""The report's tables for other programs: metrics.json and CSV."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from hlrs.artifacts.tables import SCHEMAS, SUBSETS
from hlrs.report.comparisons import Difference, Summary, compare, known, summarize
from hlrs.report.runs import PLACE, REPEATED, Results, Run, class_means, class_rows, once

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet runs


def _place(run: Run) -> list[Any]:
    return [getattr(run, name) for name in PLACE]


def files(results: Results) -> dict[str, str]:
    """Return the report's tables by file name; without times and hosts, so equal results give equal bytes."""
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
    return nested


def _runs_csv(results: Results) -> str:
    shown = [*known(results), *(["nll", "test_images"] if results.retrained else [])]
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
        [*(_place(run) if repeated else _place(run)[:3]), run.name_of(stage), *values]
        for run in (results.runs if repeated else once(results.runs))
        if stage in run.histories
        for values in zip(*(run.histories[stage][column] for column in columns), strict=True)
    )
    return comma_separated([*(PLACE if repeated else PLACE[:3]), "run", *columns], rows)
