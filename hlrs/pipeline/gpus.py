"""The GPUs of a machine without a queue: a job takes the one that the fewest jobs use.

SLURM gives each job its GPU. Elsewhere PyTorch would start all of them on the first one.
"""

import errno
import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hlrs.pipeline.slurm import ask

GPU_STAGES = ("search", "retrain", "evaluate")
MOST = 100  # jobs per GPU that are told apart


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it; where it shares the processor's memory, its own is 0."""

    uuid: str
    used: float  # bytes
    total: float  # bytes


def listed() -> list[Gpu]:
    """Return this machine's GPUs; none without nvidia-smi or if it does not answer."""
    answer = ask("nvidia-smi", "--query-gpu=uuid,memory.used,memory.total", "--format=csv,noheader,nounits")
    rows = [[field.strip() for field in line.split(",")] for line in (answer or "").splitlines()]
    return [Gpu(row[0], _bytes(row[1]), _bytes(row[2])) for row in rows if len(row) == 3]


def _bytes(mebibytes: str) -> float:
    return float(mebibytes) * 2**20 if mebibytes.isdecimal() else 0.0  # else [N/A]


def available(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that a process with this environment may use, named as in CUDA_VISIBLE_DEVICES.

    Those that CUDA_VISIBLE_DEVICES names; without it all of this machine, the least used memory first, but
    none in a SLURM job, which was given none. None with HLRS_DEVICE=cpu.
    """
    if environment.get("HLRS_DEVICE") == "cpu":
        return []
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = itertools.takewhile(lambda name: name != "-1", named.split(","))  # CUDA reads no further
        return [name for name in names if name not in ("", "NoDevFiles")]
    if "SLURM_JOB_ID" in environment:
        return []
    return [gpu.uuid for gpu in sorted(listed(), key=lambda gpu: gpu.used)]


def take_one() -> None:
    """Leave this process one GPU of several, until it ends: the first of those that the fewest jobs took.

    To be called before CUDA starts, which reads CUDA_VISIBLE_DEVICES once.
    """
    gpus = available(os.environ)
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = _least_taken(gpus)


def _least_taken(gpus: Sequence[str]) -> str:
    """Take the lowest free place on a GPU; other processes of this machine see it taken until this one ends.

    A place is an abstract socket's name: the kernel gives it to one process and frees it when that one ends.
    """
    for place, gpu in itertools.product(range(MOST), gpus):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0hlrs-gpu-{gpu}-{place}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:  # no such names on this system
                break
        else:
            claim.detach()  # stays open until the process ends
            return gpu
    return gpus[0]
