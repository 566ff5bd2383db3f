"""Statistics against numbers from elsewhere: hand-worked examples, published tables, brute force."""

from itertools import product

import numpy as np
import pytest

from hlrs.report.statistics import bootstrap, holm, interval, p_value, seeds_needed, spread, units, within


@pytest.mark.parametrize(
    ("values", "confidence", "expected"),
    [
        ([0.02, 0.03, 0.04], 0.95, (0.03 - 4.303 * 0.01 / 3**0.5, 0.03 + 4.303 * 0.01 / 3**0.5)),
        ([-1.0, 1.0], 0.9, (-6.31375, 6.31375)),
        ([0.5], 0.95, None),
        ([0.1 + 0.2, 0.3], 0.95, None),  # equal but for rounding
    ],
)
def test_interval(values, confidence, expected):
    assert interval(values, confidence) == (None if expected is None else pytest.approx(expected, abs=1e-4))


def test_student_sleep_data():
    """Student 1908: extra sleep under two drugs, ten patients; t = −4.0621, p = 0.002833 (R's t.test)."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    assert p_value(differences) == pytest.approx(0.002833, abs=1e-6)
    assert interval(differences, 0.95) == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)


def test_p_value_by_hand():
    """Two values: t has a Cauchy distribution, p = 1 − (2/π) atan |t|; 1 and 3: t = 2."""
    assert p_value([1.0, 3.0]) == pytest.approx(1 - 2 / np.pi * np.arctan(2))
    assert p_value([-3.0, -1.0]) == p_value([1.0, 3.0])
    assert p_value([0.5]) is None
    assert p_value([0.1, 0.1, 0.1]) is None


def test_p_value_and_interval_agree():
    values = [0.3, 0.1, 0.25, 0.05]
    p = p_value(values)
    assert interval(values, 1 - p) == pytest.approx((0, 0.35), abs=1e-9)  # one end at 0, about the mean 0.175


def test_holm_by_hand():
    """The smallest times 4, the next times 3, ...; never below an earlier one, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]  # 0.6 times 2 is above 1
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_published():
    """The 15 p-values of Benjamini & Hochberg 1995, §4: Bonferroni and Hochberg reject the first three there.

    Holm lies between the two, so it does as well.
    """
    given = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
             0.6528, 0.7590, 1.0]  # fmt: skip
    found = holm(given)
    assert [p < 0.05 for p in found] == [True] * 3 + [False] * 12
    assert found[:4] == pytest.approx([0.0015, 0.0056, 0.0247, 0.114])  # times 15, 14, 13, 12


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.6], [0.0, 0.5, 0.7]])
def test_bootstrap_of_three_is_what_all_27_resamples_give(values):
    means = sorted(sum(drawn) / 3 for drawn in product(values, repeat=3))
    for confidence in (0.95, 0.8, 0.6):
        low, high = (means[round(q * 27 - 0.5)] for q in ((1 - confidence) / 2, (1 + confidence) / 2))
        assert bootstrap(values, confidence, 20_000) == pytest.approx((low, high))
    assert bootstrap(values, 0.95, 20_000) == pytest.approx((min(values), max(values)))  # 1/27 > 2.5 %


def test_bootstrap_is_reproducible_and_handles_degenerate_data():
    values = [0.51, 0.55, 0.58, 0.49, 0.6]
    assert bootstrap(values, 0.95, 1000) == bootstrap(values, 0.95, 1000)
    assert bootstrap([0.5], 0.95, 1000) is None
    assert bootstrap([0.5, 0.5, 0.5], 0.95, 1000) is None


def test_spread_between_seeds_and_within():
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) is None
    # (1 + 1 + 4 + 0 + 4) / (1 + 2) = 10/3
    assert within({0: [1.0, 3.0], 1: [4.0, 6.0, 8.0], 2: [9.0]}) == pytest.approx((10 / 3) ** 0.5)
    assert within({0: [1.0], 1: [2.0]}) is None


def test_several_draws_are_the_units_of_inference():
    """Six searches on three draws, whose means are 0.51, 0.61, 0.56: s = 0.05, t = 4.3027 with 2 degrees.

    As six independent values: squares 0.0106, s = 0.04604, t = 2.5706 with 5 degrees, less than half as wide.
    """
    drawn = {0: [0.5, 0.52], 1: [0.6, 0.62], "ldam": [0.55, 0.57]}
    assert units(drawn) == pytest.approx([0.51, 0.61, 0.56])
    low, high = interval(units(drawn), 0.95)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.05 / 3**0.5, abs=1e-5)
    low, high = interval([x for values in drawn.values() for x in values], 0.95)
    assert (high - low) / 2 == pytest.approx(2.5706 * 0.04604 / 6**0.5, abs=1e-5)
    assert bootstrap(units(drawn), 0.95, 20_000) == pytest.approx((0.51, 0.61))  # the range: 1/27 > 2.5 %
    assert units({3: [0.5, 0.6, 0.9]}) == [0.5, 0.6, 0.9]  # one draw: its seeds


def test_the_interval_of_draws_covers_as_often_as_it_says():
    """x_ds = a_d + e_ds, both normal with deviation 1, four draws of five seeds, 400 times.

    The mean's variance is 1/4 + 1/20. Ignoring draws estimates it by about (0.79 + 1)/20, so that too few
    intervals hold 0: within ±2.09 · √0.09 of a mean with deviation √0.3, 75 %; 72 % as the width varies, too.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 4, 1)) + rng.normal(size=(400, 4, 5))

    def held(intervals) -> float:
        return np.mean([low < 0 < high for low, high in intervals])

    by_draw = held(interval(units(dict(enumerate(x.tolist()))), 0.95) for x in values)
    ignored = held(interval(x.ravel().tolist(), 0.95) for x in values)
    assert by_draw == pytest.approx(0.95, abs=0.03)
    assert ignored < 0.8


@pytest.mark.parametrize(("size", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_as_in_published_tables(size, pairs):
    """Two-sided, α = 0.05, power 0.8: the pairs that G*Power (Faul et al. 2007) and Cohen's tables give."""
    assert seeds_needed(1.0, size, 0.05) == pairs


def test_seeds_needed_at_the_ends():
    assert seeds_needed(1e-6, 1.0, 0.05) == 2
    # of 2 pairs P(T > 12.706) = P(|Z'| < (Z + 8√2)/12.706) is about 2Φ(0.89) − 1 = 0.63, below 0.8
    assert seeds_needed(0.125, 1.0, 0.05) == 3
    assert seeds_needed(1.0, 0.001, 0.05) is None
    # many: about (1.95996 + 0.84162)²/size² + 1.95996²/2, 992.8 and 1004
    assert seeds_needed(1.0, 0.089, 0.05) == 993
    assert seeds_needed(1.0, 0.0885, 0.05) is None
    assert seeds_needed(1.0, 1.0, 0.05 / 20) > seeds_needed(1.0, 1.0, 0.05)
