"""Locks: a lease allows one writer per result, a claim one workflow per `results/`.

A lock is a file that appears whole, under a name that nobody else has taken, and names its holder. It lies in
`results/`, so that all checkouts whose `results/` is one folder obey it. The holder of a lease rewrites it
every few seconds. Another process that needs it waits, and takes it over once the holder is dead: its process
on this machine has ended, or the file stays unchanged for a minute by the waiting process's own clock. A
holder that finds another name in its file (it was frozen or disconnected, and presumed dead) exits at once. A
file system with unreliable locks or clocks thus costs at most the work since the last checkpoint: results are
renamed into place whole, and their bytes do not depend on who writes them.

A lock that names no holder is nobody's: one that is torn, edited or no file at all. It is set aside.
"""

import atexit
import json
import os
import platform
import shlex
import shutil
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from hlrs.artifacts.files import aside_of, say_aside, set_aside
from hlrs.artifacts.jobs import STATE, Job
from hlrs.errors import INTERRUPTED, Failure
from hlrs.pipeline.slurm import own_job

LEASES = STATE / "leases"
RUN = STATE / "run.json"  # the claim of a snakemake that runs jobs
SNAKEMAKE_LOCKS = Path(".snakemake/locks")  # Snakemake's own, which name no owner and survive a kill

BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0  # without a beat
PATIENCE_SECONDS = 900.0
POLL_SECONDS = 0.5
TORN_SECONDS = 2.0  # without a change of a claim that names nobody: on some file systems it is being written
LIMIT_BYTES = 10_000_000  # that are read of a lock file


# --- one writer per result: the lease of a job's key ---------------------------------------------------


@contextmanager
def lease(job: Job) -> Iterator[bool]:
    """Hold the lease of a job's key; yield whether another holder had to be waited for.

    Raises Failure if a live holder keeps it for more than `PATIENCE_SECONDS`.
    """
    path, token = LEASES / f"{job.key}.json", uuid.uuid4().hex
    waited = _acquire(path, token, job)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, token, job, ended), daemon=True)
    heart.start()
    try:
        yield waited
    finally:
        ended.set()
        heart.join()
        _release(path, token)


def leased(key: str) -> bool:
    """Whether a job is writing the result of a key: its holder lives, or was heard of a short time ago."""
    path = LEASES / f"{key}.json"
    holder = Holder.of(read(path))
    if holder is None:
        return False
    alive = holder.lives()
    with suppress(FileNotFoundError):  # clocks of hosts differ, by less than this
        return time.time() - path.stat().st_mtime < PATIENCE_SECONDS if alive is None else alive
    return False


def holder_of(key: str) -> "Holder | None":
    """Return who holds the lease of a key; None if nobody does."""
    return Holder.of(read(LEASES / f"{key}.json"))


def _acquire(path: Path, token: str, job: Job) -> bool:
    """Create the lease; return whether another holder had to end first."""
    started, since, announced, waited = time.monotonic(), 0.0, False, False
    seen: bytes | None = None
    while not create(path, token):
        waited = True
        now = time.monotonic()
        content = read(path)
        if content is None:  # released in the meantime
            continue
        if content != seen:
            seen, since = content, now
        holder = Holder.of(content)
        if (holder and holder.lives() is False) or now - since > DEAD_SECONDS:
            take_away(path, content, token)
            continue
        if now - started > PATIENCE_SECONDS:
            raise Failure(
                f"{job.directory}: still being written by {holder or NOBODY} after {PATIENCE_SECONDS:.0f} s"
                "; wait for it to finish or stop it (its state is kept), then rerun"
            )
        if not announced:
            print(f"{job.run}  waiting for {holder or NOBODY}: same result", file=sys.stderr, flush=True)
            announced = True
        time.sleep(POLL_SECONDS)
    return waited


