"""The report's tables: the text of each cell and its sort key; and the cost of jobs."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hlrs.artifacts.records import UNKNOWN, Passes
from hlrs.nas.genotype import Node
from hlrs.report.comparisons import COMPARED, METRICS, Difference, Summary, known, known_sizes
from hlrs.report.runs import GAP, STAGES, JobRecord, Results, Run, class_means, draws, jobs, once, several
from hlrs.report.wording import (
    NOTHING,
    chance,
    counted,
    duration,
    grouped,
    hours,
    memory,
    millions,
    percent,
    points,
)


@dataclass(frozen=True)
class Cell:
    """Text, with `detail` in small print; `value`: the sort key where the text is none."""

    text: str
    href: str = ""
    detail: str = ""
    value: float | None = None
    kind: str = ""  # CSS class
    anchor: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading; text is aligned left and sorted alphabetically, numbers are aligned right."""

    label: str
    text: bool = False
    detail: str = ""  # in small print, above the label


@dataclass(frozen=True)
class Group:
    """Rows that are sorted among themselves, each headed by its first cell; `total`: a fixed last row."""

    rows: list[list[Cell]]
    name: str = ""
    total: list[Cell] = field(default_factory=list)
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """One table; `label`: its name for screen readers."""

    label: str
    columns: list[Column]
    groups: list[Group]


# --- accuracy -----------------------------------------------------------------------------------------


def methods_table(
    results: Results, dataset: str, summary: list[Summary], differences: list[Difference]
) -> Table:
    """Build one row per method: metrics, mean ± standard deviation; differences from the reference; sizes."""
    reference = results.report["reference"]
    found = {(s.method, s.metric): s for s in summary if s.dataset == dataset}
    compared = {(d.method, d.metric): d for d in differences if d.dataset == dataset}
    shown = [metric for metric in known(results) if metric != GAP]  # shown with the searches
    metrics = sorted(shown, key=lambda metric: [*COMPARED, *METRICS].index(metric))
    columns = [Column("Method", text=True), Column("Seeds")]
    for metric in metrics:
        columns.append(Column(METRICS[metric]))
        if reference and metric in COMPARED:
            columns.append(Column(f"vs. {reference}"))
    sizes = known_sizes(results)
    columns += [Column(label, detail="10⁶") for label in sizes.values()]
    rows = []
    for method, runs in results.methods(dataset).items():
        on = f"on {draws(results)} draws" if draws(results) > 1 else ""
        row = [Cell(method, seeds_of(dataset, method)), Cell(str(len(once(runs))), detail=on)]
        for metric in metrics:
            row.append(_mean_and_spread(found.get((method, metric))))
            if reference and metric in COMPARED:
                apart = compared.get((method, metric))
                row.append(Cell("reference") if method == reference else _difference(apart))
        rows.append(row + [_size(found.get((method, size))) for size in sizes])
    return Table(f"Methods on {dataset}", columns, [Group(rows)])


def test_images(results: Results, dataset: str) -> str:
    """Return the number of test images behind the metrics."""
    counts = {run.metrics["test_images"] for run in results.runs if run.dataset == dataset}
    return " or ".join(map(str, sorted(counts)))


def seeds_of(dataset: str, method: str) -> str:
    """Return the link to the seeds of a method."""
    return f"#seeds/{dataset}/{method}"


def lineage_of(run: Run) -> str:
    """Return the link to the records of a run."""
    return f"#lineage/{run.name}"


def _mean_and_spread(summary: Summary | None) -> Cell:
    if summary is None:
        return Cell(NOTHING)
    within = summary.seed_std if summary.draws > 1 else summary.retrain_std
    return Cell(percent(summary.mean), detail="\n".join(deviations(summary.std, within)))


def deviations(between: float | None, pooled: float | None) -> list[str]:
    """Write the standard deviation of a mean's values and, in brackets, that within them, where known."""
    found = [] if between is None else [f"± {percent(between)}"]
    return found if pooled is None else [*found, f"(± {percent(pooled)})"]


