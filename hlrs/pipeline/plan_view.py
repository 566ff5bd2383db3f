"""The output of `hlrs plan`: due jobs, reasons and estimates, as text or JSON."""

import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from hlrs.artifacts.code_digest import changed, here
from hlrs.artifacts.jobs import STAGES, Job, ResultPath, abbreviate
from hlrs.artifacts.records import Record
from hlrs.config.jobs import parse
from hlrs.config.methods import Implant, Trained
from hlrs.config.params import Params
from hlrs.config.recipes import RetrainedClassifier
from hlrs.errors import UserError
from hlrs.pipeline import plan
from hlrs.pipeline.cost_probe import MEMORY, Calibration
from hlrs.pipeline.costs import Estimate, Forecast
from hlrs.pipeline.reasons import Reason, fold, reasons
from hlrs.provenance.differences import Comparison, Past, code_of, definitions_of
from hlrs.provenance.lineage_view import compared

WIDEST = 110  # columns
MOST = 6  # reasons per line
IDLE = 0.1  # share of a measurement's time without a free core that is not worth a remark
MEASURED = ("measured", "remembered")
ALONE = "Measurements cover training only, not imports or reading images."
GUESSED = "A retraining whose search is not finished is measured with a random genotype."
BUSY = (
    "Too few cores were free during a measurement: the training waited up to {waited:.0%} of its time for "
    "one, and takes less on an idle machine. Delete {memory} to measure again."
)
ELSEWHERE = (
    "CPU-hours measured here do not predict a cluster's GPU-hours; "
    "measure those with `srun --gpus=1 hlrs plan`."
)


class Outlook:
    """The due jobs of a plan; `say` receives a line before each slow step."""

    def __init__(self, jobs: list[Job], params: Params, say: Callable[[str], None]) -> None:
        past = Past()
        self.total = len(jobs)
        self.reasons = reasons(plan.due(jobs), params, past)
        self.forecast = Forecast(past, Calibration(jobs, say))

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        estimates = [self.forecast.of(reason.job) for reason in self.reasons]
        return {
            "jobs": self.total,
            "due": [_facts(*pair) for pair in zip(self.reasons, estimates, strict=True)],
            "gpu_hours": sum(e.hours for e in estimates if e.gpu),
            "cpu_hours": sum(e.hours for e in estimates if not e.gpu),
            "saved_gpu_hours": sum(e.saved for e in estimates if e.gpu),
            "saved_cpu_hours": sum(e.saved for e in estimates if not e.gpu),
            "not_estimated": sum(e.how == "unknown" for e in estimates),
        }

    def lines(self) -> Iterator[str]:
        """Yield the text line by line; reasons come before anything is measured."""
        if not self.reasons:
            yield f"None of {self.total} jobs would run: the report of these parameters is complete."
            return
        count = f"{len(self.reasons)} of {self.total} jobs"
        yield f"{count} would run. Reasons, compared with the nearest existing result:"
        yield ""
        for (stage, words), runs in fold(self.reasons).items():
            yield from _entry(f"{_head(stage, len(runs))}  ", f"{abbreviate(runs)}: {_join(words)}")
        yield ""
        yield from _estimate([self.forecast.of(reason.job) for reason in self.reasons])


def _facts(reason: Reason, estimate: Estimate) -> dict[str, Any]:
    job, comparison = reason.job, reason.comparison
    known = estimate.how != "unknown"
    return {
        "stage": job.stage,
        "run": job.run,
        "key": job.key,
        "why": reason.words(),
        "nearest": reason.against.key if reason.against else None,
        "differs": asdict(comparison) if comparison else None,
        "missing": reason.missing,
        "checkpoint": reason.checkpoint,
        "estimate": {
            "basis": estimate.how,
            "device": estimate.device or None,
            "unit": ("GPU-hours" if estimate.gpu else "CPU-hours") if known else None,
            "hours": estimate.hours if known else None,
            "saved": estimate.saved if known else None,
            "seconds": estimate.seconds if known else None,
            "reason": estimate.why or None,
            "waited": estimate.waited if estimate.how in MEASURED else None,
        },
    }


