"""squeue, sacct and sbatch for Snakemake's slurm executor that tolerate an absent or forgetful SLURM.

    python -I slurm_commands.py squeue|sacct|sbatch ARGUMENTS

The executor (2.8) loses jobs and waits for ever when a status query fails briefly, when SLURM has forgotten
a job (MinJobAge), when a job ends as PREEMPTED or NODE_FAIL, or when sacct names who cancelled it. Therefore:

- a failed status query is retried for up to 50 seconds (the executor gives up after 60, and for good after
  some 50 minutes); then jobs without an answer are reported as PENDING, until SLURM is back;
- squeue takes precedence over sacct, whose database lags: it may list a pending job as PREEMPTED for minutes,
  or never learn of an end; if sacct does not answer or is not installed, squeue alone decides;
- a submitted job that squeue has forgotten and whose end sacct does not know is reported as COMPLETED if its
  record, which is written last, exists, otherwise as FAILED;
- a job that ended as PREEMPTED or NODE_FAIL is requeued, or reported as FAILED if that is refused;
- a submission waits for the controller and is not repeated if the first attempt arrived; no signal of a
  terminal cuts it off before it is recorded; once snakemake is being stopped, it is not made, or cancelled;
- a search or retraining is warned two to three minutes before its time limit, so that it saves its state, and
  resumes in another allocation, which appends to the same log, whatever `slurm_extra` a profile has;
- each task of a job array runs its own command as a single job does (the executor runs the first task outside
  of a step, where SLURM's warning does not reach it, and all tasks of an array beyond 128 kB as the first);
- each task is known by its own id (the executor queries sacct by raw ids, one of which is also the array's).

Runs as a process of its own with only the standard library.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

TOOLS = ("squeue", "sacct", "sbatch")
RECORDS = Path(".hlrs/slurm")  # one file per snakemake run, one line per submission
SPECS = Path(".hlrs/specs")  # of jobs, by key
RESUMING = ("--signal=USR1@120", "--open-mode=append")  # of jobs that resume; before a profile's own options
STATUS_SECONDS = 50.0
SUBMIT_SECONDS = 900.0
PAUSE_SECONDS = 2.0
CALL_SECONDS = 25.0
ABSENT = re.compile(  # messages for an absent controller, as opposed to an invalid request
    r"unable to contact slurm controller|socket timed out|connection refused|communication|"
    r"slurm backup controller|zero bytes were transmitted|temporarily unable|no network address",
    re.IGNORECASE,
)
JOB = "[0-9]+(_[0-9]+)?"  # a job's id, or that of an array's task
# The executor's option with the commands of an array's other tasks, at the end of the first one's.
OTHERS = re.compile(r"\s+--slurm-jobstep-array-execs[=\s]'?([A-Za-z0-9+/]+=*)'?\s*$")
INTERRUPTED = ("PREEMPTED", "NODE_FAIL")
NO_END = (*INTERRUPTED, "PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "UNKNOWN")


def main() -> int:
    """Run one command in place of SLURM's; return its exit status."""
    tool, arguments = sys.argv[1], sys.argv[2:]
    run = _option(arguments, "--name", "--job-name")
    if run is None or not re.fullmatch(r"[A-Za-z0-9_-]+", run):  # not from the executor: run unchanged
        os.execv(_real(tool), [tool, *arguments])  # noqa: S606 - as a shell would
    if tool == "sbatch":
        return _submit(arguments, run)
    return _status(tool, arguments, run)


def submissions(folder: Path, since: float = 0.0) -> list[tuple[str, str]]:
    """List (SLURM job, key) of a folder's submissions by snakemakes active since a time."""
    found = []
    for record in sorted((folder / RECORDS).glob("*.jsonl")):
        if record.stat().st_mtime >= since:
            found += _entries(record)
    return found


def _entries(record: Path) -> list[tuple[str, str]]:
    found = []
    for line in record.read_bytes().splitlines() if record.is_file() else []:
        try:
            entry = json.loads(line)
            if re.fullmatch(JOB, entry["job"]) and re.fullmatch("([0-9a-f]{12})?", entry["key"]):
                found.append((entry["job"], entry["key"]))
        except (ValueError, KeyError, TypeError, RecursionError):  # a truncated line
            continue
    return found


