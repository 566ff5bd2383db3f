"""A tiny workflow whose start and jobs are one process: it begins at once and can be killed.

For programs of their own, not for tests: they fork, once everything is imported and the code is digested.
"""

import contextlib
import copy
import hashlib
import importlib
import multiprocessing
import os
import sys
from pathlib import Path

import yaml

from hlrs.artifacts.jobs import PROVENANCE, STAGES, Job
from tests.conftest import TINY

FORK = multiprocessing.get_context("fork")
LATE = ("torch._dynamo", "sklearn.datasets", "pyarrow.dataset", "safetensors.torch")  # imported when needed
SECONDS = 240.0  # until a workflow or command counts as hanging
FAULTS = ("Traceback", "unforeseen", "report this bug")  # of hlrs, in what it prints


def write_params(folder: Path, *methods: str, seeds: int = 1) -> None:
    """Write TINY's params for these methods, with fewer images and epochs."""
    params = copy.deepcopy(TINY)
    params["matrix"] |= {"methods": list(methods), "seeds": list(range(seeds))}
    params["datasets"]["digits"]["max_per_class"] = 20
    params["datasets"]["digits"]["groups"] = {"many_above": 10, "few_below": 4}
    params["search"]["epochs"] = params["retrain"]["epochs"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def begin(folder: str) -> None:
    """Make a forked process one of hlrs in a folder, impatient with dead holders."""
    import hlrs.training.loop
    from hlrs.pipeline import locks

    os.chdir(folder)
    sys.stderr = sys.stdout = Path("log").open("a", buffering=1)  # noqa: SIM115 - as long as the process
    hlrs.training.loop.CHECKPOINT_SECONDS = 0.0  # many kills then hit the writing of one
    locks.BEAT_SECONDS, locks.DEAD_SECONDS, locks.POLL_SECONDS, locks.TORN_SECONDS = 0.1, 2.0, 0.05, 0.1


def make() -> None:
    """Claim the current folder, make what its params ask for, and publish it."""
    from hlrs.config.params import load
    from hlrs.errors import in_one_line
    from hlrs.pipeline import locks
    from hlrs.pipeline.execute import execute
    from hlrs.pipeline.plan import due, freeze, plan, publish, restore

    with in_one_line(), locks.claimed("workflow"):
        jobs = plan(load(Path("params.yaml")))
        freeze(jobs)
        restore(jobs)
        for job in due(jobs):
            execute(job)
        publish(jobs)


def _workflow(folder: str) -> None:
    begin(folder)
    make()


def warm(folder: Path) -> list[Job]:
    """Import what commands need and digest the code, for the processes to come; return the folder's jobs."""
    from hlrs.config.params import load
    from hlrs.pipeline.plan import plan
    from hlrs.provenance.audit import Audit

    for name in (*(f"hlrs.stages.{stage}" for stage in STAGES), *LATE):
        importlib.import_module(name)
    with contextlib.chdir(folder):
        jobs = plan(load(Path("params.yaml")))
        list(Audit(jobs).findings())
    return jobs


def start(folder: Path):
    """Start the workflow in a new process."""
    process = FORK.Process(target=_workflow, args=(str(folder),))
    process.start()
    return process


def run(folder: Path) -> int | None:
    """Run the workflow to its end; return its exit status, None if it hangs."""
    process = start(folder)
    process.join(SECONDS)
    status = process.exitcode
    process.kill()
    process.join()
    return status


def finish(folder: Path) -> None:
    """Run the workflow, which must succeed."""
    assert run(folder) == 0, (folder / "log").read_text()


def contents(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of every result but the records, and the page that shows their times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "results").glob("[!.]*/**/*"))
        if path.is_file() and path.name not in (PROVENANCE, "index.html")
    }


def broken(folder: Path) -> list[str]:
    """What the audit finds broken."""
    from hlrs.config.params import load
    from hlrs.pipeline.plan import plan
    from hlrs.provenance.audit import Audit

    with contextlib.chdir(folder):
        found = [*Audit(plan(load(Path("params.yaml")))).findings()]
    return [f"{finding.path}: {finding.what}" for finding in found if finding.broken]


def faults(folder: Path) -> list[str]:
    """Lines of the log that only a bug in hlrs prints."""
    lines = (folder / "log").read_text().splitlines()
    return [line for line in lines if any(sign in line for sign in FAULTS)]
