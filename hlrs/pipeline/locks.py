"""Locks: a lease allows one writer per result, a claim one workflow per folder.

A lock is a file that is created exclusively and names its holder. The holder of a lease rewrites it every few
seconds. Another process that needs it waits, and takes it over once the holder is dead: its process on this
machine has ended, or the file stays unchanged for a minute by the waiting process's own clock. A holder that
finds another name in its file (it was frozen or disconnected, and presumed dead) exits at once. A file system
with unreliable locks or clocks thus costs at most the work since the last checkpoint: results are renamed
into place whole, and their bytes do not depend on who writes them.
"""

import atexit
import json
import os
import platform
import shlex
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hlrs.artifacts.files import replacing
from hlrs.artifacts.jobs import Job
from hlrs.errors import INTERRUPTED, Failure

LEASES = Path(".hlrs/leases")
RUN = Path(".hlrs/run.json")  # the claim of a snakemake that runs jobs
SNAKEMAKE_LOCKS = Path(".snakemake/locks")  # Snakemake's own, which name no owner and survive a kill

BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0  # without a beat
PATIENCE_SECONDS = 900.0
POLL_SECONDS = 0.5


# --- one writer per result: the lease of a job's key ---------------------------------------------------


@contextmanager
def lease(job: Job) -> Iterator[bool]:
    """Hold the lease of a job's key; yield whether another holder had to be waited for.

    Raises Failure if a live holder keeps it for more than `PATIENCE_SECONDS`.
    """
    path, token = LEASES / f"{job.key}.json", uuid.uuid4().hex
    path.parent.mkdir(parents=True, exist_ok=True)
    waited = _acquire(path, token, job)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, token, job, ended), daemon=True)
    heart.start()
    try:
        yield waited
    finally:
        ended.set()
        heart.join()
        if _token(read(path)) == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, token: str, job: Job) -> bool:
    """Create the lease; return whether another holder had to end first."""
    started, seen, since, announced = time.monotonic(), b"", 0.0, False
    while not create(path, token):
        now = time.monotonic()
        content = read(path)
        if content is None:  # released in the meantime
            continue
        if content != seen:
            seen, since = content, now
        if lives(content) is False or now - since > DEAD_SECONDS:
            take_away(path, content, token)
            continue
        if now - started > PATIENCE_SECONDS:
            raise Failure(
                f"{job.directory}: still being written by {holder_of(content)} after {PATIENCE_SECONDS:.0f} s"
                "; wait for it to finish or stop it (its state is kept), then rerun"
            )
        if not announced:
            print(f"{job.run}  waiting for {holder_of(content)}: same result", file=sys.stderr, flush=True)
            announced = True
        time.sleep(POLL_SECONDS)
    return announced or bool(seen)


def _beat(path: Path, token: str, job: Job, ended: threading.Event) -> None:
    """Rewrite the lease until `ended`; exit the process if another has taken it over."""
    beat = 0
    while not ended.wait(BEAT_SECONDS):
        content = read(path)
        if _token(content) != token and not ended.is_set():
            holder = f"taken over by {holder_of(content)}" if content else "deleted"
            print(
                f"hlrs: {job.run}: lease lost ({holder}): this process was presumed dead; "
                "it exits without writing",
                file=sys.stderr,
                flush=True,
            )
            os._exit(INTERRUPTED)
        beat += 1
        with suppress(Exception), replacing(path) as temporary:  # a full disk must not end the work
            temporary.write_bytes(_content(token, beat))


# --- one workflow per folder: the claim ----------------------------------------------------------------


def claim() -> None:
    """Claim the folder until this process ends. Failure if another workflow is, or may be, running in it.

    Removes the claim and Snakemake's lock of a workflow that was killed on this machine.
    """
    token, since = uuid.uuid4().hex, datetime.now().astimezone().isoformat(timespec="seconds")
    RUN.parent.mkdir(parents=True, exist_ok=True)
    while not create(RUN, token, since=since, command=_command(), group=str(os.getpgrp())):
        if (stale := _stale_claim()) is not None:
            take_away(RUN, stale, token)
            shutil.rmtree(SNAKEMAKE_LOCKS, ignore_errors=True)
    atexit.register(_release, token, os.getpid())