def _beat(path: Path, token: str, job: Job, ended: threading.Event) -> None:
    """Rewrite the lease until `ended`; exit the process if another has taken it over."""
    beat = 0
    while not ended.wait(BEAT_SECONDS):
        try:
            content = read(path)
        except Failure:  # the new holder's name shows once the file is back in reach
            continue
        holder = Holder.of(content)
        if not (holder and holder.token == token) and not ended.is_set():
            lost = "deleted" if content is None else f"taken over by {holder or NOBODY}"
            print(
                f"hlrs: {job.run}: lease lost ({lost}): this process was presumed dead; "
                "it exits without writing",
                file=sys.stderr,
                flush=True,
            )
            os._exit(INTERRUPTED)
        beat += 1
        with suppress(OSError), _written(path, token, beat) as whole:  # a full disk must not end the work
            whole.replace(path)


# --- one workflow per results/: the claim --------------------------------------------------------------


def claim() -> None:
    """Claim `results/` until this process ends. Failure if another workflow runs, or may run, on it.

    Removes the claim of a workflow that was killed on this machine, and Snakemake's lock: its owner is dead.
    """
    token = _claim(shlex.join(["snakemake", *sys.argv[1:]]))
    shutil.rmtree(SNAKEMAKE_LOCKS, ignore_errors=True)
    atexit.register(_release_own, token, os.getpid())


@contextmanager
def claimed(command: str) -> Iterator[None]:
    """Hold the claim for a command. Failure if a workflow runs, or may run, on these results."""
    token = _claim(command)
    try:
        yield
    finally:
        _release(RUN, token)


def unlock() -> None:
    """Remove the claim at the user's request. Failure if its holder is known to be alive."""
    try:
        holder = Holder.of(read(RUN))
    except Failure:
        holder = None
    if holder and holder.lives():
        raise Failure(_refusal(holder))
    with _reporting(RUN):
        if holder:
            RUN.unlink(missing_ok=True)
        elif os.path.lexists(RUN):
            set_aside(RUN, "the results are unlocked")


