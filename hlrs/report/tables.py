"""The report's tables: what stands in each cell, and what it is sorted by."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hlrs.environment import UNKNOWN
from hlrs.report.comparisons import COMPARED, METRICS, Difference, Summary
from hlrs.report.costs import Cost, cost
from hlrs.report.runs import STAGES, Results, Run, class_means, jobs, once, several
from hlrs.report.wording import NOTHING, chance, counted, percent, points


@dataclass(frozen=True)
class Cell:
    """Text, with what may stand below it in small; `value`: what sorts it where its text does not."""

    text: str
    href: str = ""
    detail: str = ""
    value: float | None = None
    kind: str = ""  # class of the style sheet


@dataclass(frozen=True)
class Column:
    """A column's heading; text is set to the left and sorted by letters, numbers to the right."""

    label: str
    text: bool = False
    detail: str = ""  # in small, above the label


@dataclass(frozen=True)
class Group:
    """Rows that are sorted among themselves, the first cell of each its heading; `total`: the last row."""

    rows: list[list[Cell]]
    name: str = ""
    total: list[Cell] = field(default_factory=list)
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """One table; `label` names it to those who do not see it."""

    label: str
    columns: list[Column]
    groups: list[Group]


# --- accuracy -----------------------------------------------------------------------------------------


def methods_table(
    results: Results, dataset: str, summary: list[Summary], differences: list[Difference]
) -> Table:
    """A row a method: every metric's mean ± deviation, and the compared ones' differences."""
    reference = results.report["reference"]
    found = {(s.method, s.metric): s for s in summary if s.dataset == dataset}
    compared = {(d.method, d.metric): d for d in differences if d.dataset == dataset}
    metrics = [*COMPARED, *(metric for metric in METRICS if metric not in COMPARED)]
    columns = [Column("Method", text=True), Column("Seeds")]
    for metric in metrics:
        columns.append(Column(METRICS[metric]))
        if reference and metric in COMPARED:
            columns.append(Column(f"against {reference}"))
    rows = []
    for method, runs in results.methods(dataset).items():
        row = [Cell(method, seeds_of(dataset, method)), Cell(str(len(once(runs))))]
        for metric in metrics:
            row.append(_mean_and_spread(found.get((method, metric))))
            if reference and metric in COMPARED:
                apart = compared.get((method, metric))
                row.append(Cell("reference") if method == reference else _difference(apart))
        rows.append(row)
    return Table(f"Methods on {dataset}", columns, [Group(rows)])


def tested(results: Results, dataset: str) -> str:
    """How many test images the metrics are of."""
    return " or ".join(
        f"{n}" for n in sorted({r.metrics["test_images"] for r in results.runs if r.dataset == dataset})
    )


def seeds_of(dataset: str, method: str) -> str:
    """Where the seeds of a method stand."""
    return f"#seeds/{dataset}/{method}"


def lineage_of(run: Run) -> str:
    """Where the lineage of a run stands."""
    return f"#lineage/{run.name}"


def _mean_and_spread(summary: Summary | None) -> Cell:
    if summary is None:
        return Cell(NOTHING)
    said = percent(summary.mean) + (f" ± {percent(summary.std)}" if summary.std is not None else "")
    again = summary.retrain_std
    return Cell(said, detail="" if again is None else f"within a genotype ± {percent(again)}")


def _difference(d: Difference | None) -> Cell:
    if d is None:
        return Cell(NOTHING)
    return Cell(points(d.mean), detail=span(d) or d.verdict, kind=direction(d))


def comparisons_table(results: Results, dataset: str, differences: list[Difference]) -> Table:
    """A row a compared method, by metric: both intervals, p by itself and corrected, what can be said."""
    labels = ("Difference", "Student’s t interval", "Bootstrap interval", "p", "p, corrected", "Seeds")
    columns = [Column("Method", text=True), *map(Column, labels), Column("What can be said", text=True)]
    own = [d for d in differences if d.dataset == dataset]
    groups = [
        Group([_comparison(d) for d in own if d.metric == metric], METRICS[metric])
        for metric in dict.fromkeys(d.metric for d in own)
    ]
    return Table(f"Comparisons on {dataset}", columns, groups)


