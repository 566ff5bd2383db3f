"""What the report shows: the runs of its matrix with their metrics, histories, genotypes and job records."""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hlrs.artifacts.jobs import repeat
from hlrs.artifacts.records import Latency, Record
from hlrs.config.data import Draw
from hlrs.nas.genotype import Node
from hlrs.nas.multipliers import FLOAT32_ENERGY

Columns = dict[str, list[Any]]
STAGES = ("search", "extract", "lookup", "retrain", "evaluate")  # of a run
REPEATED = ("retrain", "evaluate")  # once per retraining; the others once per search
PLACE = ("dataset", "method", "split_seed", "seed", "retrain_seed")
Pairing = tuple[Draw, int]  # the draw of the images and the seed, which methods have in common


@dataclass(frozen=True)
class JobRecord:
    """What the report shows of a job's provenance record; None where something is not recorded.

    `path`: the record, relative to the workflow's folder; `environment`: as in `Record`; `seconds`: the
    time spent on the result; `throughput`: images per second by epoch that reads any; `startup`: seconds from
    the start of the process to its first step or image; memory: peak bytes; `latency`: as measured by an
    evaluation (hlrs/training/latency.py).
    """

    stage: str
    path: str
    key: str
    code: str
    environment: dict[str, str]
    uncommitted: bool
    started: str | None
    seconds: float | None
    on_gpu: bool
    threads: int
    throughput: dict[int, float]
    host_memory: int | None
    gpu_memory: int | None
    resumes: int | None
    startup: float | None
    latency: Latency | None

    @classmethod
    def of(cls, path: str, record: Record) -> "JobRecord":
        """Take what the report shows from a record, as found at `path`."""
        parameters, startup = record.params.get(record.stage) or {}, record.startup
        return cls(
            stage=record.stage,
            path=path,
            key=record.key,
            code=record.code,
            environment=record.environment(),
            uncommitted=bool(record.dirty),
            started=record.started,
            seconds=_worked(record),
            on_gpu=bool(record.gpu),
            threads=int(parameters.get("threads", 1)),
            throughput={
                row["epoch"]: row["images_per_second"]
                for row in record.throughput or []
                if row["images_per_second"]
            },
            host_memory=record.peak_memory_bytes,
            gpu_memory=record.gpu_memory,
            resumes=record.resumes,
            startup=sum(float(startup.get(f"{part}_seconds") or 0.0) for part in ("imports", "setup"))
            if startup
            else None,
            latency=None if record.latency is None else Latency.model_validate(record.latency),
        )


def _worked(record: Record) -> float | None:
    """Return the seconds that a job spent on its result.

    After a resume, the recorded duration is the last process's, so the epochs' own times replace its training
    time. The part of an interrupted epoch before the last resume is in neither.
    """
    if record.seconds is None or not record.resumes or record.training_seconds is None:
        return record.seconds
    epochs = math.fsum(row["seconds"] for row in record.throughput or [])
    return max(0.0, record.seconds - record.training_seconds) + epochs


@dataclass(frozen=True)
class Run:
    """The results of one data set × draw × method × seed × retraining; of a search, if nothing is retrained.

    A published genotype has no search, and a ResNet no genotype either: these fields are None or empty. So
    are `lookup`, the lookup.json of a genotype that no table has, and `retrain_seed` without a retraining.
    `metrics`: those of the evaluation, of the look-up (`looked_up`) and of the search (`discretized`).
    `split`: the name of the results of a draw other than the data set's own.
    """

    dataset: str
    method: str
    seed: int
    retrain_seed: int | None
    metrics: dict[str, Any]
    genotype: dict[str, list[Node]] | None  # nodes by kind of cell
    histories: dict[str, Columns]  # "search", "retrain": columns as in SCHEMAS
    alphas: Columns  # as in SCHEMAS
    records: dict[str, JobRecord]  # by stage
    cells: dict[str, tuple[str, str]]  # "normal", "reduce": title and SVG
    lookup: dict[str, Any] | None = None
    features: Columns = field(default_factory=dict)  # as in SCHEMAS
    split_seed: Draw = 0
    split: str = ""

    @property
    def search(self) -> str:
        """The search as it appears in paths; its retrainings share it."""
        return f"{self.split or self.dataset}/{self.method}/{self.seed}"

    @property
    def pairing(self) -> Pairing:
        """What a search has in common with those of other methods."""
        return self.split_seed, self.seed

    @property
    def label(self) -> str:
        """The search among those of its method, in words; without a draw it is on the data set's own."""
        return f"draw {self.split_seed}, seed {self.seed}" if self.split else f"seed {self.seed}"

    @property
    def stem(self) -> str:
        """The label as a file's name has it."""
        return self.label.replace(", ", "_").replace(" ", "_")

    @property
    def name(self) -> str:
        """The run as it appears in paths."""
        return repeat(self.search, self.retrain_seed or 0)

    def name_of(self, stage: str) -> str:
        """Return the job of a stage as it appears in paths."""
        return self.name if stage in REPEATED else self.search


Methods = dict[str, list[Run]]  # the runs of a data set by method, seeds in order


