"""The report's page: one HTML file for people (template: page.html.j2; what it draws: figures.py)."""

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import yaml

from hlrs import figures
from hlrs.report import (
    COMPARED,
    METRICS,
    NOTHING,
    Difference,
    Results,
    Run,
    Summary,
    answer,
    compare,
    finite,
    percent,
    points,
    summarize,
)

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
        datasets=[_dataset(results, name) for name in results.classes],
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


def _dataset(results: Results, name: str) -> dict[str, Any]:
    methods = results.methods(name)
    return {
        "name": name,
        "sections": figures.sections(results, name),
        "operations": _operations(methods),
        "cells": methods,
    }


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
    speeds = finite(figures.speed(record)["images_per_second"])
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
