"""GDAS: frequencies and gradients of its choices, the temperature, and what it does in a search."""

import pytest
import torch
from torch.nn import functional as F

from hlrs.config.methods import Gdas
from hlrs.nas.searchers.gdas import GdasSearcher
from tests.nas.test_supernet import plain_cell, relative, small_supernet
from tests.tasks import inputs, search_task
from tests.training.test_cuda_graphs import by_stage

ALPHAS = torch.tensor([[1.0, 0.0, -1.0, 0.5, 2.0, -2.0, 0.0, 0.3], [0.0] * 8])


def make(**options) -> GdasSearcher:
    return GdasSearcher(Gdas(**options))


def drawn(searcher, shape=(1, 2, 8), epoch=0, seed=0):
    """The draw for one kind of cell."""
    return searcher.draw(shape, torch.Generator().manual_seed(seed), epoch, 10)[0]


@pytest.mark.parametrize("tau", [10.0, 0.1])
def test_operations_are_chosen_with_the_probabilities_of_their_softmax(tau):
    # all draws at once: the edges of one large draw share their alphas; 4 standard deviations
    searcher, count = make(tau_max=tau, tau_min=tau), 20_000
    for alphas in ALPHAS:
        own = drawn(searcher, (1, count, 8))
        weights = searcher.operation_weights(alphas.expand(count, 8), own)
        assert set(weights.flatten().tolist()) == {0.0, 1.0}
        exponentials = alphas.double().exp()
        p = exponentials / exponentials.sum()
        bound = 4 * (count * p * (1 - p)).sqrt()
        assert ((weights.double().sum(0) - count * p).abs() < bound).all()


def test_the_choice_does_not_depend_on_the_temperature():
    hot, cold = (drawn(make(), epoch=epoch) for epoch in (0, 9))
    assert torch.equal(hot[0], cold[0])  # the same noise
    assert (float(hot[1, 0, 0]), float(cold[1, 0, 0])) == pytest.approx((10.0, 0.1))
    assert torch.equal(make().operation_weights(ALPHAS, hot), make().operation_weights(ALPHAS, cold))


@pytest.mark.parametrize("tau", [10.0, 0.5])
def test_the_gradient_equals_that_of_the_soft_choice_at_the_same_noise(tau):
    searcher = make(tau_max=tau, tau_min=tau)
    noise, along = drawn(searcher)[0], torch.linspace(-1, 1, 16).view(2, 8)
    found, expected = (ALPHAS.clone().double().requires_grad_() for _ in range(2))
    (searcher.operation_weights(found, drawn(searcher)) * along).sum().backward()
    # softmax by hand: (alpha + g)/tau, since a row's log-sum-exp cancels
    exponentials = ((expected + noise) / tau).exp()
    (exponentials / exponentials.sum(1, keepdim=True) * along).sum().backward()
    assert found.grad.abs().max() > 1e-3
    assert torch.allclose(found.grad, expected.grad, atol=1e-9)


@pytest.mark.parametrize(
    ("epoch", "epochs", "tau"), [(0, 50, 10.0), (49, 50, 0.1), (2, 5, 5.05), (0, 1, 10.0)]
)
def test_the_temperature_falls_linearly_from_epoch_to_epoch(epoch, epochs, tau):
    assert make().temperature(epoch, epochs) == pytest.approx(tau)
    assert make(tau_max=4.0, tau_min=4.0).temperature(epoch, epochs) == 4.0


def test_noise_is_gumbel_distributed():
    # mean 0.5772 (Euler's constant), variance pi²/6, each within 4 standard errors of 80,000 draws
    noise = drawn(make(), (1, 10_000, 8))[0]
    assert float(noise.mean()) == pytest.approx(0.577216, abs=4 * (1.644934 / 80_000) ** 0.5)
    assert float(noise.var()) == pytest.approx(1.644934, abs=4 * (4.4 * 1.644934**2 / 80_000) ** 0.5)


def test_a_cell_applies_only_chosen_operations_and_learns_about_all():
    searcher = make()
    supernet = small_supernet(2, torch.float64, searcher=searcher)
    supernet.drawn = searcher.draw(supernet.shape, torch.Generator().manual_seed(3), 0, 10).double()
    images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states = supernet.stem(images)
    choices = {}
    for cell in supernet.shared:
        alphas, place = supernet.alphas[cell.kind], list(supernet.alphas).index(cell.kind)
        chosen = (alphas.detach() + supernet.drawn[place][0]).argmax(1)
        # unlike in the searcher, the one-hot weights are a leaf, so it holds their gradient
        leaf = choices.setdefault(cell.kind, F.one_hot(chosen, 8).double().requires_grad_())
        states = states[1], plain_cell(cell, *(F.relu(state) for state in states), leaf)
    logits = supernet.classifier(states[1].mean((2, 3)))
    assert relative(supernet(images), logits) < 1e-10
    labels = torch.tensor([0, 1, 2, 1])
    F.cross_entropy(logits, labels).backward()
    gradients = torch.autograd.grad(F.cross_entropy(supernet(images), labels), supernet.alphas.values())
    for (kind, leaf), gradient in zip(choices.items(), gradients, strict=True):
        alphas = supernet.alphas[kind].detach().clone().requires_grad_()
        noise = supernet.drawn[list(supernet.alphas).index(kind)][0]
        soft = ((alphas + noise) / 10.0).softmax(1)
        [expected] = torch.autograd.grad(soft, alphas, leaf.grad)
        assert relative(gradient, expected) < 1e-6


def test_every_step_of_every_epoch_has_its_own_noise_and_mixing_coefficient(workspace):
    objective = {"kind": "bilateral", "mixing": {"kind": "beta"}}
    task = search_task(by_stage({"searcher": {"kind": "gdas"}, "objective": objective})["search"])
    seen = inputs(task, (0, 1))
    assert len({mixing for mixing, *_ in seen}) == 4
    noise = {str(of[:, 0].tolist()) for given in seen for of in given[3:5]}  # on either half's images
    assert len(noise) == 8


def test_temperatures_that_rise_or_vanish_are_rejected():
    with pytest.raises(ValueError, match=r"tau_min 2\b.*tau_max 1\b.*swap\b"):
        Gdas(tau_max=1.0, tau_min=2.0)
    with pytest.raises(ValueError, match="tau_min"):
        Gdas(tau_min=0.0)
