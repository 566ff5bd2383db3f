"""ProCo: Bessel functions, von Mises-Fisher distributions and the objective, compared with formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ive

from hlrs.config.methods import CrossEntropy
from hlrs.config.methods import ProCo as Spec
from hlrs.data.augment import Batch
from hlrs.longtail.objectives import layout_of, make_objective
from hlrs.longtail.proco import ProCoHead, log_bessel
from hlrs.nas.network import initialize
from hlrs.nas.resnet import ResNet

ORDERS = (0.5, 1, 3, 7.5, 31, 63, 64, 127)  # 63 is that of 128 dimensions
X = np.array([1, 2, 5, 10, 30, 64, 100, 300, 1e3, 1e4, 1e5])  # up to the largest concentration


def test_log_bessel_equals_scipys_scaled_function_and_its_slope_the_ratio_of_two_orders():
    for order in ORDERS:
        x = torch.tensor(X, requires_grad=True)
        found = log_bessel(order, x**2)
        expected = np.log(ive(order, X)) + X - order * np.log(X)
        assert np.allclose(found.detach(), expected, rtol=0, atol=1e-10), order
        [slope] = torch.autograd.grad(found.sum(), x)
        assert np.allclose(slope, ive(order + 1, X) / ive(order, X), rtol=1e-10, atol=0), order


def test_log_bessel_is_finite_and_smooth_at_0():
    for order in ORDERS:  # I_ν(x)/x^ν -> 1/(2^ν Γ(ν + 1)) (1 + x²/(4ν + 4))
        squared = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        found = log_bessel(order, squared)
        assert found.item() == pytest.approx(-order * math.log(2) - math.lgamma(order + 1), abs=1e-10)
        [slope] = torch.autograd.grad(found.sum(), squared)
        assert slope.item() == pytest.approx(1 / (4 * order + 4), rel=1e-9)


def unit(*rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def seen():
    """A head in three dimensions that saw two epochs; nothing of class 2, one image of class 3."""
    head = ProCoHead(4, 4, 3)
    head.see(unit([1, 0, 0], [0, 1, 0]), torch.tensor([0, 1]))
    head.end_epoch()
    head.see(unit([0, 1, 0], [3, 4, 0], [0, 0, 1]), torch.tensor([0, 1, 3]))
    return head


def test_estimates_by_hand_cover_the_last_epoch_and_this_one():
    head = seen()
    directions, kappa = head.estimates()
    # class 0: mean (1, 1, 0)/2, R² = 1/2; class 1: mean (0.3, 0.9, 0), R² = 0.9
    by_hand = [math.sqrt(0.5) * 2.5 / 0.5, math.sqrt(0.9) * 2.1 / 0.1, 0, 1e5]
    assert kappa.tolist() == pytest.approx(by_hand, rel=1e-9)
    assert torch.allclose(directions[[0, 1, 3]], unit([1, 1, 0], [1, 3, 0], [0, 0, 1]))
    head.end_epoch()  # the first epoch no longer counts
    assert torch.allclose(head.estimates()[0][:2], unit([0, 1, 0], [3, 4, 0]))
    assert head.estimates()[1].tolist() == pytest.approx([1e5, 1e5, 0, 1e5])
    head.end_epoch()
    assert not head.sums.any()
    assert not head.counts.any()


def log_sinhc(x):
    """log(sinh(x)/x)."""
    return x + math.log1p(-math.exp(-2 * x)) - math.log(2 * x) if x else 0.0


def test_logits_in_three_dimensions_have_elementary_functions():
    """C_3(κ) = κ/(4π sinh κ)."""
    head, z, tau = seen(), unit([1, 2, -2], [0, -1, 0.1]), 0.5
    directions, kappa = (t.tolist() for t in head.estimates())
    for row, found in zip(z.tolist(), head.logits(z, tau).tolist(), strict=True):
        for direction, concentration, logit in zip(directions, kappa, found, strict=True):
            tilted = math.hypot(*(concentration * m + x / tau for m, x in zip(direction, row, strict=True)))
            expected = log_sinhc(tilted) - log_sinhc(concentration)
            assert logit == pytest.approx(expected, abs=1e-9)


def test_logits_are_expectations_over_drawn_features():
    """On a circle: the mean of exp(cos(φ − φ₀)/τ) under the density ∝ exp(κ cos φ), by quadrature."""
    head, angle, tau = ProCoHead(4, 1, 2), 2.0, 0.7
    head.see(unit([1, 0.5], [1, -0.5], [1, 0]), torch.zeros(3, dtype=torch.int64))
    [kappa] = head.estimates()[1].tolist()
    phi = 2 * np.pi * np.arange(1000) / 1000
    density = np.exp(kappa * (np.cos(phi) - 1))
    expected = np.log((density * np.exp(np.cos(phi - angle) / tau)).sum() / density.sum())
    z = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert head.logits(z, tau).item() == pytest.approx(expected, abs=1e-10)


def test_gradients_of_the_logits_by_finite_differences():
    head = ProCoHead(4, 5, 128)
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(20, 128, generator=draw, dtype=torch.float64) + 1
    head.see(features / features.norm(dim=1, keepdim=True), torch.arange(20) % 5)

    def mean(z):
        return (head.logits(z / z.norm(), 0.1) * torch.arange(1.0, 6.0)).sum()

    z = torch.randn(1, 128, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mean, z, eps=1e-6, atol=1e-6, fast_mode=True)


def test_the_projection_has_a_hidden_layer_that_is_normalised_over_the_batch():
    head = ProCoHead(4, 3, 5)
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    first, second = (
        [parameter.detach().double().numpy() for parameter in layer.parameters()]
        for layer in head.modules()
        if isinstance(layer, torch.nn.Linear)
    )
    hidden = features.double().numpy() @ first[0].T + first[1]
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    z = np.maximum(hidden, 0) @ second[0].T + second[1]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    assert np.allclose(head(features).detach().numpy(), z, atol=1e-5)


COUNTS = torch.tensor([6, 3, 1])


def views():
    """Three views of four images, as batches."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 0, 2])
    return [Batch(torch.randn(4, 1, 8, 8, generator=draw), labels) for _ in range(3)]


