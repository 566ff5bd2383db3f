"""Recorded steps, on a CPU by a stand-in for CUDA's graphs: when one is recorded anew, what it computes."""

import copy
from typing import ClassVar

import pytest
import torch

from hlrs.config.jobs import RetrainJob, SearchJob
from hlrs.config.params import Params
from hlrs.pipeline.plan import plan
from hlrs.stages import extract, retrain, search, split
from hlrs.stages.images import SplitImages
from hlrs.training.checkpoints import pack_optimizer, unpack_optimizer
from hlrs.training.cuda_graphs import CapturedStep, GraphCache
from hlrs.training.optim import set_lr
from tests.conftest import TINY

BILATERAL = {"kind": "bilateral", "branch_cells": 1}
RANDOM_MIXING = BILATERAL | {"mixing": {"kind": "beta", "a": 0.2}}
DEFERRED = {"kind": "plain", "loss": {"kind": "ldam", "at": 0.5}}  # re-weighting
WEIGHTED = {"kind": "plain", "loss": {"kind": "class_balanced", "at": 0.5}}  # likewise
UNROLLED = {"kind": "darts", "order": 2}
LATE = {"kind": "pc_darts", "portion": 2, "warm_up": 0.5}
METHODS = {
    "plain": {},
    "bilateral": {"objective": BILATERAL},
    "mixed at random": {"objective": RANDOM_MIXING},
    "deferred": {"objective": DEFERRED},
    "dual head": {"objective": {"kind": "dual_head"}},
    "unrolled": {"searcher": UNROLLED},
    "PC-DARTS": {"searcher": LATE | {"warm_up": 0.0}},
    "PC-DARTS after a while": {"searcher": LATE},
}
CLASSIFIER = {"classifier": {"kind": "retrained", "epochs": 2}}
RECIPES = {
    "plain": {},
    "two branches": {"objective": BILATERAL, "auxiliary_weight": 0.0},
    "mixed images": {"mix": {"kind": "cutmix", "alpha": 1.0}},
    "moving average": {"ema": 0.9},
    "deferred": {"objective": DEFERRED},
    "deferred, then its classifier": {"objective": WEIGHTED} | CLASSIFIER,
}
CPU = torch.device("cpu")


def by_stage(method, epochs=3, **recipe):
    """The jobs of one method; those of split and random search done."""
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


def search_task(job, device=CPU):
    params = SearchJob.model_validate(job.params)
    images = SplitImages(job, params.images, search.HALVES, device)
    return search.SearchTask(params, images, device)


def retrain_task(job, device=CPU):
    params = RetrainJob.model_validate(job.params)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    return retrain.RetrainTask(params, images, job.inputs["genotype"], device)


def trained(task, steps=4, epochs=None):
    """Figures of each step, each epoch's row, and the state behind them."""
    seen = []
    for epoch in range(task.epochs) if epochs is None else epochs:
        task.begin(epoch)
        seen += [task.step(step % task.steps).tolist() for step in range(steps)]
        seen.append(task.end(seen[-1]))
    return seen, {name: tensor.clone() for name, tensor in task.state().items()}


class Unrecorded(GraphCache):
    """Every call is a first one, which computes as ever."""

    def __call__(self, compute, baked=None):
        return lambda *inputs: CapturedStep(compute, self.device)(*inputs)


def unrecorded(task, device=CPU):
    task.recorded = Unrecorded(device)
    return task


def assert_same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    assert [name for name in a[1] if not torch.equal(a[1][name], b[1][name])] == []


class StandIn:
    """A graph: computes again, with the task's numbers at the recording, where other graphs did so, too."""

    outputs: ClassVar[list] = []

    def __init__(self, recorded):
        self.recorded, self.task = recorded, recorded.compute.__self__
        self.numbers = self._numbers()

    def _numbers(self):
        baked = (int, float, retrain.Phase)
        return {name: value for name, value in vars(self.task).items() if isinstance(value, baked)}

    def replay(self):
        for output in self.outputs:  # their memory is used again
            output.fill_(float("nan"))
        now = self._numbers()
        vars(self.task).update(self.numbers)
        self.recorded.output = self.recorded.compute(*self.recorded.inputs)
        vars(self.task).update(now)
        self.outputs.append(self.recorded.output)


