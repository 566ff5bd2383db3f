"""What differs between a job and an earlier result."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrs.artifacts.jobs import ASIDE, PROVENANCE, RESULTS, Job
from hlrs.artifacts.records import Record
from hlrs.config.methods import OF_CELLS
from hlrs.config.params import Params

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
            return f"{self.field}.kind {self.old['kind']} -> {self.new['kind']}{behind}"
        return f"{self.field} {_value(self.old)} -> {_value(self.new)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Comparison:
    """How a job's spec differs from what an earlier result was made with."""

    changes: list[Change]
    data: bool  # the bytes of the source's files
    code: bool
    inputs: list[str]  # names of inputs that are other results now

    @property
    def size(self) -> int:
        """The number of differences."""
        return len(self.changes) + self.data + self.code + len(self.inputs)


def compare(job: Job, record: Record, params: Params) -> Comparison:
    """A job's spec beside an earlier result's record, or beside the fields of another job's spec.

    `params`, which the job was planned from, tells which entries a method overrides.
    """
    pairs = [pair for pair in differences(record["params"], job.params) if not _follows(job, pair[0])]
    data = [path for path, *_ in pairs if path[-1] == "content"]
    before = {
        name: entry if isinstance(entry, str) else entry["path"] for name, entry in record["inputs"].items()
    }
    return Comparison(
        changes=[Change(_name(job, path, params), *values) for path, *values in pairs if path not in data],
        data=bool(data),
        code=record["code"] != job.code,
        inputs=[
            name for name in sorted(before.keys() | job.inputs) if before.get(name) != job.inputs.get(name)
        ],
    )


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, old, new) of every entry that differs; a mapping whose kind differs is one entry."""
    nested = isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind")
    if nested:
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), (*path, name))
    elif old != new:
        yield path, old, new


def _follows(job: Job, path: tuple[str, ...]) -> bool:
    """Whether an entry is not what somebody wrote, but follows from a ResNet's depth."""
    return bool(job.params.get("resnet")) and path[0] == "retrain" and path[1] in OF_CELLS


def _name(job: Job, path: tuple[str, ...], params: Params) -> str:
    """What params.yaml calls an entry of a job's parameters."""
    dataset, method = [*job.run.split("/"), "", ""][:2]
    first, *rest = path
    if job.stage == "report":
        return ".".join(path if first == "report" else rest)
    if job.stage == "split" or first == "groups":
        return ".".join(("datasets", dataset, *path))
    if first == "images":
        return ".".join(("datasets", dataset, *rest))
    if first in ("searcher", "objective", "arch_lr"):
        return ".".join(("methods", method, *path))
    if job.stage == "extract" or first == "resnet":  # what a method without a search says of its network
        return ".".join(("methods", method, "searcher", "depth" if first == "resnet" else first))
    if first == "retrain" and _overrides(params, method, rest):
        return ".".join(("methods", method, *path))
    return ".".join(("search", *path) if first == "nodes" else path)  # a random search is told that alone


def _overrides(params: Params, method: str, path: list[str]) -> bool:
    """Whether a method has a retraining entry of its own."""
    entry: Any = params.methods[method].retrain if method in params.methods else {}
    for name in path:
        if not isinstance(entry, dict) or name not in entry:
            return False
        entry = entry[name]
    return True


class Past:
    """The records of all results that there are, also of those put aside."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        for root in (RESULTS, ASIDE / RESULTS):
            for path in sorted(root.rglob(PROVENANCE)):
                self.records += _read(path)
        self.of: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            self.of.setdefault((record["stage"], record["run"]), []).append(record)

    def nearest(self, job: Job, params: Params) -> tuple[Record, Comparison] | None:
        """Of the same stage and run, the record with the fewest differences, the newest among equals."""
        return self._nearest(job, self.of.get((job.stage, job.run), []), params)

    def nearest_of_stage(self, job: Job, params: Params) -> tuple[Record, Comparison] | None:
        """Likewise, of any run."""
        return self._nearest(job, [r for r in self.records if r["stage"] == job.stage], params)

    @staticmethod
    def _nearest(job: Job, known: list[Record], params: Params) -> tuple[Record, Comparison] | None:
        compared = [(record, compare(job, record, params)) for record in known]
        newest_first = sorted(compared, key=lambda pair: str(pair[0]["ended"]), reverse=True)
        return min(newest_first, key=lambda pair: pair[1].size, default=None)


def _read(path: Path) -> list[Record]:
    """A record in a list; an empty one where it is broken, for which a plan should not fail."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = (
            isinstance(record, dict)
            and {"key", "stage", "run", "params", "code", "inputs", "ended"} <= record.keys()
        )
    except (OSError, ValueError):
        return []
    return [record] if whole else []
