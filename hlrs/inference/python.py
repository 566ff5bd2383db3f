"""What `import hlrs` offers: networks, genotypes and results of a workflow's folder, for Python."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import Job
from hlrs.config.params import load as load_params
from hlrs.config.spaces import space_of
from hlrs.errors import UserError
from hlrs.inference.classifier import ImageClassifier
from hlrs.inference.locate import locate
from hlrs.nas.drawing import draw_cell
from hlrs.nas.genotype import Genotype, drawings, from_json, given
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.spaces import NETWORKS
from hlrs.pipeline.plan import plan

PARAMS = "params.yaml"


def load(run: str | Path, device: str | None = None, params: str | Path = PARAMS) -> ImageClassifier:
    """Load a trained network: a run, "data set/method/seed", or a folder that `hlrs export --to` wrote.

    On the GPU if there is one, unless a device is named. UserError if there is no such run, or it is not trained.
    """
    return locate(str(run), lambda: _jobs(params)).load(device)


def results(params: str | Path = PARAMS) -> pd.DataFrame:
    """Return a row for each finished evaluation: data set, method, seeds, metrics, and its folder.

    Accuracies are shares in [0, 1]; a metric that is given by class or as a matrix is in its folder only.
    """
    rows = []
    for job in _jobs(params):
        if job.stage == "evaluate" and job.complete:
            dataset, method, seeds = job.run.split("/")
            seed, _, again = seeds.partition("-")
            metrics = read_json(job.output("metrics.json"))
            plain = {name: value for name, value in metrics.items() if not isinstance(value, list)}
            own = {"dataset": dataset, "method": method, "seed": int(seed), "retrain_seed": int(again or 0)}
            rows.append(own | plain | {"folder": str(job.directory)})
    return pd.DataFrame(rows)


def genotype(run: str, params: str | Path = PARAMS) -> Genotype:
    """Return the genotype that a run, "data set/method/seed", found or was given; UserError if it has none yet."""
    extractions = {job.run: job for job in _jobs(params) if job.stage == "extract"}
    if run not in extractions:
        known = ", ".join(extractions) or "none"
        raise UserError(f"{run}: no run with a genotype in {params}; choose from: {known}")
    path = extractions[run].output("genotype.json")
    if not path.is_file():
        raise UserError(f"{run}: no genotype yet; `snakemake --cores all` runs what is missing")
    return from_json(read_json(path), str(path))
