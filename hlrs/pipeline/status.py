"""The output of `hlrs status`: what runs, what failed, what waits, the time left."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hlrs.artifacts.jobs import STAGES, Job, abbreviate
from hlrs.errors import UserError
from hlrs.pipeline import plan, slurm_commands
from hlrs.pipeline.cost_probe import Calibration, Measurement, signature
from hlrs.pipeline.costs import Estimate, Forecast
from hlrs.pipeline.locks import RUN, Holder, holder_of, leased, on_one_line, read
from hlrs.pipeline.plan_view import duration
from hlrs.pipeline.reasons import checkpoint, epochs
from hlrs.pipeline.slurm import BEGINS, Queued, queued, remedy
from hlrs.provenance.differences import Past

TAIL = 65_536  # bytes of a log that are read
EPOCH = re.compile(r"  epoch (\d+)/(\d+)(?:, step (\d+)/(\d+))?  ")
SHOWN = re.compile(r"phase .+|\w*loss .+|\w*accuracy .+|.+ images/s|.+ left")
LEFT = re.compile(r"(?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s )?left$")
INTERRUPTED = re.compile(r"interrupted( by SIG\w+; |$)")

What = Literal["done", "running", "failed", "stopped", "waiting", "gone"]
ENDED = ("done", "failed", "gone")
QUEUE_SECONDS = 10.0


@dataclass(frozen=True)
class State:
    """What a job does, its log's last word, the share of its epochs that is done, and who runs it.

    `reason`: why it waits in SLURM's queue; empty if it does not.
    """

    job: Job
    what: What
    says: str = ""
    share: float = 0.0
    by: str = ""
    reason: str = ""

    @property
    def whole(self) -> float:
        """The seconds that all epochs take, by what its log says is left; 0 if it says nothing yet."""
        found = LEFT.search(self.says)
        if found is None or self.share == 1:
            return 0.0
        hours, minutes, seconds = (int(number or 0) for number in found.groups())
        return (3600 * hours + 60 * minutes + seconds) / (1 - self.share)


def survey(jobs: list[Job], queue: list[Queued] | None = None) -> list[State]:
    """Find out what each job of a plan does, from leases, logs, results and SLURM's queue; upstream first.

    `queue`: None if SLURM did not answer.
    """
    missing = {job.key for job in jobs if not job.complete}
    due = {job.key for job in plan.due(jobs)}
    states = [state_of(job) if job.key in due else _not_due(job) for job in jobs]
    found = [_ended(state) if state.job.key in missing else state for state in states]
    if queue is None:
        return found
    pending = {job.key: job for job in queue if job.state == "PENDING"}
    submitted = {id_ for id_, _ in slurm_commands.submissions(Path.cwd())}
    ended = submitted - {job.id for job in queue if job.state != "PENDING"}
    held = [_at_rest(state.job) if _lost(state, ended) else state for state in found]
    return [_in_queue(state, pending.get(state.job.key)) for state in held]


def in_queue(jobs: list[Job]) -> list[Queued] | None:
    """List the jobs that are in SLURM's queue; None if it does not answer within `QUEUE_SECONDS`."""
    return queued((job.key for job in jobs), QUEUE_SECONDS)


def _lost(state: State, ended: set[str]) -> bool:
    """Whether a job's lease is that of a SLURM job which has ended, on a node that nothing here can ask."""
    holder = holder_of(state.job.key) if state.what == "running" else None
    return holder is not None and holder.lives() is None and holder.slurm_job in ended


def _in_queue(state: State, job: Queued | None) -> State:
    """Return the state of a job that may be in the queue, whatever its log says of an earlier run."""
    if job is None or state.what in ("running", "done"):
        return state
    says = state.says if state.what == "stopped" else ""
    reason = "not considered yet" if job.reason == "None" else job.reason
    return replace(state, what="waiting", says=says, by=f"SLURM job {job.id}", reason=reason)


def _ended(state: State) -> State:
    """Return the state of a job that had no result; it may have ended since, and nobody is at it."""
    return State(state.job, "done") if state.what != "running" and state.job.complete else state


