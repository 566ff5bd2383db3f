"""The audit: check that files, records, `dvc.lock`, `params.yaml` and commits agree on every result."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hlrs.artifacts.code_digest import committed, committed_since, why_unknown
from hlrs.artifacts.files import printable
from hlrs.artifacts.jobs import (
    FILES,
    OUTPUTS,
    PROVENANCE,
    PUBLISHED,
    RESULTS,
    STAGES,
    Job,
    ResultPath,
    abbreviate,
)
from hlrs.artifacts.records import Record
from hlrs.errors import Failure, HlrsError, UserError
from hlrs.provenance.differences import ran
from hlrs.provenance.dvc_lock import LOCK, listing, recorded, tree_digest
from hlrs.provenance.files import digests, read_all
from hlrs.provenance.lineage import data, directory_of, read_here, reads_data

SHORT = 12  # digits of a digest


@dataclass(frozen=True)
class Finding:
    """Something that does not agree (`broken`), or that a reader of the results should know.

    `affected`: the first artifact that cannot be trusted; `rests`: how many other results build on it.
    """

    path: str
    what: str
    remedy: str
    broken: bool = True
    affected: str | None = None
    rests: int = 0


class Audit:
    """Everything below results/ and report/, read once. `jobs`: what the params ask for."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.wanted = {str(job.directory): job for job in jobs}
        self.files, self.odd = read_all(RESULTS)
        self.folders: dict[str, list[str]] = {}  # of every result -> its files
        self.stray: list[str] = []
        for path in (*self.files, *self.odd):
            try:
                place = ResultPath.parse(path)
            except HlrsError:
                self.stray.append(path)
            else:
                (self.folders.setdefault(place.folder, []) if place.name else self.stray).append(path)
        self.records: dict[str, Record] = {}
        self.unreadable: dict[str, str] = {}  # folder -> why
        for directory in self.folders:
            try:
                record = read_here(directory)
            except HlrsError as error:
                self.unreadable[directory] = str(error)
            else:
                self.records |= {directory: record} if record else {}
        self.readers: dict[str, set[str]] = {}  # folder -> folders that read of it
        for directory, record in self.records.items():
            for entry in record.inputs.values():
                self.readers.setdefault(directory_of(entry.path), set()).add(directory)
        self.published = read_all(PUBLISHED)
        self.shown, self.unshown = _shown()
        asked = next((str(job.directory) for job in jobs if job.stage == "report"), "")
        self.origin = self.shown.result.folder if self.shown else asked

    def findings(self) -> Iterator[Finding]:
        """What is broken, upstream before downstream, then what is remarkable."""
        order = sorted(self.folders, key=lambda d: (STAGES.index(ResultPath.parse(d).stage), d))
        for directory in order:
            yield from self._folder(directory)
        yield from (
            Finding(path, "is not in the folder of a result", "delete it if nobody needs it")
            for path in self.stray
        )
        yield from self._published()
        yield from self._recorded_by_dvc()
        yield from self._params()
        yield from self._commits()
        yield from self._mixtures()

    def broken(self, path: str, what: str, affected: str | None = None, remedy: str | None = None) -> Finding:
        """A break, with the number of results downstream; `affected` defaults to the file itself."""
        affected = affected or path
        directory = directory_of(affected)
        rests = len(self._downstream(directory))
        return Finding(path, what, remedy or self._rebuild(directory), True, affected, rests)

    def _rebuild(self, directory: str) -> str:
        """How to rebuild a result."""
        job = self.wanted.get(directory)
        if job is None:
            return "delete its folder: the params do not ask for it"
        rebuild = f"`hlrs {job.stage} {job.run} --force` rebuilds it"
        if directory in self._listed:
            return f"`dvc checkout --force {directory}` restores what DVC recorded, {rebuild}"
        return rebuild

    @cached_property
    def _listed(self) -> set[str]:
        """The folders of results in dvc.lock; of others, `dvc checkout --force` deletes what is there."""
        try:
            outs = recorded()
            listings = {str(RESULTS / stage): outs.get(str(RESULTS / stage)) for stage in STAGES}
            return {
                folder
                for root, digest in listings.items()
                for folder in _folders(root, listing(digest) or () if digest else ())
            }
        except HlrsError:  # dvc.lock is torn, or DVC is not installed
            return set()

    def _downstream(self, directory: str) -> set[str]:
        found: set[str] = set()
        pending = [directory]
        while pending:
            new = self.readers.get(pending.pop(), set()) - found
            found |= new
            pending += new
        return found

    # --- a result -------------------------------------------------------------------------------------

    def _folder(self, directory: str) -> Iterator[Finding]:
        """Check one result: its record against its place and key, its files, and its inputs."""
        place = f"{directory}/{PROVENANCE}"
        first = f"{directory}/{OUTPUTS[ResultPath.parse(directory).stage][0]}"
        if directory not in self.records:
            why = self.odd.get(place) or self.unreadable.get(directory, "").removeprefix(f"{place}: ")
            why = why or ("is a folder" if Path(place).is_dir() else "is missing")
            yield self.broken(place, f"{why}, so these artifacts have no recorded origin", first)
            return
        record = self.records[directory]
        if fault := record.fault(directory):
            yield self.broken(place, fault, first)
        yield from self._outputs(directory, record)
        yield from self._inputs(directory, record, first)

    def _outputs(self, directory: str, record: Record) -> Iterator[Finding]:
        files = {ResultPath.parse(path).name: path for path in self.folders[directory]}
        for name, digest in record.outputs.items():
            path = f"{directory}/{name}"
            if path in self.odd:
                yield self.broken(path, self.odd[path])
            elif name not in files:
                yield self.broken(
                    path, f"is on record but {'a folder' if Path(path).is_dir() else 'missing'}"
                )
            elif self.files[path].sha256 != digest:
                found = self.files[path].sha256
                what = f"has other bytes than on record: sha256 {found[:SHORT]}…, not {digest[:SHORT]}…"
                yield self.broken(path, what)
        for name in sorted(files.keys() - record.outputs.keys() - {PROVENANCE}):
            yield self.broken(files[name], "is not on record", remedy="delete it")

    def _inputs(self, directory: str, record: Record, first: str) -> Iterator[Finding]:
        """Check what a job read against the records of the jobs that made it."""
        gone: dict[str, list[str]] = {}
        for entry in record.inputs.values():
            path, digest, place = entry.path, entry.sha256, ResultPath.parse(entry.path)
            if path not in self.files:
                gone.setdefault(place.folder, []).append(place.name)
                continue
            made = self._recorded(place) or self.files[path].sha256
            if digest != made:
                what = (
                    f"was made from another {path}: sha256 {digest[:SHORT]}… was read, it is {made[:SHORT]}…"
                )
                yield self.broken(first, what)
        for folder, names in gone.items() if directory in self.wanted else ():
            what = f"its inputs are not here: {', '.join(sorted(names))} of {folder}"
            stage = ResultPath.parse(folder).stage
            remedy = f"`snakemake --cores all {stage}_all` makes it again"
            if folder in self._listed:
                remedy = f"`dvc checkout --force {folder}` restores it, or {remedy}"
            yield self.broken(first, what, remedy=remedy)

    def _recorded(self, place: ResultPath) -> str | None:
        """The SHA-256 of a file in its result's record."""
        record = self.records.get(place.folder)
        return record.outputs.get(place.name) if record else None

    # --- all results ----------------------------------------------------------------------------------

    def _published(self) -> Iterator[Finding]:
        """report/ against the result that it was copied from, both ways."""
        files, odd = self.published
        if not files and not odd:
            return
        record = str(PUBLISHED / PROVENANCE)
        if self.shown is None:
            yield _unpublished(record, self.unshown)
        elif self.origin not in self.wanted:
            remedy = "snakemake, then `hlrs publish`"
            yield Finding(str(PUBLISHED), "shows the report of other parameters or code", remedy, False)
        source, made = self._copied()
        for path in sorted({*files, *odd, *made} if made else odd):
            if path == record and self.shown is None:
                continue
            if path in odd:
                yield _unpublished(path, odd[path])
            elif path not in files:
                yield _unpublished(path, f"is on record in {source}, but missing here")
            elif path not in made:
                yield _unpublished(path, f"is not on record in {source}")
            elif files[path].sha256 != made[path]:
                yield _unpublished(path, f"is not the one on record in {source}")

    def _copied(self) -> tuple[str, dict[str, str]]:
        """What report/ should hold, path -> SHA-256, and by which record: its result's, else its own."""
        record, source, files = self.records.get(self.origin), self.origin, self.files
        if record is None:
            record, source, files = self.shown, str(PUBLISHED), self.published[0]
        own = files.get(f"{source}/{PROVENANCE}")
        if record is None or own is None:
            return source, {}
        made = record.outputs | {PROVENANCE: own.sha256}
        return f"{source}/{PROVENANCE}", {str(PUBLISHED / name): digest for name, digest in made.items()}

    def _recorded_by_dvc(self) -> Iterator[Finding]:
        """Every file in dvc.lock against the file here."""
        if not os.path.lexists(LOCK):
            return
        try:
            outs = recorded()
        except Failure as error:
            remedy = f"`git checkout {LOCK}` restores it; or delete it, and `dvc repro` records all results"
            yield Finding(str(LOCK), str(error), remedy, affected=str(LOCK))
            return
        for stage in STAGES:
            root = str(RESULTS / stage)
            ours = {
                p.removeprefix(f"{root}/"): d.md5 for p, d in self.files.items() if p.startswith(f"{root}/")
            }
            if root not in outs:
                if ours:
                    yield Finding(root, f"is not in {LOCK} yet", "`dvc repro` records it", False)
            elif outs[root] != tree_digest(ours):
                yield from self._differing(root, outs[root], ours)
        yield from self._published_by_dvc(outs)

    def _published_by_dvc(self, outs: dict[str, str | None]) -> Iterator[Finding]:
        """Compare report/ itself with dvc.lock where the result that it was copied from is not here."""
        if self.origin in self.records:
            return
        for path, found in self.published[0].items():
            if path in outs and outs[path] != found.md5:
                remedy = f"`dvc checkout --force {path}` restores it, or `dvc repro` records it"
                yield Finding(path, f"is not the version in {LOCK}", remedy, affected=path)

    def _differing(self, root: str, digest: str | None, ours: dict[str, str]) -> Iterator[Finding]:
        """Name the files that differ from the listing in dvc.lock, and count those in only one of the two."""
        try:
            theirs = listing(digest)
        except UserError:
            what = f"is another version than {LOCK}'s, and only DVC can tell which files differ"
            yield Finding(root, what, "`pip install dvc`", False)
            return
        if theirs is None:
            what = "is another version than dvc.lock's, whose listing DVC's cache does not hold"
            yield Finding(root, what, "`dvc fetch`, or `dvc repro` records this version", False)
            return
        for name in sorted(theirs.keys() & ours.keys()):
            path = f"{root}/{name}"
            if theirs[name] != ours[name] and not self._known_bad(path):
                remedy = f"`dvc checkout --force {path}` restores it, or `dvc repro` records it"
                yield self.broken(path, "is not the version in dvc.lock", remedy=remedy)
        if new := len(_folders(root, ours.keys() - theirs.keys())):
            yield Finding(root, f"{_results(new)} not in dvc.lock yet", "`dvc repro` records them", False)
        if gone := len(_folders(root, theirs.keys() - ours.keys())):
            what = f"{_results(gone)} in dvc.lock but not here"
            yield Finding(root, what, "`dvc checkout` restores that version", False)

    def _known_bad(self, path: str) -> bool:
        """Whether a file's own record already shows a break, as its place does where it has none."""
        if path in self.stray:
            return True
        record = self.records.get(directory_of(path))
        if record is None:
            return True
        if path.endswith(f"/{PROVENANCE}"):
            return not record.intact
        return self._recorded(ResultPath.parse(path)) != self.files[path].sha256

    def _params(self) -> Iterator[Finding]:
        """What the params ask for against what is here, by key."""
        missing = [job for job in self.jobs if not job.complete]
        if missing:
            what = f"{len(missing)} of the {len(self.jobs)} results that the params ask for are not here"
            yield Finding(str(RESULTS), what, "`hlrs status` shows what makes them", False)
        other = self.folders.keys() - self.wanted.keys()
        if other:
            what = f"{_results(len(other))} made with other parameters or code"
            yield Finding(str(RESULTS), what, "`hlrs prune` sets them aside", False)

    def _commits(self) -> Iterator[Finding]:
        """Whether the code on record is that of the commit on record."""
        found: dict[tuple[str, str, str], list[str]] = {}
        git = shutil.which("git")
        for record in self.records.values():
            stage, commit = record.stage, record.commit
            if commit is None:
                why = "made outside a Git checkout, so their code cannot be checked"
                remedy = "rebuild them in a clone of the repository"
            elif git is None:
                why = "git is not installed, so their code cannot be checked"
                remedy = "install git"
            elif (code := committed(commit)) is None:
                what, remedy = why_unknown(commit)
                why = f"{what}, so their code cannot be checked"
            elif any(ran(each, record) for each in committed_since(commit)):
                continue
            elif ran(code, record) is None:
                why = "made by an earlier version of hlrs, whose code digests cannot be checked"
                remedy = "check out their commit to audit them, or rebuild them"
            else:
                why = f"made by uncommitted code, on top of commit {commit[:SHORT]}"
                remedy = "commit the code as it ran, or rebuild them"
            found.setdefault((stage, why, remedy), []).append(record.run)
        for (stage, why, remedy), runs in found.items():
            yield Finding(str(RESULTS / stage), f"{why}: {abbreviate(runs)}", remedy, False)

    def _mixtures(self) -> Iterator[Finding]:
        """Find compared results of one stage that were made in different environments."""
        for stage in ("search", "retrain", "evaluate"):
            records = [r for d, r in self.records.items() if d in self.wanted and r.stage == stage]
            for name in ("device", "lock", "image", "versions"):
                counts = Counter(record.environment()[name] for record in records)
                if len(counts) > 1:
                    shared = _shared(counts) if name == "versions" else frozenset[str]()
                    among = "; ".join(
                        f"{_without(shared, value)[:60]} ({n})" for value, n in counts.most_common(4)
                    )
                    what = f"runs that are compared differ in {name}: {among}"
                    yield Finding(str(RESULTS / stage), what, "keep it in mind when comparing them", False)


