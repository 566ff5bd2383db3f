"""The Snakefile's interface: the plan in the main process, frozen specs in every process."""

import asyncio
import functools
import io
import os
import queue
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from snakemake.cli import ExecutorPluginRegistry, parse_args
from snakemake.settings.types import DeploymentMethod
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor

from hlrs.artifacts.jobs import PUBLISHED, Job
from hlrs.config.params import load
from hlrs.errors import UserError, in_one_line
from hlrs.pipeline import container, dvc_experiments, gpus, locks, memory, plan, preflight, slurm
from hlrs.pipeline.live import Live, show
from hlrs.pipeline.tracking import check_installed

ALLOWED = {"params": "FILE", "container": "FILE.sif", "time_limit": "MINUTES"}  # of --config
CLUSTERS = ("cluster", "clusters", "slurm_cluster")  # what the executor calls a job's cluster
QUESTIONS = {  # options with which snakemake neither runs jobs nor waits for them
    "--unlock", "--summary", "--detailed-summary", "--lint", "--list-rules", "--list-target-rules",
    "--list-untracked", "--dag", "--rulegraph", "--filegraph", "--d3dag", "--report", "--touch",
}  # fmt: skip


@dataclass
class Plan:
    """The jobs of the current params; empty in a process that Snakemake starts for a cluster job."""

    jobs: list[Job]
    image: str | None  # the SIF that the rules run in
    started: float = field(default_factory=time.time)
    live: Live | None = None
    slurm_logs: Path = slurm.LOGS

    @property
    def python(self) -> str:
        """The Python of a rule's command: this process's, or the image's without the host's settings."""
        if self.image:
            return "python3 -E"
        return shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")  # Snakemake formats it

    def targets(self, stage: str) -> list[str]:
        """The outputs of all jobs of a stage."""
        return [path for job in self.jobs if job.stage == stage for path in job.outputs]

    def publish(self) -> None:
        """Copy the current params' report, if complete, to report/."""
        plan.publish(self.jobs)

    def succeed(self) -> None:
        """Publish the report and say where it is, and warn if DVC would delete what is new."""
        plan.discard_states(self.jobs)
        if plan.publish(self.jobs):
            print(f"The report: {PUBLISHED.resolve() / 'index.html'}", file=sys.stderr)
        if warning := dvc_experiments.unrecorded(self.jobs, self.started):
            print(f"hlrs: {warning}", file=sys.stderr)

    def show(self, workflow: Any) -> None:
        """Show what becomes of the jobs while they run; note where SLURM's logs are."""
        if chosen := getattr(workflow.executor_settings, "logdir", None):
            self.slurm_logs = Path(workflow.workdir_init, chosen)
        self.live = show(self.jobs, workflow)

    def fail(self) -> None:
        """Keep finished results, say whose state is saved, and name each failed SLURM job with its reason."""
        if self.live:
            self.live.stop()
        plan.discard_states(self.jobs)
        dvc_experiments.shelve(self.jobs, self.started)
        for line in slurm.failures(self.jobs, self.started, self.slurm_logs):
            print(f"hlrs: {line}", file=sys.stderr)


def rest_between_jobs(workflow: Any) -> None:
    """Remove Snakemake's default limit of 100 jobs per second, which costs more than it saves.

    While jobs wait, each pass of its scheduler sets an alarm, and each alarm starts a pass: one more pass per
    second for every job that ends (Snakemake 9.27, JobScheduler.schedule). After 500 jobs that took a third
    of a core.
    """
    limiter = workflow.scheduler.job_rate_limiter
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


@in_one_line()
def check_arrays(workflow: Any) -> None:
    """End the process with one line if the executor would lose jobs of an array, or give some too few cores.

    It drops the jobs that it is handed while more of their rule are ready than a limit lets through, and
    requests for every task what the first one needs (2.8, Executor.run_jobs and run_array_jobs).
    """
    chosen = getattr(workflow.executor_settings, "array_jobs", None)
    if not chosen:
        return
    for name, limit in workflow.scheduler.global_resources.items():
        if limit < sys.maxsize:
            limited, remedy = f"--resources {name}={limit}", "leave it out"
            if name == "_nodes":
                limited, remedy = f"--jobs {limit}", "add --jobs unlimited"
            raise UserError(
                f"--slurm-array-jobs: the executor loses jobs if {limited} holds some back; {remedy}"
            )
    if workflow.scheduler.job_rate_limiter is not None:
        raise UserError(
            "--slurm-array-jobs: the executor loses jobs if --max-jobs-per-timespan holds some back; "
            "leave it out"
        )
    rules = set(re.split(r"[\s,;]+", chosen))
    cores: dict[str, set[int]] = {}
    for job in workflow.dag.needrun_jobs():
        if rules & {"all", job.rule.name} and not job.is_local:
            cores.setdefault(job.rule.name, set()).add(job.threads)
    for rule, numbers in cores.items():
        if len(numbers) > 1:
            needs = " or ".join(map(str, sorted(numbers)))
            raise UserError(
                f"--slurm-array-jobs: jobs of {rule} need {needs} cores, an array gives all what its first "
                f"needs; leave {rule} out, or give all its runs the same threads"
            )