def _not_due(job: Job) -> State:
    """Find out what a job does that Snakemake would not run: what no due job reads may have been deleted."""
    if job.complete:
        return State(job, "done")
    state = state_of(job)
    return replace(state, what="gone") if state.what == "waiting" else state


def state_of(job: Job) -> State:
    """Find out what a job does whose result is not there."""
    if leased(job.key):  # before the log: one that ends now has said why
        return State(job, "running", *_progress(job, _log(job)), str(holder_of(job.key) or ""))
    return _at_rest(job)


def _at_rest(job: Job) -> State:
    """Find out how a job ended that nobody is at, or that it waits."""
    log = _log(job)
    last = log[-1] if log else ""
    if last.startswith("hlrs: ") and not INTERRUPTED.search(last):
        return State(job, "failed", last.removeprefix("hlrs: ").removeprefix(f"{job.run}: "))
    return State(job, "stopped", *_progress(job, log)) if job.checkpoint.exists() else State(job, "waiting")


def says_why(job: Job) -> bool:
    """Whether the log of a job that ended names the reason."""
    return "".join(_log(job)[-1:]).startswith("hlrs: ")


def _log(job: Job) -> list[str]:
    """Read the last lines of a job's log that its last process wrote; none if there is no log."""
    try:
        with job.log.open("rb") as file:
            file.seek(max(0, job.log.stat().st_size - TAIL))
            text = file.read(TAIL).decode(errors="replace")
    except OSError:
        return []
    return [on_one_line(line) for line in BEGINS.split(text)[-1].splitlines() if line]


def _progress(job: Job, log: list[str]) -> tuple[str, float]:
    """Shorten the last line of an epoch, 'epoch 3/15, loss 1.2, …, 40 s left'; return the share done, too."""
    for line in reversed(log):
        if found := EPOCH.search(line):
            epoch, epochs_in_all, step, steps = (int(number or 0) for number in found.groups())
            done = epoch - 1 + step / steps if steps else epoch
            shown = [found[0].strip(), *filter(SHOWN.fullmatch, line.split("  "))]
            return ", ".join(shown), done / epochs_in_all
    # the log of a stage that was run by hand is its terminal
    done, epochs_in_all = checkpoint(job) or (0, epochs(job))
    if done and epochs_in_all:
        return f"epoch {done}/{epochs_in_all}", done / epochs_in_all
    return "in its first epoch" if epochs_in_all else "", 0.0


# --- the time left ------------------------------------------------------------------------------------


class Recalled(Calibration):
    """Knows what was measured before, and measures nothing."""

    def throughput(self, job: Job) -> Measurement:
        """Return the saved throughput of a training; UserError without any."""
        known = self.remembered(job)
        if known is None:
            raise UserError("not measured yet")
        return known


def estimates(states: list[State]) -> list[Estimate]:
    """Estimate what the jobs that are to be done will take.

    From records and earlier measurements, else from the logs of trainings of the same parameters that run
    or were stopped.
    """
    forecast = Forecast(Past(), Recalled([state.job for state in states], lambda text: None))
    started = [*_of(states, "running"), *_of(states, "stopped")]
    wholes = {_kind(state.job): state.whole for state in reversed(started) if state.whole}
    found = []
    for state in states:
        if state.what not in ENDED:
            estimate = forecast.of(state.job)
            if estimate.how == "unknown" and _kind(state.job) in wholes:
                estimate = Estimate(state.job, "running", training=wholes[_kind(state.job)])
            found.append(replace(estimate, done=max(estimate.done, state.share)))
    return found


def _kind(job: Job) -> tuple[str, str]:
    """Return what the jobs share that cost the same but for seeds and draws."""
    return job.stage, signature(job.params)


# --- text and JSON ------------------------------------------------------------------------------------


