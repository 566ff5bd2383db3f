"""One workflow at a time in a checkout: who is at work, what a second one is told, what a killed one left."""

import atexit
import os
import shlex
import shutil
import sys
import uuid
from datetime import datetime
from pathlib import Path

from hlrs.errors import Failure
from hlrs.lease import create, facts_of, holder_of, lives, read, take_away

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