def _shared(values: Iterable[str]) -> frozenset[str]:
    """The entries that all values, lists with commas, have."""
    return frozenset.intersection(*(frozenset(value.split(", ")) for value in values))


def _without(shared: frozenset[str], value: str) -> str:
    """A list without the entries that all others have as well."""
    return ", ".join(entry for entry in value.split(", ") if entry not in shared) or "none of these"


def _folders(root: str, names: Iterable[str]) -> set[str]:
    """The folders of the results that files below `root` belong to; of a file in none, its own."""
    found = set()
    for path in (f"{root}/{name}" for name in names):
        try:
            found.add(directory_of(path))
        except UserError:
            found.add(str(Path(path).parent))
    return found


def _results(number: int) -> str:
    return f"{_counted(number, 'result')} {'is' if number == 1 else 'are'}"


def _counted(number: int, noun: str) -> str:
    """'1 result', '2 results'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shown() -> tuple[Record | None, str]:
    """The record in report/; None, and why, if it is not that of a report."""
    place = PUBLISHED / PROVENANCE
    try:
        record = Record.read(place)
    except HlrsError as error:
        return None, str(error).removeprefix(f"{place}: ")
    fault = record.fault(record.result.folder)
    if record.stage != "report":
        fault = f"is the record of {record.stage} {record.run}"
    return (None, fault) if fault else (record, "")


def _unpublished(path: str, what: str) -> Finding:
    return Finding(path, what, f"delete {PUBLISHED}/, then `hlrs publish`", affected=path)


def check_data(audit: Audit) -> Iterator[Finding]:
    """Every data file that is here against its SHA-256 in files.parquet, or the record, of its readers."""
    for directory, record in audit.records.items():
        if not reads_data(record):
            continue
        made = {"split": "split", "lookup": "looked up", "retrain": "retrained"}[record.stage]
        files = data(directory, record)
        # isfile: Path.is_file raises for a name that is too long
        there = [Path(file["path"]) for file in files if os.path.isfile(file["path"] or "")]  # noqa: PTH113
        found = digests(there)
        if len(there) < len(files):
            what = f"{len(files) - len(there)} of {len(files)} data files of {record.run} are not here"
            place = f"{directory}/{FILES if FILES in record.outputs else PROVENANCE}"
            yield Finding(place, what, "nothing, if only results are wanted", False)
        for file in files:
            digest = found.get(str(Path(file["path"]))) if file["path"] else None  # spelled as in the params
            if digest and digest.sha256 != file["sha256"]:
                first = f"{directory}/{OUTPUTS[record.stage][0]}"
                what = f"has other bytes than when {record.run} was {made}"
                what = f"cannot be read: {digest.error}" if digest.error else what
                remedy = (
                    "restore the file; or, to use it as it is, `touch` it, rerun snakemake and `hlrs prune`"
                    if directory in audit.wanted
                    else "`hlrs prune` sets aside what the params do not ask for"
                )
                yield audit.broken(str(file["path"]), what, first, remedy)


def report(audit: Audit, findings: list[Finding]) -> Iterator[str]:
    """The findings in words, breaks first, and what was checked."""
    for finding in sorted(findings, key=lambda finding: not finding.broken):
        yield printable(f"{'broken' if finding.broken else 'remark'}  {finding.path}: {finding.what}")
        if finding.broken:
            first = "this file" if finding.affected == finding.path else printable(str(finding.affected))
            others = f"; {_counted(finding.rests, 'other result')} made from it" if finding.rests else ""
            yield f"        first affected: {first}{others}"
        yield f"        {finding.remedy}"
    megabytes = sum(entry.size for entry in audit.files.values()) / 1e6
    broken = sum(finding.broken for finding in findings)
    remarks = len(findings) - broken
    checked = "records, params, commits" + (" and dvc.lock" if LOCK.is_file() else "; there is no dvc.lock")
    sizes = (
        f"{_counted(len(audit.folders), 'result')}, {_counted(len(audit.files), 'file')}, {megabytes:,.1f} MB"
    )
    yield f"{sizes} against {checked}:"
    yield f"{broken} broken, {_counted(remarks, 'remark')}" if findings else "everything agrees"
