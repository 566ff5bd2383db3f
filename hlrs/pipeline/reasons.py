"""Explain why a job would run: compare its spec with the nearest earlier result's."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hlrs.artifacts.jobs import STAGES, Job, ResultPath
from hlrs.artifacts.records import Record
from hlrs.artifacts.tensors import read_facts
from hlrs.config.params import Params
from hlrs.errors import Failure
from hlrs.pipeline.cost_probe import batches
from hlrs.pipeline.locks import leased
from hlrs.provenance.differences import Comparison, Past


@dataclass(frozen=True)
class Reason:
    """Why one job would run."""

    job: Job
    missing: list[str]  # files missing from an otherwise existing result
    remade: list[str]  # missing inputs that force an existing result to be rebuilt
    against: Record | None  # the nearest earlier result's record
    comparison: Comparison | None
    checkpoint: tuple[int, int] | None  # (epochs done, epochs in total)
    due: frozenset[str]  # the stages of its inputs that run before it
    running: bool  # a process is at it

    def words(self) -> list[str]:
        """Return the reasons in a few words each, without the run's name, so that runs can be grouped."""
        return [*self._result(), *self._checkpoint()]

    def _result(self) -> list[str]:
        if self.missing:
            names = self.missing if len(self.missing) < 4 else [*self.missing[:3], "…"]
            return [f"{', '.join(names)} missing from its result"]
        if self.remade:
            return [f"{_inputs(self.job, self.remade)} missing, will be rebuilt"]
        if self.comparison is None:
            return ["no result yet"]
        if not self.comparison.size:
            return ["its result is gone"]
        found = [str(change) for change in self.comparison.changes]
        found += ["data changed"] if self.comparison.data else []
        found += [f"code of {self.job.stage} changed"] if self.comparison.code else []
        return [*found, *self._upstream(self.comparison.inputs)]

    def _upstream(self, names: list[str]) -> list[str]:
        """Group changed inputs by the stage that produces them, "" if only the earlier result had them."""
        if self.job.stage == "report":
            return _reported(names)
        makers: dict[str, list[str]] = {}
        for name in names:
            maker = ResultPath.parse(self.job.inputs[name]).stage if name in self.job.inputs else ""
            makers.setdefault(maker, []).append(name)
        made = {stage: f"{stage} runs" if stage in self.due else f"another {stage}" for stage in makers}
        made |= {"": "no longer read"}
        return [f"{_inputs(self.job, of)} changed ({made[stage]})" for stage, of in makers.items()]

    def _checkpoint(self) -> list[str]:
        if self.checkpoint is None:
            return ["runs now"] if self.running else []
        done, epochs = self.checkpoint
        after = f" after epoch {done}/{epochs}" if epochs else ""
        return [f"runs now, its state saved{after}" if self.running else f"interrupted: will resume{after}"]


def _reported(names: list[str]) -> list[str]:
    """Summarize the report's changed inputs, named stage/run/file."""
    stages = [stage for stage in STAGES if any(name.startswith(f"{stage}/") for name in names)]
    runs = {tuple(name.split("/")[1:-1]) for name in names if not name.startswith("split/")}
    behind = f" of {len(runs)} run{'s' * (len(runs) != 1)}" if runs else ""
    return [f"results changed: {', '.join(stages)}{behind}"] if names else []


def _inputs(job: Job, names: list[str]) -> str:
    return f"input{'s' * (len(names) > 1)} {', '.join(names)}"


def reasons(jobs: list[Job], params: Params, past: Past) -> list[Reason]:
    """Explain for each due job why it would run."""
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
                running=leased(job.key),
            )
        )
    return found


def epochs(job: Job) -> int:
    """Return a job's training epochs, those of a retrained classifier included; 0 if it trains nothing."""
    return len(batches(job)) if "epochs" in job.params.get(job.stage, {}) else 0


def checkpoint(job: Job) -> tuple[int, int] | None:
    """Return (epochs done, epochs in total) of a job's checkpoint, None without a valid one."""
    try:
        return (int(read_facts(job.checkpoint)["epoch"]), epochs(job)) if job.checkpoint.is_file() else None
    except (Failure, KeyError):
        return None


def fold(found: Iterable[Reason]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Group runs by (stage, reasons), in the order of stages."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for reason in sorted(found, key=lambda reason: STAGES.index(reason.job.stage)):
        groups.setdefault((reason.job.stage, tuple(reason.words())), []).append(reason.job.run)
    return groups
