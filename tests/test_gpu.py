"""What only a GPU can show: TRITON_INTERPRET=0 python -m pytest tests/test_gpu.py; skipped without one."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import TINY

from hlrs import config, training
from hlrs.artifacts import read_tensors, write_tensors
from hlrs.graphs import Recorded
from hlrs.plan import plan
from hlrs.stages import extract, parts, retrain, search, split

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

BILATERAL = {"kind": "bilateral", "branch_cells": 1}
RANDOM_MIXING = BILATERAL | {"mixing": {"kind": "beta", "a": 0.2}}
METHODS = {
    "plain": {},
    "bilateral": {"objective": BILATERAL},
    "mixed at random": {"objective": RANDOM_MIXING},
    "dual head": {"objective": {"kind": "dual_head"}},
    "unrolled": {"searcher": {"kind": "darts", "order": 2}},
    "PC-DARTS": {"searcher": {"kind": "pc_darts", "portion": 2, "warm_up": 0.0}},
}
RECIPES = {
    "plain": {},
    "two branches": {"objective": BILATERAL, "auxiliary_weight": 0.0},
    "mixed images": {"mix": {"kind": "cutmix", "alpha": 1.0}},
    "moving average": {"ema": 0.9},
}


def device():
    return training.prepare(1)


def by_stage(method, **recipe):
    """The jobs of one method; those of split and random search done."""
    params = copy.deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["m"], {}
    params["methods"] = {"m": {"searcher": {"kind": "darts", "order": 1}} | method}
    params["search"] |= {"channels": 4}
    params["retrain"] |= recipe
    jobs = {job.stage: job for job in plan(config.Params.model_validate(params))}
    split.run(jobs["split"])
    if method.get("searcher") == {"kind": "random"}:
        search.run(jobs["search"])
        extract.run(jobs["extract"])
    return jobs


def search_task(job):
    params = config.SearchJob.model_validate(job.params)
    images = parts.SplitImages(job, params.images, search.HALVES, device())
    return search.SearchTask(params, images, device())


def retrain_task(job):
    params = config.RetrainJob.model_validate(job.params)
    images = parts.SplitImages(job, params.images, ("weights", "alphas", "holdout"), device())
    return retrain.RetrainTask(params, images, job.inputs["genotype"], device())


def trained(task, recorded=True, steps=4, epochs=(0, 1)):
    """Figures of each step, and the state behind them."""
    figures = []
    for epoch in epochs:
        task.begin(epoch)
        assert isinstance(task.compute, Recorded)
        if not recorded:  # its first call computes as ever
            task.compute = lambda *inputs: Recorded(task._compute, device())(*inputs)
        figures += [task.step(step % task.steps).tolist() for step in range(steps)]
    return figures, {name: tensor.clone() for name, tensor in task.state().items()}


def assert_same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    assert [name for name in a[1] if not torch.equal(a[1][name], b[1][name])] == []


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_recorded_steps_of_a_search_are_those_that_are_not(workspace, method):
    job = by_stage(method)["search"]
    assert_same(trained(search_task(job)), trained(search_task(job), recorded=False))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recorded_steps_of_a_retraining_are_those_that_are_not(workspace, recipe):
    job = by_stage({"searcher": {"kind": "random"}}, **recipe)["retrain"]
    assert_same(trained(retrain_task(job)), trained(retrain_task(job), recorded=False))


def test_a_search_goes_on_from_its_state_as_if_nothing_had_happened(workspace):
    job = by_stage({})["search"]
    on = search_task(job)
    trained(on, epochs=(0,))
    write_tensors(Path("state.safetensors"), on.state(), {})
    resumed = search_task(job)
    resumed.load(read_tensors(Path("state.safetensors"))[0])
    assert_same(trained(on, epochs=(1,)), trained(resumed, epochs=(1,)))


def test_a_search_on_a_gpu_begins_like_one_on_a_cpu(workspace):
    job = by_stage({})["search"]
    figures = trained(search_task(job), steps=1, epochs=(0,))[0]
    params = config.SearchJob.model_validate(job.params)
    images = parts.SplitImages(job, params.images, search.HALVES, torch.device("cpu"))
    task = search.SearchTask(params, images, torch.device("cpu"))
    task.begin(0)
    assert figures[0] == pytest.approx(task.step(0).tolist(), rel=1e-2)
