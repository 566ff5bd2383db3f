"""β-DARTS: its penalty by hand, the weight's rise, and that a search feels it."""

import math

import pytest
import torch

from hlrs.config.methods import BetaDarts
from hlrs.nas.searchers.beta_darts import BetaDartsSearcher
from tests.tasks import search_task
from tests.training.test_cuda_graphs import by_stage


def weight(epoch: int, **options) -> torch.Tensor:
    """w(t) of two kinds of cell, in 4 epochs."""
    return BetaDartsSearcher(BetaDarts(**options)).draw((2, 5, 8), torch.Generator(), epoch, 4)


def test_the_weight_rises_linearly_from_0_as_in_the_authors_code():
    # weights = 0 + 50*epoch/100 in their 100 epochs
    assert [weight(epoch).tolist() for epoch in (0, 1, 3)] == [[0.0, 0.0], [12.5, 12.5], [37.5, 37.5]]
    assert weight(2, weight=8.0).tolist() == [4.0, 4.0]


def test_the_penalty_is_a_mean_over_edges_and_a_sum_over_kinds_of_cell():
    # normal: edges [0, 0] and [log 3, 0], logsumexp log 2 and log 4, mean 1.5 log 2; reduce: log 2 twice
    normal = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], requires_grad=True)
    reduce = torch.zeros(2, 2, requires_grad=True)
    architecture = {"alphas.normal": normal, "alphas.reduce": reduce}
    penalty = BetaDartsSearcher(BetaDarts()).penalty(architecture, torch.tensor([2.0, 2.0]))
    assert penalty.item() == pytest.approx(2 * 1.5 * math.log(2) + 2 * math.log(2), rel=1e-6)
    penalty.backward()
    # w/2 edges · softmax: [1/2, 1/2], [3/4, 1/4]
    assert torch.allclose(normal.grad, torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    assert torch.allclose(reduce.grad, torch.full((2, 2), 0.5))


@pytest.mark.parametrize("order", [1, 2])
def test_the_architecture_and_it_alone_feels_the_penalty(workspace, order):
    """In the second of three epochs w is 50/3, of 2 edges per kind of cell: 25/3 · softmax(α)."""
    found = []
    for kind in ("darts", "beta_darts"):
        task = search_task(by_stage({"searcher": {"kind": kind, "order": order}})["search"])
        before = [alphas.detach().clone() for alphas in task.alphas]
        task.begin(1)
        metrics = task.step(0)
        found.append((metrics, [alphas.grad.clone() for alphas in task.alphas]))
    (plain, gradients), (penalized, more) = found
    assert penalized[2:4].tolist() == plain[2:4].tolist()  # loss and accuracy on the alphas' images
    for alphas, without, with_penalty in zip(before, gradients, more, strict=True):
        assert alphas.shape == (2, 8)
        assert torch.allclose(with_penalty - without, 25 / 3 * alphas.softmax(1), atol=1e-4)
