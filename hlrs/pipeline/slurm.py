"""Jobs under SLURM: this folder's jobs in the queue, and requeueing before the time limit.

SLURM owns every continuation: a job that nears its time limit saves its state and requeues itself; SLURM
requeues a job that was preempted or lost its node. All keep their id, so that Snakemake, which retries
nothing, sees one running job. Commands and signals: sbatch(1), squeue(1), scontrol(1).
"""

import atexit
import json
import os
import platform
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hlrs.artifacts.files import write_text
from hlrs.artifacts.jobs import Job
from hlrs.errors import UserError
from hlrs.pipeline import slurm_commands

COMMANDS = Path(
    ".hlrs/bin"
)  # squeue, sacct and sbatch that wait for an absent controller (slurm_commands.py)
LOGS = Path(".snakemake/slurm_logs")  # of the executor, unless the profile has a slurm-logdir
REQUESTS = Path(".hlrs/requeue")  # one file per job that requests another allocation
WARNING = signal.SIGUSR1  # sent before the time limit, as `sbatch --signal` requests
AGAIN_SECONDS = 1.0  # between repetitions of the warning
POLL_SECONDS = 10.0
ASK_SECONDS = 60.0  # until a command counts as unanswered


def available() -> bool:
    """Return whether this machine has SLURM's commands."""
    return shutil.which("sbatch") is not None


def ask(*command: str, seconds: float | None = None) -> str | None:
    """Return a command's output; None if it is missing, fails, or does not answer in time (`ASK_SECONDS`).

    Where SLURM_CLUSTERS is set, SLURM puts "CLUSTER: name" above its lines, even those without a header.
    """
    try:
        limit = seconds or ASK_SECONDS
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines(keepends=True)
    answer = "".join(line for line in lines if not line.startswith("CLUSTER: "))
    return answer if done.returncode == 0 else None


# --- in the process that submits ----------------------------------------------------------------------


def install_commands() -> None:
    """Put squeue, sacct and sbatch that survive an absent controller first in this process's PATH."""
    script = shlex.quote(slurm_commands.__file__)
    for tool in slurm_commands.TOOLS:
        path = COMMANDS / tool
        text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {script} {tool} "$@"\n'
        if not path.is_file() or path.read_text() != text:
            write_text(path, text)
            path.chmod(0o755)
    here = str(COMMANDS.resolve())
    others = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry != here]
    os.environ["PATH"] = os.pathsep.join([here, *others])


def cancel(run: str) -> None:
    """Cancel the jobs of a snakemake's run, which are named by its id; without an answer, say what does.

    Submissions that are under way cancel theirs (slurm_commands.py).
    """
    with suppress(OSError):  # of a full disk
        slurm_commands.RECORDS.mkdir(parents=True, exist_ok=True)
        slurm_commands.stopped(run).touch()
    command = "scancel", f"--name={run}"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C, which would end scancel
    answer = ask(*command)
    signal.signal(signal.SIGINT, before)
    if answer is None:
        does = f"`{shlex.join(command)}` does, once it answers"
        print(f"hlrs: SLURM has not cancelled the jobs; {does}", file=sys.stderr)


AGAIN = "in your profile, stop snakemake (Ctrl-C) and rerun"
# Reasons of squeue(1) that seldom pass by waiting, and their remedies.
HELD = [
    ("JobHeldUser", "held by you: `scontrol release`, with its number from `squeue`, starts it"),
    (
        "JobHeldAdmin|JobHoldMaxRequeue|.*held.*|launch.failed.*",
        "held by SLURM or its administrator: ask your site",
    ),
    (
        "PartitionDown|PartitionInactive",
        f"its partition starts no jobs: choose another slurm_partition {AGAIN}",
    ),
    (
        "PartitionTimeLimit|.*MaxWall.*|(QOS|Association)TimeLimit",
        f"lower time_limit, or its runtime, {AGAIN}",
    ),
    (
        "(QOS|Assoc|Max).*Per(Job|Node).*|QOSMin.*|MaxMemPerLimit",
        f"one job may not request as much, or as little: change its resources {AGAIN}",
    ),
    (
        "BadConstraints|PartitionConfig|PartitionNodeLimit",
        f"no node that is up has what it requests: wait for one, or change its resources {AGAIN}",
    ),
    (
        "(QOS|Assoc)Grp.*Minutes.*",
        f"its account's budget has too little left: lower time_limit, or change slurm_account {AGAIN}",
    ),
    (
        "Invalid(Account|QOS)|(Account|QOS)NotAllowed",
        f"its account or QOS may not be used: change slurm_account or qos {AGAIN}",
    ),
]


