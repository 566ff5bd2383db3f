"""What the report reads: the runs of its matrix with their metrics, histories, genotypes and records."""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hlrs.artifacts import repeat

Columns = dict[str, list[Any]]
STAGES = ("search", "extract", "retrain", "evaluate")  # of a run
PLACE = ("dataset", "method", "seed", "retrain_seed")
REPEATED = STAGES[2:]  # once per retraining; the others once per search


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


def class_rows(results: Results, run: Run) -> Iterator[tuple[int, str, str, int, float | None]]:
    """(class, name, group, training images, accuracy) of every class."""
    names, metrics = results.classes[run.dataset]["names"], run.metrics
    columns = (names, metrics["groups"], metrics["train_counts"], metrics["per_class"])
    return ((i, *row) for i, row in enumerate(zip(*columns, strict=True)))


def class_means(results: Results, runs: list[Run]) -> list[tuple[int, str, str, int, float | None]]:
    """(class, name, group, training images, accuracy as mean over the seeds that have it) of every class."""
    found = []
    for rows in zip(*(class_rows(results, run) for run in runs), strict=True):
        values = finite(row[-1] for row in rows)
        found.append((*rows[0][:-1], statistics.fmean(values) if values else None))
    return found
