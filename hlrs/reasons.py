"""Why a job would run: what it is told, beside what the nearest earlier result was told.

The earlier results are known from their records, below `results/` and where `prune` put them aside.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrs.artifacts import OUTPUTS, PROVENANCE, RESULTS, Job, read_facts, seeds_of
from hlrs.config import OF_CELLS, Params
from hlrs.errors import Failure
from hlrs.plan import ASIDE

STAGES = list(OUTPUTS)  # in the order in which they run
ABSENT = "(absent)"  # one side has the entry, the other does not
Record = dict[str, Any]  # a provenance record


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


# --- earlier results ----------------------------------------------------------------------------------


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


# --- why ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reason:
    """Why one job would run."""

    job: Job
    missing: list[str]  # files of its result, where others of them are there
    remade: list[str]  # inputs that are missing, and for which a result that is there is made anew
    against: Record | None  # the nearest earlier result's record
    comparison: Comparison | None
    checkpoint: tuple[int, int] | None  # epochs that are done, of how many
    due: frozenset[str]  # the stages of its inputs that run before it

    def words(self) -> list[str]:
        """The reasons, each in a few words that hold for other runs alike."""
        return [*self._result(), *self._checkpoint()]

    def _result(self) -> list[str]:
        if self.missing:
            names = self.missing if len(self.missing) < 4 else [*self.missing[:3], "…"]
            return [f"{', '.join(names)} missing from its result"]
        if self.remade:
            return [f"{_inputs(self.job, self.remade)} missing, to be made anew"]
        if self.comparison is None:
            return ["no result yet"]
        if not self.comparison.size:
            return ["its result is gone"]
        found = [str(change) for change in self.comparison.changes]
        found += ["data changed"] if self.comparison.data else []
        found += [f"code of {self.job.stage} changed"] if self.comparison.code else []
        return [*found, *self._upstream(self.comparison.inputs)]

    def _upstream(self, names: list[str]) -> list[str]:
        """Inputs that changed, by the stage that makes them."""
        if self.job.stage == "report":
            return _reported(names)
        makers: dict[str, list[str]] = {}
        for name in names:
            makers.setdefault(_maker(self.job, name), []).append(name)
        made = {stage: f"{stage} runs" if stage in self.due else f"another {stage}" for stage in makers}
        made |= {"": "no longer read"}
        return [f"{_inputs(self.job, of)} changed ({made[stage]})" for stage, of in makers.items()]

    def _checkpoint(self) -> list[str]:
        if self.checkpoint is None:
            return []
        done, epochs = self.checkpoint
        return [f"interrupted: a checkpoint at epoch {done} of {epochs} is there"]


def _reported(names: list[str]) -> list[str]:
    """Which of the report's inputs changed; they are named stage/run/file."""
    stages = [stage for stage in STAGES if any(name.startswith(f"{stage}/") for name in names)]
    runs = {tuple(name.split("/")[1:-1]) for name in names if not name.startswith("split/")}
    behind = f" of {len(runs)} run{'s' * (len(runs) != 1)}" if runs else ""
    return [f"results changed: {', '.join(stages)}{behind}"] if names else []


def _maker(job: Job, name: str) -> str:
    """The stage that makes an input; nothing for one that an earlier result had."""
    return Path(job.inputs[name]).parts[1] if name in job.inputs else ""


def _inputs(job: Job, names: list[str]) -> str:
    return f"input{'s' * (len(names) > 1)} {', '.join(names)}"


def reasons(jobs: list[Job], params: Params, past: Past) -> list[Reason]:
    """For each of the jobs that would run, why."""
    stages = {job.directory: job.stage for job in jobs}
    found = []
    for job in jobs:
        there = any(Path(path).exists() for path in job.outputs)
        missing = [str(Path(p).relative_to(job.directory)) for p in job.outputs if not Path(p).exists()]
        nearest = past.nearest(job, params)
        found.append(
            Reason(
                job,
                missing=missing if there else [],
                remade=[] if missing else [n for n, path in job.inputs.items() if not Path(path).exists()],
                against=nearest[0] if nearest else None,
                comparison=nearest[1] if nearest else None,
                checkpoint=checkpoint(job),
                due=frozenset(
                    stages[Path(path).parent] for path in job.inputs.values() if Path(path).parent in stages
                ),
            )
        )
    return found


def epochs(job: Job) -> int:
    """The epochs that a job trains for, a classifier's own after the others; 0 where it trains nothing."""
    sizes = job.params.get(job.stage, {})
    return int(sizes.get("epochs", 0)) + int((sizes.get("classifier") or {}).get("epochs", 0))


def checkpoint(job: Job) -> tuple[int, int] | None:
    """(epochs done, epochs in all) of a job's checkpoint, None without a sound one."""
    try:
        return (int(read_facts(job.checkpoint)["epoch"]), epochs(job)) if job.checkpoint.is_file() else None
    except (Failure, KeyError):
        return None


# --- folding ------------------------------------------------------------------------------------------


def fold(found: Iterable[Reason]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """(stage, words) -> the runs of which both hold, stage after stage."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for reason in sorted(found, key=lambda reason: STAGES.index(reason.job.stage)):
        groups.setdefault((reason.job.stage, tuple(reason.words())), []).append(reason.job.run)
    return groups


def abbreviate(runs: Iterable[str]) -> str:
    """Runs in a shell's spelling: `digits_lt/{darts,hlrs}/{0..4}`; a data set's name or `all` as it is.

    Retrainings but the first stand behind their searches: `digits_lt/darts/{0..4}-{1,2}`.
    """
    plain: list[str] = []
    seeds: dict[tuple[str, str, int], list[int]] = {}
    for run in runs:
        dataset, *rest = run.split("/")
        if rest:
            seed, again = seeds_of(run)
            seeds.setdefault((dataset, rest[0], again), []).append(seed)
        else:
            plain.append(dataset)
    repeats: dict[tuple[str, str, str, bool], list[int]] = {}
    for (dataset, method, again), numbers in seeds.items():
        repeats.setdefault((dataset, method, _range(sorted(numbers)), again > 0), []).append(again)
    methods: dict[tuple[str, str], list[str]] = {}
    for (dataset, method, numbered, behind), numbers in repeats.items():
        spelled = f"{numbered}-{_range(sorted(numbers))}" if behind else numbered
        methods.setdefault((dataset, spelled), []).append(method)
    datasets: dict[tuple[str, str], list[str]] = {}
    for (dataset, numbered), names in methods.items():
        datasets.setdefault((_braces(names), numbered), []).append(dataset)
    return ", ".join([*plain, *("/".join((_braces(names), *rest)) for rest, names in datasets.items())])


def _braces(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{','.join(names)}}}"


def _range(seeds: list[int]) -> str:
    """0, {0,1}, {0..9}, {0..3,7}."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    spelled = [f"{part[0]}..{part[-1]}" if len(part) > 2 else ",".join(map(str, part)) for part in parts]
    text = ",".join(spelled)
    return text if len(seeds) == 1 else f"{{{text}}}"