def _status(tool: str, arguments: list[str], run: str) -> int:
    # not JobIdRaw: that of one task is the whole array's
    arguments = [argument.replace("JobIdRaw", "JobID") for argument in arguments]
    known = _recorded(run)  # first: a job submitted after the query is new, not forgotten
    deadline = time.monotonic() + STATUS_SECONDS
    while True:
        queue = _call("squeue", ["--array", "--format=%i|%T", "--states=all", "--noheader", "--name", run])
        done = _call("sacct", arguments) if tool == "sacct" and _found("sacct") else queue
        if 0 in (queue.returncode, done.returncode):
            break
        if time.monotonic() > deadline:
            sys.stderr.write(done.stderr)
            for job, _ in known:
                print(f"{job}|PENDING")
            return 0 if known else done.returncode
        time.sleep(PAUSE_SECONDS)
    states = _states(done)
    if queue.returncode == 0:
        queued = _states(queue)
        forgotten = [(job, key) for job, key in known if job not in queued]
        ends = {job: "COMPLETED" if _made(key) else "FAILED" for job, key in forgotten}
        states |= queued | {job: end for job, end in ends.items() if states.get(job, "UNKNOWN") in NO_END}
    for job, state in states.items():
        print(f"{job}|{_continued(job) if state in INTERRUPTED else state}")
    return 0