@pytest.fixture
def stood_in(monkeypatch):
    """Has a task record on a CPU."""
    monkeypatch.setattr(CapturedStep, "_record", lambda recorded: StandIn(recorded))
    monkeypatch.setattr(StandIn, "outputs", [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these maps are too small for two

    def record(task):
        task.recorded.records = True
        return task

    yield record
    torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ["mixed at random", "deferred", "unrolled", "PC-DARTS after a while"])
def test_no_recorded_step_of_a_search_is_out_of_date(workspace, stood_in, method):
    job = by_stage(METHODS[method])["search"]
    recorded = stood_in(search_task(job))
    assert_same(trained(recorded, steps=3), trained(unrecorded(search_task(job)), steps=3))
    assert StandIn.outputs


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_no_recorded_step_of_a_retraining_is_out_of_date(workspace, stood_in, recipe):
    job = by_stage({"searcher": {"kind": "random"}}, **recipe)["retrain"]
    recorded = stood_in(retrain_task(job))
    assert_same(trained(recorded), trained(unrecorded(retrain_task(job))))
    assert StandIn.outputs


def made_anew(task, epochs):
    """The epochs for which a step is recorded anew."""
    made = []
    for epoch in range(epochs):
        task.begin(epoch)
        made.append(task.compute)
    return [epoch for epoch in range(1, epochs) if made[epoch] is not made[epoch - 1]]


@pytest.mark.parametrize(
    ("method", "anew"),
    [  # in 4 epochs, t = 0, 1/4, 1/2, 3/4
        ({}, []),
        ({"objective": BILATERAL}, []),
        ({"objective": DEFERRED}, [2]),
        ({"searcher": UNROLLED}, [1, 2, 3]),  # w′ = w − lr · ... is computed with a number
        ({"searcher": LATE}, [2]),
        ({"searcher": LATE | {"order": 2}}, [2, 3]),  # no step of the alphas, no lr
    ],
)  # fmt: skip
def test_a_search_records_anew_when_what_is_baked_in_changes(workspace, stood_in, method, anew):
    task = stood_in(search_task(by_stage(method, epochs=4)["search"]))
    assert made_anew(task, 4) == anew


def test_a_search_records_anew_when_its_alphas_come_to_rest(workspace, stood_in):
    task = stood_in(search_task(by_stage({})["search"]))
    task.begin(0)
    moving = task.compute
    task.watch.stopped = True
    task.begin(1)
    assert task.compute is not moving


@pytest.mark.parametrize(
    ("recipe", "anew"),
    [  # in 4 epochs, and 2 of the classifier
        ({"drop_path": 0.0}, []),
        ({}, [1]),  # drop path is 0 in the first epoch
        ({"drop_path": 0.0, "objective": DEFERRED}, [2]),
        ({"drop_path": 0.0, "objective": WEIGHTED} | CLASSIFIER, [2, 4]),
    ],
)  # fmt: skip
def test_a_retraining_records_anew_when_what_is_baked_in_changes(workspace, stood_in, recipe, anew):
    job = by_stage({"searcher": {"kind": "random"}}, epochs=4, **recipe)["retrain"]
    task = stood_in(retrain_task(job))
    assert made_anew(task, task.epochs) == anew


def test_nothing_that_was_recorded_outlives_a_loaded_state(workspace, stood_in):
    task = stood_in(search_task(by_stage({})["search"]))
    task.begin(0)
    before = task.compute
    task.load(task.state())
    task.begin(0)
    assert task.compute is not before


def test_a_recording_refuses_that_an_input_comes_to_be_missing(monkeypatch):
    monkeypatch.setattr(CapturedStep, "_record", lambda recorded: StandIn(recorded))
    recorded = CapturedStep(lambda x, y: x, CPU)
    recorded(1.0, 2.0)
    with pytest.raises(AssertionError):
        recorded(1.0, None)


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5)], ids=["a number", "in memory"])
def test_a_learning_rate_is_set_before_and_after_a_state_is_loaded(lr):
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


def test_on_a_cpu_a_learning_rate_is_a_number_and_nothing_is_recorded(workspace):
    task = search_task(by_stage({})["search"])
    task.begin(0)
    assert task.compute == task._compute
    for optimizer in (task.weights_optimizer, task.alphas_optimizer):
        assert type(optimizer.param_groups[0]["lr"]) is float