def _size(summary: Summary | None) -> Cell:
    return Cell(NOTHING) if summary is None else Cell(millions(summary.mean), value=summary.mean)


def _difference(d: Difference | None) -> Cell:
    if d is None:
        return Cell(NOTHING)
    return Cell(points(d.mean), detail=span(d) or d.verdict, kind=direction(d))


def comparisons_table(results: Results, dataset: str, differences: list[Difference]) -> Table:
    """Build one row per compared method, by metric: intervals, p-value alone and corrected, conclusion."""
    labels = ("Difference", "Student’s t interval", "Bootstrap interval", "p", "p, corrected", "Seeds")
    columns = [Column("Method", text=True), *map(Column, labels), Column("Conclusion", text=True)]
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
        *(Cell(NOTHING if p is None else chance(p, 1 - d.confidence), value=p) for p in (d.p, d.corrected)),
        Cell(str(d.seeds), detail="\n".join(_details(d))),
        Cell(d.verdict, kind=direction(d)),
    ]


def _details(d: Difference) -> Iterator[str]:
    """The draws of a comparison's seeds, and the seeds that only one side has."""
    if d.draws > 1:
        yield f"on {d.draws} draws"
    if d.left_out:
        yield f"{counted(d.left_out, 'seed')} left out"


def span(d: Difference) -> str:
    """Return the interval in percentage points; empty without one."""
    return _range(d.low, d.high)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def direction(d: Difference) -> str:
    """Return 'higher' or 'lower' if significant, else empty."""
    return d.verdict if d.verdict in ("higher", "lower") else ""


def seeds_table(results: Results, dataset: str) -> Table:
    """Build one row per run, linked to its records, with its retraining seed if there are several."""
    extra = [Column("Retraining")] if several(results) else []
    metrics, sizes = known(results), known_sizes(results)
    columns = [Column("Run", text=True), *extra, *map(Column, metrics.values())]
    columns += [Column(label, detail="10⁶") for label in sizes.values()]
    groups = [
        Group(
            [
                [
                    Cell(f"{method}, {_label(results, run)}", lineage_of(run)),
                    *(Cell(f"{run.retrain_seed}") for _ in extra),
                    *(Cell(percent(run.metrics.get(m))) for m in metrics),
                    *(Cell(millions(run.metrics.get(size))) for size in sizes),
                ]
                for run in runs
            ],
            method,
            anchor=seeds_of(dataset, method)[1:],
        )
        for method, runs in results.methods(dataset).items()
    ]
    return Table(f"Seeds on {dataset}", columns, groups)


def _label(results: Results, run: Run) -> str:
    """Name a run among those of its method, with its draw where there are several."""
    own = draws(results) > 1 and not run.split
    return f"draw {run.split_seed}, {run.label}" if own else run.label


def classes_table(results: Results, dataset: str) -> Table:
    """Build one row per class, largest first: its images and each method's accuracy."""
    methods = results.methods(dataset)
    means = {method: class_means(results, runs) for method, runs in methods.items()}
    test = results.classes[dataset]["counts"]["test"]
    columns = [Column("Class", text=True), Column("Group", text=True)]
    columns += map(Column, ("Training images", "Test images", *methods))
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
    """Count each operation in the genotypes, both cells together, mean over the seeds.

    One row per method with genotypes; None without any.
    """
    found = {
        method: [_operations(run.genotype) for run in once(runs) if run.genotype is not None]
        for method, runs in results.methods(dataset).items()
    }
    primitives = sorted({p for counts in found.values() for count in counts for p in count})
    rows = [
        [Cell(method), *(Cell(f"{statistics.fmean(count[p] for count in counts):.1f}") for p in primitives)]
        for method, counts in found.items()
        if counts
    ]
    columns = [Column("Method", text=True), *map(Column, primitives)]
    return Table(f"Operations on {dataset}", columns, [Group(rows)]) if rows else None


