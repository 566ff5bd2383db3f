"""Neural architecture search for long-tailed images, as a versioned workflow.

`hlrs.load`, `results`, `genotype`, `draw`, `Network` and `register_timm` are for notebooks and training loops
of one's own (docs/python.md). Each loads when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrs.inference.python import Network, draw, genotype, load, results
    from hlrs.inference.timm_models import register_timm

__version__ = "0.1.0"
__all__ = ["Network", "draw", "genotype", "load", "register_timm", "results"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "timm_models" if name == "register_timm" else "python"
    return getattr(import_module(f"hlrs.inference.{home}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