def end_on_sigterm(workflow: Any) -> None:
    """Have SIGTERM end this run in a thread of its own.

    Snakemake's handler takes its scheduler's lock, which the thread that it interrupts holds while it waits
    for the files of a job: then neither goes on (9.27, JobScheduler.exit_gracefully).
    """
    scheduler, asked = workflow.scheduler, queue.SimpleQueue[None]()  # whose put a handler may call

    def end() -> None:
        while True:
            asked.get()
            scheduler.exit_gracefully()

    threading.Thread(target=end, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.put(None))


def stop_at_once(workflow: Any) -> None:
    """Have Ctrl-C cancel all jobs of this run in SLURM's queue, submit no more and end without delay.

    Otherwise none is cancelled while their states are queried, those handed to the executor are submitted,
    and snakemake sleeps until the next query is due (interface 9.4, RemoteExecutor; executor 2.8).
    """
    executor = workflow.scheduler._executor
    if not isinstance(executor, SlurmExecutor):
        return

    def cancel(active: object) -> None:
        if submitting := getattr(executor, "_job_submission_executor", None):
            submitting.shutdown(wait=False, cancel_futures=True)
        slurm.cancel(executor.run_uuid)

    async def sleep() -> None:
        until = time.monotonic() + executor.next_seconds_between_status_checks
        while executor.wait and time.monotonic() < until:
            await asyncio.sleep(1)

    executor.cancel_jobs, executor.sleep = cancel, sleep


def register_handlers(workflow: Any) -> None:
    """Have the handlers of a Snakefile called where another one uses it as a module, after that one's own.

    Snakemake registers only those of the main Snakefile (9.27, Workflow.onsuccess).
    """
    if not workflow.modifier.is_main_snakefile():
        for event in ("onstart", "onsuccess", "onerror"):
            theirs, ours = getattr(workflow, f"_{event}"), workflow.globals[event]
            setattr(workflow, f"_{event}", partial(_both, theirs, ours))


def _both(theirs: Callable[[str], object], ours: Callable[[], object], log: str) -> None:
    theirs(log)
    ours()


@in_one_line(status=2)
def start(settings: dict[str, Any], workflow: Any) -> Plan:
    """Validate settings and params, claim the folder and freeze the jobs' specs before anything runs.

    On an error, or if another workflow runs in this folder, end the process with one line on stderr and exit
    status 2.
    """
    executes = not workflow.output_settings.dryrun and not QUESTIONS.intersection(sys.argv)
    if not workflow.is_main_process:
        slurm.serve_job()
    image = _choose_image(settings, workflow)
    if not workflow.is_main_process:
        return Plan([], image)
    jobs = _plan_jobs(settings)
    if image is None:  # which has its own packages
        check_installed(jobs)
    _claim_folder(executes)
    queued = runs_in_queue(workflow)
    if not queued:
        _share_out_gpus(workflow, executes)
    room = functools.cache(partial(memory.room, workflow=workflow, queued=queued))
    _prepare(jobs, lambda job: room(job.stage, _cores(job)))
    if slurm.available():
        check_cluster(workflow, os.environ)
        _follow_queue(jobs, executes)
    planned = Plan(jobs, image)
    if executes:  # earlier params may need no job to run, yet their report must be published
        plan.discard_states(jobs)
        planned.publish()
    return planned


def _choose_image(settings: dict[str, Any], workflow: Any) -> str | None:
    """Check the names of the settings and the image among them; pass the image's digest to Apptainer."""
    unknown = set(settings) - ALLOWED.keys()
    if unknown:
        allowed = ", ".join(f"{name}={what}" for name, what in ALLOWED.items())
        raise UserError(f"--config {unknown.pop()}: unknown; allowed: {allowed}")
    image = container.image(
        str(settings["container"]) if "container" in settings else None,
        DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method,
    )
    if image:
        container.hand_in(image)
    return image