def remedy(reason: str) -> str:
    """Return what to do about the reason for which a job waits in the queue; "" if waiting is enough."""
    return next((text for pattern, text in HELD if re.fullmatch(pattern, reason, re.IGNORECASE)), "")


@dataclass(frozen=True)
class Queued:
    """A job of this folder in SLURM's queue, and the reason for which it waits there."""

    id: str
    state: str
    key: str
    reason: str


def queued(keys: Iterable[str], seconds: float | None = None) -> list[Queued] | None:
    """Return the queued jobs that this folder submitted for one of the keys; none without SLURM.

    None if squeue does not answer in time.
    """
    wanted = set(keys)
    submitted = {(id_, key) for id_, key in slurm_commands.submissions(Path.cwd()) if key in wanted}
    if not submitted or not available():
        return []
    listing = ask(
        "squeue", "--array", "--noheader", f"--user={os.getuid()}", "--format=%i|%T|%r|%Z", seconds=seconds
    )
    if listing is None:
        return None
    here, found = str(Path.cwd()), []
    for line in listing.splitlines():
        if line.count("|") < 3:  # a notice of the site's own
            continue
        id_, state, reason, folder = line.split("|", 3)
        found += [Queued(id_, state, key, reason) for job, key in submitted if job == id_ and folder == here]
    return sorted(found, key=lambda job: [int(number) for number in job.id.split("_")])


def wait_for_earlier(jobs: list[Job], *, wait: bool) -> None:
    """Wait for jobs of an earlier snakemake that compute a missing result; without `wait`, only report them.

    Snakemake deletes a job's outputs before it runs it, so a second job of the same key would destroy the
    result of the first.
    """
    missing = {job.key: job for job in jobs if not job.complete}
    shown = ""
    while (earlier := queued(missing)) != []:
        notice = _notice(earlier, missing, wait)
        if notice != shown:
            print(notice, file=sys.stderr, flush=True)
        if not wait:
            return
        shown = notice
        time.sleep(POLL_SECONDS)


def _notice(earlier: list[Queued] | None, jobs: dict[str, Job], wait: bool) -> str:
    if earlier is None:
        rest = (
            f"; waiting for it (if SLURM is gone for good, delete {slurm_commands.RECORDS})" if wait else ""
        )
        return f"hlrs: squeue does not answer; jobs of an earlier snakemake may be running{rest}"
    shown = [f"{j.id} {j.state.lower()}: {_name(jobs[j.key])}" for j in earlier[:3]]
    more = f", {len(earlier) - 3} more" if len(earlier) > 3 else ""
    ids = " ".join(job.id for job in earlier)
    rest = f"; waiting for them (`scancel {ids}` stops them and loses nothing)" if wait else ""
    return f"hlrs: jobs of an earlier snakemake are still in the queue ({', '.join(shown)}{more}){rest}"


BEGINS = re.compile(r"^\S+  begins on .*$", re.MULTILINE)  # the first line of a process in a job's log

# SLURM's messages in a job's log, and their remedies. "CANCELLED AT ... DUE TO" a preemption, a requeue or a
# lost node is not the end: the job resumes and appends to the same log.
REASONS = [
    (
        r"exceeded memory limit|oom.kill|out of memory",
        "it needed more memory than it asked for (mem_mb, or mem_mb_per_cpu); {raise_it}",
    ),
    (r"DUE TO TIME LIMIT", "it reached its time limit; {raise_it}"),
    (r"CANCELLED AT \S+ \*\*\*", "it was cancelled"),
]


def failures(jobs: list[Job], since: float, logs: Path = LOGS) -> list[str]:
    """Explain by these logs why jobs submitted since a time have no result: one line per job, at most 10."""
    missing = {job.key: job for job in jobs if not job.complete}
    failed = [
        (id_, missing[key]) for id_, key in slurm_commands.submissions(Path.cwd(), since) if key in missing
    ]
    lines = [f"{_name(job)} (SLURM job {id_}): {_reason(id_, job, logs)}" for id_, job in failed[:10]]
    return lines + ([f"and {len(failed) - 10} more"] if len(failed) > 10 else [])


def _reason(id_: str, job: Job, logs: Path) -> str:
    found = [*logs.rglob(f"{id_}.log"), *([job.log] if job.log.exists() else [])]
    text = "\n".join(log.read_text(errors="replace") for log in found)
    said = re.findall(r"^hlrs: (.*)$", BEGINS.split(text)[-1], re.MULTILINE)
    for pattern, reason in REASONS:
        if re.search(rf"^(slurmstepd|srun)\b.*({pattern})", text, re.IGNORECASE | re.MULTILINE):
            raise_it = f"raise it for {job.stage} in your profile (set-resources) and rerun"
            return reason.format(raise_it=raise_it)
    return said[-1] if said else f"see {found[0] if found else 'its log'}"


