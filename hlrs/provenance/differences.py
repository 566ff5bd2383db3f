"""What differs between a job and an earlier result."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hlrs.artifacts.code_digest import SCHEME, Code, changed, committed_since, here
from hlrs.artifacts.jobs import PROVENANCE, RESULTS, STAGES, Job
from hlrs.artifacts.records import Record
from hlrs.config.jobs import parse
from hlrs.config.methods import OF_CELLS, OnTrained
from hlrs.config.params import Params
from hlrs.errors import HlrsError, UserError

WIDTH = ("retrain", "channels")  # of a ResNet
ABSENT = "(absent)"  # one side has the entry, the other does not


@dataclass(frozen=True)
class Change:
    """An entry that differs, named as params.yaml names it; of another `kind` the mappings as a whole."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.old == ABSENT and isinstance(self.new, dict):
            return f"{self.field} added"
        if self.new == ABSENT and isinstance(self.old, dict):
            return f"{self.field} removed"
        if isinstance(self.old, dict) and isinstance(self.new, dict) and "kind" in self.new:
            options = [f"{name} {_value(value)}" for name, value in self.new.items() if name != "kind"]
            behind = f" ({', '.join(options)})" if options else ""
            return f"{self.field}.kind {self.old.get('kind', ABSENT)} -> {self.new['kind']}{behind}"
        return f"{self.field} {_value(self.old)} -> {_value(self.new)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Comparison:
    """How a job's spec differs from what an earlier result was made with."""

    changes: list[Change]
    data: bool  # the bytes of the source's files, or of the table
    code: bool
    inputs: list[str]  # names of inputs that are other results now

    @property
    def size(self) -> int:
        """The number of differences."""
        return len(self.changes) + self.data + self.code + len(self.inputs)


def compare(job: Job, old: Job, params: Params) -> Comparison:
    """Compare a job with that of an earlier result.

    `params`, from which the job was planned, show which entries a method overrides.
    """
    every = _pairs(as_written(old.params), as_written(job.params))
    pairs = [pair for pair in every if not _follows(job, old, pair[0])]
    data = [path for path, *_ in pairs if path[-1] == "content"]
    before = old.inputs
    return Comparison(
        changes=[Change(_name(job, path, params), *values) for path, *values in pairs if path not in data],
        data=bool(data),
        code=_code_changed(old, job),
        inputs=[
            name for name in sorted(before.keys() | job.inputs) if before.get(name) != job.inputs.get(name)
        ],
    )


def _code_changed(old: Job, job: Job) -> bool:
    """Whether the code differs that both jobs' parameters ask for; other kinds alone are other parameters."""
    if old.code == job.code:
        return False
    return not (ran(here(), job) and ran(here(), old))


def _pairs(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, old, new) of every entry that differs; a mapping whose kind differs is one entry."""
    nested = isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind")
    if nested:
        for name in sorted(old.keys() | new.keys()):
            yield from _pairs(old.get(name, ABSENT), new.get(name, ABSENT), (*path, name))
    elif old != new:
        yield path, old, new


def _follows(job: Job, old: Job, path: tuple[str, ...]) -> bool:
    """Whether an entry is not what somebody wrote, but follows from a ResNet's depth or its being one.

    Of a network that cells are implanted on, input `trained` differs then.
    """
    if not _implanted(job.params) and (
        not job.params.get("resnet") or (path == WIDTH and old.params.get("resnet"))
    ):
        return False
    return len(path) > 1 and path[0] in ("search", "retrain") and path[1] in OF_CELLS


def _implanted(params: dict[str, Any]) -> bool:
    space = params.get("space") or params.get("search", {}).get("space", {})
    return bool(space.get("kind") == "implant")


def as_written(params: dict[str, Any]) -> dict[str, Any]:
    """A job's parameters with the searcher of implanted cells called what params.yaml calls it."""
    if "searcher" not in params or not _implanted(params):
        return params
    drawn = params["searcher"]["kind"] == "random"
    return params | {"searcher": params["searcher"] | {"kind": "implant" + " (cell random)" * drawn}}


def _name(job: Job, path: tuple[str, ...], params: Params) -> str:
    """What params.yaml calls an entry of a job's parameters."""
    dataset, method = [*job.run.split("/"), "", ""][:2]
    if dataset not in params.datasets:  # a draw by another seed
        dataset = dataset.rpartition("-")[0] or dataset
    if limited := path[0] == "limit":  # which repeats entries of other sections
        sections: dict[str, tuple[str, ...]] = {"budget": ("search",), "images": ()}
        inner = path[1:] or ("budget",)
        path = (*sections.get(inner[0], ("retrain",)), *inner)
    first, *rest = path
    if first == "resnet" or (path == WIDTH and job.params.get("resnet")):
        method = _trainer(params, method)
    if job.stage == "report":
        return ".".join(path if first == "report" else rest)
    if job.stage == "split" or first == "groups":
        return ".".join(("datasets", dataset, *path))
    if first == "images":
        return ".".join(("datasets", dataset, *rest))
    if job.stage == "lookup":
        return ".".join(("evaluate", *path))
    if first in ("searcher", "objective", "arch_lr", "labels"):
        return ".".join(("methods", method, *path))
    if (
        job.stage == "extract" and not limited
    ) or first == "resnet":  # the network of a method without a search
        return ".".join(("methods", method, "searcher", "depth" if first == "resnet" else first))
    if path == WIDTH and job.params.get("resnet"):
        return f"methods.{method}.searcher.width"
    if first in ("nodes", "space"):  # which a random search and a retraining have without a recipe
        path = ("search", *path)
    owners = (owner for owner in (method, _trainer(params, method)) if _overrides(params, owner, path))
    owner = next(owners, None)
    return ".".join(("methods", owner, *path) if owner else path)


