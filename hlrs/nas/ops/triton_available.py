"""Whether Triton kernels can be compiled here, and which maps they take."""

import importlib.util
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hlrs.nas.ops import triton_available

KERNEL_DEVICE = "cuda"  # whose maps kernels of our own convolve


KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes_kernels(x: Tensor, times: int = 1) -> bool:
    """Whether kernels of our own read the map and write maps so many times as large: on a GPU.

    Where they can be compiled, and count in 32 bits.
    """
    if x.device.type != KERNEL_DEVICE or x.dtype not in KERNEL_TYPES or triton_available.missing():
        return False
    return times * x.numel() < 2**31


@cache
def missing() -> str:
    """Why it cannot; nothing if it can.

    They are in Triton, which comes with PyTorch, and compiles a little C for each. Searches work without.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler: install gcc, or name one by CC"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"{headers} has no Python.h: install Python's headers (python3-dev)"
    return ""
