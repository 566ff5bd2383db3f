"""Lineage: the records from an artifact back to the data files, and what differs between two versions."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from hlrs.artifacts.code_digest import SCHEME, Code, changed, committed, here
from hlrs.artifacts.data_digest import data_files, sha256
from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, PUBLISHED, RESULTS, STAGES, Job, search_of
from hlrs.artifacts.records import Record, environment
from hlrs.artifacts.tables import read_table
from hlrs.config.data import Source
from hlrs.config.jobs import parse
from hlrs.config.params import Params
from hlrs.errors import Failure, HlrsError, UserError
from hlrs.provenance.differences import Comparison, compare

Read = Callable[[str], Record | None]  # the record of a job's folder, None if it has none
SHOWN = "metrics.json"  # what a run's numbers in the report come from


@dataclass(frozen=True)
class Lineage:
    """`records`: by folder, a job before those that it builds on; `missing`: folders without a record."""

    targets: list[str]
    records: dict[str, Record]
    missing: list[str]

    def sources(self, directory: str) -> dict[str, dict[str, str]]:
        """Folder -> the files there that a job read: name -> SHA-256 of what it read."""
        found: dict[str, dict[str, str]] = {}
        for entry in self.records[directory]["inputs"].values():
            folder = directory_of(entry["path"])
            found.setdefault(folder, {})[within(entry["path"], folder)] = entry["sha256"]
        return found


def directory_of(path: str) -> str:
    """The folder of the job that a path below results/ belongs to; UserError for another path."""
    parts = PurePosixPath(path).parts
    depth = 4 if len(parts) > 1 and parts[1] in ("split", "report") else 6
    if not parts or parts[0] != str(RESULTS) or len(parts) < depth or parts[1] not in OUTPUTS:
        raise UserError(f"{path}: not in the folder of a result (results/STAGE/RUN/KEY/)")
    return str(PurePosixPath(*parts[:depth]))


def within(path: str, directory: str) -> str:
    """A path as seen from a job's folder."""
    return str(PurePosixPath(path).relative_to(directory))


def trace(targets: list[str], read: Read) -> Lineage:
    """Follow the inputs of every record from the targets' jobs to those without inputs.

    UserError if not even the targets have a record.
    """
    records: dict[str, Record] = {}
    missing: list[str] = []
    pending = [directory_of(target) for target in reversed(targets)]
    while pending:
        directory = pending.pop()
        if directory in records or directory in missing:
            continue
        record = read(directory)
        if record is None:
            missing.append(directory)
            continue
        records[directory] = record
        pending += reversed([directory_of(entry["path"]) for entry in record["inputs"].values()])
    if not records:
        raise UserError(f"{missing[0]}/{PROVENANCE}: missing, so nobody knows where {targets[0]} comes from")
    return Lineage(targets, records, missing)


def read_here(directory: str) -> Record | None:
    """The record of a folder of this checkout; Failure if it is not whole."""
    path = Path(directory, PROVENANCE)
    return whole(read_json(path), str(path)) if path.is_file() else None


