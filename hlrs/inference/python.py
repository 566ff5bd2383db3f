"""What `import hlrs` offers: networks, genotypes and results of a workflow's folder, for Python.

Only networks need torch; results and genotypes load without.
"""

import itertools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas as pd
from pydantic import ValidationError

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import Job, repeat, search_of, typed
from hlrs.artifacts.records import trusted
from hlrs.artifacts.tables import read_table
from hlrs.config.data import Dataset
from hlrs.config.networks import NetworkSpec
from hlrs.config.params import Params
from hlrs.config.params import load as load_params
from hlrs.config.spaces import PUBLISHED, SPACES, check_cells, check_stem, space_of
from hlrs.errors import UserError
from hlrs.nas.drawing import draw_cell
from hlrs.nas.genotype import GIVEN, Genotype, drawings, from_json
from hlrs.pipeline.plan import plan
from hlrs.report.runs import PLACE, of_search, with_energies

if TYPE_CHECKING:
    from hlrs.inference.classifier import ImageClassifier
    from hlrs.nas.network import BranchedNetwork

PARAMS = "params.yaml"


def load(run: str | Path, device: str | None = None, params: str | Path = PARAMS) -> "ImageClassifier":
    """Load a trained network: a run, "data set/method/seed", or a folder that `hlrs export --to` wrote.

    On the GPU if there is one, unless a device is named. UserError if there is no such run, or it is not
    trained.
    """
    from hlrs.inference.locate import locate

    return locate(str(run), lambda: _jobs(params)).load(device)


def results(params: str | Path = PARAMS) -> pd.DataFrame:
    """Return a row per finished evaluation, or per finished look-up of a genotype where nothing is retrained.

    In the order and under the names of the report's runs.csv: data set, method, draw, seeds and the metrics
    of the evaluation, the look-up and the search; and the folder of the evaluation or look-up. Accuracies are
    shares in [0, 1]. A metric that is given by class or as a matrix is in the folder only.
    """
    sections = load_params(Path(params))
    done = {(job.stage, job.run): job for job in plan(sections) if job.complete}
    last = "evaluate" if sections.matrix.retrain_seeds else "lookup"
    rows = [
        dict(zip(PLACE, place, strict=True))
        | _metrics(done, run, drawn)
        | {"folder": str(done[last, run].directory)}
        for place, run, drawn in _places(sections)
        if (last, run) in done
    ]
    if len(rows) < (planned := sum(1 for _ in _places(sections))):
        warnings.warn(
            f"{len(rows)} of {planned} results of {params} are there; `snakemake --cores all` makes the rest",
            stacklevel=2,
        )
    return pd.DataFrame(with_energies(rows), columns=None if rows else [*PLACE, "folder"])


def _places(sections: Params) -> Iterator[tuple[tuple[Any, ...], str, Dataset]]:
    """Yield the values of PLACE, the run and the draw of each evaluation; of each search without any."""
    matrix = sections.matrix
    for dataset, method in itertools.product(matrix.datasets, matrix.methods):
        for name, drawn in sections.draws(dataset).items():
            for seed in sorted(matrix.seeds):
                search, place = f"{name}/{method}/{seed}", (dataset, method, drawn.draw, seed)
                if not matrix.retrain_seeds:
                    yield (*place, math.nan), search, drawn
                for again in sorted(matrix.retrain_seeds):
                    yield (*place, again), repeat(search, again), drawn


def _metrics(done: dict[tuple[str, str], Job], run: str, drawn: Dataset) -> dict[str, Any]:
    """Return the metrics of a run's finished jobs, those that are one value, and a look-up's cell."""
    found: dict[str, Any] = {}
    lookup = history = None
    if evaluated := done.get(("evaluate", run)):
        found = _read(evaluated, "metrics.json")
    if search := done.get(("search", search_of(run))):
        trusted(path := search.output("history.parquet"))
        history = read_table(path, "search_history").to_pydict()
    if judged := done.get(("lookup", search_of(run))):
        lookup = _read(judged, "lookup.json")
        found |= {fact: lookup[fact] for fact in ("cell", "collapsed")}
    found |= of_search(history, lookup, drawn.table_column)
    return {name: value for name, value in found.items() if not isinstance(value, list)}