def _join(words: tuple[str, ...]) -> str:
    shown = words if len(words) <= MOST else (*words[:MOST], f"{len(words) - MOST} more (see --json)")
    return "; ".join(shown)


def _entry(head: str, text: str) -> Iterator[str]:
    """Wrap a paragraph beside a head, at the terminal's width."""
    width = max(min(shutil.get_terminal_size().columns, WIDEST), len(head) + 30)
    yield from textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _estimate(estimates: list[Estimate]) -> Iterator[str]:
    known = [estimate for estimate in estimates if estimate.how != "unknown"]
    yield "Estimate: per job, in total, and its source"
    yield ""
    for (stage, basis), alike in _alike(known).items():
        mean = duration(sum(estimate.seconds for estimate in alike) / len(alike))
        yield from _entry(f"{_head(stage, len(alike))}  {mean:>12}  {_sum(alike):>17}  ", basis)
    unknown: dict[str, list[str]] = {}
    for estimate in estimates:
        if estimate.how == "unknown":
            unknown.setdefault(estimate.why, []).append(estimate.job.stage)
    for why, stages in unknown.items():
        text = f"not estimated: {', '.join(dict.fromkeys(stages))} ({why})"
        yield from _entry(f"{_head('', len(stages))}  ", text)
    for part in _by_device(known):
        without = "  excluding jobs not estimated" if unknown else ""
        yield f"{_head('total', len(part))}  {'':12}  {_sum(part):>17}{without}"
    for part in _by_device([estimate for estimate in known if estimate.saved]):
        saved = _hours(sum(estimate.saved for estimate in part), part[0].gpu)
        yield f"{_head('saved', len(part))}  {'':12}  {saved:>17}  by existing checkpoints"
    yield from _remarks(known)


def _head(name: str, jobs: int) -> str:
    return f"  {name:8} {jobs:4}"


def _remarks(known: list[Estimate]) -> Iterator[str]:
    """Yield remarks on how to read measurements."""
    remarks = []
    measured = [estimate for estimate in known if estimate.how in MEASURED]
    if measured:
        remarks.append(ALONE)
    if any(estimate.guessed for estimate in measured):
        remarks.append(GUESSED)
    waited = max((estimate.waited for estimate in measured), default=0.0)
    if waited > IDLE:
        remarks.append(BUSY.format(waited=waited, memory=MEMORY))
    if not all(estimate.gpu for estimate in measured):
        remarks.append(ELSEWHERE)
    if remarks:
        yield ""
        yield from (line for remark in remarks for line in _entry("", remark))


def _alike(estimates: list[Estimate]) -> dict[tuple[str, str], list[Estimate]]:
    """Group estimates by stage and source."""
    groups: dict[tuple[str, ...], list[Estimate]] = {}
    for e in sorted(estimates, key=lambda estimate: STAGES.index(estimate.job.stage)):
        groups.setdefault((e.job.stage, e.how, e.device, e.date), []).append(e)
    return {(stage, _basis(alike)): alike for (stage, *_), alike in groups.items()}


def _basis(alike: list[Estimate]) -> str:
    first, sources = alike[0], {source for estimate in alike for source in estimate.sources}
    if first.how == "records":
        return f"from {len(sources)} record{'s' * (len(sources) > 1)} on {first.device}"
    steps = sum({estimate.sources: estimate.steps for estimate in alike}.values())
    when = "now" if first.how == "measured" else first.date
    here = "this machine's " if first.how == "measured" else ""
    return f"measured {when}: {steps} step{'s' * (steps > 1)} on {here}{first.device}"


def _by_device(estimates: list[Estimate]) -> list[list[Estimate]]:
    """Split into GPU-hours and CPU-hours, leaving out empty parts."""
    parts = [[e for e in estimates if e.gpu], [e for e in estimates if not e.gpu]]
    return [part for part in parts if part]


def _sum(estimates: list[Estimate]) -> str:
    return _hours(sum(estimate.hours for estimate in estimates), estimates[0].gpu)