def read_at(revision: str) -> tuple[Read, Callable[[str], list[str]]]:
    """How to read a record, and list a folder, in what DVC recorded at a revision of Git."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError, SCMError

    git = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    if subprocess.run(git, capture_output=True).returncode:
        raise UserError(f"{revision}: no such revision; `git log` lists them")
    try:
        files = DVCFileSystem(".", rev=revision)
        if not files.exists("dvc.lock"):
            raise UserError(f"{revision}: has no dvc.lock, so nothing that DVC recorded")
    except (RevError, SCMError, DvcException) as error:
        raise UserError(f"{revision}: {str(error).splitlines()[0]}") from None

    def read(directory: str) -> Record | None:
        path = f"{directory}/{PROVENANCE}"
        try:
            return whole(json.loads(files.read_text(path)), path) if files.exists(path) else None
        except (OSError, DvcException):
            raise UserError(
                f"{path}: DVC recorded it at {revision}, but its cache does not hold it; "
                f"`dvc fetch` at that revision brings it"
            ) from None

    def listing(directory: str) -> list[str]:
        try:
            return sorted(files.ls(directory, detail=False))
        except FileNotFoundError:
            return []

    return read, listing


class _Input(BaseModel):
    path: str
    sha256: str


class _Whole(BaseModel):
    """What every record has; the rest of it is told, not followed."""

    key: str
    stage: str
    run: str
    params: dict[str, Any]
    code: str
    inputs: dict[str, _Input]
    outputs: dict[str, str]
    seconds: float
    ended: str
    seal: str


def whole(record: Any, path: str) -> Record:
    """A record with all that a lineage follows; Failure for another."""
    try:
        for entry in _Whole.model_validate(record, strict=True).inputs.values():
            directory_of(entry.path)
    except (ValidationError, UserError):
        raise Failure(f"{path}: not the record of a job") from None
    return dict(record)


# --- what is asked for --------------------------------------------------------------------------------


def find(asked: str, jobs: list[Job]) -> list[str]:
    """The artifacts that a path or a cell of the report stands for: data set/method/seed, or less of it.

    data set/method/seed-3 is the retraining of seed 3.

    A path may lead to a result, its folder, or what was published under report/. UserError for anything else.
    """
    name = asked.strip("/")
    evaluations = [job for job in jobs if job.stage == "evaluate"]
    cells = [job for job in evaluations if f"{job.run}/".startswith(f"{name}/")]
    cells = cells or [job for job in evaluations if search_of(job.run) == name]  # no retraining of seed 0
    if cells:
        there = [job for job in cells if job.output(PROVENANCE).is_file()]
        if not there:
            raise UserError(f"{asked}: has no result yet; `hlrs plan` tells what would run")
        return [str(job.output(SHOWN)) for job in there]
    path = Path(asked)
    if not path.exists():
        raise UserError(
            f"{asked}: no such file, nor a data set, data set/method or data set/method/seed of the params"
        )
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except ValueError:
        raise UserError(f"{asked}: not below the current folder, the workflow's") from None
    if relative.parts[:1] == PUBLISHED.parts:
        relative = _unpublished(relative)
    if relative.is_dir() and (relative / PROVENANCE).is_file():
        stage = relative.parts[1]
        relative /= OUTPUTS[stage][0] if stage in OUTPUTS else ""
    directory_of(relative.as_posix())
    return [relative.as_posix()]


def _unpublished(path: Path) -> Path:
    """Where a file below report/ was copied from."""
    record = whole(read_json(PUBLISHED / PROVENANCE), str(PUBLISHED / PROVENANCE))
    name = path.relative_to(PUBLISHED)
    origin = (
        RESULTS / "report" / "all" / str(record["key"]) / (OUTPUTS["report"][0] if name == Path() else name)
    )
    if not origin.parent.is_dir():
        raise UserError(
            f"{path}: was copied from {origin.parent}, which is not here; `dvc checkout` or snakemake"
        )
    return origin


# --- facts --------------------------------------------------------------------------------------------


def facts(lineage: Lineage) -> dict[str, Any]:
    """Everything, for JSON; `matches`: whether a file has the bytes of the record, null if it is not here."""
    return {
        "artifacts": [
            {"path": target, "sha256": recorded(lineage, target), "matches": matches(lineage, target)}
            for target in lineage.targets
        ],
        "jobs": [
            {"directory": directory, **record, "matches": _matches_all(lineage, directory)}
            for directory, record in lineage.records.items()
        ],
        "data": {record["run"]: data(directory, record) for directory, record in splits(lineage)},
        "missing": lineage.missing,
    }


def recorded(lineage: Lineage, path: str) -> str | None:
    """The SHA-256 of an artifact in its job's record, None without one."""
    directory = directory_of(path)
    record = lineage.records.get(directory)
    return record["outputs"].get(within(path, directory)) if record else None


def matches(lineage: Lineage, path: str) -> bool | None:
    """Whether an artifact here has the bytes that its record tells of; None if it is not here."""
    return sha256(Path(path)) == recorded(lineage, path) if Path(path).is_file() else None


def _matches_all(lineage: Lineage, directory: str) -> dict[str, bool | None]:
    return {name: matches(lineage, f"{directory}/{name}") for name in lineage.records[directory]["outputs"]}


def splits(lineage: Lineage) -> Iterator[tuple[str, Record]]:
    """The jobs at the root: (folder, record)."""
    return ((d, record) for d, record in lineage.records.items() if record["stage"] == "split")


