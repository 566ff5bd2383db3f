"""Inference from a few seeds: spread, intervals, p-values and their correction, the number of seeds needed.

Pure functions of numbers. The unit of inference is the search seed: the retrainings of one genotype share it,
so they are averaged first (nested means), and their own spread is reported separately. With several draws of
the images it is the draw, whose seeds are averaged in turn.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float]
NO_SPREAD = 1e-12  # smaller standard deviations are rounding errors
BOOTSTRAP_SEED = 0  # fixed, so that the same values give the same interval
MOST_SEEDS = 1000  # `seeds_needed` gives up beyond


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n − 1); None with fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def units(draws: Mapping[Any, Sequence[float]]) -> list[float]:
    """Return the independent values among those of searches by draw: each draw's mean; one draw's searches.

    Searches on one draw share its images. With equally many per draw, Student's t of the draws' means is
    exact for x_ds = μ + a_d + e_ds with normal a and e, as s²/D estimates their mean's variance σ_a²/D +
    σ_e²/(D S) without bias (Searle, Casella & McCulloch 1992, ch. 3; Donner & Klar 2000, ch. 7).
    """
    if len(draws) == 1:
        return [value for values in draws.values() for value in values]
    return [statistics.fmean(values) for values in draws.values()]


def within(groups: Mapping[Any, Sequence[float]]) -> float | None:
    """Return the pooled standard deviation within groups, √(Σ_g Σ_i (x_gi − x̄_g)² / Σ_g (n_g − 1)).

    A group is the retrainings of one genotype, or the seeds of one draw; None where no group has two.
    """
    several = [values for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    squares = math.fsum((len(values) - 1) * statistics.variance(values) for values in several)
    return math.sqrt(squares / freedom) if freedom else None


def interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Return Student's t interval of the mean, x̄ ± t_{(1+c)/2, n−1} · s/√n; None without a spread."""
    if not _spreads(values):
        return None
    found = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return float(found.low), float(found.high)


def p_value(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t-test, t = d̄ √n / s_d, n − 1 degrees of freedom.

    None without a spread. It is below 1 − c exactly where `interval` at confidence c excludes 0.
    """
    return float(stats.ttest_1samp(differences, 0.0).pvalue) if _spreads(differences) else None


def _spreads(values: Sequence[float]) -> bool:
    """Whether the values differ by more than rounding."""
    return (spread(values) or 0.0) >= NO_SPREAD


def bootstrap(values: Sequence[float], confidence: float, resamples: int) -> Interval | None:
    """Return the percentile bootstrap interval of the mean (Efron 1979); None without a spread.

    Of draws' means: the bootstrap of whole clusters (Davison & Hinkley 1997, §3.8; Field & Welsh 2007).
    Not BCa: its correction would be estimated from the same few values.
    """
    if not _spreads(values):
        return None
    found = stats.bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979), in the order given.

    p̃_(i) = max over j ≤ i of min(1, (m − j + 1) p_(j)), smallest first. This keeps the chance of rejecting
    any of m true null hypotheses below the level, however the tests depend on each other.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def seeds_needed(deviation: float, effect: float, alpha: float, power: float = 0.8) -> int | None:
    """Return how many pairs it takes for an interval at 1 − `alpha` to exclude `effect` if there is none.

    With probability `power`: P(T > t_{1−α/2, n−1}) for T noncentral t with shift √n · effect/deviation. That
    is the power of the two-sided t-test to detect `effect`, too, as the other tail adds next to nothing
    (Cohen 1988, ch. 2). None if it takes more than MOST_SEEDS.
    """

    def detected(count: int) -> bool:
        critical, shift = stats.t.ppf(1 - alpha / 2, count - 1), math.sqrt(count) * effect / deviation
        return bool(stats.nct.sf(critical, count - 1, shift) >= power)

    low, high = 1, 2  # `low` pairs never suffice (a spread takes two), `high` pairs do
    while not detected(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detected(middle) else (middle, high)
    return high if high <= MOST_SEEDS else None
