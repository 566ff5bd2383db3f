"""The mixing coefficient m(t): the weight of the conventional branch at progress t in [0, 1].

Zhou et al. 2020 (BBN), §4.3 and the ablation of adaptor strategies, for all but `symmetric`, which is our
own reading of HLRS. `draw` seeds a random coefficient: the same name gives the same value.
"""

import math
import random
from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.methods import (
    Beta,
    CosineDecay,
    Equal,
    LinearDecay,
    Mixing,
    Objective,
    ParabolicDecay,
    ParabolicIncrement,
    Symmetric,
)


def parabolic_decay(spec: ParabolicDecay, t: float, draw: str) -> float:
    """m = 1 − t²  (BBN, §4.3)."""
    return 1 - t**2


def linear_decay(spec: LinearDecay, t: float, draw: str) -> float:
    """m = 1 − t  (BBN, ablation of adaptor strategies)."""
    return 1 - t


def cosine_decay(spec: CosineDecay, t: float, draw: str) -> float:
    """m = cos(πt/2)  (BBN, ablation of adaptor strategies)."""
    return math.cos(math.pi * t / 2)


def equal(spec: Equal, t: float, draw: str) -> float:
    """m = 1/2 at every t  (BBN, ablation of adaptor strategies)."""
    return 0.5


def parabolic_increment(spec: ParabolicIncrement, t: float, draw: str) -> float:
    """m = t²  (BBN, ablation of adaptor strategies)."""
    return t**2


def beta(spec: Beta, t: float, draw: str) -> float:
    """m ~ Beta(a, a)  (BBN, ablation of adaptor strategies)."""
    return random.Random(draw).betavariate(spec.a, spec.a)  # noqa: S311 - a seeded draw, no secret


def symmetric(spec: Symmetric, t: float, draw: str) -> float:
    """m = 1 − 2t² up to t = 1/2, then 2(1 − t)².

    m(t) + m(1 − t) = 1, so both branches carry the same total weight (our own reading).
    """
    return 1 - 2 * t**2 if t <= 0.5 else 2 * (1 - t) ** 2


COEFFICIENTS: Kinds[Callable[..., float]] = {
    ParabolicDecay: parabolic_decay,
    LinearDecay: linear_decay,
    CosineDecay: cosine_decay,
    Equal: equal,
    ParabolicIncrement: parabolic_increment,
    Beta: beta,
    Symmetric: symmetric,
}


def coefficient(spec: Mixing, t: float, draw: str) -> float:
    """Return m at progress t, in [0, 1]."""
    return COEFFICIENTS[type(spec)](spec, t, draw)


def mixing_at(objective: Objective, t: float, draw: str) -> float | None:
    """Return the mixing coefficient m(t) of an objective, None where nothing is mixed; `draw` as above."""
    return None if objective.mixing is None else coefficient(objective.mixing, t, draw)
