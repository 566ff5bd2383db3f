"""What the records of the report's jobs say: code and environment; links to records and files."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from hlrs.report.runs import STAGES, JobRecord, Results, Run, jobs
from hlrs.report.tables import Cell, Column, Group, Table, lineage_of
from hlrs.report.wording import NOTHING

COMMON = {"commit": "Commit", "lock": "Lock file", "image": "Container image", "versions": "Versions"}
PLACES = {"device": "Device", "host": "Host"}
LINKED = {  # by the stage that makes it: heading and name
    "extract": ("Genotype", "genotype.json"),
    "retrain": ("Weights", "weights.safetensors"),
}
FROM_PUBLISHED = "../"  # the workflow's folder as seen from report/, where people open the page


@dataclass(frozen=True)
class Fact:
    """A property of jobs: pairs (value, number of jobs), most frequent first."""

    label: str
    jobs: int
    values: list[tuple[str, int]]


def facts(results: Results) -> list[Fact]:
    """Collect the code, environment and place of all jobs; shared values appear once."""
    records = [*results.splits.values(), *jobs(results.runs, *STAGES)]

    def common(names: dict[str, str]) -> list[Fact]:
        return [_fact(label, [r.environment[name] for r in records]) for name, label in names.items()]

    codes = [
        _fact(f"Code of {stage}", [record.code for record in records if record.stage == stage])
        for stage in ("split", *STAGES)
    ]
    return [*common(COMMON), *(fact for fact in codes if fact.jobs), *common(PLACES)]


def _fact(label: str, values: Iterable[str]) -> Fact:
    found = Counter(values)
    return Fact(label, found.total(), found.most_common())


def record_table(results: Results) -> Table:
    """Build one row per run: links to its genotype and weights, and to the record of each of its jobs."""
    stages = ["split", *(stage for stage in STAGES if any(stage in run.records for run in results.runs))]
    files = [stage for stage in LINKED if stage in stages]
    columns = [Column(label, text=True) for label in ("Run", *(LINKED[stage][0] for stage in files), *stages)]
    groups = []
    for dataset in results.classes:
        rows = [
            _row(run, results.splits[run.split or dataset], files, stages)
            for run in results.runs
            if run.dataset == dataset
        ]
        groups.append(Group(rows, dataset, anchor=f"runs/{dataset}"))
    return Table("Records", columns, groups)


def _row(run: Run, split: JobRecord, files: list[str], stages: list[str]) -> list[Cell]:
    records = {"split": split, **run.records}
    made = [_file(records[stage], LINKED[stage][1]) if stage in records else Cell(NOTHING) for stage in files]
    keys = [
        Cell(records[stage].key, FROM_PUBLISHED + records[stage].path, kind="record")
        if stage in records
        else Cell(NOTHING)
        for stage in stages
    ]
    return [Cell(run.name, anchor=lineage_of(run)[1:]), *made, *keys]


def _file(record: JobRecord, name: str) -> Cell:
    """Link a file beside a record."""
    return Cell(name, FROM_PUBLISHED + PurePosixPath(record.path).with_name(name).as_posix(), kind="record")