def _name(job: Job) -> str:
    return f"{job.stage} {job.run}"


# --- in a job -----------------------------------------------------------------------------------------


def begin(job: Job) -> None:
    """Say in a job's log, to which all processes that compute its result append, where one begins."""
    number = own_job()
    inside = f" (SLURM job {number})" if number else ""
    print(f"{job.run}  begins on {platform.node()}{inside}", file=sys.stderr, flush=True)


def request_requeue() -> None:
    """Request another allocation for this process's SLURM job, whose state is saved.

    A stage may run in a container without scontrol, so the snakemake outside acts on the request.
    """
    if job := own_job():
        write_text(REQUESTS / job, json.dumps({"job": job}) + "\n")


def serve_job() -> None:
    """Prepare a snakemake inside a SLURM job for signals and requeueing; call it in the main thread, first.

    It survives the warning, forwards signals to its stage, which SLURM may not reach (with proctrack/cgroup
    it signals only a step's first process), and requeues the job at its end if the stage requested it.
    """
    job = own_job()
    if job is None:
        return
    (REQUESTS / job).unlink(missing_ok=True)
    sending, terminated = threading.Lock(), threading.Event()
    atexit.register(_requeue, job, sending, terminated)
    signal.signal(WARNING, _outlive)
    if "SLURM_STEP_ID" not in os.environ:  # the batch script's snakemake only waits for the step's
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)  # also for SIGTERM, whose handler Snakemake replaces later
    threading.Thread(target=_pass_on, args=(reading, sending, terminated), daemon=True).start()


def own_job() -> str | None:
    """Return the id of this process's SLURM job, None outside of one; UserError if it is no number.

    That of an array's task is `array_task`: SLURM_JOB_ID in one of the tasks is the number of the array.
    """
    job = _number("SLURM_JOB_ID")
    array, task = _number("SLURM_ARRAY_JOB_ID"), _number("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if job and array and task else job


def _number(variable: str) -> str | None:
    number = os.environ.get(variable)
    if number and not re.fullmatch("[0-9]+", number):  # it names a file
        raise UserError(f"{variable}={number!r}: not the number of a job; unset it outside of SLURM")
    return number or None


def _outlive(number: int, frame: FrameType | None) -> None:
    """Ignore the warning, without SIG_IGN, which children would inherit."""


def _pass_on(reading: int, sending: threading.Lock, terminated: threading.Event) -> None:
    """Forward warnings and SIGTERM, which is noted, to the other processes of this process's group.

    The warning is repeated, because a stage ignores it while it starts (Snakefile); repetition is harmless.
    """
    warned = False
    while True:
        again = AGAIN_SECONDS if warned else None
        came = select.select([reading], [], [], again)[0]
        numbers = set(os.read(reading, 64)) if came else {WARNING}
        warned = warned or WARNING in numbers
        if signal.SIGTERM in numbers:
            terminated.set()
        with sending:
            for number in numbers & {WARNING, signal.SIGTERM}:
                for pid in _group():
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)


def _group() -> list[int]:
    """List the other processes of this group: the rule's shell, its stage, a container's."""
    pids = [int(directory.name) for directory in Path("/proc").glob("[0-9]*")]
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == os.getpgrp() and pid != os.getpid():
                found.append(pid)
    return found


def _requeue(job: str, sending: threading.Lock, terminated: threading.Event) -> None:
    sending.acquire()  # never released: a forwarded signal would reach scontrol, too
    request = REQUESTS / job
    if not request.exists():
        return
    request.unlink()
    if terminated.is_set() and _has_time_left(job):  # cancelled, or SLURM requeues it by itself
        return
    refusal = _refusal(job)
    if refusal is None:
        print(f"hlrs: SLURM job {job} is requeued and will resume from its checkpoint", file=sys.stderr)
    else:
        print(
            f"hlrs: SLURM job {job} could not be requeued ({refusal}); its state is saved, "
            "rerun `snakemake --profile slurm` to resume",
            file=sys.stderr,
        )


def _has_time_left(job: str) -> bool:
    """Return whether a job that SLURM ends is still within its time limit, as far as SLURM answers."""
    left = ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%L") or ""
    return any(digit in left for digit in "123456789")


def _refusal(job: str) -> str | None:
    """Requeue a job once the controller answers; return None, or the reason for a refusal."""
    deadline = time.monotonic() + ASK_SECONDS
    while True:
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        except OSError as error:
            return str(error)
        if done.returncode == 0:
            return None
        if not slurm_commands.ABSENT.search(done.stderr) or time.monotonic() > deadline:
            return re.sub(r"\s+", " ", done.stderr).strip() or f"exit status {done.returncode}"
        time.sleep(slurm_commands.PAUSE_SECONDS)
