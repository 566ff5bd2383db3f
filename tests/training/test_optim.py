"""Optimizers of a retraining, step by step in NumPy's float64, and those of the shipped recipes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hlrs.config.params import load
from hlrs.config.recipes import AdamW, Muon, Rest, Sgd
from hlrs.errors import Failure
from hlrs.longtail.row_rates import learn_rows_at
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.operations import Depthwise
from hlrs.nas.resnet import ResNet
from hlrs.training.checkpoints import pack_optimizer, unpack_optimizer
from hlrs.training.muon import dense_filters, orthogonalize
from hlrs.training.optim import (
    ascent,
    learning_rate,
    make_optimizer,
    mean_gradients,
    set_lr,
    step_along,
)


def small():
    """Two dense filters of one shape, a tall one, a depthwise kernel, a norm and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 2, 3),
        nn.Conv2d(2, 2, 3),
        Depthwise(2, 3),
        nn.Conv2d(2, 5, 1),
        nn.BatchNorm2d(5),
        nn.Linear(5, 3),
    )


def gradients(network, step):
    """Gradients by name, float64, and set on the network."""
    draw = np.random.default_rng(step)
    found = {}
    for name, parameter in network.named_parameters():
        found[name] = draw.standard_normal(parameter.shape)
        parameter.grad = torch.from_numpy(found[name]).float()
    return found


def values(network):
    return {name: p.detach().double().numpy().copy() for name, p in network.named_parameters()}


def close(network, expected):
    return all(np.allclose(values(network)[name], expected[name], atol=1e-5) for name in expected)


