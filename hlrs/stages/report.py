"""The report stage: all runs side by side, as a page for people, figures and tables for other programs."""

from pathlib import Path
from typing import Any

from hlrs.artifacts import PROVENANCE, Job, read_json, read_table, replacing, write_text
from hlrs.errors import UserError
from hlrs.report.figures import archive
from hlrs.report.page import page
from hlrs.report.results import STAGES, Results, Run, files

TRAINED = ("search", "retrain")  # the stages with a history


def run(job: Job) -> dict[str, Any]:
    """Read what the jobs of every run left behind, write the report."""
    results = gather(job)
    for name, text in (files(results) | {"index.html": page(results)}).items():
        write_text(job.output(name), text)
    with replacing(job.output("figures.zip")) as temporary:
        archive(results, temporary)
    return {}


def gather(job: Job) -> Results:
    """The inputs of a report job, by data set × method × seed of its matrix."""
    params = job.params["params"]
    matrix = params["matrix"]
    classes = {name: read_json(_input(job, f"split/{name}/classes.json")) for name in matrix["datasets"]}
    splits = {name: read_json(_input(job, f"split/{name}/{PROVENANCE}")) for name in matrix["datasets"]}
    runs = [
        _run(job, dataset, method, seed)
        for dataset in matrix["datasets"]
        for method in matrix["methods"]
        for seed in sorted(matrix["seeds"])
    ]
    return Results(job.params["report"], params, classes, splits, runs)


def _input(job: Job, name: str) -> Path:
    if name not in job.inputs:
        raise UserError(f"{job.spec}: the report has no input {name}, though its matrix asks for it")
    return Path(job.inputs[name])


def _run(job: Job, dataset: str, method: str, seed: int) -> Run:
    name = f"{dataset}/{method}/{seed}"
    return Run(
        dataset,
        method,
        seed,
        metrics=read_json(_input(job, f"evaluate/{name}/metrics.json")),
        genotype=read_json(_input(job, f"extract/{name}/genotype.json")),
        histories={
            stage: read_table(_input(job, f"{stage}/{name}/history.parquet"), f"{stage}_history").to_pydict()
            for stage in TRAINED
        },
        alphas=read_table(_input(job, f"search/{name}/alphas.parquet"), "alphas").to_pydict(),
        records={stage: read_json(_input(job, f"{stage}/{name}/{PROVENANCE}")) for stage in STAGES},
        cells={cell: _drawing(_input(job, f"extract/{name}/{cell}.svg")) for cell in ("normal", "reduce")},
    )


def _drawing(path: Path) -> str:
    """An SVG to be inlined: from its root element on."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return text[text.find("<svg") :]
