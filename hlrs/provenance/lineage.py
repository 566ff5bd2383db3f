"""Lineage: the records from an artifact back to the data files, here or at a revision of Git."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from hlrs.artifacts.data_digest import data_files, sha256
from hlrs.artifacts.dvc_pointers import importing_dvc
from hlrs.artifacts.files import parse_json
from hlrs.artifacts.git import git
from hlrs.artifacts.jobs import FILES, OUTPUTS, PROVENANCE, PUBLISHED, Job, ResultPath, search_of, typed
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import read_table
from hlrs.config.data import Source
from hlrs.config.jobs import LookupJob
from hlrs.errors import Failure, HlrsError, UserError
from hlrs.provenance.dvc_lock import LOCK

Read = Callable[[str], Record | None]  # the record of a job's folder, None if it has none
SHOWN = {"lookup": "lookup.json", "evaluate": "metrics.json"}  # what a run's numbers in the report come from


@dataclass(frozen=True)
class Lineage:
    """`records`: by folder, a job before those that it builds on; `missing`: folders without a record."""

    targets: list[str]
    records: dict[str, Record]
    missing: list[str]

    def sources(self, directory: str) -> dict[str, dict[str, str]]:
        """Folder -> the files there that a job read: name -> SHA-256 of what it read."""
        found: dict[str, dict[str, str]] = {}
        for entry in self.records[directory].inputs.values():
            path = ResultPath.parse(entry.path)
            found.setdefault(path.folder, {})[path.name] = entry.sha256
        return found


def directory_of(path: str) -> str:
    """The folder of the result that a path belongs to; UserError for a path of none."""
    return ResultPath.parse(path).folder


def trace(targets: list[str], read: Read) -> Lineage:
    """Follow the inputs of every record from the targets' jobs to those without inputs.

    UserError if not even the targets have a record; Failure if a record was edited or is another job's.
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
        if fault := record.fault(directory):
            raise Failure(f"{directory}/{PROVENANCE}: {fault}; `hlrs audit` shows the remedy")
        records[directory] = record
        pending += reversed([directory_of(entry.path) for entry in record.inputs.values()])
    if not records:
        raise UserError(f"{missing[0]}/{PROVENANCE}: missing, so {targets[0]} has no recorded origin")
    return Lineage(targets, records, missing)


def read_here(directory: str) -> Record | None:
    """The record of a folder of this checkout; Failure if it is not whole."""
    path = Path(directory, PROVENANCE)
    return Record.read(path) if path.is_file() else None


