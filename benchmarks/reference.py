"""The reference: Tomorrowdawn/darts_torch2.1 on GitHub, read from a clone, to run on any device.

Nothing of it is committed here. `load` compiles its modules anew with their `.cuda()` calls taken out, which is
all that keeps them from a CPU.
"""

import sys
import types
from pathlib import Path

COMMIT = "fa4a0d2"
MODULES = ("genotypes", "operations", "utils", "model_search", "model", "architect")


def load(clone: Path) -> dict[str, types.ModuleType]:
    """The reference's modules by name; SystemExit where `clone` does not hold them."""
    loaded = {}
    for name in MODULES:
        path = clone / "cnn" / f"{name}.py"
        if not path.is_file():
            sys.exit(f"{path}: missing; clone github.com/Tomorrowdawn/darts_torch2.1 and pass --reference CLONE")
        module = types.ModuleType(name)
        sys.modules[name] = module  # they import one another by these names
        exec(compile(path.read_text().replace(".cuda()", ""), str(path), "exec"), module.__dict__)
        loaded[name] = module
    return loaded
