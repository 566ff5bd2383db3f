"""What the Snakefile asks of Python: the plan in the main process, frozen specs in every process."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrs import config, plan
from hlrs.artifacts import Job
from hlrs.errors import HlrsError


@dataclass(frozen=True)
class Plan:
    """The jobs of the current params; none in a process that Snakemake starts for a job on a cluster."""

    jobs: list[Job]

    def targets(self, stage: str) -> list[str]:
        """The outputs of all jobs of a stage."""
        return [path for job in self.jobs if job.stage == stage for path in job.outputs]

    def publish(self) -> None:
        """Show the current params' report, if it was made, under report/."""
        plan.publish(self.jobs)


def start(settings: dict[str, Any], workflow: Any) -> Plan:
    """Validate the params and freeze the jobs' specs before anything runs.

    A mistake ends the process with one line on stderr and exit status 2.
    """
    if not workflow.is_main_process:
        return Plan([])
    try:
        unknown = set(settings) - {"params"}
        if unknown:
            raise HlrsError(f"--config {unknown.pop()}: unknown; allowed: params=FILE")
        jobs = plan.plan(config.load(Path(settings.get("params", "params.yaml"))))
        plan.freeze(jobs)
        plan.restore(jobs)
    except HlrsError as error:
        print(f"hlrs: {error}", file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(2) from None
    planned = Plan(jobs)
    if not workflow.dryrun:  # back at params that were run before: nothing to run, but a report to show
        planned.publish()
    return planned


def inputs(key: str) -> dict[str, str]:
    """The inputs of a job by name, from its frozen spec."""
    return plan.spec(key).inputs


def threads(key: str) -> int:
    """The threads that a job computes with, from its frozen spec: its bytes depend on them."""
    job = plan.spec(key)
    return int(job.params.get(job.stage, {}).get("threads", 1))
