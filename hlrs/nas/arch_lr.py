"""Schedules of the alphas' learning rate: its factor at progress t in [0, 1].

Our own reading of HLRS (docs/methods.md). `mixing` is the mixing coefficient m(t), None without branches.
"""

import math
from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.methods import (
    ArchLR,
    ConstantLR,
    CosineLR,
    CoupledLR,
    ExponentialLR,
    FreezeLR,
    LinearLR,
    StepLR,
)


def constant(spec: ConstantLR, t: float, mixing: float | None) -> float:
    """1."""
    return 1.0


def cosine(spec: CosineLR, t: float, mixing: float | None) -> float:
    """final + (1 − final)(1 + cos πt)/2."""
    return spec.final + (1 - spec.final) * (1 + math.cos(math.pi * t)) / 2


def linear(spec: LinearLR, t: float, mixing: float | None) -> float:
    """1 − (1 − final)t."""
    return 1 - (1 - spec.final) * t


def step(spec: StepLR, t: float, mixing: float | None) -> float:
    """1 before `at`, `factor` from there on."""
    return 1.0 if t < spec.at else spec.factor


def freeze(spec: FreezeLR, t: float, mixing: float | None) -> float:
    """1 before `at`, 0 from there on."""
    return 1.0 if t < spec.at else 0.0


def exponential(spec: ExponentialLR, t: float, mixing: float | None) -> float:
    """final^t."""
    return math.pow(spec.final, t)


def coupled(spec: CoupledLR, t: float, mixing: float | None) -> float:
    """m(t)."""
    assert mixing is not None  # config.methods.Method refuses it
    return mixing


SCHEDULES: Kinds[Callable[..., float]] = {
    ConstantLR: constant,
    CosineLR: cosine,
    LinearLR: linear,
    StepLR: step,
    FreezeLR: freeze,
    ExponentialLR: exponential,
    CoupledLR: coupled,
}


def factor(spec: ArchLR, t: float, mixing: float | None) -> float:
    """Return the factor on the alphas' learning rate at progress t, in [0, 1]."""
    return SCHEDULES[type(spec)](spec, t, mixing)
