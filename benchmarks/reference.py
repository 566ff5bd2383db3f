"""The reference: Tomorrowdawn/darts_torch2.1 on GitHub (commit 21482c0), read from a clone, on any device.

None of it is committed here. For a CPU its modules are compiled with their calls of CUDA taken out.
"""

import sys
import types
from pathlib import Path

import torch

MODULES = ("genotypes", "operations", "utils", "model_search", "model", "architect")


def load(clone: Path, device: torch.device) -> dict[str, types.ModuleType]:
    """The reference's modules by name; SystemExit where `clone` does not hold them."""
    loaded = {}
    for name in MODULES:
        path = clone / "cnn" / f"{name}.py"
        if not path.is_file():
            sys.exit(
                f"{path}: missing; clone github.com/Tomorrowdawn/darts_torch2.1, pass --reference CLONE "
                "(make bench REFERENCE=CLONE)"
            )
        module = types.ModuleType(name)
        sys.modules[name] = module  # they import one another by these names
        source = path.read_text()
        if device.type == "cpu":
            source = source.replace(".cuda()", "").replace("torch.cuda.FloatTensor", "torch.FloatTensor")
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102
        loaded[name] = module
    return loaded
