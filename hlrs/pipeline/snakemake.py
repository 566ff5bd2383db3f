"""What the Snakefile asks of Python: the plan in the main process, frozen specs in every process."""

import functools
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.settings.types import DeploymentMethod

from hlrs.artifacts.jobs import Job
from hlrs.config.params import load
from hlrs.errors import HlrsError
from hlrs.pipeline import container, dvc_experiments, locks, plan, preflight, slurm

# SLURM's warning two minutes before the time limit (it may come up to a minute earlier), for a stage that
# saves its state and goes on in another allocation, whose output follows in the same log.
SLURM_EXTRA = f"--signal={slurm.WARNING.name.removeprefix('SIG')}@120 --open-mode=append"

ALLOWED = {"params": "FILE", "container": "FILE.sif", "time_limit": "MINUTES"}  # of --config
QUESTIONS = {  # options with which snakemake runs no job, and with which it does not wait for jobs either
    "--unlock", "--summary", "--detailed-summary", "--lint", "--list-rules", "--list-target-rules",
    "--list-untracked", "--dag", "--rulegraph", "--filegraph", "--d3dag", "--report", "--touch",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The jobs of the current params; none in a process that Snakemake starts for a job on a cluster."""

    jobs: list[Job]
    image: str | None  # the SIF that the rules run in
    started: float = field(default_factory=time.time)

    @property
    def python(self) -> str:
        """How a rule's command calls Python: this process's, or the image's without the host's settings."""
        return "python3 -E" if self.image else shlex.quote(sys.executable)

    def targets(self, stage: str) -> list[str]:
        """The outputs of all jobs of a stage."""
        return [path for job in self.jobs if job.stage == stage for path in job.outputs]

    def publish(self) -> None:
        """Show the current params' report, if it was made, under report/."""
        plan.publish(self.jobs)

    def fail(self) -> None:
        """Keep what was made, and say in a line each why jobs that were submitted to SLURM failed."""
        dvc_experiments.shelve(self.jobs, self.started)
        for line in slurm.failures(self.jobs, self.started):
            print(f"hlrs: {line}", file=sys.stderr)


def rest_between_jobs(workflow: Any) -> None:
    """Take away Snakemake's default limit of 100 jobs a second: keeping to it costs more than it saves.

    While jobs wait, its scheduler sets an alarm at every look, and every alarm is a look: one a second more
    with each job that ends (Snakemake 9.27, JobScheduler.schedule). After 500 jobs it took a third of a core.
    """
    limiter = workflow.scheduler.job_rate_limiter
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def start(settings: dict[str, Any], workflow: Any) -> Plan:
    """Validate the settings and params, claim the folder and freeze the jobs' specs before anything runs.

    A mistake, or another snakemake at work here, ends the process with one line on stderr and exit status 2.
    """
    executes = not workflow.output_settings.dryrun and not QUESTIONS.intersection(sys.argv)
    if not workflow.is_main_process:
        slurm.serve_job()
    try:
        unknown = set(settings) - ALLOWED.keys()
        if unknown:
            allowed = ", ".join(f"{name}={what}" for name, what in ALLOWED.items())
            raise HlrsError(f"--config {unknown.pop()}: unknown; allowed: {allowed}")
        image = container.image(
            str(settings["container"]) if "container" in settings else None,
            DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method,
        )
        if image:
            container.hand_in(image)
        if not workflow.is_main_process:
            return Plan([], image)
        limit = settings.get("time_limit", 1)
        if not isinstance(limit, int) or limit < 1:
            raise HlrsError(f"--config time_limit={limit}: not a number of minutes, 1 or more")
        jobs = plan.plan(load(Path(settings.get("params", "params.yaml"))))
        if "--unlock" in sys.argv:
            locks.unlock()
        elif executes and "--nolock" not in sys.argv:
            locks.claim()
        preflight.check_splits(jobs)
        plan.freeze(jobs)
        plan.restore(jobs)
        dvc_experiments.fetch(jobs)
    except HlrsError as error:
        print(f"hlrs: {error}", file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(2) from None
    if slurm.available():
        slurm.be_patient()
        locked = (
            any(locks.SNAKEMAKE_LOCKS.glob("*.lock")) and "--nolock" not in sys.argv
        )  # Snakemake is about to refuse
        slurm.wait_for_earlier(jobs, wait=executes and not locked)
    planned = Plan(jobs, image)
    if executes:  # back at params that were run before: nothing to run, but a report to show
        planned.publish()
    return planned


@functools.cache
def inputs(key: str) -> dict[str, str]:
    """The inputs of a job by name, from its frozen spec."""
    return plan.spec(key).inputs


def threads(key: str) -> int:
    """The cores that a job needs, from its frozen spec: its threads, and its loader's workers if it streams.

    The spec tells that for `resized_crop` and `above_mb: 0`; whether the images exceed another limit is known
    when they are read, so that the workers for those come on top of the cores that were asked for.
    """
    job = plan.spec(key)
    images = job.params.get("images", {})
    streams = images and (images["augment"]["resized_crop"] is not None or not images["stream"]["above_mb"])
    workers = images["stream"]["workers"] if streams else 0
    return int(job.params.get(job.stage, {}).get("threads", 1)) + int(workers)