def refuse_beside() -> None:
    """Raise Failure if a workflow is, or may be, running in this folder."""
    _stale_claim()


def unlock() -> None:
    """Remove the claim at the user's request. Failure if its holder is known to be alive."""
    content = read(RUN)
    if content is not None and lives(content):
        raise Failure(_refusal(content))
    RUN.unlink(missing_ok=True)


def _stale_claim() -> bytes | None:
    """Return the claim of a dead process, None without a claim. Failure if its holder may be alive."""
    content = read(RUN)
    if content is None and not RUN.exists():
        return None
    if lives(content or b"") is not False:
        raise Failure(_refusal(content or b""))
    return content


def _command() -> str:
    """Return the command line of this process, and the DVC stage that started it."""
    stage = os.environ.get("DVC_STAGE")
    return shlex.join(["snakemake", *sys.argv[1:]]) + (f" (by DVC, stage {stage})" if stage else "")


def _refusal(content: bytes) -> str:
    facts = facts_of(content)
    since = f" since {datetime.fromisoformat(facts['since']):%Y-%m-%d %H:%M}" if "since" in facts else ""
    work = f"{facts.get('command', 'a snakemake')}, {holder_of(content)}, is running in this folder{since}"
    if lives(content):
        stop = f"stop it (Ctrl-C, or `kill -INT -{facts['group']}`; nothing is lost)"
        return f"{work}; wait for it to finish or {stop}, then rerun"
    return f"{work}; wait for it to finish; if it has already gone, run `snakemake --unlock` and rerun"


def _release(token: str, pid: int) -> None:
    if os.getpid() == pid and _token(read(RUN)) == token:  # not in a fork, nor after an unlock
        RUN.unlink(missing_ok=True)


# --- lock files, for both ------------------------------------------------------------------------------


def create(path: Path, token: str, **facts: str) -> bool:
    """Create a lock file that names this process, with further facts; return False if it exists."""
    try:
        with path.open("xb") as file:
            file.write(_content(token, 0, **facts))
    except FileExistsError:
        return False
    return True


def take_away(path: Path, content: bytes, token: str) -> None:
    """Remove a dead holder's lock file, unless another process has taken it over in the meantime."""
    aside = path.with_suffix(f".{token}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if read(aside) != content:
        with suppress(OSError):  # a third process has it by now; the one robbed exits at its next beat
            os.link(aside, path)
    aside.unlink()


def _content(token: str, beat: int, **more: str) -> bytes:
    facts = {
        **more,
        "token": token,
        "beat": beat,
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        **_process(os.getpid()),
    }
    return (json.dumps(facts, sort_keys=True) + "\n").encode()


def _process(pid: int) -> dict[str, Any]:
    """Identify a process of this machine, also against a later one with the same id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no such process, or a system without /proc
        return {"pid": pid, "machine": None, "born": None}
    ended = status[0] in "ZX"  # a zombie: its parent has not collected its status
    return {"pid": pid, "machine": f"{boot} {namespace}", "born": None if ended else status[19]}


def lives(content: bytes) -> bool | None:
    """Return whether the holder is alive; None if it is not a process of this machine, hence unknown."""
    facts, own = facts_of(content), _process(os.getpid())
    if not facts.get("machine") or facts["machine"] != own["machine"]:
        return None
    return bool(_process(int(facts["pid"]))["born"] == facts["born"])


def holder_of(content: bytes) -> str:
    """Describe the holder by process, host and SLURM job."""
    facts = facts_of(content)
    job = f" (SLURM job {facts['slurm_job']})" if facts.get("slurm_job") else ""
    return f"process {facts.get('pid', '?')} on {facts.get('host', 'an unknown host')}{job}"


def facts_of(content: bytes | None) -> dict[str, Any]:
    """Parse a lock file; return an empty dict if it is incomplete."""
    try:
        facts = json.loads(content or b"")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _token(content: bytes | None) -> str | None:
    return facts_of(content).get("token")


def read(path: Path) -> bytes | None:
    """Read a lock file; return None if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError:
        return None
