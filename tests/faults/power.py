"""A power cut: what a folder holds after one, by what was synced before it.

A file's bytes last once the file is synced, and its name once its folder is synced afterwards. Whatever else
was written may be there, torn, full of zeros, or gone.
"""

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from hlrs.artifacts.jobs import STATE
from tests.faults import tiny
from tests.faults.tiny import FORK

SYNCED = "synced"  # in the folder, one line per sync: inode, then its mtime and the clock in ns
OWN = (SYNCED, "log", "params.yaml")


def _workflow(folder: str) -> None:
    """The workflow, which notes what it syncs."""
    tiny.begin(folder)
    notes, sync = os.open(SYNCED, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        entry = os.fstat(descriptor)
        os.write(notes, b"%d %d %d\n" % (entry.st_ino, entry.st_mtime_ns, time.time_ns()))

    os.fsync = fsync
    tiny.make()


def copies(folder: Path, beside: Path, draw: random.Random) -> Iterator[tuple[Path, set[str], set[str]]]:
    """Yield copies of the folder at random moments of a workflow in it.

    With each: the files whose bytes would not outlast a power cut, and those whose names would not.
    """
    process = FORK.Process(target=_workflow, args=(str(folder),))
    process.start()
    for number in itertools.count():
        process.join(draw.uniform(0.0, 1.0))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGSTOP)
        if not os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1]):
            break
        bytes_at_risk, names_at_risk = at_risk(folder)
        copy = Path(shutil.copytree(folder, beside / str(number)))
        os.kill(process.pid, signal.SIGCONT)
        yield copy, bytes_at_risk, names_at_risk


def at_risk(folder: Path) -> tuple[set[str], set[str]]:
    """The files whose bytes were not synced, and those whose names were not."""
    notes = (
        [line.split() for line in (folder / SYNCED).read_text().splitlines()]
        if (folder / SYNCED).exists()
        else []
    )
    versions = {(int(inode), int(changed)) for inode, changed, _ in notes}
    clocks = {int(inode): int(clock) for inode, _, clock in notes}
    torn, lost = set(), set()
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in OWN:
            entry, name = path.stat(), str(path.relative_to(folder))
            if (entry.st_ino, entry.st_mtime_ns) not in versions:
                torn.add(name)
            if clocks.get(path.parent.stat().st_ino, 0) < entry.st_ctime_ns:  # of its last renaming
                lost.add(name)
    return torn, lost


def cut(copy: Path, torn: set[str], lost: set[str], draw: random.Random) -> int:
    """Tear and lose files of a copy at random; return how many."""
    done = 0
    for name in sorted(torn | lost):
        path = copy / name
        content = path.read_bytes()
        how = draw.choice(["kept", "short", "zeros", "gone"] if name in torn else ["kept", "gone"])
        if how == "gone":
            path.unlink()
        elif how == "short":
            path.write_bytes(content[: draw.randrange(len(content) + 1)])
        elif how == "zeros":
            path.write_bytes(bytes(len(content)))
        done += how != "kept"
    return done


def start_again(copy: Path) -> list[str]:
    """Start the workflow after a power cut; return what goes wrong.

    The claim's process was one of an earlier boot, so that only `--unlock` may remove it.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for path in (copy / STATE).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(boot.encode(), b"an-earlier-boot"))
    status = tiny.run(copy)
    if status and "--unlock" in (copy / "log").read_text().splitlines()[-1]:
        unlocking = FORK.Process(target=_unlock, args=(str(copy),))
        unlocking.start()
        unlocking.join()
        status = tiny.run(copy)
    return [f"exit status {status}: {(copy / 'log').read_text()[-500:]}"] if status else []


def _unlock(folder: str) -> None:
    from hlrs.pipeline import locks

    tiny.begin(folder)
    locks.unlock()
