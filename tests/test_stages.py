"""Stages on tiny data: every kind of every axis trains, the history tells of it, subsets stay apart."""

import copy
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY

from hlrs import config
from hlrs.artifacts import read_json, read_table, read_tensors
from hlrs.plan import plan
from hlrs.stages import evaluate, extract, parts, retrain, search, split


def kinds(union) -> list[str]:
    return [get_args(member.model_fields["kind"].annotation)[0] for member in get_args(get_args(union)[0])]


def jobs(**changes):
    """The jobs of TINY with changes laid over it, by stage; one method `m` unless said otherwise."""
    params = copy.deepcopy(TINY)
    params["search"]["epochs"] = params["retrain"]["epochs"] = 2
    params["matrix"]["methods"] = ["m"]
    params["report"] = {}
    for section, values in changes.items():
        params[section] = params[section] | values
    return {job.stage: job for job in plan(config.Params.model_validate(params))}


def method(objective="plain", arch_lr="constant", mixing=None, order=1, **rest):
    spec = {
        "searcher": {"kind": "darts", "order": order},
        "objective": {"kind": objective},
        "arch_lr": {"kind": arch_lr},
    }
    if mixing:
        spec["objective"]["mixing"] = {"kind": mixing}
    return {"methods": {"m": spec | rest}}


def searched(**changes):
    """History of a search, as columns, and the job."""
    by_stage = jobs(**changes)
    split.run(by_stage["split"])
    search.run(by_stage["search"])
    return read_table(by_stage["search"].output("history.parquet"), "search_history").to_pydict(), by_stage


@pytest.mark.parametrize("kind", kinds(config.Mixing))
def test_every_mixing_trains_and_is_recorded(workspace, kind):
    history, _ = searched(**method("bilateral", mixing=kind))
    expected = {
        "parabolic_decay": [1.0, 0.75],
        "linear_decay": [1.0, 0.5],
        "cosine_decay": [1.0, 0.5**0.5],
        "equal": [0.5, 0.5],
        "parabolic_increment": [0.0, 0.25],
        "symmetric": [1.0, 0.5],
    }
    if kind == "beta":  # a new draw each step, the mean of eight or so
        assert all(0.05 < m < 0.95 for m in history["mixing"])
        assert history["mixing"][0] != history["mixing"][1]
    else:
        assert history["mixing"] == pytest.approx(expected[kind])
    assert np.isfinite(history["weights_loss"]).all()


@pytest.mark.parametrize("kind", kinds(config.ArchLR))
def test_every_schedule_of_the_alphas_trains_and_is_recorded(workspace, kind):
    objective = "bilateral" if kind == "coupled" else "plain"
    history, by_stage = searched(
        **method(objective, kind, mixing="linear_decay" if kind == "coupled" else None)
    )
    factors = {
        "constant": 1.0,
        "cosine": 0.5,
        "linear": 0.5,
        "step": 0.1,
        "freeze": 0.0,
        "exponential": 0.01**0.5,
        "coupled": 0.5,
    }
    assert history["alphas_lr"] == pytest.approx([0.01, 0.01 * factors[kind]])
    assert history["weights_lr"] == pytest.approx([0.025, 0.013])  # half a cosine from 0.025 to 0.001
    table = read_table(by_stage["search"].output("alphas.parquet"), "alphas").to_pandas()
    moved = [
        float(
            np.abs(
                table.alpha[table.epoch == e + 1].to_numpy() - table.alpha[table.epoch == e].to_numpy()
            ).max()
        )
        for e in range(2)
    ]
    assert moved[0] > 0.005
    assert (moved[1] == 0) == (kind == "freeze")
    assert (history["alphas_loss"][1] is None) == (kind == "freeze")


def test_the_second_order_step_trains_otherwise_than_the_first(workspace):
    alphas = {}
    for order in (1, 2):
        history, by_stage = searched(**method(order=order))
        assert np.isfinite(history["alphas_loss"]).all()
        alphas[order] = read_table(by_stage["search"].output("alphas.parquet"), "alphas").to_pandas().alpha
    assert len(alphas[1]) == len(alphas[2]) == 3 * 2 * 2 * 8  # epochs 0 to 2, cells, edges, primitives
    assert not np.allclose(alphas[1], alphas[2])


