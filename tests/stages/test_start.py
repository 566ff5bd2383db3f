"""Retrainings that start with the weights in a file."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.jobs import PROVENANCE
from hlrs.artifacts.records import Record
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.config.params import Params
from hlrs.errors import UserError
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import plan
from hlrs.pipeline.preflight import check_counts
from hlrs.provenance import ro_crate
from hlrs.provenance.audit import Audit, check_data
from hlrs.provenance.lineage import facts, find, read_here, trace
from hlrs.provenance.lineage_view import dot, tree
from hlrs.stages import extract, split
from tests.conftest import TINY
from tests.messages import says
from tests.tasks import retrain_task, run_all

CPU = torch.device("cpu")
FILE = "theirs.safetensors"
DIGITS = [str(digit) for digit in range(10)]
NETWORKS = {
    "resnet": ({"kind": "resnet", "depth": 20, "width": 4}, {}),
    "cells": ({"kind": "fixed", "genotype": "DARTS_V2"}, {}),
    "nasbench201": (
        {"kind": "fixed", "genotype": "|nor_conv_3x3~0|+|none~0|skip_connect~1|"},
        {"space": {"kind": "nasbench201"}, "nodes": 3},
    ),
}
RETRAINED = {"kind": "retrained", "epochs": 1}


def params_of(network="resnet", **recipe):
    """TINY's params with one method `m`."""
    searcher, search = NETWORKS[network]
    changes = {
        "methods": {"m": {"searcher": searcher}},
        "matrix": TINY["matrix"] | {"methods": ["m"]},
        "search": TINY["search"] | search,
        "retrain": TINY["retrain"] | {"epochs": 1, "auxiliary_weight": 0.0, "drop_path": 0.0} | recipe,
        "report": {},
    }
    return Params.model_validate(copy.deepcopy(TINY) | changes)


def planned(*network, **recipe):
    """The jobs by stage."""
    return {job.stage: job for job in plan(params_of(*network, **recipe))}


def task_of(*network, **recipe):
    """A retraining's task, and its job; what comes before is done."""
    by_stage = planned(*network, **recipe)
    for stage in (split, extract):
        if (name := stage.__name__.rpartition(".")[2]) in by_stage:
            stage.run(by_stage[name])
    return retrain_task(by_stage["retrain"])


def other(state, classes=10):
    """Weights of the same network after some other training, on so many classes; random, but repeatable."""
    draw = torch.Generator().manual_seed(7)
    shapes = {
        name: [classes, *tensor.shape[1:]] if name.startswith("classifier.") else tensor.shape
        for name, tensor in state.items()
    }
    drawn = {name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}
    return {name: tensor.to(state[name].dtype) for name, tensor in drawn.items()}


def same(a, b, prefix):
    return all(torch.equal(a[name], b[name]) for name in a if name.startswith(prefix))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_starts_with_the_files_weights_and_a_classifier_of_other_classes_is_initialised(
    workspace, network
):
    fresh = task_of(network).network.state_dict()
    trunk = tuple({name.split(".")[0] + "." for name in fresh} - {"classifier."})
    for facts_of, classes, kept in (({}, 10, True), ({"classes": DIGITS}, 10, True), ({}, 7, False)):
        theirs = other(fresh, classes)
        write_tensors(Path(FILE), theirs, facts_of)
        task = task_of(network, start=FILE, ema=0.5)
        for found in (task.network.state_dict(), task.result.state_dict()):
            assert same(found, theirs, trunk)
            assert same(found, theirs if kept else fresh, "classifier.")
        assert task.started["start"]["classifier"] == ("kept" if kept else "initialised")
    write_tensors(Path(FILE), other(fresh), {"classes": DIGITS[::-1]})
    assert same(task_of(network, start=FILE).network.state_dict(), fresh, "classifier.")


def test_a_resumed_training_forgets_the_file_and_gives_the_same_bytes(workspace):
    save_file(other(task_of().network.state_dict(), 7), FILE)  # without a header of hlrs

    def epochs(task, numbers):
        for epoch in numbers:
            task.begin(epoch)
            for step in range(task.steps):
                task.step(step)
        return task.state()

    whole = epochs(task_of(start=FILE, epochs=2), (0, 1))
    state = {name: tensor.clone() for name, tensor in epochs(task_of(start=FILE, epochs=2), [0]).items()}
    resumed = task_of(start=FILE, epochs=2)
    resumed.load(state)
    ended = epochs(resumed, [1])
    assert ended.keys() == whole.keys()
    assert all(torch.equal(ended[name], whole[name]) for name in whole)


