"""DrNAS: its draws are Dirichlet-distributed, and their gradients those of the distribution."""

import math

import pytest
import torch

from hlrs.config.methods import Drnas
from hlrs.nas.searchers.drnas import DrnasSearcher

COUNT = 40_000


def make(alphas, count=COUNT, seed=0):
    """Alphas of many equal edges, which require gradients, and the weights of their operations."""
    searcher = DrnasSearcher(Drnas())
    drawn = searcher.draw((1, count, len(alphas)), torch.Generator().manual_seed(seed), 0, 10)[0]
    leaf = torch.tensor(alphas).expand(count, -1).clone().requires_grad_()
    return leaf, searcher.operation_weights(leaf, drawn)


def close(found: torch.Tensor, expected: float) -> bool:
    """Whether a mean over draws is within 4 standard errors of its expectation."""
    return abs(float(found.double().mean()) - expected) < 4 * float(found.double().std()) / len(found) ** 0.5


@pytest.mark.parametrize(
    "alphas", [[0.0] * 8, [math.log(0.05), math.log(0.5), 0.0, 1.5], [math.log(0.01)] * 5, [7.0, 0.0]]
)
def test_weights_have_the_moments_of_their_dirichlet_distribution(alphas):
    # concentration exp(α) below 0, α + 1 above; mean c/s, variance c(s − c)/(s²(s + 1)) with s their sum
    c = [math.exp(alpha) if alpha < 0 else alpha + 1 for alpha in alphas]
    weights, s = make(alphas)[1].detach(), sum(c)
    for own, drawn in zip(c, weights.T, strict=True):
        assert close(drawn, own / s)
        assert close((drawn - own / s) ** 2, own * (s - own) / (s**2 * (s + 1)))
    assert close(weights[:, 0] * weights[:, 1], c[0] * c[1] / (s * (s + 1)))


@pytest.mark.parametrize("share", [1e-4, 0.01, 0.25, 0.81])
def test_small_weights_are_as_frequent_as_under_a_beta_distribution(share):
    # of concentrations ½ and 1, the first weight is Beta(½, 1), P(x < q) = √q
    weights = make([math.log(0.5), 0.0])[1]
    assert close((weights[:, 0] < share).float(), share**0.5)


@pytest.mark.parametrize("alpha", [-3.0, -0.5, 0.0, 2.0])
def test_the_gradient_is_that_of_a_beta_distributed_weight(alpha):
    # x ~ Beta(c, 1) is u^(1/c), so dx/dc = −x log x / c at fixed u; dc/dα is c below 0, 1 above
    alphas, weights = make([alpha, 0.0], count=200)
    weights[:, 0].sum().backward()
    x = weights[:, 0].detach().double()
    by_alpha = 1.0 if alpha < 0 else 1 / (alpha + 1)
    assert float(x.std()) > 0.05
    assert torch.allclose(alphas.grad[:, 0].double(), -x * x.log() * by_alpha, atol=1e-4)


def test_gradients_average_to_those_of_the_moments():
    # c = (½, 1, 2), s = 7/2: E x₁ = c₁/s, and E x₁² = c₁(c₁ + 1)/(s(s + 1)) = 0.75/15.75
    # d(E x₁)/dc = (s − c₁, −c₁, −c₁)/s²; d(E x₁²)/dc = (2 · 15.75 − 0.75 · 8, −0.75 · 8, −0.75 · 8)/15.75²
    by_alpha = (0.5, 1.0, 1.0)  # dc/dα
    for power, by_c in ((1, (3 / 12.25, -0.5 / 12.25)), (2, (25.5 / 248.0625, -6 / 248.0625))):
        alphas, weights = make([math.log(0.5), 0.0, 1.0])
        (weights[:, 0] ** power).sum().backward()
        for column, (factor, expected) in enumerate(zip(by_alpha, (*by_c, by_c[1]), strict=True)):
            assert close(alphas.grad[:, column], factor * expected), (power, column)


@pytest.mark.parametrize("alphas", [[-40.0] * 8, [-40.0, 40.0], [30.0] * 8, [-8.0] * 8, [1000.0, 0.0]])
def test_extreme_alphas_give_finite_weights_and_gradients(alphas):
    leaf, weights = make(alphas, count=2000)
    (weights * torch.linspace(-1, 1, len(alphas))).sum().backward()
    assert torch.isfinite(weights).all()
    assert torch.allclose(weights.sum(1), torch.ones(2000), atol=1e-5)
    assert torch.isfinite(leaf.grad).all()
