"""Whether this machine can compile the kernels for a GPU (fused.py, pools.py, pointwise.py)."""

import importlib.util
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path


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
