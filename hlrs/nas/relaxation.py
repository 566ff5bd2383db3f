"""Relaxations: how the alphas of an edge become weights of its operations. Loads without torch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hlrs.config.base import Kinds
from hlrs.config.methods import Relaxation, Softmax, Sparsemax

Weights = npt.NDArray[np.float64]
Relax = Callable[[npt.NDArray[np.float32]], Weights]  # alphas, weights: [edges, operations]
ROUNDING = 1e-9  # of t/every, which is 2.9999… for 0.3/0.1


def softmax(alphas: npt.NDArray[np.float32]) -> Weights:
    """Softmax over the operations of each edge: [edges, operations]."""
    shifted = np.exp(alphas.astype(np.float64) - alphas.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def sparsemax(z: Any) -> Any:
    """Return the probabilities closest to z, along the last dimension (Martins & Astudillo 2016, eq. 2).

    p_i = max(z_i − τ, 0), such that they sum to 1. The support S are the i with Σ_j max(z_j − z_i, 0) < 1,
    which needs no order among the z (their algorithm 1 sorts), and τ = (Σ_S z_i − 1)/|S|. z: an array, or a
    tensor, to which the exact gradient passes: the Jacobian is diag(s) − s sᵀ/|S|, with s the indicator of S.
    """
    support = (z[..., None, :] - z[..., None]).clip(min=0).sum(-1) < 1
    threshold = ((support * z).sum(-1)[..., None] - 1) / support.sum(-1)[..., None]
    return (support * (z - threshold)).clip(min=0)


def temperature(spec: Sparsemax, epoch: int, epochs: int) -> float:
    """θ of an epoch, counted from 0: temperature · factor^⌊t/every⌋ at progress t = epoch/epochs."""
    return spec.temperature * spec.factor ** math.floor(epoch / epochs / spec.every + ROUNDING)


def by_softmax(spec: Softmax, done: int, epochs: int) -> Relax:
    """softmax(α), in any epoch."""
    return softmax


def by_sparsemax(spec: Sparsemax, done: int, epochs: int) -> Relax:
    """sparsemax(α/θ)."""
    cold = temperature(spec, max(done - 1, 0), epochs)
    return lambda alphas: np.asarray(sparsemax(alphas.astype(np.float64) / cold))


RELAXATIONS: Kinds[Callable[..., Relax]] = {Softmax: by_softmax, Sparsemax: by_sparsemax}


def relaxed(spec: Relaxation, done: int, epochs: int) -> Relax:
    """Return the relaxation after `done` of `epochs` epochs: that of the last one, of the first before it."""
    return RELAXATIONS[type(spec)](spec, done, epochs)
