"""No two writers: a lease on a job's key, a claim on the folder.

A lease is a file that is created exclusively. Its holder rewrites it every few seconds. Who finds it waits;
if its content stays the same for a minute by the finder's own clock, or its process was one of this machine
and is gone, the holder is dead and the lease is taken over. A holder that finds another's name in the file
(it was frozen, or cut off, and thought dead) ends at once. So a file system whose locks or clocks are not to
be trusted costs at most the work since the last checkpoint: results are renamed into place whole, and are
equal in bytes whoever makes them.
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


BEAT_SECONDS = 10.0


DEAD_SECONDS = 60.0  # without a beat


PATIENCE_SECONDS = 900.0


POLL_SECONDS = 0.5


@contextmanager
def lease(job: Job) -> Iterator[bool]:
    """Hold the lease of a job's key in the body, which is told whether another holder was waited for.

    Raises Failure if a live holder keeps it for more than a quarter of an hour.
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
    """Create the lease; True if another holder had to end before."""
    started, seen, since, told = time.monotonic(), b"", 0.0, False
    while not create(path, token):
        now = time.monotonic()
        content = read(path)
        if content is None:  # released meanwhile
            continue
        if content != seen:
            seen, since = content, now
        if lives(content) is False or now - since > DEAD_SECONDS:
            take_away(path, content, token)
            continue
        if now - started > PATIENCE_SECONDS:
            raise Failure(
                f"{job.directory}: still being written by {holder_of(content)} after {PATIENCE_SECONDS:.0f} s"
                "; wait for it to end, or stop it (its state is kept), and run again"
            )
        if not told:
            print(f"{job.run}  waits for {holder_of(content)}, at work on the same result", file=sys.stderr)
            sys.stderr.flush()
            told = True
        time.sleep(POLL_SECONDS)
    return told or bool(seen)


def create(path: Path, token: str, **facts: str) -> bool:
    """Create a lease in this process's name, with further facts; False if the file is there."""
    try:
        with path.open("xb") as file:
            file.write(_content(token, 0, **facts))
    except FileExistsError:
        return False
    return True


def take_away(path: Path, content: bytes, token: str) -> None:
    """Remove a dead holder's lease; if it was another's by the time it was moved, give it back."""
    aside = path.with_suffix(f".{token}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if read(aside) != content:
        with suppress(OSError):  # a third one has it by now; the robbed one ends at its next beat
            os.link(aside, path)
    aside.unlink()


def _beat(path: Path, token: str, job: Job, ended: threading.Event) -> None:
    """Keep the lease alive; end the process if it was lost."""
    beat = 0
    while not ended.wait(BEAT_SECONDS):
        content = read(path)
        if _token(content) != token and not ended.is_set():
            holder = holder_of(content) if content else "nobody, its file is gone"
            print(
                f"hlrs: {job.run}: this process was thought dead and its work was taken over by {holder}; "
                "it ends without writing",
                file=sys.stderr,
                flush=True,
            )
            os._exit(INTERRUPTED)
        beat += 1
        with suppress(Exception), replacing(path) as temporary:  # a full disk must not end the work
            temporary.write_bytes(_content(token, beat))


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
    """What tells a process of this machine from any other, also from a later one of the same id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no such process, or a system without /proc
        return {"pid": pid, "machine": None, "born": None}
    ended = status[0] in "ZX"  # but its parent has not asked how
    return {"pid": pid, "machine": f"{boot} {namespace}", "born": None if ended else status[19]}


def lives(content: bytes) -> bool | None:
    """Whether the holder is at work; None if it is no process of this machine, so that nobody can tell."""
    facts, own = facts_of(content), _process(os.getpid())
    if not facts.get("machine") or facts["machine"] != own["machine"]:
        return None
    return bool(_process(int(facts["pid"]))["born"] == facts["born"])


def holder_of(content: bytes) -> str:
    """The holder's process, host and SLURM job, in words."""
    facts = facts_of(content)
    job = f" (SLURM job {facts['slurm_job']})" if facts.get("slurm_job") else ""
    return f"process {facts.get('pid', '?')} on {facts.get('host', 'an unknown host')}{job}"


def facts_of(content: bytes | None) -> dict[str, Any]:
    """What a lease says; nothing if it is only half written."""
    try:
        facts = json.loads(content or b"")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _token(content: bytes | None) -> str | None:
    return facts_of(content).get("token")


def read(path: Path) -> bytes | None:
    """A lease's content; None if there is none, or none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


RUN = Path(".hlrs/run.json")  # while a snakemake that runs jobs is at work


LOCKS = Path(".snakemake/locks")  # Snakemake's own lock, which names nobody and outlives a killed one


def claim() -> None:
    """Take the folder until this process ends. Failure if another one has it that is, or may be, at work.

    What a killed one of this machine left, its claim and Snakemake's lock, is removed.
    """
    token, since = uuid.uuid4().hex, datetime.now().astimezone().isoformat(timespec="seconds")
    RUN.parent.mkdir(parents=True, exist_ok=True)
    while not create(RUN, token, since=since, command=_command(), group=str(os.getpgrp())):
        if (left := _left_behind()) is not None:
            take_away(RUN, left, token)
            shutil.rmtree(LOCKS, ignore_errors=True)
    atexit.register(_release, token, os.getpid())


def refuse_beside() -> None:
    """Failure if a workflow is, or may be, at work in this folder."""
    _left_behind()


def unlock() -> None:
    """Remove the claim, on the user's word that nobody is at work. Failure if somebody is seen to be."""
    content = read(RUN)
    if content is not None and lives(content):
        raise Failure(_refusal(content))
    RUN.unlink(missing_ok=True)


def _left_behind() -> bytes | None:
    """The claim of a process that is gone; None if there is none. Failure if it is not known to be gone."""
    content = read(RUN)
    if content is None and not RUN.exists():
        return None
    if lives(content or b"") is not False:
        raise Failure(_refusal(content or b""))
    return content


def _command() -> str:
    """What this process was called with, and by which DVC stage."""
    stage = os.environ.get("DVC_STAGE")
    return shlex.join(["snakemake", *sys.argv[1:]]) + (f" (by DVC, stage {stage})" if stage else "")


def _refusal(content: bytes) -> str:
    facts = facts_of(content)
    since = f" since {datetime.fromisoformat(facts['since']):%Y-%m-%d %H:%M}" if "since" in facts else ""
    work = f"{facts.get('command', 'a snakemake')}, {holder_of(content)}, is at work in this folder{since}"
    if lives(content):
        stop = f"stop it (Ctrl-C, or `kill -INT -{facts['group']}`; nothing is lost)"
        return f"{work}; wait for it to end, or {stop}, and run again"
    return f"{work}; wait for it to end; if it is no more, `snakemake --unlock`, and run again"


def _release(token: str, pid: int) -> None:
    if os.getpid() == pid and facts_of(read(RUN)).get("token") == token:  # not in a fork, not if unlocked
        RUN.unlink(missing_ok=True)