def data(directory: str, record: Record) -> list[dict[str, Any]]:
    """Every data file of a split: name in the source, path here (None if it is not known), bytes, SHA-256."""
    try:
        source: Source = TypeAdapter(Source).validate_python(record["params"]["source"])
        paths = {name: str(path) for name, path in data_files(source)}
    except (HlrsError, ValueError, ImportError):
        paths = {}  # a fresh clone without the data, a login node without torchvision
    try:
        files = read_table(Path(directory, "files.parquet"), "files").to_pylist()
    except HlrsError:
        return []
    return [{**file, "path": paths.get(file["name"])} for file in files]


# --- two versions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How a job of a lineage differs from the one of the same stage and run in another."""

    stage: str
    run: str
    old: Record | None  # None: it is new
    comparison: Comparison | None
    definitions: list[str]  # of its code that differ; empty where Git does not know them
    environment: dict[str, tuple[str, str]]
    outputs: list[str]  # whose bytes differ

    @property
    def same(self) -> bool:
        """Whether nothing but times differs."""
        if self.comparison is None:
            return False
        return not (self.comparison.size or self.environment or self.outputs)


def earlier(lineage: Lineage, revision: str) -> Lineage:
    """The lineage of the same runs in what DVC recorded at a revision."""
    read, listing = read_at(revision)
    targets = []
    for target in lineage.targets:
        directory = PurePosixPath(directory_of(target))
        name = within(target, str(directory))
        if read(str(directory)) is not None:
            targets.append(target)
        else:
            found = [f"{key}/{name}" for key in listing(str(directory.parent)) if read(key) is not None]
            targets += found
    if not targets:
        runs = ", ".join(sorted({str(PurePosixPath(directory_of(t)).parent) for t in lineage.targets}))
        raise UserError(f"{revision}: DVC recorded nothing of {runs} there")
    return trace(targets, read)


def differences(old: Lineage, new: Lineage, params: Params) -> list[Difference]:
    """Of every job of `new`, upstream before downstream, what differs from its like in `old`."""
    before = {(record["stage"], record["run"]): record for record in old.records.values()}
    jobs = sorted(new.records.values(), key=lambda record: STAGES.index(record["stage"]))
    return [_difference(before.get((record["stage"], record["run"])), record, params) for record in jobs]


def _difference(old: Record | None, new: Record, params: Params) -> Difference:
    stage, run = new["stage"], new["run"]
    if old is None:
        return Difference(stage, run, None, None, [], {}, [])
    before, now = environment(old), environment(new)
    names = sorted(old["outputs"].keys() | new["outputs"].keys())
    return Difference(
        stage,
        run,
        old,
        compare(as_job(new), old, params),
        changed_definitions(old, new),
        {name: (before[name], now[name]) for name in before if before[name] != now[name]},
        [name for name in names if old["outputs"].get(name) != new["outputs"].get(name)],
    )


def as_job(record: Record) -> Job:
    """The job that a record tells of."""
    inputs = {name: entry["path"] for name, entry in record["inputs"].items()}
    return Job(**{name: record[name] for name in ("stage", "run", "params", "code", "key")}, inputs=inputs)


def changed_definitions(old: Record, new: Record) -> list[str]:
    """The functions whose code differs between two jobs of a stage; empty where Git cannot tell."""
    then, now = code_of(old), code_of(new)
    if old["code"] == new["code"] or then is None or now is None:
        return []
    return changed(definitions_of(then, old), definitions_of(now, new))


def definitions_of(code: Code, record: Record) -> dict[str, str]:
    """The definitions of `code` that a job asked for."""
    return code.definitions(record["stage"], parse(record["stage"], record["params"]))


def code_of(record: Record) -> Code | None:
    """The code that a job ran, if it is the checkout's or the recorded commit's; None where nobody has it."""
    candidates = [here(), committed(str(record.get("commit")))]
    return next((code for code in candidates if code and ran(code, record)), None)


def ran(code: Code, record: Record) -> bool | None:
    """Whether a job ran this code; None if an earlier hlrs made it, whose digests cannot be compared."""
    if not str(record["code"]).startswith(SCHEME):
        return None
    try:
        params = parse(record["stage"], record["params"])
    except ValidationError:
        return None
    return bool(code.digest(record["stage"], params) == record["code"])
