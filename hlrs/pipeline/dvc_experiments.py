"""Exchange results with queued experiments of `dvc exp run`.

DVC runs a queued experiment in a folder of its own, which starts from the recorded baseline and is deleted at
the end. In the checkout, `dvc exp run` begins with a forced checkout, which deletes unrecorded files. The
path of a result identifies what it depends on, so a result is valid wherever it was computed.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from hlrs.artifacts.jobs import ASIDE, PROVENANCE, Job
from hlrs.errors import UserError
from hlrs.provenance.dvc_lock import LOCK

EXPERIMENTS = Path(".dvc/tmp/exps")  # of a checkout: the folders of its queued experiments


def fetch(jobs: list[Job]) -> None:
    """Copy these jobs' results and checkpoints from the checkout into a queued experiment's folder."""
    checkout = _checkout()
    if checkout is None or checkout == Path.cwd():
        return
    for job in jobs:
        if not job.complete:
            for root in (checkout, checkout / ASIDE):
                if all((root / path).is_file() for path in job.outputs):
                    _copy(root / job.directory, job.directory)
            _copy(checkout / job.checkpoint, job.checkpoint)


def shelve(jobs: list[Job], since: float) -> None:
    """Save the jobs' new results and checkpoints from DVC after a phase failed and nothing was recorded.

    `since`: time in seconds since the epoch from which results count as new.
    """
    checkout = _checkout()
    if checkout is None:
        return
    for job in jobs:
        if not job.complete:
            _copy(job.checkpoint, checkout / job.checkpoint, newer=True)
        elif job.output(PROVENANCE).stat().st_mtime >= since:
            _copy(job.directory, checkout / ASIDE / job.directory)


def unrecorded(jobs: list[Job], since: float) -> str:
    """Warn of new results that DVC would delete; empty under DVC, and where nothing was ever recorded.

    `since`: as of `shelve`.
    """
    if os.environ.get("DVC_ROOT") or not LOCK.is_file():
        return ""
    new = [job for job in jobs if job.complete and job.output(PROVENANCE).stat().st_mtime >= since]
    if not new:
        return ""
    return (
        f"{len(new)} results are new: record them (`dvc repro`, which runs nothing) before "
        "`dvc exp run` or `dvc exp apply`, which delete what is not recorded"
    )


def _checkout() -> Path | None:
    """Return the folder where the user called DVC; None if DVC did not start this process.

    UserError if this folder is neither that nor one of its experiments.
    """
    root, here = os.environ.get("DVC_ROOT"), Path.cwd()
    if not root:
        return None
    if here != Path(root).resolve() and Path(root, EXPERIMENTS).resolve() not in here.parents:
        raise UserError(f"DVC_ROOT={root}: not this checkout, nor that of its experiment; unset it")
    return Path(root)


def _copy(source: Path, target: Path, *, newer: bool = False) -> None:
    """Copy a file or folder atomically if it exists and the target does not; `newer`: over an older file."""
    if not source.exists():
        return
    if target.exists() and not (newer and source.stat().st_mtime > target.stat().st_mtime):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # moved or created in the meantime: the copy only saves time
        if source.is_dir():
            shutil.copytree(source, temporary)
        else:
            shutil.copy2(source, temporary)
        temporary.rename(target)
    if temporary.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.unlink(missing_ok=True)
