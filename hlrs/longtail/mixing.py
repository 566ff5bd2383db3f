"""The mixing coefficient m(t): how much the conventional branch weighs at progress t in [0, 1].

Zhou et al. 2020 (BBN), §4.3 and the ablation of adaptor strategies, for all but `symmetric`, which is our
own reading of HLRS.
"""

import math
import random
from collections.abc import Callable


def parabolic_decay(t: float) -> float:
    """m = 1 − t²  (BBN, §4.3)."""
    return 1 - t**2


def linear_decay(t: float) -> float:
    """m = 1 − t  (BBN, ablation of adaptor strategies)."""
    return 1 - t


def cosine_decay(t: float) -> float:
    """m = cos(πt/2)  (BBN, ablation of adaptor strategies)."""
    return math.cos(math.pi * t / 2)


def equal(t: float) -> float:
    """m = 1/2 at every t  (BBN, ablation of adaptor strategies)."""
    return 0.5


def parabolic_increment(t: float) -> float:
    """m = t²  (BBN, ablation of adaptor strategies)."""
    return t**2


def symmetric(t: float) -> float:
    """m = 1 − 2t² up to t = 1/2, then 2(1 − t)².

    m(t) + m(1 − t) = 1, so both heads carry the same total weight (our own reading).
    """
    return 1 - 2 * t**2 if t <= 0.5 else 2 * (1 - t) ** 2


SCHEDULES: dict[str, Callable[[float], float]] = {
    schedule.__name__: schedule
    for schedule in (parabolic_decay, linear_decay, cosine_decay, equal, parabolic_increment, symmetric)
}


def coefficient(kind: str, t: float, a: float, draw: str) -> float:
    """m at progress t. Kind `beta` draws m ~ Beta(a, a) (BBN, ablation), the same for the same `draw`."""
    if kind == "beta":
        return random.Random(draw).betavariate(a, a)  # noqa: S311 - a seeded draw, no secret
    return SCHEDULES[kind](t)