def _plan_jobs(settings: dict[str, Any]) -> list[Job]:
    """Check the time limit and plan the jobs of the params file."""
    limit = settings.get("time_limit", 1)
    if not isinstance(limit, int) or limit < 1:
        raise UserError(f"--config time_limit={limit}: must be a whole number of minutes, at least 1")
    named = settings.get("params", "params.yaml")
    if named is None or isinstance(named, list | dict | bool | float):  # --config reads values as YAML
        raise UserError(f"--config params={'' if named is None else named}: not a file's name; write one")
    return plan.plan(load(Path(str(named))))


def _claim_folder(executes: bool) -> None:
    """Claim the folder if jobs will run; with --unlock, remove the claim instead."""
    if "--unlock" in sys.argv:
        locks.unlock()
    elif executes and "--nolock" not in sys.argv:
        locks.claim()


def runs_in_queue(workflow: Any) -> bool:
    """Whether jobs run in a queue.

    While Snakemake (9.27) reads the Snakefile, the workflow has no executor yet, and `local_exec` is True
    whatever it will be. `--jobs`, which every other executor needs, goes with the local one, too.
    """
    if workflow.resource_settings.nodes is None:
        return False
    with redirect_stderr(io.StringIO()):  # it has printed the same before
        _, arguments = parse_args(sys.argv[1:])
    return not ExecutorPluginRegistry().get_plugin(arguments.executor or "local").common_settings.local_exec


def _share_out_gpus(workflow: Any, executes: bool) -> None:
    """Run one job per GPU at a time, unless `--resources gpu=N` has N run."""
    found = gpus.available(os.environ)
    if not found:
        return
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(found))
        if executes:
            here = f"{len(found)} GPU{'s' * (len(found) > 1)}"
            more = "--resources gpu=N starts N, HLRS_DEVICE=cpu uses none"
            print(f"hlrs: one job per GPU at a time, {here}; {more}", file=sys.stderr)
    elif workflow.global_resources["gpu"].value == 0:  # which Snakemake takes for a limit of no job
        raise UserError("--resources gpu=0: would limit nothing; to use no GPU, set HLRS_DEVICE=cpu")


def _prepare(jobs: list[Job], room: Callable[[Job], memory.Room]) -> None:
    """Check splits and trainings, freeze the specs, and bring back results computed before."""
    opened = preflight.check_splits(jobs, lambda text: print(f"hlrs: {text}", file=sys.stderr, flush=True))
    plan.freeze(jobs)
    plan.restore(jobs)
    preflight.check_trainings(jobs, opened, room)
    preflight.check_counts(jobs)
    dvc_experiments.fetch(jobs)
    preflight.check_present(plan.due(jobs))


def _follow_queue(jobs: list[Job], executes: bool) -> None:
    """Install the patient SLURM commands and wait for jobs of an earlier snakemake."""
    slurm.install_commands()
    slurm.wait_for_earlier(jobs, wait=executes)


def check_cluster(workflow: Any, environment: Mapping[str, str]) -> None:
    """Raise UserError if the profile sends jobs to another cluster than the one that SLURM's commands ask.

    There squeue would list none of them, so that all would seem to have failed.
    """
    settings = workflow.resource_settings
    for resources in (settings.default_resources or {}, *settings.overwrite_resources.values()):
        for name, resource in {**resources}.items():
            cluster = str(getattr(resource, "raw", resource)).strip("'\"")  # in a profile, a quoted text
            if name in CLUSTERS and cluster != environment.get("SLURM_CLUSTERS"):
                raise UserError(
                    f"resource {name}={cluster}: squeue would not list these jobs; set SLURM_CLUSTERS to the "
                    f"cluster instead, for all jobs"
                )


@functools.cache
def inputs(key: str) -> dict[str, str]:
    """Return the inputs of a job by name, from its frozen spec."""
    return plan.spec(key).inputs


def threads(key: str) -> int:
    """Return the cores that a job needs, from its frozen spec."""
    return _cores(plan.spec(key))


def _cores(job: Job) -> int:
    """Return a job's threads, plus its loader's workers if it streams.

    Beforehand only `resized_crop` and `above_mb: 0` are certain to stream. Whether images exceed another
    limit is known once they are read; their workers come on top of the requested cores.
    """
    images = job.params.get("images", {})
    streams = images and (images["augment"]["resized_crop"] is not None or not images["stream"]["above_mb"])
    workers = images["stream"]["workers"] if streams else 0
    return int(job.params.get(job.stage, {}).get("threads", 1)) + int(workers)