def test_random_search_trains_nothing_and_differs_by_seed(workspace):
    genotypes = []
    for seed in range(4):
        by_stage = jobs(
            methods={"m": {"searcher": {"kind": "random"}}},
            matrix={**TINY["matrix"], "methods": ["m"], "seeds": [seed]},
        )
        assert "images" not in by_stage["search"].params
        search.run(by_stage["search"])
        assert read_table(by_stage["search"].output("history.parquet"), "search_history").num_rows == 0
        extract.run(by_stage["extract"])
        genotypes.append(json.dumps(read_json(by_stage["extract"].output("genotype.json"))))
    assert len(set(genotypes)) == 4


def test_the_search_reads_its_two_halves_and_nothing_else(workspace):
    by_stage = jobs(**method(), datasets={"digits": TINY["datasets"]["digits"] | {"holdout_fraction": 0.2}})
    split.run(by_stage["split"])
    job = by_stage["search"]
    params = config.SearchJob.model_validate(job.params)
    images = parts.SplitImages(job, params.images, ("weights", "alphas"), torch.device("cpu"))
    task = search.SearchTask(params, images, torch.device("cpu"))
    rows = read_table(by_stage["split"].output("split.parquet"), "split").to_pandas()
    for batches, half in ((task.training, "weights"), (task.validation, "alphas")):
        assert set(images.index[batches.positions]) == set(rows["index"][rows.subset == half])
    assert task.steps == (rows.subset == "weights").sum() // 16
    assert not set(images.index) & set(rows["index"][rows.subset.isin(["holdout", "test"])])


def pipeline(**changes):
    by_stage = jobs(**changes)
    for name, stage in (("split", split), ("search", search), ("extract", extract), ("retrain", retrain)):
        stage.run(by_stage[name])
    return by_stage


def test_retraining_takes_both_halves_and_only_watches_the_holdout(workspace):
    held = TINY["datasets"]["digits"] | {"holdout_fraction": 0.2}
    by_stage = pipeline(**method(), datasets={"digits": held})
    history = read_table(by_stage["retrain"].output("history.parquet"), "retrain_history").to_pydict()
    assert history["drop_path"] == [0.0, 0.1]  # 0.2 · epoch/epochs
    assert history["weights_lr"] == pytest.approx([0.025, 0.0125])
    assert all(0 <= a <= 1 for a in history["holdout_accuracy"])
    params = config.RetrainJob.model_validate(by_stage["retrain"].params)
    images = parts.SplitImages(
        by_stage["retrain"], params.images, ("weights", "alphas", "holdout"), torch.device("cpu")
    )
    task = retrain.RetrainTask(
        params, images, Path(by_stage["retrain"].inputs["genotype"]), torch.device("cpu")
    )
    rows = read_table(by_stage["split"].output("split.parquet"), "split").to_pandas()
    trained = rows["index"][rows.subset.isin(["weights", "alphas"])]
    assert set(images.index[task.phases[0].batches.positions]) == set(trained)
    assert set(images.index[task.holdout]) == set(rows["index"][rows.subset == "holdout"])


def test_bilateral_retraining_for_one_method_and_its_evaluation(workspace):
    own = {"objective": {"kind": "bilateral", "branch_cells": 2}, "auxiliary_weight": 0.0}
    by_stage = pipeline(**method(retrain=own))
    history = read_table(by_stage["retrain"].output("history.parquet"), "retrain_history").to_pydict()
    assert history["mixing"] == [1.0, 0.75]
    weights, facts = read_tensors(by_stage["retrain"].output("weights.safetensors"))
    assert {name.split(".")[1] for name in weights if name.startswith("branches")} == {"0", "1"}
    assert facts["channels"] == 1
    evaluate.run(by_stage["evaluate"])
    metrics = read_json(by_stage["evaluate"].output("metrics.json"))
    table = pq.read_table(by_stage["evaluate"].output("predictions.parquet")).to_pandas()
    assert metrics["test_images"] == len(table) == 50
    assert metrics["top1"] == pytest.approx((table.label == table.predicted).mean())
    assert np.allclose(np.stack(table.probabilities).sum(1), 1, atol=1e-5)
    assert metrics["train_counts"][0] == 40  # max_per_class


def test_retraining_learns_what_can_be_learned(workspace):
    easy = {
        "digits": TINY["datasets"]["digits"]
        | {"imbalance": {"kind": "natural"}, "max_per_class": 100, "test_per_class": 20}
    }
    recipe = TINY["retrain"] | {
        "epochs": 8,
        "channels": 8,
        "auxiliary_weight": 0.0,
        "drop_path": 0.0,
        "cutout": 0,
        "weights": {"lr": 0.05},
    }
    by_stage = pipeline(**method(), datasets=easy, retrain=recipe)
    evaluate.run(by_stage["evaluate"])
    assert read_json(by_stage["evaluate"].output("metrics.json"))["top1"] > 0.8