def _claim(command: str) -> str:
    """Create the claim; return its token."""
    token, stage = uuid.uuid4().hex, os.environ.get("DVC_STAGE")
    facts = {
        "command": command + (f" (by DVC, stage {stage})" if stage else ""),
        "folder": str(Path.cwd()),
        "group": os.getpgrp(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    while not create(RUN, token, **facts):
        if (dead := _dead_claim()) is not None:
            take_away(RUN, dead, token)
    return token


def _dead_claim() -> bytes | None:
    """Return the claim of a dead process, or one that names nobody; None if it is gone or being written.

    Failure if its holder may be alive.
    """
    content = read(RUN)
    holder = Holder.of(content)
    if holder is None:
        time.sleep(TORN_SECONDS)
        return content if read(RUN) == content else None
    if holder.lives() is not False:
        raise Failure(_refusal(holder))
    return content


def _refusal(holder: "Holder") -> str:
    here = holder.folder in (None, str(Path.cwd()))
    where = "this folder" if here else f"{holder.folder} (the same results/)"
    since = f" since {holder.since:%Y-%m-%d %H:%M}" if holder.since else ""
    work = f"{holder.command or 'a snakemake'}, {holder}, is running in {where}{since}"
    if holder.lives():
        how = f"Ctrl-C, or `kill -INT -{holder.group}`" if holder.group else "Ctrl-C"
        return f"{work}; wait for it to finish or stop it ({how}; nothing is lost), then rerun"
    return f"{work}; wait for it to finish; if it has already gone, run `snakemake --unlock` and rerun"


def _release_own(token: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        _release(RUN, token)


# --- lock files, for both ------------------------------------------------------------------------------


def create(path: Path, token: str, **facts: Any) -> bool:
    """Create a lock file that names this process, with further facts; return False if it exists.

    Failure if it cannot be written, which leaves no file.
    """
    if os.path.lexists(path):
        return False
    with _reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _written(path, token, 0, **facts) as whole:
            return _link(whole, path) or _is_of(path, token)  # NFS may repeat a link that it has made


def take_away(path: Path, content: bytes, token: str) -> None:
    """Remove a dead holder's lock file, unless another process has taken it over in the meantime.

    One that names nobody is set aside.
    """
    named = Holder.of(content) is not None
    aside = path.with_name(f".{path.name}.{token}.old") if named else aside_of(path)
    with _reporting(path):
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if read(aside) != content:
            with suppress(OSError):  # a third process has it by now; the one robbed exits at its next beat
                _link(aside, path)
            aside.unlink()
        elif named:
            aside.unlink()
        else:
            say_aside(path, aside, "it names no process")


def read(path: Path) -> bytes | None:
    """Read a lock file; return None if it is missing, b"" if it is no file. Failure if it is out of reach."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; let every user of these results read it") from None


def _release(path: Path, token: str) -> None:
    with suppress(Failure, OSError):  # what stays is a dead holder's
        if _is_of(path, token):  # not after it was taken over, nor after an unlock
            path.unlink()


def _is_of(path: Path, token: str) -> bool:
    holder = Holder.of(read(path))
    return holder is not None and holder.token == token


@contextmanager
def _written(path: Path, token: str, beat: int, **facts: Any) -> Iterator[Path]:
    """In the body, a lock file that is whole lies beside `path`."""
    temporary = path.with_name(f".{path.name}.{token}.tmp")
    here = {"host": platform.node(), "slurm_job": own_job(), **_process(os.getpid())}
    content = {**facts, **here, "token": token, "beat": beat}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        with temporary.open("wb") as file:
            file.write(text.encode(errors="replace"))  # an argument may not be UTF-8
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _link(source: Path, path: Path) -> bool:
    """Give a file a second name; return False if that is taken."""
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _copy(source, path)
    return True


def _copy(source: Path, path: Path) -> bool:
    try:
        with path.open("xb") as file:
            try:
                file.write(source.read_bytes())
                file.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one line."""
    try:
        yield
    except OSError as error:
        raise Failure(f"{path}: could not be written: {error.strerror}; correct that and rerun") from None


# --- holders -------------------------------------------------------------------------------------------


NOBODY = "an unknown process"


def _or_none(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        return check(value)
    except ValueError:
        return None


def on_one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


OrNone = WrapValidator(_or_none)  # for what is only shown
Shown = Annotated[str | None, AfterValidator(lambda text: text and on_one_line(text)), OrNone]


class Holder(BaseModel):
    """The process that a lock file names."""

    model_config = ConfigDict(frozen=True, strict=True)

    token: str
    pid: int
    machine: str | None
    born: str | None
    host: Shown = None
    slurm_job: Shown = None
    command: Shown = None
    folder: Shown = None
    group: Annotated[Annotated[int, Field(gt=1)] | None, OrNone] = None  # 1 would stand for every process
    since: Annotated[Annotated[datetime, Field(strict=False)] | None, OrNone] = None

    @classmethod
    def of(cls, content: bytes | None) -> "Holder | None":
        """Return the holder that a lock file names; None if it names nobody."""
        try:
            return cls.model_validate_json(content or b"")
        except ValidationError:
            return None

    def lives(self) -> bool | None:
        """Return whether the holder is alive; None if it is not a process of this machine, hence unknown."""
        if not self.machine or self.machine != _process(os.getpid())["machine"]:
            return None
        return self.born is not None and _process(self.pid)["born"] == self.born

    def __str__(self) -> str:
        job = f" (SLURM job {self.slurm_job})" if self.slurm_job else ""
        return f"process {self.pid} on {self.host or 'an unknown host'}{job}"


def _process(pid: int) -> dict[str, Any]:
    """Identify a process of this machine, also against a later one with the same id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        stat = Path(f"/proc/{pid}/stat").read_bytes()  # holds 15 bytes of the name: perhaps half a character
        status = stat.rpartition(b")")[2].decode().split()
    except OSError:  # no such process, or a system without /proc
        return {"pid": pid, "machine": None, "born": None}
    ended = status[0] in "ZX"  # a zombie: its parent has not collected its status
    return {"pid": pid, "machine": f"{boot} {namespace}", "born": None if ended else status[19]}
