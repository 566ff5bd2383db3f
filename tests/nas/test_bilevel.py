"""The alphas' gradients compared with exact ones, by hand and differentiated through the unrolled step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hlrs.config.methods import Darts, PcDarts
from hlrs.config.recipes import Sgd
from hlrs.config.spaces import DartsSpace
from hlrs.nas.bilevel import first_order, frozen, moved, second_order, sgd_terms
from hlrs.nas.network import initialize
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.nas.supernet import DartsSupernet, initialize_alphas
from hlrs.training.optim import make_sgd
from tests.training.test_cuda_graphs import by_stage, search_task


def test_quadratic_problem_by_hand():
    # L_train = (w − a)², L_val = w·a; w' = w − lr·(s + 2(w − a)); dL_val/da = w' + a·dw'/da = w' + 2·lr·a
    w, a = (
        nn.Parameter(torch.tensor([3.0], dtype=torch.float64)),
        nn.Parameter(torch.tensor([2.0], dtype=torch.float64)),
    )
    step, lr = [torch.tensor([0.5], dtype=torch.float64)], 0.1
    [gradient] = second_order([a], [w], lambda: ((w - a) ** 2).sum(), lambda: (w * a).sum(), step, lr)
    unrolled = 3.0 - 0.1 * (0.5 + 2 * (3.0 - 2.0))
    assert gradient.item() == pytest.approx(unrolled + 2 * 0.1 * 2.0, rel=1e-9)
    [plain] = first_order([a], [w], lambda: (w * a).sum())
    assert plain.item() == 3.0
    assert (w.item(), a.item()) == (3.0, 2.0)


def test_weights_that_the_validation_does_not_use_add_nothing_to_the_second_order():
    """As above, beside a weight of the training loss alone: L_train = (w − a)² + (u − 3a)²."""
    w, u, a = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (3.0, -1.0, 2.0))
    step = [torch.tensor([v], dtype=torch.float64) for v in (0.5, 0.25)]

    def training():
        return ((w - a) ** 2 + (u - 3 * a) ** 2).sum()

    [gradient] = second_order([a], [w, u], training, lambda: (w * a).sum(), step, torch.tensor(0.1).double())
    assert gradient.item() == pytest.approx(3.0 - 0.1 * (0.5 + 2 * (3.0 - 2.0)) + 2 * 0.1 * 2.0, rel=1e-7)


def exact_hypergradient(model, alphas, weights, train, validation, step, lr):
    """d/dα L_val(w − lr·(step + ∇_w L_train(w, α)), α) by differentiating through the step."""
    names = {id(p): name for name, p in model.named_parameters()}
    gradient = torch.autograd.grad(train(), weights, create_graph=True)
    unrolled = {names[id(w)]: w - lr * (s + g) for w, s, g in zip(weights, step, gradient, strict=True)}
    images, labels = validation
    loss = F.cross_entropy(torch.func.functional_call(model, unrolled, (images,)), labels)
    return torch.autograd.grad(loss, alphas)


def supernet_problem(portion=1, **options):
    draw = torch.Generator().manual_seed(5)
    searcher = PcDartsSearcher(PcDarts(portion=portion)) if portion > 1 else DartsSearcher(Darts())
    model = DartsSupernet(
        DartsSpace(), searcher, nodes=2, in_channels=1, classes=3, channels=2, cells=3, **options
    )
    model = model.to(torch.float64)
    initialize(model, draw)
    initialize_alphas(model, draw, scale=0.5)
    batches = [
        (
            torch.randn(6, 1, 6, 6, generator=draw, dtype=torch.float64),
            torch.randint(0, 3, (6,), generator=draw),
        )
        for _ in range(2)
    ]
    weights, alphas = model.weights(), list(model.alphas.values())
    step = [0.1 * torch.randn(w.shape, generator=draw, dtype=torch.float64) for w in weights]
    return model, alphas, weights, batches, step


@pytest.mark.parametrize("options", [{}, {"portion": 2}])
@pytest.mark.parametrize("recompute", [False, True])
def test_unrolled_gradient_is_the_exact_bilevel_gradient_of_a_supernet(options, recompute):
    lr = 0.05

    def loss(batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    model, alphas, weights, (train, validation), step = supernet_problem(**options)
    exact = exact_hypergradient(model, alphas, weights, lambda: loss(train), validation, step, lr)
    model, alphas, weights, (train, validation), step = supernet_problem(**options, recompute=recompute)
    found = second_order(alphas, weights, lambda: loss(train), lambda: loss(validation), step, lr)
    first = first_order(alphas, weights, lambda: loss(validation))
    for e, f, g in zip(exact, found, first, strict=True):
        assert float((e - f).norm() / e.norm()) < 1e-9
        assert float((e - g).norm() / e.norm()) > 1e-2  # the second-order term is no rounding error


# weight decay 0.1, momentum 0.5; w = 3 and g = 2, then g = 1, so the buffer is 0.3 + 2 = 2.3 after one step
# plain: w = 3 − 0.1 · 2.3 = 2.77; s = 0.277 + 0.5 · 2.3 = 1.427; then w = 2.77 − 0.1 · (1 + s)
# Nesterov: w = 3 − 0.1 · 1.5 · 2.3 = 2.655; s = 0.2655 + 0.25/1.5 · 2.3; then w = 2.655 − 0.15 · (1 + s)
@pytest.mark.parametrize(
    ("nesterov", "first", "added", "factor", "second"),
    [(False, 2.77, 1.427, 1.0, 2.5273), (True, 2.655, 0.6488333333, 1.5, 2.407675)],
)
def test_the_unrolled_step_is_the_one_that_sgd_takes(nesterov, first, added, factor, second):
    w = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    sgd = make_sgd([w], Sgd(lr=0.1, momentum=0.5, nesterov=nesterov, weight_decay=0.1))
    terms, by = sgd_terms([w], sgd)  # without a buffer
    assert (terms[0].item(), by) == (pytest.approx(0.3), factor)
    w.grad = torch.tensor([2.0], dtype=torch.float64)
    sgd.step()
    assert w.item() == pytest.approx(first, rel=1e-12)
    terms, by = sgd_terms([w], sgd)
    assert (terms[0].item(), by) == (pytest.approx(added, rel=1e-9), factor)
    unrolled = w.item() - by * 0.1 * (terms[0].item() + 1.0)
    w.grad = torch.tensor([1.0], dtype=torch.float64)
    sgd.step()
    assert w.item() == pytest.approx(second, rel=1e-12)
    assert unrolled == pytest.approx(second, rel=1e-12)


def test_a_second_order_search_unrolls_the_step_of_its_optimizer(workspace, monkeypatch):
    """The weights at which the alphas' loss is taken are those of the optimizer's own next step."""
    own = {"searcher": {"kind": "darts", "order": 2}, "search": {"weights": {"nesterov": True, "clip": None}}}
    task = search_task(by_stage(own)["search"])
    task.begin(0)
    task.step(0)  # fills the momentum buffers
    lookups, evaluate = [], task.on_alphas.__call__

    def looked_at(network, *rest):
        lookups.append([w.detach().clone() for w in task.weights])
        return evaluate(network, *rest)

    task.on_alphas = looked_at
    monkeypatch.setattr(task.alphas_optimizer, "step", lambda: None)  # the alphas of both steps are the same
    task.step(1)
    assert len(lookups) == 1
    for found, stepped in zip(lookups[0], task.weights, strict=True):
        assert torch.allclose(found, stepped, atol=1e-6)


def test_two_steps_of_the_alphas_optimizer_by_hand(workspace):
    """Adam with its weight decay in the gradient (Kingma & Ba 2015, algorithm 1; DARTS, §3.1)."""
    adam = {"lr": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.2}
    task = search_task(by_stage({"search": {"alphas": adam}})["search"])
    task.begin(0)
    m = v = torch.zeros(())
    for step in (1, 2):
        before = task.alphas[0].detach().clone()
        task.step(step - 1)
        g = task.alphas[0].grad + 0.2 * before
        m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g**2
        slope = m / (1 - 0.5**step) / ((v / (1 - 0.9**step)).sqrt() + 1e-8)
        assert torch.allclose(task.alphas[0], before - 0.1 * slope, atol=1e-6)


def test_weights_are_restored_bit_for_bit_even_after_an_error():
    w = nn.Parameter(torch.randn(50, generator=torch.Generator().manual_seed(0)))
    before = w.detach().clone()
    seen = []

    def break_inside():
        with moved([w], [torch.ones(50)], 0.1):
            seen.append(w.detach().clone())
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        break_inside()
    assert torch.allclose(seen[0], before + 0.1)
    assert torch.equal(w, before)


def test_parameters_are_frozen_only_inside_the_block():
    w, a = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((3,), 2.0))
    with frozen([w]):
        assert (w.requires_grad, a.requires_grad) == (False, True)
        (w * a).sum().backward()
    assert w.grad is None
    assert torch.equal(a.grad, torch.ones(3))
    assert w.requires_grad

    with frozen([w]):  # as a fixed frame is: it stays so
        with frozen([w, a]):
            pass
        assert (w.requires_grad, a.requires_grad) == (False, True)

    def break_inside():
        with frozen([w, a]):
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        break_inside()
    assert w.requires_grad
    assert a.requires_grad


def test_a_graph_from_before_a_move_can_be_differentiated_again_after_it():
    # d/da of d/dw Σ a·w³, times d: Σ 3·w²·d; and by w: 6·a·w·d
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    a = nn.Parameter(torch.tensor([0.5, 3.0], dtype=torch.float64))
    d = torch.tensor([7.0, 11.0], dtype=torch.float64)
    [gradient] = torch.autograd.grad((a * w**3).sum(), w, create_graph=True)
    with moved([w], [d], 0.1):
        [elsewhere] = torch.autograd.grad((a * w**3).sum(), a)
    by_w, by_a = torch.autograd.grad((gradient * d).sum(), (w, a))
    assert torch.allclose(elsewhere, torch.tensor([1.7, -0.9], dtype=torch.float64) ** 3, rtol=1e-12)
    assert torch.equal(by_w, torch.tensor([6 * 0.5 * 1.0 * 7.0, 6 * 3.0 * -2.0 * 11.0], dtype=torch.float64))
    assert torch.equal(by_a, torch.tensor([3 * 1.0 * 7.0, 3 * 4.0 * 11.0], dtype=torch.float64))


def test_second_order_evaluates_each_loss_once():
    w, a = (nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in (3.0, 2.0))
    seen = []

    def loss(name, value):
        seen.append((name, w.item()))
        return value

    second_order(
        [a],
        [w],
        lambda: loss("training", ((w - a) ** 2).sum()),
        lambda: loss("validation", (w * a).sum()),
        [torch.zeros(1, dtype=torch.float64)],
        0.25,
    )
    assert seen == [("training", 3.0), ("validation", 2.5)]
