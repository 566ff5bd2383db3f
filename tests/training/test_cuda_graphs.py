"""Captured steps, on a CPU with a stand-in for CUDA graphs: their results, and when they are captured."""

import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from hlrs.config.params import Params
from hlrs.data.images import ImageSet
from hlrs.data.loader import StreamedSet
from hlrs.pipeline.plan import plan
from hlrs.stages import extract, retrain, search, split
from hlrs.training.checkpoints import pack_optimizer, unpack_optimizer
from hlrs.training.cuda_graphs import CapturedStep, GraphCache
from hlrs.training.optim import set_lr
from tests.conftest import TINY
from tests.tasks import retrain_task, search_task

BILATERAL = {"kind": "bilateral", "branch_cells": 1}
RANDOM_MIXING = BILATERAL | {"mixing": {"kind": "beta", "a": 0.2}}
DEFERRED = {"kind": "plain", "loss": {"kind": "ldam", "at": 0.5}}  # re-weighting
WEIGHTED = {"kind": "plain", "loss": {"kind": "class_balanced", "at": 0.5}}  # likewise
PROCO = {"kind": "proco", "dimensions": 8}
UNROLLED = {"kind": "darts", "order": 2}
LATE = {"kind": "pc_darts", "portion": 2, "warm_up": 0.5}
GDAS = {"kind": "gdas"}
BETA = {"kind": "beta_darts"}
DRNAS = {"kind": "drnas"}
ZO = {"kind": "zo_darts", "steps": 2}
METHODS = {
    "plain": {},
    "bilateral": {"objective": BILATERAL},
    "mixed at random": {"objective": RANDOM_MIXING},
    "deferred": {"objective": DEFERRED},
    "dual head": {"objective": {"kind": "dual_head"}},
    "unrolled": {"searcher": UNROLLED},
    "PC-DARTS": {"searcher": LATE | {"warm_up": 0.0}},
    "PC-DARTS after a while": {"searcher": LATE},
    "GDAS": {"searcher": GDAS},
    "beta-DARTS": {"searcher": BETA},
    "DrNAS, unrolled": {"searcher": DRNAS | {"order": 2}},
    "DARTS-PT": {"searcher": {"kind": "darts_pt", "tune": 1}},
    "ZO-DARTS+": {"searcher": ZO | {"directions": 2}},
    "ZO-DARTS+, dual head": {"searcher": ZO, "objective": {"kind": "dual_head"}},
}
CLASSIFIER = {"classifier": {"kind": "retrained", "epochs": 2}}
RECIPES = {
    "plain": {},
    "two branches": {"objective": BILATERAL, "auxiliary_weight": 0.0},
    "mixed images": {"mix": {"kind": "cutmix", "alpha": 1.0}},
    "moving average": {"ema": 0.9},
    "deferred": {"objective": DEFERRED},
    "deferred, then its classifier": {"objective": WEIGHTED} | CLASSIFIER,
    "ProCo, then its classifier": {"objective": PROCO, "auxiliary_weight": 0.0} | CLASSIFIER,
    "GLMC": {"objective": {"kind": "glmc"}, "auxiliary_weight": 0.0},
}
CPU = torch.device("cpu")


def by_stage(method, epochs=3, **recipe):
    """The jobs of one method by stage, after running the split and, if it is random, the search."""
    params = copy.deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["m"], {}
    params["methods"] = {"m": {"searcher": {"kind": "darts", "order": 1}} | method}
    params["search"] |= {"channels": 4, "epochs": epochs}
    params["retrain"] |= {"epochs": epochs} | recipe
    jobs = {job.stage: job for job in plan(Params.model_validate(params))}
    split.run(jobs["split"])
    if method.get("searcher") == {"kind": "random"}:
        search.run(jobs["search"])
        extract.run(jobs["extract"])
    return jobs


def trained(task, steps=4, epochs=None):
    """Step metrics and history rows of some steps per epoch, and the state after them."""
    seen = []
    for epoch in range(task.epochs) if epochs is None else epochs:
        task.begin(epoch)
        seen += [task.step(step % task.steps).tolist() for step in range(steps)]
        seen.append(task.end(seen[-1]))
    return seen, {name: tensor.clone() for name, tensor in task.state().items()}


def kept_and_streamed():
    """A retraining under a policy whose images are kept on the device, and one whose workers read them."""
    kept = by_stage({"searcher": {"kind": "random"}}, policy={"kind": "autoaugment"})["retrain"]
    images = kept.params["images"] | {"stream": {"above_mb": 0, "workers": 2}}
    return kept, replace(kept, params=kept.params | {"images": images})


