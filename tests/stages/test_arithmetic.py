"""Approximate arithmetic through the stages: search, retraining, evaluation, and what is refused before."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import hlrs
from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.jobs import EvaluateJob, SearchJob
from hlrs.config.params import Params
from hlrs.errors import UserError
from hlrs.nas.multipliers import truncated_products
from hlrs.nas.ops.approximate import Product, Tabulated
from hlrs.pipeline import preflight
from hlrs.pipeline.plan import plan
from hlrs.stages import evaluate, extract, retrain, search, split
from tests.conftest import TINY
from tests.tasks import retrain_task, run_all

CPU = torch.device("cpu")
TABLE = "mul8s.bin"
TABULATED = {"multiplier": {"kind": "table", "file": TABLE}, "where": "convolutions"}
TRUNCATED = {"multiplier": {"kind": "truncated", "columns": 4}}


def write_table(products):
    np.roll(products, -128, (0, 1)).astype("<i2").tofile(TABLE)


def params_of(arithmetic, searcher=None, **recipe):
    """TINY's params, with one method of an arithmetic."""
    params = copy.deepcopy(TINY)
    params["search"] |= {"epochs": 1, "nodes": 1}
    params["retrain"] |= {"epochs": 2, "auxiliary_weight": 0.0, "drop_path": 0.0, **recipe}
    searcher = searcher or {"kind": "darts", "order": 2}
    params["methods"] = {"m": {"searcher": searcher, "arithmetic": arithmetic}}
    params["matrix"]["methods"], params["report"] = ["m"], {}
    return params


def jobs_of(*arguments, **recipe):
    return {job.stage: job for job in plan(Params.model_validate(params_of(*arguments, **recipe)))}


def test_every_stage_computes_by_the_table(workspace):
    """A search with second derivatives, a retraining resumed, an evaluation; the table of (0, 0, 4)."""
    write_table(truncated_products(0, 0, 4))
    jobs = jobs_of(TABULATED)
    for name, stage in (("split", split), ("search", search), ("extract", extract)):
        stage.run(jobs[name])
    params = SearchJob.model_validate(jobs["search"].params)
    assert params.arithmetic.multiplier.signed is True  # found out by the plan
    searching = search._make_task(jobs["search"], params)
    products = [module for module in searching.supernet.modules() if isinstance(module, Product)]
    assert products
    assert not any(product.tracked for product in products)
    assert isinstance(searching.supernet.multiplier, Tabulated)
    assert torch.equal(
        searching.supernet.multiplier.products, torch.from_numpy(truncated_products(0, 0, 4)).int()
    )

    def epochs(task, numbers):
        for epoch in numbers:
            task.begin(epoch)
            for step in range(task.steps):
                task.step(step)
        return {name: tensor.clone() for name, tensor in task.state().items()}

    whole = epochs(retrain_task(jobs["retrain"]), (0, 1))
    first = epochs(retrain_task(jobs["retrain"]), [0])
    resumed = retrain_task(jobs["retrain"])
    resumed.load(first)
    ended = epochs(resumed, [1])
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    ranges = [tensor for name, tensor in whole.items() if name.endswith("product.ranges")]
    assert all(float(tensor[1]) > 0 for tensor in ranges)

    retrain.run(jobs["retrain"])
    Path(TABLE).unlink()  # the weights hold the table
    evaluate.run(jobs["evaluate"])
    metrics = read_json(jobs["evaluate"].output("metrics.json"))
    assert (
        0.99 < metrics["approximate_multiplications"] / metrics["multiply_adds"] < 1
    )  # not the classifier's
    assert metrics["energy_to_int8"] == pytest.approx(0.92, abs=0.001)  # found among the circuits
    whole_batch = read_table(jobs["evaluate"].output("predictions.parquet"), "predictions").to_pydict()
    params = EvaluateJob.model_validate(jobs["evaluate"].params)
    one = params.evaluate.model_copy(update={"batch_size": 1})
    changed = params.model_copy(update={"evaluate": one}).model_dump()
    alone = replace(jobs["evaluate"], params=changed, key="0" * 12)
    evaluate.run(alone)
    found = read_table(alone.output("predictions.parquet"), "predictions").to_pydict()
    assert np.allclose(found["probabilities"], whole_batch["probabilities"], atol=1e-5)


def test_a_network_in_floating_point_is_trained_on_with_products(workspace):
    fixed, file = {"kind": "fixed", "genotype": "DARTS_V2"}, "float.safetensors"
    jobs = jobs_of(None, fixed)
    split.run(jobs["split"])
    extract.run(jobs["extract"])
    theirs = retrain_task(jobs["retrain"]).network.state_dict()
    write_tensors(Path(file), theirs, {})
    task = retrain_task(jobs_of(TRUNCATED, fixed, start=file)["retrain"])
    own = task.network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items())
    assert any(name.endswith(".product.ranges") for name in own)
    resting = {"epochs": 0, "classifier": {"kind": "retrained", "epochs": 1}, "start": file}
    with pytest.raises(UserError, match="measures no ranges of its activations: raise epochs"):
        preflight.check_counts(plan(Params.model_validate(params_of(TRUNCATED, fixed, **resting))))


def test_a_search_can_be_without(workspace):
    jobs = jobs_of(TRUNCATED | {"in_search": False})
    assert "arithmetic" not in jobs["search"].params
    assert jobs["retrain"].params["arithmetic"]["multiplier"]["columns"] == 4
    assert "arithmetic" in jobs_of(TRUNCATED)["search"].params


