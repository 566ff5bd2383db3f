"""Schedules of learning rates: pure functions of progress t in [0, 1].

The family for the architecture parameters is our own reading of HLRS (docs/methods.md); `cosine` is also
what the weights follow (DARTS, §3.1; Loshchilov & Hutter 2017 without restarts).
"""

import math
from collections.abc import Callable
from typing import Any


def constant(t: float) -> float:
    """1."""
    return 1.0


def cosine(t: float, final: float) -> float:
    """final + (1 − final)(1 + cos πt)/2."""
    return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2


def linear(t: float, final: float) -> float:
    """1 − (1 − final)t."""
    return 1 - (1 - final) * t


def step(t: float, at: float, factor: float) -> float:
    """1 before `at`, `factor` from there on."""
    return 1.0 if t < at else factor


def freeze(t: float, at: float) -> float:
    """1 before `at`, 0 from there on."""
    return 1.0 if t < at else 0.0


def exponential(t: float, final: float) -> float:
    """final^t."""
    return math.pow(final, t)


SCHEDULES: dict[str, Callable[..., float]] = {
    schedule.__name__: schedule for schedule in (constant, cosine, linear, step, freeze, exponential)
}


def factor(t: float, mixing: float | None, kind: str, **options: Any) -> float:
    """Factor on the alphas' learning rate at progress t; `coupled` follows the mixing coefficient."""
    if kind == "coupled":
        assert mixing is not None  # config.Method refuses it
        return mixing
    return SCHEDULES[kind](t, **options)
