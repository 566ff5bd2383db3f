"""Running a job: check what it was planned with, run its stage, write its record last."""

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from hlrs import slurm
from hlrs.artifacts import CHECKPOINTS, OUTPUTS, PROVENANCE, Job, read_json, write_json
from hlrs.code import PACKAGE, code_digest
from hlrs.container import digest_of_this
from hlrs.devices import given_gpus
from hlrs.errors import Interrupted, UserError
from hlrs.fingerprint import sha256
from hlrs.lease import lease
from hlrs.preflight import check_data, check_disk
from hlrs.startup import called

RECORDED = ("torch", "torchvision", "numpy", "pyarrow", "safetensors", "scikit-learn", "snakemake", "dvc")


def execute(job: Job) -> None:
    """Run a job. UserError if its code, data or inputs are no longer what it was planned with.

    Where another process is at work on the same result, that one's is waited for and taken.
    """
    check(job)
    with _warned(job), lease(job) as waited:
        if not (waited and current(job)):
            _run(job)


@contextmanager
def _warned(job: Job) -> Iterator[None]:
    """Have the body end with Interrupted on SLURM's warning, wherever it is, and its SLURM job requeued."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"{job.run}: {slurm.WARNING.name} came; run again to go on", slurm.WARNING.name)

    before = signal.signal(slurm.WARNING, stop)  # a training sets its own while it lasts
    try:
        yield
    except Interrupted as stopped:
        signal.signal(slurm.WARNING, signal.SIG_IGN)  # it may come twice (slurm.serve_job)
        if stopped.signal == slurm.WARNING.name:
            slurm.request_requeue()
        raise
    finally:
        signal.signal(slurm.WARNING, before)


def _run(job: Job) -> None:
    """Run a job's stage and write its record."""
    for stale in job.directory.glob(".*.tmp"):  # of a run that was killed while it wrote
        stale.unlink()
    job.output(PROVENANCE).unlink(missing_ok=True)  # a kill must not leave it beside artifacts that are new
    started, clock = datetime.now(UTC), time.monotonic()
    inputs = {name: {"path": path, "sha256": sha256(Path(path))} for name, path in job.inputs.items()}
    stage = importlib.import_module(f"hlrs.stages.{job.stage}")
    called()
    facts = stage.run(job)
    record = {
        "key": job.key,
        "stage": job.stage,
        "run": job.run,
        "params": job.params,
        "code": job.code,
        "inputs": inputs,
        "outputs": {name: sha256(job.output(name)) for name in OUTPUTS[job.stage]},
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "peak_memory_bytes": _peak_memory(),
        **_environment(facts.get("device", "cpu")),
        **facts,
    }
    write_json(job.output(PROVENANCE), record | {"seal": seal(record)})
    for checkpoint in CHECKPOINTS.glob(f"*{job.key}*"):
        checkpoint.unlink()


def seal(record: dict[str, Any]) -> str:
    """SHA-256 of a record's JSON without its seal: an edited record does not fit it."""
    body = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def check(job: Job) -> None:
    """What the job was planned with is what it would run with, and there is room for what it makes."""
    if code_digest(job.stage) != job.code:
        raise UserError(
            f"{job.run}: the code of {job.stage} changed since this job was planned; run snakemake again"
        )
    for path in job.inputs.values():
        if not Path(path).is_file():
            stage = Path(path).parts[1]
            raise UserError(f"{path}: missing; `hlrs {stage}` or `snakemake {stage}_all` makes it")
    check_disk()
    check_data(job)


def current(job: Job) -> bool:
    """Whether the job's results are there and are the bytes that its record tells of."""
    if not job.complete:
        return False
    recorded = read_json(job.output(PROVENANCE))["outputs"]
    return all(recorded.get(name) == sha256(job.output(name)) for name in OUTPUTS[job.stage])


def _environment(device: str) -> dict[str, Any]:
    return {
        **_git(),
        "versions": versions(),
        "lock": _lock_digest(),
        "image": digest_of_this(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "gpu": _gpu() if device == "cuda" else None,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_gpus": given_gpus(os.environ),
    }


def versions() -> dict[str, str]:
    """Of Python, of this package, and of what its results depend on."""
    known = {"python": platform.python_version()}
    for name in ("hlrs", *RECORDED):
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def _git() -> dict[str, Any]:
    """Commit of the code, and whether it has changes that are not in it; null outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _lock_digest() -> str | None:
    lock = PACKAGE.parent / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def cpu_model() -> str | None:
    """The processor's name, None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _gpu() -> dict[str, Any]:
    import torch

    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
    }


def _peak_memory() -> int:
    """Largest resident size of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