def _operations(genotype: dict[str, list[Node]]) -> Counter[str]:
    """Count the edges with each operation in all cells."""
    return Counter(operation for nodes in genotype.values() for node in nodes for operation, _ in node)


# --- cost ---------------------------------------------------------------------------------------------

HOURS = {"gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours"}


@dataclass(frozen=True)
class Cost:
    """The cost of some jobs; None where nothing is recorded. `unknown`: jobs whose time is not recorded."""

    jobs: int
    unknown: int
    gpu_hours: float  # of jobs on a GPU
    cpu_hours: float  # of other jobs: hours × threads
    images_per_second: float | None  # median over all epochs
    host_memory: int | None  # bytes, the largest job
    gpu_memory: int | None
    resumes: int | None
    startup: float | None  # seconds from the start of the process to its first step or image, median


def cost(records: list[JobRecord]) -> Cost:
    """Add up the cost of these jobs."""
    known = [(record.seconds, record) for record in records if record.seconds is not None]
    speeds = [speed for record in records for speed in record.throughput.values()]
    startups = [record.startup for record in records if record.startup is not None]
    resumes = [record.resumes for record in records if record.resumes is not None]
    return Cost(
        jobs=len(records),
        unknown=len(records) - len(known),
        gpu_hours=math.fsum(seconds for seconds, record in known if record.on_gpu) / 3600,
        cpu_hours=math.fsum(s * record.threads for s, record in known if not record.on_gpu) / 3600,
        images_per_second=statistics.median(speeds) if speeds else None,
        host_memory=_largest(record.host_memory for record in records),
        gpu_memory=_largest(record.gpu_memory for record in records),
        resumes=sum(resumes) if resumes else None,
        startup=statistics.median(startups) if startups else None,
    )


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def hours_table(results: Results) -> Table:
    """Build one row per data set × method: the hours of each stage, and their sums."""
    every = {stage: cost(jobs(results.runs, stage)) for stage in STAGES}
    shown = [(stage, kind) for stage in STAGES for kind in HOURS if getattr(every[stage], kind)]
    kinds = [kind for kind in HOURS if any(kind == k for _, k in shown)]
    columns = [
        Column("Method", text=True),
        Column("Jobs"),
        *(Column(stage, detail=HOURS[kind]) for stage, kind in shown),
        *(Column(label, detail=HOURS[kind]) for label in ("all", "per seed") for kind in kinds),
    ]

    def row(name: str, runs: list[Run]) -> list[Cell]:
        costs = {stage: cost(jobs(runs, stage)) for stage in STAGES}
        whole = cost(jobs(runs, *STAGES))
        return [
            Cell(name),
            Cell(f"{whole.jobs}"),
            *(_hours(costs[stage], kind) for stage, kind in shown),
            *(_hours(whole, kind) for kind in kinds),
            *(_hours(whole, kind, len({run.pairing for run in runs})) for kind in kinds),
        ]

    groups = []
    for dataset in results.classes:
        methods = results.methods(dataset)
        rows = [row(method, runs) for method, runs in methods.items()]
        groups.append(
            Group(rows, dataset, row("all methods", [r for runs in methods.values() for r in runs]))
        )
    return Table("Hours", columns, groups)


def spent(part: Cost) -> str:
    """Write the GPU-hours and CPU-hours, those that are not 0; empty without any."""
    return " and ".join(f"{hours(n)} {unit}" for kind, unit in HOURS.items() if (n := getattr(part, kind)))


def _hours(part: Cost, kind: str, seeds: int = 1) -> Cell:
    number = getattr(part, kind) / seeds
    if not number:
        return Cell(UNKNOWN if part.unknown else NOTHING)
    return Cell(f"{'≥ ' if part.unknown else ''}{hours(number)}", value=number)


