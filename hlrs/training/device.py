"""Choice of a stage's device, the GPU given to the job or the CPU, and its settings.

Loads without torch: a login node asks which GPUs a job has.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from hlrs.config.base import Precision
from hlrs.errors import UserError
from hlrs.nas.ops import triton_available

if TYPE_CHECKING:
    import torch

FREE_SHARE = 0.5  # of a GPU's memory; if less is free, another process is using it
# SLURM sets one of these in a job that has a part of a GPU
SHARED = ("SLURM_SHARDS_ON_NODE", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
BFLOAT16 = 8, 0  # the compute capability from which on GPUs have it


def prepare(threads: int, precision: Precision = "float32") -> "torch.device":
    """Choose the device to train on and make its results reproducible, byte for byte.

    On a CPU, sums depend on the number of `threads`. UserError if SLURM gave GPUs that cannot be used, or if
    the GPU lacks the precision.
    """
    import torch

    torch.set_num_threads(threads)
    _keep_memory()
    if choose(os.environ) == "cpu":
        return torch.device("cpu")
    if precision == "bfloat16" and torch.cuda.get_device_capability() < BFLOAT16:
        raise UserError(
            f"precision: {torch.cuda.get_device_name()} on {platform.node()} has no bfloat16, which needs "
            "compute capability 8.0 (A100 and later); set precision to float32, or ask for another GPU"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Triton's default so far; 3.9 warns that it will change
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    if triton_available.missing():
        reason = f"{triton_available.missing()} (hlrs doctor)"
        print(f"hlrs: a search on this GPU is slower without its Triton kernels: {reason}", file=sys.stderr)
    triton_available.use_prebuilt()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling with NaN is a debugging aid that costs a pass over every map
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


def _keep_memory() -> None:
    """Make glibc keep freed memory for the next step.

    By default it returns large maps to the kernel, which clears their pages when the next step allocates
    them: a seventh of a retraining step on a CPU (docs/benchmarks.md). Other C libraries are unaffected.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping for a large block
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


def choose(environment: Mapping[str, str]) -> str:
    """Choose "cuda" or "cpu" for a process with this environment.

    HLRS_DEVICE=cpu selects the CPU. Otherwise a GPU is used if PyTorch sees one. In a SLURM job with GPUs,
    PyTorch must see all of them, each with at least half of its memory free unless it is shared; UserError
    otherwise.
    """
    import torch

    asked = environment.get("HLRS_DEVICE")
    if asked not in (None, "cpu"):
        raise UserError(
            f"HLRS_DEVICE={asked}: unknown; allowed: cpu, or unset it to use a GPU if there is one"
        )
    if asked == "cpu":
        return "cpu"
    given, seen = given_gpus(environment), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < given:
        raise UserError(
            f"SLURM gave this job {given} GPU{'s' * (given > 1)} on {platform.node()}, PyTorch sees {seen}: "
            "run `hlrs doctor` in such a job (srun --gpus=1) to see why, or set HLRS_DEVICE=cpu"
        )
    shared = any(name in environment for name in SHARED) or given < _granted(environment)
    for device in range(0 if shared else min(seen, given)):
        free, total = torch.cuda.mem_get_info(device)
        if free < FREE_SHARE * total:
            raise UserError(
                f"GPU {device} on {platform.node()} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free: "
                "another process is using it (`nvidia-smi` names it); resubmit the job, or exclude the node"
            )
    return "cuda" if seen else "cpu"


def given_gpus(environment: Mapping[str, str]) -> int:
    """Count the GPUs that SLURM gave to this process, or those of them left to it; 0 outside a SLURM job."""
    if "SLURM_JOB_ID" not in environment:
        return 0
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
    return next(filter(None, (len(named_gpus(environment.get(name, ""))) for name in names)), 0)


def _granted(environment: Mapping[str, str]) -> int:
    """Count the GPUs of the whole SLURM job, of which this process may have been left one."""
    return len(named_gpus(environment.get("SLURM_JOB_GPUS", "")))


def named_gpus(text: str) -> list[str]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names: indices and UUIDs up to what is neither."""
    names = (name.strip() for name in text.split(","))
    return list(takewhile(lambda name: name.isdecimal() or name.startswith(("GPU-", "MIG-")), names))


def cpu_model() -> str | None:
    """Return the processor's name, None if the system does not report it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
