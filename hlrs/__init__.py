"""Neural architecture search for long-tailed images, as a versioned workflow.

`hlrs.load`, `results`, `genotype`, `draw` and `Network` are for notebooks and training loops of one's own
(docs/python.md). Each loads when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrs.inference.python import Network, draw, genotype, load, results

__version__ = "0.1.0"
__all__ = ["Network", "draw", "genotype", "load", "results"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hlrs.inference.python"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
