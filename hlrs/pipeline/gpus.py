"""The GPUs of a machine without a queue: a job takes the one that the fewest jobs use.

SLURM gives each job its GPU. Elsewhere PyTorch would start all of them on the first one.
"""

import errno
import functools
import itertools
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hlrs.pipeline.slurm import ask
from hlrs.training.device import named_gpus

GPU_STAGES = ("search", "retrain", "evaluate")
MOST = 100  # jobs per GPU that are told apart


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it; memory in bytes, where it has its own and can be read."""

    index: str
    uuid: str
    used: float | None
    total: float | None


@functools.cache
def listed() -> list[Gpu]:
    """Return this machine's GPUs; none without nvidia-smi or if it does not answer."""
    facts = "--query-gpu=index,uuid,memory.used,memory.total"
    answer = ask("nvidia-smi", facts, "--format=csv,noheader,nounits") or ""
    rows = [[field.strip() for field in line.split(",")] for line in answer.splitlines()]
    whole = (row for row in rows if len(row) == 4 and _is_uuid(row[1]))
    return [Gpu(index, uuid, _bytes(used), _bytes(total)) for index, uuid, used, total in whole]


def _is_uuid(name: str) -> bool:
    return name.startswith("GPU-")  # else [GPU is lost], or an error's text


def _bytes(mebibytes: str) -> float | None:
    return float(mebibytes) * 2**20 if mebibytes.isdecimal() else None


def available(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that a process with this environment may use, named as in CUDA_VISIBLE_DEVICES.

    Those that CUDA_VISIBLE_DEVICES names; without it all of this machine, the least used memory first, but
    none in a SLURM job, which was given none. None with HLRS_DEVICE=cpu.
    """
    if environment.get("HLRS_DEVICE") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return named_gpus(environment["CUDA_VISIBLE_DEVICES"])
    if "SLURM_JOB_ID" in environment:
        return []
    return [gpu.uuid for gpu in sorted(listed(), key=lambda gpu: math.inf if gpu.used is None else gpu.used)]


def take_one() -> None:
    """Leave this process one GPU, until it ends: the first of those that the fewest jobs took.

    To be called before CUDA starts, which reads CUDA_VISIBLE_DEVICES once.
    """
    if gpus := available(os.environ):
        taken = _least_taken(gpus)  # the only one, too: other jobs may have a choice
        if len(gpus) > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = taken


def _least_taken(gpus: Sequence[str]) -> str:
    """Take the lowest free place on a GPU; other processes of this machine see it taken until this one ends.

    A place is an abstract socket's name: the kernel gives it to one process and frees it when that one ends.
    """
    allocation = os.environ.get("SLURM_JOB_ID", "")  # within which GPUs may be counted from 0
    for place, gpu in itertools.product(range(MOST), gpus):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0hlrs-gpu-{allocation}-{gpu if allocation else _uuid(gpu)}-{place}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:  # no such names on this system
                break
        else:
            claim.detach()  # stays open until the process ends
            return gpu
    return gpus[0]


def _uuid(name: str) -> str:
    """Return the UUID of a GPU that is named by its index or the beginning of its UUID, if it is listed."""
    for gpu in listed():
        if gpu.index == name or (_is_uuid(name) and gpu.uuid.startswith(name)):
            return gpu.uuid
    return name
