"""The report stage: compare all runs on a page for people, with figures and tables for other programs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hlrs.artifacts.files import read_json, replacing, write_text
from hlrs.artifacts.jobs import PROVENANCE, Job, repeat
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import read_table
from hlrs.config.base import Choices
from hlrs.config.jobs import ReportJob
from hlrs.config.methods import Method
from hlrs.errors import UserError
from hlrs.nas.genotype import Node, drawings, from_json
from hlrs.report.claim import claims, table
from hlrs.report.comparisons import compare, summarize
from hlrs.report.exports import files
from hlrs.report.figures import archive
from hlrs.report.page import page
from hlrs.report.runs import REPEATED, Columns, JobRecord, Results, Run, of_search, with_energies

BEFORE_RETRAINING: Choices[list[str]] = {  # stages, by what the searcher says its genotype is
    "searched": ["search", "extract"],
    "drawn": ["search", "extract"],
    "scored": ["search", "extract"],
    "given": ["extract"],
    "absent": [],
    "shared": [],
}


def run(job: Job) -> dict[str, Any]:
    """Read the results of every run and write the report."""
    results = gather(job)
    summary, differences = summarize(results), compare(results)
    claim = claims(results, differences)
    texts = files(results, summary, differences) | {
        "claim.csv": table(claim),
        "index.html": page(results, summary, differences, claim),
    }
    for name, text in texts.items():
        write_text(job.output(name), text)
    with replacing(job.output("figures.zip")) as temporary:
        archive(results, temporary)
    return {}


def gather(job: Job) -> Results:
    """Read the inputs of a report job for every data set × draw × method × seed × retraining seed."""
    params = job.params["params"]
    matrix, sections = params["matrix"], ReportJob.model_validate(job.params).params
    draws = {dataset: sections.draws(dataset) for dataset in matrix["datasets"]}
    firsts = {dataset: next(iter(own)) for dataset, own in draws.items()}
    classes = {
        dataset: read_json(_input(job, f"split/{name}/classes.json")) for dataset, name in firsts.items()
    }
    splits = {name: _record(job, "split", name) for own in draws.values() for name in own}
    runs = [
        replace(run, split_seed=drawn.draw, split=name if name != dataset else "")
        for dataset, own in draws.items()
        for method in matrix["methods"]
        for name, drawn in own.items()
        for seed in sorted(matrix["seeds"])
        for run in _retrainings(job, dataset, name, method, seed)
    ]
    metrics = with_energies([run.metrics for run in runs])
    runs = [replace(run, metrics=own) for run, own in zip(runs, metrics, strict=True)]
    return Results(job.params["report"], params, classes, splits, runs)


def _input(job: Job, name: str) -> Path:
    if name not in job.inputs:
        raise UserError(f"{job.spec}: no input {name}, though the report's matrix needs it; rerun snakemake")
    return Path(job.inputs[name])


def _record(job: Job, stage: str, name: str) -> JobRecord:
    path = _input(job, f"{stage}/{name}/{PROVENANCE}")
    return JobRecord.of(path.as_posix(), Record.read(path))


def _retrainings(job: Job, dataset: str, split: str, method: str, seed: int) -> Iterator[Run]:
    """Yield the retrainings of one genotype, which share everything before them; the search without any."""
    params = job.params["params"]
    column = params["datasets"][dataset]["table_column"]
    searcher = Method.model_validate(params["methods"][method]).searcher
    name = f"{split}/{method}/{seed}"
    genotype: dict[str, list[Node]] | None = None
    histories: dict[str, Columns] = {}
    alphas: Columns = {}
    cells: dict[str, tuple[str, str]] = {}
    lookup: dict[str, Any] | None = None
    records = {stage: _record(job, stage, name) for stage in BEFORE_RETRAINING[searcher.genotype_is]}
    if "search" in records:
        histories["search"] = _history(job, f"search/{name}", "search_history")
        alphas = read_table(_input(job, f"search/{name}/alphas.parquet"), "trajectory").to_pydict()
    if "extract" in records:
        place = _input(job, f"extract/{name}/genotype.json")
        found = from_json(read_json(place), str(place))
        genotype = found.cells
        cells = {
            cell: (title, _drawing(_input(job, f"extract/{name}/{cell}.svg")))
            for cell, (title, *_) in drawings(found).items()
        }
    if f"lookup/{name}/lookup.json" in job.inputs:
        lookup = read_json(_input(job, f"lookup/{name}/lookup.json"))
        records["lookup"] = _record(job, "lookup", name)
    judged = of_search(histories.get("search"), lookup, column)
    search = Run(dataset, method, seed, None, judged, genotype, histories, alphas, records, cells, lookup)
    retrain_seeds = sorted(params["matrix"]["retrain_seeds"])
    if not retrain_seeds:
        yield search
    for retrain_seed in retrain_seeds:
        retraining = repeat(name, retrain_seed)
        yield replace(
            search,
            retrain_seed=retrain_seed,
            metrics=read_json(_input(job, f"evaluate/{retraining}/metrics.json")) | judged,
            histories=histories | {"retrain": _history(job, f"retrain/{retraining}", "retrain_history")},
            features=read_table(
                _input(job, f"retrain/{retraining}/features.parquet"), "features"
            ).to_pydict(),
            records=records | {stage: _record(job, stage, retraining) for stage in REPEATED},
        )


def _history(job: Job, name: str, kind: str) -> Columns:
    columns: Columns = read_table(_input(job, f"{name}/history.parquet"), kind).to_pydict()
    return columns


def _drawing(path: Path) -> str:
    """Read an SVG from its root element on, ready to be inlined."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return text[text.find("<svg") :]
