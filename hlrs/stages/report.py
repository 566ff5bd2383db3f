"""The report stage: all runs side by side, as a page for people, figures and tables for other programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hlrs.artifacts import PROVENANCE, Job, read_json, read_table, repeat, replacing, write_text
from hlrs.errors import UserError
from hlrs.report.claim import claims, table
from hlrs.report.comparisons import compare
from hlrs.report.exports import files
from hlrs.report.figures import archive
from hlrs.report.page import page
from hlrs.report.runs import REPEATED, Columns, Results, Run

WITHOUT_SEARCH = {"fixed": ["extract"], "resnet": []}  # searcher -> the stages before its retrainings


def run(job: Job) -> dict[str, Any]:
    """Read what the jobs of every run left behind, write the report."""
    results = gather(job)
    found = claims(results, compare(results))
    texts = files(results) | {"claim.csv": table(found), "index.html": page(results)}
    for name, text in texts.items():
        write_text(job.output(name), text)
    with replacing(job.output("figures.zip")) as temporary:
        archive(results, temporary)
    return {}


def gather(job: Job) -> Results:
    """The inputs of a report job, by data set × method × seed × retraining seed of its matrix."""
    params = job.params["params"]
    matrix = params["matrix"]
    classes = {name: read_json(_input(job, f"split/{name}/classes.json")) for name in matrix["datasets"]}
    splits = {name: read_json(_input(job, f"split/{name}/{PROVENANCE}")) for name in matrix["datasets"]}
    runs = [
        run
        for dataset in matrix["datasets"]
        for method in matrix["methods"]
        for seed in sorted(matrix["seeds"])
        for run in _retrainings(job, dataset, method, seed)
    ]
    return Results(job.params["report"], params, classes, splits, runs)


def _input(job: Job, name: str) -> Path:
    if name not in job.inputs:
        raise UserError(f"{job.spec}: the report has no input {name}, though its matrix asks for it")
    return Path(job.inputs[name])


def _retrainings(job: Job, dataset: str, method: str, seed: int) -> Iterator[Run]:
    """The retrainings of a genotype, which share all that comes before; what the method lacks is left out."""
    params = job.params["params"]
    searcher = params["methods"][method]["searcher"]["kind"]
    name = f"{dataset}/{method}/{seed}"
    genotype: dict[str, Any] | None = None
    histories: dict[str, Columns] = {}
    alphas: Columns = {}
    cells: dict[str, str] = {}
    stages = WITHOUT_SEARCH.get(searcher, ["search", "extract"])
    records = {stage: read_json(_input(job, f"{stage}/{name}/{PROVENANCE}")) for stage in stages}
    if "search" in records:
        histories["search"] = _history(job, "search", name)
        alphas = read_table(_input(job, f"search/{name}/alphas.parquet"), "alphas").to_pydict()
    if "extract" in records:
        genotype = read_json(_input(job, f"extract/{name}/genotype.json"))
        cells = {cell: _drawing(_input(job, f"extract/{name}/{cell}.svg")) for cell in ("normal", "reduce")}
    for retrain_seed in sorted(params["matrix"]["retrain_seeds"]):
        again = repeat(name, retrain_seed)
        yield Run(
            dataset,
            method,
            seed,
            retrain_seed,
            metrics=read_json(_input(job, f"evaluate/{again}/metrics.json")),
            genotype=genotype,
            histories=histories | {"retrain": _history(job, "retrain", again)},
            alphas=alphas,
            records=records
            | {stage: read_json(_input(job, f"{stage}/{again}/{PROVENANCE}")) for stage in REPEATED},
            cells=cells,
        )


def _history(job: Job, stage: str, name: str) -> Columns:
    path = _input(job, f"{stage}/{name}/history.parquet")
    columns: Columns = read_table(path, f"{stage}_history").to_pydict()
    return columns


def _drawing(path: Path) -> str:
    """An SVG to be inlined: from its root element on."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return text[text.find("<svg") :]