def by_svd(matrix, steps):
    """Newton and Schulz's polynomial, applied to the singular values."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(steps):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


@pytest.mark.parametrize("shape", [(4, 4), (3, 8), (8, 3), (6, 1)])
def test_orthogonalised_matrices_have_the_singular_vectors_of_the_matrices(shape):
    matrices = np.random.default_rng(0).standard_normal((3, *shape))
    found = orthogonalize(torch.from_numpy(matrices).float(), 5).double().numpy()
    for one, matrix in zip(found, matrices, strict=True):
        assert np.allclose(one, by_svd(matrix, 5), atol=1e-4)
        assert 0.6 < np.linalg.norm(one, -2) <= np.linalg.norm(one, 2) < 1.25  # nearly orthogonal


def test_momentum_of_zeros_stays_zeros():
    assert not orthogonalize(torch.zeros(1, 3, 4), 5).any()


@pytest.mark.parametrize("nesterov", [True, False])
def test_three_steps_of_muon_by_hand(nesterov):
    spec = Muon(lr=0.02, momentum=0.9, nesterov=nesterov, weight_decay=0.1, steps=3)
    spec = spec.model_copy(update={"rest": Rest(lr=0.5, momentum=0.8, nesterov=nesterov, weight_decay=0.01)})
    network = small()
    filters = {"0.weight", "1.weight", "3.weight"}
    optimizer, w = make_optimizer(network, spec), values(network)
    buffers = {name: np.zeros_like(value) for name, value in w.items()}
    for step, lr in enumerate((0.02, 0.01, 0.004)):
        set_lr(optimizer, lr)
        g = gradients(network, step)
        optimizer.step()
        for name in w:
            mu, rest_lr = (0.9, lr) if name in filters else (0.8, lr * 25)  # 0.5/0.02
            decayed = g[name] if name in filters else g[name] + 0.01 * w[name]
            buffers[name] = mu * buffers[name] + decayed
            ahead = decayed + mu * buffers[name] if nesterov else buffers[name]
            if name in filters:
                rows = len(ahead)
                flat = by_svd(ahead.reshape(rows, -1), 3) * max(1, rows / (ahead.size / rows)) ** 0.5
                ahead = flat.reshape(ahead.shape) + 0.1 * w[name]
            w[name] = w[name] - rest_lr * ahead
        assert close(network, w)


def test_two_steps_of_adamw_by_hand():
    network = small()
    optimizer, w = (
        make_optimizer(network, AdamW(betas=[0.8, 0.9], eps=0.01, weight_decay=0.1)),
        values(network),
    )
    m, v = ({name: np.zeros_like(value) for name, value in w.items()} for _ in range(2))
    for step, lr in enumerate((0.1, 0.05), 1):
        set_lr(optimizer, lr)
        g = gradients(network, step)
        optimizer.step()
        for name in w:
            m[name] = 0.8 * m[name] + 0.2 * g[name]
            v[name] = 0.9 * v[name] + 0.1 * g[name] ** 2
            slope = m[name] / (1 - 0.8**step) / (np.sqrt(v[name] / (1 - 0.9**step)) + 0.01)
            w[name] = w[name] - lr * 0.1 * w[name] - lr * slope
        assert close(network, w)


def layout(**changes):
    return {"in_channels": 1, "classes": 10, "channels": 4, "cells": 3} | changes


def test_muon_leaves_out_depthwise_kernels_norms_and_classifiers():
    network = DerivedNetwork(PUBLISHED["DARTS_V2"], auxiliary=True, **layout(dual=True))
    names = {id(p): name for name, p in network.named_parameters()}
    filters = {names[id(p)] for p in dense_filters(network)}
    left_out = [p for name, p in network.named_parameters() if name not in filters]
    assert "stem.layers.0.weight" in filters  # one grey channel, but not depthwise
    assert {p.ndim for p in left_out} == {1, 2, 4}
    assert {p.shape[1] for p in left_out if p.ndim == 4} == {1}
    assert {name for name, p in network.named_parameters() if p.ndim == 2} == {
        f"{head}.weight" for head in ("classifier", "class_specific", "auxiliary.classifier")
    }
    resnet = ResNet(20, in_channels=3, classes=10)
    assert len(dense_filters(resnet)) == 19  # and one classifier: 20 layers


def test_a_network_without_filters_is_refused_by_muon():
    with pytest.raises(Failure, match=r"muon.*filters.*sgd"):
        make_optimizer(nn.Sequential(Depthwise(2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)), Muon())


@pytest.mark.parametrize(
    "spec", [Muon(rest=Rest(weight_decay=0.3)), Sgd(weight_decay=0.3)], ids=lambda s: s.kind
)
def test_rows_learn_at_their_rates_with_the_weight_decay_of_their_group(spec):
    network = small()
    optimizer, rates = make_optimizer(network, spec), np.array([0.5, 1.0, 2.0])
    learn_rows_at(torch.from_numpy(rates), network[5].parameters(), optimizer)
    w, g = values(network), gradients(network, 0)
    optimizer.step()
    for name, r in (("5.weight", rates[:, None]), ("5.bias", rates)):
        assert np.allclose(values(network)[name], w[name] - 0.025 * r * (g[name] + 0.3 * w[name]), atol=1e-6)


def test_the_gradients_of_losses_are_averaged_one_loss_at_a_time():
    w, done = nn.Parameter(torch.tensor([2.0, 3.0])), []

    def losses():
        for factor in (1.0, 2.0, 6.0):
            done.append(factor)
            yield factor * (w**2).sum()
            assert done[-1] == factor

    [gradient] = mean_gradients(losses(), [w])
    assert gradient.tolist() == [12.0, 18.0]  # 2w · (1 + 2 + 6)/3
    assert w.grad is None


def test_the_ascent_has_the_gradients_direction_and_the_radius():
    found = ascent([torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])], 0.5)
    assert [part.tolist() for part in found] == [pytest.approx([0.3, 0.0]), [[pytest.approx(-0.4)]]]
    assert not ascent([torch.zeros(2)], 0.5)[0].any()


@pytest.mark.parametrize(("clip", "scale"), [(None, 1.0), (6.0, 1.0), (5.0, 1.0), (0.5, 0.1)])
def test_a_step_clips_the_norm_over_all_gradients(clip, scale):
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([[0.0]]))]
    given = [torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])]  # of norm 5
    step_along(given, weights, torch.optim.SGD(weights, 0.1), clip)
    assert weights[0].tolist() == pytest.approx([1 - 0.3 * scale, 2], abs=1e-6)
    assert weights[1].item() == pytest.approx(0.4 * scale, abs=1e-6)


@pytest.mark.parametrize("spec", [Sgd(), AdamW(), Muon()], ids=lambda s: s.kind)
def test_an_optimizer_resumes_bit_for_bit(spec):
    on, resumed = small(), small()
    optimizers = make_optimizer(on, spec), make_optimizer(resumed, spec)
    gradients(on, 0)
    optimizers[0].step()
    resumed.load_state_dict(on.state_dict())
    packed = {name: tensor.clone() for name, tensor in pack_optimizer(optimizers[0]).items()}
    unpack_optimizer(optimizers[1], packed)
    for step in (1, 2):
        for network, optimizer in zip((on, resumed), optimizers, strict=True):
            set_lr(optimizer, 0.01 * step)
            gradients(network, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(on.parameters(), resumed.parameters(), strict=True))


# --- the recipes of published results -----------------------------------------------------------------

EXPERIMENTS = Path(__file__).parents[2] / "workflow" / "experiments"
LDAM_DRW = {0: 0.02, 3: 0.08, 4: 0.1, 159: 0.1, 160: 0.001, 179: 0.001, 180: 1e-5, 199: 1e-5}
AUTHORS = {  # the authors' batch size, learning rates by epoch from 0, Nesterov, weight decay
    ("ldam_resnet32", "ldam_drw"): (128, LDAM_DRW, False, 2e-4),  # cifar_train.py
    ("balanced_softmax", "balanced_softmax"): (128, LDAM_DRW, False, 2e-4),
    ("balanced_softmax", "balanced_softmax_augmented"): (  # ProCo_cifar/main.py
        256,
        {0: 0.06, 4: 0.3, 159: 0.3, 160: 0.03, 179: 0.03, 180: 0.003},
        False,
        2e-4,
    ),
    # configs/cifar10.yaml, and the optimizer of lib/utils/utils.py; the warm-up is ours
    ("bbn", "bbn"): (128, {5: 0.1, 119: 0.1, 120: 0.001, 159: 0.001, 160: 1e-5, 199: 1e-5}, True, 2e-4),
    # README.md and Trainer.py: 0.01 (1 + cos πe/200)/2
    ("glmc", "glmc"): (64, {0: 0.01, 50: 0.008535534, 100: 0.005, 150: 0.001464466}, False, 5e-3),
}


@pytest.mark.parametrize(("experiment", "method"), AUTHORS, ids=lambda name: name)
def test_a_shipped_recipe_has_the_optimizer_of_its_authors_code(experiment, method):
    batch, rates, nesterov, decay = AUTHORS[experiment, method]
    recipe = load(EXPERIMENTS / f"{experiment}.yaml").retrain_of(method)
    weights = recipe.weights
    found = {epoch: learning_rate(weights, epoch, recipe.epochs) for epoch in rates}
    assert found == pytest.approx(rates)
    assert (recipe.epochs, recipe.batch_size, recipe.accumulate) == (200, batch, 1)
    [group] = make_optimizer(nn.Linear(2, 2), weights).param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, nesterov, decay)
    assert weights.clip is None
