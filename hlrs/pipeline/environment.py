"""The environment of a job, for its record: code, package versions, image, host, device."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import sys
from typing import Any

from hlrs.artifacts.code_digest import PACKAGE
from hlrs.artifacts.git import git
from hlrs.pipeline.container import digest_of_this
from hlrs.pipeline.slurm import own_job
from hlrs.training.device import cpu_model, given_gpus

RECORDED = ("torch", "torchvision", "numpy", "pyarrow", "safetensors", "scikit-learn", "snakemake", "dvc")


def here(device: str) -> dict[str, Any]:
    """Describe the current environment; the GPU only if `device` is "cuda"."""
    return {
        **_git(),
        "versions": versions(),
        "lock": _lock_digest(),
        "image": digest_of_this(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "gpu": _gpu() if device == "cuda" else None,
        "slurm_job": own_job(),
        "slurm_gpus": given_gpus(os.environ),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the packages that its results depend on."""
    known = {"python": platform.python_version()}
    for name in ("hlrs", *RECORDED):
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def _git() -> dict[str, Any]:
    """Return the commit and whether there are uncommitted changes; both None outside a checkout.

    A package installed into an environment inside some repository is not that repository's code.
    """
    if git(PACKAGE, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    commit = git(PACKAGE, "rev-parse", "HEAD")
    status = git(PACKAGE, "status", "--porcelain", "--", ".")
    return {
        "commit": None if commit is None else commit.decode().strip(),
        "dirty": None if status is None else bool(status),
    }


def _lock_digest() -> str | None:
    lock = PACKAGE.parent / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def _gpu() -> dict[str, Any]:
    import torch

    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
    }


def peak_memory() -> int:
    """Return the peak resident set size of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