def facts(states: list[State]) -> dict[str, Any]:
    """Return everything as JSON values; `seconds_left` of one job at a time, null if no job's are known."""
    found = estimates(states)
    known = [estimate.seconds for estimate in found if estimate.how != "unknown"]
    return {
        "jobs": _counts(states),
        "workflow": _workflow(),
        "seconds_left": sum(known) if known or not found else None,
        "not_estimated": sum(estimate.how == "unknown" for estimate in found),
        "states": [
            {
                "stage": state.job.stage,
                "run": state.job.run,
                "key": state.job.key,
                "state": state.what,
                "says": state.says,
                "by": state.by,
                "reason": state.reason,
                "log": str(state.job.log),
            }
            for state in states
        ],
    }


def lines(states: list[State]) -> Iterator[str]:
    """Yield the text line by line."""
    yield _sizes(states)
    yield _workflow() or "no snakemake runs in this folder"
    yield from _ahead(states)
    for what in ("running", "stopped", "failed"):
        found = _of(states, what)
        if found:
            yield ""
        for state in found:
            yield line(state)
            if what == "failed":
                yield f"{'':20}{state.job.log}"
            elif state.by:
                yield f"{'':20}{state.by}"
    if groups := waiting(states):
        yield ""
    yield from groups.values()
    gone = _of(states, "gone")
    if gone:
        yield ""
    for stage in dict.fromkeys(state.job.stage for state in gone):
        deleted = abbreviate(state.job.run for state in gone if state.job.stage == stage)
        again = f"no due job reads it; `snakemake --cores all {stage}_all` makes it again"
        yield f"gone      {stage:8}  {deleted}  {again}"


def waiting(states: list[State]) -> dict[tuple[str, str], str]:
    """Return a line on the jobs of each stage that wait for one reason; for "" outside of SLURM's queue."""
    runs: dict[tuple[str, str], list[str]] = {}
    for state in _of(states, "waiting"):
        runs.setdefault((state.job.stage, state.reason), []).append(state.job.run)
    return {
        (stage, reason): "  ".join([f"waiting   {stage:8}", abbreviate(runs[stage, reason]), *_why(reason)])
        for stage, reason in sorted(runs, key=lambda group: (STAGES.index(group[0]), group[1]))
    }


def _why(reason: str) -> list[str]:
    return [text for text in (f"in SLURM's queue: {reason}", remedy(reason)) if reason and text]


def line(state: State) -> str:
    """Return what a job does in one line."""
    return f"{state.what:8}  {state.job.stage:8}  {state.job.run}  {state.says}".rstrip()


def summary(states: list[State]) -> str:
    """Return the counts of jobs and the time left in one line."""
    return "; ".join([_sizes(states), *_ahead(states)])


def _sizes(states: list[State]) -> str:
    counts = _counts(states)
    return f"{len(states)} jobs: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}"


def _ahead(states: list[State]) -> Iterator[str]:
    """Yield the time left, if anything is to be done."""
    counts = _counts(states)
    if sum(counts[what] for what in ENDED) < len(states):
        yield _left(estimates(states), counts["running"])


def _counts(states: list[State]) -> dict[str, int]:
    return {what: len(_of(states, what)) for what in get_args(What)}


def _of(states: Iterable[State], what: str) -> list[State]:
    return [state for state in states if state.what == what]


def _workflow() -> str:
    """Name the snakemake that runs in this folder, '' if none does."""
    holder = Holder.of(read(RUN))
    if holder is None or holder.lives() is False:
        return ""
    since = f", since {holder.since:%Y-%m-%d %H:%M}" if holder.since else ""
    return f"{holder.command or 'snakemake'} ({holder}{since})"


def _left(found: list[Estimate], running: int) -> str:
    """Say how long everything takes with as many jobs at a time as run now."""
    unknown = sum(estimate.how == "unknown" for estimate in found)
    seconds = sum(estimate.seconds for estimate in found) / max(1, running)
    pace = "one job at a time" if running < 2 else f"{running} jobs at a time"
    if unknown == len(found):
        return "time left: not known yet; `hlrs plan` measures it"
    if unknown:
        missing = f"{unknown} of {len(found)} jobs not estimated yet"
        return f"time left: at least {duration(seconds)} with {pace}, {missing}"
    return f"time left: about {duration(seconds)} with {pace}"