def _trainer(params: Params, method: str) -> str:
    """Return the method that says what a method's network and recipe are: another, if that one trains it."""
    searcher = params.methods[method].searcher if method in params.methods else None
    return searcher.method if isinstance(searcher, OnTrained) else method


def _overrides(params: Params, method: str, path: tuple[str, ...]) -> bool:
    """Whether an entry of a recipe is a method's own."""
    if path[0] not in ("search", "retrain") or method not in params.methods:
        return False
    entry: Any = getattr(params.methods[method], path[0])
    for name in path[1:]:
        if not isinstance(entry, dict) or name not in entry:
            return False
        entry = entry[name]
    return True


# --- two lineages -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How a job differs from the one of the same stage and run in another lineage."""

    stage: str
    run: str
    old: dict[str, Any] | None  # the earlier record's JSON; None: the job is new
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


def differences(old: Iterable[Record], new: Iterable[Record], params: Params) -> list[Difference]:
    """Compare every job of `new`, upstream before downstream, with its counterpart in `old`."""
    before = {(record.stage, record.run): record for record in old}
    jobs = sorted(new, key=lambda record: STAGES.index(record.stage))
    return [_difference(before.get((record.stage, record.run)), record, params) for record in jobs]


def _difference(old: Record | None, new: Record, params: Params) -> Difference:
    if old is None:
        return Difference(new.stage, new.run, None, None, [], {}, [])
    before, now = old.environment(), new.environment()
    names = sorted(old.outputs.keys() | new.outputs.keys())
    return Difference(
        new.stage,
        new.run,
        old.body(),
        compare(new.job, old.job, params),
        changed_definitions(old, new),
        {name: (before[name], now[name]) for name in before if before[name] != now[name]},
        [name for name in names if old.outputs.get(name) != new.outputs.get(name)],
    )


# --- code ---------------------------------------------------------------------------------------------


def changed_definitions(old: Record, new: Record) -> list[str]:
    """The functions whose code differs between two jobs of a stage; empty if Git does not know it."""
    then, now = code_of(old), code_of(new)
    if old.code == new.code or then is None or now is None:
        return []
    return changed(definitions_of(then, old), definitions_of(now, new))


def definitions_of(code: Code, record: Record) -> dict[str, str]:
    """The definitions of `code` that a job used."""
    return code.definitions(record.stage, parse(record.stage, record.params))


def code_of(record: Record) -> Code | None:
    """The code that a job ran: the checkout's, or that of the commit on record or soon after; else None."""
    if ran(here(), record):
        return here()
    return next((code for code in committed_since(str(record.commit)) if ran(code, record)), None)


def ran(code: Code, job: Job | Record) -> bool | None:
    """Whether a job ran this code; None if an earlier hlrs made it, whose digests cannot be compared."""
    if not job.code.startswith(SCHEME):
        return None
    try:
        params = parse(job.stage, job.params)
    except ValidationError:
        return None
    try:
        return code.digest(job.stage, params) == job.code if code.knows(params) else None
    except UserError:  # what is no Python has not run
        return False


# --- earlier results ----------------------------------------------------------------------------------


class Past:
    """The records of all results here, those put aside included."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        for path in sorted(RESULTS.rglob(PROVENANCE)):  # also of what was set aside
            with suppress(HlrsError):  # a plan does not fail for a broken record
                record = Record.read(path)
                self.records += [record] if record.intact else []
        self.of: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            self.of.setdefault((record.stage, record.run), []).append(record)

    def nearest(self, job: Job, params: Params) -> tuple[Record, Comparison] | None:
        """Of the same stage and run, the record with the fewest differences, the newest among equals."""
        return self._nearest(job, self.of.get((job.stage, job.run), []), params)

    def nearest_of_stage(self, job: Job, params: Params) -> tuple[Record, Comparison] | None:
        """Likewise, of any run."""
        return self._nearest(job, [r for r in self.records if r.stage == job.stage], params)

    @staticmethod
    def _nearest(job: Job, known: list[Record], params: Params) -> tuple[Record, Comparison] | None:
        compared = [(record, compare(job, record.job, params)) for record in known]
        newest_first = sorted(compared, key=lambda pair: pair[0].ended, reverse=True)
        return min(newest_first, key=lambda pair: pair[1].size, default=None)