def _hours(hours: float, gpu: bool) -> str:
    """Format hours with two digits, or as whole hours from 10."""
    number = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
    return f"{number if hours >= 0.001 else '< 0.001'} {'GPU' if gpu else 'CPU'}-hours"


def duration(seconds: float) -> str:
    """Format seconds as hours and minutes, minutes and seconds, or seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def missing_controls(params: Params) -> Iterator[str]:
    """Yield one line per trained network on which the matrix implants cells without a control of them.

    Of what the cells gain, longer training may give as much, or any cell, or another classifier alone.
    """
    searchers = {name: params.methods[name].searcher for name in params.matrix.methods}
    implants = {name: searcher for name, searcher in searchers.items() if isinstance(searcher, Implant)}
    for method in dict.fromkeys(implant.method for implant in implants.values()):
        own = {name: implant for name, implant in implants.items() if implant.method == method}
        epochs = max(params.retrain_of(name).epochs for name in own)
        trained = [
            params.retrain_of(name)
            for name, searcher in searchers.items()
            if isinstance(searcher, Trained) and searcher.method == method
        ]
        controls = {
            f"{epochs} more epochs of it (searcher trained)": any(r.epochs >= epochs for r in trained),
            "a random cell (searcher implant, cell random)": any(i.cell == "random" for i in own.values()),
            "its classifier retrained alone (searcher trained, epochs 0, classifier retrained)": any(
                not r.epochs and isinstance(r.classifier, RetrainedClassifier) for r in trained
            ),
        }
        if missing := [control for control, there in controls.items() if not there]:
            yield f"cells on the network of {method} lack a control in the matrix: {'; '.join(missing)}"


def why(run: str, jobs: list[Job], params: Params, width: int) -> Iterator[str]:
    """For every job of a run, report whether its result exists or how it differs from the nearest one.

    `run`: data set/method/seed, its retraining with another seed (data set/method/seed-3), a data set (its
    split) or `all` (the report). UserError for any other name.
    """
    asked = [job for job in jobs if job.run == run]
    if not asked:
        runs = ", ".join(dict.fromkeys(job.run for job in jobs))
        raise UserError(f"{run}: not a run of the params; choose from: {runs}")
    past = Past()
    due = {reason.job.key: reason for reason in reasons(plan.due(jobs), params, past)}
    for job in sorted(asked, key=lambda job: STAGES.index(job.stage)):
        if job.key not in due:
            yield f"{job.stage:9}{job.key} exists; nothing to run"
            continue
        yield f"{job.stage:9}{job.key} would run"
        nearest = past.nearest(job, params) or past.nearest_of_stage(job, params)
        lines = [*_against(job, *nearest)] if nearest else ["no result of its stage to compare with"]
        if nearest and not nearest[1].size:
            lines = due[job.key].words()
        for line in lines:
            yield from textwrap.wrap(
                line, width, initial_indent=" " * 9, subsequent_indent=" " * 11, break_on_hyphens=False
            )


def _against(job: Job, record: Record, comparison: Comparison) -> Iterator[str]:
    """Yield the differences of a job from an earlier result, one per line."""
    other = "" if record.run == job.run else f" of {record.run}"
    yield f"nearest: {record.key}{other}, finished {record.ended[:16].replace('T', ' ')} UTC; differences:"
    code = code_of(record) if comparison.code else None
    definitions: list[str] = []
    if code:
        now = here().definitions(job.stage, parse(job.stage, job.params))
        definitions = changed(definitions_of(code, record), now)
    yield from compared(comparison, definitions)
    inputs = record.job.inputs
    moves: dict[str, list[str]] = {}
    for name in comparison.inputs:
        old, new = (_result(of.get(name)) for of in (inputs, job.inputs))
        moves.setdefault(f"{old} -> {new}", []).append(name)
    for move, names in moves.items():
        yield f"input{'s' * (len(names) > 1)} {', '.join(names)}: {move}"


def _result(path: str | None) -> str:
    """'search 01ef882facde' of an input's path."""
    if path is None:
        return "none"
    place = ResultPath.parse(path)
    return f"{place.stage} {place.key}"
