"""Retrainings that start as the supernet: the single-stage protocol, and the genotype decoded in it."""

import copy
import itertools

import numpy as np
import pytest
import torch

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import read_tensors
from hlrs.config.jobs import EvaluateJob, SearchJob
from hlrs.config.networks import TrainedNetwork
from hlrs.config.params import Params
from hlrs.nas.genotype import from_json
from hlrs.nas.mixture import Mixture, decoded
from hlrs.nas.trained import build
from hlrs.pipeline.plan import plan
from hlrs.stages import evaluate, extract, retrain, search, split
from hlrs.stages.images import SplitImages
from tests.conftest import TINY
from tests.tasks import retrain_task, weights

CPU = torch.device("cpu")
RECIPE = {"channels": 4, "cells": 3, "auxiliary_weight": 0.0, "drop_path": 0.0, "epochs": 2}
BILATERAL = {"kind": "bilateral", "mixing": {"kind": "symmetric"}}
PC_DARTS = {"kind": "pc_darts", "portion": 2, "warm_up": 0.0}


def params_of(start, *, searcher=None, objective=None, search=(), **recipe):
    """TINY's params, with one method whose retraining starts as its supernet."""
    params = copy.deepcopy(TINY)
    params["search"] |= {"epochs": 2, "channels": 4, "nodes": 2, **dict(search)}
    method = {"searcher": searcher or {"kind": "darts"}, "retrain": RECIPE | {"start": start} | recipe}
    if objective is not None:
        method["objective"] = method["retrain"]["objective"] = objective
    params["methods"] = {"m": method}
    params["matrix"]["methods"], params["report"] = ["m"], {}
    return params


def searched(start, **changes):
    """The jobs by stage; those up to the extraction have run."""
    by_stage = {job.stage: job for job in plan(Params.model_validate(params_of(start, **changes)))}
    for name, stage in (("split", split), ("search", search), ("extract", extract)):
        stage.run(by_stage[name])
    return by_stage


def search_task(by_stage):
    """The search as it ended."""
    job = by_stage["search"]
    task = search._make_task(job, SearchJob.model_validate(job.params))
    task.supernet.load_state_dict(read_tensors(job.output("supernet.safetensors"))[0])
    return task


@pytest.mark.parametrize("objective", [{"kind": "plain"}, BILATERAL], ids=["plain", "bilateral"])
@pytest.mark.parametrize("searcher", [{"kind": "darts"}, PC_DARTS], ids=["darts", "pc_darts"])
@pytest.mark.parametrize("start", ["supernet", "decoded"])
def test_the_first_logits_are_the_supernets(workspace, start, searcher, objective):
    by_stage = searched(start, searcher=searcher, objective=objective)
    task, ended = retrain_task(by_stage["retrain"]), search_task(by_stage)
    if start == "decoded":
        found = from_json(read_json(by_stage["extract"].output("genotype.json")), "genotype.json")
        ended.supernet.mixture = decoded(ended.params.search.space, 2, found)
    task.begin(0)
    x = task.phases[0].batches(0)[0].images
    with torch.no_grad():
        assert torch.allclose(task.network(x), ended.supernet(x), rtol=0, atol=1e-4)


def test_the_architecture_stays_as_it_is_while_the_weights_learn(workspace):
    by_stage = searched("supernet")
    before = {n: p.clone() for n, p in retrain_task(by_stage["retrain"]).network.state_dict().items()}
    retrain.run(by_stage["retrain"])
    after = weights(by_stage["retrain"])
    mixtures = [name for name in after if name.endswith((".weights", ".passing"))]
    assert len(mixtures) == 3 * 5 * 2  # cells × edges
    assert all(torch.equal(before[name], after[name]) for name in mixtures)
    learned = [name for name in after if name.endswith("weight")]
    assert learned
    assert not any(torch.equal(before[name], after[name]) for name in learned)
    rows = read_table(by_stage["search"].output("alphas.parquet"), "trajectory").to_pylist()
    first = [row["weight"] for row in rows if row["epoch"] == 2 and row["cell"] == "normal"][1:8]
    assert after["shared.0.nodes.edges.0_0.weights"].numpy() == pytest.approx(np.float32(first), abs=0)


@pytest.mark.parametrize("start", ["supernet", "decoded"])
def test_without_epochs_only_the_running_statistics_are_measured(workspace, start):
    by_stage = searched(start, epochs=0)
    task = retrain_task(by_stage["retrain"])
    assert task.recipe.cutout  # an augmentation of the training
    retrain.run(by_stage["retrain"])
    after = weights(by_stage["retrain"])
    before = task.network.state_dict()
    moved = {name.rsplit(".", 1)[1] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}
    history = read_table(by_stage["retrain"].output("history.parquet"), "retrain_history")
    assert history.num_rows == 0
    # the stem's mean over all training images as they are, but for those that fill no batch
    images = task.images.normalize(task.images.images[task.positions])
    with torch.no_grad():
        mean = task.network.stem.layers[0](images).mean((0, 2, 3))
    left = len(task.positions) % task.recipe.batch_size
    assert torch.allclose(after["stem.layers.1.running_mean"], mean, rtol=0, atol=0.02 if left else 1e-5)
    evaluate.run(by_stage["evaluate"])
    assert read_json(by_stage["evaluate"].output("metrics.json"))["test_images"] == 50