def test_the_record_the_lineage_the_audit_and_the_crate_name_the_file(workspace):
    theirs = other(task_of().network.state_dict())
    write_tensors(Path(FILE), theirs, {"classes": DIGITS[::-1]})
    spelled = f"./{FILE}"
    recipe = {"start": spelled, "epochs": 0, "classifier": RETRAINED}
    jobs = [*run_all(params_of(**recipe)).values()]
    by_stage = {job.stage: job for job in jobs}
    job = by_stage["retrain"]
    found, header = read_tensors(job.output("weights.safetensors"))
    assert header["classes"] == DIGITS
    assert same(found, theirs, ("stem.", "shared."))  # which rest
    file = {"name": FILE, "bytes": Path(FILE).stat().st_size, "sha256": sha256(Path(FILE))}
    record = Record.read(job.output(PROVENANCE))
    assert record.start == file | {"classifier": "initialised"}
    assert record.params["content"] == file["sha256"]
    lineage = trace(find("digits/m/0", jobs), read_here)
    assert facts(lineage)["data"]["digits/m/0"] == [{**file, "path": spelled}]
    shown = "\n".join(tree(lineage, 110))
    assert f"data: 1 file of retrain.start (classifier initialised), {file['bytes']:,} bytes" in shown
    assert file["sha256"] in shown
    assert FILE in dot(lineage)
    ro_crate.export(jobs, Path("params.yaml"), Path("crate"), weights=True)
    graph = {e["@id"]: e for e in json.loads(Path("crate/ro-crate-metadata.json").read_text())["@graph"]}
    assert graph[f"#weights/{file['sha256']}"]["contentSize"] == str(file["bytes"])
    assert [finding for finding in check_data(Audit(jobs)) if finding.broken] == []

    write_tensors(Path(FILE), theirs, {"classes": DIGITS})
    [broken] = [finding for finding in check_data(Audit(jobs)) if finding.broken]
    assert (broken.path, broken.affected) == (spelled, str(job.output("weights.safetensors")))
    with pytest.raises(UserError, match="the data files changed since this job was planned"):
        execute(job)
    changed = {name for name, again in planned(**recipe).items() if again.key != by_stage[name].key}
    assert changed == {"retrain", "evaluate", "report"}
    Path(FILE).unlink()
    for name in ("split", "evaluate"):
        execute(by_stage[name])  # which do not read it


def test_what_builds_on_such_a_network_depends_on_it_through_the_network_alone(workspace):
    write_tensors(Path(FILE), other(task_of().network.state_dict()), {})
    params = params_of(start=FILE).model_dump()
    params["methods"]["on"] = {"searcher": {"kind": "trained", "method": "m"}}
    params["matrix"]["methods"] = ["m", "on"]
    jobs = {f"{job.stage}/{job.run}": job for job in plan(Params.model_validate(params))}
    assert "content" in jobs["retrain/digits/m/0"].params
    on = jobs["retrain/digits/on/0"]
    assert on.params["retrain"]["start"] == "trained"
    assert "content" not in on.params


def refused(error, *said, network="resnet", **recipe):
    with pytest.raises(error) as found:
        check_counts(plan(params_of(network, **recipe)))
    says(" ".join(str(found.value).splitlines()), *said)


def test_what_is_no_file_of_fitting_weights_is_refused_before_any_job(workspace):
    refused(UserError, "methods.m", "retrain.start", FILE, "No such file", start=FILE)
    Path(FILE).write_bytes(b"theirs")
    refused(UserError, "methods.m", "retrain.start", FILE, "not a safetensors file", start=FILE)
    for network in NETWORKS:
        theirs = other(task_of(network).network.state_dict())
        name = next(name for name in theirs if name.startswith("stem."))
        theirs[name] = torch.zeros(3, 1, 3, 3)
        write_tensors(Path(FILE), theirs, {})
        where = ("methods.m", "retrain.start", FILE, name, "3×1×3×3")
        refused(UserError, *where, network=network, start=FILE)
    write_tensors(Path(FILE), other(task_of().network.state_dict(), 7), {})
    normalized = {"start": FILE, "epochs": 0, "classifier": {"kind": "tau_normalized"}}
    refused(UserError, "tau_normalized", FILE, "retrain.epochs", **normalized)
    check_counts(plan(params_of(**normalized | {"epochs": 1})))
    refused(ValueError, "retrain", "start", "scrach", "scratch", ".safetensors", start="scrach")
    refused(ValueError, "epochs", "classifier", start=FILE, epochs=0)