def _states(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """Map job to state in one word; the executor does not know sacct's `CANCELLED by 1000`."""
    answer = done.stdout if done.returncode == 0 else ""
    lines = (line.split("|", 1) for line in answer.splitlines() if "|" in line)
    return {job: state.partition(" ")[0] for job, state in lines}


def _made(key: str) -> bool:
    """Return whether a key's result is complete."""
    return bool(key) and any(Path("results").glob(f"[!.]*/**/{key}/provenance.json"))


def _continued(job: str) -> str:
    """Requeue an interrupted job and return its state; an unanswered request is retried at the next query."""
    done = _call("scontrol", ["requeue", job])
    return "PENDING" if done.returncode == 0 or ABSENT.search(done.stderr) else "FAILED"


def stopped(run: str) -> Path:
    """Return the file whose existence says that a snakemake's run is being stopped."""
    return RECORDS / f"{run}.stopped"


def _submit(arguments: list[str], run: str) -> int:
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal; sbatch inherits it
        signal.signal(number, signal.SIG_IGN)
    comment = _option(arguments, "--comment") or ""
    script = sys.stdin.read() if "/dev/stdin" in arguments else None
    keys = {} if _option(arguments, "--array") else {"": comment[-12:]}
    if tasks := _tasks(arguments, script):
        keys = {f"_{index}": _key(command) for index, command in tasks.items()}
        comment += f"_and_{len(tasks) - 1}_more"
        arguments, script = _with_script(arguments, comment), _script(tasks)
    if any(map(_resumes, keys.values())):
        arguments = [*RESUMING, *arguments]
    deadline, parent = time.monotonic() + SUBMIT_SECONDS, os.getppid()
    while not stopped(run).exists() and os.getppid() == parent:  # a later snakemake submits the same jobs
        done = _call("sbatch", arguments, script, SUBMIT_SECONDS)
        if done.returncode == 0 or not ABSENT.search(done.stderr):
            break
        time.sleep(PAUSE_SECONDS)
        if job := _arrived(run, comment, deadline):
            done = subprocess.CompletedProcess([], 0, f"{job}\n", "")
            break
        if time.monotonic() > deadline:
            break
    else:
        done = subprocess.CompletedProcess([], 1, "", "sbatch: not submitted, as snakemake was stopped\n")
    sys.stderr.write(done.stderr)
    answer = re.search(r"^ *([0-9]+)(;.*)?$", done.stdout, re.MULTILINE)  # among a site's notices
    if done.returncode == 0 and answer:
        _record(run, [{"job": f"{answer[1]}{task}", "key": key} for task, key in keys.items()])
        if stopped(run).exists():  # and the run's jobs may have been cancelled before this one arrived
            _call("scancel", [answer[1]])
    sys.stdout.write(f"{answer[0]}\n" if answer else done.stdout)
    return done.returncode


def _resumes(key: str) -> bool:
    """Return whether the job of a key saves its state when it is warned."""
    try:
        return json.loads((SPECS / f"{key}.json").read_bytes())["stage"] in ("search", "retrain")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _tasks(arguments: list[str], script: str | None) -> dict[int, str]:
    """Return the command of each task of an array; none for a single job."""
    text = (_option(arguments, "--wrap") or "") if script is None else script.partition("\n")[2]
    span, others = _option(arguments, "--array"), OTHERS.search(text)
    if span is None or others is None:
        return {}
    codes: dict[str, str] = json.loads(base64.b64decode(others[1]))
    commands = {int(index): zlib.decompress(bytes.fromhex(code)).decode() for index, code in codes.items()}
    return {int(span.partition("-")[0]): text[: others.start()], **commands}


def _script(tasks: dict[int, str]) -> str:
    cases = "".join(f"{index})\n{command}\n;;\n" for index, command in tasks.items())
    return f"#!/bin/sh\ncase $SLURM_ARRAY_TASK_ID in\n{cases}esac\n"


def _with_script(arguments: list[str], comment: str) -> list[str]:
    """Return the arguments of a submission that reads its script from stdin and has another comment."""
    kept = [argument for argument in arguments if not argument.startswith(("--wrap=", "/dev/stdin"))]
    return [*kept, f"--comment={comment}", "/dev/stdin"]


def _key(command: str) -> str:
    """Return the key of the job that a command of the executor runs; empty if it names none."""
    found = re.search(r"\bkey=([0-9a-f]{12})\b", command)
    return found[1] if found else ""


def _arrived(run: str, comment: str, deadline: float) -> str | None:
    """Return the job of a submission whose answer was lost, if it arrived, once squeue answers."""
    query = ["--noheader", "--states=all", f"--name={run}", "--format=%F|%k"]
    while (done := _call("squeue", query)).returncode != 0 and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    earlier = {job.partition("_")[0] for job, _ in _recorded(run)}  # of a failed attempt, the same comment
    for line in done.stdout.splitlines():
        job, _, its_comment = line.partition("|")
        if its_comment == comment and job not in earlier:
            return job
    return None


def _recorded(run: str) -> list[tuple[str, str]]:
    path = RECORDS / f"{run}.jsonl"
    return _entries(path) if path.exists() else []


def _record(run: str, entries: list[dict[str, str]]) -> None:
    """Append a line per job in one write, because two submissions of a run may end at once."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry, sort_keys=True) for entry in entries]
    text = "\n".join(["", *lines, ""]).encode()  # the previous line may be truncated
    file = os.open(RECORDS / f"{run}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, text)
    finally:
        os.close(file)


def _call(
    tool: str, arguments: list[str], text: str | None = None, seconds: float | None = None
) -> "subprocess.CompletedProcess[str]":
    limit = seconds or CALL_SECONDS
    try:
        return subprocess.run(
            [_real(tool), *arguments], input=text, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 1, "", f"{tool}: socket timed out\n")


def _real(tool: str) -> str:
    """Return SLURM's own command; end the process without it."""
    real = _found(tool)
    if real is None:
        sys.exit(f"{tool}: not found")
    return real


def _found(tool: str) -> str | None:
    """Return SLURM's own command: the first in PATH outside .hlrs/bin; None without it."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    others = os.pathsep.join(f for f in folders if Path(f).parts[-2:] != (".hlrs", "bin"))
    return shutil.which(tool, path=others)


def _option(arguments: list[str], *names: str) -> str | None:
    """Return the value of the first option given, as `--name value` or `--name=value`."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else arguments[i + 1] if i + 1 < len(arguments) else None
    return None


if __name__ == "__main__":
    sys.exit(main())