def test_a_retraining_on_streamed_images_equals_one_on_images_kept_on_the_device(workspace):
    tasks = [retrain_task(job) for job in kept_and_streamed()]
    assert [type(task.images) for task in tasks] == [ImageSet, StreamedSet]
    assert_same(*map(trained, tasks))


class Eager(GraphCache):
    """Treats every call as the first one, which runs eagerly."""

    def __call__(self, compute, constants=None, part=""):
        return lambda *inputs: CapturedStep(compute, self.device)(*inputs)


def eager(task, device=CPU):
    task.captured = Eager(device)
    return task


def assert_same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    assert [name for name in a[1] if not torch.equal(a[1][name], b[1][name])] == []


class StandIn:
    """Replays by computing with the numbers at capture, a searcher's too, and overwrites other outputs."""

    outputs: ClassVar[list] = []

    def __init__(self, step):
        self.step, task = step, step.compute.__self__
        self.owners = [task, *([task.searcher] if hasattr(task, "searcher") else [])]
        self.numbers = self._numbers()

    def _numbers(self):
        captured = (int, float, retrain.Phase)
        return [
            {name: v for name, v in vars(owner).items() if isinstance(v, captured)} for owner in self.owners
        ]

    def _set(self, numbers):
        for owner, own in zip(self.owners, numbers, strict=True):
            vars(owner).update(own)

    def replay(self):
        for output in self.outputs:  # as if their memory were reused
            output.fill_(float("nan"))
        now = self._numbers()
        self._set(self.numbers)
        self.step.output = self.step.compute(*self.step.inputs)
        self._set(now)
        self.outputs.append(self.step.output)


