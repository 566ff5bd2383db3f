"""The entropy penalty against numbers worked out by hand."""

import math

import pytest
import torch

from hlrs.config.recipes import EntropyPenalty
from hlrs.nas.entropy import mean_entropy, penalty_weight


def entropy_and_gradient(*probabilities):
    alphas = torch.tensor([probabilities], dtype=torch.float64).log().requires_grad_()
    found = mean_entropy({"alphas.normal": alphas})
    return float(found), torch.autograd.grad(found, alphas)[0].flatten().tolist()


def test_equal_weights_have_the_highest_entropy_and_no_gradient():
    found, gradient = entropy_and_gradient(*[1 / 8] * 8)
    assert found == pytest.approx(math.log(8))
    assert gradient == pytest.approx([0.0] * 8, abs=1e-15)


def test_the_gradient_is_minus_p_times_log_p_plus_the_entropy():
    found, gradient = entropy_and_gradient(0.7, 0.2, 0.1)
    assert found == pytest.approx(0.80182, abs=5e-6)
    assert gradient == pytest.approx([-0.31160, 0.16152, 0.15008], abs=5e-6)


def test_it_is_the_mean_over_the_edges_of_all_cells_without_betas():
    architecture = {
        "alphas.normal": torch.zeros(3, 2),
        "alphas.reduce": torch.tensor([[0.0, 1000.0]]),  # decided: 0 nats
        "betas.normal": torch.zeros(3),
    }
    assert float(mean_entropy(architecture)) == pytest.approx(math.log(2) * 3 / 4)


@pytest.mark.parametrize(("t", "expected"), [(0.0, 0.0), (0.5, 0.0), (0.6, 0.4), (0.75, 1.0), (0.9, 1.6)])
def test_the_weight_rises_from_its_start(t, expected):
    assert penalty_weight(EntropyPenalty(weight=2.0, at=0.5), t) == pytest.approx(expected)
