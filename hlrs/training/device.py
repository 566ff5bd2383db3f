"""The device that a stage computes on: the GPU that the job was given, or the CPU."""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress

import torch

from hlrs.errors import UserError
from hlrs.nas.ops import triton_available


def prepare(threads: int) -> torch.device:
    """The device to train on, set to compute the same bytes every time; sums depend on a CPU's `threads`.

    Raises UserError where SLURM gave GPUs that cannot be used.
    """
    torch.set_num_threads(threads)
    _keep_memory()
    if choose(os.environ) == "cpu":
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # its default so far: Triton 3.9 warns of another
    if triton_available.missing():
        reason = f"{triton_available.missing()} (hlrs doctor)"
        print(f"hlrs: a search on this GPU goes without its own kernels, slower: {reason}", file=sys.stderr)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # with NaN: a debugging aid that costs a pass over every map
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


def _keep_memory() -> None:
    """Let glibc keep what a step frees for the next one.

    It gives large maps back to the kernel, which clears their pages anew when the next step asks for them:
    a seventh of a retraining step on a CPU (docs/benchmarks.md). Other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no map of its own for a large block
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


FREE_SHARE = 0.5  # of a GPU's memory: less, and somebody else is on it


def choose(environment: Mapping[str, str]) -> str:
    """Choose "cuda" or "cpu" for a process with this environment.

    HLRS_DEVICE=cpu asks for the CPU. Else a GPU is used where PyTorch sees one; in a SLURM job that was given
    GPUs all of them must be seen, with at least half of their memory free. UserError otherwise.
    """
    import torch

    asked = environment.get("HLRS_DEVICE")
    if asked not in (None, "cpu"):
        raise UserError(
            f"HLRS_DEVICE={asked}: unknown; allowed: cpu, or unset it to use a GPU where there is one"
        )
    if asked == "cpu":
        return "cpu"
    given, seen = given_gpus(environment), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < given:
        raise UserError(
            f"SLURM gave this job {given} GPU{'s' * (given > 1)} on {platform.node()}, PyTorch sees {seen}: "
            "`hlrs doctor` in such a job (srun --gpus=1) says why; HLRS_DEVICE=cpu computes on the CPU"
        )
    for device in range(seen if given else 0):
        free, total = torch.cuda.mem_get_info(device)
        if free < FREE_SHARE * total:
            raise UserError(
                f"GPU {device} on {platform.node()} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free: "
                "somebody else is on it (`nvidia-smi` names the process); run again, or exclude the node"
            )
    return "cuda" if seen else "cpu"


def given_gpus(environment: Mapping[str, str]) -> int:
    """How many GPUs SLURM gave to this process; 0 outside a SLURM job."""
    if "SLURM_JOB_ID" not in environment:
        return 0
    names = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
    visible = next((environment[name] for name in names if environment.get(name)), "")
    return len([gpu for gpu in visible.split(",") if gpu and gpu != "NoDevFiles"])
