"""ZO-DARTS+: its estimate compared with exact gradients, and its windows over epochs, kills and resumes."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hlrs.artifacts.tables import read_table
from hlrs.config.jobs import SearchJob
from hlrs.config.methods import ZoDarts
from hlrs.config.params import Params
from hlrs.config.recipes import Sgd
from hlrs.errors import UserError
from hlrs.nas.bilevel import frozen, second_order, sgd_terms
from hlrs.nas.searchers.zo_darts import Window
from hlrs.pipeline.plan import plan
from hlrs.pipeline.preflight import check_counts
from hlrs.stages import search
from hlrs.training.optim import make_sgd, step_along
from tests.conftest import TINY
from tests.messages import says
from tests.nas.test_bilevel import supernet_problem
from tests.tasks import search_task
from tests.training.test_cuda_graphs import by_stage

ZO = {"kind": "zo_darts"}


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def take(window, loss, sgd, steps):
    """Take steps of a window, in the copies and in the weights."""

    def step():
        with frozen(window.alphas):
            step_along(torch.autograd.grad(loss(), window.weights), window.weights, sgd, None)

    for _ in range(steps):
        window.follow(step)
        step()


# --- the estimate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_on_a_quadratic_the_estimate_is_the_exact_slope(steps, options):
    """L_train = ½‖w − Aα‖², L_val = ½‖w‖² + b·α; without momentum ∂w_T/∂α = (1 − (1 − η)^T) A."""
    numbers = np.random.default_rng(0)
    matrix, b = numbers.normal(size=(4, 3)), numbers.normal(size=3)
    a = nn.Parameter(torch.from_numpy(numbers.normal(size=3)))
    w = nn.Parameter(torch.from_numpy(numbers.normal(size=4)))
    sgd = make_sgd([w], Sgd(lr=0.1, weight_decay=0.0, **{"momentum": 0.0} | options))
    window = Window(ZoDarts(steps=steps, perturbation=1e-4, directions=3), [a], sgd)

    def training():
        return ((w - torch.from_numpy(matrix) @ a) ** 2).sum() / 2

    take(window, training, sgd, 3)  # there is momentum when the window starts
    window.start(draw())
    before = a.detach().clone()
    take(window, training, sgd, steps)
    assert torch.equal(a, before)
    estimate, direct, implicit = window.estimate(lambda: (w**2).sum() / 2 + (torch.from_numpy(b) * a).sum())
    # the response of w_T: v is that of the step, r that of the weights, both to a unit of Aα
    momentum, v, r = options.get("momentum", 0.0), 0.0, 0.0
    for _ in range(steps):
        g = r - 1
        v = momentum * v + g
        r -= 0.1 * (g + momentum * v if options.get("nesterov") else v)
    if not options:
        assert r == pytest.approx(1 - 0.9**steps)
    u, at = window.directions.numpy(), w.detach().numpy()
    assert np.linalg.norm(u, axis=1).tolist() == pytest.approx([1.0] * 3)
    assert direct.tolist() == pytest.approx((u @ b).tolist(), rel=1e-9)
    assert implicit.tolist() == pytest.approx((u @ (r * matrix.T @ at)).tolist(), rel=1e-7)
    exact = b + r * matrix.T @ at
    assert estimate[0].tolist() == pytest.approx((u.T @ (u @ exact) / 3).tolist(), rel=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_after_one_step_the_estimate_is_the_unrolled_gradient_along_its_directions(nesterov):
    model, alphas, weights, (train, validation), _ = supernet_problem()
    sgd = make_sgd(weights, Sgd(lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=3e-4))
    window = Window(ZoDarts(steps=1, perturbation=1e-7, directions=2), alphas, sgd)

    def loss(batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    take(window, lambda: loss(train), sgd, 2)  # fills the momentum
    added, factor = sgd_terms(weights, sgd)
    exact = second_order(alphas, weights, lambda: loss(train), lambda: loss(validation), added, factor * 0.05)
    exact = torch.cat([gradient.flatten() for gradient in exact])
    window.start(draw())
    take(window, lambda: loss(train), sgd, 1)
    estimate, direct, implicit = window.estimate(lambda: loss(validation))
    slopes = window.directions @ exact
    assert ((direct + implicit - slopes).abs() < 1e-6 * slopes.abs()).all()
    assert (implicit.abs() > 1e-4 * direct.abs()).all()  # it is no rounding error
    expected = (slopes[:, None] * window.directions).mean(0)
    estimate = torch.cat([gradient.flatten() for gradient in estimate])
    assert float((estimate - expected).norm()) < 1e-6 * float(expected.norm())


def test_copies_leave_weights_momentum_and_alphas_as_they_are_and_keep_their_memory():
    w, a = (nn.Parameter(torch.randn(50, generator=draw(seed))) for seed in (1, 2))
    sgd = make_sgd([w], Sgd(lr=0.1, momentum=0.9, weight_decay=0.0))
    window = Window(ZoDarts(directions=2), [a], sgd)
    memory = [tensor.data_ptr() for copy in window.copies for tensor in copy] + [w.data_ptr(), a.data_ptr()]
    take(window, lambda: ((w - a) ** 2).sum(), sgd, 2)
    window.start(draw())
    before = [tensor.detach().clone() for tensor in (w, a, sgd.state[w]["momentum_buffer"])]
    for copy in window.copies:
        for own, weights in zip(copy, [before[0], before[2]], strict=True):
            assert torch.equal(own, weights)

    def step():
        step_along([2 * (w - a).detach()], [w], sgd, None)

    window.follow(step)
    for tensor, value in zip((w, a, sgd.state[w]["momentum_buffer"]), before, strict=True):
        assert torch.equal(tensor, value)
    # of a copy: b = 0.9 b + 2 (w − α − μu), w = w − 0.1 b
    distance = 0.005 * before[1].norm()
    for copy, u in zip(window.copies, window.directions, strict=True):
        buffer = 0.9 * before[2] + 2 * (before[0] - before[1] - distance * u)
        assert torch.allclose(copy[1], buffer, atol=1e-6)
        assert torch.allclose(copy[0], before[0] - 0.1 * buffer, atol=1e-6)
    window.load({name: tensor.clone() for name, tensor in window.state().items()})
    assert memory == [t.data_ptr() for copy in window.copies for t in copy] + [w.data_ptr(), a.data_ptr()]


# --- windows ------------------------------------------------------------------------------------------


def test_windows_follow_each_other_over_epochs_and_a_rest_ends_one():
    a, w = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    window = Window(ZoDarts(steps=10), [a], make_sgd([w], Sgd()))
    seen = []
    for moves in (True, True, True, False, True, True):
        seen.append(([step for step in range(6) if window.starts(step)], list(window.ends(6))))
        window.end_epoch(6 if moves else 0)
    # steps 0 to 9, 10 to 19, of which the epochs have 0 to 5, 6 to 11, 12 to 17; after the rest from 0 on
    assert [seen[i] for i in (0, 1, 2, 4, 5)] == [([0], []), ([4], [3]), ([], []), ([0], []), ([4], [3])]


def test_a_window_longer_than_an_epoch_still_moves_the_alphas(workspace):
    job = by_stage({"searcher": ZO | {"directions": 2}})["search"]
    task = search_task(job)
    assert (task.steps, task.window.steps) == (5, 10)
    start = [alphas.detach().clone() for alphas in task.alphas]
    moved, rows = [], []
    for epoch in range(3):
        task.begin(epoch)
        sums = sum(task.step(step) for step in range(task.steps))
        rows.append(task.end((sums / task.steps).tolist()))
        moved.append(not all(map(torch.equal, start, task.alphas)))
    assert moved == [False, True, True]
    for name in ("alphas_loss", "alphas_accuracy", "slope_direct", "slope_implicit"):
        assert [row[name] is None for row in rows] == [True, False, True], name
    assert float(rows[1]["alphas_loss"]) == pytest.approx(np.log(10), rel=0.2)  # not a fifth of it
    assert all(row["nonzero_normal"] == 8 for row in rows)  # small alphas at a high temperature


def test_a_step_of_the_alphas_follows_the_estimate_at_the_weights_reached(workspace, monkeypatch):
    task = search_task(by_stage({"searcher": ZO | {"steps": 2}})["search"])
    task.begin(0)
    assert list(task.alphas_steps) == [1, 3]
    assert [bool(requests) for requests in task.validation.requests] == [False, True, False, True, False]
    seen, evaluate = [], task.on_alphas.__call__

    def looked_at(network, *rest):
        seen.append([w.detach().clone() for w in task.weights])
        return evaluate(network, *rest)

    looked_at.loss, task.on_alphas = task.on_alphas.loss, looked_at
    task.step(0)
    assert not seen
    metrics = task.step(1)
    assert len(seen) == 1
    for found, reached in zip(seen[0], task.weights, strict=True):
        assert torch.equal(found, reached)
    u, gradient = task.window.directions[0], torch.cat([alphas.grad.flatten() for alphas in task.alphas])
    slope = gradient @ u
    assert torch.allclose(gradient, slope * u, atol=1e-6 * float(slope.abs()))
    direct, implicit = metrics[5:].tolist()
    assert min(abs(direct + implicit - abs(slope)), abs(abs(direct - implicit) - abs(slope))) < 1e-5 * abs(
        slope
    )


def test_directions_depend_only_on_seed_and_step(workspace):
    tasks = [search_task(by_stage({"searcher": ZO | {"steps": 2}})["search"]) for _ in range(2)]
    for task in tasks:
        task.begin(0)
    seen = []
    for step in range(4):
        tasks[0].step(step)
        seen.append(tasks[0].window.directions.clone())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])
    tasks[1].step(2)
    assert torch.equal(tasks[1].window.directions, seen[2])


def test_a_run_resumed_within_a_window_has_the_same_bytes(workspace):
    job = by_stage({"searcher": ZO | {"steps": 3, "directions": 2}})["search"]

    def steps(task, epoch, which):
        return [task.step(step).tolist() for step in which] + ([task.end([0.0] * 7)] if 4 in which else [])

    whole, first, second = (search_task(job) for _ in range(3))
    expected = []
    for epoch in range(3):
        whole.begin(epoch)
        expected += steps(whole, epoch, range(5))
    first.begin(0)
    seen = steps(first, 0, range(5))
    first.begin(1)
    seen += steps(first, 1, range(2))  # one step into the third window
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    second.begin(1)
    seen += steps(second, 1, range(2, 5))
    second.begin(2)
    seen += steps(second, 2, range(5))
    assert seen == expected
    state, other = whole.state(), second.state()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []
    assert {"window.position", "window.directions", "window.0.0", "window.1.0"} <= state.keys()


def test_windows_end_when_the_alphas_freeze(workspace):
    job = by_stage({"searcher": ZO | {"steps": 3}, "arch_lr": {"kind": "freeze", "at": 0.5}}, epochs=4)[
        "search"
    ]
    task = search_task(job)
    for epoch in range(4):
        task.begin(epoch)
        copies = [[tensor.clone() for tensor in copy] for copy in task.window.copies]
        for step in range(5):
            task.step(step)
        resting = all(torch.equal(*pair) for pair in zip(copies[0], task.window.copies[0], strict=True))
        assert resting == (epoch >= 2)
        task.end([0.0] * 7)


# --- what is refused ----------------------------------------------------------------------------------


def searching(steps, **own):
    params = deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["zo"], {}
    params["methods"] = {"zo": {"searcher": ZO | {"steps": steps}} | own}
    return plan(Params.model_validate(params))


@pytest.mark.parametrize(
    ("most", "own"),
    [(15, {}), (10, {"arch_lr": {"kind": "freeze", "at": 0.5}}), (20, {"search": {"epochs": 4}})],
)
def test_a_window_longer_than_the_search_is_refused_before_any_job(workspace, most, own):
    check_counts(searching(most, **own))
    with pytest.raises(UserError) as error:
        check_counts(searching(most + 1, **own))
    says(str(error.value), "methods.zo", "searcher.steps", str(most + 1), str(most), "search.epochs")


def test_a_window_longer_than_the_search_ends_the_job(workspace):
    jobs = by_stage({"searcher": ZO | {"steps": 16}})
    with pytest.raises(UserError) as error:
        search.run(jobs["search"])
    says(str(error.value), "searcher.steps", "16", "15")


def test_differences_of_weights_need_float32():
    with pytest.raises(ValueError, match=r"methods\.zo\.searcher\.perturbation .*bfloat16.*float32"):
        searching(2, search={"precision": "bfloat16"})


def test_a_search_writes_the_parts_of_its_estimate(workspace):
    jobs = by_stage({"searcher": ZO | {"steps": 3}})
    search.run(jobs["search"])
    history = read_table(jobs["search"].output("history.parquet"), "search_history").to_pydict()
    assert len(history["slope_direct"]) == 3
    assert min(history["slope_direct"] + history["slope_implicit"]) > 0
    assert SearchJob.model_validate(jobs["search"].params).searcher == ZoDarts(steps=3)
    plain = by_stage({})["search"]
    search.run(plain)
    table = read_table(plain.output("history.parquet"), "search_history").to_pydict()
    for name in ("slope_direct", "slope_implicit", "nonzero_normal", "nonzero_reduce"):
        assert table[name] == [None] * 3
