"""The reference: Tomorrowdawn/darts_torch2.1 on GitHub (commit 21482c0), read from a clone, on any device.

None of it is committed here. For a CPU its modules are compiled without their calls of CUDA.
"""

import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch

MODULES = ("genotypes", "operations", "utils", "model_search", "model", "architect")


def load(clone: Path, device: torch.device) -> dict[str, types.ModuleType]:
    """Load the reference's modules by name; SystemExit if `clone` does not hold them."""
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


def as_it_runs(step: Callable[[], None]) -> Callable[[], None]:
    """Give the reference's step its scripts' settings: cuDNN's fastest algorithms, deterministic or not."""

    @functools.wraps(step)
    def run() -> None:
        ours = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        step()
        torch.use_deterministic_algorithms(ours[0], warn_only=True)
        torch.backends.cudnn.benchmark = ours[1]

    return run