@dataclass(frozen=True)
class Results:
    """Everything the report shows.

    `report`: its own parameters; `classes`: by data set the classes.json of its first draw; `splits`: by name
    the record of every split.
    """

    report: dict[str, Any]
    params: dict[str, Any]
    classes: dict[str, dict[str, Any]]
    splits: dict[str, JobRecord]
    runs: list[Run]

    @property
    def retrained(self) -> bool:
        """Whether genotypes are retrained, so that networks are evaluated on test images."""
        return bool(self.params["matrix"]["retrain_seeds"])

    def methods(self, dataset: str) -> Methods:
        """Return the runs of a data set by method, seeds in order."""
        found: Methods = {}
        for run in self.runs:
            if run.dataset == dataset:
                found.setdefault(run.method, []).append(run)
        return found


def once(runs: Iterable[Run]) -> list[Run]:
    """Return one run per search: the first of its retrainings."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.search, run)
    return [*found.values()]


def taus(results: Results) -> dict[float, list[str]]:
    """Return the methods whose predictions are adjusted, by τ."""
    found: dict[float, list[str]] = {}
    for method in results.params["matrix"]["methods"]:
        own = {run.metrics.get("adjust") for run in results.runs if run.method == method}
        for tau in finite(own):
            found.setdefault(tau, []).append(method)
    return found


def jobs(runs: Iterable[Run], *stages: str) -> list[JobRecord]:
    """Return the records of the jobs of these stages, each job once."""
    runs = [*runs]
    found = {
        (stage, run.name_of(stage)): run.records[stage]
        for stage in stages
        for run in runs
        if stage in run.records
    }
    return [*found.values()]


def several(results: Results) -> bool:
    """Whether genotypes are retrained more than once."""
    return len({run.retrain_seed for run in results.runs}) > 1


def draws(results: Results) -> int:
    """Count the draws of each data set's images."""
    return max(1, len(results.params["matrix"]["split_seeds"]))


# --- metrics ------------------------------------------------------------------------------------------


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values without None, infinities and NaN."""
    return [value for value in values if value is not None and math.isfinite(value)]


def looked_up(column: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a look-up, from the column of its lookup.json that judges the data set.

    All are fractions but the rank.
    """
    shares = {name: column[name] / 100 for name in ("accuracy", "regret", "percentile")}
    return {f"table_{name}": value for name, value in (shares | {"rank": column["rank"]}).items()}


GAP = "discretization_gap"  # a metric of a search


def discretized(history: Columns) -> dict[str, float]:
    """Return the metrics of a search, from its history: of the supernet, decoded, and the gap between."""
    ends = [history[name][-1:] for name in ("supernet_accuracy", "decoded_accuracy")]
    if not all(finite(end) for end in ends):
        return {}
    [supernet], [decoded] = ends
    return {
        "supernet_accuracy": supernet,
        "decoded_accuracy": decoded,
        GAP: supernet - decoded,
    }


def of_search(history: Columns | None, lookup: dict[str, Any] | None, column: str | None) -> dict[str, Any]:
    """Return the metrics of a search: of its history, and of the `column` of its lookup.json, if any."""
    found = discretized(history) if history else {}
    return found | (looked_up(lookup["columns"][column]) if lookup else {})


ENERGY = "multiplication_energy"  # a metric of a network


def with_energies(networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to networks' metrics the energy of an image's multiplications, in pJ, if some are approximate.

    Of a network in floating point as well; of one whose energy is not known, None.
    """
    if not any("energy_to_float32" in metrics for metrics in networks):
        return networks
    return [metrics | {ENERGY: _energy(metrics)} for metrics in networks]


def _energy(metrics: dict[str, Any]) -> float | None:
    relative, count = metrics.get("energy_to_float32", 1.0), metrics.get("multiply_adds")
    return None if relative is None or count is None else relative * count * FLOAT32_ENERGY


OF_SEARCHES = ("table_", "supernet_", "decoded_", "discretization_")  # how their metrics' names begin


def by_search(runs: Iterable[Run], metric: str) -> dict[Pairing, list[float]]:
    """Return the values of a metric by search; searches without a value are left out.

    There is one value per retraining; of a search or look-up, which retrainings share, one per search.
    """
    found: dict[Pairing, list[float]] = {}
    for run in once(runs) if metric.startswith(OF_SEARCHES) else runs:
        for value in finite([run.metrics.get(metric)]):
            found.setdefault(run.pairing, []).append(value)
    return found


def search_means(runs: Iterable[Run], metric: str) -> dict[Pairing, float]:
    """Return a metric by search, each the mean of its retrainings."""
    return {search: statistics.fmean(values) for search, values in by_search(runs, metric).items()}


def by_draw(values: dict[Pairing, float]) -> dict[Draw, list[float]]:
    """Group the values of searches by the draw of their images."""
    found: dict[Draw, list[float]] = {}
    for (draw, _), value in values.items():
        found.setdefault(draw, []).append(value)
    return found


def class_rows(results: Results, run: Run) -> Iterator[tuple[int, str, str, int, float | None]]:
    """Return one (class, name, group, training images, accuracy) per class; none without a retraining."""
    if run.retrain_seed is None:
        return iter(())
    names, metrics = results.classes[run.dataset]["names"], run.metrics
    columns = (names, metrics["groups"], metrics["train_counts"], metrics["per_class"])
    return ((i, *row) for i, row in enumerate(zip(*columns, strict=True)))


def class_means(results: Results, runs: list[Run]) -> list[tuple[int, str, str, int, float | None]]:
    """Return one (class, name, group, training images, mean accuracy of the runs that have it) per class."""
    found = []
    for rows in zip(*(class_rows(results, run) for run in runs), strict=True):
        values = finite(row[-1] for row in rows)
        found.append((*rows[0][:-1], statistics.fmean(values) if values else None))
    return found