def test_a_short_training_is_evaluated_with_the_statistics_of_its_images(workspace):
    """Nine steps, a tenth of the way each, would leave two fifths of a mean of 0 and a variance of 1."""
    by_stage = searched("supernet", epochs=1)
    retrain.run(by_stage["retrain"])
    after = weights(by_stage["retrain"])
    task = retrain_task(by_stage["retrain"])
    task.first.calibrate()
    before = task.network.state_dict()
    assert torch.equal(
        task.result.state_dict()["stem.layers.1.running_var"], before["stem.layers.1.running_var"]
    )
    for name in ("mean", "var"):
        name = f"shared.2.nodes.edges.0_0.operations.skip_connect.norm.running_{name}"
        name = name if name in after else name.replace("skip_connect.norm", "max_pool_3x3.1")
        assert torch.allclose(after[name], before[name], rtol=0.3, atol=0.1)


def test_what_is_evaluated_is_what_was_trained(workspace):
    by_stage = searched("supernet", objective=BILATERAL)
    retrain.run(by_stage["retrain"])
    evaluate.run(by_stage["evaluate"])
    job = by_stage["evaluate"]
    predicted = read_table(job.output("predictions.parquet"), "predictions").to_pydict()
    weights, facts = read_tensors(by_stage["retrain"].output("weights.safetensors"))
    params = EvaluateJob.model_validate(job.params)
    trained = TrainedNetwork.model_validate(facts)
    scale = trained.preprocessing.mean, trained.preprocessing.std
    images = SplitImages(job, params.images, ("test",), CPU, scale)
    assert "supernet" not in job.inputs  # its weights are not read again
    network = build(trained.network)
    network.load_state_dict(weights)
    with torch.no_grad():
        first = network.eval()(images.set.normalize(images.set.images[:1])).softmax(1)
    assert first[0].numpy() == pytest.approx(np.float32(predicted["probabilities"][0]), abs=1e-5)


def test_a_fixed_frame_stays_from_the_search_to_the_evaluation(workspace):
    by_stage = searched("supernet", objective={"kind": "plain", "head": {"kind": "etf"}})
    for name, stage in (("retrain", retrain), ("evaluate", evaluate)):
        stage.run(by_stage[name])
    files = (
        by_stage["search"].output("supernet.safetensors"),
        by_stage["retrain"].output("weights.safetensors"),
    )
    searched_frame, frame = (read_tensors(path)[0]["classifier.weight"] for path in files)
    assert torch.equal(searched_frame, frame)
    assert torch.allclose(frame @ frame.T, 10 / 9 * torch.eye(10) - 1 / 9, atol=1e-5)
    assert "classifier.bias" not in read_tensors(files[1])[0]
    assert read_json(by_stage["evaluate"].output("metrics.json"))["test_images"] == 50


def test_the_gap_is_that_of_the_alphas_images(workspace):
    by_stage = searched("scratch")
    history = read_table(by_stage["search"].output("history.parquet"), "search_history").to_pydict()
    task = search_task(by_stage)
    found = from_json(read_json(by_stage["extract"].output("genotype.json")), "genotype.json")
    task.evaluation.begin(1, 0.5)
    batches = [batch for step in range(task.evaluation.steps) for batch in task.evaluation(step)]
    assert {int(p) for [r] in task.evaluation.requests for p in r.positions} <= set(
        task.validation.positions.tolist()
    )
    for column, mixture in (
        ("supernet_accuracy", None),
        ("decoded_accuracy", decoded(task.params.search.space, 2, found)),
    ):
        task.supernet.mixture = None if mixture is None else Mixture(*mixture)
        with torch.no_grad():
            hits = [float((task.supernet(b.images).argmax(1) == b.labels).float().mean()) for b in batches]
        assert history[column] == [None, pytest.approx(np.mean(hits), abs=1e-6)]


def test_redrawn_halves_have_all_images_and_as_many_of_each_class(workspace):
    by_stage = searched("scratch", search={"halves": "redrawn", "epochs": 3})
    task = search_task(by_stage)
    fixed = [set(batches.positions.tolist()) for batches in (task.training, task.validation)]
    counts = [torch.bincount(batches.labels) for batches in (task.training, task.validation)]
    seen = []
    for epoch in range(3):
        task.begin(epoch)
        halves = [batches.positions.tolist() for batches in (task.training, task.validation)]
        assert set(halves[0]) | set(halves[1]) == fixed[0] | fixed[1]
        assert not set(halves[0]) & set(halves[1])
        for batches, count in zip((task.training, task.validation), counts, strict=True):
            assert torch.equal(torch.bincount(batches.labels), count)
            assert torch.equal(batches.labels, batches.images.labels[batches.positions])
        assert halves[1] == task.evaluation.positions.tolist()
        seen.append(halves[0])
    assert all(a != b for a, b in itertools.combinations(seen, 2))
    assert len(set(itertools.chain(*seen))) > len(fixed[0])
    task.begin(1)
    assert task.training.positions.tolist() == seen[1]


def test_the_penalty_acts_on_the_alphas_alone(workspace, monkeypatch):
    """A large one decides them; the weights' loss stays without it."""
    plain = searched("scratch", search={"alphas": {"lr": 0.1}, "epochs": 4})
    sure = searched(
        "scratch", search={"alphas": {"lr": 0.1}, "epochs": 4, "entropy": {"weight": 100.0, "at": 0.25}}
    )
    histories = [
        read_table(jobs["search"].output("history.parquet"), "search_history").to_pydict()
        for jobs in (plain, sure)
    ]
    entropies = [history["entropy_normal"] for history in histories]
    assert entropies[0][:2] == entropies[1][:2]  # λ is 0 in the epoch that begins at 0.25
    assert entropies[1][3] < entropies[0][3] - 0.05
    assert histories[0]["alphas_loss"][:2] == histories[1]["alphas_loss"][:2]