@pytest.fixture
def network():
    spec = Spec(dimensions=6)
    made = ResNet(20, in_channels=1, classes=3, **layout_of(spec))
    made.training_head = make_objective(spec, COUNTS).head(made.classifier.in_features)
    initialize(made, torch.Generator().manual_seed(2))
    return made


def test_the_objective_adds_both_views_contrast_to_the_adjusted_cross_entropy(network):
    batches, head = views(), network.training_head
    outcome = make_objective(Spec(dimensions=6, weight=0.5, temperature=0.2), COUNTS)(
        network, batches, 0.0, None
    )
    network.train()  # and so are batch norms: the same statistics
    features = network.features(torch.cat([batch.images for batch in batches]), 0)
    prior = np.log(COUNTS.numpy() / 10)
    logits = network.classify(features[:4]).detach().double().numpy()
    hidden = head.projection(features)[4:].detach().double().numpy()  # its batch norm sees the first view too
    z = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    labels = np.tile([0, 1, 0, 2], 2)
    contrast = np.empty((8, 3))
    for c in range(3):
        mean = z[labels == c].mean(0)
        length = np.linalg.norm(mean)
        kappa = length * (6 - length**2) / (1 - length**2)
        tilted = np.linalg.norm(kappa * mean / length + z / 0.2, axis=1)
        # order 2: log C_6(κ) − log C_6(κ̃)
        contrast[:, c] = (
            np.log(ive(2, tilted) / tilted**2) + tilted - np.log(ive(2, kappa) / kappa**2) - kappa
        )
    contrast += prior

    def cross_entropy(z, y):
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).mean()

    expected = cross_entropy(logits + prior, labels[:4]) + 0.5 * cross_entropy(contrast, labels)
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-5)
    assert float(outcome.accuracy) == (logits.argmax(1) == labels[:4]).mean()


def test_the_classifier_may_have_another_loss_and_inference_needs_no_head(network):
    spec = Spec(dimensions=6, loss=CrossEntropy())
    batches = views()
    adjusted, other = (
        make_objective(own, COUNTS)(network, batches, 0.0, None) for own in (Spec(dimensions=6), spec)
    )
    assert adjusted.loss.item() != other.loss.item()
    network.training_head = None
    assert not [name for name in network.state_dict() if "head" in name]
    assert network.eval()(batches[0].images).shape == (4, 3)
