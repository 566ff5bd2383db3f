"""The tasks of planned jobs, what they trained, and a plan whose jobs have all run."""

import torch

from hlrs.artifacts.tensors import read_tensors
from hlrs.config.jobs import RetrainJob, SearchJob
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import freeze, plan
from hlrs.stages.images import SplitImages
from hlrs.stages.retrain import RetrainTask
from hlrs.stages.search import HALVES, SearchTask

CPU = torch.device("cpu")


def search_task(job, device=CPU):
    params = SearchJob.model_validate(job.params)
    return SearchTask(params, SplitImages(job, params.images, HALVES, device), device)


def retrain_task(job, device=CPU, **recipe):
    """The task of a retraining whose recipe has some entries replaced."""
    params = RetrainJob.model_validate(job.params)
    params = params.model_copy(update={"retrain": params.retrain.model_copy(update=recipe)})
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    return RetrainTask(params, images, job.inputs, device)


def inputs(task, epochs):
    """Return what two steps of each of some epochs would compute with."""
    seen = []
    for epoch in epochs:
        task.begin(epoch)
        task.compute = lambda *given: seen.append(given)
        task.step(0)
        task.step(1)
    return seen


def run_all(params, but=()):
    """Run every job of some params except those of the stages `but`; return all by stage and run."""
    jobs = plan(params)
    freeze(jobs)
    for job in jobs:
        if job.stage not in but:
            execute(job)
    return {f"{job.stage}/{job.run}": job for job in jobs}


def weights(job, name="weights.safetensors"):
    return read_tensors(job.output(name))[0]


def same(a, b, but=()):
    """Return whether two networks' tensors agree, except those whose names start with `but`."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a if not name.startswith(tuple(but)))
