"""The contract of all searchers."""

from typing import get_args

import pytest
import torch

from hlrs.config.methods import Searcher as SearcherSpec
from hlrs.config.methods import SupernetSearcher
from hlrs.nas.searchers.table import SEARCHERS
from hlrs.nas.supernet import Supernet
from tests.training.test_cuda_graphs import by_stage, search_task

SPECS = get_args(SupernetSearcher)
EPOCHS = 4


def make(spec):
    return SEARCHERS[spec](spec())


def test_kinds_that_search_a_supernet_have_a_searcher():
    union = get_args(SearcherSpec)[0]
    assert {spec for spec in get_args(union) if vars(spec)["searches"]} == set(SPECS) == SEARCHERS.keys()


@pytest.mark.parametrize("spec", SPECS)
def test_a_searcher_agrees_with_its_spec(spec):
    searcher = make(spec)
    assert searcher.portion == spec().portion
    assert [searcher.rests(t) for t in (0.0, 0.2999, 0.5, 0.99)] == [
        t < spec().warm_up for t in (0.0, 0.2999, 0.5, 0.99)
    ]
    assert searcher.order == 1


@pytest.mark.parametrize("spec", SPECS)
def test_weights_are_distributions_and_draws_follow_their_generator(spec):
    searcher = make(spec)
    supernet = Supernet(searcher, nodes=2, in_channels=1, classes=3, channels=4, cells=3)
    drawn = [
        searcher.draw(supernet.shape, torch.Generator().manual_seed(seed), 1, EPOCHS) for seed in (0, 0, 1)
    ]
    if drawn[0] is not None:
        assert len(drawn[0]) == len(supernet.alphas)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
    alphas = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    weights = searcher.operation_weights(alphas, None if drawn[0] is None else drawn[0][0])
    assert weights.shape == (5, 8)
    assert (weights >= 0).all()
    assert weights.sum(1).tolist() == pytest.approx([1.0] * 5)
    betas = torch.zeros(5) if searcher.edge_normalization else None
    by_edge = searcher.edge_weights(betas, supernet.incoming)
    assert by_edge is None or by_edge.tolist() == pytest.approx([1 / 2] * 2 + [1 / 3] * 3)
    assert (len(supernet.betas) > 0) == searcher.edge_normalization
    assert searcher.penalty(supernet.architecture()) is None


def test_a_penalty_changes_the_architectures_gradient_but_no_recorded_loss(workspace, monkeypatch):
    job = by_stage({})["search"]
    found = []
    for factor in (None, 3.0):
        task = search_task(job)
        if factor is not None:
            total = lambda architecture: factor * sum(p.sum() for p in architecture.values())  # noqa: E731, B023
            monkeypatch.setattr(task.searcher, "penalty", total)
        task.begin(0)
        metrics = task.step(0)
        found.append((metrics, [alphas.grad.clone() for alphas in task.alphas]))
    (plain, gradients), (penalized, more) = found
    assert penalized[2:4].tolist() == plain[2:4].tolist()  # loss and accuracy on the alphas' images
    for before, after in zip(gradients, more, strict=True):
        assert torch.allclose(after - before, torch.full_like(before, 3.0), atol=1e-5)
