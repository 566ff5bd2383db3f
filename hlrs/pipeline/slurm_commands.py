"""squeue, sacct and sbatch for Snakemake's slurm executor, when SLURM does not answer or forgets.

    python -I slurm_commands.py squeue|sacct|sbatch ARGUMENTS

The executor (2.8) loses its jobs, and waits for ever, when its status queries fail for a moment, when a job
has left SLURM's memory (MinJobAge), when a job ends as PREEMPTED or NODE_FAIL, or when sacct says who
cancelled it. So, before the commands:

- a status query that fails is repeated for up to 50 seconds (the executor gives up on it after 60);
- what squeue says goes before what sacct says: the database hears of it later, for minutes has a job as
  PREEMPTED that is pending again, and may never hear of an end; where it does not answer, squeue does;
- a job that was submitted, that squeue no longer knows and of whose end sacct does not know is told as
  COMPLETED if the record of its result, which is written last, is there, else as FAILED;
- a job that ended as PREEMPTED or NODE_FAIL is requeued, as SLURM owns continuations, or else told as FAILED;
- a submission waits for the controller, and is not repeated if the first try arrived.

A process of its own, with the standard library alone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOOLS = ("squeue", "sacct", "sbatch")
RECORDS = Path(".hlrs/slurm")  # a file a run of snakemake, a line a submission
STATUS_SECONDS = 50.0
SUBMIT_SECONDS = 900.0
PAUSE_SECONDS = 2.0
CALL_SECONDS = 25.0
ABSENT = re.compile(  # what SLURM's commands say of a controller that is away, as opposed to a wrong request
    r"unable to contact slurm controller|socket timed out|connection refused|communication|"
    r"slurm backup controller|zero bytes were transmitted|temporarily unable|no network address",
    re.IGNORECASE,
)
INTERRUPTED = ("PREEMPTED", "NODE_FAIL")
NO_END = (*INTERRUPTED, "PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "UNKNOWN")


def main() -> int:
    """Run one command in the place of the executor's; returns its exit status."""
    tool, arguments = sys.argv[1], sys.argv[2:]
    run = _option(arguments, "--name", "--job-name")
    if run is None or not re.fullmatch(r"[A-Za-z0-9_-]+", run):  # not the executor's: as it is
        os.execv(_real(tool), [tool, *arguments])  # noqa: S606 - as a shell would have
    if tool == "sbatch":
        return _submit(arguments, run)
    return _status(tool, arguments, run)


def submissions(folder: Path, since: float = 0.0) -> list[tuple[str, str]]:
    """(SLURM job, key) of all that was submitted from a folder, by snakemakes active since a time."""
    found = []
    for record in sorted((folder / RECORDS).glob("*.jsonl")):
        if record.stat().st_mtime >= since:
            found += _entries(record)
    return found


def _entries(record: Path) -> list[tuple[str, str]]:
    found = []
    for line in record.read_text().splitlines():
        try:
            entry = json.loads(line)
            found.append((entry["job"], entry["key"]))
        except (ValueError, KeyError, TypeError):  # a line that was cut off
            continue
    return found


def _status(tool: str, arguments: list[str], run: str) -> int:
    known = _recorded(run)  # before the query: a job that is submitted meanwhile is not forgotten, but new
    deadline = time.monotonic() + STATUS_SECONDS
    while True:
        queue = _call("squeue", ["--format=%i|%T", "--states=all", "--noheader", "--name", run])
        done = _call("sacct", arguments) if tool == "sacct" else queue
        if 0 in (queue.returncode, done.returncode):
            break
        if time.monotonic() > deadline:
            sys.stderr.write(done.stderr)
            return done.returncode
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
    """Job -> state as a word; `CANCELLED by 1000`, as sacct has it, is none that the executor knows."""
    answer = done.stdout if done.returncode == 0 else ""
    lines = (line.split("|", 1) for line in answer.splitlines() if "|" in line)
    return {job: state.partition(" ")[0] for job, state in lines}


def _made(key: str) -> bool:
    """Whether a key's result is there, whole."""
    return bool(key) and any(Path("results").glob(f"*/**/{key}/provenance.json"))


def _continued(job: str) -> str:
    """The state of an interrupted job that was asked to go on, and is asked again if nobody heard."""
    done = _call("scontrol", ["requeue", job])
    return "PENDING" if done.returncode == 0 or ABSENT.search(done.stderr) else "FAILED"


def _submit(arguments: list[str], run: str) -> int:
    comment = _option(arguments, "--comment") or ""
    script = sys.stdin.read() if "/dev/stdin" in arguments else None
    deadline = time.monotonic() + SUBMIT_SECONDS
    while True:
        done = _call("sbatch", arguments, script)
        if done.returncode == 0 or not ABSENT.search(done.stderr) or time.monotonic() > deadline:
            break
        time.sleep(PAUSE_SECONDS)
        if job := _arrived(run, comment, deadline):
            done = subprocess.CompletedProcess([], 0, f"{job}\n", "")
            break
    sys.stderr.write(done.stderr)
    if done.returncode == 0:
        job = done.stdout.strip().split(";")[0]
        if re.fullmatch("[0-9]+", job):
            _record(run, {"job": job, "key": comment[-12:]})
        sys.stdout.write(done.stdout)
    return done.returncode


def _arrived(run: str, comment: str, deadline: float) -> str | None:
    """The job of a submission whose answer was lost, if it arrived; known once squeue answers."""
    query = ["--noheader", "--states=all", f"--name={run}", "--format=%i|%k"]
    while (done := _call("squeue", query)).returncode != 0 and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    for line in done.stdout.splitlines():
        job, _, its_comment = line.partition("|")
        if its_comment == comment:
            return job
    return None


def _recorded(run: str) -> list[tuple[str, str]]:
    path = RECORDS / f"{run}.jsonl"
    return _entries(path) if path.exists() else []


def _record(run: str, entry: dict[str, str]) -> None:
    """Append a line in one write: two submissions of a run may end at once."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    line = f"\n{json.dumps(entry, sort_keys=True)}\n".encode()  # the line before may have been cut off
    file = os.open(RECORDS / f"{run}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def _call(tool: str, arguments: list[str], text: str | None = None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [_real(tool), *arguments], input=text, capture_output=True, text=True, timeout=CALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 1, "", f"{tool}: socket timed out\n")


def _real(tool: str) -> str:
    """SLURM's own command: the first in PATH that is not in the folder that led here."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    others = os.pathsep.join(f for f in folders if Path(f).parts[-2:] != (".hlrs", "bin"))
    real = shutil.which(tool, path=others)
    if real is None:
        sys.exit(f"{tool}: not found")
    return real


def _option(arguments: list[str], *names: str) -> str | None:
    """The value of the first of the options that is given, as `--name value` or `--name=value`."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else arguments[i + 1] if i + 1 < len(arguments) else None
    return None


if __name__ == "__main__":
    sys.exit(main())
