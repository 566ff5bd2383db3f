"""What a run's keys differ in from the nearest results that exist: parameter, function, input; in words."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from hlrs import plan
from hlrs.artifacts import Job
from hlrs.code import changed, here
from hlrs.config import Params
from hlrs.errors import UserError
from hlrs.lineage import code_of, directory_of
from hlrs.pedigree import code_words
from hlrs.reasons import STAGES, Comparison, Past, Record, reasons


def why(run: str, jobs: list[Job], params: Params, width: int) -> Iterator[str]:
    """For every job of a run, whether its result is here, or what sets it apart from the nearest one.

    `run`: data set/method/seed, its retraining with another seed (data set/method/seed-3), a data set (its
    split) or `all` (the report). UserError for another.
    """
    asked = [job for job in jobs if job.run == run]
    if not asked:
        runs = ", ".join(dict.fromkeys(job.run for job in jobs))
        raise UserError(f"{run}: no run of the params; there are: {runs}")
    past = Past()
    due = {reason.job.key: reason for reason in reasons(plan.due(jobs), params, past)}
    for job in sorted(asked, key=lambda job: STAGES.index(job.stage)):
        if job.key not in due:
            yield f"{job.stage:9}{job.key} is here; nothing to run"
            continue
        yield f"{job.stage:9}{job.key} would run"
        nearest = past.nearest(job, params) or past.nearest_of_stage(job, params)
        lines = [*_against(job, *nearest)] if nearest else ["there is no result of its stage to compare with"]
        if nearest and not nearest[1].size:
            lines = due[job.key].words()
        for line in lines:
            yield from textwrap.wrap(
                line, width, initial_indent=" " * 9, subsequent_indent=" " * 11, break_on_hyphens=False
            )


def _against(job: Job, record: Record, comparison: Comparison) -> Iterator[str]:
    """The differences of a job to an earlier result, one a line."""
    other = "" if record["run"] == job.run else f" of {record['run']}"
    when = str(record["ended"])[:16].replace("T", " ")
    yield f"nearest: {record['key']}{other}, made {when} UTC; what differs:"
    yield from map(str, comparison.changes)
    if comparison.data:
        yield "data files: other bytes"
    if comparison.code:
        code = code_of(job.stage, record)
        now = here().definitions(job.stage)
        yield code_words(changed(code.definitions(job.stage), now) if code else [])
    inputs = {name: entry["path"] for name, entry in record["inputs"].items()}
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
    folder = Path(directory_of(path))
    return f"{folder.parts[1]} {folder.name}"