def stages_table(results: Results) -> Table:
    """Build one row per data set × method × stage: throughput, memory, interruptions, start-up."""
    columns = [Column("Method", text=True), Column("Stage", text=True), Column("Jobs"), Column("Hours")]
    labels = ("Images/s", "Memory, host", "Memory, GPU", "Resumes", "Start-up")
    columns += map(Column, labels)
    groups = []
    for dataset in results.classes:
        splits = {run.split or dataset for run in results.runs if run.dataset == dataset}
        rows = [_stage_row("–", "split", cost([results.splits[name] for name in splits]))]
        for method, runs in results.methods(dataset).items():
            done = {stage: jobs(runs, stage) for stage in STAGES}
            rows += [_stage_row(method, stage, cost(records)) for stage, records in done.items() if records]
        groups.append(Group(rows, dataset))
    return Table("Stages", columns, groups)


def _stage_row(method: str, stage: str, part: Cost) -> list[Cell]:
    kind = "gpu_hours" if part.gpu_hours else "cpu_hours"
    spent = _hours(part, kind)
    unit = f" {HOURS[kind][:3]}" if spent.value else ""
    speed = part.images_per_second
    return [
        Cell(method),
        Cell(stage),
        Cell(f"{part.jobs}"),
        Cell(spent.text + unit, value=spent.value),
        Cell(grouped(speed) if speed else NOTHING, value=speed),
        Cell(memory(part.host_memory), value=part.host_memory),
        Cell(NOTHING if part.gpu_memory is None else memory(part.gpu_memory), value=part.gpu_memory),
        Cell(NOTHING if part.resumes is None else f"{part.resumes}"),
        Cell(NOTHING if part.startup is None else duration(part.startup), value=part.startup),
    ]


def latency_table(results: Results) -> Table | None:
    """Build one row per data set × method × device: time and memory of its networks' passes, by batch.

    None if no evaluation measured them.
    """
    found = {dataset: [*_measured(results, dataset)] for dataset in results.classes}
    batches = sorted({batch for rows in found.values() for *_, passes in rows for batch in passes})
    if not batches:
        return None
    columns = [Column("Method", text=True), Column("Device", text=True), Column("Networks")]
    for batch in batches:
        images = counted(batch, "image")
        columns += (Column(label, detail=images) for label in ("ms", "quartiles", "memory"))
    groups = [
        Group(
            [
                [Cell(method), Cell(device), Cell(f"{max(map(len, passes.values()))}")]
                + [cell for batch in batches for cell in _latency(passes.get(batch, []))]
                for method, device, passes in rows
            ],
            dataset,
        )
        for dataset, rows in found.items()
        if rows
    ]
    return Table("Latency", columns, groups)


def _measured(results: Results, dataset: str) -> Iterator[tuple[str, str, dict[int, list[Passes]]]]:
    """Yield (method, device, passes of its networks by batch)."""
    for method, runs in results.methods(dataset).items():
        by_device: dict[str, dict[int, list[Passes]]] = {}
        for record in jobs(runs, "evaluate"):
            if record.latency is None:
                continue
            device = f"{record.latency.device}, {counted(record.latency.threads, 'thread')}"
            for passes in record.latency.batches:
                by_device.setdefault(device, {}).setdefault(passes.batch, []).append(passes)
        yield from ((method, device, passes) for device, passes in by_device.items())


def _latency(networks: list[Passes]) -> list[Cell]:
    """Return the median of the networks' medians in ms, the range of their quartiles, the most memory."""
    if not networks:
        return [Cell(NOTHING)] * 3
    middle = 1000 * statistics.median(passes.median_seconds for passes in networks)
    quartiles = [1000 * q for passes in networks for q in passes.quartiles_seconds]
    peak = _largest(passes.peak_memory_bytes for passes in networks)
    return [
        Cell(f"{middle:.3g}", value=middle),
        Cell(f"{min(quartiles):.3g} to {max(quartiles):.3g}", value=max(quartiles)),
        Cell(memory(peak), value=peak),
    ]
