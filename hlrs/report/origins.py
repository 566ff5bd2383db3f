"""Where the report's numbers come from: what the records of the jobs say, told once where they agree."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrs.artifacts import RESULTS
from hlrs.report.results import STAGES, Results, counted
from hlrs.report.tables import UNKNOWN, duration

Record = dict[str, Any]
SHOWN = 12  # different values of a fact, at most


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


def commit(record: Record) -> str:
    """The commit of the code, with what is not in it."""
    name = str(record.get("commit") or UNKNOWN)
    return f"{name} + uncommitted changes" if record.get("dirty") else name


def device(record: Record) -> str:
    """The name of the GPU, else of the processor."""
    gpu = record.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else gpu
    return str(name or record.get("cpu") or record.get("device") or UNKNOWN)


def versions(record: Record) -> str:
    """Of the packages that count."""
    known = record.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in sorted(known.items())) or UNKNOWN


def _field(name: str, missing: str) -> Callable[[Record], str]:
    return lambda record: str(record.get(name) or missing)


COMMON = {
    "Commit": commit,
    "Lock file": _field("lock", UNKNOWN),
    "Container image": _field("image", "none"),
    "Versions": versions,
}
CODE = _field("code", UNKNOWN)


def _records(results: Results) -> Iterator[Record]:
    for record in results.splits.values():
        yield {"stage": "split", **record}
    for run in results.runs:
        for stage in STAGES:
            yield {**run.records[stage], "stage": stage}


def facts(results: Results) -> list[Fact]:
    """What all jobs have in common, or how many have which."""
    records = list(_records(results))
    found = [_fact(label, [tell(record) for record in records]) for label, tell in COMMON.items()]
    found += [
        _fact(f"Code of {stage}", [CODE(r) for r in records if r["stage"] == stage])
        for stage in ("split", *STAGES)
    ]
    found.append(_fact("Device", [device(record) for record in records]))
    found.append(_fact("Host", [str(record.get("host") or UNKNOWN) for record in records]))
    return found


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
            methods.append((method, [_block(run.name, run.records, made, usual) for run in runs]))
        found.append((dataset, first, methods))
    return found


def _block(name: str, records: dict[str, Record], made: dict[str, str], usual: dict[str, str]) -> Block:
    known, steps = dict(made), []
    for stage in STAGES:
        steps.append(_step(stage, name, records[stage], known, usual))
        known |= _made(records[stage])
    return Block(name, steps)


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
    job = record.get("slurm_job")
    parts = [
        str(record.get("host") or f"host {UNKNOWN}"),
        device(record) if device(record) != UNKNOWN else f"device {UNKNOWN}",
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
    for label, tell in COMMON.items():
        if tell(record) != usual[label]:
            yield f"{label.lower()}: {tell(record)}"
    if CODE(record) != usual[f"Code of {stage}"]:
        yield f"code: {CODE(record)}"