def _read(job: Job, name: str) -> Any:
    """Return the JSON of a finished job's output; UserError if it was edited."""
    trusted(path := job.output(name))
    return read_json(path)


def genotype(run: str, params: str | Path = PARAMS) -> Genotype:
    """Return the genotype of a run, "data set/method/seed"; UserError if it has none yet.

    Or a published one by its name, such as "DARTS_V2", or a cell of NAS-Bench-201 as it is spelled.
    """
    run = str(run)
    if run in PUBLISHED or run.startswith("|"):
        return _given(run)
    extractions = {job.run: job for job in _jobs(params) if job.stage == "extract"}
    run = typed(run)
    if run not in extractions:
        known = ", ".join(extractions) or "none"
        names = ", ".join(PUBLISHED)
        raise UserError(f"{run}: no run with a genotype in {params}; choose from: {known}; or from: {names}")
    job = extractions[run]
    if not job.complete:
        raise UserError(f"{run}: no genotype yet; `snakemake --cores all extract_all` finds it")
    return from_json(_read(job, "genotype.json"), str(job.output("genotype.json")))


class Drawing(NamedTuple):
    """The cells of a genotype as SVG documents by kind of cell; Jupyter shows it."""

    cells: dict[str, str]

    def _repr_html_(self) -> str:
        return "\n".join(self.cells.values())


def draw(genotype: Genotype | str) -> Drawing:
    """Draw the cells of a genotype, or of a published one by its name, such as "DARTS_V2"."""
    known = _given(genotype)
    inputs = SPACES[known.space].inputs
    return Drawing(
        {
            kind: draw_cell(nodes, title, outputs, inputs)
            for kind, (title, nodes, outputs) in drawings(known).items()
        }
    )


def Network(  # noqa: N802 - used as a class is
    genotype: Genotype | str,
    channels: int,
    cells: int,
    classes: int,
    *,
    in_channels: int = 3,
    stem: Literal["cifar", "imagenet"] = "cifar",
    seed: int = 0,
) -> "BranchedNetwork":
    """Build the network of a genotype, for a training loop of one's own.

    `genotype` is one that `hlrs.genotype` returned, or published ("DARTS_V2"), or a cell of NAS-Bench-201 as
    it is spelled. It maps float [batch, in_channels, height, width] to logits [batch, classes]; its weights
    are drawn by `seed` from PyTorch's default distribution. UserError for what no network has.
    """
    from hlrs.data.images import generator
    from hlrs.nas.network import initialize
    from hlrs.nas.trained import build

    known = _given(genotype)
    layout = {
        "channels": channels,
        "cells": cells,
        "classes": classes,
        "in_channels": in_channels,
        "stem": stem,
    }
    try:
        spec = NetworkSpec(space=SPACES[known.space], genotype=known.to_json(), **layout)  # type: ignore[arg-type]
        check_cells(spec.space, cells, "cells")
        check_stem(spec.space, stem, "stem")
    except ValidationError as error:
        [first, *_] = error.errors()
        raise UserError(f"{first['loc'][0]}: {first['msg']}, not {first['input']!r}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    network = build(spec)
    initialize(network, generator(seed, "network"))
    return network


def _given(genotype: Genotype | str) -> Genotype:
    """Return the genotype of a name or spelling; UserError if there is none."""
    if isinstance(genotype, Genotype):
        return genotype
    if not isinstance(genotype, str):
        raise UserError(f"genotype: {genotype!r} is no genotype; give one of hlrs.genotype, or a name")
    try:
        return GIVEN[type(SPACES[space_of(genotype)])](genotype)
    except ValueError as error:
        raise UserError(str(error)) from None


def _jobs(params: str | Path) -> list[Job]:
    """List the jobs of a parameter file."""
    return plan(load_params(Path(params)))