def _comparison(d: Difference) -> list[Cell]:
    return [
        Cell(d.method),
        Cell(points(d.mean)),
        Cell(span(d) or NOTHING),
        Cell(_range(d.bootstrap_low, d.bootstrap_high) or NOTHING),
        Cell(NOTHING if d.p is None else chance(d.p), value=d.p),
        Cell(NOTHING if d.corrected is None else chance(d.corrected), value=d.corrected),
        Cell(str(d.seeds), detail=f"{counted(d.left_out, 'seed')} left out" if d.left_out else ""),
        Cell(d.verdict, kind=direction(d)),
    ]


def span(d: Difference) -> str:
    """The interval in percentage points; empty where there is none."""
    return _range(d.low, d.high)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def direction(d: Difference) -> str:
    """'higher', 'lower', or empty where neither is shown."""
    return d.verdict if d.verdict in ("higher", "lower") else ""


def seeds_table(results: Results, dataset: str) -> Table:
    """A row a run, each leading to its lineage; which retraining it is, where there are several."""
    again = [Column("Retraining")] if several(results) else []
    columns = [Column("Run", text=True), *again, *(Column(label) for label in METRICS.values())]
    groups = [
        Group(
            [
                [
                    Cell(f"{method}, seed {run.seed}", lineage_of(run)),
                    *(Cell(f"{run.retrain_seed}") for _ in again),
                    *(Cell(percent(run.metrics[m])) for m in METRICS),
                ]
                for run in runs
            ],
            method,
            anchor=seeds_of(dataset, method)[1:],
        )
        for method, runs in results.methods(dataset).items()
    ]
    return Table(f"Seeds on {dataset}", columns, groups)


def classes_table(results: Results, dataset: str) -> Table:
    """A row a class, largest first: its images and each method's accuracy."""
    methods = results.methods(dataset)
    means = {method: class_means(results, runs) for method, runs in methods.items()}
    test = results.classes[dataset]["counts"]["test"]
    heads = ("Class", "Group"), ("Training images", "Test images", *methods)
    columns = [
        Column(label, text=text)
        for labels, text in zip(heads, (True, False), strict=True)
        for label in labels
    ]
    first = next(iter(means.values()))
    rows = [
        [
            Cell(name),
            Cell(group),
            Cell(f"{count}"),
            Cell(f"{test[index]}"),
            *(Cell(percent(means[method][index][-1])) for method in methods),
        ]
        for index, name, group, count, _ in sorted(first, key=lambda row: (-row[3], row[0]))
    ]
    return Table(f"Classes of {dataset}", columns, [Group(rows)])


def operations_table(results: Results, dataset: str) -> Table | None:
    """How often the genotypes hold each primitive, both cells together, as mean over the seeds.

    A row a method with genotypes; None without any.
    """
    found = {method: _genotypes(runs) for method, runs in results.methods(dataset).items()}
    counts = {method: Counter(_operations(every)) for method, every in found.items() if every}
    primitives = sorted(set().union(*counts.values()))
    rows = [
        [Cell(method), *(Cell(f"{count[p] / len(found[method]):.1f}") for p in primitives)]
        for method, count in counts.items()
    ]
    columns = [Column("Method", text=True), *map(Column, primitives)]
    return Table(f"Operations on {dataset}", columns, [Group(rows)]) if rows else None


def _genotypes(runs: list[Run]) -> list[dict[str, Any]]:
    return [run.genotype for run in once(runs) if run.genotype is not None]


