"""The contract of all searchers."""

from typing import ClassVar, Literal, get_args

import pytest
import torch

from hlrs.config import methods
from hlrs.config.base import Spec
from hlrs.config.spaces import DartsSpace
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.table import DRAWS, SCORES, SEARCHERS
from hlrs.nas.supernet import DartsSupernet
from tests.training.test_cuda_graphs import by_stage, search_task

EPOCHS = 4


class Fair(Spec):
    """FairDARTS (Chu et al. 2020): independent operations, and a loss that drives their weights to 0 or 1."""

    kind: Literal["fair"] = "fair"
    genotype_is: ClassVar[str] = "searched"
    order: ClassVar[int] = 1
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = False
    tune: ClassVar[None] = None
    relaxation: ClassVar[methods.Softmax] = methods.Softmax()


class FairSearcher(DartsSearcher):
    """Weigh operations by sigmoid(α), with the zero-one loss −mean((σ(α) − 1/2)²)."""

    def operation_weights(self, alphas, drawn):
        return alphas.sigmoid()

    def penalty(self, architecture, drawn):
        return (
            -torch.cat([alphas.sigmoid().flatten() - 0.5 for alphas in architecture.values()]).pow(2).mean()
        )


IMPLEMENTED = {**SEARCHERS, Fair: FairSearcher}  # the contract holds for one that users might add


def make(spec: type[Spec]) -> Searcher:
    return IMPLEMENTED[spec](spec())


def check_weights(weights: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Weights are finite, and none is negative."""
    assert weights.shape == shape
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()


def check_penalty(penalty: torch.Tensor | None, architecture: dict[str, torch.Tensor]) -> None:
    """A penalty is None, or a finite scalar with a finite gradient that is not 0 everywhere."""
    if penalty is not None:
        assert penalty.shape == ()
        assert torch.isfinite(penalty)
        found = torch.autograd.grad(penalty, list(architecture.values()), allow_unused=True)
        gradient = torch.cat([part.flatten() for part in found if part is not None])
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


def test_what_finds_a_genotype_is_in_its_union_and_its_table():
    found = ("searched", "drawn", "scored")
    specs: dict[str, set[type[Spec]]] = {rule: set() for rule in (*found, "given", "absent", "shared")}
    for spec in get_args(get_args(methods.Searcher)[0]):
        if spec is not methods.Implant:  # which has PC-DARTS's searcher
            specs[spec.genotype_is].add(spec)
    unions = (methods.SupernetSearcher, methods.DrawnSearcher, methods.ScoredSearcher)
    for rule, union, table in zip(found, unions, (SEARCHERS, DRAWS, SCORES), strict=True):
        assert specs[rule] == set(get_args(union) or (union,)) == table.keys(), rule


@pytest.mark.parametrize("spec", IMPLEMENTED)
def test_a_searcher_follows_the_rules_of_its_spec(spec):
    searcher, rules = make(spec), spec()
    for rule in ("order", "portion", "edge_normalization"):
        assert getattr(searcher, rule) == getattr(rules, rule), rule
    for t in (0.0, 0.2999, 0.5, 0.99):
        assert searcher.rests(t) == (t < rules.warm_up)


@pytest.mark.parametrize("spec", IMPLEMENTED)
def test_draws_follow_their_generator(spec):
    searcher = make(spec)
    supernet = DartsSupernet(DartsSpace(), searcher, nodes=2, in_channels=1, classes=3, channels=4, cells=3)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    first, again, other = (
        searcher.draw(supernet.shape, draw, 1, EPOCHS)
        for draw in (generator, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    )
    if first is not None:
        assert len(first) == len(supernet.alphas)
        assert torch.equal(first, again)
        untouched = torch.equal(before, generator.get_state())  # what varies with the epoch alone
        assert torch.equal(first, other) == untouched


@pytest.mark.parametrize("spec", IMPLEMENTED)
def test_weights_and_penalty_are_what_a_supernet_can_learn_from(spec):
    searcher = make(spec)
    supernet = DartsSupernet(DartsSpace(), searcher, nodes=2, in_channels=1, classes=3, channels=4, cells=3)
    drawn = searcher.draw(supernet.shape, torch.Generator().manual_seed(0), 1, EPOCHS)
    alphas = torch.randn(5, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weights = searcher.operation_weights(alphas, None if drawn is None else drawn[0])
    check_weights(weights, (5, 8))
    assert torch.allclose(weights.sum(1), torch.ones(5), atol=1e-5) == spec.sums_to_one
    [gradient] = torch.autograd.grad(weights.square().sum(), alphas)  # one may be 0 for good
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()
    betas = torch.zeros(5) if searcher.edge_normalization else None
    by_edge = searcher.edge_weights(betas, supernet.incoming)
    if by_edge is not None:
        check_weights(by_edge, (5,))
    assert (len(supernet.betas) > 0) == searcher.edge_normalization
    architecture = {
        name: torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), requires_grad=True)
        for name, parameter in supernet.architecture().items()
    }
    check_penalty(searcher.penalty(architecture, drawn), architecture)


@pytest.mark.parametrize(
    "weights",
    [
        torch.full((5, 8), torch.nan),
        torch.tensor([2.0, -1.0, 0, 0, 0, 0, 0, 0]).expand(5, 8),
        torch.full((8,), 0.125),
    ],
    ids=["not a number", "negative", "of one edge"],
)
def test_weights_that_break_the_contract_are_found(weights):
    with pytest.raises(AssertionError):
        check_weights(weights, (5, 8))


@pytest.mark.parametrize(
    "penalty",
    [lambda alphas: alphas.square(), lambda alphas: (0 * alphas).sum(), lambda alphas: (alphas / 0).sum()],
    ids=["no scalar", "constant", "infinite"],
)
def test_a_penalty_that_breaks_the_contract_is_found(penalty):
    alphas = torch.full((2, 8), 0.5, requires_grad=True)
    with pytest.raises(AssertionError):
        check_penalty(penalty(alphas), {"alphas": alphas})


def test_a_penalty_changes_the_architectures_gradient_but_no_recorded_loss(workspace, monkeypatch):
    job = by_stage({})["search"]
    found = []
    for factor in (None, 3.0):
        task = search_task(job)
        if factor is not None:
            total = lambda architecture, drawn: factor * sum(p.sum() for p in architecture.values())  # noqa: E731, B023
            monkeypatch.setattr(task.searcher, "penalty", total)
        task.begin(0)
        metrics = task.step(0)
        found.append((metrics, [alphas.grad.clone() for alphas in task.alphas]))
    (plain, gradients), (penalized, more) = found
    assert penalized[2:4].tolist() == plain[2:4].tolist()  # loss and accuracy on the alphas' images
    for before, after in zip(gradients, more, strict=True):
        assert torch.allclose(after - before, torch.full_like(before, 3.0), atol=1e-5)