def read_at(revision: str) -> tuple[Read, Callable[[str], list[str]]]:
    """How to read a record, and list a folder, in what DVC recorded at a revision of Git."""
    with importing_dvc(f"--since {revision}"):
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.scm import RevError, SCMError

    here = Path()
    if shutil.which("git") is None:
        raise UserError(f"--since {revision}: needs git, which is not installed; install it")
    commit = git(here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise UserError(f"{revision}: no such revision; `git log` lists them")
    if git(here, "cat-file", "-e", f"{commit.decode().strip()}:./{LOCK}") is None:
        raise UserError(f"{revision}: has no {LOCK}, so nothing that DVC recorded")
    try:
        files = DVCFileSystem(".", rev=revision)
    except (RevError, SCMError, DvcException) as error:
        raise UserError(f"{revision}: {str(error).splitlines()[0]}") from None

    def read(directory: str) -> Record | None:
        path = f"{directory}/{PROVENANCE}"
        try:
            return (
                Record.parse(parse_json(files.read_bytes(path), path), path) if files.exists(path) else None
            )
        except (OSError, DvcException):
            raise UserError(
                f"{path}: DVC recorded it at {revision}, but its cache does not hold it; "
                f"`dvc fetch` at that revision brings it"
            ) from None
        except (ValueError, RecursionError):
            raise Failure(f"{path}: at {revision} truncated or not JSON") from None

    def listing(directory: str) -> list[str]:
        try:
            return sorted(files.ls(directory, detail=False))
        except FileNotFoundError:
            return []

    return read, listing


# --- what is asked for --------------------------------------------------------------------------------


def find(asked: str, jobs: list[Job]) -> list[str]:
    """The artifacts that a path or a cell of the report stands for: data set/method/seed, or less of it.

    data set/method/seed-3 is the retraining of seed 3.

    A path may lead to a result, its folder, or what was published under report/. UserError for anything else.
    """
    name = typed(asked)
    evaluations = [job for job in jobs if job.stage in SHOWN]
    cells = [job for job in evaluations if f"{job.run}/".startswith(f"{name}/")]
    if not any(job.stage == "evaluate" for job in cells):  # no retraining of seed 0
        cells += [job for job in evaluations if search_of(job.run) == name and job not in cells]
    if cells:
        there = [job for job in cells if job.output(PROVENANCE).is_file()]
        if not there:
            recorded = "`dvc pull` brings what DVC recorded, " * LOCK.is_file()
            raise UserError(f"{asked}: has no result here; {recorded}`hlrs plan` shows what would run")
        return [str(job.output(SHOWN[job.stage])) for job in there]
    path = Path(asked)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
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
        relative /= OUTPUTS[ResultPath.parse(relative).stage][0]
    directory_of(relative.as_posix())
    return [relative.as_posix()]


def _unpublished(path: Path) -> Path:
    """Where a file below report/ was copied from."""
    record = Record.read(PUBLISHED / PROVENANCE)
    name = path.relative_to(PUBLISHED)
    origin = record.result.directory / (OUTPUTS["report"][0] if name == Path() else name)
    if not origin.parent.is_dir():
        raise UserError(
            f"{path}: was copied from {origin.parent}, which is not here; "
            "`dvc checkout` restores it, or snakemake rebuilds it"
        )
    if path.is_file() and origin.is_file() and sha256(path) != sha256(origin):
        raise UserError(
            f"{path}: was edited: it is not {origin}, from which it was copied; "
            f"delete {PUBLISHED}/ and run `hlrs publish`"
        )
    return origin


# --- facts --------------------------------------------------------------------------------------------


def facts(lineage: Lineage) -> dict[str, Any]:
    """Everything, for JSON; `matches`: whether a file has the bytes of the record, null if it is not here."""
    files: dict[str, list[dict[str, Any]]] = {}
    for directory, record in roots(lineage):
        files.setdefault(record.run, []).extend(data(directory, record))
    return {
        "artifacts": [
            {"path": target, "sha256": recorded(lineage, target), "matches": matches(lineage, target)}
            for target in lineage.targets
        ],
        "jobs": [
            {"directory": directory, **record.body(), "matches": matches_all(lineage, directory)}
            for directory, record in lineage.records.items()
        ],
        "data": files,
        "missing": lineage.missing,
    }


def recorded(lineage: Lineage, path: str) -> str | None:
    """The SHA-256 of an artifact in its job's record, None without one."""
    place = ResultPath.parse(path)
    record = lineage.records.get(place.folder)
    return record.outputs.get(place.name) if record else None


def matches(lineage: Lineage, path: str) -> bool | None:
    """Whether an artifact here has the bytes on record; None if it is not here."""
    try:
        return sha256(Path(path)) == recorded(lineage, path) if Path(path).is_file() else None
    except OSError:  # it is here, but cannot be read
        return False


def matches_all(lineage: Lineage, directory: str) -> dict[str, bool | None]:
    """Of every output of a job, whether the file here has the bytes on record; None if it is not here."""
    return {name: matches(lineage, f"{directory}/{name}") for name in lineage.records[directory].outputs}


def altered(lineage: Lineage, directory: str) -> bool:
    """Whether an output of a job is not the one on record, or an input not the one that was made."""
    read = lineage.records[directory].inputs.values()
    return False in matches_all(lineage, directory).values() or any(
        recorded(lineage, entry.path) != entry.sha256 for entry in read
    )


def roots(lineage: Lineage) -> Iterator[tuple[str, Record]]:
    """The jobs that read data files: (folder, record)."""
    return ((d, record) for d, record in lineage.records.items() if reads_data(record))


def reads_data(record: Record) -> bool:
    """Whether a job read data files: those of its table, or the weights that a retraining began with."""
    return FILES in OUTPUTS[record.stage] or (record.stage == "retrain" and record.start is not None)


def data(directory: str, record: Record) -> list[dict[str, Any]]:
    """Every data file that a job read: its name, path here (None if it is not known), bytes, SHA-256."""
    if record.stage == "retrain" and record.start is not None:
        file = {name: record.start[name] for name in ("name", "bytes", "sha256")}
        return [{**file, "path": (record.params.get("retrain") or {}).get("start")}]
    try:
        paths = _data_paths(record)
    except (HlrsError, ValueError, ImportError):
        paths = {}  # a fresh clone without the data, a login node without torchvision
    try:
        files = read_table(Path(directory, FILES), "files").to_pylist()
    except HlrsError:
        return []
    return [{**file, "path": paths.get(file["name"])} for file in files]


def _data_paths(record: Record) -> dict[str, str]:
    """The paths of a split's data files, or of a look-up's table, by name."""
    if record.stage == "lookup":
        table = Path(LookupJob.model_validate(record.params).table)
        return {table.name: str(table)}
    source: Source = TypeAdapter(Source).validate_python(record.params.get("source"))
    return {name: str(path) for name, path in data_files(source)}


# --- two versions -------------------------------------------------------------------------------------


def earlier(lineage: Lineage, revision: str) -> Lineage:
    """The lineage of the same runs in what DVC recorded at a revision."""
    read, listing = read_at(revision)
    targets = []
    for target in lineage.targets:
        place = ResultPath.parse(target)
        if read(place.folder) is not None:
            targets.append(target)
        else:
            keys = listing(str(PurePosixPath(place.folder).parent))
            targets += [f"{key}/{place.name}" for key in keys if read(key) is not None]
    if not targets:
        runs = ", ".join(sorted({str(PurePosixPath(directory_of(t)).parent) for t in lineage.targets}))
        raise UserError(f"{revision}: DVC recorded nothing of {runs} there")
    return trace(targets, read)
