"""`dvc exp run`: what a queued experiment takes from its checkout, and what outlives a failed one.

DVC runs a queued experiment in a folder of its own, into which it brings what the baseline recorded, and
which it deletes at the end. In the checkout, `dvc exp run` begins with a forced checkout, which deletes what
is not recorded. Here a result's path says what it depends on, so that it serves wherever it was made.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from hlrs.artifacts.jobs import ASIDE, PROVENANCE, Job


def fetch(jobs: list[Job]) -> None:
    """Copy what the checkout has of these jobs, recorded or not, into a queued experiment's folder."""
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
    """Copy what these jobs made since a time, and the state of unfinished ones, to where DVC leaves it alone.

    For a phase that failed under DVC, of which nothing is recorded.
    """
    checkout = _checkout()
    if checkout is None:
        return
    for job in jobs:
        if not job.complete:
            _copy(job.checkpoint, checkout / job.checkpoint)
        elif job.output(PROVENANCE).stat().st_mtime >= since:
            _copy(job.directory, checkout / ASIDE / job.directory)


def _checkout() -> Path | None:
    """Where the user called DVC, also in a queued experiment's folder; None if DVC did not start this."""
    root = os.environ.get("DVC_ROOT")
    return Path(root) if root else None


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, if it is there and the target is not, whole or not at all."""
    if target.exists() or not source.exists():
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # moved away meanwhile, or made by another one: it is a saving, not a need
        if source.is_dir():
            shutil.copytree(source, temporary)
        else:
            shutil.copy2(source, temporary)
        temporary.rename(target)
    if temporary.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.unlink(missing_ok=True)
