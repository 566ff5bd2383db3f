"""Whether Triton kernels can be compiled on this machine, and which maps they take."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

KERNEL_DEVICE = "cuda"
PREBUILT = Path(
    sys.prefix, "lib", "triton", "cuda_utils.so"
)  # in the container's image (containers/install.sh)


def takes_kernels(x: "Tensor", times: int = 1) -> bool:
    """Whether our kernels can read a map and write maps `times` as large.

    They need a GPU, a compiler, a supported type, and at most 2³¹ − 1 numbers (32-bit indices).
    """
    import torch

    supported = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if x.device.type != KERNEL_DEVICE or not supported or missing():
        return False
    return times * x.numel() < 2**31


@cache
def missing() -> str:
    """Return why Triton kernels cannot be compiled here; empty if they can.

    Triton, which comes with PyTorch, compiles some C, once per machine. Searches also work without, slower.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if PREBUILT.is_file():
        return ""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler found: install gcc, or set CC"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"{headers} has no Python.h: install Python's headers (python3-dev)"
    return ""


def use_prebuilt() -> None:
    """Have Triton take the library that the container's image holds, where there is no compiler."""
    if PREBUILT.is_file():
        from triton import knobs  # slow to import

        knobs.build.impl = _take


def _take(name: str, source: str, folder: str, *libraries: Any) -> str:
    """Put the library of a C source into a folder, in place of Triton's call of the compiler."""
    if name != PREBUILT.stem:
        raise RuntimeError(f"Triton asks for {name}, which the image lacks, and there is no C compiler")
    return shutil.copy(PREBUILT, folder)
