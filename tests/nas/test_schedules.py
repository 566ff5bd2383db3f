"""Schedules of progress: mixing coefficient, learning rate of the alphas, learning rate of SGD."""

import itertools
import math
import statistics

import pytest

from hlrs.config.methods import ArchLR, Beta, Bilateral, CoupledLR, Mixing, Plain
from hlrs.config.recipes import MultistepSchedule, Schedule, Sgd, TriangularSchedule
from hlrs.longtail import mixing
from hlrs.longtail.mixing import mixing_at
from hlrs.nas import arch_lr
from hlrs.training.optim import learning_rate
from tests.specs import spec, specs

PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID = [i / 60 for i in range(61)]

MIXINGS = {  # m at PROGRESS
    "parabolic_decay": (1.0, 0.9375, 0.75, 0.4375, 0.0),
    "linear_decay": (1.0, 0.75, 0.5, 0.25, 0.0),
    "cosine_decay": (1.0, 0.9238795325, 0.7071067812, 0.3826834324, 0.0),
    "equal": (0.5, 0.5, 0.5, 0.5, 0.5),
    "parabolic_increment": (0.0, 0.0625, 0.25, 0.5625, 1.0),
    "symmetric": (1.0, 0.875, 0.5, 0.125, 0.0),
}

ARCH_LRS = [  # (kind, options, factor at PROGRESS)
    ("constant", {}, (1.0, 1.0, 1.0, 1.0, 1.0)),
    ("cosine", {"final": 0.0}, (1.0, 0.8535533906, 0.5, 0.1464466094, 0.0)),
    ("cosine", {"final": 0.2}, (1.0, 0.8828427125, 0.6, 0.3171572875, 0.2)),
    ("linear", {"final": 0.0}, (1.0, 0.75, 0.5, 0.25, 0.0)),
    ("linear", {"final": 0.1}, (1.0, 0.775, 0.55, 0.325, 0.1)),
    ("step", {"at": 0.5, "factor": 0.1}, (1.0, 1.0, 0.1, 0.1, 0.1)),
    ("step", {"at": 0.6, "factor": 0.3}, (1.0, 1.0, 1.0, 0.3, 0.3)),
    ("freeze", {"at": 0.5}, (1.0, 1.0, 0.0, 0.0, 0.0)),
    ("freeze", {"at": 0.8}, (1.0, 1.0, 1.0, 1.0, 0.0)),
    ("exponential", {"final": 0.01}, (1.0, 0.3162277660, 0.1, 0.0316227766, 0.01)),
    ("exponential", {"final": 1.0}, (1.0, 1.0, 1.0, 1.0, 1.0)),
]


def m(kind, t, draw="any", **options):
    """The mixing coefficient of a kind."""
    return mixing.coefficient(spec(Mixing, kind, **options), t, draw)


# --- mixing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MIXINGS)
def test_mixing_table(kind):
    found = [m(kind, t) for t in PROGRESS]
    assert found == pytest.approx(MIXINGS[kind], abs=1e-9)


def test_symmetric_gives_both_branches_the_same_total_weight():
    for t in GRID:
        both = m("symmetric", t) + m("symmetric", 1 - t)
        assert both == pytest.approx(1, abs=1e-12)


def test_symmetric_falls_without_a_jump():
    values = [m("symmetric", t) for t in GRID]
    falls = [a - b for a, b in itertools.pairwise(values)]
    assert min(falls) > 0
    assert max(falls) < 2 / 60 + 1e-9  # its steepest slope is -2, at t = 1/2


def test_beta_draw_depends_only_on_its_name():
    first = m("beta", 0.0, "0/search/mixing/3/7", a=0.2)
    assert m("beta", 0.9, "0/search/mixing/3/7", a=0.2) == first
    assert m("beta", 0.0, "0/search/mixing/3/8", a=0.2) != first


@pytest.mark.parametrize("a", [0.2, 2.0])
def test_beta_draws_have_mean_and_variance_of_the_beta_distribution(a):
    draws = [m("beta", 0.5, f"0/{i}", a=a) for i in range(20_000)]
    variance = 1 / (4 * (2 * a + 1))
    assert statistics.fmean(draws) == pytest.approx(0.5, abs=4.5 * math.sqrt(variance / 20_000))
    assert statistics.pvariance(draws) == pytest.approx(variance, rel=0.04)


def test_every_mixing_of_config_is_implemented_and_tested():
    assert set(specs(Mixing).values()) == set(mixing.COEFFICIENTS)
    assert {kind for kind, of in specs(Mixing).items() if not of.drawn} == set(MIXINGS)


@pytest.mark.parametrize("kind", specs(Mixing))
def test_every_mixing_of_config_is_a_share(kind):
    objective = Bilateral(mixing=spec(Mixing, kind))
    values = [mixing_at(objective, t, f"draw {t}") for t in GRID]
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)


