"""The report's page: one HTML file for people, its figures and what was run (template: page.html.j2)."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import yaml

from hlrs import charts
from hlrs.artifacts import SUBSETS
from hlrs.report import (
    COMPARED,
    METRICS,
    NOTHING,
    Columns,
    Difference,
    Results,
    Run,
    Summary,
    answer,
    class_means,
    compare,
    finite,
    percent,
    points,
    summarize,
)

GROUPS = ("many", "medium", "few")
TRAINED = SUBSETS[:3]  # all but the test images
UNKNOWN = "not recorded"


def page(results: Results) -> str:
    """The HTML page: one file that fetches nothing and needs no JavaScript."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    differences = compare(results)
    summary = {(s.dataset, s.method, s.metric): s for s in summarize(results)}
    return environment.get_template("page.html.j2").render(
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
