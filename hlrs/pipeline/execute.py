"""Run a job: check its code, data and inputs against the plan, run its stage, write its record last.

Its last saved state stays until its result is accepted (`plan.discard_states`).
"""

import functools
import importlib.metadata
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from hlrs.artifacts.code_digest import code_digest
from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, Job, ResultPath
from hlrs.artifacts.records import Record, recorded, trusted
from hlrs.config.jobs import parse
from hlrs.errors import Interrupted, UserError
from hlrs.pipeline import gpus, slurm
from hlrs.pipeline.environment import here, peak_memory
from hlrs.pipeline.locks import lease
from hlrs.pipeline.preflight import check_data, check_disk
from hlrs.pipeline.tracking import tracked
from hlrs.training.startup import called


def execute(job: Job, *, logged: bool = False) -> None:
    """Run a job. UserError if its code, data or inputs have changed since it was planned.

    If another process is computing the same result, wait for it and keep its result. `logged`: stderr goes to
    the job's log, in which the part of each process has a beginning.
    """
    check(job)
    if logged:
        slurm.begin(job)
    with _requeued_on_warning(job), lease(job) as waited:
        if not (waited and current(job)):
            _run(job)


@contextmanager
def _requeued_on_warning(job: Job) -> Iterator[None]:
    """On SLURM's warning signal, raise Interrupted in the body and requeue the job."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(
            f"{job.run}: interrupted by {slurm.WARNING.name}; rerun to resume", slurm.WARNING.name
        )

    before = signal.signal(slurm.WARNING, stop)  # the training loop replaces it while it runs
    try:
        yield
    except Interrupted as stopped:
        signal.signal(slurm.WARNING, signal.SIG_IGN)  # it may be repeated (slurm.serve_job)
        if stopped.signal == slurm.WARNING.name:
            slurm.request_requeue()
        raise
    finally:
        signal.signal(slurm.WARNING, before)


def _run(job: Job) -> None:
    """Run a job's stage and write its record."""
    on_record = functools.cache(recorded)
    inputs = {name: {"path": path, "sha256": trusted(path, on_record)} for name, path in job.inputs.items()}
    for stale in job.directory.rglob(".*.tmp"):  # of a run that was killed while writing
        stale.unlink()
    job.output(PROVENANCE).unlink(missing_ok=True)  # a kill must not leave it beside new artifacts
    started, clock = datetime.now(UTC), time.monotonic()
    if job.stage in gpus.GPU_STAGES:
        gpus.take_one()
    stage = importlib.import_module(f"hlrs.stages.{job.stage}")
    called()
    with tracked(job):
        facts = stage.run(job)
    body = {
        "key": job.key,
        "stage": job.stage,
        "run": job.run,
        "params": job.params,
        "code": job.code,
        "inputs": inputs,
        "outputs": {name: sha256(job.output(name)) for name in OUTPUTS[job.stage]},
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "peak_memory_bytes": peak_memory(),
        **here(facts.get("device", "cpu")),
        **facts,
    }
    Record.sealed(body).write(job.output(PROVENANCE))


def check(job: Job) -> None:
    """Raise UserError if code, inputs or data have changed since the plan, or the disk is full."""
    if not _is_planned_code(job):
        raise UserError(
            f"{job.run}: the code of {job.stage} changed since this job was planned; rerun snakemake"
        )
    for path in job.inputs.values():
        made = ResultPath.parse(path)
        if not Path(path).is_file():
            command = f"`hlrs {made.stage} {made.run}` or `snakemake {made.stage}_all`"
            raise UserError(f"{path}: missing; {command} builds it")
    check_disk()
    check_data(job)


def _is_planned_code(job: Job) -> bool:
    try:
        return code_digest(job.stage, parse(job.stage, job.params)) == job.code
    except ValidationError:  # params of another version
        return False


def current(job: Job) -> bool:
    """Return whether the job's results exist and match the digests in its record."""
    if not job.complete:
        return False
    record = Record.read(job.output(PROVENANCE))
    return record.result == job.result and not record.differing()