def _operations(genotypes: list[dict[str, Any]]) -> Iterator[str]:
    for genotype in genotypes:
        for cell in ("normal", "reduce"):
            yield from (op for node in genotype[cell] for op, _ in node)


# --- cost ---------------------------------------------------------------------------------------------

HOURS = {"gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours"}


def hours_table(results: Results) -> Table:
    """A row a data set × method: the hours of each stage, and their sums."""
    every = {stage: cost(jobs(results.runs, stage)) for stage in STAGES}
    shown = [(stage, kind) for stage in STAGES for kind in HOURS if getattr(every[stage], kind)]
    kinds = [kind for kind in HOURS if any(kind == k for _, k in shown)]
    columns = [
        Column("Method", text=True),
        Column("Jobs"),
        *(Column(stage, detail=HOURS[kind]) for stage, kind in shown),
        *(Column(label, detail=HOURS[kind]) for label in ("all", "a seed") for kind in kinds),
    ]

    def row(name: str, runs: list[Run]) -> list[Cell]:
        costs = {stage: cost(jobs(runs, stage)) for stage in STAGES}
        whole = cost(record for stage in STAGES for record in jobs(runs, stage))
        return [
            Cell(name),
            Cell(f"{whole.jobs}"),
            *(_hours(costs[stage], kind) for stage, kind in shown),
            *(_hours(whole, kind) for kind in kinds),
            *(_hours(whole, kind, len(once(runs))) for kind in kinds),
        ]

    groups = []
    for dataset in results.classes:
        methods = results.methods(dataset)
        rows = [row(method, runs) for method, runs in methods.items()]
        groups.append(
            Group(rows, dataset, row("all methods", [r for runs in methods.values() for r in runs]))
        )
    return Table("Hours", columns, groups)


def _hours(part: Cost, kind: str, seeds: int = 1) -> Cell:
    hours = getattr(part, kind) / seeds
    if not hours:
        return Cell(UNKNOWN if part.unknown else NOTHING)
    return Cell(f"{'≥ ' if part.unknown else ''}{two_digits(hours)}", value=hours)


def two_digits(hours: float) -> str:
    """Hours with two digits, or whole ones."""
    number = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
    return "< 0.001" if hours < 0.001 else number.replace(",", "\u202f")


def stages_table(results: Results) -> Table:
    """A row a data set × method × stage: how fast, how much memory, how often interrupted."""
    columns = [Column("Method", text=True), Column("Stage", text=True), Column("Jobs"), Column("Hours")]
    labels = ("Images/s", "Memory, host", "Memory, GPU", "Resumes", "Start-up")
    columns += map(Column, labels)
    groups = []
    for dataset in results.classes:
        rows = [_stage_row("–", "split", cost([results.splits[dataset]]))]
        for method, runs in results.methods(dataset).items():
            done = {stage: jobs(runs, stage) for stage in STAGES}
            rows += [_stage_row(method, stage, cost(records)) for stage, records in done.items() if records]
        groups.append(Group(rows, dataset))
    return Table("Stages", columns, groups)


def _stage_row(method: str, stage: str, part: Cost) -> list[Cell]:
    kind = "gpu_hours" if part.gpu_hours else "cpu_hours"
    hours = _hours(part, kind)
    unit = f" {HOURS[kind][:3]}" if hours.value else ""
    speed = part.images_per_second
    return [
        Cell(method),
        Cell(stage),
        Cell(f"{part.jobs}"),
        Cell(hours.text + unit, value=hours.value),
        Cell(f"{speed:,.0f}".replace(",", "\u202f") if speed else NOTHING, value=speed),
        Cell(memory(part.host_memory), value=part.host_memory),
        Cell(NOTHING if part.gpu_memory is None else memory(part.gpu_memory), value=part.gpu_memory),
        Cell(NOTHING if part.resumes is None else f"{part.resumes}"),
        Cell(NOTHING if part.startup is None else duration(part.startup), value=part.startup),
    ]


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
