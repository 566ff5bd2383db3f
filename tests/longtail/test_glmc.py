"""GLMC: class weights, consistency and the objective, compared with formulas in NumPy."""

import numpy as np
import pytest
import torch

from hlrs.config.methods import Glmc as Spec
from hlrs.data.augment import Batch
from hlrs.longtail.glmc import GlmcHead, inverse_frequency_weights
from hlrs.longtail.objectives import layout_of, make_objective
from hlrs.nas.network import initialize
from hlrs.nas.resnet import ResNet

COUNTS = torch.tensor([8, 4, 1])


def test_weights_by_hand():
    # n^−1 = 1/8, 1/4, 1: sum 11/8; n^−2 = 1/64, 4/64, 64/64
    assert inverse_frequency_weights(COUNTS, 1.0).tolist() == pytest.approx([3 / 11, 6 / 11, 24 / 11])
    assert inverse_frequency_weights(COUNTS, 2.0).tolist() == pytest.approx([3 / 69, 12 / 69, 192 / 69])
    assert inverse_frequency_weights(COUNTS, 0.0).tolist() == [1, 1, 1]
    assert inverse_frequency_weights(torch.tensor([1, 0]), 1.0).tolist() == [1, 1]
    # 5000^−100 is no float64: the rarer class has all the weight
    assert inverse_frequency_weights(torch.tensor([5000, 2000]), 100.0).tolist() == pytest.approx([0, 2])


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def inconsistency_of(z, targets, prediction):
    """−cos(h(z₁), z₂) − cos(h(z₂), z₁), the z in second place given separately."""
    predicted, half = z @ prediction[0].T + prediction[1], len(z) // 2
    return (
        -cosines(predicted[:half], targets[half:]).mean() - cosines(predicted[half:], targets[:half]).mean()
    )


def arrays(layer):
    return [parameter.detach().double().numpy() for parameter in (layer.weight, layer.bias)]


def test_inconsistency_and_its_gradient_with_constant_targets():
    torch.manual_seed(1)
    head = GlmcHead(4, 3).double()
    features = torch.randn(6, 4, dtype=torch.float64)
    weight, bias = arrays(head.projection)
    z = features.numpy() @ weight.T + bias
    found = head.inconsistency(features)
    assert found.item() == pytest.approx(inconsistency_of(z, z, arrays(head.prediction)), rel=1e-12)
    [gradient] = torch.autograd.grad(found, head.projection.bias)
    step = np.zeros_like(bias)
    step[5] = 1e-6
    slope = inconsistency_of(z + step, z, arrays(head.prediction)) - inconsistency_of(
        z - step, z, arrays(head.prediction)
    )
    assert gradient[5].item() == pytest.approx(slope / 2e-6, rel=1e-6)  # of h(z) alone


def test_batch_norms_see_one_view_after_the_other():
    spec = Spec()
    network = ResNet(20, in_channels=1, classes=3, **layout_of(spec))
    objective = make_objective(spec, COUNTS)
    network.training_head = objective.head(network.classifier.in_features)
    draw = torch.Generator().manual_seed(1)
    views = [torch.randn(4, 1, 8, 8, generator=draw), 3 + torch.randn(4, 1, 8, 8, generator=draw)]
    maps = [network.stem[0](view).detach().double().numpy() for view in views]
    labels, share = torch.tensor([0, 1, 0, 2]), torch.full((4,), 0.7)
    objective(network, [Batch(view, labels, labels, share) for view in views], 0.0, 0.5)
    means, variances = ([f(m, axis=(0, 2, 3)) for m in maps] for f in (np.mean, np.var))
    norm, unbiased = network.stem[1], 256 / 255  # of 4·8·8 pixels; momentum 0.1
    assert norm.running_mean.numpy() == pytest.approx(0.09 * means[0] + 0.1 * means[1], abs=1e-6)
    expected = 0.81 + unbiased * (0.09 * variances[0] + 0.1 * variances[1])
    assert norm.running_var.numpy() == pytest.approx(expected, rel=1e-5)


def cross_entropies(z, y):
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]


@pytest.mark.parametrize("m", [1.0, 0.3])
def test_the_objective_mixes_both_classifiers_losses_and_adds_the_inconsistency(m):
    spec = Spec(gamma=1.0, consistency=2.0)
    network = ResNet(20, in_channels=1, classes=3, **layout_of(spec))
    objective = make_objective(spec, COUNTS)
    network.training_head = objective.head(network.classifier.in_features)
    initialize(network, torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(1)
    labels = torch.tensor([[0, 1, 0, 2], [1, 1, 2, 0]])
    shares = [0.7, 0.4]
    batches = [
        Batch(torch.randn(4, 1, 8, 8, generator=draw), *labels, torch.full((4,), share)) for share in shares
    ]
    outcome = objective(network, batches, 0.0, m)
    head = network.training_head
    features = torch.cat([network.features(batch.images, 0) for batch in batches]).detach().double().numpy()
    z, conventional, balanced = (
        features @ weight.T + bias
        for weight, bias in map(arrays, (head.projection, head.conventional, network.classifier))
    )
    weights = np.array([3, 6, 24]) / 11
    expected, hits = 2 * inconsistency_of(z, z, arrays(head.prediction)), []
    for view, share in enumerate(shares):
        own = slice(4 * view, 4 * view + 4)
        for y, part in zip(labels.numpy(), (share, 1 - share), strict=True):
            expected += m * part * cross_entropies(conventional[own], y).mean()
            expected += (1 - m) * part * (weights[y] * cross_entropies(balanced[own], y)).mean()
            hits.append(part * (balanced[own].argmax(1) == y).mean())
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-5)
    assert float(outcome.accuracy) == pytest.approx(sum(hits) / 2)
    outcome.loss.backward()
    assert network.training_head.conventional.weight.grad.any()
    assert network.classifier.weight.grad.any() == (m < 1)