@pytest.mark.parametrize(
    ("searcher", "recipe"),
    [
        ({"kind": "swap", "candidates": 2}, {}),
        ({"kind": "random"}, {}),
        (
            {"kind": "pc_darts", "portion": 2, "warm_up": 0.0},
            {"start": "supernet", "channels": 2},
        ),
    ],
    ids=["scored", "drawn", "supernet"],
)
def test_other_searchers_and_starts(workspace, searcher, recipe):
    params = params_of(TRUNCATED, searcher, **recipe)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    jobs = run_all(Params.model_validate(params))
    by_stage = {job.stage: job for job in jobs.values()}
    assert "approximate_multiplications" in read_json(by_stage["evaluate"].output("metrics.json"))
    [row] = pd.read_csv(by_stage["report"].output("runs.csv")).to_dict("records")
    assert 0 < row["multiplication_energy"] < 3.7 * row["multiply_adds"]  # pJ of float32
    assert hlrs.results().multiplication_energy[0] == pytest.approx(row["multiplication_energy"])


def refused(arithmetic, searcher=None, **changes):
    params = params_of(arithmetic, searcher)
    params["matrix"] |= changes
    with pytest.raises((ValueError, UserError)) as caught:
        plan(Params.model_validate(params))
    return str(caught.value)


def test_what_cannot_be_is_refused_before_any_job(workspace):
    eight = {"multiplier": {"kind": "truncated", "activation_bits": 7}}
    assert "activation_bits 7 drops all 7 bits of a code's magnitude" in refused(eight)
    assert "columns 13 omits all partial products" in refused(
        {"multiplier": {"kind": "truncated", "columns": 13}}
    )
    resnet = {"kind": "resnet", "depth": 20}
    assert "methods.m.arithmetic.where: a resnet has no primitives: set where to conv" in refused(
        TRUNCATED, resnet
    )
    fixed = {"kind": "fixed", "genotype": "DARTS_V2"}
    without = TRUNCATED | {"in_search": False}
    assert "in_search: false changes nothing, as searcher fixed reads no images" in refused(without, fixed)
    missing = refused(TABULATED)
    assert missing.startswith("methods.m: arithmetic.multiplier.file")
    assert TABLE in missing
    Path(TABLE).write_bytes(b"short")
    assert "5 bytes; 65,536 uint16 have 131,072" in refused(TABULATED)
    write_table(truncated_products(0, 0, 0))
    known = copy.deepcopy(TABULATED)
    known["multiplier"]["content"] = "0" * 64
    assert "not that of content; restore the file" in refused(known)


def test_a_network_too_wide_is_refused_and_a_table_described(workspace):
    write_table(truncated_products(0, 0, 0))
    jobs = plan(Params.model_validate(params_of(TABULATED, {"kind": "fixed", "genotype": "DARTS_V2"})))
    remarks = []
    preflight.describe_tables(jobs, remarks.append)
    assert remarks == [f"methods.m: {TABLE}: exact products of signed codes"]
    preflight.check_counts(jobs)
    wide = params_of(TRUNCATED | {"where": "convolutions"}, {"kind": "resnet", "depth": 20, "width": 64})
    with pytest.raises(UserError, match=r"methods.m: arithmetic.multiplier: .* sums 1,152 products"):
        preflight.check_counts(plan(Params.model_validate(wide)))


def test_a_given_genotype_is_judged_by_its_own_width(workspace):
    """A 3×3 convolution of 16 · 4 channels sums 576 unsigned products, a 1×1 one 64, of 258 that fit."""
    codes = np.arange(256)
    np.save("mul8u.npy", np.multiply.outer(codes, codes))
    unsigned = {"multiplier": {"kind": "table", "file": "mul8u.npy"}}
    for operation, fits in (("nor_conv_3x3", False), ("nor_conv_1x1", True)):
        cell = {"kind": "fixed", "genotype": f"|{operation}~0|+|none~0|skip_connect~1|"}
        params = params_of(unsigned, cell, channels=16)
        params["search"] |= {"space": {"kind": "nasbench201"}, "nodes": 3}
        jobs = plan(Params.model_validate(params))
        if fits:
            preflight.check_counts(jobs)
        else:
            with pytest.raises(UserError, match="sums 288 products of up to 65,025"):
                preflight.check_counts(jobs)


def test_energy_of_a_table_matters_to_the_evaluation_alone(workspace):
    write_table(truncated_products(3, 0, 0) + 1)  # none of the circuits
    known = copy.deepcopy(TABULATED)
    known["multiplier"]["energy"] = 0.5
    without, given = jobs_of(TABULATED), jobs_of(known)
    assert given["search"].key == without["search"].key
    assert given["retrain"].key == without["retrain"].key
    assert given["evaluate"].key != without["evaluate"].key


def test_a_training_that_diverges_says_so(workspace):
    write_table(truncated_products(0, 0, 4) + 1)
    jobs = jobs_of(TABULATED, {"kind": "resnet", "depth": 20, "width": 2})
    split.run(jobs["split"])
    task = retrain_task(jobs["retrain"])
    with torch.no_grad():
        task.network.stem[0].weight.fill_(torch.nan)
    task.begin(0)
    assert torch.isnan(task.step(0)[0])


def test_a_table_that_changed_is_noticed_by_the_job(workspace):
    write_table(truncated_products(0, 0, 0))
    job = jobs_of(TABULATED)["search"]
    write_table(truncated_products(1, 0, 0))
    with pytest.raises(UserError, match="changed since this job was planned"):
        preflight.check_data(job)