def test_the_parameter_of_beta_acts():
    drawn = [mixing_at(Bilateral(mixing=Beta(a=a)), 0.0, "same") for a in (50.0, 0.2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("kind", specs(Mixing))
def test_only_mixings_whose_spec_is_drawn_are_random(kind):
    assert (m(kind, 0.3, "one") != m(kind, 0.3, "other")) == specs(Mixing)[kind].drawn


def test_no_mixing_without_branches():
    assert mixing_at(Plain(kind="plain"), 0.3, "") is None


# --- learning rate of the alphas ----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options", "expected"), ARCH_LRS)
def test_arch_lr_table(kind, options, expected):
    found = [arch_lr.factor(spec(ArchLR, kind, **options), t, None) for t in PROGRESS]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", MIXINGS)
def test_coupled_arch_lr_is_the_mixing_coefficient(kind):
    for t, expected in zip(PROGRESS, MIXINGS[kind], strict=True):
        assert arch_lr.factor(CoupledLR(), t, m(kind, t)) == pytest.approx(expected)


def test_every_arch_lr_of_config_is_implemented_and_tested():
    assert set(specs(ArchLR).values()) == set(arch_lr.SCHEDULES)
    assert set(specs(ArchLR)) == {kind for kind, _, _ in ARCH_LRS} | {"coupled"}


@pytest.mark.parametrize("kind", specs(ArchLR))
def test_every_arch_lr_of_config_starts_at_one_and_never_rises(kind):
    values = [arch_lr.factor(spec(ArchLR, kind), t, 1 - t) for t in GRID]
    assert values[0] == 1
    assert all(math.isfinite(v) and 0 <= v <= 1 for v in values)
    assert all(a >= b for a, b in itertools.pairwise(values))


def factor_halfway(kind: str) -> float:
    """Return the factor at t = 1/2 of a schedule with its defaults, worked out by hand in ARCH_LRS."""
    rows = [factors for of, options, factors in ARCH_LRS if spec(ArchLR, of, **options) == spec(ArchLR, kind)]
    assert rows, f"ARCH_LRS: add a row of {kind} with its defaults"
    return rows[0][PROGRESS.index(0.5)]


# --- SGD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "lr_min", "expected"),
    [  # DARTS's search: 0.025 to 0.001; its retraining: to 0
        (0.025, 0.001, (0.025, 0.0214852814, 0.013, 0.0045147186, 0.001)),
        (0.025, 0.0, (0.025, 0.0213388348, 0.0125, 0.0036611652, 0.0)),
    ],
)
def test_the_learning_rate_falls_along_half_a_cosine(lr, lr_min, expected):
    sgd = Sgd(lr=lr, lr_min=lr_min)
    found = [learning_rate(sgd, epoch, 4) for epoch in range(5)]  # t = 0, 1/4, ... 1
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_learning_rate_steps_and_warms_up_as_in_ldam_drws_cifar_train():
    """Epochs 1 to 200 there: lr · epoch/5 up to 5, lr · 0.01 after 160, lr · 0.0001 after 180."""
    sgd = Sgd(lr=0.1, warm_up=5, schedule=MultistepSchedule(kind="multistep"))
    expected = [0.02, 0.04, 0.06, 0.08, 0.1] + [0.1] * 155 + [1e-3] * 20 + [1e-5] * 20
    assert [learning_rate(sgd, epoch, 200) for epoch in range(200)] == pytest.approx(expected, rel=1e-12)


def test_the_learning_rate_steps_at_any_progress_by_any_factor():
    schedule = MultistepSchedule(kind="multistep", at=[0.5, 0.7, 0.75], factor=0.1)
    found = [learning_rate(Sgd(lr=1.0, schedule=schedule), epoch, 10) for epoch in range(10)]
    assert found == pytest.approx([1.0] * 5 + [0.1] * 2 + [0.01] + [0.001] * 2)


def test_the_learning_rate_warms_up_along_the_cosine():
    sgd = Sgd(lr=0.2, lr_min=0.04, warm_up=3)
    # cosine: 0.04 + 0.16 · (1 + cos(π·epoch/4))/2 = 0.2, 0.1765685, 0.12, 0.0634315
    expected = [0.2 / 3, 0.1765685425 * 2 / 3, 0.12, 0.0634314575]
    assert [learning_rate(sgd, epoch, 4) for epoch in range(4)] == pytest.approx(expected, abs=1e-9)


def test_the_learning_rate_rises_to_a_peak_and_falls_to_its_end():
    schedule = TriangularSchedule(kind="triangular", start=0.2, peak=0.4)
    found = [learning_rate(Sgd(lr=2.0, lr_min=0.2, schedule=schedule), epoch, 10) for epoch in range(11)]
    # 0.4 to 2 in four epochs, then 0.3 less in each of six
    assert found == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 1.7, 1.4, 1.1, 0.8, 0.5, 0.2])


def test_every_schedule_of_config_peaks_at_the_learning_rate():
    for schedule in specs(Schedule).values():
        found = [learning_rate(Sgd(lr=0.3, schedule=schedule()), epoch, 100) for epoch in range(100)]
        assert max(found) == pytest.approx(0.3)