@pytest.fixture
def stood_in(monkeypatch):
    """Makes a task capture its steps on a CPU."""
    monkeypatch.setattr(CapturedStep, "_capture", lambda step: StandIn(step))
    monkeypatch.setattr(StandIn, "outputs", [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these maps are too small for two

    def capture(task):
        task.captured.enabled = True
        return task

    yield capture
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "method",
    [
        "mixed at random",
        "deferred",
        "unrolled",
        "PC-DARTS after a while",
        "GDAS",
        "beta-DARTS",
        "DrNAS, unrolled",
        "DARTS-PT",
        "ZO-DARTS+",
        "ZO-DARTS+, dual head",
    ],
)
def test_no_captured_step_of_a_search_is_stale(workspace, stood_in, method):
    job = by_stage(METHODS[method])["search"]
    task = stood_in(search_task(job))
    assert_same(trained(task, steps=3), trained(eager(search_task(job)), steps=3))
    assert StandIn.outputs


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_no_captured_step_of_a_retraining_is_stale(workspace, stood_in, recipe):
    job = by_stage({"searcher": {"kind": "random"}}, **recipe)["retrain"]
    task = stood_in(retrain_task(job))
    assert_same(trained(task), trained(eager(retrain_task(job))))
    assert StandIn.outputs


def recaptured(task, epochs):
    """The epochs, but for the first, at which a step is captured."""
    steps = []
    for epoch in range(epochs):
        task.begin(epoch)
        steps.append(task.compute)
    return [epoch for epoch in range(1, epochs) if steps[epoch] is not steps[epoch - 1]]


@pytest.mark.parametrize(
    ("method", "at"),
    [  # in 4 epochs, t = 0, 1/4, 1/2, 3/4
        ({}, []),
        ({"objective": BILATERAL}, []),
        ({"objective": DEFERRED}, [2]),
        ({"searcher": UNROLLED}, []),  # in w′ = w − lr · ..., lr is an input
        ({"searcher": LATE}, [2]),
        ({"searcher": GDAS}, []),  # the temperature is an input
        ({"searcher": DRNAS}, []),  # noise is an input
        ({"searcher": BETA}, []),  # likewise the weight of the penalty
        ({"searcher": LATE | {"order": 2}}, [2]),
        ({"searcher": ZO}, []),  # the temperature is an input
        ({"searcher": ZO, "arch_lr": {"kind": "freeze", "at": 0.5}}, [2]),
    ],
)  # fmt: skip
def test_a_search_captures_again_when_a_constant_changes(workspace, stood_in, method, at):
    task = stood_in(search_task(by_stage(method, epochs=4)["search"]))
    assert recaptured(task, 4) == at


def test_a_search_captures_again_when_its_alphas_stop(workspace, stood_in):
    task = stood_in(search_task(by_stage({})["search"]))
    task.begin(0)
    moving = task.compute
    task.early_stopping.stopped = True
    task.begin(1)
    assert task.compute is not moving


def test_a_captured_step_sees_new_noise_and_a_new_temperature(workspace, stood_in):
    task = stood_in(search_task(by_stage({"searcher": GDAS})["search"]))
    seen = []  # (whether it was captured; noise and temperature) of each step
    for epoch in range(2):
        task.begin(epoch)
        for step in range(3):
            task.step(step)
            graph, (_, _, _, for_weights, for_alphas, *_) = task.compute.graph, task.compute.inputs
            assert task.supernet.drawn is for_weights  # a captured step reads its own memory
            seen += [(graph, drawn.clone()) for drawn in (for_weights, for_alphas)]
    assert len({id(graph) for graph, _ in seen[2:]}) == 1
    noise = {tuple(drawn[:, 0].flatten().tolist()) for _, drawn in seen}
    assert len(noise) == 12  # of 2 epochs, 3 steps, weights and alphas
    temperatures = [drawn[:, 1].unique().tolist() for _, drawn in seen]
    assert temperatures == [[10.0]] * 6 + [[pytest.approx(5.05)]] * 6  # 3 epochs from 10 to 0.1


def test_the_steps_within_a_window_and_those_that_end_one_are_captured_once_each(workspace, stood_in):
    task = stood_in(search_task(by_stage({"searcher": ZO})["search"]))
    for epoch in range(3):
        task.begin(epoch)
        for step in range(task.steps):
            task.step(step)
        task.window.end_epoch(task.steps)
    found = {part: step.graph for (compute, part), (_, step) in task.captured.steps.items()}
    assert {*found} == {"", "within a window"}
    assert None not in found.values()
    assert task.steps == 5  # 7 windows end; of each kind the first step ran eagerly, the others were replayed
    assert len(StandIn.outputs) == 6 + 7


def test_draws_depend_only_on_seed_purpose_epoch_and_step(workspace):
    job = by_stage({"searcher": GDAS})["search"]
    one, other = search_task(job), search_task(job)
    one.begin(0)
    one.step(0)
    for task in (one, other):
        task.begin(1)
    assert torch.equal(one._draw("weights", 2), other._draw("weights", 2))
    assert not torch.equal(one._draw("weights", 2), one._draw("alphas", 2))


@pytest.mark.parametrize(
    ("recipe", "at"),
    [  # in 4 epochs, and 2 of the classifier
        ({"drop_path": 0.0}, []),
        ({}, [1]),  # drop path is 0 in the first epoch
        ({"drop_path": 0.0, "objective": DEFERRED}, [2]),
        ({"drop_path": 0.0, "objective": WEIGHTED} | CLASSIFIER, [2, 4]),
    ],
)  # fmt: skip
def test_a_retraining_captures_again_when_a_constant_changes(workspace, stood_in, recipe, at):
    job = by_stage({"searcher": {"kind": "random"}}, epochs=4, **recipe)["retrain"]
    task = stood_in(retrain_task(job))
    assert recaptured(task, task.epochs) == at


def test_no_captured_step_outlives_a_loaded_state(workspace, stood_in):
    task = stood_in(search_task(by_stage({})["search"]))
    task.begin(0)
    before = task.compute
    task.load(task.state())
    task.begin(0)
    assert task.compute is not before


def test_a_captured_step_rejects_none_for_an_input_that_had_a_value(monkeypatch):
    monkeypatch.setattr(CapturedStep, "_capture", lambda step: StandIn(step))
    step = CapturedStep(lambda x, y: x, CPU)
    step(1.0, 2.0)
    with pytest.raises(AssertionError):
        step(1.0, None)


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_a_learning_rate_can_be_set_before_and_after_loading_a_state(lr):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight], lr, momentum=0.5, fused=True)
    set_lr(optimizer, 0.25)
    optimizer.step()
    assert weight.tolist() == [-0.25] * 2
    unpack_optimizer(optimizer, pack_optimizer(optimizer))
    set_lr(optimizer, 2.0)
    optimizer.step()
    assert weight.tolist() == [-3.25] * 2  # the momentum is 1.5
    assert type(optimizer.param_groups[0]["lr"]) is type(lr)


def test_on_a_cpu_learning_rates_are_numbers_and_nothing_is_captured(workspace):
    task = search_task(by_stage({})["search"])
    task.begin(0)
    assert task.compute == task._compute
    for optimizer in (task.weights_optimizer, task.alphas_optimizer):
        assert type(optimizer.param_groups[0]["lr"]) is float
