"""Tests that need a GPU: TRITON_INTERPRET=0 python -m pytest tests/training/test_gpu.py."""

from pathlib import Path

import pytest
import torch

import tests.tasks
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.config.recipes import Sgd
from hlrs.training.checkpoints import pack_optimizer, unpack_optimizer
from hlrs.training.cuda_graphs import CapturedStep
from hlrs.training.device import prepare
from hlrs.training.optim import make_sgd, set_lr
from tests.training.test_cuda_graphs import (
    METHODS,
    RECIPES,
    assert_same,
    by_stage,
    eager,
    kept_and_streamed,
    trained,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def device():
    return prepare(1)


def search_task(job):
    return tests.tasks.search_task(job, device())


def retrain_task(job):
    return tests.tasks.retrain_task(job, device())


def captured_steps(task):
    return [step for _, step in task.captured.steps.values()]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_captured_steps_of_a_search_equal_eager_ones(workspace, method):
    """Includes the sharpness in each epoch's row."""
    job = by_stage(method, epochs=4)["search"]
    task = search_task(job)
    assert_same(trained(task), trained(eager(search_task(job), device())))
    assert [step.graph is not None for step in captured_steps(task)] == [True, True]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_captured_steps_of_a_retraining_equal_eager_ones(workspace, recipe):
    job = by_stage({"searcher": {"kind": "random"}}, **recipe)["retrain"]
    task = retrain_task(job)
    assert_same(trained(task), trained(eager(retrain_task(job), device())))
    assert [step.graph is not None for step in captured_steps(task)] == [True]


def test_a_retraining_on_streamed_images_equals_one_on_images_kept_on_the_gpu(workspace):
    assert_same(*[trained(retrain_task(job)) for job in kept_and_streamed()])


def test_captured_steps_of_a_task_share_a_memory_pool(workspace):
    task = search_task(by_stage({})["search"])
    trained(task)
    pools = {step.graph.pool() for step in captured_steps(task)}
    assert (len(captured_steps(task)), len(pools)) == (2, 1)


def test_a_resumed_search_continues_as_if_uninterrupted(workspace):
    job = by_stage({})["search"]
    uninterrupted = search_task(job)
    trained(uninterrupted, epochs=(0,))
    write_tensors(Path("state.safetensors"), uninterrupted.state(), {})
    resumed = search_task(job)
    resumed.load(read_tensors(Path("state.safetensors"))[0])
    assert_same(trained(uninterrupted, epochs=(1,)), trained(resumed, epochs=(1,)))


def test_a_state_can_be_loaded_after_steps_were_captured(workspace):
    job = by_stage({})["search"]
    task = search_task(job)
    trained(task, epochs=(0,))
    state = {name: tensor.clone() for name, tensor in task.state().items()}
    first = trained(task, epochs=(1,))
    task.load(state)
    assert_same(first, trained(task, epochs=(1,)))


def test_a_captured_step_follows_the_learning_rate(workspace):
    weight = torch.nn.Parameter(torch.zeros(2, device=device()))
    optimizer = make_sgd([weight], Sgd(lr=0.5, momentum=0.0, weight_decay=0.0))

    def compute(gradient):
        weight.grad = gradient.clone()
        optimizer.step()
        return weight.detach().sum()

    step, gradient = CapturedStep(compute, device()), torch.ones(2, device=device())
    for lr, expected in ((1.0, -1.0), (2.0, -3.0), (4.0, -7.0)):  # eager, captured, replayed
        set_lr(optimizer, lr)
        step(gradient)
        assert weight.tolist() == [expected] * 2
    unpack_optimizer(optimizer, pack_optimizer(optimizer))
    assert optimizer.param_groups[0]["lr"].device.type == "cuda"


def test_a_search_on_a_gpu_begins_like_one_on_a_cpu(workspace):
    job = by_stage({})["search"]
    tasks = [search_task(job), tests.tasks.search_task(job)]
    for task in tasks:
        task.begin(0)
    on_gpu, on_cpu = (task.step(0).tolist() for task in tasks)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2)
