"""Where the report's numbers come from: what the records of the jobs say, told once where they agree."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrs.artifacts import RESULTS
from hlrs.environment import UNKNOWN, environment
from hlrs.report.runs import STAGES, Results, Run, jobs
from hlrs.report.tables import duration
from hlrs.report.wording import counted

Record = dict[str, Any]
SHOWN = 12  # different values of a fact, at most
NAMELESS = {"host": f"host {UNKNOWN}", "device": f"device {UNKNOWN}"}


@dataclass(frozen=True)
class File:
    """A result of a job, or one that it read: then `origin` says which stage made it."""

    name: str
    sha256: str
    origin: str = ""
    same: bool = True  # the bytes that its maker recorded


@dataclass(frozen=True)
class Step:
    """One job: where its results lie, what it wrote and read, where it ran; `remarks`: what sets it apart."""

    stage: str
    folder: str  # without the key
    key: str
    wrote: list[File]
    read: list[File]
    ran: list[str]
    remarks: list[str]


@dataclass(frozen=True)
class Block:
    """The lineage of a run (or, with one step, of a split)."""

    name: str
    steps: list[Step]


@dataclass(frozen=True)
class Fact:
    """Something that jobs have in common: (value, number of jobs), the most frequent first."""

    label: str
    jobs: int
    values: list[tuple[str, int]]
    more: int  # values that are not told


# --- facts --------------------------------------------------------------------------------------------


COMMON = {"commit": "Commit", "lock": "Lock file", "image": "Container image", "versions": "Versions"}


def _code(record: Record) -> str:
    return str(record.get("code") or UNKNOWN)


def _records(results: Results) -> Iterator[Record]:
    for record in results.splits.values():
        yield {"stage": "split", **record}
    for stage in STAGES:
        for record in jobs(results.runs, stage):
            yield {**record, "stage": stage}


def facts(results: Results) -> list[Fact]:
    """What all jobs have in common, or how many have which."""
    records = list(_records(results))
    ran_with = [environment(record) for record in records]

    def fact(name: str, label: str) -> Fact:
        return _fact(label, [facts[name] for facts in ran_with])

    found = [fact(name, label) for name, label in COMMON.items()]
    stages = dict.fromkeys(record["stage"] for record in records)
    found += [
        _fact(f"Code of {stage}", [_code(r) for r in records if r["stage"] == stage]) for stage in stages
    ]
    return [*found, fact("device", "Device"), fact("host", "Host")]


def _fact(label: str, values: list[str]) -> Fact:
    counts = Counter(values).most_common()
    return Fact(label, len(values), counts[:SHOWN], len(counts[SHOWN:]))


# --- blocks -------------------------------------------------------------------------------------------


def blocks(results: Results) -> list[tuple[str, Block, list[tuple[str, list[Block]]]]]:
    """Of every data set: its name, its split, and the runs of each method."""
    usual = {fact.label: fact.values[0][0] for fact in facts(results)}
    found = []
    for dataset, split in results.splits.items():
        made = _made(split)
        first = Block(dataset, [_step("split", dataset, split, {}, usual)])
        methods = []
        for method, runs in results.methods(dataset).items():
            methods.append((method, [_block(run, made, usual) for run in runs]))
        found.append((dataset, first, methods))
    return found


def _block(run: Run, made: dict[str, str], usual: dict[str, str]) -> Block:
    known, steps = dict(made), []
    for stage in STAGES:
        if stage in run.records:
            steps.append(_step(stage, run.name_of(stage), run.records[stage], known, usual))
            known |= _made(run.records[stage])
    return Block(run.name, steps)


def _made(record: Record) -> dict[str, str]:
    """Path -> SHA-256 of what a job wrote."""
    folder = RESULTS / str(record.get("stage")) / str(record.get("run")) / str(record.get("key"))
    return {str(folder / name): digest for name, digest in (record.get("outputs") or {}).items()}


def _step(stage: str, run: str, record: Record, known: dict[str, str], usual: dict[str, str]) -> Step:
    """`known`: path -> SHA-256 of the files that it may have read, as their makers recorded them."""
    read = []
    for entry in (record.get("inputs") or {}).values():
        path = Path(entry["path"])
        origin = path.parts[1] if len(path.parts) > 2 else ""
        read.append(File(path.name, entry["sha256"], origin, known.get(str(path)) == entry["sha256"]))
    params = record.get("params") or {}
    content = params.get("content") or (params.get("images") or {}).get("content")
    if content:
        read.append(File("images", str(content)))
    return Step(
        stage,
        f"{RESULTS}/{stage}/{run}/",
        str(record.get("key") or UNKNOWN),
        [File(name, digest) for name, digest in (record.get("outputs") or {}).items()],
        read,
        _ran(record),
        list(_remarks(stage, record, usual)),
    )


def _ran(record: Record) -> list[str]:
    """On what, when and how long."""
    job, ran_with = record.get("slurm_job"), environment(record)
    parts = [
        *(name if ran_with[of] == UNKNOWN else ran_with[of] for of, name in NAMELESS.items()),
        f"SLURM job {job}" if job else "",
        str(record["started"])[:19].replace("T", " ") if record.get("started") else f"start {UNKNOWN}",
        duration(record.get("seconds")) if record.get("seconds") is not None else f"duration {UNKNOWN}",
        f"resumed {'once' if record['resumes'] == 1 else counted(record['resumes'], 'time')}"
        if record.get("resumes")
        else "",
    ]
    return [part for part in parts if part]


def _remarks(stage: str, record: Record, usual: dict[str, str]) -> Iterator[str]:
    """The facts in which a job differs from most."""
    ran_with = environment(record)
    for name, label in COMMON.items():
        if ran_with[name] != usual[label]:
            yield f"{label.lower()}: {ran_with[name]}"
    if _code(record) != usual[f"Code of {stage}"]:
        yield f"code: {_code(record)}"
